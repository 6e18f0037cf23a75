/* SPDX-License-Identifier: MIT */
/*
 * Edge: an io_uring, driven by one thread.
 *
 * A turn of a driver costs one io_uring_enter(): it submits what the last turn queued,
 * and waits. With DEFER_TASKRUN completions come into being only inside that call, so
 * the thread is not interrupted elsewhere. IORING_SETUP_TASKRUN_FLAG shows pending work
 * in shared memory, and io_uring_peek_cqe() looks there before it enters the kernel.
 */
#include "ring/loop.h"

#include "base/clock.h"
#include "base/err.h"
#include "ring/op.h"
#include "ring/setup.h"

#include <poll.h>
#include <stdlib.h>
#include <sys/epoll.h>
#include <sys/eventfd.h>
#include <unistd.h>

#ifndef IORING_CQE_F_MORE
#define IORING_CQE_F_MORE (1U << 1)
#endif

#define LOOP_ENTRIES_MAX 8192u
#define CLOSE_AGAIN_NS (100 * NS_PER_MS)

/*
 * Wakes are told by an always-armed multishot poll of an eventfd that nobody reads:
 * each write is an edge, and the counter will not reach its end in a lifetime. So a
 * wake costs the loop neither a read nor a new submission.
 */
static void wake_arm(struct loop *loop)
{
	struct io_uring_sqe *sqe = loop_sqe(loop, NULL);

	loop->wake.busy = sqe != NULL;
	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, loop->wake_fd, POLLIN);
	sqe->len = IORING_POLL_ADD_MULTI;
	io_uring_sqe_set_data(sqe, &loop->wake);
}

static void wake_done(struct loop *loop, unsigned flags)
{
	if (!(flags & IORING_CQE_F_MORE))
		loop->wake.busy = false;
	/*
	 * Stands between a waker's write of its message and this thread's look at it.
	 * A waker that saw 1 here and wrote nothing to the eventfd came before this
	 * exchange, which therefore acquires its message; one that comes after sees 0.
	 */
	if (__atomic_exchange_n(&loop->woken, 0, __ATOMIC_ACQ_REL))
		loop->wake_seen = true;
}

/* Fails only where the counter is full: then it is readable anyway. */
static void event_signal(int fd)
{
	const uint64_t one = 1;
	ssize_t n = write(fd, &one, sizeof(one));

	(void)n;
}

void loop_wake(struct loop *loop)
{
	int saved = errno;
	int event_fd;

	if (__atomic_exchange_n(&loop->woken, 1, __ATOMIC_ACQ_REL))
		return;
	event_signal(loop->wake_fd);
	/*
	 * The ring may signal it too, but from within another eventfd's wake-up it puts
	 * that off to the end of an RCU grace period, which is milliseconds.
	 */
	event_fd = __atomic_load_n(&loop->event_fd, __ATOMIC_ACQUIRE);
	if (event_fd >= 0)
		event_signal(event_fd);
	errno = saved;
}

int loop_open(struct loop **loop, unsigned entries, struct wh_err *err)
{
	struct loop *made;
	int ret;

	*loop = NULL;
	if (entries == 0 || entries > LOOP_ENTRIES_MAX || entries & (entries - 1))
		return err_set(err, -EINVAL, "io_uring: %u entries, not a power of two up to %u",
			       entries, LOOP_ENTRIES_MAX);
	made = calloc(1, sizeof(*made));
	if (!made)
		return err_set(err, -ENOMEM, "io_uring: no memory");
	made->busy.next = &made->busy;
	made->busy.previous = &made->busy;
	made->event_fd = -1;
	made->poll_fd = -1;
	made->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (made->wake_fd < 0) {
		ret = err_sys(err, errno, "io_uring: eventfd");
		goto out_free;
	}
	ret = setup_ring(&made->ring, entries * 2, true, &made->caps, err);
	if (ret < 0)
		goto out_eventfd;
	wake_arm(made);
	*loop = made;
	return 0;

out_eventfd:
	close(made->wake_fd);
out_free:
	free(made);
	return ret;
}

void loop_get_caps(const struct loop *loop, struct loop_caps *caps)
{
	*caps = loop->caps;
}

void loop_rouse(struct loop *loop)
{
	loop->resting = false;
	event_signal(loop->event_fd);
}

/*
 * Goes over to a ring without DEFER_TASKRUN, before anything was submitted: what is
 * queued is taken along. Where that fails, the old one stays.
 */
static void loop_soften(struct loop *loop)
{
	unsigned queued = io_uring_sq_ready(&loop->ring);
	struct loop_caps caps = { 0 };
	struct io_uring ring;

	if (setup_ring(&ring, *loop->ring.sq.kring_entries, false, &caps, NULL) < 0)
		return;
	/* Nothing was consumed yet: they are the first ones, in order. There is room. */
	for (unsigned i = 0; i < queued; i++) {
		struct io_uring_sqe *sqe = io_uring_get_sqe(&ring);

		if (sqe)
			*sqe = loop->ring.sq.sqes[i];
	}
	io_uring_queue_exit(&loop->ring);
	loop->ring = ring;
	loop->caps = caps;
}

/* Readable if the ring or its eventfd is */
static int loop_fd_both(struct loop *loop)
{
	struct epoll_event event = { .events = EPOLLIN };
	int fd = epoll_create1(EPOLL_CLOEXEC);
	int ret = 0;

	if (fd < 0)
		return -errno;
	if (epoll_ctl(fd, EPOLL_CTL_ADD, loop->ring.ring_fd, &event) < 0 ||
	    epoll_ctl(fd, EPOLL_CTL_ADD, loop->event_fd, &event) < 0) {
		ret = -errno;
		close(fd);
	}
	return ret < 0 ? ret : fd;
}

/*
 * Who sleeps in somebody else's poll() is told by a registered eventfd, if completions
 * come into being by themselves, and that is so without DEFER_TASKRUN. With it, there
 * is only work waiting for a completion, and what kernels make of that differs:
 *
 *			ring's descriptor	registered eventfd
 *	6.1		at once			at once
 *	6.12 (stable)	after an RCU grace period, the eventfd once only
 *	6.18		never			at once
 *
 * So this changes the ring while it can, and afterwards takes what either of them says.
 */
int loop_fd(struct loop *loop)
{
	int ret;
	int fd;

	if (loop->poll_fd >= 0)
		return loop->poll_fd;
	if (!loop->enabled && loop->caps.defer_taskrun)
		loop_soften(loop);
	fd = eventfd(1, EFD_CLOEXEC | EFD_NONBLOCK); /* as if it was woken meanwhile */
	if (fd < 0)
		return -errno;
	ret = io_uring_register_eventfd(&loop->ring, fd);
	if (ret < 0) {
		close(fd);
		return ret;
	}
	__atomic_store_n(&loop->event_fd, fd, __ATOMIC_RELEASE);
	loop->poll_fd = loop->caps.defer_taskrun ? loop_fd_both(loop) : fd;
	return loop->poll_fd;
}

/*
 * Before the caller goes to sleep on loop_fd(). The eventfd is taken back first and the
 * ring looked at afterwards: what comes in between signals it again. It is taken back
 * here only, so that a caller who stops stepping while there is work finds it readable.
 */
static bool loop_rest(struct loop *loop)
{
	struct io_uring_cqe *cqe;
	uint64_t count;
	ssize_t n;

	if (loop->event_fd < 0)
		return true;
	n = read(loop->event_fd, &count, sizeof(count));
	(void)n; /* or it was not readable */
	loop->resting = io_uring_peek_cqe(&loop->ring, &cqe) != 0;
	return loop->resting;
}

/* Only completions that are there already: done() may bring more, for the next step. */
static int loop_reap(struct loop *loop)
{
	unsigned ready = io_uring_cq_ready(&loop->ring);
	struct io_uring_cqe *cqe;
	int handled = 0;
	unsigned head;

	if (!ready)
		return 0;
	io_uring_for_each_cqe(&loop->ring, head, cqe) {
		struct op *op = io_uring_cqe_get_data(cqe);
		unsigned flags = cqe->flags;
		int result = cqe->res;

		/* Given back first: done() may submit, which wants room here. */
		io_uring_cq_advance(&loop->ring, 1);
		if (op == &loop->wake) {
			wake_done(loop, flags);
		} else if (op && flags & IORING_CQE_F_MORE) {
			op_tell(op, result);
			handled++;
		} else if (op) {
			op_end(op, result);
			handled++;
		}
		if (--ready == 0)
			break;
	}
	return handled;
}

/* Tells those who asked for more than could be queued. */
static int loop_refuse(struct loop *loop)
{
	unsigned due = loop->refused;
	struct op *next;
	int handled = 0;

	/* What done() asks for goes to the end of the list, and waits for the next step. */
	for (struct op *op = loop->busy.next; due && op != &loop->busy; op = next) {
		next = op->next;
		if (!op->refused)
			continue;
		op_end(op, op->refused);
		handled++;
		due--;
	}
	return handled;
}

/* Those that have not fetched all: once each, and behind what else has come */
static int loop_repeat(struct loop *loop, unsigned due)
{
	struct op *next;
	int handled = 0;

	for (struct op *op = loop->busy.next; due && op != &loop->busy; op = next) {
		next = op->next;
		if (!op->again)
			continue;
		op_tell(op, op->events);
		handled++;
		due--;
	}
	return handled;
}

static void loop_cancel_due(struct loop *loop)
{
	for (struct op *op = loop->busy.next; op != &loop->busy; op = op->next) {
		if (!op->cancel_due)
			continue;
		if (!op_cancel(loop, op))
			return;
		op->cancel_due = false;
		loop->cancels_due--;
	}
}

static int loop_enable(struct loop *loop, struct wh_err *err)
{
	/* Not io_uring_enable_rings(): the shared liburing 2.3 does not export it. */
	int ret = io_uring_register((unsigned)loop->ring.ring_fd, IORING_REGISTER_ENABLE_RINGS,
				    NULL, 0);

	if (ret < 0)
		return err_sys(err, ret, "io_uring: enable the ring");
	loop->enabled = true;
	return 0;
}

/* One visit to the kernel, or none. Return: >= 0, or a negative errno */
static int loop_enter(struct loop *loop, int64_t wait_ns)
{
	struct io_uring *ring = &loop->ring;
	struct io_uring_cqe *cqe;
	int ret;

	if (io_uring_cq_ready(ring))
		wait_ns = 0;
	if (wait_ns < 0)
		return io_uring_submit_and_wait(ring, 1);
	if (wait_ns > 0) {
		struct __kernel_timespec time = {
			.tv_sec = wait_ns / (int64_t)NS_PER_S,
			.tv_nsec = wait_ns % (int64_t)NS_PER_S,
		};

		ret = io_uring_submit_and_wait_timeout(ring, &cqe, 1, &time, NULL);
		return ret == -ETIME ? 0 : ret;
	}
	if (io_uring_sq_ready(ring))
		return io_uring_submit_and_get_events(ring);
	ret = io_uring_peek_cqe(ring, &cqe);
	return ret == -EAGAIN ? 0 : ret;
}

static int loop_enter_failed(int code, struct wh_err *err)
{
	switch (-code) {
	case EEXIST:
		return err_set(err, code,
			       "io_uring: stepped by another thread than the one that began");
	case EBADR:
		return err_set(err, code,
			       "io_uring: the kernel had no memory for completions and lost some");
	default:
		return err_sys(err, code, "io_uring: submit and wait");
	}
}

int loop_step(struct loop *loop, int64_t wait_ns, struct wh_err *err)
{
	uint64_t deadline_ns = wait_ns > 0 ? clock_now_ns() + (uint64_t)wait_ns : 0;
	unsigned again;
	int handled;
	int ret;

	if (!loop->enabled) {
		ret = loop_enable(loop, err);
		if (ret < 0)
			return ret;
	}
	loop->wake_seen = false;
	loop->resting = false;
	for (;;) {
		handled = loop->refused ? loop_refuse(loop) : 0;
		if (loop->cancels_due)
			loop_cancel_due(loop);
		if (!loop->wake.busy)
			wake_arm(loop);
		again = loop->agains;
		ret = loop_enter(loop, handled || again ? 0 : wait_ns);
		handled += loop_reap(loop);
		if (again)
			handled += loop_repeat(loop, again);
		/* A failure that still stands is met again by the next step. */
		if (handled)
			return handled;
		if (ret < 0 && ret != -EINTR)
			return loop_enter_failed(ret, err);
		if (wait_ns == 0) {
			/* The caller may go to sleep: nothing stays in the queue. */
			if (!io_uring_sq_ready(&loop->ring) && loop_rest(loop))
				return 0;
			continue;
		}
		if (loop->wake_seen)
			return 0;
		if (wait_ns > 0) {
			uint64_t now_ns = clock_now_ns();

			if (now_ns >= deadline_ns)
				return 0;
			wait_ns = (int64_t)(deadline_ns - now_ns);
		}
	}
}

/* Everything comes back with -ECANCELED though the kernel was not asked. */
static void loop_abandon(struct loop *loop)
{
	while (loop->busy.next != &loop->busy)
		op_end(loop->busy.next, -ECANCELED);
}

static void loop_cancel_all(struct loop *loop)
{
	for (struct op *op = loop->busy.next; op != &loop->busy; op = op->next)
		if (!op->refused)
			op_cancel(loop, op);
	if (loop->wake.busy)
		op_cancel(loop, &loop->wake);
}

/*
 * Brings everything back through the kernel, or gives up where it does not answer:
 * another thread than the issuer is refused (-EEXIST). It asks again after a while: an
 * operation that was between two of the kernel's lists when the first cancellation
 * looked for it is found then.
 */
static void loop_drain(struct loop *loop)
{
	uint64_t again_ns = 0;

	while (loop->busy.next != &loop->busy || loop->wake.busy) {
		uint64_t now_ns = clock_now_ns();
		int ret;

		if (now_ns >= again_ns) {
			loop_cancel_all(loop);
			again_ns = now_ns + CLOSE_AGAIN_NS;
		}
		if (loop->refused)
			loop_refuse(loop);
		ret = loop_enter(loop, (int64_t)CLOSE_AGAIN_NS);
		if (loop_reap(loop) == 0 && ret < 0 && ret != -EINTR)
			return;
	}
}

void loop_close(struct loop *loop)
{
	if (!loop)
		return;
	loop->closing = true;
	if (loop->enabled)
		loop_drain(loop);
	/* What is left the kernel cancels by itself: its thread has ended, or never began. */
	io_uring_queue_exit(&loop->ring);
	loop_abandon(loop);
	close(loop->wake_fd);
	if (loop->poll_fd >= 0 && loop->poll_fd != loop->event_fd)
		close(loop->poll_fd);
	if (loop->event_fd >= 0)
		close(loop->event_fd);
	free(loop);
}
