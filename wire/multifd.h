/* SPDX-License-Identifier: MIT */
#ifndef WIRE_MULTIFD_H
#define WIRE_MULTIFD_H

#include "wire/name.h"

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * QEMU's multifd: channels beside the main one that carry pages in precopy. Each begins
 * with a hello of 64 bytes. Then come packets: a head of fixed size, and the contents of
 * the pages it names, compressed or as they are.
 *
 * A packet with SYNC says that what was sent before a mark on the main channel ends here:
 * in RAM_MULTIFD_FLUSH, or with machine types up to 8.0 in each RAM_EOS. Zero pages are in
 * packets from 9.0 on; before, and from whoever likes it better, they are records of the
 * main channel.
 */
#define MULTIFD_MAGIC UINT32_C(0x11223344)
#define MULTIFD_VERSION 1u
#define MULTIFD_HELLO_BYTES 64u
#define MULTIFD_UUID_BYTES 16u
#define MULTIFD_HEAD_BYTES 1344u
#define MULTIFD_PAGES 128u /* of a packet at most */
/* Of a packet's contents at most; more than its pages where they do not compress */
#define MULTIFD_BYTES_MAX (1u << 20)

enum multifd_method {
#define METHOD(name, bits, text) MULTIFD_##name,
#include "wire/multifd.def"
#undef METHOD
	MULTIFD_METHOD_COUNT
};

/* QEMU's name: "none", "zlib", "zstd", ... */
const char *multifd_method_name(enum multifd_method method);
/* Return: the method of that name, or -1 */
int multifd_method_named(const char *name);

/* All channels of a migration have the same @uuid; @channel counts from 0 */
struct multifd_hello {
	uint8_t uuid[MULTIFD_UUID_BYTES];
	uint8_t channel;
};

/**
 * struct multifd_packet - The head of a packet
 * @bytes:	Of the contents that follow it
 * @number:	Counts the packets of all channels together
 * @normal:	Pages whose contents follow
 * @zero:	Pages that are zero
 * @block:	Of all of them; empty if there are none
 * @offset:	In the block: of the normal pages, then of those that are zero
 */
struct multifd_packet {
	bool sync;
	enum multifd_method method;
	uint32_t bytes;
	uint32_t normal;
	uint32_t zero;
	uint64_t number;
	struct wire_name block;
	uint64_t offset[MULTIFD_PAGES];
};

/* Writers. Return: MULTIFD_HELLO_BYTES, MULTIFD_HEAD_BYTES */
size_t multifd_put_hello(uint8_t *buf, const struct multifd_hello *hello);
size_t multifd_put_head(uint8_t *buf, const struct multifd_packet *packet);

/**
 * multifd_get_hello(), multifd_get_head() - Take what a channel begins with, or a packet
 *
 * Pure. A packet without pages has nothing behind its head, whatever it says: QEMU 7.2
 * leaves in it what was there before. Offsets are whole pages, and not checked against the
 * block's length, which is not known here.
 *
 * Return: 1 taken; 0 more bytes are needed; -EPROTO with a sentence
 */
int multifd_get_hello(const uint8_t *buf, size_t length, struct multifd_hello *hello,
		      struct wh_err *err);
int multifd_get_head(const uint8_t *buf, size_t length, struct multifd_packet *packet,
		     struct wh_err *err);

#endif /* WIRE_MULTIFD_H */
