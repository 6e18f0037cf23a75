/* SPDX-License-Identifier: MIT */
#ifndef NETPLUG_TALK_H
#define NETPLUG_TALK_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>
#include <wherry/netplug.h>

/*
 * What is said between the process that holds a guest's output and whoever drives it: packets of a
 * socket, big-endian. Each request has one answer, in the order in which they were asked. Pure.
 *
 *	request  be32 version, be32 action, be64 epoch
 *	answer   be32 version, be32 kind, be32 result (0 or a negative errno), be32 state,
 *		 be32 edge, be32 zero, be64 epoch, released, held packets, held bytes, dropped,
 *		 sent; then a sentence: of one that failed and of no other
 */
#define TALK_VERSION 1u
#define TALK_REQUEST 16u
#define TALK_ANSWER 72u /* without the sentence */
#define TALK_ANSWER_MAX (TALK_ANSWER + WH_ERR_TEXT - 1)

enum talk_action {
	TALK_STATUS,
	TALK_ARM,
	TALK_TURN,
	TALK_RELEASE,
	TALK_FENCE,
	TALK_DISARM,
	TALK_ACTION_COUNT
};

struct talk_request {
	enum talk_action action;
	uint64_t epoch; /* of TURN and RELEASE; else 0 */
};

enum talk_kind {
	TALK_ANSWERS,
	TALK_NEWS, /* nobody has asked: something waits where nothing did */
	TALK_KIND_COUNT
};

/* @status: what waits and what has left is counted for TALK_STATUS only */
struct talk_answer {
	enum talk_kind kind;
	struct wh_netplug_status status;
	struct wh_err err; /* its code is the result */
};

/* Return: "status", "turn" and so on */
const char *talk_name(enum talk_action action);

/* Of TALK_REQUEST and TALK_ANSWER_MAX bytes. Return: bytes written */
size_t talk_put_request(uint8_t *at, const struct talk_request *request);
size_t talk_put_answer(uint8_t *at, const struct talk_answer *answer);
/* Of one packet, no matter whose. Return: 0, or -EPROTO and a sentence */
int talk_get_request(const uint8_t *at, size_t length, struct talk_request *request,
		     struct wh_err *err);
int talk_get_answer(const uint8_t *at, size_t length, struct talk_answer *answer,
		    struct wh_err *err);

#endif /* NETPLUG_TALK_H */
