/* SPDX-License-Identifier: MIT */
#ifndef CLI_WITNESS_H
#define CLI_WITNESS_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * Somebody outside, who asks the guest of the example VMM all the time and remembers every
 * reply (examples/vmm/nic.h has the frames). A reply has the guest's count of requests and
 * a digest of their numbers, both from its memory: so the log tells whether a later reply
 * comes from a guest that remembers having given the earlier ones.
 */

struct witness_reply {
	uint64_t at_ns;
	uint32_t number; /* of the request */
	uint32_t count;
	uint32_t digest;
	uint32_t earlier;    /* the number of another request, of a reply that was there then */
	uint32_t remembered; /* and what the guest says that its digest was */
};

struct witness {
	int fd;
	uint8_t mac[6];
	uint64_t every_ns;
	uint64_t due_ns;
	uint32_t asked; /* numbers 1 to this were sent */
	struct witness_reply *reply;
	size_t replies, room;
	size_t lost; /* no memory for the log: a verdict is impossible */
};

/**
 * struct witness_verdict - What the log says
 * @before:	Replies that were there at the time in question
 * @after:	Those that came later
 * @missing:	Replies that the guest does not remember having given, as a later reply shows
 * @silent_ns:	Longest time without a reply from then on, until the last one
 */
struct witness_verdict {
	size_t before;
	size_t after;
	size_t missing;
	uint64_t silent_ns;
};

/* On the interface of that name. Return: 0, or a negative errno and a sentence */
int witness_open(struct witness *witness, const char *interface, uint64_t every_ns,
		 struct wh_err *err);
void witness_close(struct witness *witness);
/**
 * witness_turn() - Note what has come, ask if it is time
 *
 * At any time, and when the descriptor is readable.
 *
 * Return: when to call it next, at the latest
 */
uint64_t witness_turn(struct witness *witness, uint64_t now_ns);

/* witness_judge.c: pure. @at_ns: of the kill, say */
struct witness_verdict witness_judge(const struct witness_reply *reply, size_t replies,
				     uint64_t at_ns);

#endif /* CLI_WITNESS_H */
