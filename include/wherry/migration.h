/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_MIGRATION_H
#define WHERRY_MIGRATION_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct wh_migration - One migration of one guest, one end of it
 *
 * There are no globals: a process may have as many as it likes. Unless a function
 * says otherwise it is for one thread at a time.
 */
struct wh_migration;

enum wh_role {
	WH_SOURCE,
	WH_DEST,
};

/**
 * enum wh_phase - Where a migration is
 * @WH_PHASE_SETUP:	Listening, connecting
 * @WH_PHASE_PRECOPY:	The guest runs at the source
 * @WH_PHASE_SWITCHOVER: It runs nowhere
 * @WH_PHASE_POSTCOPY:	It runs at the destination, not all pages are there
 * @WH_PHASE_PAUSED:	The link broke in postcopy. The guest goes on with the pages
 *			it has and waits for the others; nothing is lost. wh_recover() and
 *			wh_resume() lead out of it
 * @WH_PHASE_RECOVER:	Connected again; the source is told what is missing
 * @WH_PHASE_DONE:	All of it is at the destination
 * @WH_PHASE_FAILED:	Before the point of no return: the source has the guest.
 * @WH_PHASE_UNKNOWN:	Source only: the link broke after everything was sent and
 *			before the destination said that it took over. The guest stays
 *			stopped here, since it may be running there
 * @WH_PHASE_CANCELLED:	By wh_cancel(); the source has the guest
 */
enum wh_phase {
	WH_PHASE_SETUP,
	WH_PHASE_PRECOPY,
	WH_PHASE_SWITCHOVER,
	WH_PHASE_POSTCOPY,
	WH_PHASE_PAUSED,
	WH_PHASE_RECOVER,
	WH_PHASE_DONE,
	WH_PHASE_FAILED,
	WH_PHASE_UNKNOWN,
	WH_PHASE_CANCELLED,
	WH_PHASE_COUNT
};

/* QEMU's names: "setup", "active", "device", "postcopy-active", ... */
const char *wh_phase_name(enum wh_phase phase);
/* It is over: nothing leads out of it */
bool wh_phase_ended(enum wh_phase phase);

/**
 * struct wh_block - A block of guest RAM
 * @name:	Key on the wire, 1 to 255 bytes; copied
 * @addr:	The guest's mapping, page-aligned; at the destination nothing else may
 *		rely on its contents: they are dropped. Must stay until wh_free()
 * @length:	Bytes, multiple of @page_size
 * @page_size:	Of the host pages behind @addr: 4096, or that of hugetlb
 * @fd:		Of the memfd or hugetlb file mapped shared at @addr, else -1. Not taken
 *		over; duplicated
 * @fd_offset:	Where in the file the block begins
 */
struct wh_block {
	const char *name;
	void *addr;
	uint64_t length;
	uint64_t page_size;
	uint64_t fd_offset;
	int fd;
};

/**
 * enum wh_device_format - What device state is made of
 * @WH_DEVICE_OWN:	The bytes that device_save() of another user of this library gave
 * @WH_DEVICE_QEMU:	QEMU's sections, from the first FULL on, as they were
 */
enum wh_device_format {
	WH_DEVICE_OWN,
	WH_DEVICE_QEMU,
};

enum wh_event_kind {
	WH_EVENT_PHASE, /* phase, err (failures) */
	WH_EVENT_ROUND, /* round: a precopy round ended */
};

struct wh_event {
	enum wh_event_kind kind;
	enum wh_phase phase;
	uint64_t round;
	const struct wh_err *err;
};

enum wh_log_level {
	WH_LOG_ERROR,
	WH_LOG_WARNING,
	WH_LOG_INFO,
	WH_LOG_DEBUG,
};

/* Of device_load(): it goes on elsewhere; wh_device_loaded() will say how it ended */
#define WH_PENDING 1

/**
 * struct wh_callbacks - What the VMM does for its migration
 *
 * Called on the thread that drives the migration: the one in wh_process(), or the
 * library's. None may call back into the same migration, but for the functions
 * that say "any thread". Unused ones are NULL. Those with an err return 0 or a
 * negative errno and may fill in a sentence.
 *
 * @event:	Something happened; for a quick note, not for work
 * @log:	A line, no newline; rate-limited where the peer or the guest causes it
 *
 * Source:
 * @pause:	Stop the guest: when it returns, nothing writes guest memory any more,
 *		devices included
 * @resume:	The migration failed or was cancelled while the guest was paused: go on
 * @device_save: The paused guest's device state. malloc()ed, the library frees it. Without
 *		it none is sent
 * @dirty_start: Begin to log writes; every page counts as written at first
 * @dirty_sync:	OR into @map the pages of 4096 bytes written since the last call.
 *		Without it the library tracks writes itself (userfaultfd WP_ASYNC),
 *		which does not see DMA by devices
 * @dirty_stop:	No more dirty_sync(); also after failures
 *
 * Destination:
 * @block:	The stream names a block that was not added: fill in *@block (its memory
 *		the callback makes; @page_size is that of the source) and return 0.
 *		Without it unknown blocks are refused
 * @device_load: Take the device state; @data is gone afterwards. It must not touch
 *		guest RAM on this thread, since the pages may be missing and this thread
 *		fetches them: let another thread do so and return WH_PENDING
 * @start:	Run the guest from here on
 */
struct wh_callbacks {
	void (*event)(void *opaque, const struct wh_event *event);
	void (*log)(void *opaque, enum wh_log_level level, const char *line);

	int (*pause)(void *opaque, struct wh_err *err);
	int (*resume)(void *opaque, struct wh_err *err);
	int (*device_save)(void *opaque, void **data, size_t *length, struct wh_err *err);
	int (*dirty_start)(void *opaque, struct wh_err *err);
	int (*dirty_sync)(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			  struct wh_err *err);
	void (*dirty_stop)(void *opaque);

	int (*block)(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		     struct wh_block *block, struct wh_err *err);
	int (*device_load)(void *opaque, const void *data, size_t length,
			   enum wh_device_format format, struct wh_err *err);
	int (*start)(void *opaque, struct wh_err *err);
};

/**
 * enum wh_urgent - A second connection for pages that a guest waits for
 *
 * QEMU's postcopy-preempt. As in QEMU both ends must be set alike.
 *
 * @WH_URGENT_OFF:	Requested pages jump the queue of the one connection
 * @WH_URGENT_AT_SWITCH: Opened at the switch to postcopy (QEMU 8.0 and later)
 * @WH_URGENT_AT_START:	Opened with the first one (QEMU 7.x machine types)
 *
 * A destination takes either, and none, for anything but WH_URGENT_OFF.
 */
enum wh_urgent {
	WH_URGENT_OFF,
	WH_URGENT_AT_SWITCH,
	WH_URGENT_AT_START,
};

#define WH_MULTIFD_MAX 32u
#define WH_MULTIFD_LEVEL_MAX 20

/* Whoever receives them knows either, wherry does and QEMU if multifd-compression says so */
enum wh_multifd_method {
	WH_MULTIFD_PLAIN,
	WH_MULTIFD_ZSTD,
};

/**
 * enum wh_multifd_marks - Where a QEMU at the other end waits for all of its connections
 *
 * @WH_MULTIFD_BY_MACHINE: What its machine type says, which is that of struct wh_config; BY_ROUND
 *			if that has no version
 * @WH_MULTIFD_BY_SECTION: At the end of each section of the main one: machine types up to 8.0, and
 *			QEMU up to 8.0 with any
 * @WH_MULTIFD_BY_ROUND: At a mark, once a round
 */
enum wh_multifd_marks {
	WH_MULTIFD_BY_MACHINE,
	WH_MULTIFD_BY_SECTION,
	WH_MULTIFD_BY_ROUND,
};

struct wh_tls;

/* Instead of a processor's number, for struct wh_config.fault_cpu */
#define WH_FAULT_CPU_FOLLOW (-1)
#define WH_FAULT_CPU_ANY (-2)
#define WH_BULK_NICE_MAX 19

/**
 * struct wh_config - How to migrate
 * @size:		sizeof(struct wh_config), set by wh_config_init()
 * @callbacks:		Copied
 * @opaque:		First argument of each
 *
 * @postcopy:		Both ends alike; without it the migration is precopy only.
 *			Implies a return path
 * @return_path:	Source: open it also without postcopy, so that the destination
 *			says whether it took over
 * @urgent:		See enum wh_urgent
 * @switchover_ack:	Both ends alike, a QEMU's capability of that name (8.1 and later): the
 *			destination says once that it is ready, and the source does not
 *			switch before. It is when every block has its memory. Implies a return
 *			path; not with an agent
 * @removes:		Destination: the VMM drops guest memory (balloon, free page
 *			reporting) by madvise() while pages are missing, and wants it to read
 *			as zeros. The kernel does not tell MADV_DONTNEED from MADV_REMOVE: of
 *			shared memory both drop pages that are still missing
 *
 * @multifd:		Connections of QEMU's multifd, WH_MULTIFD_MAX at most, which carry the pages
 *			of precopy. Source: 0 none; there is no postcopy with them. Destination:
 *			exactly so many; 0: as many as come, or none
 * @multifd_method:	Source: how their pages are compressed
 * @multifd_level:	Of zstd, 0 (its default) to 20
 * @multifd_marks:	Source: see enum wh_multifd_marks
 * @rdma_pin_all:	Source, over RDMA: all memory is registered on both sides before the first
 *			page, instead of by pieces when they are first written to
 * @rdma_read_max:	Source, over RDMA: bytes that a destination of ours may have registered in
 *			postcopy, to read pages that its guest waits for by itself; of what is
 *			beyond it asks for them. 0: it asks for all
 * @rdma_odp:		Over RDMA: memory is registered without being pinned (on-demand paging),
 *			where the device can do that
 * @rdma_pin_max:	Over RDMA: so many bytes of memory are pinned here at a time, rounded down
 *			to MiB, one at least; 0: as many as the kernel lets. What was written to least
 *			lately is given up for what is to be. At a source it is so at the other end
 *			too; at a destination a QEMU that wants more than that is refused. Not with
 *			rdma_pin_all, which a destination then does not agree to
 *
 * @bandwidth:		Source, bytes a second in precopy, 0: no limit
 * @postcopy_bandwidth:	The same for the background pages of postcopy
 * @downtime_ns:	Source: switch over when what is dirty takes no longer than this
 * @postcopy_after_ns:	Source: switch to postcopy after so long in precopy; 0: only by
 *			wh_start_postcopy()
 * @machine:		Source: machine type in the configuration section
 * @device_format:	Source: what device_save() gives. WH_DEVICE_QEMU: whole sections of
 *			type FULL, as a destination got them from a QEMU; they go out as they are
 *
 * @connect_timeout_ns:	Source: to connect. Destination: for a connection to say what it is
 * @dead_peer_ns:	A peer is gone that has said nothing for so long though it owes
 *			something, or taken nothing of what is sent to it; 0: never. It is noticed
 *			within one and a half times as long
 * @device_state_max:	Destination: bytes of device state accepted
 * @auto_recover_ns:	A postcopy whose link breaks is brought back by itself, for so long
 *			since the break; 0: not. The destination listens again where it did, the
 *			source connects again where it did, to a destination that proves to be
 *			that of this migration (not to a QEMU). Tries are 50 ms apart at first,
 *			then twice as long each time, up to a second. Then it is as paused as
 *			without. wh_pause() does not start it, and ends it; so do wh_recover() and
 *			wh_resume(). For fd: there is none
 *
 * @fault_cpu:		Destination: processor of the fault thread; or where the guest threads
 *			are that fault (WH_FAULT_CPU_FOLLOW); or left to the kernel
 *			(WH_FAULT_CPU_ANY). For wh_start() only
 * @fault_priority:	Its SCHED_FIFO priority, 0: none
 * @fault_spin_ns:	It polls so long before it sleeps (adaptive: less while that does
 *			not pay), 0: never. For wh_start() only
 * @bulk_nice:		In postcopy the thread that moves what nobody waits for is so much nicer
 *			than others of the process (setpriority(2)), 0 (as they are) to
 *			WH_BULK_NICE_MAX: a guest that waits for a page has the processor first.
 *			5 leaves it a quarter of one that a guest's thread uses all the time.
 *			With an urgent channel, without TLS and RDMA; for wh_start() only
 *
 * @agent:		Destination: another process drives it, and may die: the agent that waits
 *			at this path of a unix socket (wherry agent, agent.h). NULL: none. Copied.
 *			wh_listen() hands everything over to it, and wh_recover() to the next one
 *			if it has died, which is a pause (-ECONNRESET) if the guest is here and a
 *			failure before that. Blocks are of a memfd or hugetlb file that is mapped
 *			shared; for wh_start() only; postcopy has to be on, removes off;
 *			auto_recover_ns and the fault thread's settings do not count
 *
 * @tls:		Every connection speaks TLS, with these credentials (tls.h), which
 *			wh_new() reads. NULL: none does. Not with an agent
 */
struct wh_config {
	size_t size;
	const struct wh_callbacks *callbacks;
	void *opaque;

	bool postcopy;
	bool return_path;
	bool switchover_ack;
	bool removes;
	enum wh_urgent urgent;
	unsigned multifd;
	enum wh_multifd_method multifd_method;
	enum wh_multifd_marks multifd_marks;
	int multifd_level;
	bool rdma_pin_all;
	bool rdma_odp;
	uint64_t rdma_read_max;
	uint64_t rdma_pin_max;

	uint64_t bandwidth;
	uint64_t postcopy_bandwidth;
	uint64_t downtime_ns;
	uint64_t postcopy_after_ns;
	const char *machine;
	enum wh_device_format device_format;

	uint64_t connect_timeout_ns;
	uint64_t dead_peer_ns;
	uint64_t device_state_max;
	uint64_t auto_recover_ns;

	int fault_cpu;
	int fault_priority;
	uint64_t fault_spin_ns;
	int bulk_nice;

	const char *agent;

	const struct wh_tls *tls;
};

/* Defaults: postcopy with an urgent channel, 300 ms of downtime, no limits, no spinning, nice 5 */
void wh_config_init(struct wh_config *config);

/**
 * wh_new() - Make one end of a migration
 *
 * Return: 0 and *@migration, for wh_free(); or a negative errno and a sentence
 */
int wh_new(struct wh_migration **migration, enum wh_role role, const struct wh_config *config,
	   struct wh_err *err);

/**
 * wh_free() - End it in any state and give everything back
 *
 * Stops the library's threads. While pages are missing (WH_PHASE_POSTCOPY, PAUSED)
 * the watched memory would read as zeros afterwards, so its userfaultfd is then left
 * open, on purpose: threads that touch missing pages sleep until the process ends.
 */
void wh_free(struct wh_migration *migration);

/* Before wh_connect() or wh_listen() */
int wh_add_block(struct wh_migration *migration, const struct wh_block *block, struct wh_err *err);

/* What the guest will do with some of its memory, as far as anybody knows */
enum wh_hint {
	WH_HINT_NONE, /* as at first */
	WH_HINT_HOT,  /* write to it, again and again */
	WH_HINT_COLD, /* leave it alone */
};

/**
 * wh_hint() - Source: which memory is worth being kept registered, over RDMA
 * @block:	Name of one that was added
 * @length:	At least 1; each MiB of the block in which the range has a byte
 *
 * Any thread, at any time. Nothing depends on it but how often memory is registered: under a limit
 * (wh_config.rdma_pin_max, or the kernel's) what is cold is given up first and what is hot last, and
 * keys of what is hot are asked for before they are needed, from a destination that is of this
 * library.
 *
 * Return: 0, or a negative errno and a sentence
 */
int wh_hint(struct wh_migration *migration, const char *block, uint64_t offset, uint64_t length,
	    enum wh_hint hint, struct wh_err *err);

/**
 * wh_connect() - Source: where to. wh_listen() - Destination: where
 * @uri:	tcp:HOST:PORT, tcp:[V6]:PORT, unix:PATH, vsock:CID:PORT, fd:N (taken over);
 *		rdma:HOST:PORT
 *
 * Names are resolved here. wh_listen() listens when it returns; wh_connect()
 * connects when the migration is driven.
 */
int wh_connect(struct wh_migration *migration, const char *uri, struct wh_err *err);
int wh_listen(struct wh_migration *migration, const char *uri, struct wh_err *err);
/* Where it really listens: port 0 is resolved. Valid until wh_free(), or wh_recover() */
const char *wh_listen_uri(const struct wh_migration *migration);

/**
 * wh_start() - Let the library's threads drive it
 *
 * Two at each end: one for the bulk of the pages and everything else, and one for
 * faults (destination) or requests (source) and the urgent channel. wh_wait() says
 * when it has ended.
 */
int wh_start(struct wh_migration *migration, struct wh_err *err);

/**
 * wh_fd() - Or drive it from an event loop: readable when wh_process() has work
 *
 * Owned by the migration. The same thread calls wh_process() every time, and once before
 * it polls. epoll_wait() may return -EINTR for it without a signal.
 *
 * Return: the descriptor, or a negative errno
 */
int wh_fd(struct wh_migration *migration);
/**
 * wh_process() - Do what can be done without waiting
 *
 * Return: 1 it goes on, or is paused and may go on; 0 it has ended (see wh_get_phase()), or
 * a negative errno and a sentence if it failed
 */
int wh_process(struct wh_migration *migration, struct wh_err *err);

/**
 * wh_wait() - Until it has ended or paused, and is not about to go on by itself; any thread
 * @timeout_ns:	Negative: for ever
 *
 * For wh_start() only.
 *
 * Return: 0 done; -EAGAIN the time is up and it goes on; otherwise a negative errno and the
 * sentence of what went wrong, wh_get_phase() says who has the guest. Paused it can be
 * recovered, and then be waited for again
 */
int wh_wait(struct wh_migration *migration, int64_t timeout_ns, struct wh_err *err);

/* Source: go over to postcopy as soon as may be; any thread */
int wh_start_postcopy(struct wh_migration *migration, struct wh_err *err);

/**
 * wh_cancel() - Source in precopy: stop, the guest goes on here; any thread
 *
 * Return: 0 asked for, the phase will be CANCELLED; -EBUSY too late for that
 */
int wh_cancel(struct wh_migration *migration, struct wh_err *err);

/**
 * wh_pause() - Break the link on purpose, in postcopy; either end
 *
 * As a link that breaks: both ends are paused, the other one when it sees it. Does not wait
 * for that.
 *
 * wh_pause(), wh_recover() and wh_resume() are for any thread, also in a callback; with
 * wh_process() for the thread that calls it. With an agent wh_recover() is not for callbacks.
 *
 * Return: 0, or -EBUSY in another phase than WH_PHASE_POSTCOPY or WH_PHASE_RECOVER, and
 * WH_PHASE_PAUSED while it is brought back by itself, which ends then
 */
int wh_pause(struct wh_migration *migration, struct wh_err *err);

/**
 * wh_recover() - Destination, paused: wait for the source there
 * @uri:	As for wh_listen(): the same address as before, or another one
 *
 * Listens when it returns; again, for another address. The source resumes by wh_resume(),
 * or by migrate with resume=true where it is a QEMU. Whoever else connects is turned away.
 *
 * Return: 0, or a negative errno and a sentence: -EBUSY if it is not paused, or the old
 * connection is not closed yet, which takes a moment (wh_wait() returns when it is)
 */
int wh_recover(struct wh_migration *migration, const char *uri, struct wh_err *err);

/**
 * wh_resume() - Source, paused: connect to where the destination waits
 * @uri:	As for wh_connect()
 *
 * Connects when it returns. The phase goes on to WH_PHASE_RECOVER and WH_PHASE_POSTCOPY; or
 * there is another event of WH_PHASE_PAUSED that says why not, and it can be tried again.
 *
 * Return: as wh_recover()
 */
int wh_resume(struct wh_migration *migration, const char *uri, struct wh_err *err);

/* Destination, after WH_PENDING: device state is loaded (0) or not (negative errno); any thread */
int wh_device_loaded(struct wh_migration *migration, int result);

/*
 * Machine type in the configuration section, "" if there was none. At the destination
 * from the block callback on, any thread; valid until wh_free()
 */
const char *wh_get_machine(const struct wh_migration *migration);

/*
 * Destination, in the block callback: has the source said that postcopy may come? Then it is the
 * last time that something can be refused without loss
 */
bool wh_may_postcopy(const struct wh_migration *migration);

/* Any thread */
enum wh_phase wh_get_phase(const struct wh_migration *migration);

/**
 * struct wh_stats - Figures of one end, from the beginning
 *
 * Pages are of 4096 bytes. Latencies are from the message of the fault to the wake,
 * in ns; those of the source from the request to its page handed to the kernel.
 */
struct wh_stats {
	enum wh_phase phase;
	uint64_t now_ns;       /* since the beginning, ends with the migration */
	uint64_t bytes;	       /* on the wire, all channels, this end's main direction */
	uint64_t bytes_return; /* the other direction */
	uint64_t pages_total;
	uint64_t pages_left; /* source: to be sent; destination: missing */
	uint64_t pages_normal;
	uint64_t pages_zero;
	uint64_t pages_xbzrle;
	uint64_t pages_urgent; /* over the urgent channel; destination: or read by RDMA */
	uint64_t pages_before; /* came though they were there */
	uint64_t pages_again;  /* source: sent twice, asked for while they were on their way */
	uint64_t rounds;
	uint64_t bandwidth;   /* bytes a second, estimate */
	uint64_t dirty_rate;  /* pages a second, last round */
	uint64_t left_ns;     /* until the end, estimate; 0 unknown */
	uint64_t downtime_ns; /* source: pause to the end of device state, or to done */
	uint64_t requests;    /* source: taken; destination: sent */
	uint64_t faults;
	uint64_t fault_p50_ns;
	uint64_t fault_p99_ns;
	uint64_t fault_max_ns;
	uint64_t fault_sum_ns;
	uint64_t own_bytes; /* memory this end has allocated for itself */
	uint64_t collapsed; /* destination: 2 MiB made huge pages of since it has ended */
	uint64_t recoveries;
	uint64_t paused_ns; /* in PAUSED and RECOVER, all together */
};

/* Any thread */
void wh_get_stats(const struct wh_migration *migration, struct wh_stats *stats);

#define WH_LATENCIES 28

/**
 * wh_get_latencies() - The latencies behind fault_p50_ns of struct wh_stats, as a histogram
 * @counts:	How many were below 2^(i + 10) ns and in no count before; the last one has all
 *		others
 *
 * Any thread.
 */
void wh_get_latencies(const struct wh_migration *migration, uint64_t counts[WH_LATENCIES]);

/**
 * wh_stats_json() - Figures as one JSON object, for logs and for other programs
 * @text:	Where to; at most @room bytes, terminated if there are any. May be NULL
 *		without room
 *
 * Its members are named as those of struct wh_stats, in that order; the phase is its
 * name, everything else a number. Any thread.
 *
 * Return: as snprintf(), the length of the whole; what does not fit is cut off
 */
size_t wh_stats_json(const struct wh_stats *stats, char *text, size_t room);

/**
 * struct wh_thread_wait - How long a thread stood still for missing pages
 * @tid:	As the kernel reports it
 */
struct wh_thread_wait {
	uint32_t tid;
	uint64_t faults;
	uint64_t waited_ns;
};

/* Destination, any thread; returns how many there are (at most @room are filled in) */
unsigned wh_get_thread_waits(const struct wh_migration *migration, struct wh_thread_wait *waits,
			     unsigned room);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_MIGRATION_H */
