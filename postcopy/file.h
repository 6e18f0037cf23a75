/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_FILE_H
#define POSTCOPY_FILE_H

#include <limits.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/file.h>

#define FILE_PAGE UINT64_C(4096)
#define FILE_PIECE ((size_t)1 << 20) /* read or written at once */

struct file_address {
	char path[PATH_MAX];
	uint64_t offset;
};

int file_address_parse(struct file_address *address, const char *uri, struct wh_err *err);

/* All of it, from or to there. Return: 0, a negative errno; -ENODATA where the file ends */
int file_read(int fd, void *to, size_t length, uint64_t offset);
int file_write(int fd, const void *from, size_t length, uint64_t offset);

/*
 * Pages of the file from @offset on instead of what is at @at; without a bit in @map they are zero.
 * Return: 0, or a negative errno
 */
int file_map(int fd, uint8_t *at, uint64_t offset, const uint64_t *map, uint64_t pages);

#endif /* POSTCOPY_FILE_H */
