/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Files that are no guest, or that lie about theirs.
 */
#include "selftests/postcopy/file_world.h"

#include "kselftest_harness.h"

TEST_F(file, what_cannot_be_read)
{
	REFUSED(-ENOENT, "No such file");
	snprintf(self->uri, sizeof(self->uri), "file:%s", self->folder);
	ASSERT_GT(0, load(self));
	snprintf(self->uri, sizeof(self->uri), "file:/dev/null");
	REFUSED(-EPROTO, "the file has 0 bytes");
}

/* Cut anywhere it is refused: nothing less than all of it will do. */
TEST_F(file, cut)
{
	for (unsigned mapped = 0; mapped < 2; mapped++) {
		struct stat st;

		self->save.mapped_ram = mapped;
		self->save.replace = true;
		SAVED();
		ASSERT_EQ(0, stat(self->path, &st));
		/* thoroughly at both ends */
		for (off_t at = st.st_size - 1; at > 0;
		     at -= at < 400 || at > st.st_size - 200 ? 1 : at / 7) {
			ASSERT_EQ(0, truncate(self->path, at));
			ASSERT_EQ(-EPROTO, load(self))
			{
				TH_LOG("%lld of %lld", (long long)at, (long long)st.st_size);
			}
			ASSERT_NE(0, self->err.text[0]);
		}
	}
}

/* What the list of a mapped-ram file may say, and what becomes of it */
TEST_F(file, mapped_ram_lies)
{
	static const struct {
		off_t at;
		uint64_t value;
		const char *sentence;
	} lies[] = {
		{ FIRST, 64 * MIB, "of the total" },
		{ HEADER + 4, 8192, "pages of 0x2000" },
		{ HEADER + 12, 0, "bitmap at 0x0 of the file" },
		{ HEADER + 12, 0x100000, "its bitmap is" },
		{ HEADER + 20, 0x100001, "whole MiB" },
		{ HEADER + 20, 0, "its bitmap is" },
		{ HEADER + 20, 64 * MIB, "of the file, which has" },
		{ HEADER + 20, UINT64_C(0x7fffffffff000000), "of the file, which has" },
		{ HEADER + 20, UINT64_C(0xfffffffffff00000), "bytes of pages at" },
		{ LIST, UINT64_C(0x7fffffffff000004), "within the list of blocks" },
		{ LIST, 0x1000004, "within the list of blocks" },
	};
	uint8_t bytes[8], before[8];
	int fd;

	self->save.mapped_ram = true;
	SAVED();
	fd = open(self->path, O_RDWR | O_CLOEXEC);
	for (unsigned i = 0; i < sizeof(lies) / sizeof(lies[0]); i++) {
		ASSERT_EQ(8, pread(fd, before, 8, lies[i].at));
		put_be64(bytes, lies[i].value);
		ASSERT_EQ(8, pwrite(fd, bytes, 8, lies[i].at));
		if (i + 2 < sizeof(lies) / sizeof(lies[0]))
			REFUSED(-EPROTO, lies[i].sentence);
		else
			ASSERT_GT(0, load(self));
		ASSERT_EQ(8, pwrite(fd, before, 8, lies[i].at));
	}
	LOADED();
	close(fd);
}

/* Bits behind the last page; and pages without a bit are zero, whatever lies in their place. */
TEST_F(file, bitmaps_lie)
{
	uint64_t pages = 0, bitmap;
	uint8_t bytes[8], word[8];
	int fd;

	self->save.mapped_ram = true;
	SAVED();
	fd = open(self->path, O_RDWR | O_CLOEXEC);
	/* the second block: 5 pages */
	ASSERT_EQ(8, pread(fd, bytes, 8, HEADER + 20));
	bitmap = get_be64(bytes) + lengths[0] + 1 + strlen(names[1]) + 8 + 28;
	ASSERT_EQ(8, pread(fd, bytes, 8, (off_t)bitmap - 8));
	pages = get_be64(bytes);
	ASSERT_EQ(8, pread(fd, word, 8, (off_t)bitmap));
	ASSERT_EQ(0x11, word[0]);
	word[0] |= 0x20;
	ASSERT_EQ(8, pwrite(fd, word, 8, (off_t)bitmap));
	REFUSED(-EPROTO, "bitmap has bits behind its 5 pages");
	word[0] = 0x10;
	ASSERT_EQ(8, pwrite(fd, word, 8, (off_t)bitmap));
	ASSERT_EQ(8, pread(fd, bytes, 8, (off_t)pages + 8));
	ASSERT_NE(0, get_be64(bytes));
	ASSERT_EQ(0, load(self));
	ASSERT_EQ(0, get_be64(self->loaded[1] + 8));
	ASSERT_EQ(0, memcmp(self->loaded[0], self->memory[0], lengths[0]));
	self->map = true;
	ASSERT_EQ(0, load(self));
	ASSERT_EQ(0, get_be64(self->loaded[1] + 8));
	ASSERT_EQ(self->memory[1][4 * PAGE + 15], self->loaded[1][4 * PAGE + 15]);
	close(fd);
}

/* A record of a page behind the list, where all of them have their places */
TEST_F(file, a_page_without_a_place)
{
	static const uint8_t record[] = "\0\0\0\0\0\0\0\2\3ram";
	uint64_t at = HEADER - 8 - 4;
	uint8_t bytes[8];
	int fd;

	self->save.mapped_ram = true;
	SAVED();
	fd = open(self->path, O_RDWR | O_CLOEXEC);
	for (unsigned i = 0; i < BLOCKS; i++) {
		at += 1 + strlen(names[i]) + 8;
		ASSERT_EQ(8, pread(fd, bytes, 8, (off_t)at + 20));
		at = get_be64(bytes) + lengths[i];
	}
	ASSERT_EQ((ssize_t)sizeof(record), pwrite(fd, record, sizeof(record), (off_t)at));
	REFUSED(-EPROTO, "a page beside those that have their places");
	close(fd);
}

/* Any single byte of what is not contents: refused, or the same memory, or nothing worse */
TEST_F(file, wrong_bytes)
{
	uint8_t byte, wrong;
	int fd;

	self->save.mapped_ram = true;
	SAVED();
	fd = open(self->path, O_RDWR | O_CLOEXEC);
	for (off_t at = 0; at < HEADER + 28; at++)
		for (unsigned bit = 0; bit < 8; bit++) {
			ASSERT_EQ(1, pread(fd, &byte, 1, at));
			wrong = byte ^ (uint8_t)(1u << bit);
			ASSERT_EQ(1, pwrite(fd, &wrong, 1, at));
			if (load(self))
				ASSERT_NE(0, self->err.text[0]);
			ASSERT_EQ(1, pwrite(fd, &byte, 1, at));
		}
	LOADED();
	close(fd);
}

TEST_F(file, commands_that_need_an_answer)
{
	static const uint8_t bytes[] = "QEVM\0\0\0\3\7\0\0\0\2pc\x8\0\1\0\0\x8\0\2\0\4\0\0\0\1"
				       "\x8\0\4\0\0";
	FILE *to = fopen(self->path, "w");

	ASSERT_EQ(1, fwrite(bytes, sizeof(bytes) - 1, 1, to));
	fclose(to);
	REFUSED(-EPROTO, "command POSTCOPY_LISTEN");
}

TEST_HARNESS_MAIN
