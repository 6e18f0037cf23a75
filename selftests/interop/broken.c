/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What wherry receive does when it is not given a whole migration: exit status 1 with one
 * sentence, soon, and nothing left that looks like a capture. The peer is this program on a
 * real socket, with what a real QEMU once sent.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/guest.h"
#include "selftests/lib/replay.h"

#define TEST_SECONDS 150
#define HEAD_BYTES 128u
#define TAIL_BYTES 40u
#define CUTS 40u
#define FLIPS 60u

FIXTURE(broken)
{
	struct replay replay;
};

FIXTURE_SETUP(broken)
{
	struct wh_err err = { 0 };

	DO(replay_open(&self->replay, &err));
}

FIXTURE_TEARDOWN(broken)
{
	replay_close(&self->replay);
}

static const char *const touch[] = { "--touch=2", "--timeout", "2", "--device-max", "1M", NULL };

TEST_F(broken, says_nothing)
{
	static const char *const options[] = { "--timeout", "1", NULL };
	struct wh_err err = { 0 };
	int fd;

	DO(replay_start(&self->replay, options, &err));
	fd = replay_dial(&self->replay, &err);
	ASSERT_LE(0, fd);
	DO(replay_check_refused(&self->replay, "said nothing", &err));
	EXPECT_NE(0, access(self->replay.out, F_OK));
	close(fd);
}

TEST_F(broken, goes_at_once)
{
	struct wh_err err = { 0 };
	int fd;

	DO(replay_start(&self->replay, touch, &err));
	fd = replay_dial(&self->replay, &err);
	ASSERT_LE(0, fd);
	close(fd);
	DO(replay_check_refused(&self->replay, "closed", &err));
	EXPECT_NE(0, access(self->replay.out, F_OK));
}

TEST_F(broken, garbage)
{
	uint8_t bytes[65536];
	struct wh_err err = { 0 };
	uint32_t x = 1;

	for (unsigned i = 0; i < sizeof(bytes); i++)
		bytes[i] = (uint8_t)((x = x * 1664525 + 1013904223) >> 24);
	for (unsigned header = 0; header < 2; header++) {
		int fd;

		/* Once from the first byte on, once behind a header that promises more */
		if (header)
			memcpy(bytes, "QEVM\0\0\0\3", 8);
		DO(replay_start(&self->replay, touch, &err));
		fd = replay_dial(&self->replay, &err);
		ASSERT_LE(0, fd);
		replay_say(fd, bytes, sizeof(bytes));
		DO(replay_check_refused(&self->replay, "", &err));
		EXPECT_NE(0, access(self->replay.out, F_OK));
		close(fd);
	}
}

TEST_F(broken, asks_for_too_much)
{
	/* ram: block list of one block of 2^56 bytes, end, footer, the next section */
	static const uint8_t bytes[] = "QEVM\0\0\0\3"
				       "\1\0\0\0\2\3ram\0\0\0\0\0\0\0\4"
				       "\1\0\0\0\0\0\0\4"
				       "\4huge\1\0\0\0\0\0\0\0"
				       "\0\0\0\0\0\0\0\x10\x7e\0\0\0\2"
				       "\2\0\0\0\2";
	struct wh_err err = { 0 };
	int fd;

	DO(replay_start(&self->replay, touch, &err));
	fd = replay_dial(&self->replay, &err);
	ASSERT_LE(0, fd);
	replay_say(fd, bytes, sizeof(bytes) - 1);
	DO(replay_check_refused(&self->replay, "this machine has", &err));
	close(fd);
}

struct vector {
	const char *name;
	const char *machine;
	const char *block;
	uint32_t pages; /* the guest's, from 2 MiB on */
};

static const struct vector vectors[] = {
	{ "none-precopy", "none", "ram", 0 },
	{ "q35-return-path", "pc-q35-7.2", "pc.ram", 8 },
	{ "isapc-postcopy", "isapc", "pc.ram", 12 },
	{ "isapc-preempt", "isapc", "pc.ram", 12 },
	{ "isapc-xbzrle", "isapc", "pc.ram", 8 },
	{ "isapc-hugetlb", "isapc", "huge", 4 },
};
#define VECTOR_COUNT (sizeof(vectors) / sizeof(vectors[0]))

static int check_ram(const struct vector *vector, const struct image *ram, struct wh_err *err)
{
	struct guest_range range = {
		.first = 0x200000,
		.end = 0x200000 + vector->pages * 4096,
	};

	if (vector->pages)
		return guest_check(ram->at, &range, err);
	for (uint32_t at = 0; at < ram->length; at++) {
		uint32_t page = at / 4096;
		uint8_t wanted = page >= 0x10 && page < 0x18 ? (uint8_t)(page - 0x10 + 1) : 0;

		if (ram->at[at] != wanted)
			return err_set(err, -EILSEQ, "at 0x%x is 0x%02x, not 0x%02x", at,
				       ram->at[at], wanted);
	}
	return 0;
}

TEST_F_TIMEOUT(broken, but_not_when_whole, TEST_SECONDS)
{
	struct wh_err err = { 0 };

	for (unsigned i = 0; i < VECTOR_COUNT; i++) {
		struct image ram;

		DO(replay_all(&self->replay, vectors[i].name, touch, &err));
		DO(receiver_open(&self->replay.receiver, vectors[i].block, &ram, &err));
		DO(check_ram(&vectors[i], &ram, &err));
		EXPECT_STREQ(vectors[i].machine, receiver_machine(&self->replay.receiver));
		image_close(&ram);
		receiver_end(&self->replay.receiver);
		replay_drop(self->replay.out);
	}
}

/*
 * Return: exit status of a receiver that is given these bytes by somebody who goes away
 * then, or else waits for what it has to say
 */
static int offer(struct replay *replay, const uint8_t *bytes, size_t length, bool wait,
		 struct wh_err *err)
{
	int ret = replay_start(replay, touch, err);
	int fd;

	if (ret)
		return ret;
	fd = replay_dial(replay, err);
	if (fd < 0)
		return fd;
	replay_say(fd, bytes, length);
	if (wait) {
		shutdown(fd, SHUT_WR);
		replay_hear_shut(fd);
	}
	close(fd);
	return receiver_wait(&replay->receiver, REPLAY_WAIT_MS, err);
}

static size_t cut_at(size_t length, unsigned i)
{
	if (i < HEAD_BYTES)
		return i;
	i -= HEAD_BYTES;
	if (i < TAIL_BYTES)
		return length - 1 - i;
	i -= TAIL_BYTES;
	return HEAD_BYTES + (size_t)((uint64_t)i * 0x9e3779b97f4a7c15ull % (length - HEAD_BYTES));
}

/*
 * Anywhere. Only one place is as good as the end: behind the EOF byte of a precopy
 * stream without a return path, whose description may be missing.
 */
static int cut_everywhere(struct replay *replay, const struct vector *vector, struct wh_err *err)
{
	struct image stream;
	char file[64];
	int ret;

	snprintf(file, sizeof(file), "%s.stream", vector->name);
	ret = replay_read(file, &stream, err);
	for (unsigned i = 0; i < HEAD_BYTES + TAIL_BYTES + CUTS && ret >= 0; i++) {
		size_t length = cut_at(stream.length, i);
		bool end = !vector->pages && length && !stream.at[length - 1] &&
			   stream.at[length] == 6;

		ret = offer(replay, stream.at, length, i % 2, err);
		if (ret < 0)
			break;
		if (ret == 0 && !end)
			ret = err_set(err, -EPROTO, "taken for whole");
		else if (ret == 1 && !access(replay->out, F_OK))
			ret = err_set(err, -EEXIST, "%s is there", replay->out);
		else if (ret == 1)
			ret = replay_check_sentence(replay, "", err);
		receiver_end(&replay->receiver);
		replay_drop(replay->out);
		if (ret < 0)
			err_wrap(err, "%s cut to %zu bytes", file, length);
	}
	image_close(&stream);
	return ret < 0 ? ret : 0;
}

FIXTURE(cut)
{
	struct replay replay;
};

FIXTURE_VARIANT(cut)
{
	unsigned vector;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(cut, none_precopy) { .vector = 0 };
FIXTURE_VARIANT_ADD(cut, return_path) { .vector = 1 };
FIXTURE_VARIANT_ADD(cut, postcopy) { .vector = 2 };
FIXTURE_VARIANT_ADD(cut, preempt) { .vector = 3 };
FIXTURE_VARIANT_ADD(cut, xbzrle) { .vector = 4 };
FIXTURE_VARIANT_ADD(cut, hugetlb) { .vector = 5 };
/* clang-format on */

FIXTURE_SETUP(cut)
{
	struct wh_err err = { 0 };

	(void)variant;
	DO(replay_open(&self->replay, &err));
}

FIXTURE_TEARDOWN(cut)
{
	(void)variant;
	replay_close(&self->replay);
}

TEST_F_TIMEOUT(cut, anywhere, TEST_SECONDS)
{
	struct wh_err err = { 0 };

	DO(cut_everywhere(&self->replay, &vectors[variant->vector], &err));
}

/* A bit anywhere may make another guest of it, and no more than that */
TEST_F_TIMEOUT(cut, flipped, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	struct image stream;
	uint64_t x = variant->vector + 1;
	char file[64];
	uint8_t *copy;

	snprintf(file, sizeof(file), "%s.stream", vectors[variant->vector].name);
	DO(replay_read(file, &stream, &err));
	copy = malloc(stream.length);
	ASSERT_NE(NULL, copy);
	for (unsigned i = 0; i < FLIPS; i++) {
		size_t at;
		int ret;

		x = x * 6364136223846793005ull + 1442695040888963407ull;
		at = (size_t)(x >> 20) % (i % 2 ? stream.length : 400);
		memcpy(copy, stream.at, stream.length);
		copy[at] ^= (uint8_t)(1u << (x >> 61));
		ret = offer(&self->replay, copy, stream.length, true, &err);
		ASSERT_LE(0, ret)
		{
			TH_LOG("%s with bit %u of byte %zu flipped: %s", file, (unsigned)(x >> 61),
			       at, err.text);
		}
		ASSERT_GE(1, ret);
		receiver_end(&self->replay.receiver);
		replay_drop(self->replay.out);
	}
	free(copy);
	image_close(&stream);
}

TEST_F(broken, device_state_is_too_long)
{
	static const char *const options[] = { "--device-max", "10K", NULL };
	struct wh_err err = { 0 };

	ASSERT_NE(0, replay_all(&self->replay, "q35-return-path", options, &err));
	/* The source is told, so that it goes on with its guest */
	EXPECT_STREQ("it says SHUT 1", err.text);
	DO(replay_check_refused(&self->replay, "10240", &err));
}

TEST_HARNESS_MAIN
