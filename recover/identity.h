/* SPDX-License-Identifier: MIT */
#ifndef RECOVER_IDENTITY_H
#define RECOVER_IDENTITY_H

#include <stdbool.h>
#include <stdint.h>

/*
 * Who resumes a migration has to be who began it: the other one of two that share its id.
 *
 * The id is random, and is told once, at the switch to postcopy. A connection that resumes
 * never says it: each end says a number that it has just drawn, and proves that it knows
 * the id by a hash of both numbers, which is worth nothing on any other connection. The
 * destination proves it first, so nobody learns from it what pages are there, and the
 * source before its first question is answered. Each channel has proofs of its own.
 *
 * It is no encryption: who can read and change what is on the wire needs none of this.
 */
struct identity_number {
	uint64_t high;
	uint64_t low;
};

struct identity {
	struct identity_number id;
	/* of this connection */
	struct identity_number source;
	struct identity_number dest;
	bool known;  /* both ends have the id */
	bool said;   /* atomic: our number, on this connection */
	bool proven; /* atomic: by the other end, on this connection */
};

/* What the proof is for; of the urgent channel it is the source's */
enum identity_part {
	IDENTITY_DEST = 1,
	IDENTITY_SOURCE,
	IDENTITY_URGENT,
};

uint64_t identity_proof(const struct identity *identity, enum identity_part part);
/* A new connection: nothing is said yet */
void identity_renew(struct identity *identity);

#endif /* RECOVER_IDENTITY_H */
