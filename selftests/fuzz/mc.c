/* SPDX-License-Identifier: MIT */
/* Micro-checkpoints of a QEMU of 2014: messages, slabs, and what they are in. */
#include "selftests/wire/feed.h"
#include "wire/mc.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* It is put as it was taken */
static void put_again(const struct mc_event *event, const uint8_t *bytes, size_t used)
{
	uint8_t again[MC_MSG_MAX];
	size_t put = event->kind == MC_GOT_SLAB ? mc_put_slab(again, event->length) :
						  mc_put(again, &event->msg);

	promised(put == used && !memcmp(again, bytes, used), "put(get(b)) == b");
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	uint64_t total = 0, slab = 0;
	struct mc_in in = { 0 };
	size_t at = 0, used;

	for (;;) {
		struct wh_err err = { 0 };
		struct mc_event event;
		uint64_t size = in.start.size;
		/* in pieces of as many bytes as there are */
		uint8_t *copy = malloc(length - at + 1);
		int ret;

		memcpy(copy, bytes + at, length - at);
		ret = mc_in_next(&in, copy, length - at, &used, &event, &err);
		promised(ret == 1 || ret == 0 || ret == -EPROTO, "1, 0 or -EPROTO");
		promised((ret < 0) == (err.text[0] != 0), "a sentence with an error");
		promised(used <= length - at && (ret == 1) == (used != 0), "used");
		if (ret == 1 && event.kind == MC_GOT_CONTENTS) {
			promised(event.data == copy && event.data_length == used, "contents");
			total += used;
			slab -= used;
		} else if (ret == 1) {
			promised(!slab, "all of a slab");
			put_again(&event, copy, used);
			slab = event.kind == MC_GOT_SLAB ? event.length : 0;
			promised(slab <= MC_SLAB_BYTES, "a slab");
		}
		free(copy);
		if (ret != 1)
			return 0;
		if (size && mc_in_may_end(&in)) {
			promised(total == size && !slab, "what START said");
			total = 0;
		}
		at += used;
	}
}
