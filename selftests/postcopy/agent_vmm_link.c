/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A VMM and somebody who plays its agent: what a death means at each point, and what is said out
 * of turn. Whole migrations are in e2e/agent.c.
 */
#include "postcopy/agent.h"

#include "base/bits.h"
#include "base/clock.h"
#include "base/err.h"

#include <errno.h>
#include <pthread.h>
#include <stdlib.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>
#include <wherry/agent.h>

#include "kselftest_harness.h"

#define BYTES (UINT64_C(64) * 4096)
#define WAIT_NS ((int64_t)(20 * NS_PER_S))

FIXTURE(agent)
{
	struct wh_migration *m;
	struct wh_callbacks callbacks;
	struct wh_config config;
	struct wh_block block;
	pthread_t thread; /* who plays the other end */
	int listener;
	int socket; /* its, connected */
	struct agent_state state;
	int uffd;
	char path[64];
	bool cannot; /* listen */
	int load;    /* what device_load() says */
	unsigned loads;
	unsigned starts;
	struct wh_err err;
};

static int on_load(void *opaque, const void *data, size_t length, enum wh_device_format format,
		   struct wh_err *err)
{
	FIXTURE_DATA(agent) *self = opaque;

	(void)err;
	if (length != 5 || memcmp(data, "state", 5) != 0 || format != WH_DEVICE_QEMU)
		abort();
	self->loads++;
	return self->load;
}

static int on_start(void *opaque, struct wh_err *err)
{
	FIXTURE_DATA(agent) *self = opaque;

	(void)err;
	self->starts++;
	return 0;
}

FIXTURE_SETUP(agent)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };

	memset(self, 0, sizeof(*self));
	self->socket = self->uffd = -1;
	snprintf(self->path, sizeof(self->path), "/tmp/wherry-agent.%d", (int)getpid());
	strcpy(at.sun_path, self->path);
	self->listener = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	ASSERT_EQ(0, bind(self->listener, (struct sockaddr *)&at, sizeof(at)));
	ASSERT_EQ(0, listen(self->listener, 1));
	self->callbacks = (struct wh_callbacks){ .device_load = on_load, .start = on_start };
	wh_config_init(&self->config);
	self->config.callbacks = &self->callbacks;
	self->config.opaque = self;
	self->block = (struct wh_block){ .name = "ram", .length = BYTES, .page_size = 4096 };
	self->block.fd = memfd_create("ram", MFD_CLOEXEC);
	ASSERT_EQ(0, ftruncate(self->block.fd, BYTES));
	self->block.addr = mmap(NULL, BYTES, PROT_READ | PROT_WRITE, MAP_SHARED, self->block.fd, 0);
	self->config.agent = self->path;
	ASSERT_EQ(0, wh_new(&self->m, WH_DEST, &self->config, &self->err));
	ASSERT_EQ(0, wh_add_block(self->m, &self->block, &self->err))
	TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(agent)
{
	wh_free(self->m);
	agent_state_close(&self->state);
	close(self->listener);
	unlink(self->path);
}

static int say(FIXTURE_DATA(agent) *self, const struct agent_msg *msg, int fd)
{
	return agent_send(self->socket, msg, &fd, NULL);
}

/* An agent that takes what it is handed, and listens nowhere */
static void *play(void *arg)
{
	struct agent_msg listens = { .kind = AGENT_LISTENS };
	FIXTURE_DATA(agent) *self = arg;
	struct region region = { .length = BYTES };
	struct agent_packet packet;

	self->socket = accept(self->listener, NULL, NULL);
	agent_state_close(&self->state);
	do {
		if (agent_receive(self->socket, &packet, NULL) != 1)
			abort();
		if (packet.msg.kind == AGENT_HELLO) {
			if (agent_state_open(&self->state, packet.fd[1], &region, 1, &self->err))
				abort();
			packet.fd[1] = -1;
		}
		agent_packet_close(&packet);
	} while (packet.msg.kind != AGENT_LISTEN && packet.msg.kind != AGENT_RECOVER);
	agent_text(&listens.listens.text, self->cannot ? "no room" : "tcp:nowhere:1");
	listens.listens.result = self->cannot ? (uint32_t)-EADDRINUSE : 0;
	if (say(self, &listens, -1))
		abort();
	return NULL;
}

static uint64_t pages_left(FIXTURE_DATA(agent) *self)
{
	struct wh_stats stats;

	wh_get_stats(self->m, &stats);
	return stats.pages_left;
}

static int hand_over(FIXTURE_DATA(agent) *self)
{
	int ret;

	pthread_create(&self->thread, NULL, play, self);
	if (wh_get_phase(self->m) == WH_PHASE_PAUSED) {
		ret = wh_recover(self->m, "tcp:127.0.0.1:0", &self->err);
	} else {
		ret = wh_listen(self->m, "tcp:127.0.0.1:0", &self->err);
		if (ret == 0)
			ret = wh_start(self->m, &self->err);
	}
	pthread_join(self->thread, NULL);
	return ret;
}

/* As it is behind LISTEN: some pages are there */
static void arm(FIXTURE_DATA(agent) *self, uint64_t pages)
{
	struct ram_block line = { .used = BYTES };

	agent_state_note(&self->state, 0, 0, &line);
	bits_range_set(agent_state_received(&self->state, 0), 0, pages);
	agent_state_set(&self->state, AGENT_STAGE_ARMED);
}

static void say_device(FIXTURE_DATA(agent) *self, uint64_t length)
{
	struct agent_msg msg = { .kind = AGENT_DEVICE };
	int fd = memfd_create("device", MFD_CLOEXEC);

	msg.device.format = WH_DEVICE_QEMU;
	msg.device.length = length;
	if (write(fd, "state", 5) != 5 || say(self, &msg, fd))
		abort();
	close(fd);
}

/* Its answer to that, or to START */
static int heard(FIXTURE_DATA(agent) *self, enum agent_kind kind)
{
	struct agent_packet packet;

	if (agent_receive(self->socket, &packet, NULL) != 1 || packet.msg.kind != kind)
		return -EPROTO;
	return (int)(kind == AGENT_LOADED ? packet.msg.loaded.result : packet.msg.started.result);
}

static void die(FIXTURE_DATA(agent) *self)
{
	close(self->socket);
	self->socket = -1;
}

static enum wh_phase phase(FIXTURE_DATA(agent) *self, int expected)
{
	if (wh_wait(self->m, WAIT_NS, &self->err) != expected)
		return WH_PHASE_COUNT;
	return wh_get_phase(self->m);
}

TEST_F(agent, listens)
{
	EXPECT_EQ(64, pages_left(self));
	ASSERT_EQ(0, hand_over(self)) TH_LOG("%s", self->err.text);
	EXPECT_STREQ("tcp:nowhere:1", wh_listen_uri(self->m));
	EXPECT_EQ(-EAGAIN, wh_wait(self->m, 1000000, &self->err));
	EXPECT_EQ(-EBUSY, wh_add_block(self->m, &self->block, &self->err));
	EXPECT_EQ(-EBUSY, wh_pause(self->m, &self->err));
}

TEST_F(agent, dies_before_the_device_state)
{
	ASSERT_EQ(0, hand_over(self));
	arm(self, 5);
	EXPECT_EQ(59, pages_left(self));
	die(self);
	EXPECT_EQ(WH_PHASE_FAILED, phase(self, -ECONNRESET));
	EXPECT_EQ(0, self->starts);
}

/* Its last words are in the socket, and count, though it has not read ours */
TEST_F(agent, dies_behind_the_device_state)
{
	ASSERT_EQ(0, hand_over(self));
	arm(self, 5);
	say_device(self, 5);
	die(self);
	EXPECT_EQ(WH_PHASE_PAUSED, phase(self, -ECONNRESET));
	EXPECT_EQ(1, self->loads);
	EXPECT_EQ(1, self->starts);
	ASSERT_EQ(0, hand_over(self)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(-EAGAIN, wh_wait(self->m, 1000000, &self->err));
	EXPECT_TRUE(bits_test(agent_state_received(&self->state, 0), 4));
	/* and the last page, of which nobody tells */
	bits_range_set(agent_state_received(&self->state, 0), 0, 64);
	die(self);
	EXPECT_EQ(WH_PHASE_DONE, phase(self, 0));
	EXPECT_EQ(1, self->starts);
}

/* The source may have been told that it may run the guest */
TEST_F(agent, gives_up)
{
	ASSERT_EQ(0, hand_over(self));
	self->load = WH_PENDING;
	arm(self, 5);
	say_device(self, 5);
	agent_state_set(&self->state, AGENT_STAGE_GIVEN_UP);
	die(self);
	EXPECT_EQ(WH_PHASE_FAILED, phase(self, -ECONNRESET));
	wh_device_loaded(self->m, 0);
	EXPECT_EQ(0, self->starts);
}

TEST_F(agent, dies_while_it_is_loaded)
{
	ASSERT_EQ(0, hand_over(self));
	self->load = WH_PENDING;
	arm(self, 5);
	say_device(self, 5);
	die(self);
	EXPECT_EQ(WH_PHASE_PAUSED, phase(self, -ECONNRESET));
	EXPECT_EQ(0, self->starts);
	wh_device_loaded(self->m, 0);
	EXPECT_EQ(1, self->starts);
	EXPECT_EQ(WH_PHASE_PAUSED, wh_get_phase(self->m));
}

TEST_F(agent, device_state_is_no_good)
{
	ASSERT_EQ(0, hand_over(self));
	self->load = -EINVAL;
	arm(self, 5);
	say_device(self, 5);
	EXPECT_EQ(-EINVAL, heard(self, AGENT_LOADED));
	die(self);
	EXPECT_EQ(WH_PHASE_FAILED, phase(self, -ECONNRESET));
	EXPECT_EQ(0, self->starts);
}

/* Precopy: once it was told to start nothing is missing */
TEST_F(agent, precopy)
{
	struct agent_msg start = { .kind = AGENT_START };

	ASSERT_EQ(0, hand_over(self));
	say_device(self, 5);
	EXPECT_EQ(0, heard(self, AGENT_LOADED));
	EXPECT_EQ(0, self->starts);
	ASSERT_EQ(0, say(self, &start, -1));
	EXPECT_EQ(0, heard(self, AGENT_STARTED));
	EXPECT_EQ(1, self->starts);
	die(self);
	EXPECT_EQ(WH_PHASE_DONE, phase(self, 0));
}

/* A VMM believes nothing that cannot be */
TEST_F(agent, talks_nonsense)
{
	static const struct {
		struct agent_msg msg;
		const char *says;
	} nonsense[] = {
		{ { .kind = AGENT_START }, "before the device state" },
		{ { .kind = AGENT_PAUSE }, "not for it to say" },
		{ { .kind = AGENT_PHASE, .phase = { .phase = WH_PHASE_COUNT } }, "phase 10" },
		{ { .kind = AGENT_PHASE, .phase = { .phase = WH_PHASE_DONE } }, "not here" },
		{ { .kind = AGENT_DEVICE, .device = { .length = UINT64_MAX } }, "18446744073" },
		{ { .kind = AGENT_DEVICE, .device = { .format = 7, .length = 5 } }, "format 7" },
		{ { .kind = AGENT_DEVICE, .device = { .length = 4097 } }, "device state" },
	};

	for (unsigned i = 0; i < sizeof(nonsense) / sizeof(nonsense[0]); i++) {
		struct agent_msg msg = nonsense[i].msg;
		int fd = memfd_create("device", MFD_CLOEXEC);

		ASSERT_EQ(0, hand_over(self)) TH_LOG("%s", self->err.text);
		if (msg.kind == AGENT_PHASE)
			agent_text(&msg.phase.text, "");
		ASSERT_EQ(0, say(self, &msg, fd));
		close(fd);
		ASSERT_GT(0, wh_wait(self->m, WAIT_NS, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, nonsense[i].says))
		TH_LOG("%u: %s", i, self->err.text);
		EXPECT_EQ(WH_PHASE_FAILED, wh_get_phase(self->m));
		die(self);
		wh_free(self->m);
		ASSERT_EQ(0, wh_new(&self->m, WH_DEST, &self->config, &self->err));
		ASSERT_EQ(0, wh_add_block(self->m, &self->block, &self->err));
	}
	EXPECT_EQ(0, self->starts + self->loads);
}

/* What it says before wh_start() is heard then; so is its death */
TEST_F(agent, dies_before_the_start)
{
	pthread_create(&self->thread, NULL, play, self);
	ASSERT_EQ(0, wh_listen(self->m, "tcp:127.0.0.1:0", &self->err));
	pthread_join(self->thread, NULL);
	arm(self, 5);
	say_device(self, 5);
	die(self);
	usleep(20000);
	EXPECT_EQ(0, __atomic_load_n(&self->loads, __ATOMIC_RELAXED));
	EXPECT_EQ(WH_PHASE_SETUP, wh_get_phase(self->m));
	ASSERT_EQ(0, wh_start(self->m, &self->err));
	EXPECT_EQ(WH_PHASE_PAUSED, phase(self, -ECONNRESET));
	EXPECT_EQ(1, self->loads);
	EXPECT_EQ(1, self->starts);
}

TEST_F(agent, refused)
{
	struct wh_config config = self->config;
	struct wh_block block = self->block;
	struct wh_migration *none;

	config.removes = true;
	EXPECT_EQ(-EOPNOTSUPP, wh_new(&none, WH_DEST, &config, &self->err));
	config = self->config;
	config.postcopy = false;
	EXPECT_EQ(-EINVAL, wh_new(&none, WH_DEST, &config, &self->err));
	config = self->config;
	EXPECT_EQ(-EINVAL, wh_new(&none, WH_SOURCE, &config, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "only a destination"));
	config.agent = "";
	EXPECT_EQ(-EINVAL, wh_new(&none, WH_DEST, &config, &self->err));
	EXPECT_EQ(NULL, none);
	block.name = "private";
	block.fd = -1;
	EXPECT_EQ(-EINVAL, wh_add_block(self->m, &block, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "mapped shared"));
	EXPECT_EQ(-EINVAL, wh_listen(self->m, "fd:3", &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "the agent's")) TH_LOG("%s", self->err.text);
	EXPECT_EQ(-EBUSY, wh_recover(self->m, "tcp:127.0.0.1:0", &self->err));
	EXPECT_EQ(-EOPNOTSUPP, wh_fd(self->m));
	EXPECT_EQ(-EOPNOTSUPP, wh_process(self->m, &self->err));
	/* nobody is there yet, and may be the next time */
	unlink(self->path);
	EXPECT_EQ(-ENOENT, wh_listen(self->m, "tcp:127.0.0.1:0", &self->err));
	EXPECT_EQ(WH_PHASE_SETUP, wh_get_phase(self->m));
	block = self->block;
	block.name = "late";
	EXPECT_EQ(-EBUSY, wh_add_block(self->m, &block, &self->err));
}

/* It says why it cannot listen, and ends; the next one can */
TEST_F(agent, cannot_listen)
{
	self->cannot = true;
	EXPECT_EQ(-EADDRINUSE, hand_over(self)) TH_LOG("%s", self->err.text);
	die(self);
	self->cannot = false;
	EXPECT_EQ(WH_PHASE_SETUP, wh_get_phase(self->m));
	EXPECT_EQ(0, hand_over(self)) TH_LOG("%s", self->err.text);
}

TEST_HARNESS_MAIN
