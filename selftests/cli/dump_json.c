/* SPDX-License-Identifier: GPL-2.0 */
/*
 * wherry dump --json beside wherry dump: the same messages at the same places, every member of
 * an object in the line that shows it, and no kind of message that was not seen.
 */
#include "selftests/wire/vector.h"
#include "wire/command.h"
#include "wire/return_path.h"

#include <glob.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdbool.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define KINDS_MAX 128

/* Recorded ones of multifd */
#define CHANNELS "selftests/fuzz/seeds/multifd"

struct seen {
	char kind[KINDS_MAX][64];
	unsigned kinds;
	unsigned messages;
};

static void saw(struct seen *seen, const char *kind)
{
	for (unsigned i = 0; i < seen->kinds; i++)
		if (!strcmp(seen->kind[i], kind))
			return;
	snprintf(seen->kind[seen->kinds++], sizeof(seen->kind[0]), "%s", kind);
}

static void expect_seen(struct __test_metadata *_metadata, const struct seen *seen,
			const char *kind)
{
	bool there = !strcmp(kind, "?"); /* a number that is nobody's */

	for (unsigned i = 0; i < seen->kinds; i++)
		there |= !strcmp(seen->kind[i], kind);
	ASSERT_TRUE(there)
	{
		TH_LOG("no message of kind %s", kind);
	}
}

/* As one of its forms, a word of its own */
static bool shows(const char *line, json_object *value)
{
	char form[2][300];
	uint64_t number = json_object_get_uint64(value);

	if (json_object_is_type(value, json_type_string)) {
		snprintf(form[0], sizeof(form[0]), "%s", json_object_get_string(value));
		return strstr(line, form[0]);
	}
	snprintf(form[0], sizeof(form[0]), "%" PRIu64, number);
	snprintf(form[1], sizeof(form[1]), "0x%" PRIx64, number);
	return strstr(line, form[0]) || strstr(line, form[1]);
}

static void check_message(struct __test_metadata *_metadata, const char *file, const char *line,
			  const char *text, struct seen *seen)
{
	json_object *object = json_tokener_parse(text), *part;
	uint64_t offset = strtoull(line, NULL, 16);

	ASSERT_TRUE(json_object_is_type(object, json_type_object))
	{
		TH_LOG("%s: %s", file, text);
	}
	ASSERT_TRUE(json_object_object_get_ex(object, "offset", &part));
	ASSERT_EQ(offset, json_object_get_uint64(part));
	ASSERT_TRUE(json_object_object_get_ex(object, "kind", &part));
	saw(seen, json_object_get_string(part));
	seen->messages++;
	ASSERT_EQ(!strncmp(line + strspn(line, " ") + strcspn(line + strspn(line, " "), " "),
			   "    ", 4),
		  json_object_object_get_ex(object, "inside", NULL))
	{
		TH_LOG("%s: %s is %s", file, line, text);
	}
	json_object_object_foreach(object, name, value)
	{
		if (!strcmp(name, "offset") || !strcmp(name, "kind") || !strcmp(name, "inside"))
			continue;
		ASSERT_TRUE(shows(line, value))
		{
			TH_LOG("%s: %s of %s is not in %s", file, name, text, line);
		}
	}
	json_object_put(object);
}

static FILE *start(const char *options, const char *file)
{
	const char *build = getenv("WH_BUILD");
	char command[512];

	snprintf(command, sizeof(command), "exec %s/wherry dump %s %s 2>/dev/null",
		 build ? build : "build", options, file);
	return popen(command, "r");
}

static void check_file(struct __test_metadata *_metadata, const char *options, const char *file,
		       bool whole, struct seen *seen)
{
	char with[64], line[4096], text[4096];
	FILE *lines, *objects;

	snprintf(with, sizeof(with), "%s --json", options);
	lines = start(options, file);
	objects = start(with, file);
	ASSERT_NE(NULL, lines);
	ASSERT_NE(NULL, objects);
	while (fgets(line, sizeof(line), lines)) {
		ASSERT_NE(NULL, fgets(text, sizeof(text), objects))
		{
			TH_LOG("%s: no object for %s", file, line);
		}
		check_message(_metadata, file, line, text, seen);
	}
	ASSERT_EQ(NULL, fgets(text, sizeof(text), objects));
	ASSERT_EQ(whole ? 0 : 1, WEXITSTATUS(pclose(objects)));
	ASSERT_EQ(whole ? 0 : 1, WEXITSTATUS(pclose(lines)));
}

/* Whole connections of a QEMU */
static void check_recorded(struct __test_metadata *_metadata, const char *pattern,
			   const char *options, struct seen *seen)
{
	glob_t found;

	ASSERT_EQ(0, glob(pattern, 0, NULL, &found));
	for (size_t i = 0; i < found.gl_pathc; i++)
		check_file(_metadata, options, found.gl_pathv[i], true, seen);
	globfree(&found);
}

/* Each vector by itself; most of them break off */
static void check_vectors(struct __test_metadata *_metadata, const char *name, const char *options,
			  struct seen *seen)
{
	char path[] = "/tmp/wherry-dump-XXXXXX";
	int fd = mkstemp(path);
	struct vector *v;
	unsigned count;

	ASSERT_LE(0, fd);
	v = vectors_load(name, &count);
	for (unsigned i = 0; i < count; i++) {
		FILE *status = NULL;
		char text[4096];
		bool whole;

		ASSERT_EQ(0, ftruncate(fd, 0));
		ASSERT_EQ((ssize_t)v[i].length, pwrite(fd, v[i].bytes, v[i].length, 0));
		status = start(options, path);
		while (fgets(text, sizeof(text), status))
			;
		whole = !pclose(status);
		check_file(_metadata, options, path, whole, seen);
	}
	free(v);
	close(fd);
	unlink(path);
}

TEST(objects_are_the_lines)
{
	static const char *const others[] = {
		"header",  "machine", "capability",   "page-bits", "uuid", "section",
		"footer",  "blocks",  "block",	      "pages",	   "EOS",  "EOF",
		"bitmap",  "range",   "device-state", "break",	   "page", "VMDESCRIPTION",
		"channel", "packet",  "START",	      "COMMIT",	   "slab", "ACK",
		"NACK",	   "ABORT",   "END",
	};
	static struct seen seen;

	check_recorded(_metadata, "selftests/vectors/qemu-*/*.stream", "", &seen);
	check_recorded(_metadata, "selftests/vectors/qemu-*/*.stream", "--pages", &seen);
	check_recorded(_metadata, "selftests/vectors/qemu-*/*.return", "--return-path", &seen);
	check_recorded(_metadata, "selftests/vectors/qemu-*/*.urgent", "--urgent", &seen);
	check_recorded(_metadata, CHANNELS "/*", "--multifd", &seen);
	check_recorded(_metadata, CHANNELS "/*", "--multifd --pages", &seen);
	check_vectors(_metadata, "stream", "", &seen);
	check_vectors(_metadata, "command", "", &seen);
	check_vectors(_metadata, "return_path", "--return-path", &seen);
	check_vectors(_metadata, "ram", "--urgent", &seen);
	check_vectors(_metadata, "mc", "--mc", &seen);
	ASSERT_LT(1000, seen.messages);
	for (unsigned i = 0; i < CMD_COUNT; i++)
		expect_seen(_metadata, &seen, cmd_name((enum cmd_kind)i));
	for (unsigned i = 0; i < RP_COUNT; i++)
		expect_seen(_metadata, &seen, rp_name((enum rp_kind)i));
	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		expect_seen(_metadata, &seen, others[i]);
}

/* A name is any bytes without control characters: what it has is JSON, and told apart. */
TEST(a_name_that_is_no_text)
{
	static const uint8_t bytes[] = "QEVM\0\0\0\3\7\0\0\0\4a\"\\\xe9";
	char path[] = "/tmp/wherry-dump-XXXXXX", text[4096];
	json_object *object, *part;
	int fd = mkstemp(path);
	FILE *objects;

	ASSERT_LE(0, fd);
	ASSERT_EQ((ssize_t)sizeof(bytes) - 1, write(fd, bytes, sizeof(bytes) - 1));
	objects = start("--json", path);
	ASSERT_NE(NULL, fgets(text, sizeof(text), objects));
	ASSERT_NE(NULL, fgets(text, sizeof(text), objects));
	object = json_tokener_parse(text);
	ASSERT_TRUE(json_object_object_get_ex(object, "name", &part));
	ASSERT_STREQ("a\"\\\xc3\xa9", json_object_get_string(part));
	json_object_put(object);
	pclose(objects);
	close(fd);
	unlink(path);
}

TEST_HARNESS_MAIN
