/* SPDX-License-Identifier: MIT */
/* One packet between a VMM and its agent. */
#include "selftests/wire/feed.h"
#include "wire/agent.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	/* just so many bytes, so that one too many is seen */
	uint8_t *copy = malloc(length ? length : 1);
	uint8_t again[AGENT_MSG_MAX];
	struct wh_err err = { 0 };
	struct agent_msg msg;
	int ret;

	memcpy(copy, bytes, length);
	ret = agent_get(copy, length, &msg, &err);
	free(copy);
	promised(ret == 0 || ret == -EPROTO, "0 or -EPROTO");
	promised(!ret == !err.text[0], "a sentence with an error");
	if (ret)
		return 0;
	promised(length <= AGENT_MSG_MAX, "fits");
	promised(agent_put(again, &msg) == length && !memcmp(again, bytes, length),
		 "put(get(b)) == b");
	promised(agent_name(msg.kind)[0] != '?', "a name");
	promised(agent_fds(msg.kind) <= AGENT_FDS, "descriptors");
	return 0;
}
