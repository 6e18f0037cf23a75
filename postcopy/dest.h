/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_DEST_H
#define POSTCOPY_DEST_H

#include "base/hist.h"
#include "base/region.h"
#include "postcopy/dest_multifd.h"
#include "postcopy/phase.h"
#include "recover/identity.h"
#include "recover/plan.h"
#include "uffd/uffd.h" /* enum placed */
#include "wire/device.h"
#include "wire/stream.h"

/*
 * The destination: what to do with bytes from the source and with faults of the
 * guest. An engine: no descriptor, clock, thread or allocation; it meets the world
 * through struct dest_ops.
 *
 * Two threads may be in it at once: the bulk thread (main channel, everything not
 * said otherwise) and the fault thread (dest_fault(), dest_removed(), dest_read(), the
 * urgent channel), or one thread may do both. Shared are the three bitmaps of a block,
 * the table of waiters, and the counters, all atomic. Only the bulk thread moves the
 * phase: what fails on the other one is kept until dest_step().
 *
 *	arrived		contents are being placed or were: whoever sets the bit
 *			places the page, the other drops its copy. Of a host page, from
 *			arming on, the bit of its first target page stands for all
 *	received	it is in place; set only after that
 *	asked		a thread waits for it: requested, or on its way already, or to be
 *			requested when there is a connection again; of a host page the
 *			bit of its first target page
 *
 * A fault on a page whose received bit is set, and which yet is absent, is one
 * that is zero: never filled in since precopy said it is zero, or removed by the
 * guest. It gets a zero page.
 */

enum channel {
	CHANNEL_MAIN,
	CHANNEL_URGENT,
	CHANNEL_COUNT
};

/* None that bytes come on: the pace of zero pages that dest_fault() has to try again */
#define CHANNEL_FAULT ((enum channel)CHANNEL_COUNT)

struct dest_block {
	const struct region *region;
	uint64_t used;	    /* bytes; of the list, at most region->length */
	uint64_t page_size; /* in which it is placed: the larger of ours and the source's */
	uint64_t piece;	    /* a run ends at a multiple of it, bytes; 0: RUN_BYTES */
	uint64_t *arrived;  /* one bit a target page, in all three */
	uint64_t *received;
	uint64_t *asked;
	bool fresh; /* discarded and not written since: absent pages are zero */
};

/**
 * struct dest_ops - The world, as the engine sees it
 * @block:	A line of the block list: find or make its memory and fill in all of
 *		*@block, bitmaps zeroed. Called in list order, for dest->blocks
 * @send:	A whole message for the return path; may be called on both threads. Counts
 *		bytes_return
 *		A request may come behind SHUT, of a fault whose page has just been placed:
 *		it is not to be sent any more
 * @send_bitmap: @message (as send()), and behind it the received bitmap of the block as
 *		wire/bitmap.h has it, nothing in between; bulk thread
 * @resumed:	In RUNNING again: dest_announce() is to be called on the fault thread, from
 *		now on until it says that it is finished; bulk thread
 * @room:	Where contents of this page go before place(); on the page's thread
 * @place:	As placer_place(); @done as there
 * @zero:	As placer_zero(). Changes neither a page that is there already (the guest
 *		may have written it) nor what lies in room(): PLACED_BEFORE. Behind disarm()
 *		nothing at all: PLACED_GONE. A fault is looked at while the other thread ends it
 * @hold:	NULL if guest memory is never removed; else takes (true) and gives back the
 *		lock that whoever calls dest_removed() holds from before it reads the event.
 *		Taken while contents are put into room(), which may be memory the guest has
 *		in use again. place() has to look at the received bits under it itself, and
 *		says PLACED_CHANGING if one is set by then
 * @ahead:	As room(), for contents that are not there yet: they may turn out to be those
 *		of another page, and of this page another channel's may come meanwhile,
 *		unless it is @owned. NULL if they have to come some other way
 * @read:	Fetch this page, of 4 KiB, by other means than a request: dest_read() follows, or
 *		dest_unread(). false: it cannot be; fault thread; may be NULL
 * @wake:	Waiters in the range
 * @discard:	Drop memory so that it is missing and stays so until it is armed, if the phase is
 *		DISCARD; before that it may be filled again by whatever comes
 * @arm:	Missing pages fault from here on, and dest_fault() hears of them
 * @disarm:	Everything is in place
 * @buffer:	A buffer of at least @size bytes, old contents kept; one, owned by the world
 * @device:	Device state; 0 loaded, WH_PENDING dest_device_loaded() will say
 * @start:	Run the guest
 * @moved:	The phase changed; err is the reason of FAILED and PAUSED, else NULL
 * @hurry:	A thread of the guest waits for what lies in the main channel's run: its own
 *		thread, if it sleeps, is to call dest_idle(). On the fault thread; may be NULL
 * @last_page:	No page is missing any more: called once, on the thread that placed it
 *		(the bulk thread if none was missing from the beginning)
 * @hook:	What comes next beside the stream may begin (RDMA); bulk thread. NULL: nothing does
 * @unhook:	Where something did: it is over, the source writes to memory no longer; bulk thread
 * @random:	A number that nobody can know; bulk thread. NULL: no migration has an id
 */
struct dest_ops {
	int (*block)(void *ctx, const struct ram_block *line, struct dest_block *block,
		     struct wh_err *err);
	int (*send)(void *ctx, const void *message, size_t length, struct wh_err *err);
	int (*send_bitmap)(void *ctx, const void *message, size_t length, unsigned block,
			   struct wh_err *err);
	void (*resumed)(void *ctx);
	uint8_t *(*room)(void *ctx, enum channel channel, unsigned block, uint64_t offset);
	enum placed (*place)(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			     uint64_t length, bool wake, uint64_t *done, struct wh_err *err);
	enum placed (*zero)(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			    uint64_t length, bool wake, uint64_t *done, struct wh_err *err);
	void (*hold)(void *ctx, bool hold);
	uint8_t *(*ahead)(void *ctx, enum channel channel, unsigned block, uint64_t offset,
			  bool owned);
	bool (*read)(void *ctx, unsigned block, uint64_t offset);
	int (*wake)(void *ctx, unsigned block, uint64_t offset, uint64_t length,
		    struct wh_err *err);
	int (*discard)(void *ctx, unsigned block, uint64_t offset, uint64_t length,
		       struct wh_err *err);
	int (*arm)(void *ctx, struct wh_err *err);
	int (*disarm)(void *ctx, struct wh_err *err);
	uint8_t *(*buffer)(void *ctx, size_t size, struct wh_err *err);
	int (*device)(void *ctx, const void *data, size_t length, enum wh_device_format format,
		      struct wh_err *err);
	int (*start)(void *ctx, struct wh_err *err);
	void (*moved)(void *ctx, enum dest_phase from, enum dest_phase to,
		      const struct wh_err *err);
	void (*hurry)(void *ctx);
	void (*last_page)(void *ctx);
	int (*hook)(void *ctx, struct wh_err *err);
	void (*unhook)(void *ctx);
	int (*random)(void *ctx, struct identity_number *number, struct wh_err *err);
};

struct dest_config {
	bool postcopy;
	bool switchover_ack;
	uint64_t device_state_max; /* bytes */
	uint64_t urgent_wait_ns;   /* after EOF, for pages still on the urgent channel */
	unsigned lanes;		   /* of multifd, exactly; 0: as many as come */
	bool gather;		   /* dest_multifd_gathered() will be called */
	uint64_t gather_wait_ns;   /* for lanes that are to come; 0: for ever, as below */
	uint64_t lane_wait_ns;	   /* for one that says nothing where a mark is owed */
};

/* Of the description behind precopy's device state, which does not count as such */
#define DEST_VMDESC_MAX (16u << 20)

/* Faults waited for at once: vCPU and device threads of one guest */
#define DEST_WAITERS 256u
#define DEST_THREADS 256u

/* What a fault waits for; a slot is free while key is 0 */
struct dest_waiter {
	uint64_t key; /* 1 + block << 48 | host page */
	uint64_t since_ns;
	uint32_t thread; /* index into threads */
};

struct dest_thread {
	uint32_t tid; /* 0: free */
	uint64_t faults;
	uint64_t waited_ns;
};

/*
 * A run of neighbouring pages that came on a channel and are not placed yet. It begins
 * with a host page (or behind what of one was placed) and may end within one that is
 * still being put together.
 */
struct dest_run {
	unsigned block;
	uint64_t offset;
	uint64_t length;
	bool zero;
};

struct dest_channel {
	struct dest_run run;
	struct ram_in urgent; /* of CHANNEL_URGENT; the main one's is in stream */
	uint64_t retry_ns;    /* grows while place() says that the map is changing, else 0 */
	bool open;	      /* connected and not lost */
	bool eos;
	bool proven; /* the urgent one of a connection that resumes: by its first bytes */
	/* private to dest.c, dest_page.c */
	uint64_t no_memory_since_ns;
	struct ram_event held; /* a page there was no room for yet; its contents come again */
	bool holding;
	bool inside; /* of a host page, which goes on at ... */
	bool before; /* and whose copy is dropped */
	unsigned next_block;
	uint64_t next_offset;
	/* private to dest_ahead.c: so many pages have come in a row, the last one is ... */
	unsigned row;
	unsigned row_block;
	uint64_t row_offset;
};

struct dest_counters {
	uint64_t bytes[CHANNEL_COUNT];
	uint64_t bytes_return;
	uint64_t pages_normal, pages_zero, pages_xbzrle, pages_urgent, pages_before;
	uint64_t pages_missing; /* from arming on */
	uint64_t requests;
	uint64_t faults;
	struct hist fault_hist; /* of those that had to wait for a page */
};

struct dest {
	const struct dest_ops *ops;
	void *ctx;
	struct dest_config config;
	enum dest_phase phase;
	struct stream_in stream;
	struct wire_name machine; /* of the configuration section; for people */
	struct dest_block block[RAM_BLOCKS_MAX];
	unsigned blocks;
	/* and CHANNEL_FAULT: of the fault thread, whatever becomes of a link */
	struct dest_channel channel[CHANNEL_COUNT + 1];
	struct dest_multifd multifd; /* see there */
	enum section_type section;   /* of the main channel, the last that began */
	struct dest_waiter waiter[DEST_WAITERS];
	uint32_t waiting; /* slots in use */
	struct dest_thread thread[DEST_THREADS];
	struct dest_counters counters;
	bool return_path;
	bool acked;   /* SWITCHOVER_ACK was said */
	bool reading; /* atomic: a page that was read is not in place yet, and does not come again */
	bool hurry;   /* a fault waits for a page that lies in a run */
	int last_asked; /* block of the last REQ_PAGES_ID on this connection, -1 none */
	/* private to dest_load.c: package and device state */
	uint8_t *buffer;
	size_t buffer_room;
	size_t buffered;
	struct device_scan scan;
	uint32_t pending_ping[PACKAGE_PINGS_MAX];
	unsigned pending_pings;
	bool device_pending;
	bool ended;	/* EOF was seen: nothing more comes on the main channel */
	bool committed; /* SHUT was said or the guest started: no SHUT 1 any more */
	/* private to dest.c, dest_stream.c */
	bool have_blocks;
	bool beside; /* pages have come beside the stream, and may yet */
	bool advised;
	uint64_t advised_sizes;
	uint64_t ending_since_ns;
	bool fault_failed; /* on the fault thread; fault_err says how */
	struct wh_err fault_err;
	/* private to dest_recover.c: requests to be said again, and whose bitmap was said */
	struct plan plan;
	struct plan_block plan_block[RAM_BLOCKS_MAX];
	uint64_t bitmaps_said[RAM_BLOCKS_MAX / 64];
	struct identity identity;
	bool resumes; /* this connection is not the first; of both threads when it is open */
};

void dest_init(struct dest *dest, const struct dest_ops *ops, void *ctx,
	       const struct dest_config *config);

/*
 * A connection is there; the first is the main one. A refusal changes nothing. Bulk thread.
 *
 * In PAUSED a main one resumes the migration: not before dest_parked(), and while the fault
 * thread is neither in dest_input() nor in dest_fault() with a request on its way that is
 * not sent yet, since this connection would get it.
 */
int dest_connected(struct dest *dest, enum channel channel, struct wh_err *err);

/**
 * dest_input() - Bytes of a channel
 * @used:	Taken from the front; the rest, if any, comes again with more behind it
 *		(at most dest_need() bytes are ever needed at once)
 *
 * On the channel's thread. Pages are copied out before it returns.
 *
 * What follows the end of a stream is taken and ignored.
 *
 * Return: 0 all that could be taken was; DEST_RETRY: call again with the rest after
 * dest->channel[].retry_ns (events must be read meanwhile); DEST_MARK: when
 * dest_multifd_waits() no longer; or a negative errno and a
 * sentence: on the main channel the engine has moved to FAILED or PAUSED and said so to
 * the peer; on the urgent one it does so in the next dest_step(), or when told of the
 * loss by dest_link_lost(), on the bulk thread
 */
#define DEST_RETRY 2
int dest_input(struct dest *dest, enum channel channel, const uint8_t *buf, size_t length,
	       size_t *used, uint64_t now_ns, struct wh_err *err);
size_t dest_need(const struct dest *dest, enum channel channel);

/* Pages expected in a row at most, and what stands in front of each: be64 */
#define DEST_AHEAD_MAX 64u
#define DEST_HEAD_BYTES 8u

struct dest_ahead {
	unsigned count;
	bool begun; /* the head of the first one was taken already */
	uint8_t *at[DEST_AHEAD_MAX];
};

/**
 * dest_expect() - Where the contents of the next pages go, if they come in a row
 *
 * On the channel's thread, when the last dest_input() has taken all it could. What is
 * received there is given to dest_input() piece by piece where it lies, head, contents,
 * head, ... After each head dest_contents() tells whether it was the one expected; if
 * not, the rest has to be given to dest_input() from somewhere else, behind
 * dest_unexpected(). Nothing is promised: a plan may be dropped.
 *
 * Return: ahead->count; 0 if there is nothing to go by
 */
unsigned dest_expect(struct dest *dest, enum channel channel, struct dest_ahead *ahead);
/* Where contents are to lie whose head was just taken; NULL: none are next, or not so */
uint8_t *dest_contents(struct dest *dest, enum channel channel);
/* Pages first to end - 1 of what was expected may have been written to, in vain */
void dest_unexpected(struct dest *dest, enum channel channel, const struct dest_ahead *ahead,
		     unsigned first, unsigned end);

/**
 * dest_idle() - No more bytes at hand: place what lies in runs
 *
 * On the channel's thread, before it sleeps. Return: as dest_input()
 */
int dest_idle(struct dest *dest, enum channel channel, uint64_t now_ns, struct wh_err *err);
/*
 * May the main channel's thread sleep for a moment without dest_idle()? There is a run that
 * neighbours would make longer, and as far as is known nobody waits for it; hurry() tells if
 * somebody does.
 */
bool dest_may_wait(const struct dest *dest);

/**
 * dest_fault() - A thread of the guest waits for a page
 * @offset:	Any byte of it
 * @tid:	0 if unknown
 *
 * Fault thread. Asks the source, unless the page was asked for, or places a zero page,
 * or just wakes. Does not touch guest memory.
 *
 * Return: 0; DEST_RETRY: placing a zero page has to be tried again in a while, call
 * again; or a negative errno and a sentence if the request could not be sent: the fault
 * is remembered; or if no zero page could be placed: dest_step() will say so as well
 */
int dest_fault(struct dest *dest, unsigned block, uint64_t offset, uint32_t tid, uint64_t now_ns,
	       struct wh_err *err);

/**
 * dest_read() - A page that was to be read is there
 * @page:	Aligned as zero_page() needs it
 *
 * Fault thread. It is taken as one of the urgent channel, of which nothing may come meanwhile.
 *
 * Return: 0; DEST_RETRY: the one before cannot be placed yet, and this one was not taken: call again
 * after dest->channel[CHANNEL_URGENT].retry_ns; or a negative errno and a sentence: dest_step() will
 * say so as well
 */
int dest_read(struct dest *dest, unsigned block, uint64_t offset, const uint8_t *page,
	      uint64_t now_ns, struct wh_err *err);
/*
 * Place what was taken and is not placed yet. Return: 0 nothing is left of that; DEST_RETRY: call again,
 * as above; or a negative errno, as above
 */
int dest_read_step(struct dest *dest, uint64_t now_ns, struct wh_err *err);
/* It cannot be read after all: it is asked for. Return: as dest_fault() */
int dest_unread(struct dest *dest, unsigned block, uint64_t offset, struct wh_err *err);

/* The guest dropped this range (UFFD_REMOVE): it reads as zeros from here on. Fault thread. */
void dest_removed(struct dest *dest, unsigned block, uint64_t offset, uint64_t length);

/*
 * In PAUSED; fault thread. Its channel is gone: what has come on it and is not in place may
 * come again, on the next one.
 */
void dest_parked(struct dest *dest);

/**
 * struct dest_past - What an engine has to know of one that has died
 * @blocks:	The list of the stream; block() is called for each, and brings the received bits
 * @ram_id:	Section id of ram in the stream
 * @id:		Of the migration, if it @has_id
 */
struct dest_past {
	struct ram_blocks blocks;
	struct identity_number id;
	uint32_t ram_id;
	bool has_id;
};

/**
 * dest_adopt() - Go on with a migration whose engine has died
 *
 * In SETUP, before any other function. Leads to PAUSED as if the link had broken: arms, and
 * wakes all who wait, so that their faults are heard of again. The guest is, or is about to
 * be, started by somebody else.
 *
 * Return: 0, or a negative errno and a sentence: in SETUP still
 */
int dest_adopt(struct dest *dest, const struct dest_past *past, struct wh_err *err);

/**
 * dest_announce() - After resumed(): ask again for what threads wait for; fault thread
 * @max:	Requests at most, for which the return path has room
 *
 * Return: 1 there are more of them, 0 finished, or a negative errno and a sentence:
 * dest_step() will say so as well
 */
int dest_announce(struct dest *dest, unsigned max, struct wh_err *err);

/* After WH_PENDING; bulk thread */
int dest_device_loaded(struct dest *dest, int result, uint64_t now_ns, struct wh_err *err);

/*
 * The other end closed (reason NULL) or the link broke. Bulk thread, for either channel;
 * no dest_input() or dest_idle() of that channel is running, or follows.
 */
void dest_link_lost(struct dest *dest, enum channel channel, const struct wh_err *reason);

/**
 * dest_step() - What time and the other thread have made possible; bulk thread
 * @wake_ns:	When to call it again at the latest, UINT64_MAX: not needed
 *
 * Finishes after EOF when the last page is in.
 */
int dest_step(struct dest *dest, uint64_t now_ns, uint64_t *wake_ns, struct wh_err *err);

/*
 * Has an urgent channel to begin with a proof (of 8 bytes)? And is this one? Bulk thread, and
 * the bytes come again in dest_input().
 */
bool dest_urgent_proves(const struct dest *dest);
bool dest_urgent_proof_is(const struct dest *dest, const uint8_t proof[8]);

/* Any thread */
enum dest_phase dest_get_phase(const struct dest *dest);

#endif /* POSTCOPY_DEST_H */
