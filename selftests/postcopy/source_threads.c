/* SPDX-License-Identifier: GPL-2.0 */
/* Both threads in the engine at once, and a third one that cancels; make tsan looks on. */
#include "postcopy/source_internal.h"
#include "selftests/postcopy/source_world.h"

#include <pthread.h>
#include <sched.h>

#include "kselftest_harness.h"

static const struct world_block blocks[] = {
	{ "pc.ram", 512, 4096 },
	{ "huge", 256, 32768 },
};

/* The bulk thread's half: batches onto a tape, until there is nothing more to send. */
static bool asks_arrived; /* of one source at a time; the request thread is to answer */

static void *bulk(void *arg)
{
	struct world *w = arg;
	struct wh_err err;
	bool asked;

	for (;;) {
		int todo = source_next(w->source, w->now_ns, w->batch, &err);

		if (todo == SOURCE_SEND) {
			for (unsigned i = 0; i < w->batch->count; i++)
				tape_add(&w->tape[CHANNEL_MAIN], w->batch->iov[i].iov_base,
					 w->batch->iov[i].iov_len);
			asked = world_asks_arrived(w->batch);
			source_sent(w->source, w->batch->bytes, w->now_ns);
			__atomic_store_n(&asks_arrived, asked, __ATOMIC_RELEASE);
		} else if (todo == SOURCE_WAIT) {
			sched_yield();
		} else {
			return NULL;
		}
	}
}

static bool urgent(struct world *w)
{
	if (!source_urgent(w->source, w->urgent))
		return false;
	for (unsigned i = 0; i < w->urgent->count; i++)
		tape_add(&w->tape[CHANNEL_URGENT], w->urgent->iov[i].iov_base,
			 w->urgent->iov[i].iov_len);
	sched_yield();
	source_urgent_sent(w->source, w->urgent->bytes, w->now_ns);
	return true;
}

/* Random requests, as many as the queue takes, until the end; then the last word. */
static bool ask_for_pages(struct world *w, uint32_t seed)
{
	struct wh_err err;
	uint8_t buf[RP_MSG_MAX];

	while (source_get_phase(w->source) < SOURCE_POSTCOPY)
		sched_yield();
	while (source_get_phase(w->source) == SOURCE_POSTCOPY) {
		struct rp_msg msg = { .kind = RP_REQ_PAGES_ID };
		size_t used = 0, length;

		if (__atomic_exchange_n(&asks_arrived, false, __ATOMIC_ACQUIRE))
			world_pong(w, PING_ARRIVED);
		seed = seed * 1103515245 + 12345;
		wire_name_set(&msg.req_pages_id.block, blocks[seed >> 30 & 1].name);
		msg.req_pages_id.start = (seed >> 8) % 31 * 32768;
		msg.req_pages_id.length = (seed >> 16) % 3 * 32768;
		length = rp_put(buf, &msg);
		while (!used) {
			if (source_input(w->source, buf, length, &used, w->now_ns, &err) < 0)
				return false;
			if (!urgent(w))
				sched_yield();
		}
	}
	while (urgent(w))
		;
	return !source_input(w->source, (const uint8_t *)"\0\1\0\4\0\0\0\0", 8, &(size_t){ 0 },
			     w->now_ns, &err);
}

TEST(pages_go_once_whoever_takes_them)
{
	for (unsigned run = 0; run < 16; run++) {
		struct source_config config = {
			.downtime_ns = 1,
			.postcopy = true,
			.urgent = run % 2 ? WH_URGENT_AT_START : WH_URGENT_OFF,
		};
		struct world w;
		pthread_t thread;

		world_init(&w, &config, blocks, 2);
		world_scribble(&w);
		source_want_postcopy(w.source);
		source_connected(w.source, w.now_ns);
		ASSERT_EQ(0, pthread_create(&thread, NULL, bulk, &w));
		EXPECT_TRUE(ask_for_pages(&w, run));
		pthread_join(thread, NULL);
		EXPECT_EQ(SOURCE_DONE, source_get_phase(w.source));
		model_take_main(&w.model, &w.tape[CHANNEL_MAIN]);
		model_take_urgent(&w.model, &w.tape[CHANNEL_URGENT]);
		EXPECT_FALSE(w.model.strange);
		EXPECT_FALSE(w.model.interleaved);
		EXPECT_EQ(1u, world_came(&w, true));
		EXPECT_EQ(1u, world_came(&w, false));
		EXPECT_TRUE(world_equal(&w));
		EXPECT_EQ(0u, source_pages_left(w.source));
		EXPECT_EQ(run % 2, w.model.urgent_eos);
		world_fini(&w);
	}
}

static void *hammer(void *arg)
{
	struct world *w = arg;
	struct wh_err err;

	for (unsigned i = 0; i < 20000 && !source_over(source_get_phase(w->source)); i++) {
		size_t used;

		if (source_input(w->source, (const uint8_t *)"\0\2\0\4\0\0\0\1", 8, &used,
				 w->now_ns, &err) < 0)
			break;
	}
	return NULL;
}

#define RUNS 40u
#define PAGES (UINT64_C(768) * 4 / 5) /* the other ones are zero */

TEST(cancel_is_promised_or_refused)
{
	unsigned promised = 0, refused = 0;

	for (unsigned run = 0; run < RUNS; run++) {
		struct source_config config = {
			.downtime_ns = run % 2 ? 1 : WORLD_S,
			.postcopy = run % 2,
			.return_path = true,
		};
		const uint64_t *sent;
		pthread_t thread, other;
		struct world w;
		int ret = 0;

		world_init(&w, &config, blocks, 2);
		if (run % 2)
			source_want_postcopy(w.source);
		world_scribble(&w);
		source_connected(w.source, w.now_ns);
		sent = &source_get_counters(w.source)->bytes[CHANNEL_MAIN];
		if (!run)
			ret = source_want_cancel(w.source);
		ASSERT_EQ(0, pthread_create(&thread, NULL, bulk, &w));
		ASSERT_EQ(0, pthread_create(&other, NULL, hammer, &w));
		/* early in the first runs, late in the last ones */
		while (__atomic_load_n(sent, __ATOMIC_RELAXED) < run * PAGES * TARGET_PAGE / RUNS)
			;
		if (run)
			ret = source_want_cancel(w.source);
		if (ret) {
			refused++;
			EXPECT_EQ(-EBUSY, ret);
			pthread_join(other, NULL);
			while (source_get_phase(w.source) != SOURCE_ENDING &&
			       source_get_phase(w.source) != SOURCE_HANDOVER)
				sched_yield();
			EXPECT_EQ(0, world_shut(&w, 0));
			pthread_join(thread, NULL);
			EXPECT_EQ(SOURCE_DONE, source_get_phase(w.source));
			EXPECT_TRUE(w.paused);
		} else {
			promised++;
			pthread_join(thread, NULL);
			pthread_join(other, NULL);
			EXPECT_EQ(SOURCE_CANCELLED, source_get_phase(w.source));
			EXPECT_FALSE(w.paused);
		}
		world_fini(&w);
	}
	EXPECT_LT(0u, promised);
	EXPECT_LT(0u, refused);
}

TEST_HARNESS_MAIN
