/* SPDX-License-Identifier: MIT */
/*
 * Edge: the ioctls that put pages where threads wait for them.
 *
 * All of them answer in two parts: errno, and a signed last member of their struct
 * with the bytes that were placed, or with a negative errno. It is not written at all
 * for wrong arguments and for a process that has gone, so it is 0 before each call.
 * EAGAIN means one of two things: with bytes, that these are placed and that the next
 * page has failed, for a reason which only another call tells; without, that the memory
 * map is changing, and that nothing was done.
 */
#include "uffd/abi.h"
#include "uffd/uffd.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <stdio.h>

enum place_op {
	PLACE_COPY,
	PLACE_ZERO,
	PLACE_CONTINUE,
	PLACE_MOVE,
	PLACE_POISON,
	PLACE_OP_COUNT
};

struct place {
	enum place_op op;
	int fd;
	bool wake;
	uint64_t at;
	uint64_t from;
	uint64_t length;
};

static const char *place_name(enum place_op op)
{
	static const char *const name[] = {
		[PLACE_COPY] = "COPY", [PLACE_ZERO] = "ZEROPAGE", [PLACE_CONTINUE] = "CONTINUE",
		[PLACE_MOVE] = "MOVE", [PLACE_POISON] = "POISON",
	};

	static_assert(sizeof(name) / sizeof(name[0]) == PLACE_OP_COUNT, "a name an ioctl");
	return name[op];
}

static int place_copy(const struct place *p, int64_t *field)
{
	struct uffdio_copy arg = {
		.dst = p->at,
		.src = p->from,
		.len = p->length,
		.mode = p->wake ? 0 : UFFDIO_COPY_MODE_DONTWAKE,
	};
	int code = ioctl(p->fd, UFFDIO_COPY, &arg) < 0 ? errno : 0;

	*field = arg.copy;
	return code;
}

static int place_zero(const struct place *p, int64_t *field)
{
	struct uffdio_zeropage arg = {
		.range = { .start = p->at, .len = p->length },
		.mode = p->wake ? 0 : UFFDIO_ZEROPAGE_MODE_DONTWAKE,
	};
	int code = ioctl(p->fd, UFFDIO_ZEROPAGE, &arg) < 0 ? errno : 0;

	*field = arg.zeropage;
	return code;
}

static int place_continue(const struct place *p, int64_t *field)
{
	struct uffdio_continue arg = {
		.range = { .start = p->at, .len = p->length },
		.mode = p->wake ? 0 : UFFDIO_CONTINUE_MODE_DONTWAKE,
	};
	int code = ioctl(p->fd, UFFDIO_CONTINUE, &arg) < 0 ? errno : 0;

	*field = arg.mapped;
	return code;
}

/* Never ALLOW_SRC_HOLES: a page that was not there would count as placed */
static int place_move(const struct place *p, int64_t *field)
{
	struct uffdio_move arg = {
		.dst = p->at,
		.src = p->from,
		.len = p->length,
		.mode = p->wake ? 0 : UFFDIO_MOVE_MODE_DONTWAKE,
	};
	int code = ioctl(p->fd, UFFDIO_MOVE, &arg) < 0 ? errno : 0;

	*field = arg.move;
	return code;
}

static int place_poison(const struct place *p, int64_t *field)
{
	struct uffdio_poison arg = {
		.range = { .start = p->at, .len = p->length },
		.mode = p->wake ? 0 : UFFDIO_POISON_MODE_DONTWAKE,
	};
	int code = ioctl(p->fd, UFFDIO_POISON, &arg) < 0 ? errno : 0;

	*field = arg.updated;
	return code;
}

static int place_once(const struct place *p, int64_t *field)
{
	switch (p->op) {
	case PLACE_COPY:
		return place_copy(p, field);
	case PLACE_ZERO:
		return place_zero(p, field);
	case PLACE_CONTINUE:
		return place_continue(p, field);
	case PLACE_MOVE:
		return place_move(p, field);
	case PLACE_POISON:
		return place_poison(p, field);
	case PLACE_OP_COUNT:
		break;
	}
	return EINVAL;
}

static enum placed place_failed(const struct place *p, int code, struct wh_err *err)
{
	const char *why = NULL;
	char from[32] = "";

	if (p->op == PLACE_COPY || p->op == PLACE_MOVE)
		snprintf(from, sizeof(from), " from %#" PRIx64, p->from);
	if (code == EFAULT && p->op == PLACE_CONTINUE)
		why = "the file has no page there (a hole, or behind its end)";
	else if (code == EFAULT && p->op == PLACE_COPY)
		why = "its contents cannot be read";
	if (why)
		err_set(err, -code, "UFFDIO_%s of %" PRIu64 " bytes at %#" PRIx64 "%s: %s",
			place_name(p->op), p->length, p->at, from, why);
	else
		err_sys(err, code, "UFFDIO_%s of %" PRIu64 " bytes at %#" PRIx64 "%s",
			place_name(p->op), p->length, p->at, from);
	return PLACED_FAILED;
}

/* What an errno of the first page of a call means; EAGAIN is without bytes here */
static enum placed place_outcome(const struct place *p, int code, struct wh_err *err)
{
	switch (code) {
	case EAGAIN:
	case EINTR: /* this thread is being killed; should it live on, nothing was done */
		return PLACED_CHANGING;
	case EEXIST:
		return PLACED_BEFORE;
	case ENOENT:
		return PLACED_GONE;
	case ENOMEM:
	case ENOSPC: /* of a full file system too they say ENOMEM, all that there are today */
		return PLACED_NO_MEMORY;
	case ESRCH:
		return PLACED_DEAD;
	case EBUSY:
		if (p->op == PLACE_MOVE)
			return PLACED_PINNED;
		return place_failed(p, code, err);
	}
	return place_failed(p, code, err);
}

/* @p is used up: it says at the end where it stopped */
static enum placed place(struct place *p, uint64_t *done, struct wh_err *err)
{
	uint64_t begin = p->at;

	for (;;) {
		int64_t field = 0;
		int code = place_once(p, &field);
		uint64_t bytes = code == 0 ? p->length : 0;

		if (code == EAGAIN && field > 0)
			bytes = (uint64_t)field;
		if (bytes > p->length) {
			err_set(err, -EIO,
				"UFFDIO_%s of %" PRIu64 " bytes at %#" PRIx64
				": the kernel placed %" PRIu64,
				place_name(p->op), p->length, p->at, bytes);
			return PLACED_FAILED;
		}
		p->at += bytes;
		p->from += bytes;
		p->length -= bytes;
		if (done)
			*done = p->at - begin;
		if (code == 0 || (bytes && !p->length))
			return PLACED_OK;
		if (!bytes)
			return place_outcome(p, code, err);
	}
}

enum placed uffd_copy(const struct uffd *uffd, void *at, const void *from, uint64_t length,
		      bool wake, uint64_t *done, struct wh_err *err)
{
	struct place p = {
		.op = PLACE_COPY,
		.fd = uffd->fd,
		.wake = wake,
		.at = (uintptr_t)at,
		.from = (uintptr_t)from,
		.length = length,
	};

	return place(&p, done, err);
}

enum placed uffd_zero(const struct uffd *uffd, void *at, uint64_t length, bool wake, uint64_t *done,
		      struct wh_err *err)
{
	struct place p = {
		.op = PLACE_ZERO,
		.fd = uffd->fd,
		.wake = wake,
		.at = (uintptr_t)at,
		.length = length,
	};

	return place(&p, done, err);
}

enum placed uffd_continue(const struct uffd *uffd, void *at, uint64_t length, bool wake,
			  uint64_t *done, struct wh_err *err)
{
	struct place p = {
		.op = PLACE_CONTINUE,
		.fd = uffd->fd,
		.wake = wake,
		.at = (uintptr_t)at,
		.length = length,
	};

	return place(&p, done, err);
}

enum placed uffd_move(const struct uffd *uffd, void *at, void *from, uint64_t length, bool wake,
		      uint64_t *done, struct wh_err *err)
{
	struct place p = {
		.op = PLACE_MOVE,
		.fd = uffd->fd,
		.wake = wake,
		.at = (uintptr_t)at,
		.from = (uintptr_t)from,
		.length = length,
	};

	return place(&p, done, err);
}

enum placed uffd_poison(const struct uffd *uffd, void *at, uint64_t length, uint64_t *done,
			struct wh_err *err)
{
	struct place p = {
		.op = PLACE_POISON,
		.fd = uffd->fd,
		.wake = true,
		.at = (uintptr_t)at,
		.length = length,
	};

	return place(&p, done, err);
}

const char *placed_name(enum placed placed)
{
	static const char *const name[] = {
		[PLACED_OK] = "ok",
		[PLACED_BEFORE] = "there before",
		[PLACED_CHANGING] = "memory map changing",
		[PLACED_GONE] = "gone",
		[PLACED_NO_MEMORY] = "no memory",
		[PLACED_PINNED] = "pinned",
		[PLACED_DEAD] = "process dead",
		[PLACED_FAILED] = "failed",
	};

	static_assert(sizeof(name) / sizeof(name[0]) == PLACED_COUNT, "a name an outcome");
	return name[placed];
}
