/* SPDX-License-Identifier: GPL-2.0 */
#include "base/err.h"

#include <errno.h>
#include <limits.h>
#include <string.h>

#include "kselftest_harness.h"

TEST(set_says_it_and_returns_the_code)
{
	struct wh_err err;

	ASSERT_EQ(-EPROTO, err_set(&err, -EPROTO, "region %u of %u", 7u, 3u));
	ASSERT_EQ(-EPROTO, err.code);
	ASSERT_STREQ("region 7 of 3", err.text);
}

TEST(null_is_accepted)
{
	ASSERT_EQ(-EPROTO, err_set(NULL, -EPROTO, "x %d", 1));
	ASSERT_EQ(-ENOENT, err_sys(NULL, ENOENT, "x %d", 1));
	ASSERT_EQ(-ENOENT, err_sys(NULL, -ENOENT, "x %d", 1));
	ASSERT_EQ(-EIO, err_wrap(NULL, "x %d", 1));
}

TEST(sys_adds_the_reason_for_either_sign)
{
	struct wh_err err;

	ASSERT_EQ(-ENOENT, err_sys(&err, ENOENT, "open %s", "/x"));
	ASSERT_EQ(-ENOENT, err.code);
	ASSERT_STREQ("open /x: No such file or directory", err.text);
	ASSERT_EQ(-EACCES, err_sys(&err, -EACCES, "open"));
	ASSERT_STREQ("open: Permission denied", err.text);
}

TEST(sys_names_an_unknown_errno)
{
	struct wh_err err;

	ASSERT_EQ(-4095, err_sys(&err, 4095, "call"));
	ASSERT_STREQ("call: errno 4095", err.text);
}

TEST(wrap_goes_in_front_and_keeps_the_code)
{
	struct wh_err err;

	err_set(&err, -EPROTO, "bad length");
	ASSERT_EQ(-EPROTO, err_wrap(&err, "stream at %d", 12));
	ASSERT_EQ(-EPROTO, err.code);
	ASSERT_STREQ("stream at 12: bad length", err.text);
}

/* every length around the room there is */
TEST(too_long_ends_in_dots)
{
	char text[2 * WH_ERR_TEXT];
	struct wh_err err;
	size_t length;

	for (length = 0; length < sizeof(text); length++) {
		memset(text, 'a', length);
		text[length] = '\0';
		memset(&err, 0x55, sizeof(err));
		err_set(&err, -EIO, "%s", text);
		if (length < WH_ERR_TEXT) {
			ASSERT_STREQ(text, err.text);
		} else {
			ASSERT_EQ(WH_ERR_TEXT - 1, strlen(err.text));
			ASSERT_STREQ("aaa...", err.text + WH_ERR_TEXT - 7);
		}
	}
}

TEST(wrap_of_a_full_sentence_is_cut_at_its_end)
{
	char text[WH_ERR_TEXT];
	struct wh_err err;

	memset(text, 'b', sizeof(text) - 1);
	text[sizeof(text) - 1] = '\0';
	err_set(&err, -EPROTO, "%s", text);
	ASSERT_EQ(-EPROTO, err_wrap(&err, "front"));
	ASSERT_EQ(WH_ERR_TEXT - 1, strlen(err.text));
	ASSERT_EQ(0, strncmp(err.text, "front: bbb", 10));
	ASSERT_STREQ("bbb...", err.text + WH_ERR_TEXT - 7);
}

TEST(own_text_may_be_an_argument)
{
	struct wh_err err;

	err_set(&err, -EIO, "inner");
	err_set(&err, -EPROTO, "outer (%s)", err.text);
	ASSERT_STREQ("outer (inner)", err.text);
	err_wrap(&err, "%s again", err.text);
	ASSERT_STREQ("outer (inner) again: outer (inner)", err.text);
}

TEST_HARNESS_MAIN
