/* SPDX-License-Identifier: GPL-2.0 */
#include "base/trace.h"

#include <pthread.h>
#include <stdbool.h>

#include "kselftest_harness.h"

static struct trace_entry entries[TRACE_RING + 10];

TEST(off_records_nothing)
{
	trace(page_fault, 1, 2, 3);
	ASSERT_EQ(0, trace_read(entries, TRACE_RING));
}

TEST(reads_what_was_recorded)
{
	trace_enabled = 1;
	trace(page_fault, 1, 2, 3);
	trace(page_wake, 4, 5, UINT64_MAX);
	ASSERT_EQ(2, trace_read(entries, TRACE_RING));
	ASSERT_EQ(TRACE_page_fault, entries[0].point);
	ASSERT_EQ(1, entries[0].number[0]);
	ASSERT_EQ(2, entries[0].number[1]);
	ASSERT_EQ(3, entries[0].number[2]);
	ASSERT_EQ(TRACE_page_wake, entries[1].point);
	ASSERT_EQ(UINT64_MAX, entries[1].number[2]);
	ASSERT_EQ(entries[0].sequence + 1, entries[1].sequence);
	/* the latest, where there is not room for all */
	ASSERT_EQ(1, trace_read(entries, 1));
	ASSERT_EQ(TRACE_page_wake, entries[0].point);
}

TEST(the_oldest_are_overwritten)
{
	unsigned i;

	trace_enabled = 1;
	for (i = 0; i < 3 * TRACE_RING / 2; i++)
		trace(page_send, i, 0, 0);
	ASSERT_EQ(TRACE_RING, trace_read(entries, TRACE_RING + 10));
	for (i = 0; i < TRACE_RING; i++)
		ASSERT_EQ(TRACE_RING / 2 + i, entries[i].number[0]);
}

static void *other_thread(void *arg)
{
	bool *empty = arg;

	*empty = trace_read(entries, TRACE_RING) == 0;
	trace(page_mark, 1, 1, 1);
	return NULL;
}

TEST(each_thread_has_its_own)
{
	pthread_t thread;
	bool empty = false;

	trace_enabled = 1;
	trace(page_place, 1, 2, 3);
	ASSERT_EQ(0, pthread_create(&thread, NULL, other_thread, &empty));
	ASSERT_EQ(0, pthread_join(thread, NULL));
	ASSERT_TRUE(empty);
	ASSERT_EQ(1, trace_read(entries, TRACE_RING));
	ASSERT_EQ(TRACE_page_place, entries[0].point);
}

TEST(names)
{
	ASSERT_STREQ("page_fault", trace_name(TRACE_page_fault));
	ASSERT_STREQ("link_lost", trace_name(TRACE_link_lost));
	ASSERT_STREQ("?", trace_name(TRACE_COUNT));
}

TEST_HARNESS_MAIN
