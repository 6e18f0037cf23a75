/* SPDX-License-Identifier: GPL-2.0 */
#include "netplug/talk.h"

#include "base/bytes.h"

#include <errno.h>
#include <string.h>

#include "kselftest_harness.h"

#define PACKETS 200000

static uint64_t seed = 1;

static uint32_t below(uint32_t count)
{
	seed = seed * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(seed >> 33) % count;
}

TEST(what_is_put_is_got)
{
	uint8_t bytes[TALK_ANSWER_MAX];
	struct talk_answer answer, got_answer;
	struct talk_request got;
	struct wh_err err = { 0 };
	size_t length;

	for (int action = 0; action < TALK_ACTION_COUNT; action++) {
		struct talk_request request = { (enum talk_action)action, UINT64_MAX - 1 };
		bool has_epoch = action == TALK_TURN || action == TALK_RELEASE;

		length = talk_put_request(bytes, &request);
		ASSERT_EQ(TALK_REQUEST, length);
		ASSERT_EQ(0, talk_get_request(bytes, length, &got, &err)) TH_LOG("%s", err.text);
		ASSERT_EQ(action, (int)got.action);
		ASSERT_EQ(has_epoch ? request.epoch : 0, got.epoch);
		ASSERT_STRNE("?", talk_name(got.action));
	}
	memset(&answer, 0, sizeof(answer));
	answer.kind = TALK_NEWS;
	answer.status =
		(struct wh_netplug_status){ WH_NETPLUG_HELD, WH_NETPLUG_PLUG, 9, 7, 6, 5, 4, 3, 0 };
	length = talk_put_answer(bytes, &answer);
	ASSERT_EQ(TALK_ANSWER, length);
	ASSERT_EQ(0, talk_get_answer(bytes, length, &got_answer, &err)) TH_LOG("%s", err.text);
	ASSERT_EQ(0, memcmp(&answer, &got_answer, sizeof(answer)));
	/* one that failed has a sentence, and it is one line */
	answer.err.code = -EBUSY;
	strcpy(answer.err.text, "one\nline");
	length = talk_put_answer(bytes, &answer);
	ASSERT_EQ(0, talk_get_answer(bytes, length, &got_answer, &err)) TH_LOG("%s", err.text);
	ASSERT_EQ(-EBUSY, got_answer.err.code);
	ASSERT_STREQ("one?line", got_answer.err.text);
	memset(answer.err.text, 'x', WH_ERR_TEXT - 1);
	ASSERT_EQ(TALK_ANSWER_MAX, talk_put_answer(bytes, &answer));
	ASSERT_EQ(0, talk_get_answer(bytes, TALK_ANSWER_MAX, &got_answer, &err));
	ASSERT_STREQ(answer.err.text, got_answer.err.text);
}

/* Each of these in a packet that is right but for that */
TEST(what_cannot_be_is_refused)
{
	static const struct {
		size_t at;
		uint32_t value;
	} requests[] = { { 0, 2 }, { 4, TALK_ACTION_COUNT }, { 4, UINT32_MAX }, { 12, 1 } };
	static const struct {
		size_t at;
		uint32_t value;
	} answers[] = {
		{ 0, 0 },			/* of another version */
		{ 4, TALK_KIND_COUNT },		/* of no kind */
		{ 8, 1 },			/* a result above 0 */
		{ 8, (uint32_t)-4096 },		/* and one that is no errno */
		{ 8, (uint32_t)-EIO },		/* a failure without a sentence */
		{ 12, WH_NETPLUG_STATE_COUNT }, /* in no state */
		{ 12, WH_NETPLUG_IDLE },	/* nothing is held, of epoch 2 */
		{ 16, WH_NETPLUG_HOLDER },	/* held by one who only asks another */
		{ 20, 1 },			/* what is to be zero */
		{ 28, 1 },			/* the open epoch is released */
	};
	const struct talk_answer answer = {
		.status = { .state = WH_NETPLUG_HELD, .epoch = 2, .released = 1 },
	};
	const struct talk_request request = { TALK_FENCE, 0 };
	uint8_t bytes[TALK_ANSWER_MAX + 1];
	struct talk_request got;
	struct talk_answer got_answer;
	struct wh_err err;

	for (size_t i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		talk_put_request(bytes, &request);
		put_be32(bytes + requests[i].at, requests[i].value);
		ASSERT_EQ(-EPROTO, talk_get_request(bytes, TALK_REQUEST, &got, &err))
		TH_LOG("%zu", i);
	}
	for (size_t i = 0; i < sizeof(answers) / sizeof(answers[0]); i++) {
		talk_put_answer(bytes, &answer);
		put_be32(bytes + answers[i].at, answers[i].value);
		ASSERT_EQ(-EPROTO, talk_get_answer(bytes, TALK_ANSWER, &got_answer, &err))
		TH_LOG("%zu", i);
	}
	/* a sentence of what has not failed, and one with a control character in it */
	talk_put_answer(bytes, &answer);
	bytes[TALK_ANSWER] = 'x';
	ASSERT_EQ(-EPROTO, talk_get_answer(bytes, TALK_ANSWER + 1, &got_answer, &err));
	put_be32(bytes + 8, (uint32_t)-EIO);
	ASSERT_EQ(0, talk_get_answer(bytes, TALK_ANSWER + 1, &got_answer, &err));
	bytes[TALK_ANSWER] = '\n';
	ASSERT_EQ(-EPROTO, talk_get_answer(bytes, TALK_ANSWER + 1, &got_answer, &err));
}

TEST(of_any_length)
{
	uint8_t bytes[TALK_ANSWER_MAX + 1] = { 0 };
	struct talk_answer answer = { .err = { -EIO, "" } };
	struct talk_request request = { TALK_TURN, 5 };
	size_t length = talk_put_request(bytes, &request);
	struct wh_err err;

	for (size_t n = 0; n <= length + 1; n++) {
		uint8_t *copy = malloc(n ? n : 1); /* so that one byte too many is seen */

		memcpy(copy, bytes, n);
		ASSERT_EQ(n == length ? 0 : -EPROTO, talk_get_request(copy, n, &request, &err));
		free(copy);
	}
	memset(answer.err.text, 'x', WH_ERR_TEXT - 1);
	length = talk_put_answer(bytes, &answer);
	ASSERT_EQ(TALK_ANSWER_MAX, length);
	bytes[length] = 'x';
	for (size_t n = 0; n <= length + 1; n++) {
		uint8_t *copy = malloc(n ? n : 1);

		memcpy(copy, bytes, n);
		ASSERT_EQ(n > TALK_ANSWER && n <= length ? 0 : -EPROTO,
			  talk_get_answer(copy, n, &answer, &err));
		free(copy);
	}
}

/* Any bytes: what is taken is the same bytes again, what is not has a sentence */
TEST(bytes_of_strangers)
{
	unsigned requests = 0, answers = 0;

	for (unsigned i = 0; i < PACKETS; i++) {
		size_t length = below(2) ? TALK_REQUEST : TALK_ANSWER + below(4);
		uint8_t bytes[TALK_ANSWER_MAX] = { 0 }, again[TALK_ANSWER_MAX];
		struct talk_request request;
		struct talk_answer answer;
		struct wh_err err = { 0 };
		int ret;

		bytes[3] = TALK_VERSION;
		for (unsigned j = below(6); j; j--)
			bytes[below((uint32_t)length)] = (uint8_t)below(below(2) ? 8 : 256);
		ret = talk_get_request(bytes, length, &request, &err);
		ASSERT_TRUE(ret == 0 || (ret == -EPROTO && err.text[0]));
		if (ret == 0) {
			ASSERT_EQ(length, talk_put_request(again, &request));
			ASSERT_EQ(0, memcmp(bytes, again, length));
			requests++;
		}
		err.text[0] = 0;
		ret = talk_get_answer(bytes, length, &answer, &err);
		ASSERT_TRUE(ret == 0 || (ret == -EPROTO && err.text[0]));
		if (ret == 0) {
			ASSERT_EQ(length, talk_put_answer(again, &answer));
			ASSERT_EQ(0, memcmp(bytes, again, length));
			answers++;
		}
	}
	ASSERT_LT(1000, requests);
	ASSERT_LT(1000, answers);
}

TEST_HARNESS_MAIN
