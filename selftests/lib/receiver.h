/* SPDX-License-Identifier: MIT */
#ifndef LIB_RECEIVER_H
#define LIB_RECEIVER_H

#include <stdint.h>
#include <wherry/err.h>

#include "selftests/lib/child.h"

struct json_object;

/* Memory of a guest, or a file of it, mapped for reading */
struct image {
	const uint8_t *at;
	uint64_t length;
};

int image_open(struct image *image, const char *path, struct wh_err *err);
void image_close(struct image *image);
/* Return: 0; or -EILSEQ and where they differ first */
int image_compare(const struct image *sent, const struct image *got, struct wh_err *err);

/**
 * struct receiver - A "wherry receive" of the folder that was built into
 * @uri:	Where it listens
 * @out:	Its --out
 * @manifest:	What it has written, after receiver_wait(); NULL if nothing
 */
struct receiver {
	struct child child;
	struct json_object *manifest;
	char uri[256];
	char out[256];
};

/**
 * receiver_start() - Start one, until it listens
 * @options:	Further ones, NULL at the end
 */
int receiver_start(struct receiver *receiver, const char *listen, const char *out,
		   const char *const options[], struct wh_err *err);

/**
 * receiver_wait() - Until it has ended
 *
 * Return: its exit status, and its sentence if that is not 0; or a negative errno
 */
int receiver_wait(struct receiver *receiver, int timeout_ms, struct wh_err *err);

/* Kill it if it is still there, and forget it */
void receiver_end(struct receiver *receiver);

/* A figure of the migration, as the manifest has it */
uint64_t receiver_figure(const struct receiver *receiver, const char *name);

/* Machine type of the source; "" if the manifest has none */
const char *receiver_machine(const struct receiver *receiver);

/**
 * receiver_open() - Map the file of a block, when its digest is what the manifest says
 *
 * Return: 0; -ENOENT no such block; -EILSEQ
 */
int receiver_open(const struct receiver *receiver, const char *block, struct image *image,
		  struct wh_err *err);

/* Of a block: "page_size", "stored", ... */
uint64_t receiver_block_figure(const struct receiver *receiver, const char *block,
			       const char *name);

/* Path of a program or file in the folder that was built into */
int built_path(char *path, size_t size, const char *name, struct wh_err *err);

#endif /* LIB_RECEIVER_H */
