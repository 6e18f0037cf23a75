/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_RUN_H
#define POSTCOPY_RUN_H

#include "base/clock.h"
#include "base/err.h"
#include "base/hist.h"
#include "base/region.h"
#include "recover/identity.h"
#include "ring/loop.h"
#include "ring/socket.h"
#include "ring/uri.h"
#include "wire/ram.h"

#include <pthread.h>
#include <wherry/wherry.h>

/*
 * The joining: gives the engines descriptors, time and threads. Who owns what:
 *
 *	bulk loop	listener or dial, main channel, engine steps, everything rare
 *	fault loop	destination: uffd and urgent channel; source: return path and
 *			urgent channel
 *
 * With wh_start() each loop has a thread; with wh_process() both are one loop on the
 * caller's thread, and all of this works unchanged because nothing here waits
 * anywhere but in loop_step(). What one loop has for the other goes through struct
 * mailbox and loop_wake(); what both may call (sending on the return path) has a lock
 * of its own.
 */

#define RUN_LOOP_ENTRIES 128 /* operations under way at once, per loop */

/* From one loop to the other; under migration.post_lock, rare. */
struct mailbox {
	int urgent_fd;	  /* to the fault loop: a connected urgent channel, -1 none */
	bool urgent_lost; /* to the bulk loop */
	struct wh_err urgent_err;
	bool reply_lost; /* source, to the bulk loop: the return path broke */
	struct wh_err reply_err;
	bool device_loaded; /* to the bulk loop */
	int device_result;
	bool armed;	   /* to the fault loop: read the uffd from here on */
	bool close;	   /* to the fault loop: close your channels */
	bool announce;	   /* to the fault loop: dest_announce() */
	bool fault_failed; /* to the bulk loop: serving faults ended with an error */
	struct wh_err fault_err;
	bool bridge_failed; /* to the bulk loop, by the bridge */
	struct wh_err bridge_err;
	struct reads *reads; /* to the fault loop: a connection to read pages on */
};

/* What the VMM wants of a paused migration, or to pause it: done on the bulk loop */
struct call {
	struct call *next;
	int (*run)(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
	const struct uri *uri;
	int result;
	struct wh_err err;
	bool done;
};

/* Paused, and brought back by itself: run_again.c; the bulk loop's */
struct again {
	bool on;
	bool off;     /* somebody takes care of it, until it runs again */
	bool resting; /* nothing of a connection is there, and the next try is later */
	uint64_t until_ns;
	uint64_t next_ns;
	uint64_t wait_ns;
	uint64_t runs_ns; /* since when it runs; 0: not since it was brought back */
	struct op timer;
	uint64_t timer_ns;
	struct wh_err reason; /* why it is paused, or the last try was none */
};

struct wh_migration {
	enum wh_role role;
	struct wh_config config;
	struct wh_callbacks cb;
	char machine[256];
	char uri[URI_TEXT];
	struct region region[RAM_BLOCKS_MAX];
	uint8_t *hint[RAM_BLOCKS_MAX]; /* source: atomic, see run_hint.c */
	unsigned regions;

	struct loop *bulk;
	struct loop *fault; /* == bulk with wh_process() */
	struct op tick;	    /* bulk loop: engine time */
	uint64_t tick_ns;
	bool tick_sooner; /* it is being cancelled, and set to tick_ns then */
	bool threaded;
	bool started;
	bool set_up; /* wh_connect() or wh_listen() was called */
	pthread_t bulk_thread;
	pthread_t fault_thread;
	bool fault_running;
	bool stop;	   /* atomic: wh_free() */
	bool ended;	   /* atomic: the bulk loop is done, result is final */
	bool fault_closed; /* atomic: the fault loop has closed its channels */

	pthread_mutex_t post_lock;
	struct mailbox post;

	pthread_mutex_t wait_lock;
	pthread_cond_t wait_cond;
	struct wh_err result;
	enum wh_phase phase; /* atomic */
	bool settled;	     /* @wait_lock: paused, and nothing is left of the connection */
	struct call *calls;  /* @wait_lock */
	bool pause_soon;     /* by a callback: behind what it is called in */
	struct again again;

	uint64_t recoveries;	  /* atomic */
	uint64_t paused_ns;	  /* atomic: the sum of those that are over */
	uint64_t paused_since_ns; /* atomic; 0: it is not */

	uint64_t begin_ns;
	uint64_t end_ns;
	uint64_t own_bytes;   /* atomic */
	uint64_t pages_total; /* atomic */
	pthread_mutex_t rate_lock;
	uint64_t rate_at_ns;
	uint64_t rate_bytes;
	uint64_t rate;

	struct tls *tls;	   /* NULL: its connections are plain */
	struct handover *handover; /* of another process's guest; NULL: our own */
	struct agent_vmm *agent;   /* another process drives it, and all below is NULL */
	struct dest_side *dest;
	struct source_side *source;
};

/* Behind a partial send: what is left of the message */
void msg_advance(struct msghdr *msg, size_t sent);

/* run.c */
int run_add_region(struct wh_migration *m, const struct wh_block *block, struct wh_err *err);
void run_log(struct wh_migration *m, enum wh_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

/* run_drive.c */
void run_moved(struct wh_migration *m, enum wh_phase phase, const struct wh_err *err);
/* How often it was paused, and for how long altogether */
void run_paused(struct wh_migration *m, enum wh_phase to);
/* The engine wants to be called at this time; bulk loop */
void run_tick(struct wh_migration *m, uint64_t at_ns);
/* No more of it. Return: it is still busy, with being cancelled */
bool run_tick_end(struct wh_migration *m);
/* The fault loop has closed its channels and is in none of the engine's functions */
bool run_fault_closed(struct wh_migration *m);
/* And may open new ones; bulk loop */
void run_fault_open(struct wh_migration *m);
/* Paused, and nothing is left of the connection; bulk loop */
void run_settled(struct wh_migration *m);
/* It is not settled any more: it connects again, or waits for that */
void run_unsettled(struct wh_migration *m);
bool run_is_settled(struct wh_migration *m);
/* The next phase's reason, if there is one, is not that of the last pause */
void run_forget_result(struct wh_migration *m);

/* run_tls.c */
int run_tls_open(struct wh_migration *m, const struct wh_tls *tls, struct wh_err *err);
void run_tls_close(struct wh_migration *m);
/* For whoever dials or listens on behalf of it: what comes of that is plain to use */
struct socket_tuning run_tuning(const struct wh_migration *m);
/*
 * Any thread; for a descriptor that gave the end of its stream, or an error. Return: 0, it is as
 * it looks; or a negative errno and the reason
 */
int run_why(const struct wh_migration *m, int fd, struct wh_err *err);

/* run_recover.c, bulk loop */
void run_calls(struct wh_migration *m);
int run_random(void *ctx, struct identity_number *number, struct wh_err *err);
/* This thread turns the bulk loop of @m from here on, NULL: none. Return: whose it was */
const struct wh_migration *run_here(const struct wh_migration *m);
bool run_is_here(const struct wh_migration *m);

/* run_again.c, bulk loop */
void again_paused(struct wh_migration *m, const struct wh_err *err);
void again_runs(struct wh_migration *m);
/* From here on somebody pauses and recovers it by hand */
void again_by_hand(struct wh_migration *m);
/* Nothing is left of a connection. Return: it goes on by itself, and is not settled */
bool again_turn(struct wh_migration *m);
/* While it listens. Return: the time is over, and nobody has come */
bool again_late(struct wh_migration *m);
/* Between two tries: it may be recovered by hand at once */
bool again_waits(const struct wh_migration *m);
void again_failed(struct wh_migration *m, const struct wh_err *err);

/* run_priority.c: of the fault thread, as it was asked for */
int priority_attributes(const struct wh_migration *m, pthread_attr_t *attr, struct wh_err *err);
/* The calling thread is woken for microseconds, and somebody waits for them */
void priority_urgent(void);
/* The calling thread lets all others go first (bulk_nice) */
void priority_yield(const struct wh_migration *m);
/* The bulk thread: does the guest wait for pages, which others bring? Then it yields. Return: so */
bool priority_bulk(const struct wh_migration *m);

/* agent_vmm.c, where an agent drives it; the functions of the API that differ */
int agent_vmm_new(struct wh_migration *m, struct wh_err *err);
/* But for what wh_free() does anyway */
void agent_vmm_free(struct wh_migration *m);
/* May it be handed over? It is to be region[m->regions] */
int agent_vmm_check_region(struct wh_migration *m, struct wh_err *err);
int agent_vmm_listen(struct wh_migration *m, bool again, const struct uri *uri, const char *text,
		     struct wh_err *err);
int agent_vmm_start(struct wh_migration *m);
int agent_vmm_pause(struct wh_migration *m, struct wh_err *err);
/* Any thread; @why may be NULL */
void agent_vmm_loaded(struct wh_migration *m, int result, const struct wh_err *why);
void agent_vmm_stats(const struct wh_migration *m, struct wh_stats *stats);
unsigned agent_vmm_waits(const struct wh_migration *m, struct wh_thread_wait *waits, unsigned room);
void agent_vmm_hist(const struct wh_migration *m, struct hist *hist);

#endif /* POSTCOPY_RUN_H */
