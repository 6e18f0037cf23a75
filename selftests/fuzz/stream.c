/* SPDX-License-Identifier: MIT */
/*
 * The main channel: any bytes, in any pieces. Bytes that do not begin with the magic
 * come behind a good beginning, as on the connection of a recovery.
 */
#include "selftests/wire/feed.h"

#include <errno.h>

/* Of a longer recording the beginning: more of the same pages would only cost time */
#define LENGTH_MAX 16384u

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

static const uint8_t beginning[] = "QEVM\0\0\0\3"
				   "\1\0\0\0\1\3ram\0\0\0\0\0\0\0\4"
				   "\0\0\0\0\0\x40\x30\4"
				   "\3mem\0\0\0\0\0\x40\0\0\0\0\0\0\0\x20\0\0"
				   "\3rom\0\0\0\0\0\0\x30\0"
				   "\0\0\0\0\0\0\0\x10\x7e\0\0\0\1";

static const struct pieces whole = { piece_all, NULL };
static const struct pieces units = { piece_need, NULL };

static void begin(struct stream_in *in, const uint8_t *bytes, size_t length)
{
	stream_in_init(in, false);
	if (length && bytes[0] == 'Q')
		return;
	promised(feed_stream(in, beginning, sizeof(beginning) - 1, &whole, NULL, NULL) == 0,
		 "the beginning is good");
	stream_in_resume(in);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	struct random random = { length ? length * 257 + bytes[length / 2] : 0 };
	const struct pieces pieces[] = { whole, units, { piece_random, &random } };
	static struct stream_in in;
	struct wh_err err[3] = { 0 };
	struct text text[3];
	int ret[3];
	unsigned i;

	length = length < LENGTH_MAX ? length : LENGTH_MAX;
	for (i = 0; i < 3; i++) {
		text_init(&text[i]);
		begin(&in, bytes, length);
		ret[i] = feed_stream(&in, bytes, length, &pieces[i], &text[i], &err[i]);
		promised(ret[i] == 0 || ret[i] == -EPROTO, "0 or -EPROTO");
		promised(!ret[i] == !err[i].text[0], "a sentence with an error");
		promised(in.blocks.count <= RAM_BLOCKS_MAX, "blocks");
	}
	for (i = 1; i < 3; i++) {
		promised(ret[i] == ret[0] && !strcmp(err[i].text, err[0].text),
			 "the same end, in whatever pieces");
		promised(!strcmp(text_get(&text[i]), text_get(&text[0])),
			 "the same events, in whatever pieces");
	}
	for (i = 0; i < 3; i++)
		text_fini(&text[i]);
	return 0;
}
