/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Streams that a QEMU sent (selftests/vectors/README), into the engine: each comes to its
 * end, whole and in pieces, and asks for what QEMU's own destination was answered.
 */
#include "selftests/postcopy/dest_guest.h"

#include "kselftest_harness.h"

#define VECTORS "selftests/vectors/qemu-7.2/"

/* Any block is welcome, and is made as the list says */
static int any_block(void *ctx, const struct ram_block *line, struct dest_block *block,
		     struct wh_err *err)
{
	struct world *w = ctx;
	uint64_t page = line->page_size ? line->page_size : TARGET_PAGE;
	size_t words = bits_words(line->used / TARGET_PAGE);
	unsigned at = w->known;
	uint64_t *maps;

	if (at == WORLD_ROOM || line->used > UINT64_C(64) << 20)
		return err_set(err, -EPROTO, "block '%s' is too much", line->name.text);
	maps = calloc(4 * words, sizeof(uint64_t));
	w->region[at] = (struct region){
		.addr = world_map(line->used),
		.length = line->used,
		.page_size = page,
		.fd = -1,
	};
	memcpy(w->region[at].name, line->name.text, sizeof(w->region[at].name));
	w->present[at] = maps;
	*block = (struct dest_block){
		.region = &w->region[at],
		.used = line->used,
		.page_size = page,
		.arrived = maps + words,
		.received = maps + 2 * words,
		.asked = maps + 3 * words,
	};
	w->block_of[w->known++] = at;
	return 0;
}

static bool read_vector(struct bytes *b, const char *name, const char *suffix)
{
	char path[256];
	FILE *file;
	size_t got;

	snprintf(path, sizeof(path), VECTORS "%s.%s", name, suffix);
	file = fopen(path, "rb");
	if (!file)
		return false;
	b->length = 0;
	do {
		got = fread(bytes_room(b, 65536), 1, 65536, file);
		b->length += got;
	} while (got);
	fclose(file);
	return b->length > 0;
}

FIXTURE(qemu)
{
	struct dest_ops ops;
	struct world *w;
	struct dest *d;
	struct bytes main;
	struct bytes urgent;
	struct wh_err err;
	uint64_t wake_ns;
};

FIXTURE_VARIANT(qemu)
{
	const char *name;
	bool postcopy;
	bool urgent;
	bool return_path;
	unsigned filled; /* pages from 0x10000 on, with 1, 2, and so on */
};

FIXTURE_VARIANT_ADD(qemu, none_precopy){
	.name = "none-precopy",
	.filled = 8,
};

FIXTURE_VARIANT_ADD(qemu, q35_return_path){
	.name = "q35-return-path",
	.return_path = true,
};

FIXTURE_VARIANT_ADD(qemu, isapc_postcopy){
	.name = "isapc-postcopy",
	.postcopy = true,
	.return_path = true,
};

FIXTURE_VARIANT_ADD(qemu, isapc_preempt){
	.name = "isapc-preempt",
	.postcopy = true,
	.urgent = true,
	.return_path = true,
};

FIXTURE_VARIANT_ADD(qemu, isapc_xbzrle){
	.name = "isapc-xbzrle",
	.return_path = true,
};

FIXTURE_VARIANT_ADD(qemu, isapc_hugetlb){
	.name = "isapc-hugetlb",
	.postcopy = true,
	.return_path = true,
};

FIXTURE_SETUP(qemu)
{
	struct dest_config config = { .postcopy = true,
				      .device_state_max = WORLD_DEVICE,
				      .urgent_wait_ns = 1000 };

	memset(self, 0, sizeof(*self));
	self->w = world_new(true);
	self->d = &self->w->dest;
	self->ops = world_ops;
	self->ops.block = any_block;
	dest_init(self->d, &self->ops, self->w, &config);
	ASSERT_TRUE(read_vector(&self->main, variant->name, "stream"));
	if (variant->urgent)
		ASSERT_TRUE(read_vector(&self->urgent, variant->name, "urgent"));
	ASSERT_EQ(0, dest_connected(self->d, CHANNEL_MAIN, &self->err));
	if (variant->urgent)
		ASSERT_EQ(0, dest_connected(self->d, CHANNEL_URGENT, &self->err));
}

FIXTURE_TEARDOWN(qemu)
{
	bytes_free(&self->main);
	bytes_free(&self->urgent);
}

static void check_end(struct __test_metadata *const _metadata, struct world *w, bool postcopy,
		      bool return_path)
{
	EXPECT_EQ(DEST_DONE, dest_get_phase(&w->dest)) TH_LOG("%s", w->reason.text);
	EXPECT_EQ(1, w->starts);
	EXPECT_EQ(postcopy, w->arms);
	EXPECT_EQ(postcopy, w->disarms);
	EXPECT_EQ(return_path, world_count(w, RP_SHUT));
	EXPECT_EQ(0, w->dest.counters.pages_before);
	EXPECT_EQ(WH_DEVICE_QEMU, w->device_format);
	EXPECT_LT(100, w->device_length);
	/* every page of every block, once or more */
	for (unsigned i = 0; i < w->dest.blocks; i++) {
		uint64_t pages = w->dest.block[i].used / TARGET_PAGE;

		EXPECT_EQ(pages, bits_count(w->dest.block[i].received, pages));
	}
	/* a section begins it and a footer ends it */
	EXPECT_EQ(SECTION_FULL, w->device[0]);
	EXPECT_EQ(SECTION_FOOTER, w->device[w->device_length - 5]);
}

TEST_F(qemu, whole)
{
	ASSERT_EQ(0, feed(self->w, CHANNEL_MAIN, &self->main, &self->err))
	TH_LOG("%s", self->err.text);
	if (variant->postcopy)
		EXPECT_EQ(DEST_ENDING, dest_get_phase(self->d));
	if (variant->urgent) {
		ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
		EXPECT_NE(0, self->d->counters.pages_missing);
		ASSERT_EQ(0, feed(self->w, CHANNEL_URGENT, &self->urgent, &self->err))
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	if (variant->urgent)
		dest_link_lost(self->d, CHANNEL_URGENT, NULL);
	check_end(_metadata, self->w, variant->postcopy, variant->return_path);
	for (unsigned i = 0; i < variant->filled; i++)
		EXPECT_TRUE(page_is(self->w, 0, 0x10000 + PAGES(i), (uint8_t)(1 + i)));
}

TEST_F(qemu, in_pieces)
{
	ASSERT_EQ(0, feed_pieces(self->w, CHANNEL_MAIN, &self->main, 999, 10, 0, &self->err))
	TH_LOG("%s", self->err.text);
	if (variant->urgent)
		ASSERT_EQ(0, feed_pieces(self->w, CHANNEL_URGENT, &self->urgent, 100, 10, 0,
					 &self->err));
	ASSERT_EQ(0, dest_step(self->d, 0, &self->wake_ns, &self->err));
	check_end(_metadata, self->w, variant->postcopy, variant->return_path);
}

TEST_HARNESS_MAIN
