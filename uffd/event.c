/* SPDX-License-Identifier: MIT */
/*
 * Edge: what the kernel says on a userfaultfd. A message is given once; a thread
 * whose fault is forgotten sleeps until somebody wakes its page.
 */
#include "uffd/abi.h"
#include "uffd/uffd.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <unistd.h>

static_assert(sizeof(struct uffd_msg) == UFFD_MSG_BYTES, "as the kernel writes them");

static int decode_one(const struct uffd_msg *msg, struct uffd_event *event, struct wh_err *err)
{
	uint64_t flags = msg->arg.pagefault.flags;

	*event = (struct uffd_event){ .fork_fd = -1 };
	switch (msg->event) {
	case UFFD_EVENT_PAGEFAULT:
		event->kind = UFFD_FAULT;
		event->addr = msg->arg.pagefault.address;
		event->tid = msg->arg.pagefault.feat.ptid;
		event->write = flags & UFFD_PAGEFAULT_FLAG_WRITE;
		event->wp = flags & UFFD_PAGEFAULT_FLAG_WP;
		event->minor = flags & UFFD_PAGEFAULT_FLAG_MINOR;
		return 0;
	case UFFD_EVENT_REMOVE:
	case UFFD_EVENT_UNMAP:
		event->kind = msg->event == UFFD_EVENT_REMOVE ? UFFD_REMOVE : UFFD_UNMAP;
		event->addr = msg->arg.remove.start;
		event->end = msg->arg.remove.end;
		if (event->end < event->addr)
			return err_set(err, -EPROTO,
				       "userfaultfd: range %#" PRIx64 " to %#" PRIx64
				       " was removed",
				       event->addr, event->end);
		return 0;
	case UFFD_EVENT_REMAP:
		event->kind = UFFD_REMAP;
		event->addr = msg->arg.remap.from;
		event->to = msg->arg.remap.to;
		if (__builtin_add_overflow(event->addr, msg->arg.remap.len, &event->end))
			return err_set(err, -EPROTO,
				       "userfaultfd: %#" PRIx64 " bytes at %#" PRIx64 " were moved",
				       (uint64_t)msg->arg.remap.len, event->addr);
		return 0;
	case UFFD_EVENT_FORK:
		event->kind = UFFD_FORK;
		event->fork_fd = (int)msg->arg.fork.ufd;
		return 0;
	}
	return err_set(err, -EPROTO, "userfaultfd: message of unknown kind %#x", msg->event);
}

int uffd_decode(const void *buf, size_t bytes, struct uffd_event events[UFFD_BATCH],
		struct wh_err *err)
{
	size_t count = bytes / UFFD_MSG_BYTES;
	size_t i;

	if (bytes % UFFD_MSG_BYTES || count > UFFD_BATCH)
		return err_set(err, -EPROTO,
			       "userfaultfd: %zu bytes of messages, of %d each, at most %d", bytes,
			       UFFD_MSG_BYTES, UFFD_BATCH);
	for (i = 0; i < count; i++) {
		struct uffd_msg msg;
		int ret;

		memcpy(&msg, (const uint8_t *)buf + i * UFFD_MSG_BYTES, sizeof(msg));
		ret = decode_one(&msg, &events[i], err);
		if (ret < 0)
			return ret;
	}
	return (int)count;
}

int uffd_read(const struct uffd *uffd, struct uffd_event events[UFFD_BATCH], struct wh_err *err)
{
	struct uffd_msg msgs[UFFD_BATCH];
	ssize_t n;

	do {
		n = read(uffd->fd, msgs, sizeof(msgs));
	} while (n < 0 && errno == EINTR);
	/* Readable and yet empty: whoever waited was woken in between */
	if (n < 0 && errno == EAGAIN)
		return 0;
	if (n < 0)
		return err_sys(err, errno, "userfaultfd: read");
	return uffd_decode(msgs, (size_t)n, events, err);
}
