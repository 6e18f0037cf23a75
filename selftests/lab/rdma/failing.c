/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A migration over RDMA in which calls of libibverbs and librdmacm fail, at one of the ends, from one that
 * a seed names on. Whatever fails: both ends end, the guest runs in one place, what has arrived is
 * right, and the kernel has nothing left of it while the processes are still there.
 *
 * FAILING_SEED and FAILING_RUNS are instead of those of the suite.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <infiniband/verbs.h>
#include <poll.h>
#include <rdma/rdma_cma.h>
#include <stdlib.h>
#include <string.h>

#include "base/err.h"
#include "selftests/lab/rdma/ends.h"

#define MIB (UINT64_C(1) << 20)
#define BYTES (4 * MIB + 4096)
#define RUNS 12u
#define CALLS 192u /* more than an end makes */
#define LIMIT_NS (40 * NS_PER_S)
#define SILENT_NS (2 * NS_PER_S)
#define DOOR_NS (3 * NS_PER_S) /* longer than somebody may be silent */

/* What an end tells */
struct end {
	bool ended; /* and all was freed */
	enum wh_phase phase;
	unsigned pauses, resumes, starts;
	unsigned failures;
	char text[200];
};

static struct run {
	char uri[160];
	bool go;
	struct end source, dest;
} * run;

/* ---- Calls that fail ---------------------------------------------------------------- */

static bool armed;
static unsigned calls_left;
static uint64_t dice;
static struct end *self_end;

/* From one on, one in four */
static bool fails(void)
{
	if (!armed)
		return false;
	if (calls_left) {
		calls_left--;
		if (calls_left)
			return false;
	} else {
		dice = dice * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
		if (dice >> 62)
			return false;
	}
	self_end->failures++;
	errno = ENOMEM;
	return true;
}

#define WRAP(type, name, failure, arguments, names)             \
	type __real_##name arguments;                           \
	type __wrap_##name arguments;                           \
	type __wrap_##name arguments                            \
	{                                                       \
		return fails() ? failure : __real_##name names; \
	}

WRAP(struct ibv_comp_channel *, ibv_create_comp_channel, NULL, (struct ibv_context * verbs),
     (verbs))
WRAP(struct ibv_cq *, ibv_create_cq, NULL,
     (struct ibv_context * verbs, int entries, void *context, struct ibv_comp_channel *channel,
      int vector),
     (verbs, entries, context, channel, vector))
WRAP(struct rdma_event_channel *, rdma_create_event_channel, NULL, (void), ())
WRAP(int, rdma_create_id, -1,
     (struct rdma_event_channel * channel, struct rdma_cm_id **id, void *context,
      enum rdma_port_space space),
     (channel, id, context, space))
WRAP(int, rdma_create_qp, -1,
     (struct rdma_cm_id * id, struct ibv_pd *pd, struct ibv_qp_init_attr *attr), (id, pd, attr))
WRAP(int, rdma_bind_addr, -1, (struct rdma_cm_id * id, struct sockaddr *at), (id, at))
WRAP(int, rdma_listen, -1, (struct rdma_cm_id * id, int backlog), (id, backlog))
WRAP(int, rdma_migrate_id, -1, (struct rdma_cm_id * id, struct rdma_event_channel *channel),
     (id, channel))
WRAP(int, rdma_resolve_addr, -1,
     (struct rdma_cm_id * id, struct sockaddr *from, struct sockaddr *to, int ms),
     (id, from, to, ms))
WRAP(int, rdma_resolve_route, -1, (struct rdma_cm_id * id, int ms), (id, ms))
WRAP(int, rdma_connect, -1, (struct rdma_cm_id * id, struct rdma_conn_param *param), (id, param))
WRAP(int, rdma_accept, -1, (struct rdma_cm_id * id, struct rdma_conn_param *param), (id, param))

/* Asked for an event where there is none, they fail as they are meant to */
static bool has_event(int fd)
{
	struct pollfd poll_fd = { .fd = fd, .events = POLLIN };

	return poll(&poll_fd, 1, 0) > 0;
}

int __real_rdma_get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **event);
int __wrap_rdma_get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **event);
int __wrap_rdma_get_cm_event(struct rdma_event_channel *channel, struct rdma_cm_event **event)
{
	return has_event(channel->fd) && fails() ? -1 : __real_rdma_get_cm_event(channel, event);
}

int __real_ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **context);
int __wrap_ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **context);
int __wrap_ibv_get_cq_event(struct ibv_comp_channel *channel, struct ibv_cq **cq, void **context)
{
	return has_event(channel->fd) && fails() ? -1 :
						   __real_ibv_get_cq_event(channel, cq, context);
}

/* The header has a macro of this name */
#undef ibv_reg_mr
WRAP(struct ibv_mr *, ibv_reg_mr, NULL, (struct ibv_pd * pd, void *addr, size_t length, int access),
     (pd, addr, length, access))

/* These are inline: the device's own are called through a table, which is another one here */
static struct ibv_context_ops real;

static int post_send(struct ibv_qp *qp, struct ibv_send_wr *wr, struct ibv_send_wr **bad)
{
	return fails() ? ENOMEM : real.post_send(qp, wr, bad);
}

static int post_recv(struct ibv_qp *qp, struct ibv_recv_wr *wr, struct ibv_recv_wr **bad)
{
	return fails() ? ENOMEM : real.post_recv(qp, wr, bad);
}

/* What was taken off the queue is lost with it */
static int poll_cq(struct ibv_cq *cq, int entries, struct ibv_wc *wc)
{
	int count = real.poll_cq(cq, entries, wc);

	return count > 0 && fails() ? -1 : count;
}

static int notify(struct ibv_cq *cq, int solicited)
{
	return fails() ? ENOMEM : real.req_notify_cq(cq, solicited);
}

struct ibv_pd *__real_ibv_alloc_pd(struct ibv_context *verbs);
struct ibv_pd *__wrap_ibv_alloc_pd(struct ibv_context *verbs);
struct ibv_pd *__wrap_ibv_alloc_pd(struct ibv_context *verbs)
{
	if (verbs->ops.post_send != post_send) {
		real = verbs->ops;
		verbs->ops.post_send = post_send;
		verbs->ops.post_recv = post_recv;
		verbs->ops.req_notify_cq = notify;
		verbs->ops.poll_cq = poll_cq;
	}
	return fails() ? NULL : __real_ibv_alloc_pd(verbs);
}

/* ---- The ends ------------------------------------------------------------------------- */

static int on_pause(void *opaque, struct wh_err *err)
{
	(void)err;
	((struct end *)opaque)->pauses++;
	return 0;
}

static int on_resume(void *opaque, struct wh_err *err)
{
	(void)err;
	((struct end *)opaque)->resumes++;
	return 0;
}

static int on_start(void *opaque, struct wh_err *err)
{
	(void)err;
	((struct end *)opaque)->starts++;
	return 0;
}

static const struct wh_callbacks callbacks = {
	.pause = on_pause,
	.resume = on_resume,
	.start = on_start,
	ENDS_WRITE_NOTHING,
};

/* Who listens waits for the next one who comes: there is none */
static bool nobody_comes(const struct wh_migration *m, bool source)
{
	static uint64_t since_ns;

	if (source || !__atomic_load_n(&run->source.ended, __ATOMIC_ACQUIRE) ||
	    wh_get_phase(m) != WH_PHASE_SETUP)
		return false;
	if (!since_ns)
		since_ns = clock_now_ns();
	return clock_now_ns() - since_ns > DOOR_NS;
}

/* Until it is over, all is given back, and somebody has looked at what is left */
static void be_end(bool source, bool pin_all, void *memory, int fd)
{
	struct end *end = self_end = source ? &run->source : &run->dest;
	struct wh_block block = {
		.name = "ram",
		.addr = memory,
		.length = BYTES,
		.page_size = 4096,
		.fd = fd,
	};
	struct wh_migration *m = NULL;
	struct wh_config config;
	struct wh_err err = { 0 };
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = end;
	config.postcopy = false;
	config.return_path = false;
	config.urgent = WH_URGENT_OFF;
	config.rdma_pin_all = pin_all;
	config.connect_timeout_ns = SILENT_NS;
	config.dead_peer_ns = 4 * NS_PER_S;
	ret = wh_new(&m, source ? WH_SOURCE : WH_DEST, &config, &err);
	if (ret == 0)
		ret = wh_add_block(m, &block, &err);
	if (ret == 0)
		ret = ends_begin(m, source ? WH_SOURCE : WH_DEST, run->uri, sizeof(run->uri), &err);
	end->phase = WH_PHASE_FAILED;
	if (ret == 0) {
		while ((ret = wh_wait(m, 50 * (int64_t)NS_PER_MS, &err)) == -EAGAIN)
			if (nobody_comes(m, source)) {
				ret = err_set(&err, -ETIMEDOUT, "nobody comes");
				break;
			}
		end->phase = wh_get_phase(m);
	}
	snprintf(end->text, sizeof(end->text), "%s", ret < 0 ? err.text : "");
	if (m)
		wh_free(m);
	__atomic_store_n(&end->ended, true, __ATOMIC_RELEASE);
	while (!__atomic_load_n(&run->go, __ATOMIC_ACQUIRE))
		usleep(1000);
	_exit(0);
}

static pid_t begin_end(bool source, unsigned seed, void *memory, int fd)
{
	pid_t pid = fork();

	if (pid)
		return pid;
	armed = source == (seed & 1);
	dice = seed;
	calls_left = 1 + seed * 37 % CALLS;
	be_end(source, seed >> 1 & 1, memory, fd);
	return 0;
}

/* ---- The suite ------------------------------------------------------------------------ */

FIXTURE(failing)
{
	int fd[2];
	uint8_t *memory[2]; /* the source's, the destination's */
	pid_t pid[2];
	char before[512];
};

/* But for how often a device is open: librdmacm keeps that to itself */
static void resources(char *text, size_t size)
{
	FILE *pipe = popen("rdma resource | sed 's/ctx [0-9]*//'", "re");
	size_t have = pipe ? fread(text, 1, size - 1, pipe) : 0;

	text[have] = '\0';
	if (pipe)
		pclose(pipe);
}

FIXTURE_SETUP(failing)
{
	memset(self, 0, sizeof(*self));
	run = mmap(NULL, sizeof(*run), PROT_READ | PROT_WRITE, MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, run);
	for (unsigned i = 0; i < 2; i++) {
		self->memory[i] = ends_ram(BYTES, &self->fd[i]);
		ASSERT_NE(NULL, self->memory[i]);
	}
	/* the second and the fourth MiB are zeros */
	for (uint64_t at = 0; at < BYTES; at++)
		self->memory[0][at] = at / MIB & 1 ? 0 : (uint8_t)(1 + (at >> 12) % 255);
	resources(self->before, sizeof(self->before));
	ASSERT_NE(NULL, strstr(self->before, "rxe1"));
}

FIXTURE_TEARDOWN(failing)
{
	ends_kill(self->pid);
}

static const char *judge(FIXTURE_DATA(failing) *self)
{
	const struct end *source = &run->source, *dest = &run->dest;
	bool runs = source->pauses == source->resumes;
	char after[512];

	for (unsigned i = 0; i < 100; i++, usleep(100000)) {
		resources(after, sizeof(after));
		if (!strcmp(self->before, after))
			break;
	}
	if (strcmp(self->before, after) != 0)
		return "something is left in the kernel";
	if (dest->starts && source->ended && runs)
		return "two guests run";
	if (source->phase == WH_PHASE_FAILED && !runs)
		return "the source's guest was not resumed";
	if (!dest->starts && source->ended && !runs && source->phase == WH_PHASE_DONE)
		return "the guest is lost";
	if (dest->starts && memcmp(self->memory[0], self->memory[1], BYTES) != 0)
		return "other memory";
	if ((dest->phase != WH_PHASE_DONE && !dest->text[0]) ||
	    (source->ended && source->phase != WH_PHASE_DONE && !source->text[0]))
		return "no sentence";
	return NULL;
}

static const char *one(FIXTURE_DATA(failing) *self, unsigned seed)
{
	uint64_t until_ns = clock_now_ns() + LIMIT_NS;
	const char *wrong = NULL;

	memset(run, 0, sizeof(*run));
	memset(self->memory[1], 0x55, BYTES);
	self->pid[1] = begin_end(false, seed, self->memory[1], self->fd[1]);
	/* or it has ended before it did */
	if (!ends_until(run->uri, &run->dest.ended, until_ns))
		wrong = "the destination hangs before it listens";
	if (!wrong && run->uri[0]) {
		self->pid[0] = begin_end(true, seed, self->memory[0], self->fd[0]);
		if (!ends_until(&run->source.ended, NULL, until_ns))
			wrong = "the source hangs";
	}
	if (!wrong && !ends_until(&run->dest.ended, NULL, until_ns))
		wrong = "the destination hangs";
	if (!wrong)
		wrong = judge(self);
	__atomic_store_n(&run->go, true, __ATOMIC_RELEASE);
	ends_kill(self->pid);
	return wrong;
}

static unsigned number(const char *name, unsigned otherwise)
{
	const char *text = getenv(name);

	return text ? (unsigned)strtoul(text, NULL, 10) : otherwise;
}

TEST_F_TIMEOUT(failing, from_some_call_on, 110)
{
	unsigned seed = number("FAILING_SEED", 1), runs = number("FAILING_RUNS", RUNS);
	unsigned failures = 0, done = 0;

	for (unsigned i = 0; i < runs; i++, seed++) {
		const char *wrong = one(self, seed);

		failures += run->source.failures + run->dest.failures;
		done += run->dest.starts;
		EXPECT_EQ(NULL, wrong);
		if (wrong || getenv("FAILING_SEED"))
			TH_LOG("seed %u: %s; source %s (%s, %u failures), destination %s (%s, %u "
			       "failures)",
			       seed, wrong ?: "good", wh_phase_name(run->source.phase),
			       run->source.text, run->source.failures,
			       wh_phase_name(run->dest.phase), run->dest.text, run->dest.failures);
	}
	/* there was something to survive, and something that did */
	EXPECT_LT(runs / 2, failures);
	TH_LOG("%u runs, %u failures, %u arrived", runs, failures, done);
}

TEST_HARNESS_MAIN
