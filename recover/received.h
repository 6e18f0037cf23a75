/* SPDX-License-Identifier: MIT */
#ifndef RECOVER_RECEIVED_H
#define RECOVER_RECEIVED_H

#include <stdint.h>

/*
 * The received bitmap after a break. Setting, testing and scanning it are base/bits.h,
 * its bytes on the wire wire/bitmap.h; here is what the source makes of it.
 */

/**
 * received_invert() - What is still to be sent, from what is in place
 * @missing:	bits_words(@pages) words, all of them written; may be @received
 * @received:	As the destination said; bits behind @pages do not matter
 * @group:	Pages of a host page, a power of two: one with any page missing is
 *		missing as a whole, since only a whole one can be placed
 *
 * Nobody else looks at @missing meanwhile: whole words are written, and not atomically.
 * Bits behind @pages are clear in it, also where the last host page is cut short.
 */
void received_invert(uint64_t *missing, const uint64_t *received, uint64_t pages, uint64_t group);

#endif /* RECOVER_RECEIVED_H */
