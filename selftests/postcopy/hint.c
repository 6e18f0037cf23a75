/* SPDX-License-Identifier: GPL-2.0 */
/* What is said of a block's memory is kept by the MiB, and what is not in it is refused */
#include "postcopy/run.h"

#include <errno.h>
#include <string.h>
#include <sys/mman.h>

#include "kselftest_harness.h"

#define MIB (UINT64_C(1) << 20)
#define PAGE UINT64_C(4096)
#define LENGTH (3 * MIB + PAGE)

static const struct wh_callbacks callbacks = { 0 };

FIXTURE(hint)
{
	struct wh_migration *m;
	void *memory;
	struct wh_err err;
};

static int make(FIXTURE_DATA(hint) *self, enum wh_role role)
{
	struct wh_block block = {
		.name = "ram", .addr = self->memory, .length = LENGTH, .page_size = PAGE, .fd = -1
	};
	struct wh_config config;
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	ret = wh_new(&self->m, role, &config, &self->err);
	return ret < 0 ? ret : wh_add_block(self->m, &block, &self->err);
}

FIXTURE_SETUP(hint)
{
	memset(self, 0, sizeof(*self));
	self->memory =
		mmap(NULL, LENGTH, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->memory);
}

FIXTURE_TEARDOWN(hint)
{
	wh_free(self->m);
	munmap(self->memory, LENGTH);
}

static int say(FIXTURE_DATA(hint) *self, const char *block, uint64_t offset, uint64_t length,
	       enum wh_hint hint)
{
	memset(&self->err, 0, sizeof(self->err));
	return wh_hint(self->m, block, offset, length, hint, &self->err);
}

TEST_F(hint, by_the_mib)
{
	static const uint8_t all[] = { WH_HINT_HOT, WH_HINT_NONE, WH_HINT_COLD, WH_HINT_COLD };

	ASSERT_EQ(0, make(self, WH_SOURCE)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, say(self, "ram", 0, 2 * MIB, WH_HINT_HOT));
	EXPECT_EQ(0, say(self, "ram", 2 * MIB, MIB + 1, WH_HINT_COLD));
	EXPECT_EQ(0, say(self, "ram", 2 * MIB - 1, 1, WH_HINT_NONE));
	EXPECT_EQ(0, memcmp(all, self->m->hint[0], sizeof(all)));
	EXPECT_EQ(0, say(self, "ram", LENGTH - 1, 1, WH_HINT_HOT));
	EXPECT_EQ(WH_HINT_HOT, self->m->hint[0][3]);
}

TEST_F(hint, what_is_refused)
{
	static const struct {
		uint64_t offset, length;
	} ranges[] = { { 0, 0 },	  { 0, LENGTH + 1 },   { LENGTH, 1 },
		       { LENGTH + 1, 1 }, { MIB, UINT64_MAX }, { UINT64_MAX, 2 } };

	ASSERT_EQ(0, make(self, WH_SOURCE)) TH_LOG("%s", self->err.text);
	for (unsigned i = 0; i < sizeof(ranges) / sizeof(ranges[0]); i++) {
		EXPECT_EQ(-EINVAL,
			  say(self, "ram", ranges[i].offset, ranges[i].length, WH_HINT_HOT))
		TH_LOG("range %u", i);
		EXPECT_NE(NULL, strstr(self->err.text, "block 'ram' has"));
	}
	EXPECT_EQ(-ENOENT, say(self, "rom", 0, 1, WH_HINT_HOT));
	EXPECT_EQ(-EINVAL, say(self, "ram", 0, 1, (enum wh_hint)3));
	for (unsigned i = 0; i < 4; i++)
		EXPECT_EQ(WH_HINT_NONE, self->m->hint[0][i]);
}

TEST_F(hint, a_destination_has_none)
{
	ASSERT_EQ(0, make(self, WH_DEST)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(-EINVAL, say(self, "ram", 0, 1, WH_HINT_HOT));
	EXPECT_STREQ("hint: this end is the destination", self->err.text);
}

TEST_HARNESS_MAIN
