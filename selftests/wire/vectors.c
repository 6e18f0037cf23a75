/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/wire/feed.h"
#include "selftests/wire/vector.h"
#include "wire/device.h"
#include "wire/return_path.h"
#include "wire/xbzrle.h"

#include <errno.h>

#include "kselftest_harness.h"

/*
 * Whole connections of a real QEMU (selftests/vectors/README): decoded to their last
 * byte, put into memory as a destination would, and that memory is right: the guest
 * wrote into each page its own address and what follows from it, and stepped first
 * bytes in order.
 */
#define FOLDER "selftests/vectors/qemu-7.2/"
#define PAGE UINT64_C(4096)
#define RAM_BYTES (UINT64_C(6) << 20)
#define GUEST_FIRST UINT64_C(0x200000)

static const struct pieces whole = { piece_all, NULL };
static const struct pieces units = { piece_need, NULL };

struct counts {
	unsigned pages, zeros, deltas, requests, pongs, commands, packages, devices, ends;
};

FIXTURE(qemu)
{
	struct random random;
	struct wh_err err;
	struct stream_in in;
	struct ram_in urgent;
	struct device_scan scan;
	struct package package;
	struct counts counts;
	uint8_t *ram;
	uint8_t *bytes;
	size_t length;
	uint8_t *state; /* of the devices, to the end of the connection */
	size_t state_length;
	const char *name; /* variant->ram */
};

FIXTURE_VARIANT(qemu)
{
	const char *name;
	const char *ram; /* the block that is main memory */
	unsigned guest_pages;
	bool precopy;
	bool postcopy;
	bool urgent;
	bool deltas;
	bool returns;
	unsigned blocks;
	uint64_t huge;
};

FIXTURE_VARIANT_ADD(qemu, none_precopy){
	.name = "none-precopy",
	.ram = "ram",
	.precopy = true,
	.blocks = 1,
};

FIXTURE_VARIANT_ADD(qemu, q35_return_path){
	.name = "q35-return-path",
	.ram = "pc.ram",
	.guest_pages = 8,
	.precopy = true,
	.returns = true,
	.blocks = 6,
};

FIXTURE_VARIANT_ADD(qemu, isapc_postcopy){
	.name = "isapc-postcopy",
	.ram = "pc.ram",
	.guest_pages = 12,
	.postcopy = true,
	.returns = true,
	.blocks = 3,
};

FIXTURE_VARIANT_ADD(qemu, isapc_preempt){
	.name = "isapc-preempt",
	.ram = "pc.ram",
	.guest_pages = 12,
	.postcopy = true,
	.urgent = true,
	.returns = true,
	.blocks = 3,
};

FIXTURE_VARIANT_ADD(qemu, isapc_xbzrle){
	.name = "isapc-xbzrle",
	.ram = "pc.ram",
	.guest_pages = 8,
	.precopy = true,
	.deltas = true,
	.returns = true,
	.blocks = 3,
};

FIXTURE_VARIANT_ADD(qemu, isapc_hugetlb){
	.name = "isapc-hugetlb",
	.ram = "huge",
	.guest_pages = 4,
	.postcopy = true,
	.returns = true,
	.blocks = 3,
	.huge = 0x200000,
};

/* Into self->bytes. Return: whether there is such a file */
static bool load(FIXTURE_DATA(qemu) *self, const char *name, const char *suffix)
{
	char path[128];
	FILE *file;

	snprintf(path, sizeof(path), FOLDER "%s.%s", name, suffix);
	file = fopen(path, "r");
	self->length = 0;
	if (!file)
		return false;
	self->length = fread(self->bytes, 1, 1 << 20, file);
	fclose(file);
	return true;
}

FIXTURE_SETUP(qemu)
{
	memset(self, 0, sizeof(*self));
	self->ram = calloc(1, RAM_BYTES);
	self->bytes = malloc(1 << 20);
	self->state = malloc(1 << 20);
	self->name = variant->ram;
}

FIXTURE_TEARDOWN(qemu)
{
	free(self->ram);
	free(self->bytes);
	free(self->state);
}

static void place(struct __test_metadata *_metadata, FIXTURE_DATA(qemu) *self,
		  const struct ram_event *event)
{
	uint8_t *at = self->ram + event->offset;

	if (event->record > RAM_GOT_XBZRLE)
		return;
	self->counts.pages += event->record == RAM_GOT_PAGE;
	self->counts.zeros += event->record == RAM_GOT_ZERO;
	self->counts.deltas += event->record == RAM_GOT_XBZRLE;
	if (strcmp(self->in.blocks.block[event->block].name.text, self->name))
		return;
	ASSERT_LE(event->offset + PAGE, RAM_BYTES);
	if (event->record == RAM_GOT_PAGE)
		memcpy(at, event->data, PAGE);
	if (event->record == RAM_GOT_ZERO)
		memset(at, 0, PAGE);
	if (event->record == RAM_GOT_XBZRLE)
		ASSERT_EQ(0, xbzrle_get(at, event->data, event->data_length, &self->err));
}

/* What is discarded has to come again: until then it is poisoned. */
static void discard(struct __test_metadata *_metadata, FIXTURE_DATA(qemu) *self,
		    const struct cmd_msg *msg)
{
	struct wire_range range;
	uint32_t i;

	for (i = 0; i < msg->discard.count; i++) {
		range = cmd_range(msg, i);
		if (strcmp(msg->discard.block.text, self->name))
			continue;
		ASSERT_LE(range.start + range.length, RAM_BYTES);
		memset(self->ram + range.start, 0xee, range.length);
	}
}

static void take(struct __test_metadata *_metadata, FIXTURE_DATA(qemu) *self,
		 const struct stream_event *event)
{
	if (event->kind == STREAM_RAM)
		place(_metadata, self, &event->ram);
	if (event->kind == STREAM_COMMAND)
		self->counts.commands |= 1u << event->command.kind;
	if (event->kind == STREAM_COMMAND && event->command.kind == CMD_POSTCOPY_RAM_DISCARD)
		discard(_metadata, self, &event->command);
	if (event->kind == STREAM_PACKAGE) {
		ASSERT_TRUE(event->last);
		ASSERT_EQ(0,
			  package_get(event->data, event->data_length, &self->package, &self->err));
		self->counts.packages++;
	}
	if (event->kind == STREAM_DEVICE) {
		memcpy(self->state + self->state_length, event->data, event->data_length);
		self->state_length += event->data_length;
		self->counts.devices++;
	}
	self->counts.ends += event->kind == STREAM_EOF;
}

/* The main channel, whole, into memory */
static void decode(struct __test_metadata *_metadata, FIXTURE_DATA(qemu) *self)
{
	struct stream_event event;
	size_t at = 0, used;
	int ret;

	stream_in_init(&self->in, false);
	do {
		ret = stream_in_next(&self->in, self->bytes + at, self->length - at, &used, &event,
				     &self->err);
		at += used;
		if (ret == 1)
			take(_metadata, self, &event);
	} while (ret == 1);
	ASSERT_EQ(0, ret)
	{
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(self->length, at);
	ASSERT_EQ(1, self->in.need);
}

static void decode_urgent(struct __test_metadata *_metadata, FIXTURE_DATA(qemu) *self)
{
	struct ram_event event;
	size_t at = 0, used;
	int ret;

	ram_in_init(&self->urgent, true);
	do {
		ret = ram_in_next(&self->urgent, &self->in.blocks, self->bytes + at,
				  self->length - at, &used, &event, &self->err);
		at += used;
		if (ret == 1)
			place(_metadata, self, &event);
	} while (ret == 1);
	ASSERT_EQ(0, ret);
	ASSERT_EQ(self->length, at);
	ASSERT_EQ(RAM_GOT_EOS, event.record);
}

static void check_page(struct __test_metadata *_metadata, const uint8_t *page, uint32_t address)
{
	uint32_t value = address, word;
	unsigned i;

	memcpy(&word, page + 4, 4);
	ASSERT_EQ(address, word);
	for (i = 2; i < 1024; i++) {
		value = value * 1664525u + 1013904223u;
		memcpy(&word, page + (size_t)i * 4, 4);
		ASSERT_EQ(value, word);
	}
}

static void check_ram(struct __test_metadata *_metadata, FIXTURE_DATA(qemu) *self, unsigned pages)
{
	unsigned i, edges = 0;

	for (i = 0; i < pages; i++) {
		const uint8_t *page = self->ram + GUEST_FIRST + i * PAGE;

		check_page(_metadata, page, (uint32_t)(GUEST_FIRST + i * PAGE));
		/* an edge is a step down by one; the next pass begins at the first page */
		if (i && page[0] != page[-(long)PAGE]) {
			edges++;
			ASSERT_EQ((uint8_t)(page[-(long)PAGE] - 1), page[0]);
		}
	}
	ASSERT_LE(edges, 1);
}

/* The made-up memory of -M none: 8 pages of one byte each */
static void check_loaded(struct __test_metadata *_metadata, const FIXTURE_DATA(qemu) *self)
{
	unsigned i;

	ASSERT_EQ(8, self->counts.pages);
	for (i = 0; i < 8 * PAGE; i++)
		ASSERT_EQ(1 + i / PAGE, self->ram[0x10000 + i]);
	ASSERT_EQ(0, self->ram[0x10000 - 1]);
	ASSERT_EQ(0, self->ram[0x18000]);
}

TEST_F(qemu, decodes_to_the_last_byte)
{
	uint64_t huge = 0;
	unsigned i;

	ASSERT_TRUE(load(self, variant->name, "stream"));
	decode(_metadata, self);
	ASSERT_EQ(variant->blocks, self->in.blocks.count);
	for (i = 0; i < self->in.blocks.count; i++)
		huge |= self->in.blocks.block[i].page_size;
	ASSERT_EQ(variant->huge, huge);
	ASSERT_EQ(variant->postcopy, self->counts.packages);
	ASSERT_EQ(variant->postcopy, self->counts.ends);
	ASSERT_EQ(variant->postcopy, self->counts.commands >> CMD_PACKAGED & 1);
	ASSERT_EQ(variant->postcopy, self->counts.commands >> CMD_POSTCOPY_ADVISE & 1);
	ASSERT_EQ(variant->returns, self->counts.commands >> CMD_OPEN_RETURN_PATH & 1);
	ASSERT_EQ(variant->precopy, self->counts.devices);
	ASSERT_EQ(variant->deltas, self->counts.deltas > 0);
	ASSERT_GT(self->counts.pages, 0);
	ASSERT_GT(self->counts.zeros, 500);
	if (variant->urgent) {
		ASSERT_TRUE(load(self, variant->name, "urgent"));
		decode_urgent(_metadata, self);
	}
	if (variant->guest_pages)
		check_ram(_metadata, self, variant->guest_pages);
	else
		check_loaded(_metadata, self);
}

TEST_F(qemu, device_state_has_its_edges)
{
	size_t state, json, length;

	ASSERT_TRUE(load(self, variant->name, "stream"));
	decode(_metadata, self);
	if (variant->postcopy) {
		ASSERT_EQ(1, self->package.pings);
		ASSERT_EQ(3, self->package.ping[0]);
		ASSERT_GT(self->package.state_length, 1000);
		return;
	}
	ASSERT_EQ(0, device_end(self->state, self->state_length - 1, &state, &json, &length,
				&self->err));
	ASSERT_EQ(1,
		  device_end(self->state, self->state_length, &state, &json, &length, &self->err));
	ASSERT_EQ(self->state_length, json + length);
	ASSERT_EQ(0, strncmp((const char *)self->state + json, "{\"page_size\"", 12));
	ASSERT_EQ(0, device_own(self->state, state, &json, &length, &self->err));
	if (!variant->guest_pages)
		ASSERT_EQ(182, state);
}

TEST_F(qemu, pieces_make_no_difference)
{
	struct pieces random = { piece_random, &self->random };
	struct text expect, text;
	unsigned round;

	ASSERT_TRUE(load(self, variant->name, "stream"));
	text_init(&expect);
	stream_in_init(&self->in, false);
	ASSERT_EQ(0, feed_stream(&self->in, self->bytes, self->length, &whole, &expect, NULL));
	for (round = 0; round < 10; round++) {
		text_init(&text);
		stream_in_init(&self->in, false);
		ASSERT_EQ(0, feed_stream(&self->in, self->bytes, self->length,
					 round ? &random : &units, &text, NULL));
		ASSERT_STREQ(text_get(&expect), text_get(&text));
		text_fini(&text);
	}
	text_fini(&expect);
}

TEST_F(qemu, the_return_path_decodes)
{
	struct rp_msg msg = { .kind = RP_SHUT };
	size_t at, used;

	ASSERT_EQ(variant->returns, load(self, variant->name, "return"));
	for (at = 0; at < self->length; at += used) {
		ASSERT_EQ(1, rp_get(self->bytes + at, self->length - at, &used, &msg, &self->err));
		self->counts.pongs += msg.kind == RP_PONG;
		self->counts.requests += msg.kind == RP_REQ_PAGES || msg.kind == RP_REQ_PAGES_ID;
		if (msg.kind == RP_REQ_PAGES || msg.kind == RP_REQ_PAGES_ID)
			ASSERT_EQ(variant->huge ? variant->huge : PAGE, msg.req_pages.length);
	}
	ASSERT_EQ(RP_SHUT, msg.kind); /* the last one */
	ASSERT_EQ(0, variant->returns ? msg.shut.value : 0);
	ASSERT_EQ(variant->postcopy ? 4 : variant->returns, self->counts.pongs);
	ASSERT_EQ(variant->postcopy, self->counts.requests > 0);
}

/* What selftests/vectors/make-seeds has written is what it would write now. */
TEST(seeds_are_made_of_the_vectors)
{
	static const char *const targets[][2] = {
		{ "stream", "stream" },	  { "ram", "ram" },	   { "return_path", "return_path" },
		{ "command", "command" }, { "bitmap", "bitmap" },  { "xbzrle", "xbzrle" },
		{ "device", "device" },	  { "device", "package" }, { "control", "control" },
		{ "mc", "mc" },
	};
	static uint8_t bytes[VECTOR_BYTES];
	unsigned count, i, k;
	struct vector *v;
	char path[160];
	FILE *file;

	for (i = 0; i < sizeof(targets) / sizeof(targets[0]); i++) {
		v = vectors_load(targets[i][1], &count);
		for (k = 0; k < count; k++) {
			snprintf(path, sizeof(path), "selftests/fuzz/seeds/%s/%s", targets[i][0],
				 v[k].name);
			file = fopen(path, "r");
			ASSERT_NE(NULL, file)
			{
				TH_LOG("%s", path);
			}
			ASSERT_EQ(v[k].length, fread(bytes, 1, sizeof(bytes), file));
			ASSERT_EQ(0, memcmp(bytes, v[k].bytes, v[k].length));
			fclose(file);
		}
		free(v);
	}
}

static bool has_line(const char *path, const char *line)
{
	FILE *file = fopen(path, "r");
	char text[128];
	bool found = false;

	while (file && !found && fgets(text, sizeof(text), file))
		found = !strcmp(text, line);
	if (file)
		fclose(file);
	return found;
}

TEST(words_are_made_of_the_tables)
{
	char line[64];

#define MSG(kind, number, body, fields)                                       \
	snprintf(line, sizeof(line), "%s=\"\\x00\\x%02x\"\n", #kind, number); \
	EXPECT_TRUE(has_line("selftests/fuzz/return_path.dict", line));
#include "wire/return_path.def"
#undef MSG
#define MSG(kind, number, body, fields, descriptors)                          \
	snprintf(line, sizeof(line), "%s=\"\\x00\\x%02x\"\n", #kind, number); \
	EXPECT_TRUE(has_line("selftests/fuzz/agent.dict", line));
#include "wire/agent.def"
#undef MSG
#define MSG(kind, number, body, fields)                                            \
	snprintf(line, sizeof(line), "%s=\"\\x08\\x00\\x%02x\"\n", #kind, number); \
	EXPECT_TRUE(has_line("selftests/fuzz/command.dict", line));                \
	EXPECT_TRUE(has_line("selftests/fuzz/stream.dict", line));
#include "wire/command.def"
#undef MSG
}

TEST_HARNESS_MAIN
