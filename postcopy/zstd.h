/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_ZSTD_H
#define POSTCOPY_ZSTD_H

#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <sys/uio.h>
#include <wherry/err.h>

/*
 * Pages of multifd, compressed by zstd: all packets of a channel are one frame, which each
 * of them flushes.
 */
struct unpack;

/* NULL: no memory. unpack_free(): NULL is fine */
struct unpack *unpack_new(void);
void unpack_free(struct unpack *unpack);

/**
 * unpack_pages() - The next packet
 * @pages:	Filled in, to the last byte
 *
 * Return: 0, or a negative errno and a sentence: it is no zstd, or not of as many bytes
 */
int unpack_pages(struct unpack *unpack, const uint8_t *packed, size_t bytes,
		 const struct iovec *pages, unsigned count, struct wh_err *err);

struct pack;

/* @level: 0 to WH_MULTIFD_LEVEL_MAX. NULL: no memory */
struct pack *pack_new(int level);
void pack_free(struct pack *pack);
/* The next packet. Return: bytes of it, @room at most, or a negative errno and a sentence */
ssize_t pack_pages(struct pack *pack, const struct iovec *pages, unsigned count, uint8_t *packed,
		   size_t room, struct wh_err *err);

#endif /* POSTCOPY_ZSTD_H */
