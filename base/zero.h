/* SPDX-License-Identifier: MIT */
#ifndef BASE_ZERO_H
#define BASE_ZERO_H

#include <stdbool.h>
#include <stddef.h>

/**
 * zero_page() - Does memory hold nothing but zero bytes?
 * @page:	64-byte aligned
 * @size:	Multiple of 256
 *
 * Any thread. Reads as fast as memory does (32-byte vectors where the processor
 * has them, chosen at run time) and stops at the first non-zero group. The memory may be
 * written by a running guest meanwhile: the answer is then true of some moment.
 */
bool zero_page(const void *page, size_t size);

#endif /* BASE_ZERO_H */
