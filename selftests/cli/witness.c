/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What a log of replies proves: a guest of a few lines gives them, and its memory is set
 * back, or a request lost, on purpose.
 */
#include "cli/witness.h"

#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define FACTOR 1664525u
#define REPLIES 600

struct guest {
	uint32_t count, digest;
	uint32_t table[1024];
};

FIXTURE(log)
{
	struct witness_reply reply[REPLIES];
	size_t replies;
	struct guest guest;
	uint32_t number;
};

FIXTURE_SETUP(log)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(log)
{
}

/* So many requests; each is seen by the guest or not, and its reply by the witness or not */
static void ask(FIXTURE_DATA(log) *self, unsigned requests, bool seen, bool heard)
{
	for (unsigned i = 0; i < requests; i++) {
		uint32_t number = ++self->number;

		if (!seen)
			continue;
		self->guest.count++;
		self->guest.digest = self->guest.digest * FACTOR + number;
		if (heard) {
			uint32_t earlier =
				self->replies ? self->reply[self->replies - 1].number : 0;

			self->reply[self->replies++] = (struct witness_reply){
				.at_ns = number * 1000,
				.number = number,
				.count = self->guest.count,
				.digest = self->guest.digest,
				.earlier = earlier,
				.remembered = self->guest.table[earlier % 1024],
			};
		}
		self->guest.table[number % 1024] = self->guest.digest;
	}
}

static size_t missing(const FIXTURE_DATA(log) *self)
{
	return witness_judge(self->reply, self->replies, 0).missing;
}

TEST_F(log, of_a_guest_that_remembers)
{
	struct witness_verdict verdict;

	ask(self, 50, true, true);
	ask(self, 1, true, true);
	verdict = witness_judge(self->reply, self->replies, 20 * 1000);
	EXPECT_EQ(0, verdict.missing);
	EXPECT_EQ(19, verdict.before);
	EXPECT_EQ(32, verdict.after);
	EXPECT_EQ(1000, verdict.silent_ns);
}

/* The last ones of the first machine were held, then nobody was there; no reply is missing */
TEST_F(log, with_a_break)
{
	static const unsigned counts[] = { 0, 1, 2, 17 };

	for (unsigned held = 0; held < 4; held++)
		for (unsigned none = 0; none < 4; none++)
			for (unsigned late = 0; late < 4; late++) {
				ask(self, 4, true, true);
				ask(self, counts[held], true, false);
				ask(self, counts[none], false, false);
				ask(self, counts[late], true, false);
				ask(self, 4, true, true);
				ASSERT_EQ(0, missing(self));
			}
}

/* However many there are: the guest says itself what it remembers */
TEST_F(log, with_many_breaks)
{
	ask(self, 10, true, true);
	for (unsigned i = 0; i < 5; i++) {
		ask(self, 3, true, false);
		ask(self, 4, false, false);
	}
	ask(self, 10, true, true);
	EXPECT_EQ(0, missing(self));
}

/* A guest set back by @back replies has forgotten just those, however many it missed since */
TEST_F(log, of_a_guest_that_has_forgotten)
{
	for (unsigned back = 1; back < 40; back += 3)
		for (unsigned none = 0; none < 50; none += 10) {
			struct guest then;

			memset(self, 0, sizeof(*self));
			ask(self, 60, true, true);
			then = self->guest;
			ask(self, back, true, true);
			self->guest = then;
			ask(self, none, false, false);
			ask(self, 5, true, false);
			ask(self, 60, true, true);
			ASSERT_EQ(back, missing(self));
		}
}

/* The count alone is not enough: it catches up */
TEST_F(log, of_the_right_count)
{
	struct guest then;

	ask(self, 10, true, true);
	then = self->guest;
	ask(self, 5, true, true);
	self->guest = then;
	ask(self, 5, true, false);
	ask(self, 10, true, true);
	ASSERT_EQ(self->reply[14].count + 1, self->reply[15].count);
	EXPECT_EQ(5, missing(self));
}

/* Two guests that both answer are two histories */
TEST_F(log, of_two_guests)
{
	struct guest other, swap;

	ask(self, 10, true, true);
	other = self->guest;
	for (unsigned i = 0; i < 6; i++) {
		ask(self, 1, true, true);
		swap = self->guest;
		self->guest = other;
		other = swap;
	}
	EXPECT_LT(0, missing(self));
}

/* A reply that comes twice was given by a guest that does not remember it */
TEST_F(log, with_a_reply_twice)
{
	ask(self, 10, true, true);
	self->reply[self->replies++] = self->reply[9];
	EXPECT_EQ(1, missing(self));
}

TEST_F(log, of_nobody)
{
	struct witness_verdict verdict = witness_judge(NULL, 0, 5);

	EXPECT_EQ(0, verdict.before + verdict.after + verdict.missing);
	EXPECT_EQ(0, verdict.silent_ns);
}

TEST_HARNESS_MAIN
