/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_RUN_SOURCE_H
#define POSTCOPY_RUN_SOURCE_H

#include "postcopy/run.h"
#include "postcopy/source.h"
#include "uffd/dirty.h"

/* The joining, at the source: what run.h says of both sides goes for it */

_Static_assert(WH_MULTIFD_MAX == SOURCE_LANES_MAX, "one limit");

#define REPLY_ROOM ((size_t)16384) /* of the return path */

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
	struct op recv; /* watches the return path */
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
	bool reply_unread;     /* there may be more than was received */
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

/* run_source.c: one turn of each loop after its completions */
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

/* run_hint.c: of region[@block]. Return: 0, or a negative errno and a sentence */
int hint_new(struct wh_migration *m, unsigned block, struct wh_err *err);
void hint_free(struct wh_migration *m);

#endif /* POSTCOPY_RUN_SOURCE_H */
