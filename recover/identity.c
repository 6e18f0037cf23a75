/* SPDX-License-Identifier: MIT */
#include "recover/identity.h"

#include "base/siphash.h"

uint64_t identity_proof(const struct identity *identity, enum identity_part part)
{
	const uint64_t key[2] = { identity->id.high, identity->id.low };
	const uint64_t words[] = {
		(uint64_t)part,	     identity->source.high, identity->source.low,
		identity->dest.high, identity->dest.low,
	};

	return siphash(key, words, sizeof(words) / sizeof(words[0]));
}

void identity_renew(struct identity *identity)
{
	identity->source = identity->dest = (struct identity_number){ 0 };
	__atomic_store_n(&identity->said, false, __ATOMIC_RELAXED);
	__atomic_store_n(&identity->proven, false, __ATOMIC_RELAXED);
}
