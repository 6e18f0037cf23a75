/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: the operator's other half, where a QEMU is at one end. It has no measure for
 * silence, so the network tells it at last what our end has noticed. And it has faults of its
 * own: each one that is known is recognised by what the QEMU itself says and is counted apart;
 * all others are ours until somebody has looked.
 */
#include "cli/drill_run.h"

#include <string.h>

#define DEAF_NS (1000 * DRILL_NS_PER_MS) /* from the network's telling to asking */

/*
 * What a QEMU of 7.2 says when it is told to recover and does not know that it has to: a break
 * in a recovery's handshake, or, at the source, behind the last page.
 */
static const char *const stuck[] = {
	"Migrate recover can only be run when postcopy is paused.",
	"Cannot resume if there is no paused migration",
};

/* Of an incoming migration that did not come to the guest's start: as it should be */
static const char *const not_taken[] = {
	"load of migration failed",
	"loadvm failed: ",
	"Not a migration stream",
};

/*
 * What it says in 7.2 when its second connection comes up behind the failure of the first; and
 * when it is told to resume again, since nothing was seen of it for a while, and both come up.
 */
static const char *const aborted[] = {
	"yank_register_function: Assertion `entry' failed",
	"migrate_fd_connect: Assertion `!s->cleanup_bh' failed",
};

/* What it says in 7.2, in front of using the connection that it has just closed again */
static const char *const crashed[] = {
	"Segmentation fault",
	"Detected IO failure for postcopy. Migration paused.",
};

static struct drill_process *ours(struct drill_run *run)
{
	return &run->end[!run->plan->qemu];
}

static struct drill_process *theirs(struct drill_run *run)
{
	return &run->end[run->plan->qemu];
}

static bool says(const char *text, const char *const *sentences, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		if (strstr(text, sentences[i]))
			return true;
	return false;
}

static bool ran(const struct drill_run *run, enum drill_side side)
{
	return __atomic_load_n(&run->shared->runs[side], __ATOMIC_SEQ_CST);
}

static void ended(struct drill_run *run, const char *why)
{
	if (run->result->outcome == DRILL_WRONG || run->qemu_ended)
		return;
	run->qemu_ended = true;
	run->result->outcome = DRILL_QEMU; /* also if it was over otherwise */
	snprintf(run->result->why, sizeof(run->result->why), "%s", why);
	drill_say(run, "QEMU ended: %s", why);
	drill_proxy_drop(&run->proxy);
}

/*
 * A destination reads pages while it loads the device state. If that breaks it has failed, and its
 * main thread, which does not look, starts the guest; then it ends, or hangs with a second channel.
 */
void drill_judge_failed(struct drill_run *run, const char *how)
{
	if (run->plan->qemu == DRILL_DEST && theirs(run)->phase == WH_PHASE_FAILED &&
	    ran(run, DRILL_DEST) && says(how, &not_taken[1], 1))
		ended(run, "it calls a postcopy failed, and starts the guest all the same");
}

void drill_judge_gone(struct drill_run *run, const char *how)
{
	struct drill_process *qemu = theirs(run);

	drill_say(run, "%s: has ended, %s", drill_side_name(run->plan->qemu), how);
	qemu->order = DRILL_NOTHING;
	if (run->qemu_ended)
		return;
	if (run->plan->qemu == DRILL_DEST && !ran(run, DRILL_DEST) &&
	    says(how, not_taken, sizeof(not_taken) / sizeof(not_taken[0]))) {
		qemu->phase = WH_PHASE_FAILED;
		return;
	}
	/* ours may not have noticed yet */
	if (run->plan->qemu == DRILL_DEST && run->round &&
	    (ours(run)->phase == WH_PHASE_PAUSED || ours(run)->phase == WH_PHASE_RECOVER) &&
	    !strncmp(how, crashed[0], strlen(crashed[0])) && says(how, &crashed[1], 1)) {
		ended(run,
		      "a break in the handshake of a recovery, or behind it: Segmentation fault");
		return;
	}
	if (run->plan->qemu == DRILL_SOURCE && ours(run)->phase == WH_PHASE_FAILED &&
	    says(how, aborted, 1)) {
		ended(run,
		      "it failed before the switch, and then: yank_register_function(), Aborted");
		return;
	}
	if (run->plan->qemu == DRILL_SOURCE && run->round && says(how, &aborted[1], 1) &&
	    (ours(run)->phase == WH_PHASE_PAUSED || ours(run)->phase == WH_PHASE_RECOVER)) {
		ended(run, "it was told to resume twice: migrate_fd_connect(), Aborted");
		return;
	}
	drill_wrong(run, "the QEMU has ended in a way that is not known: %s", how);
}

void drill_judge_refused(struct drill_run *run, const char *how)
{
	enum wh_phase is = theirs(run)->phase;

	if (run->plan->qemu == DRILL_SOURCE && is == WH_PHASE_FAILED && ran(run, DRILL_DEST) &&
	    says(how, &stuck[1], 1)) {
		ended(run, "it calls a postcopy failed whose guest runs at the destination");
		return;
	}
	if (!run->asked || !says(how, stuck, sizeof(stuck) / sizeof(stuck[0])))
		return;
	if (is == WH_PHASE_RECOVER)
		ended(run, "it stays in postcopy-recover, and takes no other recovery");
	else if (is == WH_PHASE_POSTCOPY)
		ended(run, "it stays in postcopy-active without a link, and takes no recovery");
}

/*
 * The network takes something, and nothing of it comes: a QEMU that sends does not notice. Or a
 * stranger holds the connection that a QEMU waits for, and the other one is never read.
 */
static bool swallows(const struct drill_run *run)
{
	for (unsigned i = 0; i < DRILL_FAULTS; i++)
		if (run->stranger[i] >= 0 && run->plan->qemu == DRILL_DEST)
			return true;
	for (unsigned i = 0; i < DRILL_PAIRS; i++)
		for (unsigned way = 0; way < DRILL_WAYS; way++)
			if (run->proxy.pair[i].flow[way].mute)
				return true;
	return false;
}

/* Since ours knows that the link is gone, or does not know anything, it goes on as if it was not */
static bool is_deaf(struct drill_run *run)
{
	switch (ours(run)->phase) {
	case WH_PHASE_PAUSED:
	case WH_PHASE_DONE:
	case WH_PHASE_UNKNOWN:
		return theirs(run)->phase == WH_PHASE_POSTCOPY ||
		       theirs(run)->phase == WH_PHASE_RECOVER ||
		       theirs(run)->phase == WH_PHASE_PRECOPY;
	case WH_PHASE_SETUP:
	case WH_PHASE_PRECOPY:
	case WH_PHASE_SWITCHOVER:
	case WH_PHASE_FAILED:
		return theirs(run)->phase == WH_PHASE_POSTCOPY ||
		       (theirs(run)->phase == WH_PHASE_PRECOPY && swallows(run));
	case WH_PHASE_POSTCOPY:
	case WH_PHASE_RECOVER:
	case WH_PHASE_CANCELLED:
	case WH_PHASE_COUNT:
		break;
	}
	return false;
}

void drill_judge(struct drill_run *run)
{
	uint64_t patience = (ours(run)->phase == WH_PHASE_PAUSED ? 2ull : 6ull) *
			    run->plan->dead_peer_ms * DRILL_NS_PER_MS;
	enum drill_side side = run->plan->qemu;
	char uri[DRILL_URI];

	if (run->qemu_ended)
		return;
	if (!is_deaf(run)) {
		run->deaf_ns = 0;
		run->dropped = run->asked = false;
		return;
	}
	if (!run->deaf_ns)
		run->deaf_ns = run->now_ns;
	if (run->now_ns < run->deaf_ns + patience)
		return;
	if (!run->dropped)
		drill_proxy_drop(&run->proxy);
	run->dropped = true;
	if (run->now_ns < run->deaf_ns + patience + DEAF_NS || run->asked ||
	    ours(run)->phase != WH_PHASE_PAUSED || !drill_can_tell(run, side))
		return;
	run->asked = true;
	if (side == DRILL_DEST)
		drill_new_uri(run, false, uri);
	else
		snprintf(uri, sizeof(uri), "%s", run->proxy.uri[0]);
	drill_tell(run, side, side == DRILL_DEST ? DRILL_RECOVER : DRILL_RESUME, uri);
}

enum wh_phase drill_judge_phase(struct drill_run *run)
{
	enum wh_phase is = theirs(run)->phase;
	bool told = run->dropped && run->deaf_ns && run->now_ns > run->deaf_ns + 2 * DEAF_NS;

	return told && is == WH_PHASE_POSTCOPY ? WH_PHASE_PAUSED : is;
}

bool drill_judge_over(struct drill_run *run)
{
	enum wh_phase from = theirs(run)->phase;

	/* it waits for a last word that got lost; its guest stays stopped */
	if (run->dropped && (from == WH_PHASE_POSTCOPY || from == WH_PHASE_RECOVER))
		return run->now_ns > run->deaf_ns + DEAF_NS;
	return from == WH_PHASE_PAUSED || from == WH_PHASE_FAILED;
}

bool drill_judge_lost(struct drill_run *run)
{
	enum wh_phase is = ours(run)->phase;

	return is == WH_PHASE_PAUSED || wh_phase_ended(is);
}
