/* SPDX-License-Identifier: GPL-2.0 */
#include "ring/loop.h"
#include "selftests/lib/memory.h"
#include "selftests/uffd/toucher.h"
#include "uffd/abi.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/wait.h>

#include "kselftest_harness.h"

#define PAGES 16
#define THREADS 24

static struct uffd_event events[UFFD_BATCH];

static struct uffd_msg fault(uint64_t address, uint64_t flags, uint32_t tid)
{
	struct uffd_msg msg = { .event = UFFD_EVENT_PAGEFAULT };

	msg.arg.pagefault.address = address;
	msg.arg.pagefault.flags = flags;
	msg.arg.pagefault.feat.ptid = tid;
	return msg;
}

TEST(decode_faults)
{
	struct uffd_msg msg[] = {
		fault(0x7f0000001234, 0, 0),
		fault(0x7f0000002000, UFFD_PAGEFAULT_FLAG_WRITE, 77),
		fault(0x1000, UFFD_PAGEFAULT_FLAG_WP | UFFD_PAGEFAULT_FLAG_WRITE, 1),
		fault(0x2000, UFFD_PAGEFAULT_FLAG_MINOR, 2),
	};

	ASSERT_EQ(4, uffd_decode(msg, sizeof(msg), events, NULL));
	ASSERT_EQ(UFFD_FAULT, events[0].kind);
	ASSERT_EQ(0x7f0000001234, events[0].addr);
	ASSERT_EQ(0, events[0].tid);
	ASSERT_FALSE(events[0].write || events[0].minor || events[0].wp);
	ASSERT_EQ(77, events[1].tid);
	ASSERT_TRUE(events[1].write && !events[1].minor && !events[1].wp);
	ASSERT_TRUE(events[2].write && !events[2].minor && events[2].wp);
	ASSERT_TRUE(!events[3].write && events[3].minor && !events[3].wp);
	ASSERT_EQ(-1, events[3].fork_fd);
}

TEST(decode_events)
{
	struct uffd_msg msg[4] = {
		{ .event = UFFD_EVENT_REMOVE },
		{ .event = UFFD_EVENT_UNMAP },
		{ .event = UFFD_EVENT_REMAP },
		{ .event = UFFD_EVENT_FORK },
	};

	msg[0].arg.remove.start = 0x1000;
	msg[0].arg.remove.end = 0x3000;
	msg[1].arg.remove.start = 0x5000;
	msg[1].arg.remove.end = 0x6000;
	msg[2].arg.remap.from = 0x10000;
	msg[2].arg.remap.to = 0x90000;
	msg[2].arg.remap.len = 0x2000;
	msg[3].arg.fork.ufd = 42;
	ASSERT_EQ(4, uffd_decode(msg, sizeof(msg), events, NULL));
	ASSERT_EQ(UFFD_REMOVE, events[0].kind);
	ASSERT_EQ(0x1000, events[0].addr);
	ASSERT_EQ(0x3000, events[0].end);
	ASSERT_EQ(UFFD_UNMAP, events[1].kind);
	ASSERT_EQ(0x6000, events[1].end);
	ASSERT_EQ(UFFD_REMAP, events[2].kind);
	ASSERT_EQ(0x10000, events[2].addr);
	ASSERT_EQ(0x12000, events[2].end);
	ASSERT_EQ(0x90000, events[2].to);
	ASSERT_EQ(UFFD_FORK, events[3].kind);
	ASSERT_EQ(42, events[3].fork_fd);
}

TEST(decode_refuses)
{
	struct uffd_msg msg[UFFD_BATCH + 1] = { 0 };
	struct wh_err err = { 0 };
	unsigned i;

	for (i = 0; i <= UFFD_BATCH; i++)
		msg[i] = fault(0x1000, 0, 0);
	ASSERT_EQ(0, uffd_decode(msg, 0, events, &err));
	ASSERT_EQ(UFFD_BATCH, uffd_decode(msg, UFFD_BATCH * UFFD_MSG_BYTES, events, &err));
	ASSERT_EQ(-EPROTO, uffd_decode(msg, sizeof(msg), events, &err));
	ASSERT_EQ(-EPROTO, uffd_decode(msg, UFFD_MSG_BYTES - 1, events, &err));
	ASSERT_EQ(-EPROTO, uffd_decode(msg, UFFD_MSG_BYTES + 1, events, &err));
	ASSERT_NE(NULL, strstr(err.text, "33 bytes"))
	TH_LOG("%s", err.text);
	msg[1].event = 0x11;
	ASSERT_EQ(-EPROTO, uffd_decode(msg, 2 * UFFD_MSG_BYTES, events, &err));
	ASSERT_NE(NULL, strstr(err.text, "0x11"))
	TH_LOG("%s", err.text);
	msg[0].event = UFFD_EVENT_REMOVE;
	msg[0].arg.remove.start = 0x3000;
	msg[0].arg.remove.end = 0x1000;
	ASSERT_EQ(-EPROTO, uffd_decode(msg, UFFD_MSG_BYTES, events, &err));
	msg[0].event = UFFD_EVENT_REMAP;
	msg[0].arg.remap.from = ~UINT64_C(0);
	msg[0].arg.remap.len = 2;
	ASSERT_EQ(-EPROTO, uffd_decode(msg, UFFD_MSG_BYTES, events, &err));
}

FIXTURE(watch)
{
	struct memory memory;
	struct uffd uffd;
	struct wh_err err;
	uint8_t *at;
	uint64_t page;
	uint64_t length;
};

FIXTURE_VARIANT(watch)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(watch, anon)            { .kind = MEMORY_ANON };
FIXTURE_VARIANT_ADD(watch, memfd)           { .kind = MEMORY_MEMFD };
FIXTURE_VARIANT_ADD(watch, private)         { .kind = MEMORY_MEMFD_PRIVATE };
FIXTURE_VARIANT_ADD(watch, hugetlb)         { .kind = MEMORY_HUGETLB };
FIXTURE_VARIANT_ADD(watch, hugetlb_private) { .kind = MEMORY_HUGETLB_PRIVATE };
/* clang-format on */

FIXTURE_SETUP(watch)
{
	int ret;

	memset(&self->err, 0, sizeof(self->err));
	self->page = memory_traits[variant->kind].page_size;
	ret = memory_new(&self->memory, variant->kind, PAGES * self->page, &self->err);
	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	self->at = self->memory.region.addr;
	self->length = self->memory.region.length;
	self->uffd.fd = -1;
}

FIXTURE_TEARDOWN(watch)
{
	uffd_close(&self->uffd);
	memory_free(&self->memory);
}

/* Open with @features and watch all of the memory. 1 if they are not to be had */
static int watch(struct uffd *uffd, const struct memory *memory, uint64_t features,
		 struct wh_err *err)
{
	unsigned modes = UFFD_MISSING | (memory_traits[memory->kind].fd ? UFFD_MINOR : 0);
	int ret = uffd_open(uffd, features, features & UFFD_FEATURE_EVENT_FORK, err);

	if (ret < 0)
		return ret;
	if (uffd->features != features)
		return 1;
	return uffd_register(uffd, memory->region.addr, memory->region.length, modes, NULL, err);
}

#define WATCH(wanted)                                                                \
	do {                                                                         \
		int watched = watch(&self->uffd, &self->memory, wanted, &self->err); \
                                                                                     \
		if (watched == 1 || watched == -EPERM)                               \
			SKIP(return, "userfaultfd has not all of features %#x: %s",  \
				   (unsigned)(wanted), self->err.text);              \
		ASSERT_EQ(0, watched)                                                \
		TH_LOG("%s", self->err.text);                                        \
	} while (0)

TEST_F(watch, nothing_to_read)
{
	WATCH(0);
	ASSERT_EQ(0, uffd_read(&self->uffd, events, &self->err));
	uffd_close(&self->uffd);
	ASSERT_EQ(-EBADF, uffd_read(&self->uffd, events, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "Bad file descriptor"));
}

TEST_F(watch, a_fault_says_who_and_where)
{
	struct toucher reader = { 0 }, writer = { .write = true, .value = 5 };
	struct uffd_event event;
	uint64_t where = self->page + 1234;

	WATCH(UFFD_FEATURE_THREAD_ID | UFFD_FEATURE_EXACT_ADDRESS);
	ASSERT_TRUE(toucher_start(&reader, self->at + where));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_EQ(UFFD_FAULT, event.kind);
	ASSERT_EQ((uintptr_t)self->at + where, event.addr);
	ASSERT_EQ(__atomic_load_n(&reader.tid, __ATOMIC_ACQUIRE), event.tid);
	ASSERT_FALSE(event.write || event.wp || event.minor);
	ASSERT_TRUE(toucher_start(&writer, self->at + where + self->page));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_TRUE(event.write && !event.wp && !event.minor);
	ASSERT_EQ(__atomic_load_n(&writer.tid, __ATOMIC_ACQUIRE), event.tid);
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, self->length, &self->err));
	ASSERT_EQ(0, toucher_end(&reader));
	toucher_end(&writer);
}

/*
 * A page in the file which is not mapped here is a fault of another kind than a hole; and
 * one that was dropped is a hole again where there is no file.
 */
TEST_F(watch, minor_and_missing)
{
	bool file = memory_traits[variant->kind].fd;
	struct toucher hole = { 0 }, unmapped = { 0 };
	uint8_t *at = self->at + self->page;
	struct uffd_event event;

	if (file)
		at = mmap(NULL, self->page, PROT_READ | PROT_WRITE, MAP_SHARED,
			  self->memory.region.fd, (off_t)self->page);
	ASSERT_NE(MAP_FAILED, at);
	*at = 4;
	ASSERT_EQ(0, madvise(at, self->page, MADV_DONTNEED));
	if (file)
		ASSERT_EQ(0, munmap(at, self->page));
	WATCH(0);
	ASSERT_TRUE(toucher_start(&hole, self->at));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_EQ((uintptr_t)self->at, event.addr);
	ASSERT_FALSE(event.minor);
	ASSERT_TRUE(toucher_start(&unmapped, self->at + self->page));
	ASSERT_EQ(1, read_events(&self->uffd, &event, 1));
	ASSERT_EQ((uintptr_t)self->at + self->page, event.addr);
	ASSERT_EQ(file, event.minor);
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, self->length, &self->err));
	ASSERT_EQ(0, toucher_end(&hole));
	ASSERT_EQ(file ? 4 : 0, toucher_end(&unmapped));
}

/* All that wait are told of in one read, each once; two threads on one page are two. */
TEST_F(watch, many_at_once)
{
	struct toucher toucher[THREADS] = { 0 };
	unsigned seen[PAGES] = { 0 }, i;
	struct pollfd poll_fd;
	struct timespec again = { .tv_nsec = 100000 };

	WATCH(UFFD_FEATURE_THREAD_ID);
	for (i = 0; i < THREADS; i++)
		ASSERT_TRUE(toucher_start(&toucher[i], self->at + i % PAGES * self->page));
	while (waiting(&self->uffd) < THREADS)
		nanosleep(&again, NULL);
	poll_fd = (struct pollfd){ .fd = self->uffd.fd, .events = POLLIN };
	ASSERT_EQ(1, poll(&poll_fd, 1, 0));
	ASSERT_EQ(POLLIN, poll_fd.revents);
	ASSERT_EQ(THREADS, uffd_read(&self->uffd, events, &self->err))
	TH_LOG("%s", self->err.text);
	for (i = 0; i < THREADS; i++) {
		uint64_t page = (events[i].addr - (uintptr_t)self->at) / self->page;

		ASSERT_GT(PAGES, page);
		seen[page]++;
	}
	for (i = 0; i < PAGES; i++)
		ASSERT_EQ(1 + (i < THREADS - PAGES), seen[i]);
	ASSERT_EQ(0, uffd_read(&self->uffd, events, &self->err));
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, self->length, &self->err));
	for (i = 0; i < THREADS; i++)
		toucher_end(&toucher[i]);
}

struct ringed {
	struct op op;
	struct uffd *uffd;
	int count; /* faults that were read; there may be none when it is told */
};

static void fault_told(struct op *op, int result)
{
	struct ringed *ringed = (struct ringed *)(void *)op;
	int count;

	if (result == -ECANCELED)
		return;
	count = result < 0 ? result : uffd_read(ringed->uffd, events, NULL);
	if (count < 0)
		abort();
	ringed->count += count;
	if (!op_busy(op))
		loop_watch(op->loop, op, ringed->uffd->fd, POLLIN);
}

/* Once armed the ring tells of each that comes, alone or with others; one read fetches all */
TEST_F(watch, told_by_a_ring)
{
	struct ringed ringed = { .op.done = fault_told, .uffd = &self->uffd };
	struct toucher toucher[THREADS] = { 0 };
	struct loop *loop;
	int i;

	WATCH(0);
	ASSERT_EQ(0, loop_open(&loop, 8, &self->err)) TH_LOG("%s", self->err.text);
	loop_watch(loop, &ringed.op, self->uffd.fd, POLLIN);
	ASSERT_EQ(0, loop_step(loop, 1000000, &self->err));
	for (i = 0; i < THREADS; i++) {
		ASSERT_TRUE(toucher_start(&toucher[i], self->at + i % PAGES * self->page));
		/* one by one at first, then as they happen to come */
		while (i < THREADS / 2 ? ringed.count <= i :
					 i == THREADS - 1 && ringed.count < THREADS) {
			ASSERT_LT(0, loop_step(loop, 10000000000, &self->err));
		}
	}
	EXPECT_EQ(THREADS, ringed.count);
	EXPECT_LE(0, loop_step(loop, 1000000, &self->err));
	EXPECT_TRUE(op_busy(&ringed.op));
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, self->length, &self->err));
	for (i = 0; i < THREADS; i++)
		toucher_end(&toucher[i]);
	loop_close(loop);
}

/* Readable and then not, since the waiter was woken in between: that is no error. */
TEST_F(watch, a_message_may_vanish)
{
	struct pollfd poll_fd = { .events = POLLIN };
	struct toucher toucher = { 0 };

	WATCH(0);
	ASSERT_TRUE(toucher_start(&toucher, self->at));
	poll_fd.fd = self->uffd.fd;
	ASSERT_EQ(1, poll(&poll_fd, 1, -1));
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, self->length, &self->err));
	ASSERT_EQ(0, uffd_read(&self->uffd, events, &self->err))
	TH_LOG("%s", self->err.text);
	toucher_end(&toucher);
}

struct changer {
	uint8_t *at;
	uint8_t *to;
	uint64_t length;
	enum uffd_event_kind kind;
	bool file;
	int result;
};

static void *change(void *opaque)
{
	struct changer *c = opaque;
	int advice = c->file ? MADV_REMOVE : MADV_DONTNEED;
	pid_t child;

	switch (c->kind) {
	case UFFD_FAULT:
		break;
	case UFFD_REMOVE:
		c->result = madvise(c->at, c->length, advice);
		break;
	case UFFD_UNMAP:
		c->result = munmap(c->at, c->length);
		break;
	case UFFD_REMAP:
		c->result = mremap(c->at, c->length, c->length, MREMAP_MAYMOVE | MREMAP_FIXED,
				   c->to) == MAP_FAILED;
		break;
	case UFFD_FORK:
		child = fork();
		if (child == 0)
			_exit(*(volatile uint8_t *)c->at == 6 ? 0 : 1);
		c->result = child < 0 || waitpid(child, &c->result, 0) < 0 ? -1 : c->result;
		break;
	}
	return NULL;
}

#define EVENT(event_kind)                                    \
	struct changer changer = {                           \
		.at = self->at + 2 * self->page,             \
		.length = 3 * self->page,                    \
		.kind = (event_kind),                        \
		.file = memory_traits[variant->kind].shared, \
	};                                                   \
	struct uffd_event event;                             \
	pthread_t thread

/* Start it, take the one message, and let it go on */
#define HAPPENS()                                                              \
	do {                                                                   \
		ASSERT_EQ(0, pthread_create(&thread, NULL, change, &changer)); \
		ASSERT_EQ(1, read_events(&self->uffd, &event, 1));             \
		ASSERT_EQ(changer.kind, event.kind);                           \
	} while (0)

TEST_F(watch, removal_is_told)
{
	EVENT(UFFD_REMOVE);

	WATCH(UFFD_FEATURE_EVENT_REMOVE);
	HAPPENS();
	pthread_join(thread, NULL);
	ASSERT_EQ(0, changer.result);
	ASSERT_EQ((uintptr_t)changer.at, event.addr);
	ASSERT_EQ((uintptr_t)changer.at + changer.length, event.end);
}

TEST_F(watch, unmapping_is_told)
{
	EVENT(UFFD_UNMAP);

	WATCH(UFFD_FEATURE_EVENT_UNMAP);
	HAPPENS();
	pthread_join(thread, NULL);
	ASSERT_EQ(0, changer.result);
	ASSERT_EQ((uintptr_t)changer.at, event.addr);
	ASSERT_EQ((uintptr_t)changer.at + changer.length, event.end);
}

TEST_F(watch, moving_is_told)
{
	EVENT(UFFD_REMAP);
	struct memory to;

	/*
	 * Linux (6.18) never gives back what was reserved for a private mapping of huge pages
	 * of which a part is moved away: here nothing is.
	 */
	if (variant->kind == MEMORY_HUGETLB_PRIVATE)
		ASSERT_EQ(self->at, mmap(self->at, self->length, PROT_READ | PROT_WRITE,
					 MAP_FIXED | MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB |
						 MAP_NORESERVE,
					 -1, 0));
	WATCH(UFFD_FEATURE_EVENT_REMAP);
	ASSERT_EQ(0, memory_new(&to, variant->kind, changer.length, &self->err));
	changer.to = to.region.addr;
	HAPPENS();
	pthread_join(thread, NULL);
	ASSERT_EQ(0, changer.result);
	ASSERT_EQ((uintptr_t)changer.at, event.addr);
	ASSERT_EQ((uintptr_t)changer.at + changer.length, event.end);
	ASSERT_EQ((uintptr_t)changer.to, event.to);
	memory_free(&to);
}

/* The child's memory comes with a userfaultfd of its own. */
TEST_F(watch, fork_is_told)
{
	EVENT(UFFD_FORK);
	struct huge_pages more = { .hold = -1 };
	struct uffd child = { 0 };
	uint8_t *contents;

	/* What is reserved is so for the parent only */
	if (variant->kind == MEMORY_HUGETLB_PRIVATE)
		ASSERT_EQ(0, huge_pages_take(&more, 1, &self->err));
	WATCH(UFFD_FEATURE_EVENT_FORK);
	contents = aligned_alloc(self->page, self->page);
	memset(contents, 6, self->page);
	HAPPENS();
	child.fd = event.fork_fd;
	ASSERT_LE(0, child.fd);
	ASSERT_EQ(1, read_events(&child, &event, 1));
	ASSERT_EQ(UFFD_FAULT, event.kind);
	ASSERT_EQ((uintptr_t)changer.at, event.addr);
	ASSERT_EQ(PLACED_OK,
		  uffd_copy(&child, changer.at, contents, self->page, true, NULL, &self->err))
	TH_LOG("%s", self->err.text);
	pthread_join(thread, NULL);
	ASSERT_EQ(0, changer.result);
	uffd_close(&child);
	free(contents);
	huge_pages_drop(&more);
}

TEST_HARNESS_MAIN
