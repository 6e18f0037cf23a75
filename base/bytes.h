/* SPDX-License-Identifier: MIT */
#ifndef BASE_BYTES_H
#define BASE_BYTES_H

#include <stdint.h>

/*
 * Big-endian integers at any alignment. A struct is never laid over bytes from
 * the wire; these are the only way in and out. Compilers make one load and one
 * bswap of each.
 */

static inline uint16_t get_be16(const void *at)
{
	const uint8_t *p = at;

	return (uint16_t)(p[0] << 8 | p[1]);
}

static inline uint32_t get_be32(const void *at)
{
	const uint8_t *p = at;

	return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

static inline uint64_t get_be64(const void *at)
{
	const uint8_t *p = at;

	return (uint64_t)get_be32(p) << 32 | get_be32(p + 4);
}

static inline void put_be16(void *at, uint16_t value)
{
	uint8_t *p = at;

	p[0] = (uint8_t)(value >> 8);
	p[1] = (uint8_t)value;
}

static inline void put_be32(void *at, uint32_t value)
{
	uint8_t *p = at;

	put_be16(p, (uint16_t)(value >> 16));
	put_be16(p + 2, (uint16_t)value);
}

static inline void put_be64(void *at, uint64_t value)
{
	uint8_t *p = at;

	put_be32(p, (uint32_t)(value >> 32));
	put_be32(p + 4, (uint32_t)value);
}

#endif /* BASE_BYTES_H */
