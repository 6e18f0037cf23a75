/* SPDX-License-Identifier: MIT */
/* Messages of the return path, one behind the other. */
#include "selftests/wire/feed.h"
#include "wire/return_path.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

/* A copy of just so many bytes, so that one too many is seen */
static int get(const uint8_t *bytes, size_t length, size_t *used, struct rp_msg *msg,
	       struct wh_err *err)
{
	uint8_t *copy = malloc(length ? length : 1);
	int ret;

	memcpy(copy, bytes, length);
	ret = rp_get(copy, length, used, msg, err);
	free(copy);
	return ret;
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	uint8_t again[RP_MSG_MAX];
	struct wh_err err = { 0 };
	struct rp_msg msg, shorter;
	size_t used, none;
	int ret;

	while ((ret = get(bytes, length, &used, &msg, &err)) == 1) {
		promised(used >= RP_HEADER && used <= length && used <= RP_MSG_MAX, "used");
		promised(rp_put(again, &msg) == used && !memcmp(again, bytes, used),
			 "put(get(b)) == b");
		promised(get(bytes, used - 1, &none, &shorter, &err) == 0, "a prefix wants more");
		promised(rp_name(msg.kind)[0] != '?', "a name");
		bytes += used;
		length -= used;
	}
	promised(ret == 0 || ret == -EPROTO, "0 or -EPROTO");
	promised(!ret == !err.text[0], "a sentence with an error");
	promised(ret || length < RP_MSG_MAX, "wants no more than a message");
	return 0;
}
