/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A postcopy with a real QEMU at one end, whose link breaks again and again: behind each
 * kind of message and in the middle of a page. It is recovered each time, by migrate-recover
 * or by migrate with resume, and by this library's function at the other end. Memory is
 * compared when all of it is there.
 *
 * QEMU 7.2 never comes back from a break within the handshake; so the link holds until the
 * handshake is over.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <signal.h>
#include <ftw.h>
#include <netinet/in.h>
#include <pthread.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <sys/socket.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "base/clock.h"
#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/proxy.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"
#include "selftests/lib/workload.h"

#define MIB (UINT64_C(1) << 20)
#define RAM_BYTES (64 * MIB)
#define STEPPED_BYTES (24 * MIB) /* the rest stays zero */
#define LOADED_AT MIB		 /* where QEMU's RAM has contents */
#define WAIT_MS 30000
#define TEST_SECONDS 150

/* On the wire: RECV_BITMAP of "ram" and POSTCOPY_RESUME, then PART, a record's head, a page */
#define HANDSHAKE_BYTES (9u + 5u)
#define PART_BYTES 5u
#define HEAD_BYTES 12u
#define PAGE_BYTES 4096u

static const uint64_t cuts[] = {
	/* somewhere in the first connection; whole pages, and a part of one */
	3 * MIB,
	HANDSHAKE_BYTES + PART_BYTES,
	HANDSHAKE_BYTES + PART_BYTES + HEAD_BYTES,
	HANDSHAKE_BYTES + PART_BYTES + HEAD_BYTES + PAGE_BYTES,
	HANDSHAKE_BYTES + PART_BYTES + HEAD_BYTES + 1000,
	MIB + 7,
};
#define CUTS (sizeof(cuts) / sizeof(cuts[0]))

FIXTURE(recover)
{
	char dir[64];
	char file[96];
	uint8_t *ram;
	struct workload workload;
	struct wh_migration *migration;
	struct proxy *proxy;
	struct qemu qemu;
	struct receiver receiver;
	char out[96];
	bool stop; /* atomic: of the thread that touches pages */
	pthread_t toucher;
	bool touching;
};

FIXTURE_VARIANT(recover)
{
	const char *capabilities[4];
	enum wh_urgent urgent;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(recover, plain)
{
	.capabilities = { "postcopy-ram" },
};

FIXTURE_VARIANT_ADD(recover, preempt)
{
	.capabilities = { "postcopy-ram", "postcopy-preempt" },
	.urgent = WH_URGENT_AT_START,
};
/* clang-format on */

static int pause_guest(void *opaque, struct wh_err *err)
{
	FIXTURE_DATA(recover) *self = opaque;

	(void)err;
	workload_park(&self->workload);
	return 0;
}

static int must_not(void *opaque, struct wh_err *err)
{
	(void)opaque;
	return err_set(err, -EINVAL, "the guest is resumed where it must not be");
}

static int load_device(void *opaque, const void *data, size_t length, enum wh_device_format format,
		       struct wh_err *err)
{
	(void)opaque;
	(void)data;
	(void)length;
	return format == WH_DEVICE_QEMU ? 0 : err_set(err, -EPROTO, "not QEMU's");
}

/* A guest that reads pages here and there */
static void *touch(void *arg)
{
	FIXTURE_DATA(recover) *self = arg;
	uint32_t x = 1;

	while (!__atomic_load_n(&self->stop, __ATOMIC_ACQUIRE)) {
		x = x * 1664525 + 1013904223;
		(void)*(volatile uint8_t *)(self->ram + (x >> 8) % (RAM_BYTES / 4096) * 4096);
		usleep(200);
	}
	return NULL;
}

static int start_guest(void *opaque, struct wh_err *err)
{
	FIXTURE_DATA(recover) *self = opaque;

	(void)err;
	self->touching = !pthread_create(&self->toucher, NULL, touch, self);
	return 0;
}

static const struct wh_callbacks callbacks = {
	.pause = pause_guest,
	.resume = must_not,
	.device_load = load_device,
	.start = start_guest,
};

static int drop_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

FIXTURE_SETUP(recover)
{
	(void)variant;
	self->ram =
		mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->ram);
	strcpy(self->dir, "/dev/shm/wherry-again-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->file, sizeof(self->file), "%s/file", self->dir);
	snprintf(self->out, sizeof(self->out), "%s/out", self->dir);
}

FIXTURE_TEARDOWN(recover)
{
	(void)variant;
	__atomic_store_n(&self->stop, true, __ATOMIC_RELEASE);
	/* if it waits for a page that will never come, so would this */
	if (self->touching && wh_get_phase(self->migration) == WH_PHASE_DONE)
		pthread_join(self->toucher, NULL);
	proxy_end(self->proxy);
	wh_free(self->migration);
	qemu_end(&self->qemu);
	receiver_end(&self->receiver);
	nftw(self->dir, drop_file, 16, FTW_DEPTH | FTW_PHYS);
}

static int new_end(FIXTURE_DATA(recover) *self, enum wh_role role, enum wh_urgent urgent,
		   struct wh_err *err)
{
	const struct wh_block block = {
		.name = "ram",
		.addr = self->ram,
		.length = RAM_BYTES,
		.page_size = 4096,
		.fd = -1,
	};
	struct wh_config config;
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = self;
	config.machine = "none";
	config.urgent = urgent;
	config.downtime_ns = 1;
	config.bandwidth = 16 * MIB; /* who is there is asked before the switch */
	config.postcopy_bandwidth = 16 * MIB;
	ret = wh_new(&self->migration, role, &config, err);
	return ret ? ret : wh_add_block(self->migration, &block, err);
}

static int wait_phase(FIXTURE_DATA(recover) *self, enum wh_phase phase, struct wh_err *err)
{
	static const struct timespec ms = { .tv_nsec = (long)NS_PER_MS };
	uint64_t end = clock_now_ns() + (uint64_t)WAIT_MS * NS_PER_MS;

	while (wh_get_phase(self->migration) != phase) {
		if (clock_now_ns() > end)
			return err_set(err, -ETIMEDOUT, "still %s after %d ms, not %s",
				       wh_phase_name(wh_get_phase(self->migration)), WAIT_MS,
				       wh_phase_name(phase));
		nanosleep(&ms, NULL);
	}
	return 0;
}

/* Both ends have seen that the link is gone, and let go of it. */
static int wait_paused(FIXTURE_DATA(recover) *self, struct wh_err *err)
{
	int ret = wait_phase(self, WH_PHASE_PAUSED, err);

	if (ret)
		return ret;
	if (wh_wait(self->migration, (int64_t)WAIT_MS * (int64_t)NS_PER_MS, err) == -EAGAIN)
		return -ETIMEDOUT;
	return qemu_wait_status(&self->qemu, "postcopy-paused", WAIT_MS, err);
}

static int new_proxy(FIXTURE_DATA(recover) *self, const char *to, uint64_t cut_at,
		     struct wh_err *err)
{
	proxy_end(self->proxy);
	self->proxy = proxy_start(to, &(struct proxy_script){ .cut_at = cut_at });
	return self->proxy ? 0 : err_set(err, -EIO, "no proxy to %s", to);
}

/* Somewhere that a QEMU can be told to listen */
static void free_port(char uri[64])
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	bind(fd, (struct sockaddr *)&at, sizeof(at));
	getsockname(fd, (struct sockaddr *)&at, &length);
	close(fd);
	snprintf(uri, 64, "tcp:127.0.0.1:%u", ntohs(at.sin_port));
}

static int compare(FIXTURE_DATA(recover) *self, const char *path, struct wh_err *err)
{
	const struct image here = { .at = self->ram, .length = RAM_BYTES };
	struct image there;
	int ret = image_open(&there, path, err);

	if (ret)
		return ret;
	ret = image_compare(&here, &there, err);
	image_close(&there);
	return ret;
}

static int save(FIXTURE_DATA(recover) *self, struct wh_err *err)
{
	return qemu_command(&self->qemu, NULL, err, "pmemsave",
			    "{\"val\":0,\"size\":%llu,\"filename\":\"%s\"}",
			    (unsigned long long)RAM_BYTES, self->file);
}

static int start_source(FIXTURE_DATA(recover) *self, const FIXTURE_VARIANT(recover) * variant,
			struct wh_err *err)
{
	static const char *const argv[] = { "-M", "none", "-m", "64", "-incoming", "defer", NULL };
	char uri[64];
	int ret;

	workload_init(&self->workload, self->ram, STEPPED_BYTES / 4096, 1);
	workload_fill(&self->workload);
	workload_run(&self->workload);
	free_port(uri);
	ret = qemu_start(&self->qemu, argv, err);
	if (!ret)
		ret = qemu_capabilities(&self->qemu, variant->capabilities, err);
	if (!ret)
		ret = qemu_migrate_incoming(&self->qemu, uri, err);
	if (!ret)
		ret = new_proxy(self, uri, cuts[0], err);
	if (!ret)
		ret = new_end(self, WH_SOURCE, variant->urgent, err);
	if (!ret)
		ret = wh_connect(self->migration, proxy_uri(self->proxy), err);
	if (!ret)
		ret = wh_start(self->migration, err);
	return ret ? ret : wh_start_postcopy(self->migration, err);
}

/* Return: 0: it goes on behind the last cut, or a negative errno */
static int recover_qemu(FIXTURE_DATA(recover) *self, const FIXTURE_VARIANT(recover) * variant,
			struct wh_err *err)
{
	struct wh_stats stats;
	char uri[64];
	int ret = start_source(self, variant, err);

	for (unsigned i = 1; i <= CUTS && !ret; i++) {
		ret = wait_paused(self, err);
		if (ret)
			break;
		wh_get_stats(self->migration, &stats);
		if (stats.recoveries != i - 1)
			return err_set(err, -EIO, "%llu recoveries before cut %u",
				       (unsigned long long)stats.recoveries, i);
		free_port(uri);
		ret = qemu_command(&self->qemu, NULL, err, "migrate-recover", "{\"uri\":\"%s\"}",
				   uri);
		if (!ret)
			ret = new_proxy(self, uri, i < CUTS ? cuts[i] : 0, err);
		if (!ret)
			ret = wh_resume(self->migration, proxy_uri(self->proxy), err);
	}
	return ret ? ret : wait_phase(self, WH_PHASE_POSTCOPY, err);
}

/*
 * QEMU 7.2 uses a connection that it has just closed, and now and then dies of it
 * (Documentation/drill.rst). Nothing else that ends it counts as that, nor if our end does not
 * stand where it can be left.
 */
static bool died_of_itself(FIXTURE_DATA(recover) *self)
{
	struct child *child = &self->qemu.child;

	if (wait_phase(self, WH_PHASE_PAUSED, NULL) || child_wait(child, WAIT_MS, NULL) != -EINTR)
		return false;
	return WIFSIGNALED(child->status) && WTERMSIG(child->status) == SIGSEGV;
}

static void give_up(FIXTURE_DATA(recover) *self)
{
	proxy_end(self->proxy);
	self->proxy = NULL;
	wh_free(self->migration);
	self->migration = NULL;
	qemu_end(&self->qemu);
	workload_fini(&self->workload);
}

TEST_F_TIMEOUT(recover, qemu_is_the_destination, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	struct wh_stats stats;
	int ret = recover_qemu(self, variant, &err);

	for (unsigned again = 0; ret == -ECONNRESET && again < 3 && died_of_itself(self); again++) {
		TH_LOG("QEMU died of a segmentation fault, from the start: %s", err.text);
		give_up(self);
		ret = recover_qemu(self, variant, &err);
	}
	EXPECT_EQ(0, ret)
	{
		TH_LOG("%s", err.text);
	}
	if (ret)
		return;
	/* What is missing it takes for this in its own order: each is asked for */
	DO(save(self, &err));
	DO(compare(self, self->file, &err));
	DO(wh_wait(self->migration, (int64_t)WAIT_MS * (int64_t)NS_PER_MS, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	wh_get_stats(self->migration, &stats);
	EXPECT_EQ(CUTS, stats.recoveries);
	EXPECT_LT(0, stats.requests);
	if (variant->urgent) {
		EXPECT_LT(0, stats.pages_urgent);
	}
	EXPECT_EQ(0, workload_verify(&self->workload));
	workload_fini(&self->workload);
}

/* What the source's RAM has: not two pages alike */
static int write_contents(const char *path, struct wh_err *err)
{
	FILE *file = fopen(path, "w");
	uint64_t x = 1;

	if (!file)
		return err_set(err, -errno, "%s: %m", path);
	for (uint64_t at = 0; at < STEPPED_BYTES; at += sizeof(x)) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		fwrite(&x, sizeof(x), 1, file);
	}
	return fclose(file) ? err_set(err, -EIO, "%s", path) : 0;
}

/* A QEMU with contents, about to be migrated */
static int start_qemu_source(FIXTURE_DATA(recover) *self, const FIXTURE_VARIANT(recover) * variant,
			     struct wh_err *err)
{
	char loader[160];
	const char *const argv[] = { "-M", "none", "-m", "64", "-device", loader, NULL };
	int ret;

	snprintf(loader, sizeof(loader), "loader,file=%s,addr=0x%llx,force-raw=on", self->file,
		 (unsigned long long)LOADED_AT);
	ret = write_contents(self->file, err);
	if (!ret)
		ret = qemu_start(&self->qemu, argv, err);
	if (!ret)
		ret = qemu_capabilities(&self->qemu, variant->capabilities, err);
	if (!ret)
		ret = qemu_parameter(&self->qemu, "max-bandwidth", 4 * MIB, err);
	return ret ? ret : qemu_parameter(&self->qemu, "max-postcopy-bandwidth", 2 * MIB, err);
}

/*
 * In postcopy at the destination too, which may be megabytes behind: a link that breaks before
 * it has read that loses what is on its way, and the guest with it. From here on faster.
 */
static int first_cut(FIXTURE_DATA(recover) *self, struct wh_err *err)
{
	proxy_cut(self->proxy);
	return qemu_parameter(&self->qemu, "max-postcopy-bandwidth", 16 * MIB, err);
}

static int start_dest(FIXTURE_DATA(recover) *self, const FIXTURE_VARIANT(recover) * variant,
		      struct wh_err *err)
{
	int ret = start_qemu_source(self, variant, err);

	if (!ret)
		ret = new_end(self, WH_DEST, variant->urgent, err);
	if (!ret)
		ret = wh_listen(self->migration, "tcp:127.0.0.1:0", err);
	if (!ret)
		ret = wh_start(self->migration, err);
	if (!ret)
		ret = new_proxy(self, wh_listen_uri(self->migration), 0, err);
	if (!ret)
		ret = qemu_migrate(&self->qemu, proxy_uri(self->proxy), err);
	if (!ret)
		ret = qemu_command(&self->qemu, NULL, err, "migrate-start-postcopy", NULL);
	if (!ret)
		ret = wait_phase(self, WH_PHASE_POSTCOPY, err);
	return ret ? ret : first_cut(self, err);
}

TEST_F_TIMEOUT(recover, qemu_is_the_source, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	struct wh_stats stats;

	DO(start_dest(self, variant, &err));
	for (unsigned i = 1; i <= CUTS; i++) {
		DO(wait_paused(self, &err));
		wh_get_stats(self->migration, &stats);
		EXPECT_EQ(i - 1, stats.recoveries);
		EXPECT_LT(0, stats.pages_left);
		DO(wh_recover(self->migration, "tcp:127.0.0.1:0", &err));
		DO(new_proxy(self, wh_listen_uri(self->migration), i < CUTS ? cuts[i] : 0, &err));
		DO(qemu_command(&self->qemu, NULL, &err, "migrate",
				"{\"uri\":\"%s\",\"resume\":true}", proxy_uri(self->proxy)));
	}
	DO(wait_phase(self, WH_PHASE_DONE, &err));
	DO(wh_wait(self->migration, (int64_t)WAIT_MS * (int64_t)NS_PER_MS, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	wh_get_stats(self->migration, &stats);
	EXPECT_EQ(CUTS, stats.recoveries);
	EXPECT_LT(0, stats.requests);
	DO(save(self, &err));
	DO(compare(self, self->file, &err));
}

/* What wherry receive says, up to a line that has this in it */
static int wait_said(FIXTURE_DATA(recover) *self, const char *words, struct wh_err *err)
{
	char said[200];
	const char *line;
	int ret;

	do {
		ret = child_line(&self->receiver.child, &line, WAIT_MS, err);
		if (ret < 0)
			return ret;
		if (!ret)
			return err_set(err, -EPIPE, "it has ended with status %d: %s",
				       child_wait(&self->receiver.child, WAIT_MS, NULL),
				       child_said(&self->receiver.child, said, sizeof(said)));
	} while (!strstr(line, words));
	return 0;
}

/* To wherry receive, as far as the first cut */
static int start_receive(FIXTURE_DATA(recover) *self, const FIXTURE_VARIANT(recover) * variant,
			 const char *const options[], struct wh_err *err)
{
	int ret = start_qemu_source(self, variant, err);

	if (!ret)
		ret = receiver_start(&self->receiver, "tcp:127.0.0.1:0", self->out, options, err);
	if (!ret)
		ret = new_proxy(self, self->receiver.uri, 0, err);
	if (!ret)
		ret = qemu_migrate(&self->qemu, proxy_uri(self->proxy), err);
	if (!ret)
		ret = qemu_command(&self->qemu, NULL, err, "migrate-start-postcopy", NULL);
	if (!ret)
		ret = wait_said(self, "\"postcopy\"", err);
	return ret ? ret : first_cut(self, err);
}

/* It says that it listens again, and where it does a connection is held until it speaks. */
static int wait_listens_again(FIXTURE_DATA(recover) *self, struct wh_err *err)
{
	const struct timeval patience = { .tv_usec = 100000 };
	struct sockaddr_in to = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	unsigned port = 0;
	int ret = wait_said(self, "listening on", err);

	if (ret)
		return ret;
	sscanf(self->receiver.uri, "tcp:127.0.0.1:%u", &port);
	to.sin_port = htons((uint16_t)port);
	for (unsigned i = 0; i < 1000; i++) {
		int fd = socket(AF_INET, SOCK_STREAM, 0);
		bool held = false;
		char byte;

		setsockopt(fd, SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
		if (connect(fd, (struct sockaddr *)&to, sizeof(to)) == 0)
			held = recv(fd, &byte, 1, 0) < 0 && errno == EAGAIN;
		close(fd);
		if (held)
			return 0;
		usleep(1000);
	}
	return err_set(err, -ETIMEDOUT, "nobody listens on %s", self->receiver.uri);
}

/* wherry receive stays when the link breaks, and what it has in the end is the guest. */
TEST_F_TIMEOUT(recover, wherry_receive_stays, TEST_SECONDS)
{
	static const char *const options[] = { "--recover", "60", "--touch", NULL };
	struct wh_err err = { 0 };
	struct image ram, there;

	DO(start_receive(self, variant, options, &err));
	for (unsigned i = 1; i <= CUTS; i++) {
		/* In this order: behind the last resume QEMU may still be what it was */
		DO(wait_listens_again(self, &err));
		DO(qemu_wait_status(&self->qemu, "postcopy-paused", WAIT_MS, &err));
		DO(new_proxy(self, self->receiver.uri, i < CUTS ? cuts[i] : 0, &err));
		DO(qemu_command(&self->qemu, NULL, &err, "migrate",
				"{\"uri\":\"%s\",\"resume\":true}", proxy_uri(self->proxy)));
	}
	DO(receiver_wait(&self->receiver, WAIT_MS, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	EXPECT_EQ(CUTS, receiver_figure(&self->receiver, "recoveries"));
	DO(save(self, &err));
	DO(receiver_open(&self->receiver, "ram", &ram, &err));
	DO(image_open(&there, self->file, &err));
	DO(image_compare(&there, &ram, &err));
	image_close(&there);
	image_close(&ram);
}

/* Nobody comes: it says so, and has nothing. */
TEST_F_TIMEOUT(recover, wherry_receive_gives_up, TEST_SECONDS)
{
	static const char *const options[] = { "--recover", "1", NULL };
	struct wh_err err = { 0 };

	DO(start_receive(self, variant, options, &err));
	EXPECT_EQ(1, receiver_wait(&self->receiver, WAIT_MS, &err));
	EXPECT_NE(NULL, strstr(err.text, "not brought back within 1000 ms"))
	TH_LOG("%s", err.text);
}

TEST_HARNESS_MAIN
