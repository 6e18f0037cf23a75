/* SPDX-License-Identifier: GPL-2.0 */
#include "recover/received.h"

#include "selftests/recover/maps.h"

#include "kselftest_harness.h"

#define GUARD UINT64_C(0x5a5a5a5a5a5a5a5a)

static const uint64_t groups[] = { 1, 2, 4, 16, 32, 64, 128, 512 };
#define GROUPS (sizeof(groups) / sizeof(groups[0]))

FIXTURE(received)
{
	struct random random;
	uint64_t received[MAP_WORDS];
	uint64_t missing[MAP_WORDS];
};

FIXTURE_SETUP(received)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(received)
{
}

/* Page by page, as it is said in words */
static bool is_missing(const uint64_t *received, uint64_t page, uint64_t pages, uint64_t group)
{
	uint64_t first = page - page % group;

	for (uint64_t i = first; i < first + group && i < pages; i++)
		if (!(received[i / 64] >> i % 64 & 1))
			return true;
	return false;
}

static void check(struct __test_metadata *_metadata, const uint64_t *missing,
		  const uint64_t *received, uint64_t pages, uint64_t group)
{
	uint64_t page;

	for (page = 0; page < pages; page++)
		ASSERT_EQ(is_missing(received, page, pages, group),
			  missing[page / 64] >> page % 64 & 1)
		{
			TH_LOG("page %llu of %llu, host pages of %llu", (unsigned long long)page,
			       (unsigned long long)pages, (unsigned long long)group);
		}
	if (pages % 64)
		ASSERT_EQ(0, missing[pages / 64] >> pages % 64);
	ASSERT_EQ(GUARD, missing[bits_words(pages)]);
}

TEST_F(received, every_size_against_a_slow_model)
{
	uint64_t pages = 0;

	while ((pages = map_next_size(pages)))
		for (unsigned i = 0; i < GROUPS * MAP_KINDS; i++) {
			uint64_t group = groups[i / MAP_KINDS];

			map_fill(self->received, i % MAP_KINDS, pages, &self->random);
			memset(self->missing, 0x5a, sizeof(self->missing));
			received_invert(self->missing, self->received, pages, group);
			check(_metadata, self->missing, self->received, pages, group);
		}
}

TEST_F(received, in_place)
{
	uint64_t copy[MAP_WORDS], pages = 0;

	while ((pages = map_next_size(pages)))
		for (unsigned i = 0; i < GROUPS; i++) {
			map_fill(self->received, MAP_FRONT, pages, &self->random);
			memcpy(copy, self->received, sizeof(copy));
			self->received[bits_words(pages)] = GUARD;
			received_invert(self->received, self->received, pages, groups[i]);
			check(_metadata, self->received, copy, pages, groups[i]);
		}
}

TEST_F(received, one_page_short_is_a_whole_host_page)
{
	bits_range_set(self->received, 0, 2048);
	bits_clear(self->received, 512 + 511);
	received_invert(self->missing, self->received, 2048, 512);
	ASSERT_EQ(512, bits_next_set(self->missing, 0, 2048));
	ASSERT_EQ(512, bits_count(self->missing, 2048));
	ASSERT_EQ(1024, bits_next_clear(self->missing, 512, 2048));
	received_invert(self->missing, self->received, 2048, 1);
	ASSERT_EQ(1, bits_count(self->missing, 2048));
	ASSERT_TRUE(bits_test(self->missing, 1023));
}

TEST_F(received, a_host_page_that_is_cut_short_ends_where_the_block_does)
{
	bits_range_set(self->received, 0, 512);
	received_invert(self->missing, self->received, 515, 512);
	ASSERT_EQ(0, self->missing[7]);
	ASSERT_EQ(7, self->missing[8]);
}

TEST_F(received, twice_is_what_it_was)
{
	uint64_t again[MAP_WORDS], pages = 0;

	while ((pages = map_next_size(pages))) {
		map_fill(self->received, MAP_NOISE, pages, &self->random);
		received_invert(self->missing, self->received, pages, 1);
		received_invert(again, self->missing, pages, 1);
		ASSERT_EQ(pages, bits_count(self->missing, pages) + bits_count(again, pages));
		for (uint64_t page = 0; page < pages; page++)
			ASSERT_EQ(bits_test(self->received, page), bits_test(again, page));
	}
}

TEST_F(received, a_block_without_pages)
{
	self->missing[0] = GUARD;
	received_invert(self->missing, self->received, 0, 1);
	received_invert(self->missing, self->received, 0, 512);
	ASSERT_EQ(GUARD, self->missing[0]);
}

TEST_HARNESS_MAIN
