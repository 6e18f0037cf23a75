/* SPDX-License-Identifier: MIT */
/*
 * A file with mapped-ram, as a stranger left it. Places in such a file are whole MiB, so an input is
 * its two ends: how long the second one is and where it lies, be16 each, the latter in pages; then
 * both. What is in between is pages that tell who they are.
 */
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "base/bytes.h"
#include "wherry/wherry.h"

#define PAGE UINT64_C(4096)
#define BLOCKS 8u
#define ROOM (UINT64_C(8) << 20) /* of all blocks */

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                             \
		}                                                                            \
	} while (0)

struct memory {
	uint8_t *at[BLOCKS];
	uint64_t length[BLOCKS];
	unsigned blocks;
	uint64_t bytes;
};

static int on_block(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		    struct wh_block *block, struct wh_err *err)
{
	struct memory *memory = opaque;
	unsigned i = memory->blocks;

	check(length && length % PAGE == 0 && page_size >= PAGE && strlen(name) < 256);
	if (i == BLOCKS || length > ROOM - memory->bytes) {
		err->code = -ENOMEM;
		strcpy(err->text, "so much was not meant");
		return -ENOMEM;
	}
	/* nothing behind its end may be written to */
	memory->at[i] = mmap(NULL, length + PAGE, PROT_READ | PROT_WRITE,
			     MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	check(memory->at[i] != MAP_FAILED);
	check(!mprotect(memory->at[i] + length, PAGE, PROT_NONE));
	memory->length[i] = length;
	memory->bytes += length;
	memory->blocks++;
	*block = (struct wh_block){ .addr = memory->at[i], .length = length, .fd = -1 };
	return 0;
}

static void drop(struct memory *memory)
{
	for (unsigned i = 0; i < memory->blocks; i++)
		munmap(memory->at[i], memory->length[i] + PAGE);
}

/* A few pages of what is between the ends: none of them is zero */
static void fill(int fd, uint64_t from, uint64_t end)
{
	uint8_t page[PAGE];

	for (uint64_t at = (from + PAGE - 1) & -PAGE; at + PAGE <= end; at += 37 * PAGE) {
		memset(page, (int)(1 + at / PAGE % 255), PAGE);
		check(pwrite(fd, page, PAGE, (off_t)at) == (ssize_t)PAGE);
	}
}

static int load(int fd, bool map, struct memory *memory, struct wh_file_load *how)
{
	struct wh_err err = { 0 };
	char uri[64];
	int ret;

	*memory = (struct memory){ 0 };
	*how = (struct wh_file_load){
		.opaque = memory,
		.block = on_block,
		.map = map,
		.device_state_max = 1 << 16,
	};
	snprintf(uri, sizeof(uri), "file:/proc/self/fd/%d", fd);
	ret = wh_file_load(uri, how, &err);
	check(ret <= 0 && (ret < 0) == (err.text[0] != 0) && err.code == ret);
	check(!how->device || how->device_length <= 1 << 16);
	return ret;
}

/* Read and mapped it is the same */
static void compare(int fd)
{
	struct memory read, mapped;
	struct wh_file_load how[2];
	int ret[2];

	ret[0] = load(fd, false, &read, &how[0]);
	ret[1] = load(fd, true, &mapped, &how[1]);
	check(ret[0] == ret[1] && read.blocks == mapped.blocks);
	for (unsigned i = 0; i < read.blocks && !ret[0]; i++)
		check(!memcmp(read.at[i], mapped.at[i], read.length[i]));
	check(ret[0] || (how[0].device_length == how[1].device_length &&
			 !memcmp(how[0].device, how[1].device, how[0].device_length)));
	drop(&read);
	drop(&mapped);
	free(how[0].device);
	free(how[1].device);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	uint64_t end, tail;
	int fd;

	if (size < 4)
		return 0;
	tail = get_be16(data);
	end = get_be16(data + 2) % (ROOM / PAGE) * PAGE;
	data += 4;
	size -= 4;
	if (tail > size)
		tail = size;
	fd = memfd_create("mapped-ram", MFD_CLOEXEC);
	check(fd >= 0);
	fill(fd, size - tail, end);
	check(pwrite(fd, data, size - tail, 0) == (ssize_t)(size - tail));
	check(pwrite(fd, data + size - tail, tail, (off_t)end) == (ssize_t)tail);
	compare(fd);
	close(fd);
	return 0;
}
