/* SPDX-License-Identifier: MIT */
#ifndef CLI_RECEIVE_H
#define CLI_RECEIVE_H

#include <json-c/json.h>
#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/wherry.h>

#include "cli/digest.h"

/*
 * wherry receive: the end of a migration that keeps the guest instead of running it.
 *
 *	receive.c	options, the migration and its callbacks
 *	receive_file.c	the same out of a file
 *	receive_block.c	memory for the blocks that the stream names
 *	receive_touch.c	threads that read it while pages are missing
 *	receive_write.c	the capture: a file a block, device state, manifest
 *	receive_old.c	the one that was there
 *	receive_show.c	progress
 */

#define RECEIVE_BLOCKS_MAX 256u
#define RECEIVE_TOUCH_MAX 64u
#define RECEIVE_FILE_MAX 128u
#define RECEIVE_PAGE 4096u

#define MANIFEST_NAME "manifest.json"
#define MANIFEST_KIND "wherry-capture"
#define MANIFEST_VERSION 1
#define DEVICE_NAME "device-state.bin"
#define DEVICE_NAME_2 "device-state-2.bin" /* if the old one's is called so */

enum receive_memory {
	RECEIVE_MEMFD,
	RECEIVE_PRIVATE,
};

/**
 * struct receive_block - One block of RAM
 * @page_size:	Host pages of the source, as the stream says
 * @file:	Its name in the capture
 * @stored:	Bytes of it that are not zero pages
 * @reserved:	Of a file with room for it, which is not in its place yet; -1: none
 * @pages:	Name of the file of page digests
 * @digest:	XXH3-128 of all of its @length bytes, in hexadecimal
 */
struct receive_block {
	char name[256];
	char file[RECEIVE_FILE_MAX];
	char pages[RECEIVE_FILE_MAX + 8];
	char digest[33];
	uint8_t *at;
	uint64_t length;
	uint64_t page_size;
	uint64_t stored;
	int fd;
	int reserved;
};

struct receive;

struct receive_toucher {
	struct receive *receive;
	pthread_t thread;
	uint64_t seed;
	uint64_t pages; /* read so far, atomic */
};

/**
 * struct receive_out - The folder that becomes the capture
 * @fd:		-1 before it is open
 * @made:	It was not there before
 * @ours:	What is in it may be taken away
 * @replaces:	It holds a capture, which --force gives up for a whole one
 * @old:	Its manifest; NULL if it cannot be read
 * @placed:	The new manifest is in its place
 * @device:	Name of the file of device state; NULL before it is there
 * @warned:	That it may be too small
 * @wrote:	Blocks whose files there are, in order
 */
struct receive_out {
	const char *path;
	int fd;
	bool force;
	bool sparse; /* nothing is reserved */
	bool made;
	bool ours;
	bool replaces;
	bool placed;
	bool warned;
	unsigned wrote;
	const char *device;
	json_object *old;
};

/**
 * struct receive - One run of the command
 *
 * Callbacks run on a thread of the library, touchers and the writer on their own;
 * the main thread waits and shows. The list of blocks is complete before there are
 * pages, so that all of them may read it.
 *
 * @write_err:	Of the writer; the main thread looks at it after joining
 */
struct receive {
	struct wh_migration *migration;
	struct receive_out out;

	enum receive_memory memory;
	bool hugetlb; /* insisted on */
	bool verify;  /* keep page digests */
	bool json;
	bool quiet;
	uint64_t recover_s; /* listen so long for a source that was lost, 0: not */
	uint64_t begin_ns;
	uint64_t shown_ns;
	pthread_mutex_t show_lock;  /* standard output */
	pthread_mutex_t write_lock; /* write_stop, writing */

	struct receive_block block[RECEIVE_BLOCKS_MAX];
	unsigned blocks;
	uint64_t bytes;

	void *device;
	size_t device_length;
	enum wh_device_format device_format;
	char device_digest[33];

	unsigned touchers;
	bool touch_stop; /* atomic */
	bool touching;
	struct receive_toucher toucher[RECEIVE_TOUCH_MAX];

	bool from_file;
	struct wh_file_load file;

	bool postcopy;	 /* it came to that */
	bool started;	 /* a guest would run */
	bool broken;	 /* and looked for; of the library's thread */
	bool write_stop; /* atomic */
	bool writing;	 /* there is a writer to be joined */
	bool written;
	pthread_t writer;
	struct wh_err write_err;
};

/* Of every part: a sentence and its code, which is returned */
int receive_fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
uint64_t receive_now_ns(void);

/* A block that is named: its memory, and a line about it. As wh_callbacks.block */
int receive_block(struct receive *receive, const char *name, uint64_t length, uint64_t page_size,
		  struct wh_block *block, struct wh_err *err);

/* receive_file.c */
int receive_file(struct receive *receive, const char *uri, bool (*stop)(void *opaque),
		 uint64_t device_max, struct wh_err *err);
/* Of the migration, or of the file */
void receive_stats(const struct receive *receive, struct wh_stats *stats);
const char *receive_machine(const struct receive *receive);

/* receive_block.c: as wh_callbacks.block */
int receive_block_make(struct receive *receive, const char *name, uint64_t length,
		       uint64_t page_size, struct wh_block *wanted, struct wh_err *err);
void receive_blocks_drop(struct receive *receive);

/* receive_touch.c */
void receive_touch_start(struct receive *receive);
/* With @join no page may be missing any more: one that never comes holds its reader for ever. */
void receive_touch_stop(struct receive *receive, bool join);
/* Pages read by all of them */
uint64_t receive_touched(const struct receive *receive);

/* receive_write.c */
/* Makes the folder, or says why it cannot be this one */
int receive_out_open(struct receive *receive, struct wh_err *err);
/*
 * Room for the block that was made last, all of it: what has come by postcopy is nowhere else, so
 * it has to be there before that
 */
int receive_out_reserve(struct receive *receive, struct wh_err *err);
/* A note if the blocks so far may not fit */
void receive_out_room(struct receive *receive);
/* Memory and device state, safe on disk; nothing looks complete yet */
int receive_out_write(struct receive *receive, struct wh_err *err);
/* Puts the manifest there, which makes it a capture; what was there is gone then */
int receive_out_finish(struct receive *receive, struct wh_err *err);
/* Without receive_out_finish(): takes away whatever was written */
void receive_out_close(struct receive *receive, bool complete);

/* receive_old.c */
void receive_old_open(struct receive_out *out);
/* Is it a file of the old capture? */
bool receive_old_has(const struct receive_out *out, const char *file);
void receive_old_drop(struct receive_out *out);

/* parked_verify.c: what a digest is, for those who write and who read */
void receive_digest_text(XXH128_hash_t hash, char text[33]);
/* XXH3-64 of a page of 4096 bytes, little-endian as in the file */
uint64_t receive_page_digest(const void *page);

/* receive_show.c; any thread */
void receive_say(struct receive *receive, const char *kind, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
void receive_listening(struct receive *receive);
void receive_progress(struct receive *receive);
void receive_summary(struct receive *receive, int result, const struct wh_err *err);
/* The figures of the migration, for the manifest and the summary */
json_object *receive_figures(const struct receive *receive);

#endif /* CLI_RECEIVE_H */
