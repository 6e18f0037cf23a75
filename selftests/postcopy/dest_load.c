/* SPDX-License-Identifier: GPL-2.0 */
/* Device state, the package, the end of precopy, starting: postcopy/dest_load.c */
#include "selftests/postcopy/dest_bytes.h"

#include "kselftest_harness.h"

FIXTURE(load)
{
	struct world *w;
	struct dest *d;
	struct bytes b;
	struct bytes state;
	struct wh_err err;
	uint64_t wake_ns;
};

FIXTURE_SETUP(load)
{
	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	bytes_state(&self->state);
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
}

FIXTURE_TEARDOWN(load)
{
	world_free(self->w);
	bytes_free(&self->b);
	bytes_free(&self->state);
}

static void again(struct world *w)
{
	world_reset(w, true);
	dest_connected(&w->dest, CHANNEL_MAIN, NULL);
}

/* Everything up to the device state of a precopy */
static void bytes_precopy(struct bytes *b, bool return_path)
{
	bytes_begin(b, return_path, false, 1u << ROM);
	bytes_part(b, SECTION_END);
	bytes_eos(b);
}

/* A state of our own, of so many bytes, with frame and EOF */
static void bytes_own(struct bytes *b, uint32_t length)
{
	b->length += device_put_own_head(bytes_room(b, DEVICE_OWN_FRAME), 7, length);
	memset(bytes_room(b, length), 0x5a, length);
	b->length += length;
	b->length += device_put_own_tail(bytes_room(b, DEVICE_OWN_FRAME), 7);
}

TEST_F(load, package)
{
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_package(&self->b, &self->state, 3);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	/* armed before loading, PONGs in order between loading and start */
	EXPECT_STREQ("PALPPPS", self->w->order);
	for (uint32_t i = 1; i < 4; i++)
		EXPECT_EQ(2 + i, self->w->sent[i].pong.value);
	EXPECT_EQ(self->state.length, self->w->device_length);
	EXPECT_EQ(0, memcmp(self->state.at, self->w->device, self->state.length));
	EXPECT_EQ(WH_DEVICE_QEMU, self->w->device_format);
}

TEST_F(load, package_without_devices)
{
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_package(&self->b, NULL, 0);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(1, self->w->devices);
	EXPECT_EQ(0, self->w->device_length);
}

TEST_F(load, own_state)
{
	self->state.length = 0;
	bytes_own(&self->state, 1000);
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_package(&self->b, &self->state, 1);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(WH_DEVICE_OWN, self->w->device_format);
	EXPECT_EQ(1000, self->w->device_length);
	EXPECT_EQ(0x5a, self->w->device[999]);

	again(self->w);
	self->state.at[self->state.length - 1] ^= 1; /* its footer */
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_package(&self->b, &self->state, 1);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(0, self->w->devices);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
}

/* The source has said that nobody waits: pages and the end may come while it loads. */
TEST_F(load, pending_package)
{
	self->w->device_result = WH_PENDING;
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_switch(&self->b);
	bytes_part(&self->b, SECTION_PART);
	bytes_pages(&self->b, ROM, 0, 16);
	bytes_eos(&self->b);
	bytes_end(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_LISTENING, dest_get_phase(self->d));
	EXPECT_EQ(0, self->w->starts);
	/* PONG 4 overtakes PONG 3 */
	EXPECT_EQ(4, self->w->sent[self->w->sents - 1].pong.value);
	ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_LISTENING, dest_get_phase(self->d));
	ASSERT_EQ(0, dest_device_loaded(self->d, 0, 5, &self->err));
	EXPECT_EQ(3, self->w->sent[self->w->sents - 1].pong.value);
	EXPECT_EQ(1, self->w->starts);
	EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	/* a second word about it changes nothing */
	EXPECT_EQ(0, dest_device_loaded(self->d, -EIO, 5, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
}

/* Nobody has asked for it. */
TEST_F(load, loaded_out_of_the_blue)
{
	bytes_begin(&self->b, true, true, 1u << ROM);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(0, dest_device_loaded(self->d, 0, 0, &self->err));
	EXPECT_EQ(0, dest_device_loaded(self->d, -EIO, 0, &self->err));
	EXPECT_EQ(DEST_ADVISED, dest_get_phase(self->d));
	EXPECT_EQ(0, self->w->starts);
}

TEST_F(load, pending_package_fails)
{
	self->w->device_result = WH_PENDING;
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_switch(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(-EIO, dest_device_loaded(self->d, -EIO, 5, &self->err));
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_NE(NULL, strstr(self->w->reason.text, "loading the device state"));
	/* it has not started here: the source may go on */
	EXPECT_EQ(1, self->w->sent[self->w->sents - 1].shut.value);
	EXPECT_EQ(0, self->w->starts);
	EXPECT_EQ(0, self->w->disarms);
}

/* The link breaks while it loads: the guest must not start when loading is done. */
TEST_F(load, pending_and_lost)
{
	self->w->device_result = WH_PENDING;
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_switch(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_EQ(0, dest_device_loaded(self->d, 0, 5, &self->err));
	EXPECT_EQ(0, self->w->starts);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
}

TEST_F(load, pending_precopy)
{
	for (unsigned i = 0; i < 4; i++) {
		bool return_path = i & 1, fails = i & 2;

		again(self->w);
		self->w->device_result = WH_PENDING;
		bytes_precopy(&self->b, return_path);
		bytes_add(&self->b, self->state.at, self->state.length);
		bytes_vmdesc(&self->b);
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_EQ(DEST_LOADING, dest_get_phase(self->d));
		/* Behind the end; and without a return path the source has no need to stay. */
		bytes_add(&self->b, "abc", 3);
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		if (!return_path)
			dest_link_lost(self->d, CHANNEL_MAIN, NULL);
		EXPECT_EQ(DEST_LOADING, dest_get_phase(self->d));
		EXPECT_EQ(fails ? -ENODEV : 0,
			  dest_device_loaded(self->d, fails ? -ENODEV : 0, 0, &self->err));
		EXPECT_EQ(fails ? DEST_FAILED : DEST_DONE, dest_get_phase(self->d));
		EXPECT_EQ(!fails, self->w->starts);
		EXPECT_EQ(return_path, world_count(self->w, RP_SHUT));
		if (return_path)
			EXPECT_EQ(fails, self->w->sent[self->w->sents - 1].shut.value);
	}
}

TEST_F(load, pending_precopy_lost)
{
	self->w->device_result = WH_PENDING;
	bytes_precopy(&self->b, true);
	bytes_add(&self->b, self->state.at, self->state.length);
	bytes_vmdesc(&self->b);
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	/* The urgent channel has nothing to give any more, whatever it says ... */
	bytes_add(&self->b, "\0\0\0\0\0\0\0\x10", 8);
	EXPECT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->b, &self->err));
	dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	EXPECT_EQ(DEST_LOADING, dest_get_phase(self->d));
	/* ... and without the main one the source cannot be told: it goes on there. */
	dest_link_lost(self->d, CHANNEL_MAIN, NULL);
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_EQ(0, dest_device_loaded(self->d, 0, 0, &self->err));
	EXPECT_EQ(0, self->w->starts);
}

/* SHUT 0 could not be said: the source will go on, so nothing starts here. */
TEST_F(load, shut_fails)
{
	bytes_precopy(&self->b, true);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	bytes_add(&self->b, self->state.at, self->state.length);
	bytes_vmdesc(&self->b);
	self->w->fail_send = -EPIPE;
	self->w->fail_once = true;
	EXPECT_EQ(-EPIPE, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_NE(NULL, strstr(self->w->reason.text, "the guest is not started"));
	/* part of it may be with the source: another SHUT would be nonsense */
	EXPECT_EQ(0, self->w->starts);
	EXPECT_STREQ("PL", self->w->order);
}

/* Once start() was called nobody says SHUT 1: the guest may run in part. */
TEST_F(load, start_fails)
{
	for (unsigned postcopy = 0; postcopy < 2; postcopy++) {
		again(self->w);
		self->w->fail_start = -EBUSY;
		if (postcopy) {
			bytes_begin(&self->b, true, true, 1u << ROM);
			bytes_package(&self->b, &self->state, 1);
		} else {
			bytes_precopy(&self->b, true);
			bytes_add(&self->b, self->state.at, self->state.length);
			bytes_vmdesc(&self->b);
		}
		EXPECT_EQ(-EBUSY, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
		EXPECT_STREQ(postcopy ? "PALPS" : "PL0S", self->w->order);
	}
}

TEST_F(load, the_world_refuses)
{
	for (unsigned i = 0; i < 6; i++) {
		again(self->w);
		bytes_begin(&self->b, true, true, 1u << ROM);
		bytes_package(&self->b, &self->state, 1);
		self->w->mute = i % 2;
		self->w->fail_arm = i / 2 == 0 ? -ENXIO : 0;
		self->w->device_result = i / 2 == 1 ? -ENXIO : 0;
		self->w->fail_buffer = i / 2 == 2 ? -ENXIO : 0;
		EXPECT_EQ(i == 5 ? -ENOMEM : -ENXIO,
			  feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
		EXPECT_NE(0, self->w->reason.text[0]);
		EXPECT_EQ(1, world_count(self->w, RP_SHUT));
		EXPECT_EQ(1, self->w->sent[self->w->sents - 1].shut.value);
		EXPECT_EQ(0, self->w->starts);
	}
}

TEST_F(load, package_too_large)
{
	struct cmd_msg msg = { .kind = CMD_PACKAGED };

	bytes_begin(&self->b, true, true, 1u << ROM);
	msg.packaged.length = WORLD_DEVICE + 1;
	bytes_msg(&self->b, &msg, NULL);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "1048577 bytes"));
	EXPECT_EQ(0, self->w->buffer_most);

	/* No more is asked for than comes, whatever is promised. */
	again(self->w);
	bytes_begin(&self->b, true, true, 1u << ROM);
	msg.packaged.length = WORLD_DEVICE;
	bytes_msg(&self->b, &msg, NULL);
	bytes_add(&self->b, "\x8\0\4\0\0", 5);
	EXPECT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_GE(65536, self->w->buffer_most);
	EXPECT_EQ(DEST_ADVISED, dest_get_phase(self->d));
}

/* As large as may be, in pieces: the buffer grows no further than that. */
TEST_F(load, package_of_the_largest_size)
{
	self->state.length = 0;
	bytes_own(&self->state, WORLD_DEVICE - 51);
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_package(&self->b, &self->state, 1);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	again(self->w);
	self->state.length = 0;
	bytes_own(&self->state, WORLD_DEVICE - 52);
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_package(&self->b, &self->state, 1);
	EXPECT_EQ(0, feed_pieces(self->w, CHANNEL_MAIN, &self->b, 600000, 1, 0, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_EQ(DEST_RUNNING, dest_get_phase(self->d));
	EXPECT_EQ(WORLD_DEVICE - 52, self->w->device_length);
	EXPECT_EQ(WORLD_DEVICE, self->w->buffer_most);
}

TEST_F(load, pong_fails)
{
	self->w->device_result = WH_PENDING;
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_switch(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	self->w->fail_send = -EPIPE;
	EXPECT_EQ(-EPIPE, dest_device_loaded(self->d, 0, 0, &self->err));
	EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
	EXPECT_EQ(0, self->w->starts);
}

TEST_F(load, state_too_large)
{
	/* of precopy: found too large at its end, or never ending */
	self->state.length = 0;
	bytes_own(&self->state, WORLD_DEVICE);
	bytes_precopy(&self->b, true);
	bytes_add(&self->b, self->state.at, self->state.length);
	bytes_vmdesc(&self->b);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "at most 1048576"));
	EXPECT_EQ(0, self->w->devices);
	EXPECT_EQ(1, self->w->sent[self->w->sents - 1].shut.value);

	again(self->w);
	bytes_precopy(&self->b, true);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	bytes_add(&self->b, "\4", 1);
	memset(bytes_room(&self->b, UINT64_C(2) << 20), 'x', UINT64_C(2) << 20);
	self->b.length += UINT64_C(2) << 20;
	for (unsigned i = 0; i < 7; i++)
		ASSERT_EQ(0,
			  feed_pieces(self->w, CHANNEL_MAIN, &self->b, SIZE_MAX, 1, 0, &self->err));
	EXPECT_EQ(0, feed_pieces(self->w, CHANNEL_MAIN, &self->b, SIZE_MAX, 1, 0, &self->err));
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "more than 17825792 bytes"));
	EXPECT_GE(WORLD_DEVICE + DEST_VMDESC_MAX, self->w->buffer_most);
}

/* Many small pieces of a large state are not looked at again and again. */
TEST_F(load, large_state_in_pieces)
{
	self->state.length = 0;
	bytes_own(&self->state, WORLD_DEVICE - 64);
	memset(self->state.at + 40, '{', WORLD_DEVICE - 200);
	bytes_precopy(&self->b, true);
	bytes_add(&self->b, self->state.at, self->state.length);
	bytes_vmdesc(&self->b);
	ASSERT_EQ(0, feed_pieces(self->w, CHANNEL_MAIN, &self->b, 16, 1, 0, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
	EXPECT_EQ(WH_DEVICE_OWN, self->w->device_format);
	EXPECT_EQ(WORLD_DEVICE - 64, self->w->device_length);
}

static const struct {
	const char *bytes;
	size_t length;
} bad_packages[] = {
	{ "\x8\0\5\0\0", 5 },				/* no LISTEN */
	{ "\x8\0\4\0\0", 5 },				/* no RUN */
	{ "\x8\0\4\0\0\x7\0\0\0\0\x8\0\5\0\0", 15 },	/* no section */
	{ "\x8\0\4\0\0\x8\0\4\0\0\x8\0\5\0\0", 15 },	/* twice */
	{ "\x8\0\4\0\0\4\0\0\0\0\0\0\x8\0\5\0\0", 17 }, /* no footer */
};

TEST_F(load, bad_packages)
{
	for (unsigned i = 0; i < sizeof(bad_packages) / sizeof(bad_packages[0]); i++) {
		struct cmd_msg msg = { .kind = CMD_PACKAGED };

		again(self->w);
		bytes_begin(&self->b, true, true, 1u << ROM);
		msg.packaged.length = (uint32_t)bad_packages[i].length;
		bytes_msg(&self->b, &msg, NULL);
		bytes_add(&self->b, bad_packages[i].bytes, bad_packages[i].length);
		EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		EXPECT_EQ(DEST_FAILED, dest_get_phase(self->d));
		EXPECT_EQ(0, self->w->arms) TH_LOG("package %u", i);
	}
}

/* Without a return path nothing could be asked for. */
TEST_F(load, package_without_return_path)
{
	bytes_header(&self->b);
	bytes_advise(&self->b, ALL_SIZES, TARGET_PAGE);
	bytes_list(&self->b, 1u << ROM);
	bytes_package(&self->b, &self->state, 1);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "return path"));
	EXPECT_EQ(0, self->w->arms);
}

TEST_F(load, half_a_host_page)
{
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_part(&self->b, SECTION_PART);
	bytes_pages(&self->b, ROM, 0, 6);
	bytes_eos(&self->b);
	bytes_switch(&self->b);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "host page 0x4000 has 2 of 4 pages"));
	EXPECT_EQ(0, self->w->arms);
}

TEST_F(load, nothing_missing)
{
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_part(&self->b, SECTION_PART);
	bytes_pages(&self->b, ROM, 0, 16);
	bytes_eos(&self->b);
	bytes_switch(&self->b);
	bytes_end(&self->b);
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_EQ(1, self->w->last_pages);
	ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
}

/* No device at all, as of -M none: EOF stands right behind ram's END. */
TEST_F(load, precopy_without_devices)
{
	for (unsigned vmdesc = 0; vmdesc < 2; vmdesc++) {
		again(self->w);
		bytes_precopy(&self->b, vmdesc);
		if (vmdesc)
			bytes_vmdesc(&self->b);
		else
			self->b.length += stream_put_eof(bytes_room(&self->b, STREAM_PUT_MAX));
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		if (!vmdesc) {
			EXPECT_EQ(DEST_PRECOPY, dest_get_phase(self->d));
			dest_link_lost(self->d, CHANNEL_MAIN, NULL);
		}
		EXPECT_EQ(DEST_DONE, dest_get_phase(self->d));
		EXPECT_EQ(1, self->w->devices);
		EXPECT_EQ(0, self->w->device_length);
	}
}

/* The word "end" of device state has to be more than a byte 0. */
TEST_F(load, closed_in_device_state)
{
	static const struct {
		const char *tail;
		size_t length;
		bool end;
	} tails[] = {
		{ "\0", 1, true },
		{ "\4\0\0\0\6", 5, false },
		{ "\0\0", 2, false },			     /* EOF and a type that is none */
		{ "\4\0\0\0\6\0\x7e\0\0\0\7\0", 12, false }, /* of no section there was */
		{ "\4\0\0\0\6\0\x7e\0\0\0\6\0", 12, true },
		{ "\4\0\0\0\6\0\x7d\0\0\0\6\0", 12, false },
	};

	for (unsigned i = 0; i < sizeof(tails) / sizeof(tails[0]); i++) {
		again(self->w);
		bytes_precopy(&self->b, false);
		bytes_add(&self->b, self->state.at, self->state.length);
		bytes_add(&self->b, tails[i].tail, tails[i].length);
		ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
		dest_link_lost(self->d, CHANNEL_MAIN, NULL);
		EXPECT_EQ(tails[i].end ? DEST_DONE : DEST_FAILED, dest_get_phase(self->d))
		TH_LOG("tail %u", i);
		if (tails[i].end) {
			EXPECT_EQ(self->state.length + tails[i].length - 1, self->w->device_length);
		} else {
			EXPECT_NE(NULL, strstr(self->w->reason.text, "bytes of device state"));
		}
	}
}

TEST_F(load, state_in_postcopy)
{
	bytes_begin(&self->b, true, true, 1u << ROM);
	bytes_switch(&self->b);
	bytes_part(&self->b, SECTION_END);
	bytes_eos(&self->b);
	bytes_add(&self->b, self->state.at, self->state.length);
	EXPECT_EQ(-EPROTO, feed(self->w, CHANNEL_MAIN, &self->b, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "device state in phase 'running'"));
	EXPECT_EQ(DEST_PAUSED, dest_get_phase(self->d));
	EXPECT_EQ(0, world_count(self->w, RP_SHUT));
}

TEST_HARNESS_MAIN
