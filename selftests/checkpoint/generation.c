/* SPDX-License-Identifier: GPL-2.0 */
#include "checkpoint/generation.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "kselftest_harness.h"

FIXTURE(generation)
{
	char folder[64], path[96], beside[112];
	struct wh_err err;
	uint64_t number;
};

FIXTURE_SETUP(generation)
{
	strcpy(self->folder, "/tmp/generation-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->path, sizeof(self->path), "%s/number", self->folder);
	snprintf(self->beside, sizeof(self->beside), "%s.new", self->path);
}

FIXTURE_TEARDOWN(generation)
{
	unlink(self->path);
	unlink(self->beside);
	rmdir(self->folder);
}

static void put(const char *path, const char *text)
{
	FILE *file = fopen(path, "w");

	fputs(text, file);
	fclose(file);
}

TEST_F(generation, what_was_written_is_read)
{
	EXPECT_EQ(0, generation_read(self->path, &self->number, &self->err));
	EXPECT_EQ(0, self->number);
	EXPECT_EQ(0, generation_write(self->path, 7, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, generation_read(self->path, &self->number, &self->err));
	EXPECT_EQ(7, self->number);
	EXPECT_EQ(0, generation_write(self->path, UINT64_MAX, &self->err));
	EXPECT_EQ(0, generation_read(self->path, &self->number, &self->err));
	EXPECT_EQ(UINT64_MAX, self->number);
	EXPECT_EQ(-1, access(self->beside, F_OK));
}

/* The power went in the middle of it: the old one counts, and the next one can be written */
TEST_F(generation, what_lies_beside_it_is_not_it)
{
	EXPECT_EQ(0, generation_write(self->path, 3, &self->err));
	put(self->beside, "4444\n");
	EXPECT_EQ(0, generation_read(self->path, &self->number, &self->err));
	EXPECT_EQ(3, self->number);
	EXPECT_EQ(0, generation_write(self->path, 5, &self->err));
	EXPECT_EQ(0, generation_read(self->path, &self->number, &self->err));
	EXPECT_EQ(5, self->number);
}

/* No guessing: a number that was read as 0 would let an old source in */
TEST_F(generation, what_is_no_number_is_refused)
{
	static const char *const wrong[] = {
		"",
		"\n",
		"7",
		"7\n\n",
		" 7\n",
		"-1\n",
		"+7\n",
		"0x7\n",
		"7 8\n",
		"18446744073709551616\n",
		"1111111111111111111111111111111111111111\n",
	};

	for (unsigned i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		put(self->path, wrong[i]);
		EXPECT_EQ(-EINVAL, generation_read(self->path, &self->number, &self->err))
		{
			TH_LOG("'%s'", wrong[i]);
		}
	}
}

TEST_F(generation, where_it_cannot_be)
{
	char path[4200];

	snprintf(path, sizeof(path), "%s/none/number", self->folder);
	EXPECT_EQ(-ENOENT, generation_write(path, 1, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "none/number")) TH_LOG("%s", self->err.text);
	EXPECT_EQ(-EISDIR, generation_read(self->folder, &self->number, &self->err));
	memset(path, 'a', sizeof(path));
	path[sizeof(path) - 1] = '\0';
	EXPECT_EQ(-ENAMETOOLONG, generation_write(path, 1, &self->err));
}

TEST_HARNESS_MAIN
