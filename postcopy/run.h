/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_RUN_H
#define POSTCOPY_RUN_H

#include "base/clock.h"
#include "base/err.h"
#include "postcopy/agent.h"
#include "postcopy/intake.h"
#include "postcopy/source.h"
#include "ring/loop.h"
#include "ring/socket.h"
#include "uffd/dirty.h"
#include "uffd/early.h"
#include "uffd/placer.h"
#include "wire/bitmap.h"

#include <pthread.h>
#include <sched.h>
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

_Static_assert(WH_MULTIFD_MAX == DEST_LANES_MAX, "one limit");
_Static_assert(WH_MULTIFD_MAX == SOURCE_LANES_MAX, "here as well");

#define RUN_LOOP_ENTRIES 128 /* operations under way at once, per loop */
#define REPLY_BYTES (64u << 10)
#define REPLY_ROOM ((size_t)16384) /* at the source */
#define PENDING_MAX (DEST_LANES_MAX + 4u)
#define RETRY_FAULTS 256u
#define FAULT_RETRY_NS (50 * NS_PER_US) /* first retry of a fault while the map changes */

/* A row of pages on its way into a block that is not watched yet: run_early.c */
struct early_row {
	uint8_t *stage;		   /* NULL until it is needed */
	const struct early *early; /* what is received into the stage is of there; NULL: nothing is */
	uint64_t offset;	   /* in the block, of the stage's beginning */
};

/* Bytes of one channel on their way into the destination's engine. */
struct inlet {
	struct wh_migration *m;
	enum channel channel;
	struct loop *loop;
	struct op recv;
	struct op retry;
	int fd;
	uint8_t *buf; /* of intake */
	struct intake intake;
	struct iovec piece[INTAKE_PIECES];
	struct early_row early;
	struct msghdr msg;
	bool dirty;  /* fed since the last dest_idle() */
	bool marked; /* waits at a mark of multifd */
	bool ended;  /* nothing more comes */
};

/* A connection that carries pages in precopy: run_lane.c */
struct lane;

/* The return path's way out; any thread. */
struct reply {
	pthread_mutex_t lock;
	struct op poll;
	int fd;
	int error;
	bool shut;   /* SHUT was the last message */
	bool hungry; /* dest_announce() waits for room */
	/* Bitmaps, oldest first; they go in front of what is in buf */
	struct reply_frame {
		struct reply_frame *next;
		size_t length;
		size_t sent;
		uint8_t bytes[];
	} * frame;
	size_t have;
	uint8_t buf[REPLY_BYTES];
};

/* A connection that has not said yet what it is. */
struct pending {
	struct wh_migration *m;
	struct op peek;
	struct op timer;
	int fd;
	/* a main channel's four bytes, an urgent one's proof, a lane's hello */
	uint8_t magic[MULTIFD_HELLO_BYTES];
};

/* A fault whose zero page could not be placed yet. */
struct retry_fault {
	unsigned block;
	uint32_t tid;
	uint64_t offset;
	uint64_t since_ns;
};

/* Where guest threads run, and the fault thread with them: run_follow.c */
#define FOLLOW_THREADS 64u

struct follow {
	struct follow_thread {
		uint32_t tid;
		int cpu;
		uint64_t since_ns;
		uint64_t believed_ns;
	} thread[FOLLOW_THREADS];
	cpu_set_t may;
	int cpu; /* bound to; -1 */
	unsigned others;
	bool on;
};

/* The helper thread's: run_ahead.c */
struct ahead {
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool running; /* of the bulk thread */
	bool early;   /* works before the memory is watched; it does not change while it runs */
	bool refused; /* atomic: that is no use: no thread, no memory */
	bool stop;    /* @lock, and what follows */
	bool moved;   /* since the helper has looked */
	/* where the stream is; the bulk thread alone writes, under @lock */
	struct ahead_at {
		unsigned block; /* early: index as migration.region */
		uint64_t part;	/* in stages of the block */
		uint64_t reach; /* of as many behind it there may be pages */
		uint64_t end;	/* of what is used, bytes */
	} at;
};

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

struct dest_side {
	struct dest engine;
	struct bridge *bridge;	      /* run_bridge.c; NULL: it has nothing to do with RDMA */
	struct bridge *bridge_before; /* where it has listened until now */
	struct reads *reads;	      /* run_read.c, the fault loop's; NULL: pages are asked for */
	/* [listening] is where it listens; the other one is on its way out */
	struct dest_listener {
		struct wh_migration *m;
		struct listener at;
	} listener[2];
	unsigned listening;
	struct pending pending[PENDING_MAX];
	struct inlet inlet[CHANNEL_COUNT];
	struct lane *lane[DEST_LANES_MAX]; /* NULL: there is none */
	unsigned quiet;			   /* turns in which nobody has connected */
	bool all_told;			   /* nobody is waited for who has not said what he is */
	struct reply reply;
	uint64_t heard_bytes; /* as of heard_ns, when some came */
	uint64_t heard_ns;
	bool main_up;
	bool urgent_up;
	bool closing;
	bool stopped;
	bool finished; /* memory was given back to the VMM */
	struct ahead ahead;
	uint64_t collapsed; /* atomic: 2 MiB made huge at the end */

	struct uffd uffd;
	bool uffd_open;
	/*
	 * Atomic: set by the bulk loop, read by both. For good: when all is in nothing is
	 * received into the guest's memory either
	 */
	bool armed;
	struct early early[RAM_BLOCKS_MAX]; /* index as migration.region */
	struct placer placer[RAM_BLOCKS_MAX];
	bool placer_up[RAM_BLOCKS_MAX];
	struct stage stage[CHANNEL_COUNT];
	struct stage page;    /* of what is urgent and small: one page, which stays in the cache */
	struct follow follow; /* the fault thread's */
	struct op fault_read;
	struct op fault_timer;
	uint8_t fault_buf[UFFD_BATCH * UFFD_MSG_BYTES];
	struct retry_fault retry[RETRY_FAULTS];
	unsigned retries;
	uint64_t retry_ns;
	pthread_mutex_t gate; /* with config.removes: events against placing, zeros against the end */

	uint8_t *device; /* the engine's buffer */
	size_t device_room;
};

/* One of multifd's connections: run_source_lane.c */
struct source_link;

struct source_side {
	struct wh_migration *owner;
	struct source *engine;
	struct source_block *block; /* index as migration.region */
	struct uri uri;
	struct ferry *ferry; /* run_ferry.c; NULL: it has nothing to do with RDMA */
	struct dial dial;
	struct dial urgent_dial;
	struct dial link_dial;
	struct source_link *link[SOURCE_LANES_MAX]; /* NULL: there is none */
	unsigned links;				    /* that are connected */
	int fd;
	int urgent_fd;
	bool urgent_up; /* bulk loop: there is, or was, one */
	struct op send;
	struct op recv;
	struct op urgent_send;
	struct msghdr msg;
	struct msghdr urgent_msg;
	struct batch *batch;
	struct batch *urgent_batch;
	size_t sent;
	uint64_t taken_ns;  /* when the kernel had last taken some of the batch */
	uint64_t probed_ns; /* when it was last asked, by cancelling */
	size_t urgent_sent;
	uint64_t urgent_taken_ns;
	uint8_t *reply_buf;
	size_t reply_room; /* REPLY_ROOM, and more for a bitmap */
	size_t reply_have;
	struct op reply_timer; /* looks again whether the queue of requests has room */
	struct op probe;       /* looks whether what is urgent is taken */
	bool request_ended;    /* the return path is not read any more */
	bool urgent_ended;     /* nothing more is sent on the urgent channel */
	bool closing;
	bool resuming; /* wh_resume() was called, and it is not connected yet */
	bool logging;  /* writes are being logged */
	bool own_log;  /* by log, not by the VMM */
	struct dirty_log log;
	void *device;
	size_t device_length;
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

/* run_dest.c, run_source.c: one turn of each loop after its completions */
int dest_side_new(struct wh_migration *m, struct wh_err *err);
/* Threads are gone: completions that loop_close() brings back change nothing any more. */
void dest_side_stop(struct wh_migration *m);
void dest_side_free(struct wh_migration *m);
int dest_side_listen(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
/* The same for a guest that runs already, of an agent that has died. Leads to PAUSED */
int dest_side_adopt(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
int dest_side_pause(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
int dest_side_recover(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
/* Nothing is left of the old connection: wait for the source there */
int dest_side_again(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
/* Nobody can come any more to where it listens */
void dest_side_deaf(struct wh_migration *m, const struct wh_err *err);
/* true: it has ended */
bool dest_side_turn(struct wh_migration *m);
void dest_side_fault_turn(struct wh_migration *m);
void dest_side_stats(const struct wh_migration *m, struct wh_stats *stats);

int source_side_new(struct wh_migration *m, struct wh_err *err);
void source_side_stop(struct wh_migration *m);
void source_side_free(struct wh_migration *m);
int source_side_connect(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
int source_side_open_urgent(struct wh_migration *m, struct wh_err *err);
int source_side_pause(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
int source_side_resume(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
/* Nothing is left of the old connection: connect there */
int source_side_again(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
bool source_side_turn(struct wh_migration *m);
void source_side_request_turn(struct wh_migration *m);
/* While the request loop is parked: an empty buffer for what source_input() needs at once */
int source_side_reply_room(struct wh_migration *m, size_t room, struct wh_err *err);
/* Is a peer dead that has last taken bytes of a send at @taken_ns? */
bool source_side_silent(const struct wh_migration *m, uint64_t taken_ns, struct wh_err *err);
void source_side_stats(const struct wh_migration *m, struct wh_stats *stats);

/* run_accept.c */
/* Where it listens from here on; nothing changes if that cannot be */
int accept_at(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
/* Has everybody who has connected by now said what he is? Asked once in a turn */
bool accept_gathered(struct wh_migration *m);
/* The pages begin: who has said nothing yet is the urgent channel (QEMU 7.x), or nobody */
void accept_told(struct wh_migration *m);
/* One more: what it is, its first bytes tell */
void accept_connection(struct wh_migration *m, int fd);
/* No more connections. Return: something of that is under way yet */
bool accept_close(struct wh_migration *m);
/* Loops are closed */
void accept_free(struct wh_migration *m);

/* run_bridge.c: RDMA, a thread between its messages and a socket that is read as any other */
/* @where: its port is filled in */
int bridge_listen(struct wh_migration *m, struct uri *where, struct wh_err *err);
/* It listens somewhere else from here on. No-op where it does not over RDMA */
int bridge_leave(struct wh_migration *m, struct wh_err *err);
/* Return: something of where it has listened before is under way yet */
bool bridge_reap(struct wh_migration *m);
/* The stream announces what is beside it; bulk loop */
int bridge_hook(struct wh_migration *m, struct wh_err *err);
/* From here on the peer cannot write to memory. May wait for milliseconds */
void bridge_unhook(struct wh_migration *m);
/* The same, all has come: without a return path nothing is said any more either */
void bridge_fence(struct wh_migration *m);
/* In a pause: nobody has come, or who has is lost again. The next one may */
void bridge_refuse(struct wh_migration *m, const struct wh_err *why);
/* Return: something of it is under way yet */
bool bridge_close(struct wh_migration *m);
/* Loops are closed */
void bridge_free(struct wh_migration *m);

/* run_read.c: RDMA, pages that are read and not asked for; on the fault thread */
/* Return: it is being read; else somebody has to ask for it */
bool reads_page(struct wh_migration *m, unsigned block, uint64_t offset);
void reads_turn(struct wh_migration *m);
/* Return: something of it is under way yet */
bool reads_close(struct wh_migration *m);
/* The fault loop has closed it, or is itself closed; bulk thread */
void reads_free(struct wh_migration *m);

/* run_inlet.c */
int inlet_open(struct inlet *inlet, struct wh_migration *m, enum channel channel, struct loop *loop,
	       int fd, struct wh_err *err);
/* Nothing more is received; the descriptor is closed when the kernel has let go of it. */
void inlet_close(struct inlet *inlet);
bool inlet_busy(const struct inlet *inlet);
/* Before sleeping: what lies in runs is placed */
void inlet_idle(struct inlet *inlet);
void inlet_fini(struct inlet *inlet);

/* It waited at a mark, and need not any more. Return: it went on */
bool inlet_go_on(struct inlet *inlet);

/* run_lane.c, on the bulk thread */
/* The connection has begun with this hello, whose bytes are still to be taken. It is the lane's */
void lane_adopt(struct wh_migration *m, int fd, const uint8_t *hello);
/* What has come on lanes, and where they and the main channel wait for each other */
void lanes_turn(struct wh_migration *m);
/* Return: something of them is under way yet */
bool lanes_close(struct wh_migration *m);
/* Nothing is, or the loop is closed */
void lanes_free(struct wh_migration *m);

/* run_early.c, on the bulk thread */
/* A block of the list; @placer NULL if it is never watched */
void early_block(struct wh_migration *m, unsigned region, const struct placer *placer);
/* In front of receiving into these: they may become others */
void early_receive(struct inlet *inlet, struct iovec *piece, unsigned count);
/*
 * The same of a packet of multifd, all of whose pages will come: allocated where that is cheaper.
 * Return: what they are to be written by, when they have come somewhere else; NULL: straight there
 */
const struct early *early_pieces(struct wh_migration *m, const struct dest_block *block,
				 const struct iovec *piece, unsigned count);
/* So many bytes lie there: from here on they lie where they were to be received at first */
int early_received(struct inlet *inlet, size_t bytes, struct wh_err *err);
void early_fini(struct inlet *inlet);

/* run_reply.c */
int reply_send(struct wh_migration *m, const void *message, size_t length, struct wh_err *err);
int reply_send_bitmap(struct wh_migration *m, const void *message, size_t length,
		      const struct dest_block *block, struct wh_err *err);
/* Requests that there is room for; none: the fault loop is woken when there is */
unsigned reply_room(struct wh_migration *m);
/* Another connection, or none (-1); what was not sent is forgotten */
void reply_reset(struct wh_migration *m, int fd);
void reply_turn(struct wh_migration *m);
bool reply_flushed(struct wh_migration *m);

/* run_place.c: the engine's view of memory */
extern const struct dest_ops run_dest_ops;
int run_place_open(struct wh_migration *m, struct wh_err *err);
/* All is in and disarmed: the VMM's own advice counts again, nothing is watched */
void run_place_end(struct wh_migration *m);
void run_place_close(struct wh_migration *m);

/* run_fault.c */
void fault_turn(struct wh_migration *m);
void fault_close(struct wh_migration *m);

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

/* run_follow.c, on the fault thread */
void follow_begin(struct wh_migration *m);
/* One of this thread's faults has been served, and the loop is about to wait */
void follow_fault(struct wh_migration *m, uint32_t tid, uint64_t now_ns);

/* run_priority.c: of the fault thread, as it was asked for */
int priority_attributes(const struct wh_migration *m, pthread_attr_t *attr, struct wh_err *err);
/* The calling thread is woken for microseconds, and somebody waits for them */
void priority_urgent(void);
/* The calling thread lets all others go first (bulk_nice) */
void priority_yield(const struct wh_migration *m);
/* The bulk thread: does the guest wait for pages, which others bring? Then it yields. Return: so */
bool priority_bulk(const struct wh_migration *m);

/* run_ahead.c, on the bulk thread: a helper thread, from arming to disarming ... */
void ahead_start(struct wh_migration *m);
void ahead_stop(struct wh_migration *m);
/*
 * ... and while rows of pages come before that: @row bytes came before @offset of a region, of which
 * @used are used. Return: it takes care of what is behind it. To be stopped before memory is dropped
 */
bool ahead_early(struct wh_migration *m, unsigned region, uint64_t offset, uint64_t used,
		 uint64_t row);
/* Contents come here; what is behind it is allocated ahead */
void ahead_follow(struct wh_migration *m, unsigned block, uint64_t offset);
/* All is over: huge pages of small ones, until wh_free() */
void ahead_collapse(struct wh_migration *m);

/* agent_vmm.c, where an agent drives it; the functions of the API that differ */
int agent_vmm_new(struct wh_migration *m, struct wh_err *err);
/* But for what wh_free() does anyway */
void agent_vmm_free(struct wh_migration *m);
/* run_hint.c: of region[@block]. Return: 0, or a negative errno and a sentence */
int hint_new(struct wh_migration *m, unsigned block, struct wh_err *err);
void hint_free(struct wh_migration *m);

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

/* All that it needs is connected; or cannot be, for the first time or to resume */
void source_side_up(struct wh_migration *m);
void source_side_not_up(struct wh_migration *m, enum channel channel, struct wh_err *err);
void source_links_failed(struct wh_migration *m, unsigned at, struct wh_err *err);

/* run_source_lane.c, on the bulk thread */
/* The next connection, until there are all; then, or as one cannot be made, as above */
int source_links_open(struct wh_migration *m, struct wh_err *err);
/* A packet for each that is idle, if there is any */
void source_links_pump(struct wh_migration *m);
/* Return: something of them is under way yet */
bool source_links_close(struct wh_migration *m);
void source_links_free(struct wh_migration *m);

/* run_ferry.c, run_ferry_dial.c: RDMA at the source, on the bulk thread */
/* Begin to connect; source_side_up() or source_side_not_up() says what has become of it */
int ferry_connect(struct wh_migration *m, const struct uri *uri, struct wh_err *err);
/* No-op where there is none. What it can do now; in front of the engine's turn and behind it */
void ferry_turn(struct wh_migration *m);
/* The batch: source_sent() when all of it is with the peer */
void ferry_send(struct wh_migration *m);
void ferry_beside_open(struct wh_migration *m);
bool ferry_beside_page(struct wh_migration *m, unsigned block, uint64_t page);
bool ferry_beside_close(struct wh_migration *m);
/* Return: something of it is under way yet */
bool ferry_close(struct wh_migration *m);
/* Loops are closed */
void ferry_free(struct wh_migration *m);

/* run_source_ops.c */
extern const struct source_ops run_source_ops;
int run_source_log_start(struct wh_migration *m, struct wh_err *err);
void run_source_log_stop(struct wh_migration *m);

#endif /* POSTCOPY_RUN_H */
