/* SPDX-License-Identifier: MIT */
#ifndef BASE_CLAIM_H
#define BASE_CLAIM_H

#include "base/region.h"

#include <stdbool.h>
#include <wherry/err.h>

/*
 * Who works on which memory of this process. A guest that is migrated is not to be protected
 * at the same time, nor the other way round: each of them would believe that nobody else decides
 * where it runs. The two do not know each other; what they have in common is the memory. So
 * this is the one list of its kind, as the address space is.
 *
 * Migrations do not exclude each other here: two ends may be in one process, and so may be a second
 * attempt behind a first that is not freed yet.
 */

enum claim_kind {
	CLAIM_MIGRATION,
	CLAIM_PROTECTION,
};

/* The caller's storage, zeroed before first use; where it is it stays until claim_drop(). */
struct claim {
	enum claim_kind kind;
	const struct region *regions;
	/* private: */
	unsigned count;
	struct claim *next;
	bool listed;
};

/**
 * claim_add() - The next of @claim->regions, too
 *
 * Any thread, for each claim one at a time.
 *
 * Return: 0; or -EBUSY with a sentence that says what there is, and nothing has changed
 */
int claim_add(struct claim *claim, struct wh_err *err);

/* None of them any more. Any thread; also what has no region, and again */
void claim_drop(struct claim *claim);

#endif /* BASE_CLAIM_H */
