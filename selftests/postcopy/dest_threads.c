/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Both threads of the destination at once: pages on the main channel, and faults,
 * removals and urgent pages beside it, with a source that sends each page once, or a
 * second time to be unkind. Whatever comes first: every page is there at the end, as it
 * was sent or as zeros, and nobody waits. Most of it is for the thread sanitizer to see.
 */
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

#define ROUNDS 12u
#define TWICE 16u /* one in so many pages is sent on both channels */

/* The source: what is not sent yet, and what it was asked for */
struct source {
	uint64_t *dirty[WORLD_BLOCKS];
	uint64_t *removed[WORLD_BLOCKS]; /* by the guest, not the source's business */
	struct rp_msg asked;
	bool has_asked;
	unsigned last_block;
	bool all_sent; /* atomic, by the bulk thread */
	pthread_barrier_t begin;
};

struct side {
	struct world *w;
	struct source *source;
	uint64_t seed;
	bool failed;
	unsigned faults, requests;
};

static uint64_t next_random(uint64_t *seed)
{
	*seed ^= *seed << 13;
	*seed ^= *seed >> 7;
	*seed ^= *seed << 17;
	return *seed;
}

/* Every third host page is zero; a few are of both kinds. */
static bool is_zero(unsigned block, uint64_t page)
{
	uint64_t each = world_blocks[block].source_page_size / TARGET_PAGE;
	uint64_t host = page / (each ? each : 1);

	return host % 3 == 1 || (host % 3 == 2 && page % 2);
}

static void put_host_page(struct bytes *b, unsigned block, uint64_t first)
{
	uint64_t size = world_blocks[block].source_page_size;
	uint64_t pages = size ? size / TARGET_PAGE : 1;

	for (uint64_t page = first; page < first + pages; page++) {
		if (is_zero(block, page))
			bytes_zero(b, block, PAGES(page));
		else
			bytes_page(b, block, PAGES(page));
	}
}

/* All that dest_input() could not take at once comes again, as the joining does it. */
static bool pass(struct side *side, enum channel channel, struct bytes *b)
{
	struct wh_err err;
	size_t start = 0, used;
	int ret;

	if (!b->length)
		return true;
	do {
		ret = dest_input(&side->w->dest, channel, b->at + start, b->length - start, &used,
				 0, &err);
		start += used;
	} while (ret == DEST_RETRY);
	if (ret < 0)
		fprintf(stderr, "# channel %u: %s\n", channel, err.text);
	side->failed |= ret < 0 || start != b->length;
	b->length = 0;
	return !side->failed;
}

static void *bulk_thread(void *arg)
{
	struct side *side = arg;
	struct bytes b = { .bare = true, .block = -1 };
	uint64_t wake_ns;

	pthread_barrier_wait(&side->source->begin);
	for (unsigned block = 0; block < WORLD_BLOCKS; block++) {
		uint64_t size = world_blocks[block].source_page_size;
		uint64_t each = size ? size / TARGET_PAGE : 1;
		uint64_t pages = world_blocks[block].used / TARGET_PAGE;

		for (uint64_t first = 0; first < pages; first += each) {
			bool mine = bits_test_clear(side->source->dirty[block], first);

			if (mine || next_random(&side->seed) % TWICE == 0)
				put_host_page(&b, block, first);
			if (next_random(&side->seed) % 24 && b.length < 1000000)
				continue;
			if (!pass(side, CHANNEL_MAIN, &b))
				break;
			if (next_random(&side->seed) % 4 == 0)
				while (dest_idle(&side->w->dest, CHANNEL_MAIN, 0, NULL) ==
				       DEST_RETRY)
					;
		}
	}
	side->failed |= !pass(side, CHANNEL_MAIN, &b) || end(side->w) < 0;
	__atomic_store_n(&side->source->all_sent, true, __ATOMIC_RELEASE);
	while (!side->failed && dest_get_phase(&side->w->dest) == DEST_ENDING)
		side->failed |= dest_step(&side->w->dest, 0, &wake_ns, NULL) < 0;
	bytes_free(&b);
	return NULL;
}

/* Called by dest_fault(), on the fault thread */
static void hear(struct world *w, const struct rp_msg *msg)
{
	struct source *source = w->source;

	if (msg->kind != RP_REQ_PAGES && msg->kind != RP_REQ_PAGES_ID)
		return;
	source->asked = *msg;
	source->has_asked = true;
}

static void answer(struct side *side, struct bytes *b)
{
	struct source *source = side->source;
	uint64_t first;

	if (!source->has_asked)
		return;
	source->has_asked = false;
	side->requests++;
	if (source->asked.kind == RP_REQ_PAGES_ID) {
		const struct wire_name *name = &source->asked.req_pages_id.block;

		source->last_block = (unsigned)region_named(side->w->region, WORLD_BLOCKS,
							    name->text, name->length);
		first = source->asked.req_pages_id.start / TARGET_PAGE;
	} else {
		first = source->asked.req_pages.start / TARGET_PAGE;
	}
	if (bits_test_clear(source->dirty[source->last_block], first) ||
	    next_random(&side->seed) % TWICE == 0)
		put_host_page(b, source->last_block, first);
	pass(side, CHANNEL_URGENT, b);
}

/* What the kernel and whoever reads its events do: marked, then zapped, and none placed between */
static void guest_removes(struct side *side, unsigned block, uint64_t page)
{
	struct world *w = side->w;
	uint64_t each = w->region[block].page_size / TARGET_PAGE;

	page -= page % each;
	world_hold(w, true);
	dest_removed(&w->dest, block, PAGES(page), PAGES(each));
	bits_range_clear(w->present[block], page, each);
	memset(w->region[block].addr + PAGES(page), 0, PAGES(each));
	bits_range_set(side->source->removed[block], page, each);
	world_hold(w, false);
}

static void *fault_thread(void *arg)
{
	struct side *side = arg;
	struct bytes b = { .bare = true, .block = -1 };
	struct dest *d = &side->w->dest;
	unsigned turn = 0;

	while (!side->failed && !__atomic_load_n(&side->source->all_sent, __ATOMIC_ACQUIRE)) {
		unsigned block = next_random(&side->seed) % 8 ?
					 RAM :
					 (unsigned)(next_random(&side->seed) % WORLD_BLOCKS);
		uint64_t page = next_random(&side->seed) % (world_blocks[block].used / TARGET_PAGE);
		uint32_t tid = (uint32_t)(next_random(&side->seed) % 9);
		int ret;

		if (side->w->removes && ++turn % 64 == 0)
			guest_removes(side, block, page);
		do {
			ret = dest_fault(d, block, PAGES(page), tid, turn, NULL);
		} while (ret == DEST_RETRY);
		side->failed |= ret < 0;
		side->faults++;
		answer(side, &b);
		/* So that there is something to be seen, however slowly threads come up */
		if (side->faults == 8)
			pthread_barrier_wait(&side->source->begin);
	}
	bytes_eos(&b);
	pass(side, CHANNEL_URGENT, &b);
	bytes_free(&b);
	return NULL;
}

/* Number of pages that are not as they should be */
static unsigned wrong_pages(const struct world *w, const struct source *source)
{
	unsigned wrong = 0;

	for (unsigned block = 0; block < WORLD_BLOCKS; block++) {
		for (uint64_t page = 0; page < world_blocks[block].used / TARGET_PAGE; page++) {
			bool gone = bits_test(source->removed[block], page);
			bool zero = gone || is_zero(block, page);

			wrong += !received(w, block, PAGES(page));
			wrong += asked(w, block, PAGES(page));
			wrong += !gone && !bits_test(w->present[block], page);
			wrong += !page_is(w, block, PAGES(page),
					  zero ? 0 : page_byte(block, PAGES(page)));
		}
	}
	return wrong;
}

static void source_new(struct source *source)
{
	pthread_barrier_init(&source->begin, NULL, 2);
	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		uint64_t pages = world_blocks[i].used / TARGET_PAGE;

		source->dirty[i] = calloc(bits_words(pages), sizeof(uint64_t));
		source->removed[i] = calloc(bits_words(pages), sizeof(uint64_t));
		bits_range_set(source->dirty[i], 0, pages);
	}
}

static void source_free(struct source *source)
{
	pthread_barrier_destroy(&source->begin);
	for (unsigned i = 0; i < WORLD_BLOCKS; i++) {
		free(source->dirty[i]);
		free(source->removed[i]);
	}
}

FIXTURE(threads)
{
	struct world *w;
	struct source source;
};

FIXTURE_SETUP(threads)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
}

FIXTURE_TEARDOWN(threads)
{
	world_free(self->w);
}

FIXTURE_VARIANT(threads)
{
	bool removes;
	bool alias;
};

FIXTURE_VARIANT_ADD(threads, stage){
	.removes = false,
	.alias = false,
};

FIXTURE_VARIANT_ADD(threads, stage_removes){
	.removes = true,
	.alias = false,
};

FIXTURE_VARIANT_ADD(threads, alias_removes){
	.removes = true,
	.alias = true,
};

TEST_F_TIMEOUT(threads, every_page_arrives, 120)
{
	struct world *w = self->w;
	unsigned faults = 0, requests = 0;
	uint64_t dropped = 0;

	for (unsigned round = 0; round < ROUNDS; round++) {
		struct side side[2] = {
			{ w, &self->source, UINT64_C(0x9e3779b97f4a7c15) * (round + 1), false, 0,
			  0 },
			{ w, &self->source, UINT64_C(0xbf58476d1ce4e5b9) * (round + 1), false, 0,
			  0 },
		};
		pthread_t thread;

		world_reset(w, true);
		self->source = (struct source){ 0 };
		source_new(&self->source);
		w->removes = variant->removes;
		w->alias = variant->alias;
		ASSERT_TRUE(run(w));
		w->threads = true;
		w->chaos = round % 3 ? 5 + round : 0;
		w->hear = hear;
		w->source = &self->source;
		ASSERT_EQ(0, pthread_create(&thread, NULL, fault_thread, &side[1]));
		bulk_thread(&side[0]);
		ASSERT_EQ(0, pthread_join(thread, NULL));
		EXPECT_FALSE(side[0].failed || side[1].failed) TH_LOG("round %u", round);
		EXPECT_EQ(DEST_DONE, dest_get_phase(&w->dest));
		EXPECT_EQ(0, wrong_pages(w, &self->source)) TH_LOG("round %u", round);
		EXPECT_EQ(0, w->dest.counters.pages_missing);
		EXPECT_EQ(0, w->dest.waiting);
		EXPECT_EQ(1, w->last_pages);
		/* one may be from after the end, and is none then */
		EXPECT_GE(side[1].faults, w->dest.counters.faults);
		EXPECT_LE(side[1].faults - 1, w->dest.counters.faults);
		EXPECT_EQ(side[1].requests, w->dest.counters.requests);
		faults += side[1].faults;
		requests += side[1].requests;
		dropped += w->dest.counters.pages_before;
		source_free(&self->source);
	}
	TH_LOG("%u faults, %u requests, %llu copies dropped", faults, requests,
	       (unsigned long long)dropped);
	/* It has not all been over before the other thread was there. */
	EXPECT_LT(0, requests);
	EXPECT_LT(0, dropped);
}

TEST_HARNESS_MAIN
