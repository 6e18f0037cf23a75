/* SPDX-License-Identifier: MIT */
#include "base/claim.h"

#include "base/err.h"

#include <errno.h>
#include <pthread.h>

static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER; /* of the list, and each one's count */
static struct claim *list;

static bool overlap(const struct region *a, const struct region *b)
{
	return a->addr < b->addr + b->length && b->addr < a->addr + a->length;
}

/* Somebody who has this, and would not share it */
static const struct claim *find(const struct claim *claim, const struct region *region)
{
	for (const struct claim *other = list; other; other = other->next) {
		if (other == claim ||
		    (claim->kind == CLAIM_MIGRATION && other->kind == CLAIM_MIGRATION))
			continue;
		for (unsigned i = 0; i < other->count; i++)
			if (overlap(region, &other->regions[i]))
				return other;
	}
	return NULL;
}

int claim_add(struct claim *claim, struct wh_err *err)
{
	const struct region *region = &claim->regions[claim->count];
	const struct claim *other;
	int ret = 0;

	pthread_mutex_lock(&lock);
	other = find(claim, region);
	if (other) {
		ret = err_set(err, -EBUSY, "block '%.100s': its guest is being %s", region->name,
			      other->kind == CLAIM_MIGRATION ? "migrated" : "protected");
	} else {
		claim->count++;
		if (!claim->listed) {
			claim->next = list;
			list = claim;
			claim->listed = true;
		}
	}
	pthread_mutex_unlock(&lock);
	return ret;
}

void claim_drop(struct claim *claim)
{
	pthread_mutex_lock(&lock);
	for (struct claim **at = &list; *at; at = &(*at)->next) {
		if (*at == claim) {
			*at = claim->next;
			break;
		}
	}
	claim->listed = false;
	claim->count = 0;
	pthread_mutex_unlock(&lock);
}
