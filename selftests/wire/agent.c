/* SPDX-License-Identifier: GPL-2.0 */
#include "wire/agent.h"

#include "base/bytes.h"

#include <errno.h>
#include <stdio.h>
#include <string.h>

#include "kselftest_harness.h"

/* A message of each kind with something else in each field, by its length in bytes */
static size_t some_message(enum agent_kind kind, uint8_t *buf)
{
	struct agent_msg msg;
	uint8_t *bytes = (uint8_t *)&msg;

	for (size_t i = 0; i < sizeof(msg); i++)
		bytes[i] = (uint8_t)('a' + i % 26);
	msg.kind = kind;
	agent_text(kind == AGENT_BLOCK	 ? &msg.block.name :
		   kind == AGENT_LISTEN	 ? &msg.listen.uri :
		   kind == AGENT_RECOVER ? &msg.recover.uri :
		   kind == AGENT_LISTENS ? &msg.listens.text :
		   kind == AGENT_PHASE	 ? &msg.phase.text :
					   &msg.log.text,
		   "some words");
	return agent_put(buf, &msg);
}

TEST(every_kind_and_every_length)
{
	uint8_t buf[AGENT_MSG_MAX], again[AGENT_MSG_MAX];
	struct wh_err err = { 0 };
	struct agent_msg msg;

	for (enum agent_kind kind = 1; kind < AGENT_COUNT; kind++) {
		size_t length = some_message(kind, buf);

		ASSERT_EQ(0, agent_get(buf, length, &msg, &err))
		TH_LOG("%s: %s", agent_name(kind), err.text);
		EXPECT_EQ(kind, msg.kind);
		EXPECT_EQ(length, agent_put(again, &msg));
		EXPECT_EQ(0, memcmp(buf, again, length)) TH_LOG("%s", agent_name(kind));
		EXPECT_NE('?', agent_name(kind)[0]);
		EXPECT_GE(AGENT_FDS, agent_fds(kind));
		for (size_t cut = 0; cut < length; cut++) {
			/* broken off; and one that says so itself */
			memcpy(again, buf, length);
			EXPECT_EQ(-EPROTO, agent_get(again, cut, &msg, &err));
			if (cut < AGENT_HEADER)
				continue;
			put_be16(again + 2, (uint16_t)(cut - AGENT_HEADER));
			EXPECT_EQ(-EPROTO, agent_get(again, cut, &msg, &err));
			EXPECT_NE(NULL, strstr(err.text, agent_name(kind)));
		}
		memcpy(again, buf, length);
		again[length] = 0;
		put_be16(again + 2, (uint16_t)(length + 1 - AGENT_HEADER));
		EXPECT_EQ(-EPROTO, agent_get(again, length + 1, &msg, &err));
	}
}

TEST(unknown_kinds)
{
	static const unsigned kinds[] = { 0, AGENT_COUNT, 0xffff };
	uint8_t buf[AGENT_HEADER] = { 0 };
	struct wh_err err = { 0 };
	struct agent_msg msg;

	for (unsigned i = 0; i < 3; i++) {
		put_be16(buf, (uint16_t)kinds[i]);
		EXPECT_EQ(-EPROTO, agent_get(buf, sizeof(buf), &msg, &err));
		EXPECT_NE(NULL, strstr(err.text, "unknown kind"));
	}
}

/* What is said is fit to be a name, whatever it is */
TEST(any_text)
{
	static const char *const says[][2] = {
		{ "", "-" },
		{ "a\tb\n", "a?b?" },
		{ "fine", "fine" },
	};
	struct agent_msg msg = { .kind = AGENT_LOG };
	char large[1000];
	uint8_t buf[AGENT_MSG_MAX];

	for (unsigned i = 0; i < 3; i++) {
		agent_text(&msg.log.text, says[i][0]);
		EXPECT_STREQ(says[i][1], msg.log.text.text);
	}
	memset(large, 'x', sizeof(large) - 1);
	large[sizeof(large) - 1] = '\0';
	agent_text(&msg.log.text, large);
	EXPECT_EQ(255, msg.log.text.length);
	EXPECT_EQ(0, agent_get(buf, agent_put(buf, &msg), &msg, NULL));
}

TEST_HARNESS_MAIN
