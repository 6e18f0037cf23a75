/* SPDX-License-Identifier: MIT */
#ifndef BASE_SIPHASH_H
#define BASE_SIPHASH_H

#include <stddef.h>
#include <stdint.h>

/*
 * SipHash-2-4 (Aumasson, Bernstein): who does not know the key cannot say what the hash of
 * a message is, whatever hashes of others he has seen.
 */
uint64_t siphash(const uint64_t key[2], const uint64_t *words, size_t count);

#endif /* BASE_SIPHASH_H */
