/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: the operator, who tells both ends what to do, brings a migration back, and
 * knows what is an end.
 */
#include "cli/drill_run.h"

#include <errno.h>
#include <signal.h>
#include <string.h>
#include <sys/param.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>

#define RETRY_NS (2 * DRILL_NS_PER_MS)

static enum wh_phase phase_now(const struct drill_run *run, enum drill_side side)
{
	return (enum wh_phase)__atomic_load_n(&run->shared->phase[side], __ATOMIC_SEQ_CST);
}

static void stranger(struct drill_run *run, unsigned number)
{
	unsigned is = run->plan->fault[number].variant;
	static const uint8_t imitation[] = { 8, 0, 11 };
	static const char words[] = "GET / HTTP/1.0\r\n\r\n";
	int fd = drill_dial(run->proxy.to);

	if (fd < 0) {
		drill_say(run, "a stranger: %s", strerrordesc_np(-fd));
		return;
	}
	if (is & DRILL_STRANGER_TALKS && is & DRILL_STRANGER_IMITATES)
		(void)send(fd, imitation, sizeof(imitation), MSG_NOSIGNAL);
	else if (is & DRILL_STRANGER_TALKS)
		(void)send(fd, words, sizeof(words) - 1, MSG_NOSIGNAL);
	if (is & DRILL_STRANGER_LEAVES)
		close(fd);
	else
		run->stranger[number] = fd; /* until the end */
}

/* The process that may be stopped: of a QEMU it is not the one that speaks with us */
static pid_t stands_for(const struct drill_run *run, enum drill_side side)
{
	return side == run->plan->qemu ? run->shared->qemu_pid : run->end[side].pid;
}

void drill_strangers_leave(struct drill_run *run)
{
	for (unsigned i = 0; i < DRILL_FAULTS; i++) {
		if (run->stranger[i] >= 0)
			close(run->stranger[i]);
		run->stranger[i] = -1;
	}
}

static void stop(struct drill_run *run, enum drill_side side, unsigned ms)
{
	struct drill_process *end = &run->end[side];

	if (end->killed || end->gone)
		return;
	kill(stands_for(run, side), SIGSTOP);
	end->cont_ns = run->now_ns + ms * DRILL_NS_PER_MS;
}

/*
 * Before the switch, which only the source knows: it stands still while it is asked. If it
 * is too late nobody is killed.
 */
static bool kill_early(struct drill_run *run, enum drill_side side)
{
	struct drill_process *source = &run->end[DRILL_SOURCE];
	struct drill_process *end = &run->end[side];
	enum wh_phase phase;
	int status;

	kill(source->pid, SIGSTOP);
	if (waitpid(source->pid, &status, WUNTRACED) != source->pid || !WIFSTOPPED(status))
		return false;
	phase = phase_now(run, DRILL_SOURCE);
	if (phase == WH_PHASE_SETUP || phase == WH_PHASE_PRECOPY) {
		kill(end->pid, SIGKILL);
		waitpid(end->pid, &status, 0);
		end->killed = end->gone = true;
		end->order = DRILL_NOTHING;
		/* at once, and not when the kernel has taken its sockets apart */
		drill_proxy_drop(&run->proxy);
		__atomic_store_n(&run->shared->runs[side], 0, __ATOMIC_SEQ_CST);
	}
	if (!source->killed && !source->cont_ns)
		kill(source->pid, SIGCONT);
	return end->killed;
}

void drill_room(struct drill_run *run)
{
	__atomic_store_n(&run->shared->place_error, 0, __ATOMIC_SEQ_CST);
	drill_files_empty(&run->files);
}

void drill_hit(void *opaque, unsigned number)
{
	static const uint32_t refusals[DRILL_REFUSALS] = { ENOMEM, EAGAIN, ENOSPC };
	struct drill_run *run = opaque;
	const struct drill_fault *fault = &run->plan->fault[number];
	char text[160];

	drill_show_fault(fault, text, sizeof(text));
	drill_say(run, "fault: %s", text);
	if (fault->kind == DRILL_STRANGER)
		stranger(run, number);
	if (fault->kind == DRILL_PAUSE)
		run->end[fault->side].want_pause = true;
	if (fault->kind == DRILL_CANCEL)
		run->end[DRILL_SOURCE].want_cancel = true;
	if (fault->kind == DRILL_NO_MEMORY || fault->kind == DRILL_NO_SPACE)
		run->room_ns = run->now_ns + fault->ms * DRILL_NS_PER_MS;
	if (fault->kind == DRILL_NO_MEMORY)
		__atomic_store_n(&run->shared->place_error, refusals[fault->variant],
				 __ATOMIC_SEQ_CST);
	if (fault->kind == DRILL_NO_SPACE)
		run->proxy.happened[number] = drill_files_fill(&run->files);
	if (fault->kind == DRILL_AGENT && !drill_agent_kill(run))
		run->proxy.happened[number] = false;
	if (fault->kind == DRILL_STOP)
		stop(run, fault->side, fault->ms);
	if (fault->kind == DRILL_KILL && !kill_early(run, fault->side)) {
		run->proxy.happened[number] = false;
		drill_say(run, "too late to kill it");
	}
}

void drill_hit_early(struct drill_run *run, unsigned connection)
{
	for (unsigned i = 0; i < run->plan->faults; i++) {
		const struct drill_fault *fault = &run->plan->fault[i];

		if (!fault->early || fault->connection != connection || run->proxy.due[i])
			continue;
		run->proxy.due[i] = run->proxy.happened[i] = true;
		drill_hit(run, i);
	}
}

bool drill_can_tell(const struct drill_run *run, enum drill_side side)
{
	const struct drill_process *end = &run->end[side];

	return end->order == DRILL_NOTHING && !end->gone && run->now_ns >= end->again_ns;
}

/* What faults asked for, and the switch */
static void operate_wishes(struct drill_run *run)
{
	struct drill_process *source = &run->end[DRILL_SOURCE];

	for (unsigned side = 0; side < DRILL_SIDES; side++)
		if (run->end[side].want_pause && drill_can_tell(run, (enum drill_side)side)) {
			run->end[side].want_pause = false;
			drill_tell(run, (enum drill_side)side, DRILL_DO_PAUSE, NULL);
		}
	if (source->want_cancel && drill_can_tell(run, DRILL_SOURCE)) {
		source->want_cancel = false;
		drill_tell(run, DRILL_SOURCE, DRILL_DO_CANCEL, NULL);
	}
	if (run->switch_ns && run->now_ns >= run->switch_ns && source->phase == WH_PHASE_PRECOPY &&
	    drill_can_tell(run, DRILL_SOURCE)) {
		run->switch_ns = 0;
		drill_tell(run, DRILL_SOURCE, DRILL_SWITCH, NULL);
	}
}

static const struct drill_again *again_now(const struct drill_run *run)
{
	return &run->plan->again[run->round % DRILL_AGAIN];
}

static void operate_recovery(struct drill_run *run)
{
	struct drill_process *source = &run->end[DRILL_SOURCE], *dest = &run->end[DRILL_DEST];
	const struct drill_again *again = again_now(run);
	char uri[DRILL_URI];

	if (dest->phase == WH_PHASE_PAUSED && !dest->waits && drill_can_tell(run, DRILL_DEST)) {
		if (again->same)
			snprintf(uri, sizeof(uri), "%s", run->proxy.to);
		else
			drill_new_uri(run, again->tcp, uri);
		dest->waits = true;
		drill_tell(run, DRILL_DEST, DRILL_RECOVER, uri);
	}
	if (source->phase != WH_PHASE_PAUSED || source->waits || !drill_can_tell(run, DRILL_SOURCE))
		return;
	if (dest->waits ? dest->order == DRILL_RECOVER : !again->source_first || run->tried)
		return;
	if (dest->phase == WH_PHASE_DONE || dest->phase == WH_PHASE_FAILED)
		return; /* nobody will ever listen */
	/* the first time it may be too early; from then on it is a recovery of its own */
	if (!dest->waits)
		run->tried = true;
	else
		run->round++, run->tried = false;
	source->waits = true;
	drill_tell(run, DRILL_SOURCE, DRILL_RESUME, run->proxy.uri[again->proxy_tcp]);
}

void drill_operate(struct drill_run *run)
{
	for (unsigned side = 0; side < DRILL_SIDES; side++) {
		struct drill_process *end = &run->end[side];

		if (!end->cont_ns || run->now_ns < end->cont_ns)
			continue;
		end->cont_ns = 0;
		drill_say(run, "%s goes on", drill_side_name((enum drill_side)side));
		kill(stands_for(run, (enum drill_side)side), SIGCONT);
	}
	if (run->room_ns && run->now_ns >= run->room_ns) {
		run->room_ns = 0;
		drill_say(run, "there is memory again");
		drill_room(run);
	}
	drill_agent_supervise(run);
	operate_wishes(run);
	operate_recovery(run);
	if (run->plan->qemu != DRILL_SIDES)
		drill_judge(run);
}

static int sooner(const struct drill_run *run, uint64_t at_ns, int ms)
{
	if (at_ns <= run->now_ns)
		return ms;
	return (int)MIN((uint64_t)ms, (at_ns - run->now_ns) / DRILL_NS_PER_MS + 1);
}

int drill_operate_in(const struct drill_run *run, int ms)
{
	ms = sooner(run, run->switch_ns, ms);
	ms = sooner(run, run->room_ns, ms);
	for (unsigned side = 0; side < DRILL_SIDES; side++) {
		ms = sooner(run, run->end[side].again_ns, ms);
		ms = sooner(run, run->end[side].cont_ns, ms);
	}
	return ms;
}

static void heard_phase(struct drill_run *run, enum drill_side side, const struct drill_note *note)
{
	struct drill_process *end = &run->end[side];

	drill_say(run, "%s: %s%s%s", drill_side_name(side), wh_phase_name(note->phase),
		  *note->text ? ": " : "", note->text);
	end->phase = note->phase;
	if (side == run->plan->qemu && note->phase == WH_PHASE_FAILED)
		drill_judge_failed(run, note->text);
	if (side == DRILL_DEST && note->phase == WH_PHASE_POSTCOPY)
		drill_proxy_switched(&run->proxy);
	/* nobody listens there any more, and ours would knock for ever */
	if ((note->phase == WH_PHASE_POSTCOPY || note->phase == WH_PHASE_RECOVER) &&
	    side == run->plan->qemu)
		end->waits = false;
	if (note->phase != WH_PHASE_PAUSED)
		return;
	end->pauses++;
	end->waits = false;
	end->again_ns = run->now_ns + again_now(run)->wait_ms * DRILL_NS_PER_MS + RETRY_NS;
}

static void heard_answer(struct drill_run *run, enum drill_side side, const struct drill_note *note)
{
	struct drill_process *end = &run->end[side];

	end->order = DRILL_NOTHING;
	end->answer = *note;
	if (note->what == DRILL_RECOVER && note->result == 0) {
		snprintf(run->proxy.to, sizeof(run->proxy.to), "%s", note->text);
		drill_say(run, "dest waits at %s", run->proxy.to);
		drill_hit_early(run, run->proxy.mains);
	} else if (note->what == DRILL_RECOVER || note->what == DRILL_RESUME) {
		if (note->result == 0) {
			run->result->attempts++;
			return;
		}
		if (note->result != -EBUSY && !drill_no_agent_yet(run, note->result))
			drill_say(run, "%s: %s", drill_side_name(side), note->text);
		if (side == run->plan->qemu)
			drill_judge_refused(run, note->text);
		end->waits = false;
		end->again_ns = run->now_ns + RETRY_NS;
	} else if (note->result < 0 && !drill_no_agent_yet(run, note->result)) {
		drill_say(run, "%s: %s", drill_side_name(side), note->text);
	}
}

void drill_heard(struct drill_run *run, enum drill_side side, const struct drill_note *note)
{
	if (note->what == DRILL_NOTHING)
		heard_phase(run, side, note);
	else if (note->what == DRILL_GONE)
		drill_judge_gone(run, note->text);
	else
		heard_answer(run, side, note);
}

static bool gave_back(enum wh_phase phase)
{
	return phase == WH_PHASE_FAILED || phase == WH_PHASE_CANCELLED;
}

/*
 * The source is over with it. A destination that cannot have heard of that, because the
 * drill has swallowed it, is told by the network at last; one that nobody ever came to
 * waits for somebody, which is its right.
 */
static bool dest_over(struct drill_run *run)
{
	const struct drill_process *dest = &run->end[DRILL_DEST];
	uint64_t patience = 2ull * run->plan->dead_peer_ms * DRILL_NS_PER_MS;

	if (dest->gone || dest->phase == WH_PHASE_FAILED)
		return true;
	if (!run->apart_ns)
		run->apart_ns = run->now_ns;
	if (run->now_ns < run->apart_ns + patience)
		return false;
	if (!run->dropped)
		drill_proxy_drop(&run->proxy);
	run->dropped = true;
	/* a QEMU waits for whoever came first */
	if (run->plan->qemu == DRILL_DEST)
		drill_strangers_leave(run);
	return dest->phase == WH_PHASE_SETUP;
}

/* It never ran there, and does not run here any more: what errors.rst says of it */
static bool nowhere(enum wh_phase from, enum wh_phase to)
{
	return (from == WH_PHASE_UNKNOWN || from == WH_PHASE_PAUSED) &&
	       (to == WH_PHASE_SETUP || to == WH_PHASE_PRECOPY || to == WH_PHASE_SWITCHOVER ||
		to == WH_PHASE_FAILED);
}

bool drill_over(struct drill_run *run)
{
	struct drill_process *source = &run->end[DRILL_SOURCE], *dest = &run->end[DRILL_DEST];
	enum wh_phase from = source->phase, to = dest->phase;
	bool over = false;

	if (run->plan->qemu == DRILL_SOURCE)
		from = drill_judge_phase(run);
	if (run->qemu_ended) {
		run->result->outcome = DRILL_QEMU;
		over = drill_judge_lost(run);
	} else if (run->plan->qemu == DRILL_SOURCE && to == WH_PHASE_DONE) {
		run->result->outcome = DRILL_COMPLETED;
		over = from == WH_PHASE_DONE || drill_judge_over(run);
	} else if (source->killed || gave_back(from)) {
		run->result->outcome = DRILL_AT_SOURCE; /* killed, it went with it */
		over = dest_over(run);
	} else if (to == WH_PHASE_DONE) {
		run->result->outcome = DRILL_COMPLETED;
		/* its last word may be lost: see errors.rst */
		over = from == WH_PHASE_DONE || from == WH_PHASE_PAUSED || from == WH_PHASE_UNKNOWN;
	} else if (nowhere(from, to)) {
		run->result->outcome = DRILL_STOPPED;
		over = dest_over(run);
	} else {
		run->apart_ns = 0;
	}
	return over && source->order == DRILL_NOTHING && dest->order == DRILL_NOTHING &&
	       !source->cont_ns && !dest->cont_ns;
}
