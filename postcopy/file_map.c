/* SPDX-License-Identifier: MIT */
/*
 * The pages of a mapped-ram file where the memory is, and read when they are touched.
 */
#include "base/bits.h"
#include "postcopy/file.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define ZEROS_LONG (64 * FILE_PAGE) /* worth a mapping of their own */

/* Zeros in front of what the file has there */
static void hide(uint8_t *at, uint64_t length)
{
	/* It may be one mapping too many: then pages of the file are copied, and the copies zeroed */
	if (length < ZEROS_LONG ||
	    mmap(at, length, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_ANONYMOUS | MAP_FIXED | MAP_NORESERVE, -1, 0) == MAP_FAILED)
		memset(at, 0, length);
}

/* The next piece of the file that is no hole; all of it where the kernel does not know */
static bool next_data(int fd, uint64_t *from, uint64_t *to, uint64_t end)
{
	off_t data = lseek(fd, (off_t)*from, SEEK_DATA), hole = -1;

	if (data < 0 && errno == ENXIO)
		return false;
	if (data >= 0) {
		*from = (uint64_t)data;
		hole = lseek(fd, data, SEEK_HOLE);
	}
	*to = hole > data && (uint64_t)hole < end ? (uint64_t)hole : end;
	return *from < end;
}

int file_map(int fd, uint8_t *at, uint64_t offset, const uint64_t *map, uint64_t pages)
{
	uint64_t end = offset + pages * FILE_PAGE, to;

	if (mmap(at, pages * FILE_PAGE, PROT_READ | PROT_WRITE,
		 MAP_PRIVATE | MAP_FIXED | MAP_NORESERVE, fd, (off_t)offset) == MAP_FAILED)
		return -errno;
	/* A page without a bit is zero: holes are, and what is no hole was a page once */
	for (uint64_t from = offset; from < end && next_data(fd, &from, &to, end); from = to) {
		uint64_t last = (to - offset + FILE_PAGE - 1) / FILE_PAGE;
		uint64_t page = bits_next_clear(map, (from - offset) / FILE_PAGE, last);

		while (page < last) {
			uint64_t next = bits_next_set(map, page, last);

			hide(at + page * FILE_PAGE, (next - page) * FILE_PAGE);
			page = bits_next_clear(map, next, last);
		}
	}
	return 0;
}
