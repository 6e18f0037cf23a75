/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_INTAKE_H
#define POSTCOPY_INTAKE_H

#include "postcopy/dest.h"

#include <sys/uio.h>

/*
 * Bytes of one channel on their way into the destination's engine: where they are to be
 * received, and handing them on. Pure, as the engine is.
 *
 * While pages come in a row their contents are received where they are to lie, each
 * behind its head, which goes aside (dest_expect()). What comes differently from what was
 * expected, and everything else, goes through a buffer and is copied once.
 */

/* Pieces of intake_room() at most */
#define INTAKE_PIECES (2 * DEST_AHEAD_MAX)
#define INTAKE_BYTES ((size_t)512 << 10)

struct intake {
	struct dest *dest;
	enum channel channel;
	uint8_t *buf; /* the caller's, INTAKE_BYTES */
	size_t start; /* of what is in buf and not taken */
	size_t have;
	/* heads and contents in turn, those before @next are taken */
	struct dest_ahead ahead;
	struct iovec unit[INTAKE_PIECES];
	unsigned units;
	unsigned next;
	size_t got; /* bytes that have come, from the first of unit[next] on */
	uint8_t head[DEST_AHEAD_MAX][DEST_HEAD_BYTES];
};

void intake_init(struct intake *intake, struct dest *dest, enum channel channel, uint8_t *buf);

/**
 * intake_room() - Where the next bytes of the channel are to be received
 * @iov:	INTAKE_PIECES of them; filled in from the front, none is empty
 *
 * On the channel's thread, when the last intake_took() has returned 0.
 *
 * Return: number of pieces
 */
unsigned intake_room(struct intake *intake, struct iovec *iov);

/**
 * intake_took() - So many more bytes lie there
 * @bytes:	0 after DEST_RETRY: what was held up is tried again
 *
 * Return: as dest_input()
 */
int intake_took(struct intake *intake, size_t bytes, uint64_t now_ns, struct wh_err *err);

#endif /* POSTCOPY_INTAKE_H */
