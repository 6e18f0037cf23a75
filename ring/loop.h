/* SPDX-License-Identifier: MIT */
#ifndef RING_LOOP_H
#define RING_LOOP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/socket.h>
#include <wherry/err.h>

/*
 * An io_uring that belongs to one thread: the first that calls loop_step(). All
 * functions are for that thread, but for loop_wake(), and for everything before
 * the first loop_step(). Set up with R_DISABLED, SINGLE_ISSUER and DEFER_TASKRUN
 * where the kernel has them; the first loop_step() enables the ring.
 */
struct loop;

/**
 * struct op - One thing the kernel is asked to do
 * @done:	Called from loop_step() with the result (>= 0, or a negative errno)
 * @poll_first:	Receiving: as a rule nothing is there yet, so the kernel waits before it
 *		looks. Saves the look in vain; costs more where something was there
 *
 * The caller's storage, usually a member of what the operation is for. Zeroed
 * and @done set before first use. It must stay where it is while op_busy();
 * @done may submit it again, or free it, but does not call loop_step() or
 * loop_close(). After -ECANCELED it does not submit again.
 */
struct op {
	void (*done)(struct op *op, int result);
	bool poll_first;
	/* private: */
	struct loop *loop;
	struct op *next;
	struct op *previous;
	bool busy;
	bool timer;
	bool again;	 /* loop_again() */
	int events;	 /* that a loop_watch() was last told of */
	bool cancel_due; /* asked for, and not in the submission queue yet */
	int refused;	 /* could not be queued, and why: a negative errno */
	struct __attribute__((aligned(8))) {
		int64_t sec;
		long long nsec;
	} time; /* a struct __kernel_timespec */
};

struct loop_caps {
	bool single_issuer; /* Linux 6.0 */
	bool defer_taskrun; /* Linux 6.1 */
};

/**
 * loop_open() - Make a ring
 * @entries:	Operations under way at once; a power of two
 *
 * Return: 0, or a negative errno with a sentence. -EPERM says which setting
 * (kernel.io_uring_disabled, a seccomp filter) stands in the way, -ENOSYS and
 * -EOPNOTSUPP which operation the kernel has not got.
 */
int loop_open(struct loop **loop, unsigned entries, struct wh_err *err);

/**
 * loop_close() - Cancel what is under way, wait for it, and free
 * @loop:	NULL is fine
 *
 * done() is called for each, with -ECANCELED or what it had reached. For the
 * thread that drives the loop, or for another once that one has ended: then the
 * kernel touches no memory any more, but lets go of descriptors a little later.
 */
void loop_close(struct loop *loop);

void loop_get_caps(const struct loop *loop, struct loop_caps *caps);

/**
 * loop_fd() - For an event loop of somebody else: readable when loop_step() has work
 *
 * Owned by the loop; now and then readable for nothing. Who waits for it has called
 * loop_step(loop, 0) until it returned 0. What is queued after that makes it readable
 * too. Without DEFER_TASKRUN from then on, since kernels do not tell of deferred work
 * well: a thread that waits may see -EINTR from epoll_wait() without a signal.
 *
 * For the thread that steps, and best asked for before the first loop_step(): later the
 * ring stays as it is, and some kernels (6.12) tell late. A loop whose descriptor nobody
 * asked for has none, and costs less.
 *
 * Return: a descriptor for poll(), the same each time, or a negative errno
 */
int loop_fd(struct loop *loop);

/**
 * loop_step() - Submit, wait, and call done() for what is complete
 * @wait_ns:	0 does not wait, negative waits for ever
 *
 * One system call for both; none where there is nothing to submit, to wait for or
 * to fetch.
 *
 * Return: number of completions handled, 0 after a time-out or a loop_wake()
 * alone, or a negative errno with a sentence. -EINTR is retried.
 */
int loop_step(struct loop *loop, int64_t wait_ns, struct wh_err *err);

/* Any thread, async-signal-safe: a loop_step() that waits returns. */
void loop_wake(struct loop *loop);

static inline bool op_busy(const struct op *op)
{
	return op->busy;
}

/*
 * Operations. They only queue; loop_step() submits. Each op has at most one
 * operation under way. A full submission queue is submitted on the way. One that
 * cannot be queued is done() by the next loop_step(): -EBUSY, more than @entries
 * before the first step, or the kernel's reason.
 *
 * Blocking and non-blocking descriptors do alike: the operation waits in the
 * kernel, not in the thread. Exceptions are files that cannot be polled.
 */
void loop_recv(struct loop *loop, struct op *op, int fd, void *buf, size_t length, int flags);
/*
 * @msg and what it points to stay until done(). With MSG_WAITALL the kernel goes on
 * by itself until all is sent, from Linux 5.19 on. The result may be short all the
 * same: before that, when the link breaks on the way (the next one tells why), and
 * where a non-blocking socket's buffer is so small that it takes over 128 rounds.
 * There is no SIGPIPE, whatever the flags.
 */
void loop_sendmsg(struct loop *loop, struct op *op, int fd, const struct msghdr *msg, int flags);
/* As recvmsg(): into several pieces of memory; @msg and they stay until done() */
void loop_recvmsg(struct loop *loop, struct op *op, int fd, struct msghdr *msg, int flags);
/* Completes with a descriptor, close-on-exec and non-blocking */
void loop_accept(struct loop *loop, struct op *op, int fd);
/*
 * @address stays until done(). A blocking socket is better: on one with O_NONBLOCK a
 * unix listener whose queue is full gives -EAGAIN.
 */
void loop_connect(struct loop *loop, struct op *op, int fd, const struct sockaddr *address,
		  socklen_t length);
/* Once; completes with the events that are there */
void loop_poll(struct loop *loop, struct op *op, int fd, short events);
/*
 * Each time that something of @events comes, or an end (POLLRDHUP, POLLHUP, POLLERR), done() is
 * told what there is, until it is cancelled. What was there before is told once, as with EPOLLET:
 * so done() fetches all, or says loop_again(). It may have fetched all if it got less than it
 * asked for, and there was no end among the events.
 *
 * Nothing is armed anew between two events: what may come any time, and is waited for, costs
 * least this way, with a call that fetches it without waiting.
 *
 * If done() finds that it is not op_busy() any more, the kernel has ended it, which it may do at
 * any time: whoever wants more watches again, and is told at once of what is there.
 */
void loop_watch(struct loop *loop, struct op *op, int fd, short events);
/* No-op if it does not watch. The next step calls done() once more, with the events it had last */
void loop_again(struct op *op);
/* @at_ns on CLOCK_MONOTONIC; completes with 0 when it is reached */
void loop_timer(struct loop *loop, struct op *op, uint64_t at_ns);
/* No-op if not busy. done() still comes, with -ECANCELED or what it had reached. */
void loop_cancel(struct loop *loop, struct op *op);

#endif /* RING_LOOP_H */
