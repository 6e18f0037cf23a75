/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_NETPLUG_H
#define WHERRY_NETPLUG_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * What a guest sends is held, epoch by epoch, until it is said that it may be seen.
 * Documentation/netplug.rst has the theory.
 */

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/**
 * enum wh_netplug_edge - Who holds it
 * @WH_NETPLUG_CALLBACK: The VMM, which filters its packets itself
 * @WH_NETPLUG_QUEUE:	This process; any number of epochs may wait
 * @WH_NETPLUG_PLUG:	The kernel (sch_plug); one closed epoch may wait
 * @WH_NETPLUG_HOLDER:	Another process, which was started for that (wherry netplug hold, or
 *			wh_netplug_listen()), by one of the others; this one needs no right
 */
enum wh_netplug_edge {
	WH_NETPLUG_CALLBACK,
	WH_NETPLUG_QUEUE,
	WH_NETPLUG_PLUG,
	WH_NETPLUG_HOLDER,
	WH_NETPLUG_EDGE_COUNT
};

/**
 * enum wh_netplug_state - What becomes of what the guest sends
 * @WH_NETPLUG_IDLE:	It goes out at once
 * @WH_NETPLUG_HELD:	It waits for its epoch's release
 * @WH_NETPLUG_BROKEN:	A step failed half-way: nobody knows what is held. Fence or disarm
 * @WH_NETPLUG_ORPHAN:	A process held it that has died, or (WH_NETPLUG_HOLDER) is silent: it
 *			still waits, or is lost. Fence or disarm
 * @WH_NETPLUG_FENCED:	What waited is gone, and what comes is dropped
 */
enum wh_netplug_state {
	WH_NETPLUG_IDLE,
	WH_NETPLUG_HELD,
	WH_NETPLUG_BROKEN,
	WH_NETPLUG_ORPHAN,
	WH_NETPLUG_FENCED,
	WH_NETPLUG_STATE_COUNT
};

/* "plug", "held" and so on */
const char *wh_netplug_edge_name(enum wh_netplug_edge edge);
const char *wh_netplug_state_name(enum wh_netplug_state state);

/**
 * struct wh_netplug_filter - WH_NETPLUG_CALLBACK: the VMM's own filter
 *
 * Called in the caller's thread, with what was checked already: epochs come in order. 0 or
 * a negative errno and a sentence: then nothing was done, but for -ENOTRECOVERABLE, which
 * makes the state WH_NETPLUG_BROKEN.
 *
 * @arm:	Hold whatever the guest sends from here on; it belongs to epoch 1
 * @turn:	What it sends from here on belongs to @epoch + 1
 * @release:	Let go what belongs to epochs up to @epoch, in its order
 * @fence:	Drop what is held and whatever comes. Must not fail
 * @disarm:	Let go everything that is held, and hold no more
 * @count:	Fill in held_*, dropped and sent. May be NULL
 */
struct wh_netplug_status;
struct wh_netplug_filter {
	int (*arm)(void *opaque, struct wh_err *err);
	int (*turn)(void *opaque, uint64_t epoch, struct wh_err *err);
	int (*release)(void *opaque, uint64_t epoch, struct wh_err *err);
	void (*fence)(void *opaque);
	int (*disarm)(void *opaque, struct wh_err *err);
	void (*count)(void *opaque, struct wh_netplug_status *status);
};

#define WH_NETPLUG_NICS_MAX 16

/**
 * struct wh_netplug_config - What is held, and how
 * @size:	sizeof(struct wh_netplug_config), set by wh_netplug_config_init()
 * @edge:	See enum wh_netplug_edge
 * @name:	Of the guest: who holds what of this network namespace. 1 to 63 characters,
 *		no control characters. Copied
 * @nics:	Names of the guest's taps, all in this network namespace: held as one, or none
 *		is. Copied. None for WH_NETPLUG_CALLBACK, and none is needed to end what a
 *		process that has died held under @name. None for WH_NETPLUG_HOLDER either
 * @nic_count:	Up to WH_NETPLUG_NICS_MAX
 * @bridge:	WH_NETPLUG_QUEUE: where the packets of a tap go that is not a port of a bridge
 *		itself. May be NULL. Copied
 * @limit_bytes: Of packets that wait, of all NICs together; what comes above it is dropped and
 *		counted. WH_NETPLUG_PLUG takes up to 2 GiB
 * @limit_packets: The same in packets; WH_NETPLUG_QUEUE only
 * @answer_ns:	WH_NETPLUG_HOLDER: who does not answer for so long is lost. The thread waits so
 *		long, in a protection with the guest stopped: half of its lease at most
 * @filter:	For WH_NETPLUG_CALLBACK; copied
 * @opaque:	First argument of each
 */
struct wh_netplug_config {
	size_t size;
	enum wh_netplug_edge edge;
	const char *name;
	const char *const *nics;
	unsigned nic_count;
	const char *bridge;
	uint64_t limit_bytes;
	uint64_t limit_packets;
	uint64_t answer_ns;
	const struct wh_netplug_filter *filter;
	void *opaque;
};

/* Defaults: the agent's queue, 125 MB and 65536 packets, half a second for an answer */
void wh_netplug_config_init(struct wh_netplug_config *config);

/**
 * struct wh_netplug_status - How it stands
 * @state:	See enum wh_netplug_state
 * @edge:	Who holds it; of an orphan, who held it
 * @epoch:	What the guest sends belongs to it; 0 if nothing is held by us
 * @released:	The last epoch that was let go, 0: none
 * @held_packets: That wait, or are let go and have not left yet
 * @held_bytes:	The same, with their link headers
 * @dropped:	Above the limit, or while fenced, since wh_netplug_arm()
 * @sent:	Packets that have left since then
 * @holder:	WH_NETPLUG_HOLDER: the process that holds it; else 0
 */
struct wh_netplug_status {
	enum wh_netplug_state state;
	enum wh_netplug_edge edge;
	uint64_t epoch;
	uint64_t released;
	uint64_t held_packets;
	uint64_t held_bytes;
	uint64_t dropped;
	uint64_t sent;
	int holder;
};

/**
 * struct wh_netplug - The output of one guest
 *
 * For one thread at a time. Without it nothing is let go: a process that dies leaves the guest
 * cut off, not unguarded.
 */
struct wh_netplug;

/**
 * wh_netplug_new() - Look what there is under that name; change nothing
 *
 * Of WH_NETPLUG_HOLDER it is looked how it stands there: what somebody armed by hand is
 * WH_NETPLUG_HELD, and may be turned and released.
 *
 * Return: 0 and *@plug, for wh_netplug_free(), its state WH_NETPLUG_IDLE, ORPHAN or FENCED; or
 * a negative errno and a sentence, -EBUSY if another process has the name, -ENOENT if none holds
 * for WH_NETPLUG_HOLDER
 */
int wh_netplug_new(struct wh_netplug **plug, const struct wh_netplug_config *config,
		   struct wh_err *err);

/**
 * wh_netplug_free() - Give back what the process has; release nothing
 *
 * What is held stays so: it is then an orphan, as if the process had died.
 */
void wh_netplug_free(struct wh_netplug *plug);

/**
 * wh_netplug_arm() - Hold whatever the guest sends from here on, as epoch 1
 *
 * All of its NICs, or none if it fails. The guest may run.
 *
 * Return: 0, or a negative errno and a sentence: -EBUSY in any state but WH_NETPLUG_IDLE,
 * -EEXIST where something of somebody else's is in the way, which is left alone
 */
int wh_netplug_arm(struct wh_netplug *plug, struct wh_err *err);

/**
 * wh_netplug_turn() - The barrier: close an epoch, on all NICs or on none
 * @epoch:	The one that is open; the next one is open afterwards
 *
 * Neither a vCPU nor the backend of a NIC may run.
 *
 * Return: 0; or a negative errno and a sentence, and then no checkpoint is to be taken as taken:
 * -EBUSY if an epoch waits and the edge bears only one, or if what was let go has not left yet
 */
int wh_netplug_turn(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err);

/**
 * wh_netplug_release() - Let go everything up to the end of a closed epoch, in order
 * @epoch:	The one whose checkpoint was acknowledged. One that is let go already is no error
 *
 * Packets may leave after it has returned.
 */
int wh_netplug_release(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err);

/**
 * wh_netplug_fence() - Never let go what is held, and let nothing out
 *
 * For when the other side has the guest, or may have it. What was let go and has not left
 * yet is dropped too.
 */
int wh_netplug_fence(struct wh_netplug *plug, struct wh_err *err);

/**
 * wh_netplug_disarm() - The guest stays here, without protection: let go everything
 *
 * Waits until it has left, then takes away whatever wh_netplug_arm() has made. After
 * wh_netplug_fence(), and only once the guest has let go of its NICs, it lets nothing go.
 *
 * Return: 0; or a negative errno and a sentence: -EBUSY if it is fenced and a NIC is in use,
 * -ETIMEDOUT if it does not leave
 */
int wh_netplug_disarm(struct wh_netplug *plug, struct wh_err *err);

/**
 * wh_netplug_status() - How it stands
 *
 * Return: 0; or a negative errno and a sentence, and @status without what is counted: of a
 * WH_NETPLUG_HOLDER that is lost as well
 */
int wh_netplug_status(struct wh_netplug *plug, struct wh_netplug_status *status,
		      struct wh_err *err);

/* The same of its state only, which asks nobody */
enum wh_netplug_state wh_netplug_get_state(const struct wh_netplug *plug);

/**
 * wh_netplug_listen() - Let others drive it: those who have WH_NETPLUG_HOLDER and its name
 *
 * They come in wh_netplug_process(), and have to be root or of our user. Who arms it has it until
 * it is disarmed, and if he goes before that it is WH_NETPLUG_ORPHAN; but everybody may fence it.
 * Not for WH_NETPLUG_HOLDER itself.
 *
 * Return: 0, or a negative errno and a sentence: -EBUSY if somebody listens for that name
 */
int wh_netplug_listen(struct wh_netplug *plug, struct wh_err *err);

/**
 * wh_netplug_fd() - Readable when wh_netplug_process() has something to do
 *
 * Return: a descriptor that stays ours; or -1 where there is nothing to do. Another one behind
 * wh_netplug_listen(), and of WH_NETPLUG_HOLDER perhaps behind each call
 */
int wh_netplug_fd(const struct wh_netplug *plug);
/**
 * wh_netplug_process() - Take what has come, send on what may leave; do what others ask for
 *
 * Does not block, but behind wh_netplug_listen() as whatever is asked for does.
 *
 * Return: 0, or a negative errno and a sentence: WH_NETPLUG_HOLDER is lost
 */
int wh_netplug_process(struct wh_netplug *plug, struct wh_err *err);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_NETPLUG_H */
