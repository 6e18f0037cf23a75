/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_SOURCE_INTERNAL_H
#define POSTCOPY_SOURCE_INTERNAL_H

#include "postcopy/source.h"

/*
 * Inside of the source engine. Who may touch what:
 *
 *	fixed	written before source_connected(), read by everybody afterwards
 *	bulk	the bulk thread alone
 *	request	the request thread alone
 *	taker	whoever takes from the queue of requests: the request thread where
 *		there is an urgent channel, else the bulk thread. Which of them is
 *		settled before the phase becomes POSTCOPY, each time that it does
 *	shared	atomic; who writes it stands beside it
 *
 * The dirty bitmaps are shared words. Until POSTCOPY only the bulk thread clears in
 * them; from then on whoever clears the bit of a (host page's first) page sends it.
 * In RECOVER the request thread alone writes them, whole, and says so in bitmaps_told.
 */

/* Sections: no number that a QEMU gives its own, whose device sections we may carry */
#define SECTION_RAM_ID 0x10000u
#define SECTION_DEVICE_ID 0x10001u

/*
 * Without an urgent channel a request waits for the batch that is being sent: at
 * 1 GiB/s these bytes are 120 us, about as much as the request itself needs to get
 * here and be served, and still large enough to keep the cost of a call small
 * beside that of the copy. The number of pages is bounded too: a batch of zero pages
 * has no bytes to speak of, but each of them is read.
 */
#define SOURCE_BEHIND_BYTES (128u << 10)
#define SOURCE_BEHIND_PAGES 128u

/* An urgent batch: a request and the few that came while the one before was sent. */
#define SOURCE_URGENT_BYTES (64u << 10)
#define SOURCE_SERVED_MAX 64u

#define PART_HEAD 5u
#define PART_TAIL 13u /* EOS and footer */

/* What the bulk thread does next; the phase says what may still be undone. */
enum source_step {
	STEP_START, /* header to block list */
	STEP_ROUND,
	STEP_LAST_PAGES, /* precopy, guest paused */
	STEP_DEVICE,
	STEP_EOF,
	STEP_DISCARD, /* postcopy, guest paused */
	STEP_PACKAGE,
	STEP_BACKGROUND,
	STEP_ARRIVED, /* in front of an end mark on the urgent channel */
	STEP_END,
	STEP_ANSWER, /* all is written: SHUT is owed */
	STEP_HELLO,  /* recovery: is it the destination of this migration? */
	STEP_PROOF,
	STEP_BITMAPS, /* what is missing there? */
	STEP_URGENT,
	STEP_RESUME,
	STEP_ACK,
};

/*
 * Can it still be cancelled? One word decides between source_want_cancel() and the
 * bulk thread that is about to send what makes the destination start.
 */
enum source_fate {
	FATE_OPEN,
	FATE_CANCEL, /* by source_want_cancel() */
	FATE_CLOSED, /* by the bulk thread */
};

enum urgent_state {
	URGENT_NONE,
	URGENT_OPENING,
	URGENT_OPEN,
	URGENT_GIVEN_UP,
	URGENT_REFUSED, /* in a recovery, though there was one */
};

/* Is the destination one of ours? See PING_WHO */
enum source_peer {
	PEER_UNKNOWN,
	PEER_OTHER,
	PEER_OURS,
};

/* Pages whose dirty bits are cleared and which are to go out one after another. */
struct source_span {
	unsigned block;
	uint64_t page;
	uint64_t end;
};

struct source_channel {
	struct source_span span;
	int last_block; /* of the record before, -1: name it */
};

/* Bounded, one producer (request thread), one taker. */
struct source_queue {
	uint32_t head; /* shared, taker writes */
	uint32_t tail; /* shared, request thread writes */
	struct source_request slot[SOURCE_QUEUE];
};

/* The request being served, and those whose last page is in the batch under way. */
struct source_serving {
	struct source_request request; /* page, pages: what is left of it */
	bool active;
	bool found; /* any dirty page in it */
	unsigned served;
	uint64_t since_ns[SOURCE_SERVED_MAX];
};

/* A limit: bytes that may be sent now. No limit: rate is 0. */
struct source_bucket {
	uint64_t rate;
	uint64_t at_ns;
	uint64_t until_ns;
	int64_t bytes;
};

/* Bandwidth: bytes against time, apart from the time that a limit made us wait. */
struct source_meter {
	uint64_t mark_ns;
	uint64_t bytes;
	uint64_t busy_ns;
	uint64_t wait_ns;
	uint64_t waits;
	bool waiting;
};

/* Multifd, source_multifd.c; all of it is the bulk thread's */
#define SOURCE_ZEROS_MAX 4096u

struct source_multifd {
	unsigned lanes;
	struct source_lane {
		bool sending;
		unsigned syncs; /* that it owes */
		uint32_t taken; /* bytes off the limit for what it sends */
	} lane[SOURCE_LANES_MAX];
	uint64_t number; /* of the next packet */
	bool section;	 /* of the main channel, begun and not ended */
	bool unmarked;	 /* a lane has got pages since the last mark */
	struct source_zero {
		unsigned block;
		uint64_t page;
	} zero[SOURCE_ZEROS_MAX]; /* pages for the main channel, in order */
	unsigned zeros;
};

/* Pages beside the stream, source_beside.c */
enum source_beside {
	BESIDE_NONE,
	BESIDE_LIST,  /* announced, for no pages: the two ends meet */
	BESIDE_PAGES, /* announced */
	BESIDE_OPEN,  /* pages are handed over */
	BESIDE_LAST,  /* all of them were */
};

struct source {
	/* fixed */
	const struct source_ops *ops;
	void *ctx;
	struct source_config config;
	struct source_block block[RAM_BLOCKS_MAX];
	unsigned blocks;
	bool return_path;

	/* shared */
	enum source_phase phase; /* bulk thread writes */
	enum source_fate fate;
	bool want_postcopy;    /* anybody sets */
	bool urgent_open;      /* bulk thread writes, before POSTCOPY and in RECOVER */
	bool urgent_end;       /* bulk thread sets: send the end mark; request thread clears */
	bool held_back;	       /* request thread sets: the queue was full; taker clears */
	bool pong;	       /* request thread sets */
	bool acked;	       /* the same: SWITCHOVER_ACK was said */
	bool arrived;	       /* request thread sets: the PONG to PING_ARRIVED */
	enum source_peer peer; /* request thread writes */
	uint64_t shut;	       /* request thread writes: SHUT_SAID and the value */
	uint64_t heard_ns;     /* request thread writes: last message */
	bool resuming;	       /* bulk thread sets: POSTCOPY_RESUME is said */
	bool resumed;	       /* request thread sets: and answered */
	unsigned bitmaps_told; /* request thread writes: of so many blocks dirty is anew */
	/* dirty, or taken for the urgent channel and not with the kernel yet */
	uint64_t pages_left;
	struct source_queue queue;
	struct source_counters counters;
	/* id, known, source: bulk thread; dest: request thread; said and proven tell the other */
	struct identity identity;

	/* bulk */
	enum source_step step;
	enum urgent_state urgent;
	bool sending; /* a batch is out */
	bool paused;  /* pause() was, resume() was not */
	bool start_begun;
	bool start_sent;
	unsigned start_block;
	unsigned bitmaps_asked;
	bool had_urgent; /* a channel, at some time */
	uint64_t wake_ns;
	uint64_t begun_ns;  /* of precopy */
	uint64_t wanted_ns; /* postcopy, since when; UINT64_MAX: not yet */
	uint64_t answer_ns; /* SHUT, or a word of the recovery, is owed since then */
	uint64_t round_ns;
	uint64_t round_bytes;
	unsigned cursor_block;
	uint64_t cursor_page;
	struct source_bucket bucket;
	struct source_meter meter;
	struct source_multifd multifd;
	enum source_beside beside;
	const void *device;
	size_t device_bytes;
	enum wh_device_format device_format;

	/* request */
	uint64_t reply_offset;
	int reply_block;   /* of the last REQ_PAGES_ID, -1 none */
	int bitmap_block;  /* whose bitmap comes next on the return path, -1 none */
	bool urgent_prove; /* in front of the first page there */
	bool urgent_over;  /* the end mark is out */
	bool urgent_sending;
	uint64_t urgent_pages; /* in the batch that is out */

	/* CHANNEL_MAIN: bulk, CHANNEL_URGENT: request */
	struct source_channel channel[CHANNEL_COUNT];

	/* taker */
	struct source_serving serving;
};

#define SHUT_SAID (UINT64_C(1) << 32)

/* source_next() goes round once more */
#define SOURCE_AGAIN 100

static inline uint64_t source_block_pages(const struct source_block *block)
{
	return block->region->length / TARGET_PAGE;
}

static inline void source_count(uint64_t *counter, uint64_t by)
{
	__atomic_fetch_add(counter, by, __ATOMIC_RELAXED);
}

/* Nothing more happens on this connection */
static inline bool source_over(enum source_phase phase)
{
	return phase == SOURCE_PAUSED || source_phase_ended(phase);
}

/* source.c */
void source_move(struct source *source, enum source_phase to, const struct wh_err *err);
/*
 * It goes no further: move to where the phase's table sends a broken migration,
 * resuming the guest where that is right. *@reason says why and is completed.
 * Return: the code of *@reason, or SOURCE_ENDED if it was cancelled
 */
int source_break(struct source *source, struct wh_err *reason);
/* The last moment to cancel has passed. Return: 0, or what source_next() returns */
int source_commit(struct source *source, struct wh_err *err);
/* OR what was written into the dirty bitmaps and count them */
int source_sync(struct source *source, struct wh_err *err);
/* @who failed: sees to it that there is a sentence. Return: @ret */
int source_said(struct wh_err *err, int ret, const char *who);
/* Returns SOURCE_SEND; a batch with pages counts against the limit */
int source_send(struct source *source, struct batch *batch, bool limited);
int source_wait(struct source *source, uint64_t wake_ns);

/* source_batch.c: bytes into a batch. The caller has asked for room. */
void batch_reset(struct batch *batch);
bool batch_room(const struct batch *batch, unsigned iovs, size_t arena_bytes);
uint8_t *batch_arena(struct batch *batch);
void batch_commit(struct batch *batch, size_t length);
void batch_point(struct batch *batch, const void *data, size_t length);
void batch_command(struct batch *batch, const struct cmd_msg *msg, const struct wire_range *ranges);
void batch_bare_command(struct batch *batch, enum cmd_kind kind);
void batch_ping(struct batch *batch, uint32_t value);
void batch_part(struct batch *batch, enum section_type part_or_end);
void batch_part_end(struct batch *batch);

/* source_page.c: pages off the dirty map */
struct source_fill {
	size_t bytes_max;
	uint64_t pages_max;
};
/* Make the span the (host) page that @page lies in, if nobody else has taken it. */
bool source_claim(struct source *source, enum channel channel, unsigned block, uint64_t page);
/* Put the span's pages into the batch while there is room. Return: is it finished? */
bool source_put_span(struct source *source, enum channel channel, struct batch *batch);
/* From the cursor on, in order. Return: pages put; less than there was room for at the end */
uint64_t source_fill(struct source *source, struct batch *batch, const struct source_fill *fill);
void source_rewind(struct source *source);
/* Is the span, of the main channel, one to be sent? If it is used up, the next one is taken */
bool source_have_page(struct source *source);

/* source_multifd.c */
/* A section ends; with a @mark, if there are lanes */
void source_part_end(struct source *source, struct batch *batch, bool mark);
/*
 * Lanes carry pages, here is the main channel's part of it. Return: as source_next();
 * SOURCE_AGAIN: nothing is dirty, and all of the others are with the lanes
 */
int source_lanes_pages(struct source *source, uint64_t now_ns, struct batch *batch,
		       struct wh_err *err);
/* ram's END, which may have begun */
void source_lanes_end(struct source *source, struct batch *batch);

/* source_beside.c */
/* In a section: pages come next, beside the stream. @next: BESIDE_LIST or BESIDE_PAGES */
void source_beside_begin(struct source *source, struct batch *batch, enum source_beside next);
/* Return: as source_next(); SOURCE_AGAIN: nothing is dirty, and all is with the destination */
int source_beside_pages(struct source *source, uint64_t now_ns, size_t bytes_max,
			struct batch *batch);
/* The bracket there is ends early. Return: as source_next(); SOURCE_AGAIN: there is none any more */
int source_beside_stop(struct source *source, struct batch *batch);

/* source_start.c */
int source_start(struct source *source, uint64_t now_ns, struct batch *batch);

/* source_rate.c */
void bucket_set(struct source_bucket *bucket, uint64_t rate, uint64_t now_ns);
/* Return: 0, or when to look again. *@bytes: that may be sent, at most BATCH_BYTES */
uint64_t bucket_wait(struct source_bucket *bucket, uint64_t now_ns, size_t *bytes);
void bucket_take(struct source_bucket *bucket, size_t bytes);
void meter_start(struct source_meter *meter, uint64_t now_ns);
void meter_mark(struct source_meter *meter, uint64_t now_ns, bool waits_from_here);
/* Fold what was measured into the estimate. Return: the new one */
uint64_t meter_estimate(struct source_meter *meter, uint64_t estimate, uint64_t min_ns);

/* source_round.c */
void source_round_begin(struct source *source, uint64_t now_ns);
int source_round(struct source *source, uint64_t now_ns, struct batch *batch, struct wh_err *err);

/* source_switch.c */
/* Is the urgent channel settled, so that postcopy may begin? */
bool source_urgent_settled(struct source *source, uint64_t now_ns);
/* Is it known whether the destination is one of ours, or need it not be known? */
bool source_peer_settled(const struct source *source, uint64_t now_ns);
int source_switch(struct source *source, bool postcopy, uint64_t now_ns, struct wh_err *err);
int source_last_pages(struct source *source, uint64_t now_ns, struct batch *batch,
		      struct wh_err *err);
int source_device(struct source *source, struct batch *batch);
int source_eof(struct source *source, struct batch *batch, struct wh_err *err);
int source_discard(struct source *source, struct batch *batch);
int source_package(struct source *source, struct batch *batch, uint64_t now_ns, struct wh_err *err);

/* source_background.c */
int source_background(struct source *source, uint64_t now_ns, struct batch *batch);
int source_arrived(struct source *source, uint64_t now_ns, struct wh_err *err);
int source_end(struct source *source, struct batch *batch);
int source_answer(struct source *source, uint64_t now_ns, struct wh_err *err);
/* Something is owed by the destination. Return: as source_next(): wait, or it is gone */
int source_owed(struct source *source, uint64_t now_ns, struct wh_err *err);

/* source_recover.c */
int source_hello(struct source *source, struct batch *batch, struct wh_err *err);
int source_proof(struct source *source, uint64_t now_ns, struct batch *batch, struct wh_err *err);
int source_ask_bitmaps(struct source *source, uint64_t now_ns, struct batch *batch,
		       struct wh_err *err);
int source_reopen_urgent(struct source *source, uint64_t now_ns, struct wh_err *err);
int source_say_resume(struct source *source, struct batch *batch);
int source_await_ack(struct source *source, uint64_t now_ns, struct wh_err *err);
/* Request thread, as source_request.c's: RECV_BITMAP, and the bitmap behind it */
int source_take_bitmap(struct source *source, const struct wire_name *name, struct wh_err *err);
int source_take_bits(struct source *source, const uint8_t *buf, size_t length, size_t *used,
		     struct wh_err *err);
int source_take_ack(struct source *source, uint32_t value, struct wh_err *err);
int source_take_hello(struct source *source, const struct rp_msg *msg, struct wh_err *err);

/* source_request.c */
bool source_queue_empty(const struct source *source);
/*
 * Requested pages into the batch: whole host pages, until @fill is reached or no
 * request waits. Taker. Return: pages claimed by it
 */
uint64_t source_serve(struct source *source, enum channel channel, struct batch *batch,
		      const struct source_fill *fill);
/* The batch is with the kernel: requests answered by it */
void source_served(struct source *source, uint64_t now_ns);

#endif /* POSTCOPY_SOURCE_INTERNAL_H */
