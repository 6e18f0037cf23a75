/* SPDX-License-Identifier: GPL-2.0 */
/* What the main channel says, in every phase, and what it may not: postcopy/dest_stream.c */
#include "selftests/postcopy/dest_bytes.h"

#include "kselftest_harness.h"

FIXTURE(stream)
{
	struct world *w;
	struct dest *d;
	struct bytes b;
	struct wh_err err;
};

FIXTURE_SETUP(stream)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
}

FIXTURE_TEARDOWN(stream)
{
	world_free(self->w);
	bytes_free(&self->b);
}

/* Bring a new world into a phase; false if that did not work. */
static bool reach(struct world *w, enum dest_phase phase)
{
	struct bytes b = { 0 };
	uint64_t wake_ns;
	bool failed = false;

	world_reset(w, true);
	if (phase == DEST_SETUP)
		return true;
	failed = dest_connected(&w->dest, CHANNEL_MAIN, NULL) < 0;
	if (phase == DEST_LISTENING || phase == DEST_LOADING)
		w->device_result = WH_PENDING;
	bytes_begin(&b, true, phase != DEST_PRECOPY && phase != DEST_LOADING, 1u << ROM);
	if (phase == DEST_DISCARD)
		bytes_discard(&b, "rom", 0, 4 * TARGET_PAGE);
	if (phase == DEST_ENDING || phase == DEST_DONE) {
		bytes_part(&b, SECTION_PART);
		for (uint64_t at = 0; at < world_blocks[ROM].used; at += TARGET_PAGE)
			bytes_zero(&b, ROM, at);
		bytes_eos(&b);
	}
	if (phase == DEST_LISTENING || phase == DEST_RUNNING || phase == DEST_ENDING ||
	    phase == DEST_PAUSED || phase == DEST_RECOVER || phase == DEST_DONE)
		bytes_switch(&b);
	if (phase == DEST_ENDING || phase == DEST_LOADING || phase == DEST_DONE)
		bytes_end(&b);
	if (phase == DEST_LOADING) {
		b.length--; /* its EOF */
		bytes_state(&b);
		bytes_vmdesc(&b);
	}
	failed |= feed(w, CHANNEL_MAIN, &b, NULL) < 0;
	if (phase == DEST_PAUSED || phase == DEST_RECOVER || phase == DEST_FAILED)
		dest_link_lost(&w->dest, CHANNEL_MAIN, NULL);
	if (phase == DEST_RECOVER) {
		dest_parked(&w->dest);
		failed |= dest_connected(&w->dest, CHANNEL_MAIN, NULL) < 0;
	}
	if (phase == DEST_DONE)
		failed |= dest_step(&w->dest, 0, &wake_ns, NULL) < 0;
	bytes_free(&b);
	return !failed && dest_get_phase(&w->dest) == phase;
}

/* A whole command of each kind that nothing is wrong with but the phase */
static void any_command(struct bytes *b, enum cmd_kind kind)
{
	struct cmd_msg msg = { .kind = kind };

	switch (kind) {
	case CMD_PING:
		bytes_ping(b, 77);
		return;
	case CMD_POSTCOPY_ADVISE:
		bytes_advise(b, ALL_SIZES, TARGET_PAGE);
		return;
	case CMD_POSTCOPY_RAM_DISCARD:
		bytes_discard(b, "rom", 0, 4 * TARGET_PAGE);
		return;
	case CMD_PACKAGED:
		msg.packaged.length = 10;
		bytes_msg(b, &msg, NULL);
		return;
	case CMD_RECV_BITMAP:
		wire_name_set(&msg.recv_bitmap.block, "rom");
		bytes_msg(b, &msg, NULL);
		return;
	case CMD_OPEN_RETURN_PATH:
	case CMD_POSTCOPY_LISTEN:
	case CMD_POSTCOPY_RUN:
	case CMD_ENABLE_COLO:
	case CMD_POSTCOPY_RESUME:
	case CMD_SWITCHOVER_START:
	case CMD_COUNT:
		break;
	case CMD_WHERRY_ID:
	case CMD_WHERRY_HELLO:
	case CMD_WHERRY_PROOF:
		bytes_msg(b, &msg, NULL);
		return;
	}
	bytes_command(b, kind);
}

#define MAY(kind) (1u << CMD_##kind)

/* What a source may say on the main channel, by itself and not out of phase.c */
static const unsigned may[DEST_PHASE_COUNT] = {
	[DEST_PRECOPY] =
		MAY(OPEN_RETURN_PATH) | MAY(PING) | MAY(POSTCOPY_ADVISE) | MAY(SWITCHOVER_START),
	[DEST_ADVISED] = MAY(OPEN_RETURN_PATH) | MAY(PING) | MAY(POSTCOPY_RAM_DISCARD) |
			 MAY(PACKAGED) | MAY(SWITCHOVER_START) | MAY(WHERRY_ID),
	[DEST_DISCARD] = MAY(PING) | MAY(POSTCOPY_RAM_DISCARD) | MAY(PACKAGED) | MAY(WHERRY_ID),
	[DEST_LISTENING] = MAY(PING),
	[DEST_RUNNING] = MAY(PING),
	[DEST_RECOVER] = MAY(RECV_BITMAP), /* and RESUME, behind it */
};

/* Is the main channel at a place where a command could be? */
static bool understands(enum dest_phase phase)
{
	return phase == DEST_PRECOPY || phase == DEST_ADVISED || phase == DEST_DISCARD ||
	       phase == DEST_LISTENING || phase == DEST_RUNNING || phase == DEST_RECOVER;
}

static const enum dest_phase all_phases[] = {
	DEST_SETUP,   DEST_PRECOPY, DEST_ADVISED, DEST_DISCARD, DEST_LISTENING, DEST_LOADING,
	DEST_RUNNING, DEST_ENDING,  DEST_PAUSED,  DEST_RECOVER, DEST_DONE,	DEST_FAILED,
};
_Static_assert(sizeof(all_phases) / sizeof(all_phases[0]) == DEST_PHASE_COUNT, "all of them");

TEST_F(stream, every_command_in_every_phase)
{
	unsigned refused = 0;

	for (unsigned p = 0; p < DEST_PHASE_COUNT; p++) {
		for (unsigned kind = 1; kind < CMD_COUNT; kind++) {
			enum dest_phase phase = all_phases[p], after;
			int ret;

			if (!strcmp(cmd_name(kind), "?"))
				continue;

			ASSERT_TRUE(reach(self->w, phase))
			TH_LOG("%s: %s", dest_phase_name(phase), self->w->reason.text);
			any_command(&self->b, kind);
			ret = feed(self->w, CHANNEL_MAIN, &self->b, &self->err);
			after = dest_get_phase(self->d);
			if (phase == DEST_LOADING || phase == DEST_ENDING || phase == DEST_DONE) {
				/* behind the end */
				EXPECT_EQ(0, ret);
				EXPECT_EQ(phase, after);
			} else if (phase == DEST_PAUSED || phase == DEST_FAILED) {
				EXPECT_EQ(-ECANCELED, ret);
				EXPECT_EQ(phase, after);
			} else if (may[phase] & 1u << kind) {
				EXPECT_EQ(0, ret)
				TH_LOG("%s in %s: %s", cmd_name(kind), dest_phase_name(phase),
				       self->err.text);
				EXPECT_NE(DEST_FAILED, after);
			} else {
				refused++;
				EXPECT_EQ(-EPROTO, ret)
				TH_LOG("%s in %s", cmd_name(kind), dest_phase_name(phase));
				EXPECT_EQ(phase == DEST_RUNNING || phase == DEST_RECOVER ?
						  DEST_PAUSED :
						  DEST_FAILED,
					  after);
				if (understands(phase))
					EXPECT_NE(NULL, strstr(self->err.text, cmd_name(kind)));
				/* told so, unless the guest runs */
				EXPECT_EQ(phase != DEST_RUNNING && phase != DEST_RECOVER &&
						  phase != DEST_SETUP,
					  world_count(self->w, RP_SHUT));
			}
		}
	}
	EXPECT_LT(20, refused);
}

TEST_F(stream, pages_in_every_phase)
{
	for (unsigned p = 0; p < DEST_PHASE_COUNT; p++) {
		enum dest_phase phase = all_phases[p];
		bool accepted = phase == DEST_PRECOPY || phase == DEST_ADVISED ||
				phase == DEST_LISTENING || phase == DEST_RUNNING;
		int ret;

		if (!understands(phase))
			continue;
		ASSERT_TRUE(reach(self->w, phase));
		self->b.block = -1;
		bytes_part(&self->b, SECTION_PART);
		bytes_pages(&self->b, ROM, 0, 4);
		bytes_eos(&self->b);
		ret = feed(self->w, CHANNEL_MAIN, &self->b, &self->err);
		EXPECT_EQ(accepted ? 0 : -EPROTO, ret) TH_LOG("%s", dest_phase_name(phase));
		if (!accepted)
			EXPECT_NE(NULL, strstr(self->err.text, dest_phase_name(phase)));
		EXPECT_EQ(0, dest_idle(self->d, CHANNEL_MAIN, 0, NULL));
		EXPECT_EQ(accepted ? page_byte(ROM, 0) : 0, self->w->region[ROM].addr[0]);
	}
}

/* ADVISE in front of the list, as QEMU has it, or behind it: the same comes of it. */
static unsigned acks(const struct world *w)
{
	unsigned count = 0;

	for (unsigned i = 0; i < w->sents && i < WORLD_SENT; i++)
		count += w->sent[i].kind == RP_SWITCHOVER_ACK;
	return count;
}

/* Once, if it was asked to, when all blocks have their memory; and to nobody without a way back */
TEST_F(stream, it_says_that_it_is_ready)
{
	for (unsigned i = 0; i < 4; i++) {
		bool on = i & 1, path = i & 2;

		world_reset(self->w, true);
		self->d->config.switchover_ack = on;
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		bytes_header(&self->b);
		if (path)
			bytes_command(&self->b, CMD_OPEN_RETURN_PATH);
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_EQ(0, acks(self->w));
		bytes_list(&self->b, ALL);
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err))
		TH_LOG("%s", self->err.text);
		EXPECT_EQ(on && path, acks(self->w));
		bytes_command(&self->b, CMD_OPEN_RETURN_PATH);
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_EQ(on, acks(self->w));
	}
}

TEST_F(stream, advise_drops_all)
{
	for (unsigned late = 0; late < 2; late++) {
		world_reset(self->w, true);
		memset(self->w->region[RAM].addr, 0xee, world_blocks[RAM].used);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		bytes_begin(&self->b, true, !late, ALL);
		if (late) {
			bytes_part(&self->b, SECTION_PART);
			bytes_pages(&self->b, RAM, 0, 65);
			bytes_eos(&self->b);
			bytes_advise(&self->b, ALL_SIZES, TARGET_PAGE);
		}
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err))
		TH_LOG("%s", self->err.text);
		EXPECT_EQ(DEST_ADVISED, dest_get_phase(self->d));
		EXPECT_EQ(3, self->w->calls);
		for (unsigned i = 0; i < self->w->calls; i++) {
			EXPECT_EQ('d', self->w->call[i].what);
			EXPECT_EQ(i, self->w->call[i].block);
			EXPECT_EQ(world_blocks[i].used, self->w->call[i].length);
			EXPECT_TRUE(self->d->block[i].fresh);
		}
		EXPECT_EQ(0, self->w->region[RAM].addr[0]);
		EXPECT_FALSE(bits_test(self->d->block[0].received, 64));
		EXPECT_FALSE(bits_test(self->d->block[0].arrived, 64));
	}
}

TEST_F(stream, discards)
{
	struct dest_block *rom = &self->d->block[0];

	ASSERT_TRUE(reach(self->w, DEST_ADVISED));
	self->b.block = -1;
	bytes_part(&self->b, SECTION_PART);
	bytes_pages(&self->b, ROM, 0, 16);
	bytes_eos(&self->b);
	bytes_discard(&self->b, "rom", 4 * TARGET_PAGE, 8 * TARGET_PAGE);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(DEST_DISCARD, dest_get_phase(self->d));
	for (unsigned page = 0; page < 16; page++) {
		EXPECT_EQ(page < 4 || page >= 12, bits_test(rom->received, page));
		EXPECT_EQ(page < 4 || page >= 12, bits_test(rom->arrived, page));
	}
	EXPECT_EQ(8 * TARGET_PAGE, self->w->call[self->w->calls - 1].length);
	EXPECT_EQ(4 * TARGET_PAGE, self->w->call[self->w->calls - 1].offset);
	/* and a second time: there is no order between them */
	bytes_discard(&self->b, "rom", 0, 16 * TARGET_PAGE);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	bytes_switch(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(16, self->d->counters.pages_missing);
}

static const struct {
	const char *block;
	uint64_t start, length;
} bad_discards[] = {
	{ "rom", 0, 0 },
	{ "rom", 0, TARGET_PAGE }, /* not of whole host pages */
	{ "rom", TARGET_PAGE, 4 * TARGET_PAGE },
	{ "rom", 0, 20 * TARGET_PAGE }, /* past its end */
	{ "rom", 16 * TARGET_PAGE, 4 * TARGET_PAGE },
	{ "rom", 20 * TARGET_PAGE, 4 * TARGET_PAGE },
	{ "rom", 4 * TARGET_PAGE, UINT64_MAX - 4 * TARGET_PAGE + 1 }, /* wraps to 0 */
	{ "rom", UINT64_MAX - 4 * TARGET_PAGE + 1, 8 * TARGET_PAGE },
	{ "ro", 0, 4 * TARGET_PAGE },
	{ "roma", 0, 4 * TARGET_PAGE },
	{ "pc.ram", 0, 4 * TARGET_PAGE }, /* here, and not in the list */
};

TEST_F(stream, bad_discards)
{
	for (unsigned i = 0; i < sizeof(bad_discards) / sizeof(bad_discards[0]); i++) {
		unsigned calls;

		ASSERT_TRUE(reach(self->w, DEST_ADVISED));
		calls = self->w->calls;
		bytes_discard(&self->b, bad_discards[i].block, bad_discards[i].start,
			      bad_discards[i].length);
		EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, bad_discards[i].block));
		EXPECT_EQ(calls, self->w->calls);
		EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	}
}

/* Streams that are wrong in one place: what they are made of, and a word of the sentence */
static void ping_without_return_path(struct bytes *b)
{
	bytes_header(b);
	bytes_ping(b, 1);
}

static void discard_before_list(struct bytes *b)
{
	bytes_header(b);
	bytes_advise(b, ALL_SIZES, TARGET_PAGE);
	bytes_discard(b, "rom", 0, 4 * TARGET_PAGE);
}

static void package_before_list(struct bytes *b)
{
	bytes_header(b);
	bytes_command(b, CMD_OPEN_RETURN_PATH);
	bytes_advise(b, ALL_SIZES, TARGET_PAGE);
	bytes_package(b, NULL, 1);
}

static void advise_twice(struct bytes *b)
{
	bytes_header(b);
	bytes_advise(b, ALL_SIZES, TARGET_PAGE);
	bytes_advise(b, ALL_SIZES, TARGET_PAGE);
}

static void advise_of_bitmaps(struct bytes *b)
{
	struct cmd_msg msg = { .kind = CMD_POSTCOPY_ADVISE, .empty = true };

	bytes_header(b);
	bytes_msg(b, &msg, NULL);
}

static void advise_of_large_targets(struct bytes *b)
{
	bytes_header(b);
	bytes_advise(b, ALL_SIZES, 65536);
}

static void advise_of_other_sizes(struct bytes *b)
{
	bytes_header(b);
	bytes_advise(b, TARGET_PAGE | HUGE_PAGE, TARGET_PAGE);
	bytes_list(b, ALL);
}

static void multifd(struct bytes *b)
{
	bytes_begin(b, false, false, ALL);
	bytes_part(b, SECTION_PART);
	bytes_add(b, "\0\0\0\0\0\0\2\0", 8);
}

static void ignore_shared(struct bytes *b)
{
	bytes_header(b);
	bytes_add(b,
		  "\5\x1a"
		  "configuration/capabilities\0\0\0\1\0\0\0\1\xfx-ignore-shared",
		  52);
}

static void unknown_block(struct bytes *b)
{
	struct ram_block line = { .used = TARGET_PAGE };
	struct wire_name name;

	bytes_header(b);
	wire_name_set(&name, "ram");
	b->length += stream_put_start(bytes_room(b, STREAM_PUT_MAX), SECTION_START, RAM_ID, &name,
				      0, STREAM_RAM_VERSION);
	b->length += ram_put_total(bytes_room(b, RAM_RECORD_MAX), line.used);
	wire_name_set(&line.name, "vga.vram");
	b->length += ram_put_block(bytes_room(b, RAM_RECORD_MAX), &line);
	bytes_eos(b);
}

static void delta_of_nothing(struct bytes *b)
{
	struct wire_name name;

	bytes_begin(b, false, false, ALL);
	bytes_part(b, SECTION_PART);
	wire_name_set(&name, "pc.ram");
	b->length += ram_put_xbzrle(bytes_room(b, RAM_RECORD_MAX), TARGET_PAGE, &name, 3);
	bytes_add(b, "\0\1x", 3);
}

static void state_after_discards(struct bytes *b)
{
	bytes_begin(b, true, true, ALL);
	bytes_discard(b, "rom", 0, 4 * TARGET_PAGE);
	bytes_end(b);
}

static const struct {
	void (*make)(struct bytes *b);
	const char *word;
} wrong[] = {
	{ ping_without_return_path, "PING without a return path" },
	{ discard_before_list, "before the block list" },
	{ package_before_list, "PACKAGED before the block list" },
	{ advise_twice, "POSTCOPY_ADVISE in phase 'advised'" },
	{ advise_of_bitmaps, "dirty bitmaps" },
	{ advise_of_large_targets, "0x10000, expected 0x1000" },
	{ advise_of_other_sizes, "'rom' has pages of 0x4000" },
	{ multifd, "multifd" },
	{ ignore_shared, "'x-ignore-shared'" },
	{ unknown_block, "vga.vram" },
	{ delta_of_nothing, "page 0x1000, which has not come" },
	{ state_after_discards, "device state in phase 'discard'" },
};

TEST_F(stream, wrong_in_one_place)
{
	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		world_reset(self->w, true);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		wrong[i].make(&self->b);
		EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, wrong[i].word))
		TH_LOG("expected '%s': %s", wrong[i].word, self->err.text);
		/* and where */
		EXPECT_NE(NULL, strstr(self->err.text, "main channel: stream before "));
		EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
		EXPECT_STREQ(self->err.text, self->w->reason.text);
	}
}

TEST_F(stream, postcopy_switched_off)
{
	world_reset(self->w, false);
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	bytes_begin(&self->b, true, true, ALL);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "switched off"));
	EXPECT_EQ(1, self->w->sent[self->w->sents - 1].shut.value);
}

/* Ours are larger than what would come: a page of theirs could not be placed. */
TEST_F(stream, larger_pages_here)
{
	self->w->region[ROM].page_size = 8 * TARGET_PAGE;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	bytes_begin(&self->b, true, true, ALL);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "those here have 0x8000"));
	/* which is no matter in precopy */
	world_reset(self->w, true);
	self->w->region[ROM].page_size = 8 * TARGET_PAGE;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	bytes_begin(&self->b, true, false, ALL);
	EXPECT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	self->w->region[ROM].page_size = TARGET_PAGE;
}

/* What a request could not say */
static void eight_gigabyte_pages(struct bytes *b)
{
	struct ram_block line = { .used = UINT64_C(8) << 30, .page_size = UINT64_C(8) << 30 };
	struct wire_name name;

	bytes_header(b);
	wire_name_set(&name, "ram");
	b->length += stream_put_start(bytes_room(b, STREAM_PUT_MAX), SECTION_START, RAM_ID, &name,
				      0, STREAM_RAM_VERSION);
	b->length += ram_put_total(bytes_room(b, RAM_RECORD_MAX), line.used);
	wire_name_set(&line.name, "pc.ram");
	b->length += ram_put_block(bytes_room(b, RAM_RECORD_MAX), &line);
	bytes_eos(b);
}

TEST_F(stream, pages_too_large_to_ask_for)
{
	uint64_t length = self->w->region[RAM].length;

	self->w->region[RAM].length = UINT64_C(8) << 30;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	eight_gigabyte_pages(&self->b);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "host pages of 0x200000000"));
	self->w->region[RAM].length = length;
}

/* Failures of the world, with and without a sentence of its own */
TEST_F(stream, the_world_refuses)
{
	for (unsigned i = 0; i < 10; i++) {
		world_reset(self->w, true);
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
		bytes_begin(&self->b, true, true, ALL);
		bytes_discard(&self->b, "rom", 0, 4 * TARGET_PAGE);
		self->w->mute = i % 2;
		self->w->fail_send = i / 2 == 0 ? -EPIPE : 0;
		self->w->block_result = i / 2 == 1 ? -EPIPE : 0;
		self->w->fail_discard = i / 2 == 2 ? -EPIPE : 0;
		self->w->bad_page_size = i / 2 == 3;
		self->w->bad_used = i / 2 == 4;
		EXPECT_EQ(i < 6 ? -EPIPE : -EPROTO,
			  feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
		EXPECT_NE(0, self->w->reason.text[0]);
	}
}

/* Blocks that were taken before another was refused are the world's to give back. */
TEST_F(stream, blocks_are_counted_one_by_one)
{
	self->w->bad_page_size = true;
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	bytes_begin(&self->b, true, false, ALL);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(1, self->d->blocks);
}

TEST_HARNESS_MAIN
