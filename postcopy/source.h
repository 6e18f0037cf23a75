/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_SOURCE_H
#define POSTCOPY_SOURCE_H

#include "base/hist.h"
#include "base/region.h"
#include "postcopy/dest.h" /* enum channel */
#include "postcopy/phase.h"
#include "wire/multifd.h"
#include "wire/stream.h"

#include <sys/uio.h>

/*
 * The source: what to send next. An engine, as dest.h: it is asked for a batch
 * whenever a channel can take one, and told what happened.
 *
 * Two threads may be in it at once: the bulk thread (source_next(), everything not
 * said otherwise) and the request thread (source_input(), source_urgent()), or one
 * thread may do both. Shared are the dirty bitmaps (atomic words), the queue of
 * requests and the counters. Who clears a page's dirty bit sends the page; of a host
 * page larger than a target page, who clears its first one sends all of it.
 */

#define BATCH_IOV 1024u
#define BATCH_ARENA 65536u
#define BATCH_BYTES (1u << 20) /* of a bulk batch, about */

/**
 * struct batch - Bytes to be sent, in place: headers in the arena, pages in the guest
 *
 * Filled by source_next() and source_urgent(); given back by sending all of it, in
 * order, before the next one of that channel is asked for.
 */
struct batch {
	unsigned count;
	size_t bytes;
	size_t arena_used;
	struct iovec iov[BATCH_IOV];
	uint8_t arena[BATCH_ARENA];
};

struct source_block {
	const struct region *region;
	uint64_t *dirty; /* one bit a target page: to be sent */
	struct wire_name name;
};

/**
 * struct source_ops - The world, as the engine sees it
 * @dirty_sync:	OR the pages written since the last call into block->dirty (atomically:
 *		bits_set() or __atomic_fetch_or() on words)
 * @pause:	Stop the guest
 * @resume:	Run it again, after a failure
 * @device:	Device state of the paused guest; *@data valid until the end. format says
 *		whether it is QEMU's sections already
 * @open_urgent: Connect the urgent channel; source_urgent_opened() will say how it went
 * @moved:	The phase changed; err is the reason of FAILED, PAUSED, UNKNOWN, else NULL
 * @asked:	Request thread: wake the bulk thread, source_next() has something to do:
 *		a request where there is no urgent channel, an answer, a bitmap, or the last
 *		urgent page is sent
 * @round:	A precopy round has ended
 * @serve:	Bulk thread: wake the request thread: source_urgent() has the end mark of
 *		WH_URGENT_AT_START to send or requests that came while it recovered, or
 *		source_input() takes more again
 *
 * @random:	A number that nobody can know; bulk thread. Without it no migration has an id
 *
 * Where config.beside is set, bulk thread, none of them waits:
 * @beside_open: What the stream has said is with the destination, and pages may come
 * @beside_page: One of them, a target page of a block. Return: it is taken; false, there is no room
 *		now: the bulk thread is woken when there may be
 * @beside_close: There are no more. Return: all are with the destination; false: not yet, as above
 *
 * @moved, @asked, @round, @serve and @random may be NULL.
 */
struct source_ops {
	int (*dirty_sync)(void *ctx, unsigned block, struct wh_err *err);
	int (*pause)(void *ctx, struct wh_err *err);
	int (*resume)(void *ctx, struct wh_err *err);
	int (*device)(void *ctx, const void **data, size_t *length, enum wh_device_format *format,
		      struct wh_err *err);
	int (*open_urgent)(void *ctx, struct wh_err *err);
	void (*moved)(void *ctx, enum source_phase from, enum source_phase to,
		      const struct wh_err *err);
	void (*asked)(void *ctx);
	void (*round)(void *ctx, uint64_t round, uint64_t bytes, uint64_t dirty_pages);
	void (*serve)(void *ctx);
	int (*random)(void *ctx, struct identity_number *number, struct wh_err *err);
	void (*beside_open)(void *ctx);
	bool (*beside_page)(void *ctx, unsigned block, uint64_t page);
	bool (*beside_close)(void *ctx);
};

struct source_config {
	bool postcopy;
	bool return_path;
	bool switchover_ack;
	enum wh_urgent urgent;
	uint64_t bandwidth;
	uint64_t postcopy_bandwidth;
	uint64_t downtime_ns;
	uint64_t postcopy_after_ns;
	/* for an answer that is owed: PONG before the switch, SHUT, what recovery asks for */
	uint64_t dead_peer_ns;
	struct wire_name machine;
	unsigned lanes;	       /* of multifd, 0: none. Without postcopy only */
	bool lanes_by_section; /* the destination takes each section's end for a mark */
	bool beside;	       /* in precopy pages go beside the stream (RDMA). Without lanes */
};

#define SOURCE_QUEUE 1024u /* requests waiting; a power of two */

struct source_request {
	uint32_t block;
	uint32_t pages;
	uint64_t page;
	uint64_t since_ns;
};

struct source_counters {
	uint64_t bytes[CHANNEL_COUNT];
	uint64_t bytes_return;
	uint64_t pages_normal, pages_zero, pages_urgent;
	uint64_t pages_again; /* over the urgent channel though they were sent before */
	uint64_t rounds;
	uint64_t requests;
	uint64_t bandwidth;  /* bytes a second, estimate */
	uint64_t dirty_rate; /* pages a second */
	uint64_t paused_ns;  /* when the guest was */
	uint64_t downtime_ns;
	struct hist serve_hist;
};

struct source;
/* sizeof(struct source), for whoever allocates it; its members are source.c's */
size_t source_bytes(void);

void source_init(struct source *source, const struct source_ops *ops, void *ctx,
		 const struct source_config *config);
/* Before source_connected(); @block->dirty is set to all ones here. */
int source_add_block(struct source *source, const struct source_block *block, struct wh_err *err);
struct source_block *source_get_block(struct source *source, unsigned block);
struct source_counters *source_get_counters(struct source *source);

/* The main channel is connected; with WH_URGENT_AT_START the urgent one as well. */
void source_connected(struct source *source, uint64_t now_ns);

/**
 * source_reconnected() - In PAUSED: the main channel is connected again
 * @urgent:	There can be an urgent channel: with WH_URGENT_AT_START it is connected as
 *		well, with WH_URGENT_AT_SWITCH open_urgent() will be called, if there was one
 *
 * Bulk thread, while no other is in the engine. What was half sent is forgotten: the
 * destination says what is missing, pages and requests.
 */
void source_reconnected(struct source *source, bool urgent, uint64_t now_ns);

enum source_todo {
	SOURCE_SEND,  /* @batch, on the main channel; then source_sent() */
	SOURCE_WAIT,  /* nothing until source_wake_ns(), or an input */
	SOURCE_ENDED, /* nothing more on this connection, the phase says how */
};

/**
 * source_next() - What now; bulk thread
 * @batch:	Filled in for SOURCE_SEND; one at a time
 *
 * While a batch is under way it may be called too: it heeds what came in and a wish to
 * cancel, and else says SOURCE_WAIT without touching @batch.
 *
 * Return: enum source_todo, or a negative errno and a sentence after it moved to
 * FAILED, PAUSED or UNKNOWN
 */
int source_next(struct source *source, uint64_t now_ns, struct batch *batch, struct wh_err *err);
uint64_t source_wake_ns(const struct source *source);
/* The batch is with the kernel */
void source_sent(struct source *source, size_t bytes, uint64_t now_ns);

/**
 * source_input() - Bytes of the return path; request thread
 * @used:	Taken; the rest comes again with more behind it (at most source_need() bytes
 *		are ever needed at once). It takes no more while the queue of requests is
 *		full: call again after source_urgent()
 *
 * Return: 0, or a negative errno and a sentence: tell source_link_lost()
 */
int source_input(struct source *source, const uint8_t *buf, size_t length, size_t *used,
		 uint64_t now_ns, struct wh_err *err);
/* Larger in RECOVER, by our own largest block: its bitmap is taken in one piece. */
size_t source_need(const struct source *source);

/**
 * source_urgent() - Next requested pages for the urgent channel; request thread
 *
 * Takes from the queue; pages that are clean by now are skipped. The batch ends with
 * whole host pages, and is small: one request, or a few that wait.
 *
 * Return: true and *@batch, false if there is nothing
 */
bool source_urgent(struct source *source, struct batch *batch);
void source_urgent_sent(struct source *source, size_t bytes, uint64_t now_ns);
/* The answer to open_urgent(); bulk thread. result < 0: without one, or, recovering, not at all */
void source_urgent_opened(struct source *source, int result);

/*
 * Multifd: lanes, connections beside the main one, which carry pages in precopy. All are
 * connected before source_connected(). Bulk thread.
 */
#define SOURCE_LANES_MAX 32u

/**
 * struct source_packet - What a lane is to send
 * @head:	To be written in front; head.bytes is of the pages as they are
 * @page:	head.normal of them, in the guest
 */
struct source_packet {
	struct multifd_packet head;
	unsigned block;
	struct iovec page[MULTIFD_PAGES];
};

/**
 * source_lane_next() - The next packet of a lane, if it is idle and there is one
 *
 * To be asked for in front of source_next() and behind it. Return: is there one? Then
 * source_lane_sent(), with the bytes that it had at last
 */
bool source_lane_next(struct source *source, unsigned at, uint64_t now_ns,
		      struct source_packet *packet);
void source_lane_sent(struct source *source, unsigned at, size_t bytes, uint64_t now_ns);
void source_lane_lost(struct source *source, unsigned at, const struct wh_err *reason);
/* Nothing is owed on any */
bool source_lanes_idle(const struct source *source);

/*
 * Pages beside the stream, bulk thread: so many bytes were written to the destination, and so many
 * were told to be zeros
 */
void source_beside_done(struct source *source, uint64_t bytes, uint64_t zero_bytes);
/* Without a return path: the destination says that it has given up, and will not start */
void source_gave_up(struct source *source);

/* A channel broke or was closed by the peer; bulk thread. */
void source_link_lost(struct source *source, enum channel channel, const struct wh_err *reason,
		      uint64_t now_ns);

/* Any thread; heeded at the next source_next() */
void source_want_postcopy(struct source *source);
/* Any thread. Return: 0, or -EBUSY past the point of no return */
int source_want_cancel(struct source *source);

/* Any thread */
enum source_phase source_get_phase(const struct source *source);
uint64_t source_pages_left(const struct source *source);
/* Bulk thread: can the destination prove that it is that of this migration? */
bool source_has_id(const struct source *source);

#endif /* POSTCOPY_SOURCE_H */
