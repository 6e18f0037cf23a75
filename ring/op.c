/* SPDX-License-Identifier: MIT */
/*
 * Edge: operations, from being asked for to being told of.
 *
 * Nothing is allocated for one: it is the caller's storage, linked into a list.
 *
 * Sends with MSG_WAITALL: the kernel keeps the iterator of a partly done sendmsg,
 * polls the socket and goes on where it was, so that done() sees the whole length
 * once. It gives up polling after 128 rounds (APOLL_MAX_RETRY) and lets a worker
 * thread block in the rest, or, where O_NONBLOCK forbids that, returns what went.
 */
#include "ring/op.h"

#include "base/clock.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>

#define LENGTH_MAX 0x7ffff000u /* of one recv, as everywhere in Linux */

static_assert(sizeof(((struct op *)0)->time) == sizeof(struct __kernel_timespec),
	      "op.time is read by the kernel");

static struct __kernel_timespec *op_time(struct op *op)
{
	return (struct __kernel_timespec *)(void *)&op->time;
}

/*
 * One lot of the entries is as many as may be under way, and one more for their
 * cancellations, so this submits on the way only for a caller that has more under way
 * than it said.
 */
struct io_uring_sqe *loop_sqe(struct loop *loop, int *why)
{
	struct io_uring_sqe *sqe = io_uring_get_sqe(&loop->ring);
	int ret = -EBUSY;

	if (loop->resting)
		loop_rouse(loop);
	if (!sqe && loop->enabled) {
		ret = io_uring_submit(&loop->ring);
		sqe = io_uring_get_sqe(&loop->ring);
	}
	if (!sqe && why)
		*why = ret < 0 ? ret : -EBUSY;
	return sqe;
}

struct io_uring_sqe *op_begin(struct loop *loop, struct op *op)
{
	struct io_uring_sqe *sqe = NULL;

	assert(!op->busy && op->done);
	op->loop = loop;
	op->busy = true;
	op->timer = false;
	op->again = false;
	op->events = 0;
	op->cancel_due = false;
	op->refused = 0;
	op->next = &loop->busy;
	op->previous = loop->busy.previous;
	op->previous->next = op;
	loop->busy.previous = op;

	if (loop->closing)
		op->refused = -ECANCELED;
	else
		sqe = loop_sqe(loop, &op->refused);
	if (!sqe)
		loop->refused++;
	return sqe;
}

void op_end(struct op *op, int result)
{
	if (op->refused)
		op->loop->refused--;
	if (op->cancel_due)
		op->loop->cancels_due--;
	if (op->again)
		op->loop->agains--;
	op->again = false;
	op->previous->next = op->next;
	op->next->previous = op->previous;
	op->busy = false;
	op->done(op, op->timer && result == -ETIME ? 0 : result);
}

void op_tell(struct op *op, int events)
{
	if (op->again)
		op->loop->agains--;
	op->again = false;
	op->events = events;
	op->done(op, events);
}

bool op_cancel(struct loop *loop, void *op)
{
	struct io_uring_sqe *sqe = loop_sqe(loop, NULL);

	if (!sqe)
		return false;
	io_uring_prep_cancel(sqe, op, 0);
	io_uring_sqe_set_data(sqe, NULL);
	return true;
}

/* Linux 5.19; what else came by 6.0 says that this kernel is later */
static void set_poll_first(const struct loop *loop, const struct op *op, struct io_uring_sqe *sqe)
{
	if (op->poll_first && loop->caps.single_issuer)
		sqe->ioprio |= IORING_RECVSEND_POLL_FIRST;
}

void loop_recv(struct loop *loop, struct op *op, int fd, void *buf, size_t length, int flags)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	io_uring_prep_recv(sqe, fd, buf, length < LENGTH_MAX ? length : LENGTH_MAX, flags);
	set_poll_first(loop, op, sqe);
	io_uring_sqe_set_data(sqe, op);
}

void loop_sendmsg(struct loop *loop, struct op *op, int fd, const struct msghdr *msg, int flags)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	io_uring_prep_sendmsg(sqe, fd, msg, (unsigned)flags | MSG_NOSIGNAL);
	io_uring_sqe_set_data(sqe, op);
}

void loop_recvmsg(struct loop *loop, struct op *op, int fd, struct msghdr *msg, int flags)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	io_uring_prep_recvmsg(sqe, fd, msg, (unsigned)flags);
	set_poll_first(loop, op, sqe);
	io_uring_sqe_set_data(sqe, op);
}

void loop_accept(struct loop *loop, struct op *op, int fd)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	io_uring_prep_accept(sqe, fd, NULL, NULL, SOCK_CLOEXEC | SOCK_NONBLOCK);
	io_uring_sqe_set_data(sqe, op);
}

void loop_connect(struct loop *loop, struct op *op, int fd, const struct sockaddr *address,
		  socklen_t length)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	io_uring_prep_connect(sqe, fd, address, length);
	io_uring_sqe_set_data(sqe, op);
}

void loop_poll(struct loop *loop, struct op *op, int fd, short events)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, fd, (unsigned short)events);
	io_uring_sqe_set_data(sqe, op);
}

void loop_watch(struct loop *loop, struct op *op, int fd, short events)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	io_uring_prep_poll_add(sqe, fd, (unsigned short)events | POLLRDHUP);
	sqe->len = IORING_POLL_ADD_MULTI;
	io_uring_sqe_set_data(sqe, op);
}

void loop_again(struct op *op)
{
	if (!op->busy || op->again)
		return;
	op->again = true;
	op->loop->agains++;
	if (op->loop->resting)
		loop_rouse(op->loop);
}

void loop_timer(struct loop *loop, struct op *op, uint64_t at_ns)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	op->timer = true;
	op->time.sec = (int64_t)(at_ns / NS_PER_S);
	op->time.nsec = (long long)(at_ns % NS_PER_S);
	io_uring_prep_timeout(sqe, op_time(op), 0, IORING_TIMEOUT_ABS);
	io_uring_sqe_set_data(sqe, op);
}

void loop_cancel(struct loop *loop, struct op *op)
{
	if (!op->busy || op->refused || op->cancel_due)
		return;
	/* loop_close() cancels by itself, and there may be no ring any more */
	if (loop->closing || op_cancel(loop, op))
		return;
	op->cancel_due = true;
	loop->cancels_due++;
}
