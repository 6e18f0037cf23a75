/* SPDX-License-Identifier: MIT */
/*
 * Edge: pages of a file allocated before their contents come.
 *
 * To allocate a page costs several times what copying into it does. Where a block has a
 * second mapping another thread can have that done ahead of the stream (the helper). The
 * threads that place find the page in the file, put its contents there, and CONTINUE. They
 * go on placing meanwhile, also where the helper is just then. Each page is placed by one
 * thread only, the placer (the caller's bitmap of arrived pages), and its state
 * (state.h) says who may do what:
 *
 *	ABSENT -> AHEAD		the helper, before it populates, and only if the caller's
 *				bitmap has it not as received
 *	AHEAD -> HIDDEN		the helper, when the page is in the file
 *	any -> TAKEN		the placer, when the page is placed
 *
 * Before it is armed ABSENT and HIDDEN are set by placer_hide() and placer_discard().
 *
 * Why a placed page is never taken for one that may be written over: it is TAKEN before it
 * is received, and nothing leads on from TAKEN. The helper looks at the received bit first
 * and claims the page afterwards, in one step that fails if it is not ABSENT any more. So a
 * page that was received since is TAKEN, and one that was received before arming has had its
 * bit all the time. The helper may claim a page, and call it HIDDEN, that COPY has placed in
 * this moment; nobody but its placer asks before it is received, and by then it is TAKEN.
 *
 * Why no page is lost: the helper claims a page before it populates. So if it was the reason
 * for the placer's EEXIST, the placer finds the page AHEAD or HIDDEN; then it holds nothing
 * but zeros, nobody has it mapped, and its contents go over it. EEXIST of a page that is
 * ABSENT or TAKEN means what it always does. Hence nothing but what was claimed may come into
 * the file by populating: no larger folio may reach over another page. The second mapping is
 * MADV_NOHUGEPAGE, or, where huge pages are wanted, only whole ones are populated of which
 * every page is AHEAD or HIDDEN.
 *
 * Populating fails where there is no memory, no space in the file system, or no huge page
 * left. The pages stay AHEAD, which is no promise: COPY does it, and says what it has to
 * say. Nobody writes to the second mapping of a page that is not known to be in the file,
 * since that would end in SIGBUS.
 *
 * None of it takes memory that would not be taken: zero pages of a shared file are allocated
 * as well when they are placed.
 */
#include "uffd/abi.h"
#include "uffd/placer.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <inttypes.h>

/* Of [first, end) those that have not been received */
static void claim(struct placer *placer, const uint64_t *received, uint64_t first, uint64_t end)
{
	uint64_t each = placer->region->page_size / TARGET_PAGE;
	uint64_t at = first * each, last = end * each;

	while ((at = bits_next_clear(received, at, last)) < last) {
		uint64_t stop = bits_next_set(received, at, last);

		/* Of a host page no part may have been received */
		state_move(placer->state, (at + each - 1) / each, stop / each, PAGE_ABSENT,
			   PAGE_AHEAD);
		at = stop;
	}
}

int placer_populate_one(const struct placer *placer, uint64_t offset, struct wh_err *err)
{
	uint64_t page = placer->region->page_size;

	return mapping_populate(placer->region, placer->alias, offset / page * page, page, err);
}

static bool goes_over_file(enum page_state state)
{
	return state == PAGE_AHEAD || state == PAGE_HIDDEN;
}

/* Pages from @first on that all are (or all are not) to come over the file's */
static uint64_t run_end(const struct placer *placer, uint64_t first, uint64_t end, bool over)
{
	while (first < end && goes_over_file(state_get(placer->state, first)) == over)
		first++;
	return first;
}

/* One stage's worth of the block */
static int ahead_stage(struct placer *placer, const uint64_t *received, uint64_t first,
		       uint64_t end, struct wh_err *err)
{
	uint64_t page = placer->region->page_size;
	uint64_t each = STAGE_BYTES / page;
	uint64_t at = first, stop;
	int ret;

	claim(placer, received, first, end);
	/* A huge page may reach over all of it: see above */
	if (placer->huge_ahead && (end - first != each || run_end(placer, first, end, true) < end))
		return 0;
	for (; at < end; at = stop) {
		stop = run_end(placer, at, end, true);
		if (stop > at) {
			ret = mapping_populate(placer->region, placer->alias, at * page,
					       (stop - at) * page, err);
			if (ret < 0)
				return ret;
			state_move(placer->state, at, stop, PAGE_AHEAD, PAGE_HIDDEN);
		}
		stop = run_end(placer, stop, end, false);
	}
	placer_find_direct(placer, first / each);
	return 0;
}

int placer_ahead(struct placer *placer, const uint64_t *received, uint64_t offset, uint64_t length,
		 struct wh_err *err)
{
	const struct region *region = placer->region;
	uint64_t page = region->page_size;
	uint64_t each = STAGE_BYTES / page;
	uint64_t at, end;

	if (!placer_goes_ahead(placer) || !__atomic_load_n(&placer->armed, __ATOMIC_ACQUIRE))
		return 0;
	if (offset % page || length % page || offset > region->length ||
	    length > region->length - offset)
		return err_set(err, -EINVAL,
			       "block '%s': %" PRIu64 " bytes ahead at %#" PRIx64
			       ", it has %" PRIu64 " in pages of %" PRIu64,
			       region->name, length, offset, region->length, page);
	at = offset / page;
	end = at + length / page;
	while (at < end) {
		uint64_t stop = (at / each + 1) * each;
		int ret = ahead_stage(placer, received, at, stop < end ? stop : end, err);

		if (ret < 0)
			return ret;
		at = stop;
	}
	return 0;
}
