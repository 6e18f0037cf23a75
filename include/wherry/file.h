/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_FILE_H
#define WHERRY_FILE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>
#include <wherry/migration.h>

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/*
 * A migration to a file and out of one, as QEMU's file: (8.2 and later) and exec:cat: a guest
 * that does not run, all of it. The stream as over a socket, or mapped-ram (QEMU 9.0), where
 * each page has its place in the file. Which it is the file says.
 *
 * An address is file:PATH or file:PATH,offset=N: the stream begins at byte N, what is in front
 * of it is somebody else's. N is decimal or 0x and hexadecimal, with K, M or G behind it.
 *
 * Nothing here runs in the background: calls return when it is done, and belong to any thread.
 */

/* Is it an address of a file? */
bool wh_is_file(const char *uri);

/**
 * struct wh_file_load - What to do with what is in a file, and what was in it
 * @block:	As in struct wh_callbacks; memory that reads as zeros, which is filled in
 * @stop:	Now and then: true ends it with -EINTR. May be NULL
 * @map:	With mapped-ram pages stay in the file until they are touched: what @block gave is
 *		replaced by a private mapping of it, and goes with it by munmap(). Who makes the
 *		file shorter then makes touching a SIGBUS
 * @device_state_max: Bytes of device state accepted, 0: 256 MiB
 *
 * @machine:	From here on filled in. "" if the file does not say
 * @device:	malloc()ed, for the caller to free; also after a failure
 * @bytes:	Read
 */
struct wh_file_load {
	void *opaque;
	int (*block)(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		     struct wh_block *block, struct wh_err *err);
	bool (*stop)(void *opaque);
	bool map;
	uint64_t device_state_max;

	char machine[256];
	bool mapped_ram;
	void *device;
	size_t device_length;
	enum wh_device_format device_format;
	uint64_t bytes;
	uint64_t pages_normal;
	uint64_t pages_zero;
	uint64_t pages_xbzrle;
};

/**
 * wh_file_load() - Read a guest from a file
 *
 * The file is a stranger: what does not hold together is refused.
 *
 * Return: 0; or a negative errno and a sentence, memory may have been written to
 */
int wh_file_load(const char *uri, struct wh_file_load *load, struct wh_err *err);

/**
 * struct wh_file_save - A guest that does not run
 * @block:	@blocks of them; only name, addr and length count
 * @machine:	Machine type; "" leaves out the configuration section, without which there is no
 *		mapped-ram
 * @mapped_ram:	So, else as a stream
 * @replace:	What is there may go, once the new one is complete
 * @stop:	As above
 *
 * @bytes:	From here on filled in. Written
 */
struct wh_file_save {
	void *opaque;
	const struct wh_block *block;
	unsigned blocks;
	const char *machine;
	const void *device;
	size_t device_length;
	enum wh_device_format device_format;
	bool mapped_ram;
	bool replace;
	bool (*stop)(void *opaque);

	uint64_t bytes;
	uint64_t pages_normal;
	uint64_t pages_zero;
};

/**
 * wh_file_save() - Write a guest to a file
 *
 * A file of its own is written beside its place, and comes there by rename when it is safe on
 * disk. In one that is somebody else's too (an offset, a device) the first bytes of the stream
 * are written last. So whatever happens meanwhile, nothing looks complete that is not.
 *
 * Return: 0; or a negative errno and a sentence: -EEXIST if something is there already
 */
int wh_file_save(const char *uri, struct wh_file_save *save, struct wh_err *err);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_FILE_H */
