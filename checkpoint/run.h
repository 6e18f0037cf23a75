/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_RUN_H
#define CHECKPOINT_RUN_H

#include "base/clock.h"
#include "base/err.h"
#include "base/region.h"
#include "checkpoint/dest.h"
#include "checkpoint/source.h"
#include "ring/loop.h"
#include "ring/socket.h"

#include <pthread.h>
#include <wherry/protect.h>

/*
 * The joining of a protection: gives the engines connections, time and a thread. There is one
 * thread at each end and everything is its own, but for what @lock guards. Nothing waits anywhere
 * but in loop_step() and in the VMM's callbacks.
 *
 * What an engine asks for is written down (the *_due of each side) and done in the turn, behind
 * what the engine is in: it is never entered twice.
 */

#define RUN_ENTRIES 128u
#define LINK_OUT_BYTES (32u << 10) /* HELLO and all blocks at once */
#define LINK_PIECES 256u
#define PENDING_MAX 16u
#define PENDING_STAY 8u /* of these, so long as nobody else comes */

enum link_kind {
	LINK_CONTENTS,
	LINK_PULSE, /* heartbeats, and what has to be heard in time */
	LINK_COUNT
};

/* One connection: whole messages, either way. run_link.c */
struct protect_link {
	struct wh_protect *p;
	struct op send, recv;
	int fd;		   /* -1: there is none */
	struct pier *pier; /* over RDMA: what it goes on, and fd only stands for that */
	bool closing;
	bool broken; /* to be looked at in the turn; why has the reason */
	struct wh_err why;
	struct msghdr msg;  /* what is left */
	struct msghdr part; /* of it, what is under way */
	struct iovec piece[LINK_PIECES];
	bool more;  /* what is under way is contents, not out */
	bool fixed; /* and it is from a slab that is registered */
	/* said; while one is being sent the other is filled */
	uint8_t out[2][LINK_OUT_BYTES];
	size_t out_have[2];
	unsigned filling;
	uint8_t *in;
	size_t in_room, in_have;
};

/* Somebody has connected, and has not said who he is. run_admit.c */
struct protect_pending {
	struct wh_protect *p;
	struct op recv;
	int fd; /* -1: the slot is free, once recv is not busy */
	struct pier *pier;
	bool leaving;
	bool parked; /* a pulse whose HELLO is still to come, or that waits for a decision */
	size_t have;
	uint64_t until_ns;
	uint8_t head[CP_HEADER];
	struct cp_header header;
};

struct protect_source;
struct protect_dest;
struct pier;
struct ibv_mr;

/* Slabs that contents are sent from, by address, and what of them is registered */
struct pier_slabs {
	struct pier_slab {
		uint8_t *at;
		struct ibv_mr *mr;
		uint32_t key;
		bool refused; /* it could not be: not tried again */
	} * slab;
	size_t count, room;
	struct pier *of; /* whose device it is */
	bool told;	 /* that one could not */
};

/* What somebody wants of it: done on its thread */
struct protect_call {
	struct protect_call *next;
	int (*run)(struct wh_protect *p, const void *what, struct wh_err *err);
	const void *what;
	int result;
	struct wh_err err;
	bool done;
};

struct wh_protect {
	enum wh_role role;
	struct wh_protect_config config;
	struct wh_protect_callbacks cb;
	char *generation_file;
	uint64_t generation; /* as of the file */
	struct region region[CP_BLOCKS_MAX];
	struct cp_block block[CP_BLOCKS_MAX];
	uint32_t blocks;
	char uri[URI_TEXT];
	bool set_up;	 /* an address was given */
	struct tls *tls; /* NULL: its connections are plain */

	struct loop *loop;
	pthread_t thread;
	bool threaded;
	bool stop; /* atomic: wh_protect_free() */
	enum wh_protect_state state;
	struct wh_err why;
	uint64_t log_ns; /* of the last line that a peer has caused */
	unsigned log_left;
	struct protect_link link[LINK_COUNT];
	struct pier *piers; /* connections over RDMA */
	struct pier_slabs slabs;

	pthread_mutex_t lock; /* what follows; nothing is called with it held */
	pthread_cond_t cond;
	struct protect_call *calls; /* read without it too: is there any? */
	struct wh_protect_status status;
	bool ended; /* nothing is left to be done */
	bool dead;  /* its thread cannot go on */

	struct protect_source *source;
	struct protect_dest *dest;
};

/* run.c */
void protect_log(struct wh_protect *p, enum wh_log_level level, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
/* The same of what a peer can cause as often as he likes: a few a second */
void protect_log_peer(struct wh_protect *p, const char *format, ...)
	__attribute__((format(printf, 2, 3)));

/* A callback has failed, and may have had no sentence for it. Return: its text */
static inline const char *protect_said(struct wh_err *err, int ret)
{
	if (!err->code)
		err_sys(err, ret, "the VMM");
	return err->text;
}

/* run_drive.c */
/* Nothing that comes back of operations is acted on any more */
static inline bool protect_stops(const struct wh_protect *p)
{
	return __atomic_load_n(&p->stop, __ATOMIC_ACQUIRE);
}
/* It is in another state: told, and looked at by whoever waits. @why NULL: none */
void protect_moved(struct wh_protect *p, enum wh_protect_state to, uint64_t epoch,
		   uint64_t generation, const struct wh_err *why);
/* Any thread but its own: done on that one. Return: what @run gave */
int protect_call(struct wh_protect *p,
		 int (*run)(struct wh_protect *p, const void *what, struct wh_err *err),
		 const void *what, struct wh_err *err);
void *protect_main(void *arg);

/* run_link.c */
/* @pier: NULL: @fd is a socket */
int link_open(struct protect_link *link, struct wh_protect *p, int fd, struct pier *pier,
	      size_t in_room, const void *begun, size_t length, struct wh_err *err);
bool link_up(const struct protect_link *link);
/* What was given to it has not all left */
bool link_sending(const struct protect_link *link);
/* Return: 0, or a negative errno and a sentence: there is no connection, or it takes nothing */
int link_say(struct protect_link *link, struct cp_header *header, const struct cp_msg *msg,
	     struct wh_err *err);
/* It is of no use any more; looked at in the turn, by link_lost(), which closes it */
void link_break(struct protect_link *link, const struct wh_err *why);
bool link_lost(struct protect_link *link, struct wh_err *why);
void link_turn(struct protect_link *link);
/* Nothing waits to be sent, or nobody is there to take it */
bool link_flushed(const struct protect_link *link);
/* Nothing more goes either way. What comes back of operations finds that out */
void link_close(struct protect_link *link);
/* The loop is closed */
void link_fini(struct protect_link *link);

/* Both sides: a message is there as a whole. Return: 0, or a negative errno and a sentence: the
 * connection is to be given up */
int protect_heard(struct protect_link *link, const struct cp_header *header, const uint8_t *bytes,
		  struct wh_err *err);
/* Source: the next contents. Return: pieces, 0: there are none now */
unsigned source_pieces(struct wh_protect *p, struct iovec *piece, unsigned room);
/* The number by which the ring knows this piece of contents; -1: it does not, or it is too small */
int source_slot(const struct wh_protect *p, const struct iovec *piece);
void source_slot_sent(struct wh_protect *p, size_t bytes);

/* run_source.c */
int protect_source_new(struct wh_protect *p, struct wh_err *err);
int protect_source_connect(struct wh_protect *p, const struct uri uri[LINK_COUNT],
			   struct wh_err *err);
int protect_source_start(struct wh_protect *p, struct wh_err *err);
/* Return: when it is to be turned again at the latest */
uint64_t protect_source_turn(struct wh_protect *p, uint64_t now_ns);
int protect_source_heard(struct protect_link *link, const struct cp_header *header,
			 const uint8_t *bytes, struct wh_err *err);
bool protect_source_ended(const struct wh_protect *p);
void protect_source_status(const struct wh_protect *p, struct wh_protect_status *status,
			   uint64_t now_ns);
void protect_source_free(struct wh_protect *p);
int protect_source_leave(struct wh_protect *p, const void *what, struct wh_err *err);
int protect_source_release(struct wh_protect *p, const void *what, struct wh_err *err);
int protect_source_fence(struct wh_protect *p, const void *what, struct wh_err *err);
int protect_source_pace(struct wh_protect *p, const void *what, struct wh_err *err);

/* run_dest.c */
int protect_dest_new(struct wh_protect *p, struct wh_err *err);
int protect_dest_listen(struct wh_protect *p, const struct uri uri[LINK_COUNT], unsigned count,
			struct wh_err *err);
uint64_t protect_dest_turn(struct wh_protect *p, uint64_t now_ns);
int protect_dest_heard(struct protect_link *link, const struct cp_header *header,
		       const uint8_t *bytes, struct wh_err *err);
bool protect_dest_ended(const struct wh_protect *p);
void protect_dest_status(const struct wh_protect *p, struct wh_protect_status *status,
			 uint64_t now_ns);
/* The thread is gone, the loop is not: listen no more */
void protect_dest_stop(struct wh_protect *p);
void protect_dest_free(struct wh_protect *p);
int protect_dest_takeover(struct wh_protect *p, const void *what, struct wh_err *err);
int protect_dest_abandon(struct wh_protect *p, const void *what, struct wh_err *err);

#endif /* CHECKPOINT_RUN_H */
