/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_RUN_H
#define CLI_DRILL_RUN_H

#include "cli/drill_end.h"
#include "cli/drill_proxy.h"

#include <sys/types.h>

#define DRILL_NS_PER_MS 1000000ull

/**
 * struct drill_process - One end, as the operator sees it
 * @order:	That is not answered yet; DRILL_NOTHING
 * @phase:	The last one that it told
 * @pauses:	How often it told that it is paused
 * @waits:	Destination: it listens, or is told to. Source: it resumes, or is told to
 * @again_ns:	Not to be told anything before
 * @cont_ns:	It stands still until then; 0: it does not
 */
struct drill_process {
	pid_t pid;
	int fd;
	enum drill_what order;
	enum wh_phase phase;
	unsigned pauses;
	bool waits;
	bool want_pause;
	bool want_cancel;
	uint64_t again_ns;
	uint64_t cont_ns;
	bool killed;
	bool gone;
	struct drill_note answer; /* to the last order */
};

struct drill_run {
	const struct drill_plan *plan;
	struct drill_result *result;
	const char *folder;
	const char *binary;
	FILE *log;
	FILE *live;
	uint64_t begin_ns;
	uint64_t now_ns;
	uint64_t room_ns;   /* there is memory again, then; 0 */
	uint64_t switch_ns; /* the source has to be told */
	uint64_t apart_ns;  /* one end is over, since then; 0 */
	bool tried;	    /* the source was told first already, this time */
	bool dropped;
	unsigned round;	  /* of recoveries */
	uint64_t deaf_ns; /* the QEMU has not heard that the link is gone, since then; 0 */
	bool asked;	  /* it was told to recover though it does not say that it is paused */
	bool qemu_ended;  /* by a fault of its own */
	unsigned sockets;
	struct drill_shared *shared;
	struct drill_process end[DRILL_SIDES];
	struct drill_proxy proxy;
	int stranger[DRILL_FAULTS];
	struct drill_files files;
	pid_t agent; /* 0: there is none */
	char agent_path[DRILL_URI];
};

void drill_say(struct drill_run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
/* Something is wrong; the first sentence counts */
void drill_wrong(struct drill_run *run, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
uint64_t drill_now_ns(void);
const char *drill_side_name(enum drill_side side);
void drill_tell(struct drill_run *run, enum drill_side side, enum drill_what what, const char *uri);
/* Where the destination is to listen next */
void drill_new_uri(struct drill_run *run, bool tcp, char *uri);

/* There is memory again, and space */
void drill_room(struct drill_run *run);

/* drill_judge.c: what is there to be done about a QEMU, and what it has ended with */
void drill_judge(struct drill_run *run);
/* It has ended by itself, or does not take an order that would bring it back */
void drill_judge_failed(struct drill_run *run, const char *how);
void drill_judge_gone(struct drill_run *run, const char *how);
void drill_judge_refused(struct drill_run *run, const char *how);
/* Its phase; paused if it was told that the link is gone and does not say what it is */
enum wh_phase drill_judge_phase(struct drill_run *run);
/* May it be left where it is, since ours has what is to be had? */
bool drill_judge_over(struct drill_run *run);
/* All of ours is where it belongs, though the QEMU is lost */
bool drill_judge_lost(struct drill_run *run);

/* drill_agent.c: nothing, without one in the plan. It waits for the destination soon */
int drill_agent_start(struct drill_run *run);
/* And have the next one wait. Return: there was one that could be killed */
bool drill_agent_kill(struct drill_run *run);
/* One that has ended by itself, since it could not listen where it was to, has a successor */
void drill_agent_supervise(struct drill_run *run);
/* What the destination says of a handover is that the next one does not wait yet */
bool drill_no_agent_yet(const struct drill_run *run, int64_t result);
/* The destination has ended */
void drill_agent_end(struct drill_run *run);

/* drill_operate.c */
bool drill_can_tell(const struct drill_run *run, enum drill_side side);
/* A fault that is not of bytes. */
void drill_hit(void *opaque, unsigned number);
void drill_strangers_leave(struct drill_run *run);
/* Those that come before the source does */
void drill_hit_early(struct drill_run *run, unsigned connection);
/* Whatever an operator would do now */
void drill_operate(struct drill_run *run);
/* Milliseconds until he wants to, at most @ms */
int drill_operate_in(const struct drill_run *run, int ms);
/* An end has answered, or told a phase */
void drill_heard(struct drill_run *run, enum drill_side side, const struct drill_note *note);
/* Is it over? Then the outcome, before memory is looked at, is in the result */
bool drill_over(struct drill_run *run);

#endif /* CLI_DRILL_RUN_H */
