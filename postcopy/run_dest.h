/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_RUN_DEST_H
#define POSTCOPY_RUN_DEST_H

#include "postcopy/agent.h"
#include "postcopy/dest_trial.h"
#include "postcopy/intake.h"
#include "postcopy/run.h"
#include "uffd/early.h"
#include "uffd/placer.h"
#include "wire/bitmap.h"

#include <sched.h>

/* The joining, at the destination: what run.h says of both sides goes for it */

_Static_assert(WH_MULTIFD_MAX == DEST_LANES_MAX, "one limit");

#define REPLY_BYTES (64u << 10)
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
	struct op recv;	 /* of the main channel: one receive after the other */
	struct op watch; /* of the urgent one: what has come is fetched by a call */
	struct op retry;
	int fd;
	uint8_t *buf; /* of intake */
	struct intake intake;
	struct iovec piece[INTAKE_PIECES];
	struct early_row early;
	struct msghdr msg;
	bool dirty;  /* fed since the last dest_idle() */
	bool held;   /* something that was fed has to be tried again */
	bool unread; /* watched: there may be more */
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
	bool due;    /* reply_turn() has something to do; read without the lock, too */
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
	/* The bulk thread's: whether it is of use where the stream is */
	struct dest_trial trial;
	bool helps;
	unsigned block;
	uint64_t part;
	bool stop;  /* @lock, and what follows */
	bool moved; /* since the helper has looked */
	/* where the stream was when it was told; the bulk thread alone writes, under @lock */
	struct ahead_at {
		unsigned block; /* early: index as migration.region */
		uint64_t part;	/* in stages of the block */
		uint64_t reach; /* of as many behind it there may be pages */
		uint64_t end;	/* of what is used, bytes */
	} at;
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
	struct stage cached;  /* the bulk's, of what is copied from there */
	struct stage page;    /* of what is urgent and small: one page, which stays in the cache */
	struct follow follow; /* the fault thread's */
	struct op fault_watch;
	struct op fault_timer;
	struct retry_fault retry[RETRY_FAULTS];
	unsigned retries;
	uint64_t retry_ns;
	pthread_mutex_t gate; /* with config.removes: events against placing, zeros against the end */

	uint8_t *device; /* the engine's buffer */
	size_t device_room;
};

/* run_dest.c: one turn of each loop after its completions */
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

/* run_follow.c, on the fault thread */
void follow_begin(struct wh_migration *m);
/* One of this thread's faults has been served, and the loop is about to wait */
void follow_fault(struct wh_migration *m, uint32_t tid, uint64_t now_ns);

/* run_ahead.c, on the bulk thread: a helper thread, from arming to disarming ... */
void ahead_start(struct wh_migration *m);
void ahead_stop(struct wh_migration *m);
/*
 * ... and while rows of pages come before that: @row bytes came before @offset of a region, of which
 * @used are used. Return: it takes care of what is behind it; false also while it is tried without.
 * To be stopped before memory is dropped
 */
bool ahead_early(struct wh_migration *m, unsigned region, uint64_t offset, uint64_t used,
		 uint64_t row);
/* Contents come here; what is behind it is allocated ahead */
void ahead_follow(struct wh_migration *m, unsigned block, uint64_t offset);
/* All is over: huge pages of small ones, until wh_free() */
void ahead_collapse(struct wh_migration *m);

#endif /* POSTCOPY_RUN_DEST_H */
