/* SPDX-License-Identifier: MIT */
/*
 * A guest that is protected, both ends in this process: how fast it is, how often it can be
 * copied, and how long what it sends waits. Then what closing an epoch and letting it go
 * cost, by how many NICs there are.
 */
#include "base/bytes.h"
#include "base/clock.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/netrig.h"
#include "selftests/wire/random.h"

#include <errno.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wherry/protect.h>

#define MIB (UINT64_C(1) << 20)
#define PAGE 4096u
#define BURST_PAGES (5 * MIB / PAGE)
#define SPEAK_NS NS_PER_MS
#define SENT_MAX 8192u
#define STEPS 100u
#define FRAMES 16u /* in an epoch, of all NICs together */

/* One processor. It stops between two steps, and with writes left of an epoch not at all */
static struct guest {
	uint8_t *memory, *replica;
	uint64_t pages;
	void (*step)(void);
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t cond;
	bool park, parked, end; /* park is read without the lock, too */
	uint64_t done;		/* steps; atomic */
	unsigned burst, left;
	struct random random;
	uint64_t sent_ns[SENT_MAX];
	unsigned sent; /* atomic */
} guest = { .lock = PTHREAD_MUTEX_INITIALIZER, .cond = PTHREAD_COND_INITIALIZER };

static struct {
	struct wh_protect *source, *dest;
	char folder[32], uri[64], generation[2][64];
} pair;

static struct netrig rig;

static void die(const char *what, const struct wh_err *err)
{
	fprintf(stderr, "hold: %s: %s\n", what, err && err->code ? err->text : "failed");
	exit(1);
}

static void nap(uint64_t ns)
{
	const struct timespec time = { .tv_sec = (time_t)(ns / NS_PER_S),
				       .tv_nsec = (long)(ns % NS_PER_S) };

	nanosleep(&time, NULL);
}

/* ---- The guest ---- */

static void write_page(void)
{
	guest.memory[random_below(&guest.random, guest.pages) * PAGE]++;
}

/* About 20 us of computing, and a page: 5 MiB in 25 ms */
static void step_work(void)
{
	uint64_t sum = guest.done;

	for (unsigned i = 0; i < 16000; i++)
		sum = sum * 1664525 + i;
	__asm__ volatile("" : : "r"(sum));
	write_page();
}

/* 5 MiB behind each checkpoint, one page here and one there, as fast as it can */
static void step_burst(void)
{
	uint64_t stride = guest.pages / BURST_PAGES;

	if (guest.left)
		guest.memory[(--guest.left * stride + guest.done % stride) * PAGE]++;
	else
		nap(NS_PER_MS / 20);
}

/* A packet, and a millisecond in which it may be stopped */
static void step_speak(void)
{
	struct timespec until;
	unsigned number = guest.sent;

	if (number < SENT_MAX) {
		guest.sent_ns[number] = clock_now_ns();
		__atomic_store_n(&guest.sent, number + 1, __ATOMIC_RELEASE);
		netrig_send(&rig, 0, 0, number, NETRIG_OTHER);
	}
	for (unsigned i = 0; i < 4; i++)
		write_page();
	clock_gettime(CLOCK_REALTIME, &until);
	until.tv_nsec += (long)SPEAK_NS;
	until.tv_sec += until.tv_nsec / (long)NS_PER_S;
	until.tv_nsec %= (long)NS_PER_S;
	pthread_mutex_lock(&guest.lock);
	if (!guest.park)
		pthread_cond_timedwait(&guest.cond, &guest.lock, &until);
	pthread_mutex_unlock(&guest.lock);
}

static void *guest_main(void *unused)
{
	bool end = false;

	while (!end) {
		if (__atomic_load_n(&guest.park, __ATOMIC_ACQUIRE) && !guest.left) {
			pthread_mutex_lock(&guest.lock);
			guest.parked = true;
			pthread_cond_broadcast(&guest.cond);
			while (guest.park && !guest.end)
				pthread_cond_wait(&guest.cond, &guest.lock);
			guest.parked = false;
			end = guest.end;
			pthread_mutex_unlock(&guest.lock);
			continue;
		}
		guest.step();
		__atomic_fetch_add(&guest.done, 1, __ATOMIC_RELAXED);
	}
	return unused;
}

static int on_pause(void *unused, struct wh_err *err)
{
	(void)unused;
	(void)err;
	pthread_mutex_lock(&guest.lock);
	__atomic_store_n(&guest.park, true, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&guest.cond);
	while (!guest.parked)
		pthread_cond_wait(&guest.cond, &guest.lock);
	pthread_mutex_unlock(&guest.lock);
	return 0;
}

static int on_resume(void *unused, struct wh_err *err)
{
	(void)unused;
	(void)err;
	pthread_mutex_lock(&guest.lock);
	guest.left = guest.burst;
	__atomic_store_n(&guest.park, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&guest.cond);
	pthread_mutex_unlock(&guest.lock);
	return 0;
}

static void *pages(uint64_t bytes)
{
	void *at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);

	if (at == MAP_FAILED)
		die("memory", NULL);
	madvise(at, bytes, MADV_NOHUGEPAGE);
	memset(at, 1, bytes);
	return at;
}

static void guest_begin(void (*step)(void), unsigned burst)
{
	guest.step = step;
	guest.left = guest.burst = burst;
	guest.end = guest.park = false;
	guest.sent = 0;
	if (pthread_create(&guest.thread, NULL, guest_main, NULL))
		die("a thread", NULL);
}

static void guest_end(void)
{
	on_pause(NULL, NULL);
	pthread_mutex_lock(&guest.lock);
	guest.end = true;
	pthread_cond_broadcast(&guest.cond);
	pthread_mutex_unlock(&guest.lock);
	pthread_join(guest.thread, NULL);
}

/* ---- Its protection ---- */

/* Nobody dies here */
static int on_run(void *unused, const void *data, size_t length, struct wh_err *err)
{
	(void)unused;
	(void)data;
	(void)length;
	(void)err;
	return -ENOTSUP;
}

static struct wh_protect *end_new(enum wh_role role, uint64_t interval_ns, struct wh_netplug *plug)
{
	const struct wh_protect_callbacks callbacks = { .pause = on_pause,
							.resume = on_resume,
							.run = on_run };
	const struct wh_block block = {
		.name = "ram",
		.addr = role == WH_SOURCE ? guest.memory : guest.replica,
		.length = guest.pages * PAGE,
		.page_size = PAGE,
		.fd = -1,
	};
	struct wh_protect_config config;
	struct wh_protect *protect;
	struct wh_err err = { 0 };

	wh_protect_config_init(&config);
	config.callbacks = &callbacks;
	config.generation_file = pair.generation[role == WH_SOURCE];
	config.plug = plug;
	config.pace.min_ns = config.pace.max_ns = interval_ns;
	if (wh_protect_new(&protect, role, &config, &err) ||
	    wh_protect_add_block(protect, &block, &err) ||
	    (role == WH_SOURCE ? wh_protect_connect : wh_protect_listen)(protect, pair.uri, NULL,
									 &err) ||
	    wh_protect_start(protect, &err))
		die("protection", &err);
	return protect;
}

static struct wh_protect_status status_now(void)
{
	struct wh_protect_status status;

	wh_protect_get_status(pair.source, &status);
	if (status.state == WH_PROTECT_HOLD || wh_protect_ended(status.state))
		die("protection", &status.err);
	return status;
}

/* Returns when it has been checkpointed for a while. Without an interval: not protected at all */
static void protect(uint64_t interval_ns, struct wh_netplug *plug)
{
	if (!interval_ns) {
		nap(NS_PER_S / 5);
		return;
	}
	pair.dest = end_new(WH_DEST, interval_ns, NULL);
	pair.source = end_new(WH_SOURCE, interval_ns, plug);
	while (status_now().checkpoints < 5)
		nap(NS_PER_MS);
}

static void unprotect(void)
{
	struct wh_err err = { 0 };

	if (!pair.source)
		return;
	if (wh_protect_stop(pair.source, &err) || wh_protect_wait(pair.source, -1, &err) ||
	    wh_protect_wait(pair.dest, -1, &err))
		die("the end of it", &err);
	wh_protect_free(pair.source);
	wh_protect_free(pair.dest);
	pair.source = pair.dest = NULL;
}

static uint64_t look_ns(const struct bench *bench)
{
	return bench->quick ? NS_PER_S / 2 : 2 * NS_PER_S;
}

static const char *of_ram(void)
{
	static char text[32];

	snprintf(text, sizeof(text), "of %u MiB", (unsigned)(guest.pages * PAGE / MIB));
	return text;
}

static void measure_speed(const struct bench *bench)
{
	static const unsigned rates[] = { 0, 10, 20, 40 };
	struct bench_row rows[] = { { .side = "not protected" },
				    { .side = "10 checkpoints a second" },
				    { .side = "20 checkpoints a second" },
				    { .side = "40 checkpoints a second" } };
	char variant[96];

	for (unsigned round = 0; bench_again(round); round++) {
		for (unsigned i = 0; i < 4; i++) {
			uint64_t begin_ns, done;

			guest_begin(step_work, 0);
			protect(rates[i] ? NS_PER_S / rates[i] : 0, NULL);
			done = __atomic_load_n(&guest.done, __ATOMIC_RELAXED);
			begin_ns = clock_now_ns();
			nap(look_ns(bench));
			done = __atomic_load_n(&guest.done, __ATOMIC_RELAXED) - done;
			bench_add(&rows[i],
				  (double)done * 1e6 / (double)(clock_now_ns() - begin_ns));
			unprotect();
			guest_end();
		}
	}
	snprintf(variant, sizeof(variant), "one vCPU that computes and writes 200 MiB/s, %s",
		 of_ram());
	bench_print(bench, BENCH_CP_SPEED, variant, rows, 4);
}

static double checkpoint_rate(const struct bench *bench, uint64_t interval_ns)
{
	uint64_t begin_ns, checkpoints;
	double rate;

	guest_begin(step_burst, BURST_PAGES);
	protect(interval_ns, NULL);
	checkpoints = status_now().checkpoints;
	begin_ns = clock_now_ns();
	nap(look_ns(bench));
	checkpoints = status_now().checkpoints - checkpoints;
	rate = (double)checkpoints * 1e9 / (double)(clock_now_ns() - begin_ns);
	if (status_now().dirty_bytes < BURST_PAGES * PAGE)
		die("the guest has not written 5 MiB", NULL);
	unprotect();
	guest_end();
	return rate;
}

static void measure_rate(const struct bench *bench)
{
	struct bench_row rows[] = { { .side = "asked for" },
				    { .side = "wherry" },
				    { .side = "wherry, as often as it can" } };
	char variant[96];

	for (unsigned round = 0; bench_again(round); round++) {
		bench_add(&rows[0], 40);
		bench_add(&rows[1], checkpoint_rate(bench, NS_PER_S / 40));
		bench_add(&rows[2], checkpoint_rate(bench, 1));
	}
	snprintf(variant, sizeof(variant), "5 MiB dirty in each, single pages, %s", of_ram());
	bench_print(bench, BENCH_CP_RATE, variant, rows, 3);
}

/* ---- What waits ---- */

/* @nics: 0: those of the process that holds */
static struct wh_netplug *plug_new(enum wh_netplug_edge edge, unsigned nics)
{
	static const char *const names[] = { "tap0", "tap1", "tap2", "tap3",
					     "tap4", "tap5", "tap6", "tap7" };
	struct wh_netplug_config config;
	struct wh_netplug *plug;
	struct wh_err err = { 0 };

	wh_netplug_config_init(&config);
	config.edge = edge;
	config.name = "bench";
	config.nics = names;
	config.nic_count = nics;
	if (wh_netplug_new(&plug, &config, &err))
		die("netplug", &err);
	return plug;
}

/* A process of its own, by the queue. It listens when this returns */
static pid_t holder_begin(unsigned nics)
{
	struct wh_netplug *plug;
	struct wh_err err = { 0 };
	int ready[2];
	pid_t pid;
	char end;

	if (pipe(ready) < 0)
		die("a pipe", NULL);
	pid = fork();
	if (pid) {
		close(ready[1]);
		if (pid < 0 || read(ready[0], &end, 1) != 0)
			die("a process", NULL);
		close(ready[0]);
		return pid;
	}
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	plug = plug_new(WH_NETPLUG_QUEUE, nics);
	if (wh_netplug_listen(plug, &err))
		die("listen", &err);
	close(ready[0]);
	close(ready[1]);
	for (;;) {
		struct pollfd fd = { .fd = wh_netplug_fd(plug), .events = POLLIN };

		poll(&fd, 1, -1);
		wh_netplug_process(plug, NULL);
	}
}

struct latency {
	double ms[SENT_MAX];
	size_t count;
	unsigned first; /* those before were sent when nobody listened */
	double ack_ms;	/* sum */
	unsigned looks;
};

/* Return: false: there is nothing to be read */
static bool read_one(struct latency *latency)
{
	uint8_t frame[2048];
	ssize_t n = read(rig.outside, frame, sizeof(frame));
	unsigned number;

	if (n <= 0)
		return false;
	number = get_be16(frame + 10);
	if (n < 14 || frame[6] != 0x02 || frame[7] != 0xa0 || latency->count == SENT_MAX ||
	    number < latency->first || number >= __atomic_load_n(&guest.sent, __ATOMIC_ACQUIRE))
		return true;
	latency->ms[latency->count++] = (double)(clock_now_ns() - guest.sent_ns[number]) / 1e6;
	return true;
}

static void listen_outside(struct latency *latency, uint64_t for_ns, bool guarded)
{
	struct pollfd fd = { .fd = rig.outside, .events = POLLIN };
	uint64_t end_ns = clock_now_ns() + for_ns, seen = 0;

	*latency = (struct latency){ .first = __atomic_load_n(&guest.sent, __ATOMIC_ACQUIRE) };
	while (clock_now_ns() < end_ns) {
		poll(&fd, 1, 1);
		while (read_one(latency))
			;
		if (guarded && status_now().checkpoints > seen) {
			struct wh_protect_status status = status_now();

			seen = status.checkpoints;
			latency->ack_ms += (double)status.ack_ns / 1e6;
			latency->looks++;
		}
	}
}

/*
 * The floor is what has to be: a packet that is sent behind a stop waits for the interval and the
 * answer, one in the middle for half of the interval and the answer.
 */
static void measure_latency(const struct bench *bench, unsigned interval_ms)
{
	static struct latency latency;
	struct bench_row p50[] = { { .side = "floor" },
				   { .side = "wherry" },
				   { .side = "nothing held" } };
	struct bench_row p99[] = { { .side = "floor" },
				   { .side = "wherry" },
				   { .side = "nothing held" } };
	struct wh_netplug *plug = plug_new(WH_NETPLUG_QUEUE, 1);
	char variant[96];

	for (unsigned round = 0; bench_again(round); round++) {
		double answer;

		guest_begin(step_speak, 0);
		listen_outside(&latency, NS_PER_S / 5, false);
		bench_add(&p50[2], bench_quantile(latency.ms, latency.count, 0.5));
		bench_add(&p99[2], bench_quantile(latency.ms, latency.count, 0.99));
		protect(interval_ms * NS_PER_MS, plug);
		listen_outside(&latency, look_ns(bench), true);
		answer = latency.looks ? latency.ack_ms / latency.looks : 0;
		bench_add(&p50[0], interval_ms / 2.0 + answer);
		bench_add(&p99[0], interval_ms + answer);
		bench_add(&p50[1], bench_quantile(latency.ms, latency.count, 0.5));
		bench_add(&p99[1], bench_quantile(latency.ms, latency.count, 0.99));
		unprotect();
		guest_end();
	}
	wh_netplug_free(plug);
	snprintf(variant, sizeof(variant), "interval %u ms, agent-held queue", interval_ms);
	bench_print(bench, BENCH_CP_HELD_P50, variant, p50, 3);
	bench_print(bench, BENCH_CP_HELD_P99, variant, p99, 3);
}

/* ---- The two steps ---- */

/* Medians of one round, in us */
static void time_steps(struct wh_netplug *plug, unsigned nics, double *turn, double *release)
{
	static double turns[STEPS], releases[STEPS];
	struct pollfd fd = { .fd = rig.outside, .events = POLLIN };
	struct netrig_mark mark;
	struct wh_err err = { 0 };

	if (wh_netplug_arm(plug, &err))
		die("arm", &err);
	for (unsigned i = 0; i < STEPS; i++) {
		uint64_t begin_ns;

		for (unsigned j = 0; j < FRAMES; j++)
			netrig_send(&rig, j % nics, 0, j, NETRIG_OTHER);
		begin_ns = clock_now_ns();
		if (wh_netplug_turn(plug, i + 1, &err))
			die("turn", &err);
		turns[i] = (double)(clock_now_ns() - begin_ns) / 1e3;
		begin_ns = clock_now_ns();
		if (wh_netplug_release(plug, i + 1, &err))
			die("release", &err);
		releases[i] = (double)(clock_now_ns() - begin_ns) / 1e3;
		for (unsigned j = 0; j < FRAMES; j++)
			if (poll(&fd, 1, 1000) != 1 || netrig_seen(&rig, &mark, 1, 1) != 1)
				die("what was let go has not come", NULL);
	}
	if (wh_netplug_disarm(plug, &err))
		die("disarm", &err);
	*turn = bench_quantile(turns, STEPS, 0.5);
	*release = bench_quantile(releases, STEPS, 0.5);
}

static void measure_steps(const struct bench *bench, enum wh_netplug_edge edge, const char *missing)
{
	static const unsigned nics[] = { 1, 8 };
	struct bench_row turn[] = { { .side = "1 NIC" }, { .side = "8 NICs" } };
	struct bench_row release[] = { { .side = "1 NIC" }, { .side = "8 NICs" } };
	char variant[96];

	for (unsigned i = 0; missing && i < 2; i++) {
		snprintf(turn[i].why, sizeof(turn[i].why), "%s", missing);
		snprintf(release[i].why, sizeof(release[i].why), "%s", missing);
	}
	for (unsigned round = 0; !missing && bench_again(round); round++) {
		for (unsigned i = 0; i < 2; i++) {
			bool held = edge == WH_NETPLUG_HOLDER;
			pid_t holder = held ? holder_begin(nics[i]) : 0;
			struct wh_netplug *plug = plug_new(edge, held ? 0 : nics[i]);
			double us[2];

			time_steps(plug, nics[i], &us[0], &us[1]);
			bench_add(&turn[i], us[0]);
			bench_add(&release[i], us[1]);
			wh_netplug_free(plug);
			if (holder && (kill(holder, SIGKILL) || waitpid(holder, NULL, 0) < 0))
				die("the end of a process", NULL);
		}
	}
	snprintf(variant, sizeof(variant), "%s, %u packets", wh_netplug_edge_name(edge), FRAMES);
	bench_print(bench, BENCH_CP_TURN, variant, turn, 2);
	bench_print(bench, BENCH_CP_RELEASE, variant, release, 2);
}

static void measure_guest(const struct bench *bench)
{
	guest.pages = bench->bytes / PAGE;
	guest.memory = pages(bench->bytes);
	guest.replica = pages(bench->bytes);
	snprintf(pair.folder, sizeof(pair.folder), "/tmp/bench-XXXXXX");
	if (!mkdtemp(pair.folder))
		die("a folder", NULL);
	snprintf(pair.uri, sizeof(pair.uri), "unix:%s/socket", pair.folder);
	for (unsigned i = 0; i < 2; i++)
		snprintf(pair.generation[i], sizeof(pair.generation[i]), "%s/%u", pair.folder, i);
	bench_part(4, 10);
	measure_speed(bench);
	bench_part(2, 6);
	measure_rate(bench);
	bench_part(1, 4);
	measure_latency(bench, 25);
	bench_part(1, 3);
	measure_latency(bench, 50);
	for (unsigned i = 0; i < 2; i++)
		unlink(pair.generation[i]);
	rmdir(pair.folder);
}

int main(int argc, char **argv)
{
	struct bench bench;
	const char *missing;

	bench_begin(&bench, "hold", argc, argv);
	missing = netrig_open(&rig, NETRIG_NICS);
	if (missing) {
		printf("  not measured: %s\n", missing);
		return 0;
	}
	if (bench_wants(&bench, "wherry"))
		measure_guest(&bench);
	if (!bench_wants(&bench, "8 NICs"))
		return 0;
	bench_part(1, 3);
	measure_steps(&bench, WH_NETPLUG_QUEUE, NULL);
	bench_part(1, 2);
	measure_steps(&bench, WH_NETPLUG_HOLDER, NULL);
	bench_part(1, 1);
	missing = netrig_run("ip link add scratch type ifb && tc qdisc add dev scratch root plug "
			     "2>/dev/null") ?
			  "this kernel has no sch_plug: in the lab it has" :
			  NULL;
	netrig_run("ip link del scratch 2>/dev/null");
	measure_steps(&bench, WH_NETPLUG_PLUG, missing);
	return 0;
}
