/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Captures are read by whichever machine: digests are the same with the vectors of this
 * processor and without.
 */
#include "cli/digest.h"

#include <stdlib.h>

#include "kselftest_harness.h"

#define BYTES (64u << 10)

static XXH128_hash_t fast(const uint8_t *bytes, size_t length)
{
	return XXH3_128bits(bytes, length);
}

static XXH128_hash_t fast_in_pieces(const uint8_t *bytes, size_t length, size_t piece)
{
	XXH3_state_t *state = XXH3_createState();
	XXH128_hash_t hash;
	size_t at, n;

	XXH3_128bits_reset(state);
	for (at = 0; at < length; at += n) {
		n = length - at < piece ? length - at : piece;
		XXH3_128bits_update(state, bytes + at, n);
	}
	hash = XXH3_128bits_digest(state);
	XXH3_freeState(state);
	return hash;
}

static uint64_t fast_page(const uint8_t *page)
{
	return XXH3_64bits(page, 4096);
}

#undef XXH3_128bits
#undef XXH3_64bits

static uint8_t bytes[BYTES];

FIXTURE(digest)
{
	unsigned seed;
};

FIXTURE_SETUP(digest)
{
	unsigned i;

	self->seed = 1;
	for (i = 0; i < BYTES; i++)
		bytes[i] = (uint8_t)rand_r(&self->seed);
}

FIXTURE_TEARDOWN(digest)
{
}

TEST_F(digest, at_once)
{
	size_t length;

	for (length = 0; length < 5000; length++)
		ASSERT_TRUE(XXH128_isEqual(XXH3_128bits(bytes + length % 7, length),
					   fast(bytes + length % 7, length)));
	ASSERT_TRUE(XXH128_isEqual(XXH3_128bits(bytes, BYTES), fast(bytes, BYTES)));
}

TEST_F(digest, in_pieces)
{
	unsigned i;

	for (i = 0; i < 2000; i++) {
		size_t length = (size_t)rand_r(&self->seed) % BYTES;
		size_t piece = 1 + (size_t)rand_r(&self->seed) % (i % 2 ? 300 : BYTES);

		ASSERT_TRUE(XXH128_isEqual(XXH3_128bits(bytes, length),
					   fast_in_pieces(bytes, length, piece)));
	}
}

TEST_F(digest, of_pages)
{
	unsigned at;

	for (at = 0; at + 4096 <= BYTES; at += 64)
		ASSERT_EQ(XXH3_64bits(bytes + at, 4096), fast_page(bytes + at));
}

/* As others have it: of no bytes, by the program of libxxhash */
TEST_F(digest, of_nothing)
{
	XXH128_hash_t hash = fast(bytes, 0);

	ASSERT_EQ(UINT64_C(0x99aa06d3014798d8), hash.high64);
	ASSERT_EQ(UINT64_C(0x6001c324468d497f), hash.low64);
}

TEST_HARNESS_MAIN
