/* SPDX-License-Identifier: MIT */
/* One packet between a process that holds a guest's output and who drives it, either way. */
#include "netplug/talk.h"
#include "selftests/wire/feed.h"

#include <errno.h>

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	/* just so many bytes, so that one too many is seen */
	uint8_t *copy = malloc(length ? length : 1);
	struct wh_err err[2] = { { 0 }, { 0 } };
	uint8_t again[TALK_ANSWER_MAX];
	struct talk_request request;
	struct talk_answer answer;
	int ret[2];

	memcpy(copy, bytes, length);
	ret[0] = talk_get_request(copy, length, &request, &err[0]);
	ret[1] = talk_get_answer(copy, length, &answer, &err[1]);
	free(copy);
	for (unsigned i = 0; i < 2; i++) {
		promised(ret[i] == 0 || ret[i] == -EPROTO, "0 or -EPROTO");
		promised(!ret[i] == !err[i].text[0], "a sentence with an error");
	}
	if (ret[0] == 0)
		promised(talk_put_request(again, &request) == length &&
				 !memcmp(again, bytes, length),
			 "put(get(b)) == b, of a request");
	if (ret[1] == 0)
		promised(talk_put_answer(again, &answer) == length && !memcmp(again, bytes, length),
			 "put(get(b)) == b, of an answer");
	return 0;
}
