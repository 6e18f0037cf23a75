/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_PROTECT_H
#define WHERRY_PROTECT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>
#include <wherry/migration.h>
#include <wherry/netplug.h>
#include <wherry/tls.h>

/*
 * A guest that survives its machine: while it runs it is copied to another one many times a
 * second, and what it sends is held until the copy that covers it is acknowledged.
 * Documentation/checkpoint.rst has the theory.
 */

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct wh_protect - The protection of one guest, one end of it
 *
 * WH_SOURCE is where the guest runs, WH_DEST where it would. There are no globals: a process may
 * have as many as it likes. Functions are for one thread at a time, but for those that say "any
 * thread".
 */
struct wh_protect;

/**
 * enum wh_protect_state - Where a protection is
 * @WH_PROTECT_SETUP:	Connecting, or waiting for the source. Nothing is protected
 * @WH_PROTECT_SYNC:	All of memory goes over. Nothing is held yet, nothing could be run over there
 *
 * At the source, the guest is protected and goes through these with each checkpoint:
 * @WH_PROTECT_ARMED:	The first only: output is held, the guest is about to be stopped
 * @WH_PROTECT_RUN:	It runs; all checkpoints are acknowledged
 * @WH_PROTECT_STOP:	It is asked to stand still
 * @WH_PROTECT_STAGE:	It does, and what changed is being copied
 * @WH_PROTECT_SEND:	It runs again; the copy goes over
 * @WH_PROTECT_WAIT_ACK: All of it is on its way
 *
 * At the destination likewise, which has a complete checkpoint all the time:
 * @WH_PROTECT_READY:	None is on its way
 * @WH_PROTECT_RECEIVING: The next one is
 * @WH_PROTECT_COMPLETE: It is here, and being looked at (of the first: and nothing is complete)
 *
 * @WH_PROTECT_DEGRADED: Source: more is written than one checkpoint has room for. It goes over in
 *			parts while the guest runs on or stands still, see enum wh_protect_full;
 *			when it is there the guest is protected as before. Until then what it sends
 *			is held, and the destination keeps the last complete one. Destination: it
 *			was told so, and no part has come yet, or they were refused
 * @WH_PROTECT_LEAVING:	Source: the destination is told that protection ends
 * @WH_PROTECT_HOLD:	Source: the destination is lost, or what holds the guest's output is. The
 *			guest runs on, nothing it sends gets out until somebody decides:
 *			wh_protect_release() or wh_protect_fence()
 * @WH_PROTECT_SUSPECT:	Destination: the source is lost. Somebody decides, see enum
 *			wh_protect_authority: wh_protect_takeover() or wh_protect_abandon()
 * @WH_PROTECT_APPLYING: Destination: it was decided to run here
 *
 * Ends:
 * @WH_PROTECT_TAKEOVER: The guest runs here, at the destination
 * @WH_PROTECT_FENCED:	The guest is the other side's: it stands still here, nothing of it leaves
 * @WH_PROTECT_RELEASED: Source: the guest is ours and goes on without protection
 */
enum wh_protect_state {
	WH_PROTECT_SETUP,
	WH_PROTECT_SYNC,
	WH_PROTECT_ARMED,
	WH_PROTECT_RUN,
	WH_PROTECT_STOP,
	WH_PROTECT_STAGE,
	WH_PROTECT_SEND,
	WH_PROTECT_WAIT_ACK,
	WH_PROTECT_READY,
	WH_PROTECT_RECEIVING,
	WH_PROTECT_COMPLETE,
	WH_PROTECT_DEGRADED,
	WH_PROTECT_LEAVING,
	WH_PROTECT_HOLD,
	WH_PROTECT_SUSPECT,
	WH_PROTECT_APPLYING,
	WH_PROTECT_TAKEOVER,
	WH_PROTECT_FENCED,
	WH_PROTECT_RELEASED,
	WH_PROTECT_STATE_COUNT
};

/* "setup", "wait-ack" and so on */
const char *wh_protect_state_name(enum wh_protect_state state);
/* Nothing leads out of it */
bool wh_protect_ended(enum wh_protect_state state);
/* Gone through with every checkpoint, many times a second: for a trace rather than a log */
bool wh_protect_cycles(enum wh_protect_state state);

/**
 * enum wh_protect_authority - Who decides that the guest is to run at the destination
 * @WH_PROTECT_MANUAL:	Whoever calls wh_protect_takeover(). The default
 * @WH_PROTECT_FENCE:	The callback @fence_peer, asked when the source was silent for the lease
 * @WH_PROTECT_ALONE:	The destination itself, when the source was silent for the lease. Right only
 *			if whatever the guest lets out is held: see @output_held
 */
enum wh_protect_authority {
	WH_PROTECT_MANUAL,
	WH_PROTECT_FENCE,
	WH_PROTECT_ALONE,
};

/**
 * enum wh_protect_full - What becomes of a guest that writes more than @contents_max allows
 * @WH_PROTECT_FULL_STALL: It stands still when it has written three quarters of that, until there
 *		is room; and so while the source is in DEGRADED, should it have been too much. The
 *		default
 * @WH_PROTECT_FULL_DEGRADE: It runs on, and when it was too much the source is in DEGRADED until it
 *		writes less than what goes over. What it sends is held meanwhile, so it stands
 *		still above @held_max in either case
 *
 * Nothing is let go in either case.
 */
enum wh_protect_full {
	WH_PROTECT_FULL_STALL,
	WH_PROTECT_FULL_DEGRADE,
};

/**
 * struct wh_protect_event - It is in another state
 * @epoch:	Source: open, or being closed; destination: of the last complete checkpoint
 * @generation:	Of the session; of a destination in TAKEOVER that under which it runs
 * @err:	Why, where there is a reason (DEGRADED, HOLD, SUSPECT, FENCED, RELEASED); else NULL
 */
struct wh_protect_event {
	enum wh_protect_state from, to;
	uint64_t epoch;
	uint64_t generation;
	const struct wh_err *err;
};

/**
 * struct wh_protect_callbacks - What the VMM does for it
 *
 * Called on the protection's thread. None may call back into the same protection, but for
 * wh_protect_get_status(). Unused ones are NULL. Those with an err return 0 or a negative errno
 * and may fill in a sentence.
 *
 * @event:	It is in another state; for a quick note, not for work
 * @log:	A line, no newline; rate-limited where the peer causes it
 *
 * Source:
 * @pause:	Stop the guest: when it returns, nothing writes guest memory and nothing is sent any
 *		more, devices included. If it fails it is tried again a little later
 * @resume:	It goes on. If it fails it is tried again a little later
 * @device_save: The guest's device state; it stands still. malloc()ed, the library frees it
 * @dirty_start, @dirty_sync, @dirty_stop: As in struct wh_callbacks. Without @dirty_sync the library
 *		tracks writes itself (userfaultfd WP_ASYNC), which does not see DMA by devices
 *
 * Destination:
 * @device_check: Could this be loaded? What is refused here is not acknowledged. Changes nothing
 * @fence_peer:	For WH_PROTECT_FENCE: see to it that the source does not run any more (cut its power,
 *		ask a witness). 0: it does not, and the guest is run here; WH_PENDING: that will take
 *		a while, and wh_protect_takeover() be called when it is so; a negative errno: asked
 *		again after another lease
 * @run:	The guest, from here on, memory being in place. @data is gone afterwards. Tell the
 *		network where it is several times, in the course of a second: a frame of its that
 *		was held may come out at the other side yet
 */
struct wh_protect_callbacks {
	void (*event)(void *opaque, const struct wh_protect_event *event);
	void (*log)(void *opaque, enum wh_log_level level, const char *line);

	int (*pause)(void *opaque, struct wh_err *err);
	int (*resume)(void *opaque, struct wh_err *err);
	int (*device_save)(void *opaque, void **data, size_t *length, struct wh_err *err);
	int (*dirty_start)(void *opaque, struct wh_err *err);
	int (*dirty_sync)(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			  struct wh_err *err);
	void (*dirty_stop)(void *opaque);

	int (*device_check)(void *opaque, const void *data, size_t length, struct wh_err *err);
	int (*fence_peer)(void *opaque, uint64_t generation, struct wh_err *err);
	int (*run)(void *opaque, const void *data, size_t length, struct wh_err *err);
};

/**
 * struct wh_protect_pace - How often: the time from one stop of the guest to the next
 * @min_ns:	Not shorter
 * @max_ns:	Not longer. The same as @min_ns: always that
 * @stop_ns:	The guest may stand still that long,
 * @duty_percent: and that part of the time
 * @hold_ns:	Output may wait that long for the answer
 *
 * While nothing is held nobody waits, and the next stop comes as late as @stop_ns, @duty_percent and
 * @max_ns let it; or when there is output after all. Without a plug it is not known whether there is.
 *
 * What is out of bounds is taken as the nearest that is not.
 */
struct wh_protect_pace {
	uint64_t min_ns, max_ns;
	uint64_t stop_ns;
	unsigned duty_percent;
	uint64_t hold_ns;
};

/* What contents may be packed with; the destination has to agree */
#define WH_PROTECT_ZERO 1u /* pages of zeros have no contents */
#define WH_PROTECT_UNCHANGED \
	2u		     /* pages that were written and are the same as before are left out */
#define WH_PROTECT_XBZRLE 4u /* what differs from the copy that was sent last */
#define WH_PROTECT_ZSTD 8u

/**
 * struct wh_protect_config - One end
 * @size:	sizeof(struct wh_protect_config), set by wh_protect_config_init()
 * @callbacks:	Copied
 * @opaque:	First argument of each
 * @generation_file: Where the number of the last session is kept, or a takeover's: what tells a
 *		source that has lost its guest from the one that has it. A path; the file is made
 *		if it is not there, and its folder has to be. One for each guest. Copied
 *
 * Source:
 * @plug:	Holds what the guest sends. It is the protection's from wh_protect_start() to
 *		wh_protect_free(), which does not free it, and WH_NETPLUG_IDLE at the beginning.
 *		NULL: nothing is held, for a guest that nobody outside hears
 * @pace:	See there
 * @heartbeat_ns: Both ends say so often that they are there
 * @lease_ns:	Silent for longer: lost. At least two heartbeats
 * @answer_ns:	And so is one who owes an answer for longer
 * @held_max:	Bytes of output that may wait; the guest stands still above it. Less than the limit
 *		of @plug, which drops what is above its own
 * @pack:	WH_PROTECT_ZERO and so on, or 0
 * @full:	See there
 * @copy_on_write: The guest stands still only until what it has written is write-protected
 *		(userfaultfd), and is copied while it runs: it waits where it writes before that is
 *		done. A shorter stop where what it writes lies together, or is not written all the
 *		time; a slower guest, since each page that it writes costs a message to a thread of
 *		the library. Writes are tracked in this way,
 *		too: dirty_start() to dirty_stop() are not called. Not for a guest whose devices
 *		write by DMA, or whose pages are dropped while it is protected (a balloon). It takes
 *		Linux 6.7, and the right to userfaultfd for faults of the kernel
 * @connect_timeout_ns: For both connections
 *
 * Destination:
 * @authority:	Who decides
 * @output_held: For WH_PROTECT_ALONE: whatever the guest lets out over there is held, or comes here
 *		with its checkpoint: network, disks, anything
 *
 * Both, the source's not above the destination's:
 * @contents_max: Bytes of pages in one checkpoint, and room for them in memory. A guest that writes
 *		more between two checkpoints waits, or is protected less: see @full
 * @device_max: The same of device state
 *
 * @tls:	Both connections speak TLS, with these credentials, which wh_protect_new() reads.
 *		NULL: neither does, and whoever connects first may say that he is the source
 */
struct wh_protect_config {
	size_t size;
	const struct wh_protect_callbacks *callbacks;
	void *opaque;
	const char *generation_file;

	struct wh_netplug *plug;
	struct wh_protect_pace pace;
	uint64_t heartbeat_ns;
	uint64_t lease_ns;
	uint64_t answer_ns;
	uint64_t held_max;
	uint64_t connect_timeout_ns;
	unsigned pack;
	enum wh_protect_full full;
	bool copy_on_write;

	enum wh_protect_authority authority;
	bool output_held;

	uint64_t contents_max;
	uint64_t device_max;

	const struct wh_tls *tls;
};

/*
 * Defaults: 5 to 500 ms between checkpoints, 5 ms and 5 % of standing still, 50 ms of waiting; a
 * heartbeat each 100 ms, a lease of 1 s, 10 s for an answer; 64 MiB of output, 256 MiB of pages;
 * everything packed but by zstd.
 */
void wh_protect_config_init(struct wh_protect_config *config);

/* Return: 0 and *@protect, for wh_protect_free(); or a negative errno and a sentence */
int wh_protect_new(struct wh_protect **protect, enum wh_role role,
		   const struct wh_protect_config *config, struct wh_err *err);

/**
 * wh_protect_free() - Stop its thread and give everything back, in any state
 *
 * Decides nothing: what is held stays held, a guest that stands still stays so. While it is
 * protected, that is as if this process had died; see wh_protect_stop().
 */
void wh_protect_free(struct wh_protect *protect);

/**
 * wh_protect_add_block() - A block of guest memory; at both ends the same ones, in any order
 *
 * Before wh_protect_connect() or wh_protect_listen(). At the destination it is written to until
 * the guest runs. It is not to be migrated meanwhile: a dirty log has one reader.
 */
int wh_protect_add_block(struct wh_protect *protect, const struct wh_block *block,
			 struct wh_err *err);

/**
 * wh_protect_connect() - Source: where to. wh_protect_listen() - Destination: where
 * @uri:	As for wh_connect() and wh_listen(); over rdma: there is no TLS
 * @pulse_uri:	The same for the second connection, on which both say that they are there, for
 *		instance over another network. NULL: as @uri; of fd: there have to be two
 *
 * Listens when it returns; connects from wh_protect_start() on.
 */
int wh_protect_connect(struct wh_protect *protect, const char *uri, const char *pulse_uri,
		       struct wh_err *err);
int wh_protect_listen(struct wh_protect *protect, const char *uri, const char *pulse_uri,
		      struct wh_err *err);
/* Where it really listens: port 0 is resolved. Valid until wh_protect_free() */
const char *wh_protect_listen_uri(const struct wh_protect *protect);

/**
 * wh_protect_start() - Go
 *
 * A thread of the library drives it from here on, until wh_protect_free(). The source makes the
 * number of the new session lasting first.
 *
 * Return: 0, or a negative errno and a sentence; then no thread runs
 */
int wh_protect_start(struct wh_protect *protect, struct wh_err *err);

/**
 * wh_protect_wait() - Until it is in a state that nothing leads out of; any thread
 * @timeout_ns:	Negative: for ever
 *
 * Return: 0 and it has ended; -EAGAIN: the time is up and it goes on
 */
int wh_protect_wait(struct wh_protect *protect, int64_t timeout_ns, struct wh_err *err);

/*
 * Decisions, for any thread but the protection's own, whose callbacks they would wait for. When
 * they return 0 it is decided, and an event says when it is done; otherwise it is a negative errno
 * and a sentence, and nothing has changed.
 */

/**
 * wh_protect_stop() - Source: end in order
 *
 * What is under way is acknowledged, the destination forgets the guest, then what is held leaves.
 * It ends in RELEASED; or in HOLD, if the destination is lost meanwhile.
 */
int wh_protect_stop(struct wh_protect *protect, struct wh_err *err);
/**
 * wh_protect_release() - Source, in HOLD: the destination does not run the guest and never will
 *
 * The guest goes on here, without protection; what is held leaves. If the other side runs after
 * all there are two guests.
 */
int wh_protect_release(struct wh_protect *protect, struct wh_err *err);
/* Source: the other side has the guest or will: what is held is dropped, the guest stands still */
int wh_protect_fence(struct wh_protect *protect, struct wh_err *err);
/**
 * wh_protect_takeover() - Destination: run the guest here, from the last complete checkpoint
 * @generation:	Above that of the session, as management counts; 0: the next one
 *
 * Also while the source is there, which is told and fences itself.
 */
int wh_protect_takeover(struct wh_protect *protect, uint64_t generation, struct wh_err *err);
/* Destination: never run it here */
int wh_protect_abandon(struct wh_protect *protect, struct wh_err *err);

/* Source: another pace, from the next checkpoint on; any thread but its own */
int wh_protect_set_pace(struct wh_protect *protect, const struct wh_protect_pace *pace,
			struct wh_err *err);

/**
 * struct wh_protect_status - How it stands, a moment ago
 * @generation:	Of the session; 0: there is none yet
 * @epoch:	Source: open, or being closed; destination: of the last complete checkpoint
 * @checkpoints: Acknowledged
 * @refused:	Sent again, or the guest could not be cut off for one
 * @interval_ns: Source: from one stop of the guest to the next, if the answer is there by then; it
 *		may be longer while nothing is held
 * @stop_ns:	Source: that it stood still for the last one
 * @stop_max_ns: And for the longest
 * @stop_sum_ns: And for all
 * @ack_ns:	Source: from resuming to the answer, of the last one
 * @ack_age_ns:	Since the last one was acknowledged; UINT64_MAX: none was
 * @heard_age_ns: Since the other side was last heard; UINT64_MAX: never
 * @dirty_bytes: Written by the guest between the last two
 * @wire_bytes:	Of the last one on the wire
 * @bytes:	On the wire, all together
 * @held_packets, @held_bytes: Output that waits; as of the plug
 * @held_age_ns: Source: the first of it waits for no longer than that; UINT64_MAX: none does
 * @dropped:	Output that was lost, above the plug's limit
 * @stalled:	Source: the guest stands still, since too much waits or is written
 * @degraded:	There was no room for a checkpoint, and none was acknowledged since: see enum
 *		wh_protect_full
 * @err:	Why it is in DEGRADED, HOLD, SUSPECT, FENCED or RELEASED; its code 0 if there is no reason
 */
struct wh_protect_status {
	enum wh_protect_state state;
	uint64_t generation;
	uint64_t epoch;
	uint64_t checkpoints;
	uint64_t refused;
	uint64_t interval_ns;
	uint64_t stop_ns;
	uint64_t stop_max_ns;
	uint64_t stop_sum_ns;
	uint64_t ack_ns;
	uint64_t ack_age_ns;
	uint64_t heard_age_ns;
	uint64_t dirty_bytes;
	uint64_t wire_bytes;
	uint64_t bytes;
	uint64_t held_packets;
	uint64_t held_bytes;
	uint64_t held_age_ns;
	uint64_t dropped;
	bool stalled;
	bool degraded;
	struct wh_err err;
};

/* Any thread, also in callbacks */
void wh_protect_get_status(struct wh_protect *protect, struct wh_protect_status *status);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_PROTECT_H */
