/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Files of mapped-ram that are not what they say: blocks that lie in each other, files that end
 * early, bits of pages that are not there. None is loaded, none is mapped, none is shown to its end.
 */
#include "base/bytes.h"
#include "wire/bitmap.h"
#include "wire/mapped_ram.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "kselftest_harness.h"

#define PAGE UINT64_C(4096)
#define MIB (UINT64_C(1) << 20)
#define BLOCKS 3u
#define LIST 0x4fu /* the total; then the first line */

static const char *const names[BLOCKS] = { "ram", "/rom@etc/acpi/tables", "vga.vram" };
static const uint64_t lengths[BLOCKS] = { 3 * MIB, 5 * PAGE, 65 * PAGE };

/* Where in the file a line says what, and what it says */
struct line {
	uint64_t length_at;
	uint64_t header_end;
	uint64_t bitmap;
	uint64_t pages;
};

FIXTURE(lies)
{
	char path[64];
	char uri[80];
	uint8_t *memory;
	struct line line[BLOCKS];
	uint64_t size;
	int fd;
	unsigned made;
	uint8_t *loaded[BLOCKS];
	struct wh_err err;
};

static uint64_t number_at(int fd, uint64_t at)
{
	uint8_t bytes[8] = { 0 };

	return pread(fd, bytes, 8, (off_t)at) == 8 ? get_be64(bytes) : 0;
}

static bool number_put(int fd, uint64_t at, uint64_t number)
{
	uint8_t bytes[8];

	put_be64(bytes, number);
	return pwrite(fd, bytes, 8, (off_t)at) == 8;
}

FIXTURE_SETUP(lies)
{
	struct wh_block block[BLOCKS];
	struct wh_file_save save = { .block = block,
				     .blocks = BLOCKS,
				     .machine = "pc",
				     .device = "state",
				     .device_length = 5,
				     .device_format = WH_DEVICE_OWN,
				     .mapped_ram = true,
				     .replace = true };
	uint64_t at = LIST + 8;
	struct stat st;

	memset(self, 0, sizeof(*self));
	strcpy(self->path, "/dev/shm/wherry-lies-XXXXXX");
	self->fd = mkstemp(self->path);
	ASSERT_LE(0, self->fd);
	close(self->fd);
	snprintf(self->uri, sizeof(self->uri), "file:%s", self->path);
	self->memory = calloc(1, lengths[0]);
	for (uint64_t page = 0; page < lengths[0]; page += PAGE)
		self->memory[page] = 1;
	for (unsigned i = 0; i < BLOCKS; i++)
		block[i] = (struct wh_block){ .name = names[i],
					      .addr = self->memory,
					      .length = lengths[i] };
	ASSERT_EQ(0, wh_file_save(self->uri, &save, &self->err));
	self->fd = open(self->path, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(0, fstat(self->fd, &st));
	self->size = (uint64_t)st.st_size;
	for (unsigned i = 0; i < BLOCKS; i++) {
		struct line *line = &self->line[i];

		line->length_at = at + 1 + strlen(names[i]);
		line->header_end = line->length_at + 8 + MAPPED_RAM_HEADER;
		line->bitmap = number_at(self->fd, line->header_end - 16);
		line->pages = number_at(self->fd, line->header_end - 8);
		ASSERT_EQ(lengths[i], number_at(self->fd, line->length_at));
		ASSERT_EQ(line->header_end, line->bitmap);
		at = line->pages + lengths[i];
	}
}

static void forget(FIXTURE_DATA(lies) *self)
{
	for (unsigned i = 0; i < self->made; i++)
		munmap(self->loaded[i], lengths[i]);
	self->made = 0;
}

FIXTURE_TEARDOWN(lies)
{
	forget(self);
	free(self->memory);
	close(self->fd);
	unlink(self->path);
}

/* No block is made but those that were saved, as long as they were */
static int on_block(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		    struct wh_block *block, struct wh_err *err)
{
	FIXTURE_DATA(lies) *self = opaque;
	unsigned i = self->made;

	(void)page_size;
	if (i == BLOCKS || strcmp(name, names[i]) || length != lengths[i]) {
		err->code = -EBADE;
		snprintf(err->text, sizeof(err->text), "made of %s, %" PRIu64, name, length);
		return -EBADE;
	}
	self->loaded[i] =
		mmap(NULL, length, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	self->made++;
	*block = (struct wh_block){ .addr = self->loaded[i], .length = length, .fd = -1 };
	return 0;
}

static int load(FIXTURE_DATA(lies) *self, bool map)
{
	struct wh_file_load load = { .opaque = self, .block = on_block, .map = map };
	int ret;

	forget(self);
	memset(&self->err, 0, sizeof(self->err));
	ret = wh_file_load(self->uri, &load, &self->err);
	free(load.device);
	return ret;
}

static void nobody(void *opaque, const struct wh_dump_message *message)
{
	(void)opaque;
	(void)message;
}

/* As wherry dump: all of it, without the contents of pages */
static int dump(FIXTURE_DATA(lies) *self)
{
	static uint8_t bytes[65536];
	struct wh_dump *dump;
	off_t at = 0;
	ssize_t n;
	int ret;

	memset(&self->err, 0, sizeof(self->err));
	ret = wh_dump_new(&dump, WH_DUMP_STREAM, false, nobody, NULL, &self->err);
	while (!ret && (n = pread(self->fd, bytes, sizeof(bytes), at)) > 0) {
		ret = wh_dump_feed(dump, bytes, (size_t)n, &self->err);
		at += n + (off_t)wh_dump_skip(dump);
	}
	if (!ret)
		ret = wh_dump_end(dump, &self->err);
	wh_dump_free(dump);
	return ret;
}

/* Whoever reads it says that it is wrong, and this. */
static void refused(struct __test_metadata *_metadata, FIXTURE_DATA(lies) *self,
		    const char *sentence)
{
	for (int map = 0; map < 2; map++) {
		EXPECT_EQ(-EPROTO, load(self, map)) TH_LOG("%s: %s", sentence, self->err.text);
		EXPECT_NE(NULL, strstr(self->err.text, sentence))
		TH_LOG("%s: %s", sentence, self->err.text);
	}
	EXPECT_EQ(-EPROTO, dump(self)) TH_LOG("%s: %s", sentence, self->err.text);
	EXPECT_NE(0, self->err.text[0]);
}

TEST_F(lies, none)
{
	for (int map = 0; map < 2; map++) {
		ASSERT_EQ(0, load(self, map)) TH_LOG("%s", self->err.text);
		for (unsigned i = 0; i < BLOCKS; i++)
			ASSERT_EQ(0, memcmp(self->memory, self->loaded[i], lengths[i]));
	}
	ASSERT_EQ(0, dump(self)) TH_LOG("%s", self->err.text);
}

/* Bitmaps and pages of one block in another one, or in themselves; a line in a block's pages */
TEST_F(lies, overlapping)
{
	const struct line *first = &self->line[0], *second = &self->line[1];
	const struct {
		uint64_t at, number;
		const char *sentence;
	} bad[] = {
		{ second->header_end - 16, first->bitmap, "its header ends at" },
		{ second->header_end - 16, first->pages, "its header ends at" },
		{ second->header_end - 16, second->header_end - 1, "its header ends at" },
		{ second->header_end - 16, second->pages, "its bitmap is 0x8 bytes" },
		{ second->header_end - 16, second->pages - 7, "its bitmap is 0x8 bytes" },
		{ second->header_end - 8, first->pages, "its bitmap is 0x8 bytes" },
		{ second->header_end - 8, first->pages + MIB, "its bitmap is 0x8 bytes" },
		/* where the first one ends now there is no line */
		{ first->header_end - 8, first->pages + MIB, "at " },
		{ first->header_end - 8, self->line[2].pages & -MIB, "" },
		{ first->length_at, 2 * MIB, "made of ram" },
	};

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		uint64_t was = number_at(self->fd, bad[i].at);

		ASSERT_TRUE(number_put(self->fd, bad[i].at, bad[i].number));
		if (strncmp(bad[i].sentence, "made of", 7) != 0)
			refused(_metadata, self, bad[i].sentence);
		else /* it is the caller who knows how much there was */
			EXPECT_EQ(-EBADE, load(self, false));
		ASSERT_TRUE(number_put(self->fd, bad[i].at, was));
	}
	ASSERT_EQ(0, load(self, false)) TH_LOG("%s", self->err.text);
}

/* Wherever it ends: in a line, a bitmap, in or behind pages, in what is behind them */
TEST_F(lies, truncated)
{
	static const uint64_t short_by[] = { 0, 1, 7, 8, PAGE - 1, PAGE };

	for (unsigned i = BLOCKS; i-- > 0;) {
		const struct line *line = &self->line[i];
		const uint64_t ends[] = { line->pages + lengths[i], line->pages,
					  line->bitmap + 8,	    line->bitmap,
					  line->header_end - 8,	    line->length_at };

		for (unsigned k = 0; k < sizeof(ends) / sizeof(ends[0]); k++)
			for (unsigned n = 0; n < sizeof(short_by) / sizeof(short_by[0]); n++) {
				if (ends[k] - short_by[n] >= self->size)
					continue;
				/* what was cut off before is holes now: zeros */
				ASSERT_EQ(0, ftruncate(self->fd, (off_t)(ends[k] - short_by[n])));
				refused(_metadata, self, self->uri);
			}
	}
}

/* Bits behind the last page, of any block; a bit for every page of which there is none */
TEST_F(lies, bitmaps)
{
	const uint64_t second = self->line[1].bitmap, third = self->line[2].bitmap;
	const struct {
		uint64_t at;
		uint8_t byte;
	} bad[] = {
		{ second, 0x20 },     { second, 0xff },	   { second + 1, 0x01 },
		{ second + 7, 0x80 }, { third + 8, 0x02 }, { third + 15, 0xff },
	};
	uint8_t was;

	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ASSERT_EQ(1, pread(self->fd, &was, 1, (off_t)bad[i].at));
		ASSERT_EQ(1, pwrite(self->fd, &bad[i].byte, 1, (off_t)bad[i].at));
		refused(_metadata, self, "bitmap has bits behind its");
		ASSERT_EQ(1, pwrite(self->fd, &was, 1, (off_t)bad[i].at));
	}
	ASSERT_EQ(0, load(self, true)) TH_LOG("%s", self->err.text);
}

/* More than any file has: nothing is made, nor allocated, for it */
TEST_F(lies, endless)
{
	const struct line *line = &self->line[0];
	const uint64_t bytes = UINT64_C(1) << 60;

	ASSERT_TRUE(number_put(self->fd, LIST, bytes | 4));
	ASSERT_TRUE(number_put(self->fd, line->length_at, bytes));
	refused(_metadata, self, "its bitmap is 0x200000000000 bytes");
	ASSERT_TRUE(number_put(self->fd, line->header_end - 8, UINT64_C(1) << 61));
	for (int map = 0; map < 2; map++) {
		EXPECT_EQ(-EPROTO, load(self, map));
		EXPECT_NE(NULL, strstr(self->err.text, "of the file, which has"))
		TH_LOG("%s", self->err.text);
		EXPECT_EQ(0, self->made);
	}
	/* who shows it has no file, but bytes: it waits for the bitmap, and they end */
	EXPECT_EQ(-EPROTO, dump(self)) TH_LOG("%s", self->err.text);
}

TEST_HARNESS_MAIN
