/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_DEST_ENGINE_H
#define POSTCOPY_DEST_ENGINE_H

#include "postcopy/dest.h"

/*
 * What the files of the destination share. Nobody else includes it.
 *
 *	dest.c		connections, phases, failures, the end
 *	dest_stream.c	what the main channel says
 *	dest_load.c	device state: package, end of precopy, starting the guest
 *	dest_page.c	pages: arrive, place, receive-mark
 *	dest_multifd.c	pages: on channels of their own
 *	dest_ahead.c	pages: where they go before they have come
 *	dest_fault.c	faults: request, wake; who waits and for how long
 *	dest_read.c	pages that are not asked for, but read
 *	dest_recover.c	a new connection after a break
 */

static inline void count_add(uint64_t *counter, uint64_t more)
{
	__atomic_fetch_add(counter, more, __ATOMIC_RELAXED);
}

/* Faults are heard of, and pages placed */
static inline bool dest_armed(enum dest_phase phase)
{
	return phase == DEST_LISTENING || phase == DEST_RUNNING || phase == DEST_ENDING ||
	       phase == DEST_PAUSED || phase == DEST_RECOVER;
}

/* Nothing more happens on a connection */
static inline bool dest_over(enum dest_phase phase)
{
	return phase == DEST_PAUSED || phase == DEST_DONE || phase == DEST_FAILED;
}

/* dest.c */
void dest_move(struct dest *dest, enum dest_phase to, const struct wh_err *err);
int dest_send(struct dest *dest, const struct rp_msg *msg, struct wh_err *err);
int dest_say_shut(struct dest *dest, uint32_t value, struct wh_err *err);
/* The sentence of one of the world's functions, made up if it has none. Return: @ret */
int dest_because(struct wh_err *err, int ret, const char *what);
/* Bulk thread: FAILED or PAUSED. Return: err->code */
int dest_fail(struct dest *dest, struct wh_err *err);
/* Fault thread: for the next dest_step() to fail by. Return: err->code */
int dest_fail_later(struct dest *dest, const struct wh_err *err);

/* dest_stream.c */
int dest_event(struct dest *dest, const struct stream_event *event, uint64_t now_ns,
	       struct wh_err *err);
/* The list is in dest->stream */
int dest_block_list(struct dest *dest, struct wh_err *err);
/* The switch to postcopy: nothing comes beside the stream any more. Nothing has to have come */
void dest_beside_end(struct dest *dest);

/* dest_load.c */
int dest_buffer_begin(struct dest *dest, uint32_t length, struct wh_err *err);
int dest_package(struct dest *dest, const struct stream_event *event, uint64_t now_ns,
		 struct wh_err *err);
/* Bytes behind ram's END in precopy */
int dest_device(struct dest *dest, const uint8_t *data, size_t length, struct wh_err *err);
/* Precopy without a return path: the connection was closed, so this is all there is */
int dest_device_closed(struct dest *dest, struct wh_err *err);
/* Device state is in: what was waiting for it */
int dest_loaded(struct dest *dest, uint64_t now_ns, struct wh_err *err);
/* EOF in postcopy */
int dest_ended(struct dest *dest, uint64_t now_ns, struct wh_err *err);

/* dest_page.c */

#define RUN_BYTES (UINT64_C(2) << 20) /* a stage; larger host pages have a larger one */

/* Pages lie together in a run up to a multiple of this. What is urgent goes by itself, at once */
static inline uint64_t run_bytes(const struct dest_block *block, enum channel channel)
{
	if (channel == CHANNEL_URGENT)
		return block->page_size;
	return block->piece ? block->piece : RUN_BYTES;
}

/* The page was not taken: dest_channel.held has it, and its contents are to come again */
#define DEST_HELD 3

/* A zero page before arming, of a block's received bitmap as it was before */
void dest_zero_early(struct dest *dest, unsigned block, uint64_t offset);

/*
 * A page, in the phase there is. Return: 0, DEST_RETRY (it was taken), DEST_HELD, or a
 * negative errno
 */
int dest_page(struct dest *dest, enum channel channel, const struct ram_event *event,
	      uint64_t now_ns, struct wh_err *err);
/* Place all whole host pages of a channel's run. Return: 0, DEST_RETRY or negative errno */
int dest_flush(struct dest *dest, enum channel channel, uint64_t now_ns, struct wh_err *err);
/* Forget what is not placed, so that it may come again */
void dest_drop(struct dest *dest, enum channel channel);
/* Mark a range received. On the thread that placed it */
void dest_mark(struct dest *dest, unsigned block, uint64_t offset, uint64_t length);
/* After an outcome that allows to try again. Return: DEST_RETRY or -ENOMEM */
int dest_later(struct dest *dest, enum channel channel, enum placed outcome, uint64_t now_ns,
	       struct wh_err *err);
/* It went on: forget how long it did not */
void dest_went_on(struct dest *dest, enum channel channel);

/* dest_multifd.c */

/*
 * The main channel: RAM_MULTIFD_FLUSH, or RAM_EOS. Return: 0, DEST_MARK: it was taken, and
 * what follows has to wait, or a negative errno
 */
int dest_multifd_mark(struct dest *dest, bool flush, uint64_t now_ns, struct wh_err *err);
int dest_multifd_step(struct dest *dest, uint64_t now_ns, uint64_t *wake_ns, struct wh_err *err);
/* A connection that resumes has none of it */
void dest_multifd_forget(struct dest *dest);

/* dest_ahead.c */

/* A page has been taken */
void dest_row(struct dest_channel *c, const struct ram_event *event);

/* dest_fault.c */

/*
 * Host pages [first, end) of a block are received: nobody waits for them any more. With
 * DEST_NO_TIME the waits have not ended, they begin anew.
 */
#define DEST_NO_TIME UINT64_MAX
void dest_settle(struct dest *dest, unsigned block, uint64_t first, uint64_t end, uint64_t now_ns);
/*
 * A page that its bit in asked says is waited for, and that is not received: asked for, unless it is on
 * its way or nobody can be asked now. @read: it may be read instead. Return: as dest_fault()
 */
int dest_want(struct dest *dest, unsigned block, uint64_t offset, bool read, struct wh_err *err);
/* One host page. Fault thread. Return: 0 or a negative errno */
int dest_request(struct dest *dest, unsigned block, uint64_t offset, struct wh_err *err);

/* dest_recover.c */

/* PAUSED to RECOVER */
void dest_reconnected(struct dest *dest);
int dest_say_bitmap(struct dest *dest, const struct wire_name *name, struct wh_err *err);
int dest_resume(struct dest *dest, struct wh_err *err);
/* The id of the migration; who resumes it says hello, and proves to know the id */
int dest_take_id(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err);
int dest_hello(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err);
int dest_proof(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err);
#define DEST_PROOF_BYTES sizeof(uint64_t)
/* Fault thread: is the urgent channel to begin with a proof, and has not yet? */
bool dest_urgent_unproven(const struct dest *dest);
/* Return: 1 *@used bytes were one, 0 more are needed, -EPROTO */
int dest_urgent_proof(struct dest *dest, const uint8_t *buf, size_t length, size_t *used,
		      struct wh_err *err);
/* Fault thread: will dest_announce() come to this host page yet? */
bool dest_to_announce(const struct dest *dest, unsigned block, uint64_t first_page);
/* The block of this name, or dest->blocks */
unsigned dest_find_block(const struct dest *dest, const struct wire_name *name);

#endif /* POSTCOPY_DEST_ENGINE_H */
