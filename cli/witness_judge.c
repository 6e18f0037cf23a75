/* SPDX-License-Identifier: MIT */
/*
 * What a log of replies proves, without anything but the log.
 *
 * Requests have ascending numbers, and the guest sees them in that order, but for those
 * that got lost while there was no guest: a break. So between a reply and the next one that
 * comes from the same memory, the guest counted some of the numbers right behind the
 * first one, then, after a break, some right in front of the second one. One of those
 * ways has to give the digest of the second reply. If none does there may have been more breaks
 * than one: then the guest itself was asked what it remembers of the first reply, by a request that
 * was answered after it. If that is not what it had said, the guest has forgotten the first
 * reply, and it is sought which earlier one it still knows.
 */
#include "cli/witness.h"

#include <assert.h>

#define FACTOR 1664525u
#define INVERSE 4276115653u
static_assert(FACTOR * INVERSE == 1, "modulo 2 to the 32");

/* Whether a guest that had given @a was the one that gave @b */
static bool follows(const struct witness_reply *a, const struct witness_reply *b)
{
	uint32_t counted = b->count - a->count - 1; /* between the two */
	uint32_t power = FACTOR, tail = b->number;
	uint32_t digest = a->digest;

	if (b->count <= a->count || b->number <= a->number || counted > b->number - a->number - 1)
		return false;
	/* All of them in front of @b: the effect of the tail is digest * power + tail */
	for (uint32_t i = 1; i <= counted; i++) {
		tail += (b->number - i) * power;
		power *= FACTOR;
	}
	/* One after the other from the tail's front to behind @a */
	for (uint32_t i = 0;; i++) {
		if (digest * power + tail == b->digest)
			return true;
		if (i == counted)
			return false;
		power *= INVERSE;
		tail -= (b->number - (counted - i)) * power;
		digest = digest * FACTOR + a->number + 1 + i;
	}
}

/* Whether a guest that gave reply @i, or a later one, has shown that it remembers reply @a */
static bool remembers(const struct witness_reply *reply, size_t replies, size_t i, size_t a)
{
	if (reply[i].count <= reply[a].count)
		return false;
	for (; i < replies; i++)
		if (reply[i].earlier == reply[a].number && reply[i].remembered == reply[a].digest)
			return true;
	return false;
}

struct witness_verdict witness_judge(const struct witness_reply *reply, size_t replies,
				     uint64_t at_ns)
{
	struct witness_verdict verdict = { 0 };
	uint64_t last_ns = at_ns;

	for (size_t i = 0; i < replies; i++) {
		size_t known = i;

		while (known && !follows(&reply[known - 1], &reply[i]) &&
		       !remembers(reply, replies, i, known - 1))
			known--;
		verdict.missing += i - known;
		if (reply[i].at_ns < at_ns) {
			verdict.before++;
			continue;
		}
		verdict.after++;
		if (reply[i].at_ns - last_ns > verdict.silent_ns)
			verdict.silent_ns = reply[i].at_ns - last_ns;
		last_ns = reply[i].at_ns;
	}
	return verdict;
}
