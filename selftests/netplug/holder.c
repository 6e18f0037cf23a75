/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A process of its own holds, by its queue, on taps of a namespace of our own: the contract, and
 * what becomes of it when either dies, or is silent.
 */
#include "selftests/lib/netrig.h"

#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <unistd.h>
#include <wherry/netplug.h>

#include "netplug/serve.h"
#include "netplug/talk.h"

#include "kselftest_harness.h"

#define WORLD_NICS 2
#define WORLD_CLOSED_MOST 0
#define LONG_MS 20000 /* catches what hangs */

struct world {
	struct netrig rig;
	pid_t holder;
	uint64_t answer_ns; /* 0: so long that only one who is silent is lost */
};

#include "selftests/netplug/world.h"

static const char *const nics[] = { "tap0", "tap1" };

static void hold(int ready)
{
	struct wh_netplug_config config;
	struct wh_netplug *plug;
	struct wh_err err;

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	wh_netplug_config_init(&config);
	config.name = "guest";
	config.nics = nics;
	config.nic_count = WORLD_NICS;
	if (wh_netplug_new(&plug, &config, &err) < 0 || wh_netplug_listen(plug, &err) < 0) {
		printf("# the holder: %s\n", err.text);
		_exit(1);
	}
	close(ready);
	for (;;) {
		struct pollfd fd = { .fd = wh_netplug_fd(plug), .events = POLLIN };

		poll(&fd, 1, -1);
		wh_netplug_process(plug, NULL);
	}
}

/* It listens when this returns */
static void holder_begin(struct world *world)
{
	int ready[2];
	char end;

	if (pipe(ready) < 0)
		abort();
	fflush(stdout);
	world->holder = fork();
	if (world->holder == 0) {
		close(ready[0]);
		hold(ready[1]);
	}
	close(ready[1]);
	if (read(ready[0], &end, 1) != 0)
		abort();
	close(ready[0]);
}

static void holder_kill(struct world *world)
{
	kill(world->holder, SIGKILL);
	waitpid(world->holder, NULL, 0);
}

static void holder_stop(struct world *world)
{
	int status;

	kill(world->holder, SIGSTOP);
	waitpid(world->holder, &status, WUNTRACED);
}

static const char *world_open(struct world *world)
{
	const char *missing;

	memset(world, 0, sizeof(*world));
	missing = netrig_open(&world->rig, WORLD_NICS);
	if (!missing)
		holder_begin(world);
	return missing;
}

static void world_config(struct world *world, struct wh_netplug_config *config)
{
	config->edge = WH_NETPLUG_HOLDER;
	config->name = "guest";
	config->answer_ns = world->answer_ns ? world->answer_ns : UINT64_C(20000000000);
}

static int world_send(struct world *world, unsigned nic, unsigned epoch, unsigned number)
{
	return netrig_send(&world->rig, nic, epoch, number, number % NETRIG_RUNT);
}

static size_t world_seen(struct world *world, struct netrig_mark *marks, size_t room,
			 size_t expected)
{
	return netrig_seen(&world->rig, marks, room, expected);
}

#include "selftests/netplug/contract.h"

static int another(struct world *world, struct wh_netplug **plug, struct wh_err *err)
{
	struct wh_netplug_config config;

	wh_netplug_config_init(&config);
	world_config(world, &config);
	return wh_netplug_new(plug, &config, err);
}

/* Of whoever asks, now */
static enum wh_netplug_state state_of(struct world *world)
{
	struct wh_netplug *plug = NULL;
	enum wh_netplug_state state;

	if (another(world, &plug, NULL) < 0)
		return WH_NETPLUG_STATE_COUNT;
	state = wh_netplug_get_state(plug);
	wh_netplug_free(plug);
	return state;
}

static bool comes_to(struct world *world, enum wh_netplug_state state)
{
	for (unsigned ms = 0; ms < LONG_MS && state_of(world) != state; ms++)
		usleep(1000);
	return state_of(world) == state;
}

/* Return: whether it is readable, unasked, within a time that is only there to be caught */
static bool is_told(struct wh_netplug *plug)
{
	struct pollfd fd = { .fd = wh_netplug_fd(plug), .events = POLLIN };

	return poll(&fd, 1, LONG_MS) == 1;
}

TEST_F(contract, it_dies_and_the_next_one_cleans_up)
{
	char *before = netrig_state(), *after;
	struct wh_netplug_status status;
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(self->world.holder, status.holder);
	ASSERT_EQ(WH_NETPLUG_QUEUE, status.edge);
	holder_kill(&self->world);
	ASSERT_TRUE(is_told(self->plug));
	ASSERT_EQ(-ENOTCONN, wh_netplug_process(self->plug, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "has died"));
	ASSERT_EQ(WH_NETPLUG_ORPHAN, wh_netplug_get_state(self->plug));
	ASSERT_EQ(-1, wh_netplug_fd(self->plug));
	ASSERT_EQ(-EIO, wh_netplug_release(self->plug, 1, NULL));
	ASSERT_EQ(-EIO, wh_netplug_turn(self->plug, 2, NULL));
	ASSERT_EQ(-EBUSY, wh_netplug_arm(self->plug, NULL));
	ASSERT_EQ(-ENOTCONN, wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_ORPHAN, status.state);
	world_send(&self->world, 0, 2, 100);
	SEES(1, 0);
	ASSERT_EQ(-ENOENT, wh_netplug_disarm(self->plug, &self->err));
	holder_begin(&self->world);
	ASSERT_EQ(WH_NETPLUG_ORPHAN, state_of(&self->world));
	SEES(1, 0);
	/* this side goes on: whoever holds by now does it */
	DO(wh_netplug_disarm(self->plug, &self->err));
	ASSERT_EQ(WH_NETPLUG_IDLE, wh_netplug_get_state(self->plug));
	after = netrig_state();
	ASSERT_STREQ(before, after);
	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 3);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(wh_netplug_release(self->plug, 1, &self->err));
	outside = 6;
	SEES(1, 3);
	free(before);
	free(after);
}

TEST_F(contract, it_dies_and_is_fenced)
{
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	holder_kill(&self->world);
	ASSERT_EQ(-ENOTCONN, wh_netplug_turn(self->plug, 1, &self->err));
	/* nobody is there to do it: it is not done */
	ASSERT_EQ(-ENOENT, wh_netplug_fence(self->plug, &self->err));
	ASSERT_EQ(WH_NETPLUG_ORPHAN, wh_netplug_get_state(self->plug));
	holder_begin(&self->world);
	DO(wh_netplug_fence(self->plug, &self->err));
	ASSERT_EQ(WH_NETPLUG_FENCED, wh_netplug_get_state(self->plug));
	world_send(&self->world, 0, 2, 100);
	SEES(1, 0);
}

/* What it had not read is not done when it goes on: by then the other side may have the guest */
TEST_F(contract, a_silent_one_does_nothing_late)
{
	unsigned outside = 0;

	wh_netplug_free(self->plug);
	self->world.answer_ns = 1000000000;
	DO(another(&self->world, &self->plug, &self->err));
	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 4);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	holder_stop(&self->world);
	ASSERT_EQ(-ETIMEDOUT, wh_netplug_release(self->plug, 1, &self->err));
	ASSERT_EQ(WH_NETPLUG_ORPHAN, wh_netplug_get_state(self->plug));
	kill(self->world.holder, SIGCONT);
	self->world.answer_ns = 0;
	ASSERT_TRUE(comes_to(&self->world, WH_NETPLUG_ORPHAN));
	SEES(1, 0);
	/* whoever drove it goes on here: all that waits is there still, in order */
	for (unsigned ms = 0; ms < LONG_MS && wh_netplug_disarm(self->plug, &self->err) < 0; ms++)
		usleep(1000);
	SEES(1, 4);
	ASSERT_EQ(WH_NETPLUG_IDLE, state_of(&self->world));
}

/* Who drives it dies: nobody else goes on from there */
TEST_F(contract, who_has_armed_it_dies)
{
	struct wh_netplug *other = NULL;
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 5);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	ASSERT_EQ(WH_NETPLUG_HELD, state_of(&self->world));
	wh_netplug_free(self->plug);
	self->plug = NULL;
	ASSERT_TRUE(comes_to(&self->world, WH_NETPLUG_ORPHAN));
	DO(another(&self->world, &other, &self->err));
	ASSERT_EQ(-EIO, wh_netplug_release(other, 1, NULL));
	ASSERT_EQ(-EIO, wh_netplug_turn(other, 2, NULL));
	ASSERT_EQ(-EBUSY, wh_netplug_arm(other, NULL));
	SEES(1, 0);
	DO(wh_netplug_disarm(other, &self->err));
	SEES(1, 5);
	DO(wh_netplug_arm(other, &self->err));
	wh_netplug_free(other);
}

TEST_F(contract, one_has_it_and_all_may_fence_it)
{
	struct wh_netplug_status status;
	struct wh_netplug *other = NULL;
	unsigned outside = 0;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 2);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(another(&self->world, &other, &self->err));
	ASSERT_EQ(WH_NETPLUG_HELD, wh_netplug_get_state(other));
	ASSERT_EQ(-EBUSY, wh_netplug_release(other, 1, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "has it, and may release it"));
	ASSERT_EQ(-EBUSY, wh_netplug_turn(other, 2, NULL));
	ASSERT_EQ(-EBUSY, wh_netplug_disarm(other, NULL));
	SEES(1, 0);
	DO(wh_netplug_release(self->plug, 1, &self->err));
	SEES(1, 2);
	DO(wh_netplug_fence(other, &self->err));
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_FENCED, status.state);
	ASSERT_EQ(-EIO, wh_netplug_turn(self->plug, 2, NULL));
	wh_netplug_free(other);
}

/* Whoever holds is told of the first packet without asking: somebody waits for the next stop */
TEST_F(contract, news_that_something_waits)
{
	struct pollfd fd = { .events = POLLIN };

	DO(wh_netplug_arm(self->plug, &self->err));
	fd.fd = wh_netplug_fd(self->plug);
	ASSERT_EQ(0, poll(&fd, 1, 0));
	ASSERT_EQ(0, world_send(&self->world, 0, 1, 0));
	ASSERT_TRUE(is_told(self->plug));
	DO(wh_netplug_process(self->plug, &self->err));
	ASSERT_EQ(0, poll(&fd, 1, 0));
	DO(wh_netplug_turn(self->plug, 1, &self->err));
}

static int raw(void)
{
	struct sockaddr_un at;
	socklen_t length = serve_address("guest", &at);
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);

	if (fd >= 0 && connect(fd, (const struct sockaddr *)&at, length) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

/* He is hung up on, and it goes on as if he had not been there */
TEST_F(contract, what_is_no_request)
{
	static const struct talk_request wrong = { TALK_STATUS, 0 };
	struct wh_netplug_status status;
	uint8_t bytes[70000] = { 0 };
	int many[40];

	DO(wh_netplug_arm(self->plug, &self->err));
	for (size_t length = 0; length < sizeof(bytes); length = length * 2 + 1) {
		int fd = raw();
		struct pollfd end = { .fd = fd, .events = POLLIN };

		ASSERT_LE(0, fd);
		talk_put_request(bytes, &wrong);
		bytes[7] = 99;
		ASSERT_EQ((ssize_t)length, send(fd, bytes, length, MSG_NOSIGNAL));
		ASSERT_EQ(1, poll(&end, 1, LONG_MS));
		ASSERT_GE(0, recv(fd, bytes, sizeof(bytes), MSG_DONTWAIT));
		close(fd);
	}
	/* more than there are places for: those that say nothing do not keep him out who has it */
	for (unsigned i = 0; i < 40; i++)
		many[i] = i < 15 ? raw() : -1;
	for (unsigned i = 15; i < 40; i++) {
		struct pollfd end = { .fd = raw(), .events = POLLIN };

		ASSERT_EQ(1, poll(&end, 1, LONG_MS));
		close(end.fd);
	}
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(2, status.epoch);
	for (unsigned i = 0; i < 15; i++)
		close(many[i]);
	DO(wh_netplug_disarm(self->plug, &self->err));
}

TEST_F(contract, a_configuration_without_sense)
{
	struct wh_netplug_config config;
	struct wh_netplug *plug = NULL;

	wh_netplug_config_init(&config);
	world_config(&self->world, &config);
	config.answer_ns = 0;
	ASSERT_EQ(-EINVAL, wh_netplug_new(&plug, &config, NULL));
	config.answer_ns = 1000000000;
	config.nics = nics;
	config.nic_count = 1;
	ASSERT_EQ(-EINVAL, wh_netplug_new(&plug, &config, NULL));
	config.nic_count = 0;
	config.name = "nobody";
	ASSERT_EQ(-ENOENT, wh_netplug_new(&plug, &config, &self->err));
	ASSERT_EQ(-EINVAL, wh_netplug_listen(self->plug, &self->err));
}

TEST_HARNESS_MAIN
