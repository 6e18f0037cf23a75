/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/wire/random.h"
#include "selftests/wire/vector.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <wherry/dump.h>

#include "kselftest_harness.h"

struct lines {
	char *text;
	size_t length;
	FILE *file;
	unsigned count;
	uint64_t last;
	bool ordered;
};

static void on_line(void *opaque, const struct wh_dump_message *message)
{
	struct lines *lines = opaque;

	fprintf(lines->file, "%" PRIu64 ": %s\n", message->offset, message->line);
	lines->count++;
	lines->ordered &= message->offset >= lines->last;
	lines->last = message->offset;
}

static void lines_init(struct lines *lines)
{
	memset(lines, 0, sizeof(*lines));
	lines->file = open_memstream(&lines->text, &lines->length);
	lines->ordered = true;
}

static void lines_fini(struct lines *lines)
{
	fclose(lines->file);
	free(lines->text);
}

/* Feeds pieces of up to so many bytes, 0: all at once. Return: of the end, or the failure */
static int dump_bytes(enum wh_dump_kind kind, bool pages, const uint8_t *bytes, size_t length,
		      size_t piece, struct lines *lines, struct wh_err *err)
{
	struct random random = { length };
	struct wh_dump *dump;
	size_t at, n;
	int ret = 0;

	memset(err, 0, sizeof(*err));
	lines_init(lines);
	if (wh_dump_new(&dump, kind, pages, on_line, lines, err))
		abort();
	for (at = 0; at < length && !ret; at += n) {
		uint8_t *copy;

		n = piece ? 1 + random_below(&random, piece) : length;
		n = n < length - at ? n : length - at;
		copy = malloc(n);
		memcpy(copy, bytes + at, n);
		ret = wh_dump_feed(dump, copy, n, err);
		free(copy);
	}
	if (!ret)
		ret = wh_dump_end(dump, err);
	fflush(lines->file);
	wh_dump_free(dump);
	return ret;
}

/* What the vector says: lines, and the last words if there are some */
static void check_vector(struct __test_metadata *_metadata, enum wh_dump_kind kind,
			 struct vector *v, size_t piece)
{
	char *words = strstr(v->expect, "! ");
	struct lines lines;
	struct wh_err err;
	int ret;

	ret = dump_bytes(kind, false, v->bytes, v->length, piece, &lines, &err);
	ASSERT_EQ(words ? -EPROTO : 0, ret)
	{
		TH_LOG("%s: %s", v->name, err.text);
	}
	ASSERT_EQ(ret, err.code);
	if (words) {
		ASSERT_NE(NULL, strstr(err.text, strtok(words + 2, "\n")));
		*words = '\0';
	}
	ASSERT_STREQ(v->expect, lines.text)
	{
		TH_LOG("%s", v->name);
	}
	ASSERT_TRUE(lines.ordered);
	lines_fini(&lines);
}

static void check_file(struct __test_metadata *_metadata, const char *name, enum wh_dump_kind kind,
		       unsigned expected)
{
	static const size_t pieces[] = { 0, 1, 100, 5000 };
	unsigned count, i, k, checked = 0;

	for (k = 0; k < 4; k++) {
		struct vector *v = vectors_load(name, &count);

		for (i = 0; i < count; i++)
			if (v[i].expect[0]) {
				check_vector(_metadata, kind, &v[i], pieces[k]);
				checked++;
			}
		free(v);
	}
	ASSERT_EQ(4 * expected, checked);
}

TEST(streams)
{
	check_file(_metadata, "stream", WH_DUMP_STREAM, 6);
}

TEST(urgent_channels)
{
	check_file(_metadata, "ram", WH_DUMP_URGENT, 3);
}

TEST(return_paths)
{
	check_file(_metadata, "return_path", WH_DUMP_RETURN_PATH, 9);
}

TEST(micro_checkpoints)
{
	check_file(_metadata, "mc", WH_DUMP_MC, 18);
}

static struct vector *find(struct vector *v, unsigned count, const char *name)
{
	unsigned i;

	for (i = 0; i < count; i++)
		if (!strcmp(v[i].name, name))
			return &v[i];
	abort();
}

TEST(a_line_for_each_page)
{
	struct vector *all;
	const struct vector *v;
	struct lines lines;
	struct wh_err err;
	unsigned count;

	all = vectors_load("stream", &count);
	v = find(all, count, "precopy");
	ASSERT_EQ(0, dump_bytes(WH_DUMP_STREAM, true, v->bytes, v->length, 0, &lines, &err));
	ASSERT_NE(NULL, strstr(lines.text, "\n63: ram 0x0 page\n4171: ram 0x1000 zero\n"))
	{
		TH_LOG("%s", lines.text);
	}
	ASSERT_NE(NULL, strstr(lines.text, ": ram 0x0 xbzrle 5 bytes\n"));
	ASSERT_EQ(NULL, strstr(lines.text, " x1\n"));
	lines_fini(&lines);
	free(all);
}

/* Cut anywhere it is said that it breaks off, with what was whole before that. */
TEST(a_cut_is_said)
{
	struct vector *all;
	const struct vector *v;
	struct lines whole, lines;
	struct wh_err err;
	unsigned count;
	size_t n;

	all = vectors_load("stream", &count);
	v = find(all, count, "precopy");
	ASSERT_EQ(0, dump_bytes(WH_DUMP_STREAM, true, v->bytes, v->length, 0, &whole, &err));
	for (n = 0; n<v->length; n += n> 80 && n < 4000 ? 97 : 1) {
		ASSERT_EQ(n == 4428 ? 0 : -EPROTO,
			  dump_bytes(WH_DUMP_STREAM, true, v->bytes, n, 0, &lines, &err))
		{
			TH_LOG("%zu", n);
		}
		if (n != 4428) {
			char *end = strstr(lines.text, "breaks off");

			ASSERT_NE(NULL, strstr(err.text, "breaks off"));
			ASSERT_NE(NULL, end);
			while (end > lines.text && end[-1] != '\n')
				end--;
			ASSERT_EQ(0, strncmp(whole.text, lines.text, (size_t)(end - lines.text)));
		}
		lines_fini(&lines);
	}
	lines_fini(&whole);
	free(all);
}

TEST(damage_is_said_with_its_place)
{
	struct vector *all;
	struct vector *v;
	struct lines lines;
	struct wh_err err;
	unsigned count;

	all = vectors_load("stream", &count);
	v = find(all, count, "postcopy");
	v->bytes[8] = 9;
	ASSERT_EQ(-EPROTO, dump_bytes(WH_DUMP_STREAM, false, v->bytes, v->length, 7, &lines, &err));
	ASSERT_STREQ("stream at 8, between sections: unknown section type 0x09", err.text);
	ASSERT_STREQ("0: QEVM version 3\n", lines.text);
	lines_fini(&lines);
	v->bytes[8] = 7;
	/* the version of the package's section: its LISTEN is none any more */
	memcpy(memmem(v->bytes, v->length, "\10\0\4\0\0", 5), "\10\0\3\0\0", 5);
	ASSERT_EQ(-EPROTO, dump_bytes(WH_DUMP_STREAM, false, v->bytes, v->length, 7, &lines, &err));
	ASSERT_NE(NULL, strstr(err.text, "does not begin with LISTEN"));
	ASSERT_EQ(0, strncmp(err.text, "stream at 8", 11));
	lines_fini(&lines);
	free(all);
}

TEST(nothing_comes_behind_the_end)
{
	struct vector *all;
	struct vector *v;
	struct lines lines;
	struct wh_err err;
	unsigned count, i;

	all = vectors_load("stream", &count);
	v = find(all, count, "precopy");
	v->bytes[v->length] = 0x55;
	for (i = 0; i < 2; i++) {
		ASSERT_EQ(-EPROTO, dump_bytes(WH_DUMP_STREAM, false, v->bytes, v->length + 1, i,
					      &lines, &err));
		ASSERT_STREQ("stream at 4464: bytes behind the end, the first is 0x55", err.text);
		lines_fini(&lines);
	}
	free(all);
}

TEST(a_failure_stays)
{
	struct wh_err err = { 0 }, again = { 0 };
	struct lines lines;
	struct wh_dump *dump;

	lines_init(&lines);
	ASSERT_EQ(0, wh_dump_new(&dump, WH_DUMP_STREAM, false, on_line, &lines, &err));
	ASSERT_EQ(-EPROTO, wh_dump_feed(dump, "QEMU\0\0\0\3", 8, &err));
	ASSERT_NE(NULL, strstr(err.text, "magic"));
	ASSERT_EQ(-EPROTO, wh_dump_feed(dump, "QEVM\0\0\0\3", 8, &again));
	ASSERT_STREQ(err.text, again.text);
	ASSERT_EQ(-EPROTO, wh_dump_feed(dump, "QEVM\0\0\0\3", 8, NULL));
	memset(&again, 0, sizeof(again));
	ASSERT_EQ(-EPROTO, wh_dump_end(dump, &again));
	ASSERT_STREQ(err.text, again.text);
	ASSERT_EQ(0, lines.count);
	wh_dump_free(dump);
	wh_dump_free(NULL);
	lines_fini(&lines);
}

TEST(return_paths_are_checked)
{
	static const struct {
		const char *bytes;
		size_t length;
		const char *expect;
	} bad[] = {
#define BAD(bytes, expect) { bytes, sizeof(bytes) - 1, expect }
		BAD("\0\2\0\4\0\0\0\1\0\x9\0\0",
		    "return path at 8: return path message of unknown"),
		BAD("\0\5\0\2\1r\0\0\0\0\0\0\0\7", "return path at 6: bitmap of 7 bytes"),
		BAD("\0\5\0\2\1r\x80\0\0\0\0\0\0\0", "bitmap of 9223372036854775808 bytes"),
		BAD("\0\5\0\2\1r\0\0\0\0\0\0\0\0\1\2\3\4\5\6\7\x8", "bitmap ends with"),
		BAD("\0\5\0\2\1r", "breaks off"),
		BAD("\0\1\0\4\0\0", "breaks off, 6 bytes behind"),
#undef BAD
	};
	struct lines lines;
	struct wh_err err;
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ASSERT_EQ(-EPROTO,
			  dump_bytes(WH_DUMP_RETURN_PATH, false, (const uint8_t *)bad[i].bytes,
				     bad[i].length, i & 1, &lines, &err));
		EXPECT_NE(NULL, strstr(err.text, bad[i].expect))
		{
			TH_LOG("%s", err.text);
		}
		lines_fini(&lines);
	}
}

TEST(urgent_channels_are_checked)
{
	struct lines lines;
	struct wh_err err;

	ASSERT_EQ(-EPROTO, dump_bytes(WH_DUMP_URGENT, false,
				      (const uint8_t *)"\0\0\0\0\0\0\0\2\1r\0\0\0\0\0\0\0\0\1", 19,
				      0, &lines, &err));
	ASSERT_STREQ("channel at 11: record 0x0000000000000001: obsolete flag FULL", err.text);
	ASSERT_STREQ("0: r 0x0+0x1000 zero x1\n", lines.text);
	lines_fini(&lines);
	ASSERT_EQ(-EPROTO, dump_bytes(WH_DUMP_URGENT, false, (const uint8_t *)"\0\0\0\0\0\0\0\2\1r",
				      10, 1, &lines, &err));
	ASSERT_NE(NULL, strstr(err.text, "breaks off, 10 bytes"));
	lines_fini(&lines);
}

/* Of a real QEMU: printed to the end, and it is all there */
TEST(recorded_connections)
{
	static const struct {
		const char *name;
		enum wh_dump_kind kind;
		const char *expect[3];
	} files[] = {
		{ "none-precopy.stream",
		  WH_DUMP_STREAM,
		  { "block ram 0x400000 bytes", "device state, 182 bytes", "VMDESCRIPTION" } },
		{ "q35-return-path.stream",
		  WH_DUMP_STREAM,
		  { "machine pc-q35-7.2", "23: OPEN_RETURN_PATH", "VMDESCRIPTION" } },
		{ "isapc-postcopy.stream",
		  WH_DUMP_STREAM,
		  { "POSTCOPY_RAM_DISCARD block pc.ram", "  POSTCOPY_RUN", ": EOF" } },
		{ "isapc-preempt.urgent", WH_DUMP_URGENT, { "pc.ram 0x", " page x", "EOS" } },
		{ "isapc-preempt.return",
		  WH_DUMP_RETURN_PATH,
		  { "REQ_PAGES_ID start 0x", "PONG value 4", "SHUT value 0" } },
	};
	static uint8_t bytes[1 << 20];
	char path[128];
	struct lines lines, pieces;
	struct wh_err err;
	unsigned i, k;
	size_t length;
	FILE *file;

	for (i = 0; i < sizeof(files) / sizeof(files[0]); i++) {
		snprintf(path, sizeof(path), "selftests/vectors/qemu-7.2/%s", files[i].name);
		file = fopen(path, "r");
		ASSERT_NE(NULL, file);
		length = fread(bytes, 1, sizeof(bytes), file);
		fclose(file);
		ASSERT_EQ(0, dump_bytes(files[i].kind, false, bytes, length, 0, &lines, &err));
		for (k = 0; k < 3; k++) {
			ASSERT_NE(NULL, strstr(lines.text, files[i].expect[k]))
			{
				TH_LOG("%s: %s", files[i].name, lines.text);
			}
		}
		ASSERT_EQ(0, dump_bytes(files[i].kind, false, bytes, length, 9000, &pieces, &err));
		ASSERT_STREQ(lines.text, pieces.text);
		ASSERT_TRUE(lines.ordered);
		lines_fini(&pieces);
		lines_fini(&lines);
	}
}

TEST_HARNESS_MAIN
