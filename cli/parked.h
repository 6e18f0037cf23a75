/* SPDX-License-Identifier: MIT */
#ifndef CLI_PARKED_H
#define CLI_PARKED_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/wherry.h>

#include "cli/receive.h"

/*
 * A parked VM, read: the folder that wherry receive has written (Documentation/parked-vm.rst), or
 * a file to which a QEMU has migrated.
 * Nothing in it is trusted before it is checked: anybody may have been there since.
 */

/**
 * struct parked_block - A block of RAM
 * @page_size:	Host pages of the machine that it came from
 * @at:		@length bytes, only to be read, aligned to any size of host pages
 * @digest:	"" of a file, which has none
 * @pages:	File of page digests, "" if there is none
 */
struct parked_block {
	char name[256];
	char file[RECEIVE_FILE_MAX + 8];
	char pages[RECEIVE_FILE_MAX + 8];
	char digest[33];
	uint64_t length;
	uint64_t page_size;
	uint8_t *at;
	void *map;
	size_t map_length;
};

struct parked {
	const char *path;
	bool in_file;
	int fd;
	char machine[256];
	struct parked_block block[RECEIVE_BLOCKS_MAX];
	unsigned blocks;
	uint64_t bytes;
	void *device;
	size_t device_length;
	enum wh_device_format device_format;
	char device_digest[33];
};

/**
 * parked_open() - Read the manifest, map RAM, read device state
 * @path:	Of the folder; or file:PATH, or the path of a file: a stream is read, all of it
 *
 * Nobody else writes there until parked_close().
 *
 * Return: 0, or a negative errno and a sentence; parked_close() in any case
 */
int parked_open(struct parked *parked, const char *path, struct wh_err *err);

/* Address space for @block of this length, @at and what unmaps it. Return: 0 or a negative errno */
int parked_room(struct parked_block *block);

/* parked_file.c: of parked_open(), for a file: address */
int parked_load(struct parked *parked, const char *uri, struct wh_err *err);

/* The destination's host pages are others than were recorded, or than a file says */
int parked_page_size(struct parked *parked, const char *name, uint64_t page_size,
		     struct wh_err *err);

/**
 * parked_verify() - Compare everything with its digests; not for a file
 *
 * Return: 0; or -EILSEQ and the first block and page that are not as they came
 */
int parked_verify(const struct parked *parked, struct wh_err *err);

void parked_close(struct parked *parked);

#endif /* CLI_PARKED_H */
