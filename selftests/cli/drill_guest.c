/* SPDX-License-Identifier: GPL-2.0 */
/*
 * cli/drill_guest.c: what the comparison at the end of a drill sees: every byte, on every
 * kind of page, wherever the guest was.
 */
#include "cli/drill_guest.h"

#include "kselftest_harness.h"

#include <sys/mman.h>
#include <unistd.h>

#define PAGES 211u

FIXTURE(guest)
{
	struct drill_guest guest;
	uint32_t wrong;
	uint32_t removed;
};

FIXTURE_VARIANT(guest)
{
	bool removes;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(guest, keeps) { .removes = false };
FIXTURE_VARIANT_ADD(guest, removes) { .removes = true };
/* clang-format on */

FIXTURE_SETUP(guest)
{
	self->wrong = self->removed = 0;
	self->guest = (struct drill_guest){
		.memory = mmap(NULL, PAGES * DRILL_PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0),
		.pages = PAGES,
		.page_size = DRILL_PAGE,
		.seed = 12,
		.removes = variant->removes,
		.wrong = &self->wrong,
		.removed_counts = &self->removed,
	};
	ASSERT_EQ(0, drill_guest_init(&self->guest));
	drill_guest_fill(&self->guest);
}

FIXTURE_TEARDOWN(guest)
{
}

/* Until it has been everywhere a few times, and is somewhere */
static void runs(struct drill_guest *guest)
{
	uint64_t from = guest->state.passes;

	drill_guest_run(guest);
	while (__atomic_load_n(&guest->state.passes, __ATOMIC_RELAXED) < from + 3)
		usleep(100);
	drill_guest_park(guest);
}

TEST_F(guest, right)
{
	uint64_t first;

	EXPECT_EQ(0, drill_guest_verify(&self->guest, &first));
	for (unsigned i = 0; i < 20; i++) {
		runs(&self->guest);
		ASSERT_EQ(0, drill_guest_verify(&self->guest, &first)) TH_LOG("%lu", first);
	}
	EXPECT_EQ(0, self->wrong);
	EXPECT_EQ(variant->removes, self->removed != 0);
}

TEST_F(guest, every_wrong_byte)
{
	static const unsigned in_page[] = { 0, 1, 2047, 4095 };
	uint64_t first;

	runs(&self->guest);
	for (unsigned i = 0; i < 4 * PAGES; i++) {
		uint64_t at = i / 4 * (uint64_t)DRILL_PAGE + in_page[i % 4];

		self->guest.memory[at]++;
		ASSERT_EQ(1, drill_guest_verify(&self->guest, &first)) TH_LOG("%lu", at);
		ASSERT_EQ(at, first);
		self->guest.memory[at]--;
	}
	EXPECT_EQ(0, drill_guest_verify(&self->guest, &first));
}

/* A page of a moment ago, a page of zeros, the page beside it */
TEST_F(guest, wrong_pages)
{
	uint8_t *old = malloc(PAGES * DRILL_PAGE);
	uint8_t *memory = self->guest.memory;
	uint64_t first, differ = 0;

	runs(&self->guest);
	memcpy(old, memory, PAGES * DRILL_PAGE);
	runs(&self->guest);
	for (unsigned page = 0; page < PAGES; page++)
		differ += memcmp(memory + page * DRILL_PAGE, old + page * DRILL_PAGE, DRILL_PAGE) !=
			  0;
	EXPECT_LT(variant->removes ? 0 : PAGES / 2, differ);
	memcpy(memory, old, PAGES * DRILL_PAGE);
	EXPECT_EQ(differ, drill_guest_verify(&self->guest, &first));
	free(old);
	memset(memory, 0, PAGES * DRILL_PAGE);
	EXPECT_LT(variant->removes ? 0 : PAGES / 2, drill_guest_verify(&self->guest, &first));
}

/* It notices itself what it meets. */
TEST_F(guest, sees_it_itself)
{
	memset(self->guest.memory + 17 * DRILL_PAGE, 0xa5, DRILL_PAGE);
	runs(&self->guest);
	EXPECT_LT(0, self->wrong);
}

/* Another position says that other pages were stepped. */
TEST_F(guest, wrong_state)
{
	uint64_t first;

	runs(&self->guest);
	self->guest.state.passes++;
	EXPECT_LT(variant->removes ? 0 : PAGES / 2, drill_guest_verify(&self->guest, &first));
}

TEST_HARNESS_MAIN
