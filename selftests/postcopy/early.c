/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Rows of pages before the memory is watched (postcopy/run_early.c), with a source and a
 * destination of the library's own in this process.
 */
#include "postcopy/run.h"
#include "selftests/lib/memory.h"

#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define BYTES (UINT64_C(16) << 20)
#define PAGES (BYTES / TARGET_PAGE)
#define DENSE 3072u /* from here on no page is zero */
#define SECONDS_NS 20000000000ll

FIXTURE(early)
{
	struct memory memory[2];
	struct wh_migration *end[2];
	struct wh_err err;
};

FIXTURE_VARIANT(early)
{
	enum memory_kind kind;
	bool postcopy;
	bool append; /* the file is not to be written to */
	const char *uri;
};

/* clang-format off */
#define VARIANT(name, kind_, uri_, ...) \
	FIXTURE_VARIANT_ADD(early, name) { .kind = MEMORY_##kind_, .uri = uri_, __VA_ARGS__ }
VARIANT(anon, ANON, "unix:early");
VARIANT(anon_tcp, ANON, "tcp:127.0.0.1:0");
VARIANT(anon_postcopy, ANON, "unix:early", .postcopy = true);
VARIANT(thp, THP, "unix:early");
VARIANT(memfd, MEMFD, "unix:early");
VARIANT(memfd_tcp, MEMFD, "tcp:127.0.0.1:0");
VARIANT(memfd_append, MEMFD, "unix:early", .append = true);
VARIANT(memfd_postcopy, MEMFD, "unix:early", .postcopy = true);
VARIANT(memfd_private, MEMFD_PRIVATE, "unix:early");
/* clang-format on */

/* Long rows, short ones, holes of zeros, single pages: what a page has, of which word */
static uint64_t word(uint64_t page, uint64_t i)
{
	uint64_t part = page / 512;

	if ((part == 1 && page % 2) || (part == 2 && page % 64 >= 48) || part == 4 ||
	    (part == 5 && page % 100 == 99))
		return 0;
	return (page * 512 + i) * UINT64_C(0x9e3779b97f4a7c15) + 1;
}

static int started(void *opaque, struct wh_err *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

FIXTURE_SETUP(early)
{
	static const struct wh_callbacks callbacks = { .start = started };
	char dir[] = "/tmp/early-XXXXXX";

	ASSERT_NE(NULL, mkdtemp(dir));
	ASSERT_EQ(0, chdir(dir));
	for (unsigned end = 0; end < 2; end++) {
		struct memory *memory = &self->memory[end];
		struct wh_block block = { .name = "ram", .length = BYTES, .page_size = 4096 };
		struct wh_config config;

		ASSERT_EQ(0, memory_new(memory, variant->kind, BYTES, &self->err))
		TH_LOG("%s", self->err.text);
		if (variant->append && end)
			ASSERT_EQ(0, fcntl(memory->region.fd, F_SETFL, O_APPEND));
		block.addr = memory->region.addr;
		block.fd = memory_traits[variant->kind].shared ? memory->region.fd : -1;
		wh_config_init(&config);
		config.postcopy = variant->postcopy;
		config.callbacks = &callbacks;
		ASSERT_EQ(0,
			  wh_new(&self->end[end], end ? WH_DEST : WH_SOURCE, &config, &self->err))
		TH_LOG("%s", self->err.text);
		ASSERT_EQ(0, wh_add_block(self->end[end], &block, &self->err));
	}
	for (uint64_t i = 0; i < BYTES / 8; i++)
		if (word(i / 512, i % 512))
			((uint64_t *)self->memory[0].region.addr)[i] = word(i / 512, i % 512);
}

FIXTURE_TEARDOWN(early)
{
	char dir[64];

	for (unsigned end = 0; end < 2; end++) {
		wh_free(self->end[end]);
		memory_free(&self->memory[end]);
	}
	unlink("early");
	if (getcwd(dir, sizeof(dir)))
		rmdir(dir);
}

TEST_F(early, all_of_it_comes)
{
	bool writes = variant->kind == MEMORY_MEMFD && !variant->postcopy && !variant->append;
	const uint64_t *at = (const uint64_t *)self->memory[1].region.addr;
	uint64_t data = 0, there, dense;

	ASSERT_EQ(0, wh_listen(self->end[1], variant->uri, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, wh_connect(self->end[0], wh_listen_uri(self->end[1]), &self->err));
	ASSERT_EQ(0, wh_start(self->end[1], &self->err));
	ASSERT_EQ(0, wh_start(self->end[0], &self->err));
	ASSERT_EQ(0, wh_wait(self->end[1], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, wh_wait(self->end[0], SECONDS_NS, &self->err)) TH_LOG("%s", self->err.text);
	there = memory_mapped(at, BYTES);
	dense = memory_mapped(at + DENSE * 512, BYTES - DENSE * TARGET_PAGE);
	for (uint64_t page = 0; page < PAGES; page++)
		data += word(page, 0) != 0;
	/* The rows went to the file, and what was no row into the mapping */
	if (writes) {
		EXPECT_GT((PAGES - DENSE) / 2, dense);
	} else {
		EXPECT_EQ(PAGES - DENSE, dense);
	}
	/* Little is allocated for nothing. Without postcopy zeros are looked at, and mapped */
	if (variant->postcopy) {
		EXPECT_GE(data + data / 4, there);
	}
	for (uint64_t i = 0; i < BYTES / 8; i++)
		ASSERT_EQ(word(i / 512, i % 512), at[i]);
}

TEST_HARNESS_MAIN
