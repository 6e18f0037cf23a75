/* SPDX-License-Identifier: MIT */
#ifndef UFFD_UFFD_H
#define UFFD_UFFD_H

#include "base/region.h"

#include <stdbool.h>
#include <wherry/err.h>

enum uffd_route {
	UFFD_ROUTE_DEVICE,  /* /dev/userfaultfd */
	UFFD_ROUTE_SYSCALL, /* userfaultfd(2), user and kernel faults */
	UFFD_ROUTE_USER,    /* userfaultfd(2), USER_MODE_ONLY: cannot serve a VM */
	UFFD_ROUTE_COUNT
};

/**
 * struct uffd - An open userfaultfd
 * @fd:		O_NONBLOCK, O_CLOEXEC; pollable
 * @offered:	UFFD_FEATURE_* of the kernel
 * @features:	Those switched on
 */
struct uffd {
	int fd;
	enum uffd_route route;
	uint64_t offered;
	uint64_t features;
};

/**
 * uffd_open() - Get a descriptor and shake hands
 * @wanted:	UFFD_FEATURE_* to switch on as far as the kernel offers them
 * @kernel_faults: Must trap faults of the kernel too (KVM, read(2) into guest RAM);
 *		else USER_MODE_ONLY is taken as a last resort
 *
 * Return: 0, or a negative errno and a sentence that names the missing right and
 * what gives it (CAP_SYS_PTRACE, vm.unprivileged_userfaultfd, the device's mode)
 */
int uffd_open(struct uffd *uffd, uint64_t wanted, bool kernel_faults, struct wh_err *err);
void uffd_close(struct uffd *uffd);

const char *uffd_route_name(enum uffd_route route);
/* Name of feature bit, "MISSING_HUGETLBFS" and so on; NULL past the last */
const char *uffd_feature_name(unsigned bit);

enum uffd_mode {
	UFFD_MISSING = 1,
	UFFD_WP = 2,
	UFFD_MINOR = 4,
};

/* @ioctls (may be NULL): the kernel's answer, 1 << _UFFDIO_* */
int uffd_register(const struct uffd *uffd, void *addr, uint64_t length, unsigned modes,
		  uint64_t *ioctls, struct wh_err *err);
/* Wakes all waiters too (the kernel only wakes those of MISSING). */
int uffd_unregister(const struct uffd *uffd, void *addr, uint64_t length, struct wh_err *err);

enum uffd_event_kind {
	UFFD_FAULT,
	UFFD_REMOVE, /* start, end */
	UFFD_UNMAP,  /* start, end */
	UFFD_REMAP,  /* start (from), end, to */
	UFFD_FORK,   /* fork_fd: ours now */
};

struct uffd_event {
	enum uffd_event_kind kind;
	uint64_t addr; /* FAULT: as reported; others: start */
	uint64_t end;
	uint64_t to;
	uint32_t tid; /* FAULT: of the faulting thread, 0 if unknown */
	bool write;
	bool minor;
	bool wp;
	int fork_fd;
};

#define UFFD_BATCH 64
#define UFFD_MSG_BYTES 32

/*
 * uffd_decode() - Messages as read from the descriptor, as events. @bytes is what
 * read() gave. Return: number of events, or -EPROTO for a broken or unknown message.
 */
int uffd_decode(const void *buf, size_t bytes, struct uffd_event events[UFFD_BATCH],
		struct wh_err *err);
/*
 * read() and decode; 0 events if there is nothing. After an error messages may be
 * lost: uffd_wake() on what is watched makes every waiter announce itself again.
 */
int uffd_read(const struct uffd *uffd, struct uffd_event events[UFFD_BATCH], struct wh_err *err);

/**
 * enum placed - What became of a page
 *
 * The caller's duty stands beside each. Only PLACED_FAILED fills in a sentence.
 */
enum placed {
	PLACED_OK,	 /* all of it is there; waiters are awake unless asked not to */
	PLACED_BEFORE,	 /* a page was there already and was left as it is: wake its waiters */
	PLACED_CHANGING, /* an event is unread; nothing done: read events, retry on a timer */
	PLACED_GONE,	 /* not registered or mapped (any more): drop it if the range was removed */
	PLACED_NO_MEMORY, /* retry later or fail; never drop the page */
	PLACED_PINNED,	  /* MOVE only: use COPY */
	PLACED_DEAD,	  /* the process of the memory has gone */
	PLACED_FAILED,	  /* a bug or broken memory; sentence */
	PLACED_COUNT
};

const char *placed_name(enum placed placed);

/*
 * Placing ioctls. Any thread; may sleep on the memory map. @done (may be NULL):
 * bytes placed, also where the outcome is not PLACED_OK: the outcome is that of
 * the byte behind them. A partial success is continued inside, until the true
 * reason is known. wake=false: UFFDIO_*_MODE_DONTWAKE.
 */
enum placed uffd_copy(const struct uffd *uffd, void *at, const void *from, uint64_t length,
		      bool wake, uint64_t *done, struct wh_err *err);
enum placed uffd_zero(const struct uffd *uffd, void *at, uint64_t length, bool wake, uint64_t *done,
		      struct wh_err *err);
enum placed uffd_continue(const struct uffd *uffd, void *at, uint64_t length, bool wake,
			  uint64_t *done, struct wh_err *err);
enum placed uffd_move(const struct uffd *uffd, void *at, void *from, uint64_t length, bool wake,
		      uint64_t *done, struct wh_err *err);
enum placed uffd_poison(const struct uffd *uffd, void *at, uint64_t length, uint64_t *done,
			struct wh_err *err);
int uffd_wake(const struct uffd *uffd, void *at, uint64_t length, struct wh_err *err);

#endif /* UFFD_UFFD_H */
