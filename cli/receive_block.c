/* SPDX-License-Identifier: MIT */
/*
 * wherry receive: memory for blocks, as the stream names them. Names and lengths are a
 * stranger's: a name becomes a file name that cannot leave the folder, and what does
 * not fit into this machine is refused before it is allocated.
 */
#include "cli/receive.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_HUGE_SHIFT
#define MFD_HUGE_SHIFT 26
#endif

#define FILE_SUFFIX ".ram"
#define PAGES_SUFFIX ".xxh3" /* no block's own file ends so */
#define FILE_STEM_MAX 100u

/* What a JSON string and a terminal can take as it is, and every QEMU's name is */
static int check_name(const char *name, struct wh_err *err)
{
	for (size_t i = 0; name[i]; i++)
		if (name[i] < 0x20 || name[i] > 0x7e)
			return receive_fail(err, -EPROTO,
					    "block list: byte %zu of a name is 0x%02x, no ASCII letter",
					    i, (unsigned char)name[i]);
	return 0;
}

static bool file_taken(const struct receive *receive, const char *file)
{
	char pages[RECEIVE_FILE_MAX + 8];

	for (unsigned i = 0; i < receive->blocks; i++)
		if (!strcmp(receive->block[i].file, file))
			return true;
	snprintf(pages, sizeof(pages), "%s" PAGES_SUFFIX, file);
	return receive_old_has(&receive->out, file) || receive_old_has(&receive->out, pages);
}

/* Letters, digits and a few signs stay, no file is hidden, named twice, or of an old capture. */
static void name_file(const struct receive *receive, struct receive_block *block)
{
	char stem[FILE_STEM_MAX + 1];
	unsigned again = 1;
	size_t n;

	for (n = 0; n < FILE_STEM_MAX && block->name[n]; n++) {
		char c = block->name[n];
		bool plain = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
			     (c >= '0' && c <= '9') || c == '-' || c == '_' || (c == '.' && n);

		stem[n] = (char)(plain ? c : '_');
	}
	stem[n] = '\0';
	snprintf(block->file, sizeof(block->file), "%s" FILE_SUFFIX, stem);
	while (file_taken(receive, block->file))
		snprintf(block->file, sizeof(block->file), "%s-%u" FILE_SUFFIX, stem, ++again);
	n = strlen(block->file);
	memcpy(block->pages, block->file, n);
	memcpy(block->pages + n, PAGES_SUFFIX, sizeof(PAGES_SUFFIX));
}

static uint64_t machine_bytes(void)
{
	return (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
}

static int map_private(struct receive_block *block, struct wh_err *err)
{
	void *at = mmap(NULL, block->length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS,
			-1, 0);

	if (at == MAP_FAILED)
		return receive_fail(err, -errno, "block '%s': memory of %" PRIu64 " bytes: %m",
				    block->name, block->length);
	block->at = at;
	return 0;
}

static int map_memfd(struct receive_block *block, unsigned flags, struct wh_err *err)
{
	int ret;
	void *at;

	block->fd = memfd_create("wherry-receive", MFD_CLOEXEC | flags);
	if (block->fd < 0)
		return receive_fail(err, -errno, "block '%s': memfd_create: %m", block->name);
	if (ftruncate(block->fd, (off_t)block->length) < 0) {
		ret = receive_fail(err, -errno, "block '%s': memfd of %" PRIu64 " bytes: %m",
				   block->name, block->length);
		goto out_close;
	}
	at = mmap(NULL, block->length, PROT_READ | PROT_WRITE, MAP_SHARED, block->fd, 0);
	if (at == MAP_FAILED) {
		ret = receive_fail(err, -errno, "block '%s': mapping of %" PRIu64 " bytes%s: %m",
				   block->name, block->length,
				   flags & MFD_HUGETLB ? " in huge pages" : "");
		goto out_close;
	}
	block->at = at;
	return 0;

out_close:
	close(block->fd);
	block->fd = -1;
	return ret;
}

/* Huge pages where the source has them and this machine too. Return: page size in use */
static int map_huge(struct receive *receive, struct receive_block *block, uint64_t *page_size,
		    struct wh_err *err)
{
	unsigned log2 = (unsigned)__builtin_ctzll(block->page_size);
	struct wh_err reason = { 0 };
	int ret;

	ret = map_memfd(block, MFD_HUGETLB | log2 << MFD_HUGE_SHIFT, &reason);
	if (!ret) {
		*page_size = block->page_size;
		return 0;
	}
	if (receive->hugetlb)
		return receive_fail(err, ret, "%.200s (see sysctl vm.nr_hugepages)", reason.text);
	receive_say(receive, "note",
		    "%.200s; ordinary memory is taken, in units of %" PRIu64 " KiB", reason.text,
		    block->page_size >> 10);
	return ret;
}

static int map(struct receive *receive, struct receive_block *block, uint64_t *page_size,
	       struct wh_err *err)
{
	*page_size = RECEIVE_PAGE;
	if (block->page_size > RECEIVE_PAGE &&
	    (receive->memory == RECEIVE_MEMFD || receive->hugetlb)) {
		if (!map_huge(receive, block, page_size, err))
			return 0;
		if (receive->hugetlb)
			return err->code;
	}
	return receive->memory == RECEIVE_PRIVATE ? map_private(block, err) :
						    map_memfd(block, 0, err);
}

int receive_block_make(struct receive *receive, const char *name, uint64_t length,
		       uint64_t page_size, struct wh_block *wanted, struct wh_err *err)
{
	struct receive_block *block = &receive->block[receive->blocks];
	uint64_t page;
	int ret;

	if (receive->blocks == RECEIVE_BLOCKS_MAX)
		return receive_fail(err, -EPROTO, "block list: more than %u blocks",
				    RECEIVE_BLOCKS_MAX);
	ret = check_name(name, err);
	if (ret)
		return ret;
	if (!length || length > machine_bytes() - receive->bytes)
		return receive_fail(err, length ? -ENOMEM : -EPROTO,
				    "block '%s': %" PRIu64 " bytes and %" PRIu64
				    " before it, this machine has %" PRIu64,
				    name, length, receive->bytes, machine_bytes());
	*block = (struct receive_block){
		.length = length, .page_size = page_size, .fd = -1, .reserved = -1
	};
	snprintf(block->name, sizeof(block->name), "%s", name);
	name_file(receive, block);
	ret = map(receive, block, &page, err);
	if (ret)
		return ret;
	receive->bytes += length;
	receive->blocks++;
	*wanted = (struct wh_block){
		.name = block->name,
		.addr = block->at,
		.length = length,
		.page_size = page,
		.fd = block->fd,
	};
	return 0;
}

void receive_blocks_drop(struct receive *receive)
{
	for (unsigned i = 0; i < receive->blocks; i++) {
		munmap(receive->block[i].at, receive->block[i].length);
		if (receive->block[i].fd >= 0)
			close(receive->block[i].fd);
	}
	receive->blocks = 0;
}
