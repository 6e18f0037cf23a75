/* SPDX-License-Identifier: MIT */
#include "netplug/talk.h"

#include "base/bytes.h"
#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <stdbool.h>
#include <string.h>

#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))
#define ERRNO_MAX 4095

static const char *const names[] = {
	[TALK_STATUS] = "status",   [TALK_ARM] = "arm",	    [TALK_TURN] = "turn",
	[TALK_RELEASE] = "release", [TALK_FENCE] = "fence", [TALK_DISARM] = "disarm",
};
static_assert(COUNT_OF(names) == TALK_ACTION_COUNT, "a name for each");

const char *talk_name(enum talk_action action)
{
	return (unsigned)action < TALK_ACTION_COUNT ? names[action] : "?";
}

static bool has_epoch(enum talk_action action)
{
	return action == TALK_TURN || action == TALK_RELEASE;
}

size_t talk_put_request(uint8_t *at, const struct talk_request *request)
{
	put_be32(at, TALK_VERSION);
	put_be32(at + 4, request->action);
	put_be64(at + 8, has_epoch(request->action) ? request->epoch : 0);
	return TALK_REQUEST;
}

static int check_version(const uint8_t *at, size_t length, struct wh_err *err)
{
	if (length < 4)
		return err_set(err, -EPROTO, "a packet of %zu bytes", length);
	if (get_be32(at) != TALK_VERSION)
		return err_set(err, -EPROTO, "it speaks version %u, not %u", get_be32(at),
			       TALK_VERSION);
	return 0;
}

int talk_get_request(const uint8_t *at, size_t length, struct talk_request *request,
		     struct wh_err *err)
{
	int ret = check_version(at, length, err);

	if (ret < 0)
		return ret;
	if (length != TALK_REQUEST)
		return err_set(err, -EPROTO, "a request of %zu bytes", length);
	if (get_be32(at + 4) >= TALK_ACTION_COUNT)
		return err_set(err, -EPROTO, "there is no request %u", get_be32(at + 4));
	request->action = (enum talk_action)get_be32(at + 4);
	request->epoch = get_be64(at + 8);
	if (request->epoch && !has_epoch(request->action))
		return err_set(err, -EPROTO, "%s has no epoch", talk_name(request->action));
	return 0;
}

/* Its members in the order of the packet */
static void put_counts(uint8_t *at, const struct wh_netplug_status *status)
{
	const uint64_t counts[] = { status->epoch,	status->released, status->held_packets,
				    status->held_bytes, status->dropped,  status->sent };

	for (size_t i = 0; i < COUNT_OF(counts); i++)
		put_be64(at + 8 * i, counts[i]);
}

static void get_counts(const uint8_t *at, struct wh_netplug_status *status)
{
	uint64_t *const counts[] = { &status->epoch,	  &status->released, &status->held_packets,
				     &status->held_bytes, &status->dropped,  &status->sent };

	for (size_t i = 0; i < COUNT_OF(counts); i++)
		*counts[i] = get_be64(at + 8 * i);
}

/* Also of a name that somebody has given a device */
static bool is_control(uint8_t byte)
{
	return byte < 0x20 || byte == 0x7f;
}

size_t talk_put_answer(uint8_t *at, const struct talk_answer *answer)
{
	const char *text = answer->err.text;
	size_t length = 0;

	put_be32(at, TALK_VERSION);
	put_be32(at + 4, answer->kind);
	put_be32(at + 8, (uint32_t)answer->err.code);
	put_be32(at + 12, answer->status.state);
	put_be32(at + 16, answer->status.edge);
	put_be32(at + 20, 0);
	put_counts(at + 24, &answer->status);
	for (; answer->err.code && length < WH_ERR_TEXT - 1 && text[length]; length++)
		at[TALK_ANSWER + length] =
			(uint8_t)(is_control((uint8_t)text[length]) ? '?' : text[length]);
	return TALK_ANSWER + length;
}

static int get_result(const uint8_t *at, size_t length, struct wh_err *result, struct wh_err *err)
{
	int32_t code = (int32_t)get_be32(at + 8);
	size_t text = length - TALK_ANSWER;

	if (code > 0 || code < -ERRNO_MAX)
		return err_set(err, -EPROTO, "a result of %d", code);
	if ((code == 0) != (text == 0))
		return err_set(err, -EPROTO, "a result of %d and %zu bytes of text", code, text);
	for (size_t i = 0; i < text; i++)
		if (is_control(at[TALK_ANSWER + i]))
			return err_set(err, -EPROTO, "a sentence with a control character");
	result->code = code;
	memcpy(result->text, at + TALK_ANSWER, text);
	result->text[text] = 0;
	return 0;
}

/* What is held is of an open epoch, and none is let go before it is closed */
static int check_epochs(const struct wh_netplug_status *status, struct wh_err *err)
{
	bool held = status->state == WH_NETPLUG_HELD;

	if (held ? status->released >= status->epoch : status->epoch != 0)
		return err_set(err, -EPROTO, "it is %s in epoch %llu, %llu released",
			       wh_netplug_state_name(status->state),
			       (unsigned long long)status->epoch,
			       (unsigned long long)status->released);
	return 0;
}

int talk_get_answer(const uint8_t *at, size_t length, struct talk_answer *answer,
		    struct wh_err *err)
{
	int ret = check_version(at, length, err);

	if (ret < 0)
		return ret;
	if (length < TALK_ANSWER || length > TALK_ANSWER_MAX)
		return err_set(err, -EPROTO, "an answer of %zu bytes", length);
	*answer = (struct talk_answer){ 0 };
	if (get_be32(at + 4) >= TALK_KIND_COUNT || get_be32(at + 12) >= WH_NETPLUG_STATE_COUNT ||
	    get_be32(at + 16) >= WH_NETPLUG_HOLDER || get_be32(at + 20))
		return err_set(err, -EPROTO, "an answer of kind %u, state %u, edge %u, and %u",
			       get_be32(at + 4), get_be32(at + 12), get_be32(at + 16),
			       get_be32(at + 20));
	answer->kind = (enum talk_kind)get_be32(at + 4);
	answer->status.state = (enum wh_netplug_state)get_be32(at + 12);
	answer->status.edge = (enum wh_netplug_edge)get_be32(at + 16);
	get_counts(at + 24, &answer->status);
	ret = get_result(at, length, &answer->err, err);
	return ret ? ret : check_epochs(&answer->status, err);
}
