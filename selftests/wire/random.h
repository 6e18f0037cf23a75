/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_WIRE_RANDOM_H
#define SELFTESTS_WIRE_RANDOM_H

#include "wire/name.h"

#include <stdint.h>

/* Numbers that look random, the same ones in every run. */
struct random {
	uint64_t state;
};

static inline uint64_t random_u64(struct random *random)
{
	uint64_t z = random->state += UINT64_C(0x9e3779b97f4a7c15);

	z = (z ^ (z >> 30)) * UINT64_C(0xbf58476d1ce4e5b9);
	z = (z ^ (z >> 27)) * UINT64_C(0x94d049bb133111eb);
	return z ^ (z >> 31);
}

static inline uint32_t random_u32(struct random *random)
{
	return (uint32_t)(random_u64(random) >> 32);
}

static inline uint64_t random_below(struct random *random, uint64_t limit)
{
	return random_u64(random) % limit;
}

/* As the wire allows it: 1 to 255 bytes, none of them a control character */
static inline void random_name(struct random *random, struct wire_name *name)
{
	unsigned i;

	name->length = (uint8_t)(1 + random_below(random, random_below(random, 4) ? 12 : 255));
	for (i = 0; i < name->length; i++)
		do {
			name->text[i] = (char)random_below(random, 256);
		} while ((uint8_t)name->text[i] < 0x20 || name->text[i] == 0x7f);
	name->text[i] = '\0';
}

#endif /* SELFTESTS_WIRE_RANDOM_H */
