/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/device.h"

#include "base/bytes.h"
#include "selftests/wire/random.h"
#include "selftests/wire/vector.h"
#include "wire/stream.h"

#include <errno.h>
#include <time.h>

#include "kselftest_harness.h"

FIXTURE(device)
{
	struct random random;
	struct wh_err err;
	uint8_t bytes[1 << 17];
	size_t length;
	size_t state;
	size_t json;
	size_t json_length;
};

FIXTURE_SETUP(device)
{
	memset(self, 0, sizeof(*self));
}

FIXTURE_TEARDOWN(device)
{
}

static void add(FIXTURE_DATA(device) *self, const void *bytes, size_t length)
{
	memcpy(self->bytes + self->length, bytes, length);
	self->length += length;
}

#define ADD(literal) add(self, literal, sizeof(literal) - 1)

static void add_vmdesc(FIXTURE_DATA(device) *self, const char *json)
{
	ADD("\0\6\0\0");
	put_be16(self->bytes + self->length, (uint16_t)strlen(json));
	self->length += 2;
	add(self, json, strlen(json));
}

static const char section[] = "\4\0\0\0\1\1d\0\0\0\0\0\0\0\1some state\x7e\0\0\0\1";

/* The end of all bytes, exactly allocated */
static int end(FIXTURE_DATA(device) *self, size_t length)
{
	uint8_t *copy = malloc(length ? length : 1);
	int ret;

	memcpy(copy, self->bytes, length);
	ret = device_end(copy, length, &self->state, &self->json, &self->json_length, &self->err);
	free(copy);
	return ret;
}

/* The end is found at the last byte and no earlier, in one piece and in many */
static void found_at_the_end(struct __test_metadata *_metadata, FIXTURE_DATA(device) *self,
			     size_t json_length)
{
	struct device_scan scan = { 0 };
	size_t n, state, json, length;
	int ret = 0;

	for (n = 0; n < self->length; n++)
		ASSERT_EQ(0, end(self, n));
	ASSERT_EQ(1, end(self, self->length));
	ASSERT_EQ(self->length - json_length, self->json);
	ASSERT_EQ(self->json - 6, self->state);
	ASSERT_EQ(json_length, self->json_length);
	for (n = 0; n <= self->length && !ret; n += 1 + random_below(&self->random, 3))
		ret = device_scan(&scan, self->bytes, n, &state, &json, &length, &self->err);
	if (!ret)
		ret = device_scan(&scan, self->bytes, self->length, &state, &json, &length,
				  &self->err);
	ASSERT_EQ(1, ret);
	ASSERT_EQ(self->state, state);
	ASSERT_EQ(self->json, json);
	ASSERT_EQ(self->json_length, length);
}

TEST_F(device, ends_with_its_description)
{
	static const char *const descriptions[] = {
		"{}",
		"{\"page_size\": 4096, \"devices\": [{\"name\": \"timer\", \"fields\": [1, 2]}]}",
		"{\"configuration\":{\"a\":[[],{}]}}",
		"{\"a\":\"}{][\\\"}\\\\\"}",
		"{\"\":\"\\\\\\\"\"}",
		"{ \t\r\n}",
	};
	unsigned i;

	for (i = 0; i < 6; i++) {
		self->length = 0;
		add(self, section, sizeof(section) - 1);
		add(self, section, sizeof(section) - 1);
		add_vmdesc(self, descriptions[i]);
		found_at_the_end(_metadata, self, strlen(descriptions[i]));
		/* no section at all */
		self->length = 0;
		add_vmdesc(self, descriptions[i]);
		found_at_the_end(_metadata, self, strlen(descriptions[i]));
		ASSERT_EQ(0, self->state);
	}
}

/* Device state may look like its own end: what follows is no description then */
TEST_F(device, is_not_deceived)
{
	static const struct {
		const char *bytes;
		size_t length;
	} lures[] = {
#define LURE(bytes) { bytes, sizeof(bytes) - 1 }
		LURE("\x7e\0\0\0\1\0\7\0\0\0\2{}"), /* another section type */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\3{}"), /* shorter than said */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\1{}"), /* longer than said */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\3{}}"),
		LURE("\x7e\0\0\0\1\0\6\0\0\0\2{]"), /* not balanced */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\4{[}]"),
		LURE("\x7e\0\0\0\1\0\6\xff\xff\xff\xff{\"a"), /* never ends */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\5{\"a\1b\""),    /* no text */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\5{\x80\x81}"),
		LURE("\x7e\0\0\0\1\0\6\0\0\0\2[]"),	  /* no object */
		LURE("xxxxx\0\6\0\0\0\2{}"),		  /* no footer in front */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\5{\"\\\"}"), /* a string that never ends */
		LURE("\x7e\0\0\0\1\0\6\0\0\0\xff{\x7e\0\0\0\1\0\6\0\0\0\xff{"),
		LURE("\x7e\0\0\0\1\0\6\0\0\0\1{"),
		LURE("\x7e\0\0\0\1\0\6\0\0\0\0{"),
#undef LURE
	};
	unsigned i;

	for (i = 0; i < sizeof(lures) / sizeof(lures[0]); i++) {
		self->length = 0;
		ADD("\4\0\0\0\1\1d\0\0\0\0\0\0\0\1");
		add(self, lures[i].bytes, lures[i].length);
		ADD("\x7e\0\0\0\1");
		add_vmdesc(self, "{\"devices\":[]}");
		found_at_the_end(_metadata, self, 14);
	}
}

TEST_F(device, nests_so_deep_and_no_deeper)
{
	unsigned depth, i, object;

	for (object = 0; object < 2; object++)
		for (depth = 63; depth <= 66; depth++) {
			char json[200] = "{";
			size_t n = 1;

			for (i = 1; i < depth; i++)
				json[n++] = object ? '{' : '[';
			for (i = 1; i < depth; i++)
				json[n++] = object ? '}' : ']';
			strcpy(json + n, "}");
			self->length = 0;
			add(self, section, sizeof(section) - 1);
			add_vmdesc(self, json);
			ASSERT_EQ(depth <= 64, end(self, self->length));
		}
}

TEST_F(device, what_cannot_be_is_refused)
{
	static const struct {
		const char *bytes;
		size_t length;
		const char *expect;
	} bad[] = {
#define BAD(bytes, expect) { bytes, sizeof(bytes) - 1, expect }
		BAD("\1", "begins with byte 0x01, expected FULL"),
		BAD("\x7e", "begins with byte 0x7e"),
		BAD("\0\7", "byte 0x07 behind EOF"),
		BAD("\0\6\0\0\0\2[", "description begins with byte 0x5b"),
		BAD("\0\6\0\0\0\3{}x", "description of 3 bytes is no JSON object"),
		BAD("\0\6\0\0\0\1{}", "description of 1 bytes is no JSON object, at 1 of it"),
		BAD("\0\6\0\0\0\0{}", "description of 0 bytes is no JSON object"),
		BAD("\0\6\xff\xff\xff\xff{}", "description of 4294967295 bytes is no JSON object"),
		BAD("\0\6\0\0\0\4{\xff\xff}", "no JSON object, at 1 of it"),
#undef BAD
	};
	unsigned i;

	for (i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		self->length = 0;
		add(self, bad[i].bytes, bad[i].length);
		ASSERT_EQ(-EPROTO, end(self, self->length));
		EXPECT_NE(NULL, strstr(self->err.text, bad[i].expect))
		{
			TH_LOG("%s", self->err.text);
		}
	}
}

/*
 * 8 MiB of state made to be looked at again and again, in pieces of 4 KiB: quadratic
 * work would be 8 GiB of bytes, minutes of them.
 */
TEST_F(device, time_is_that_of_the_bytes)
{
	static const char lure[] =
		"\x7e\0\0\0\1\0\6\xff\xff\xff\xff{\"aaaaaaaaaaaaaaaaaaaaaaaaaaaaa";
	const size_t size = 8 << 20;
	uint8_t *bytes = malloc(size);
	struct device_scan scan = { 0 };
	struct timespec before, after;
	size_t n;

	ASSERT_NE(NULL, bytes);
	for (n = 0; n < size / 2; n++)
		bytes[n] = (uint8_t)lure[n % sizeof(lure)];
	memset(bytes + n, '[', 1);
	memset(bytes + n + 1, ' ', size - n - 1);
	bytes[0] = SECTION_FULL;
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &before);
	for (n = 0; n <= size; n += 4096)
		ASSERT_EQ(0, device_scan(&scan, bytes, n, &self->state, &self->json,
					 &self->json_length, &self->err));
	clock_gettime(CLOCK_PROCESS_CPUTIME_ID, &after);
	ASSERT_LT(after.tv_sec - before.tv_sec, 10);
	free(bytes);
}

TEST_F(device, random_bytes_do_no_harm)
{
	static const uint8_t alphabet[] = {
		0, 6, 0, 0, 2, '{', '}', '[', ']', '"', '\\', 0x7e, 4, 1
	};
	unsigned round, i, found = 0;
	int ret;

	for (round = 0; round < 100000; round++) {
		/* a good one, and up to three bytes of it are others */
		self->length = 0;
		if (round & 1)
			add(self, section, sizeof(section) - 1);
		add_vmdesc(self, "{\"a\":[]}");
		for (i = 0; i < round % 4; i++)
			self->bytes[random_below(&self->random, self->length)] =
				alphabet[random_below(&self->random, sizeof(alphabet))];
		ret = end(self, self->length);
		ASSERT_TRUE(ret == 0 || ret == 1 || ret == -EPROTO);
		if (ret != 1)
			continue;
		found++;
		ASSERT_LE(self->json + self->json_length, self->length);
		ASSERT_EQ(self->state + 6, self->json);
		ASSERT_EQ(0, self->bytes[self->state]);
		ASSERT_EQ('{', self->bytes[self->json]);
		ASSERT_EQ('}', self->bytes[self->json + self->json_length - 1]);
	}
	ASSERT_GT(found, 25000);
	ASSERT_LT(found, 75000);
}

TEST_F(device, packages)
{
	unsigned count, i;
	struct vector *v = vectors_load("package", &count);
	struct package package;

	ASSERT_EQ(14, count);
	for (i = 0; i < count; i++) {
		uint8_t *copy = malloc(v[i].length + 1);
		bool bad = !strncmp(v[i].name, "bad-", 4);
		bool empty = !strcmp(v[i].name, "empty-7.2");

		memcpy(copy, v[i].bytes, v[i].length);
		memset(&package, 0x55, sizeof(package));
		ASSERT_EQ(bad ? -EPROTO : 0, package_get(copy, v[i].length, &package, &self->err))
		{
			TH_LOG("%s: %s", v[i].name, self->err.text);
		}
		free(copy);
		if (bad)
			continue;
		ASSERT_EQ(5, package.state);
		ASSERT_EQ(empty ? 0 : strstr(v[i].name, "like") ? 33 : 32, package.state_length);
		if (!strncmp(v[i].name, "section-10.2", 12)) {
			ASSERT_EQ(2, package.pings);
			ASSERT_EQ(3, package.ping[0]);
			ASSERT_EQ(0x42, package.ping[1]);
		} else if (strstr(v[i].name, "7.2")) {
			ASSERT_EQ(1, package.pings);
			ASSERT_EQ(3, package.ping[0]);
		} else {
			ASSERT_EQ(0, package.pings);
		}
	}
	free(v);
}

TEST_F(device, a_package_of_as_many_pings_as_there_may_be)
{
	struct package package;
	uint32_t i;

	ADD("\10\0\4\0\0");
	for (i = 0; i < PACKAGE_PINGS_MAX; i++) {
		ADD("\10\0\2\0\4\0\0\0");
		self->bytes[self->length++] = (uint8_t)i;
	}
	ADD("\10\0\5\0\0");
	ASSERT_EQ(0, package_get(self->bytes, self->length, &package, &self->err));
	ASSERT_EQ(PACKAGE_PINGS_MAX, package.pings);
	for (i = 0; i < PACKAGE_PINGS_MAX; i++)
		ASSERT_EQ(i, package.ping[i]);
}

TEST_F(device, no_prefix_of_a_package_is_one)
{
	unsigned count;
	struct vector *v = vectors_load("package", &count);
	struct package package;
	size_t n;

	for (n = 0; n < v[2].length; n++)
		ASSERT_EQ(-EPROTO, package_get(v[2].bytes, n, &package, &self->err));
	free(v);
}

/* Our own section, of so many bytes */
static void add_own(FIXTURE_DATA(device) *self, uint32_t length)
{
	self->length = device_put_own_head(self->bytes, 9, length);
	memset(self->bytes + self->length, 0xab, length);
	self->length += length;
	self->length += device_put_own_tail(self->bytes + self->length, 9);
}

static int own(FIXTURE_DATA(device) *self, size_t length, size_t *at, size_t *own_length)
{
	uint8_t *copy = malloc(length ? length : 1);
	int ret;

	memcpy(copy, self->bytes, length);
	ret = device_own(copy, length, at, own_length, &self->err);
	free(copy);
	return ret;
}

TEST_F(device, our_own_comes_back)
{
	static const uint32_t lengths[] = { 0, 1, 5, 4096, 100000 };
	size_t at, length, n;
	unsigned i;

	for (i = 0; i < 5; i++) {
		add_own(self, lengths[i]);
		ASSERT_LE(self->length, lengths[i] + 2 * DEVICE_OWN_FRAME);
		ASSERT_EQ(1, own(self, self->length, &at, &length));
		ASSERT_EQ(lengths[i], length);
		ASSERT_EQ(self->length - 5 - lengths[i], at);
		if (lengths[i])
			ASSERT_EQ(0xab, self->bytes[at]);
	}
	add_own(self, 20);
	for (n = 0; n < self->length; n++)
		ASSERT_EQ(n < 16 ? 0 : -EPROTO, own(self, n, &at, &length));
	ADD("x");
	ASSERT_EQ(-EPROTO, own(self, self->length, &at, &length));
}

TEST_F(device, our_own_is_checked)
{
	size_t at, length, n;
	int ret;

	add_own(self, 3);
	for (n = 0; n < self->length; n++) {
		bool state = n >= 28 && n < 31;
		bool other = n == 0 || (n >= 5 && n < 16); /* another section */
		bool id = (n >= 1 && n < 5) || n >= 32;

		self->bytes[n] ^= 0x80;
		ret = own(self, self->length, &at, &length);
		ASSERT_EQ(state ? 1 : other ? 0 : -EPROTO, ret);
		ASSERT_TRUE(!id || strstr(self->err.text, "footer"));
		self->bytes[n] ^= 0x80;
	}
}

/* What we send behind our own section is what a destination looks for. */
TEST_F(device, our_own_has_its_description)
{
	static const uint32_t lengths[] = { 0, 9, 10, 65536 };
	char expect[64];
	uint8_t json[256];
	size_t n;
	unsigned i;

	for (i = 0; i < 4; i++) {
		add_own(self, lengths[i]);
		n = device_put_own_vmdesc(json, lengths[i]);
		ASSERT_LE(n, sizeof(json));
		self->length += stream_put_eof(self->bytes + self->length);
		self->length += stream_put_vmdesc(self->bytes + self->length, (uint32_t)n);
		add(self, json, n);
		ASSERT_EQ(0, end(self, self->length - 1));
		ASSERT_EQ(1, end(self, self->length));
		ASSERT_EQ(n, self->json_length);
		snprintf(expect, sizeof(expect), "\"size\":%u}]}]}", lengths[i]);
		ASSERT_EQ(0, memcmp(expect, json + n - strlen(expect), strlen(expect)));
	}
	ASSERT_LE(device_put_own_vmdesc(json, UINT32_MAX), sizeof(json));
}

TEST_HARNESS_MAIN
