/* SPDX-License-Identifier: MIT */
/*
 * A parked VM against its digests. The digest of a block says whether it is right; those of its
 * pages are only asked where.
 */
#include "cli/parked.h"

#include <endian.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

void receive_digest_text(XXH128_hash_t hash, char text[33])
{
	XXH128_canonical_t canonical;

	XXH128_canonicalFromHash(&canonical, hash);
	for (size_t i = 0; i < sizeof(canonical.digest); i++)
		snprintf(text + 2 * i, 3, "%02x", canonical.digest[i]);
}

uint64_t receive_page_digest(const void *page)
{
	return htole64(XXH3_64bits(page, RECEIVE_PAGE));
}

/* Offset of the first page that is not as it came, or the length if they cannot tell */
static uint64_t first_wrong(const struct parked *parked, const struct parked_block *block)
{
	int fd = block->pages[0] ? openat(parked->fd, block->pages, O_RDONLY | O_CLOEXEC) : -1;
	FILE *file = fd < 0 ? NULL : fdopen(fd, "r");
	uint64_t at = 0, digest;

	while (file && at < block->length && fread(&digest, sizeof(digest), 1, file) == 1 &&
	       digest == receive_page_digest(block->at + at))
		at += RECEIVE_PAGE;
	if (!file || feof(file) || ferror(file))
		at = block->length;
	if (file)
		fclose(file);
	else if (fd >= 0)
		close(fd);
	return at;
}

static int verify_block(const struct parked *parked, const struct parked_block *block,
			struct wh_err *err)
{
	char digest[33];
	uint64_t at;

	receive_digest_text(XXH3_128bits(block->at, block->length), digest);
	if (!strcmp(digest, block->digest))
		return 0;
	at = first_wrong(parked, block);
	if (at == block->length)
		return receive_fail(err, -EILSEQ,
				    "%s/%s: block '%.100s' is not what was received (which page "
				    "cannot be told)",
				    parked->path, block->file, block->name);
	return receive_fail(err, -EILSEQ,
			    "%s/%s: block '%.100s' is not what was received, page 0x%" PRIx64
			    " is the first",
			    parked->path, block->file, block->name, at);
}

int parked_verify(const struct parked *parked, struct wh_err *err)
{
	char digest[33];
	int ret = 0;

	for (unsigned i = 0; i < parked->blocks && !ret; i++)
		ret = verify_block(parked, &parked->block[i], err);
	if (ret)
		return ret;
	receive_digest_text(XXH3_128bits(parked->device, parked->device_length), digest);
	if (strcmp(digest, parked->device_digest))
		return receive_fail(err, -EILSEQ, "%s: device state is not what was received",
				    parked->path);
	return 0;
}
