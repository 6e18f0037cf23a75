/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_NETPLUG_NICS_H
#define SELFTESTS_NETPLUG_NICS_H

/*
 * What the edges owe that work on NICs of the kernel's, beside the contract.
 */
#include "selftests/netplug/taps.h"

#include <signal.h>
#include <stdio.h>
#include <sys/ptrace.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

TEST_F(contract, every_kind_of_frame_is_held)
{
	unsigned count = 0;
	size_t n;

	DO(wh_netplug_arm(self->plug, &self->err));
	for (unsigned kind = 0; kind < NETRIG_KIND_COUNT; kind++, count++)
		ASSERT_EQ(0, netrig_send(&self->world.rig, 0, 1, count, kind));
	ASSERT_EQ(0, netrig_seen(&self->world.rig, seen, SEEN_MAX, 0));
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(wh_netplug_release(self->plug, 1, &self->err));
	n = netrig_seen(&self->world.rig, seen, SEEN_MAX, count);
	ASSERT_EQ(count, n);
	for (size_t i = 0; i < n; i++)
		ASSERT_EQ(i, seen[i].number);
}

TEST_F(contract, what_comes_in_comes_in)
{
	for (unsigned round = 0; round < 3; round++) {
		ASSERT_EQ(0, netrig_send_in(&self->world.rig, round));
		for (unsigned nic = 0; nic < WORLD_NICS; nic++) {
			ASSERT_TRUE(netrig_hears(&self->world.rig, nic, round, 1000))
			{
				TH_LOG("round %u nic %u", round, nic);
			}
		}
		if (round == 0)
			DO(wh_netplug_arm(self->plug, &self->err));
		if (round == 1)
			DO(wh_netplug_disarm(self->plug, &self->err));
	}
}

/* As it was before, whatever was done in between */
TEST_F(contract, it_leaves_nothing_behind)
{
	char *before = netrig_state(), *after;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 20);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(wh_netplug_disarm(self->plug, &self->err));
	after = netrig_state();
	ASSERT_STREQ(before, after);
	free(before);
	free(after);
}

TEST_F(contract, all_nics_or_none)
{
	struct wh_netplug_config config;
	char *before, *after;
	struct wh_netplug *plug;
	unsigned outside = 0;

	wh_netplug_config_init(&config);
	world_config(&self->world, &config);
	config.name = "other";
	config.nics = (const char *const[]){ "tap0", "tap9" };
	config.nic_count = 2;
	DO(wh_netplug_new(&plug, &config, &self->err));
	before = netrig_state();
	ASSERT_EQ(-ENODEV, wh_netplug_arm(plug, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "tap9"));
	/* one that fails late: somebody's filter is in front of ours */
	config.nics = (const char *const[]){ "tap0", "tap1" };
	wh_netplug_free(plug);
	DO(wh_netplug_new(&plug, &config, &self->err));
	ASSERT_EQ(0, netrig_run("tc qdisc add dev tap1 ingress && tc filter add dev tap1 ingress "
				"prio 1 protocol all u32 match u32 0 0"));
	ASSERT_EQ(-EEXIST, wh_netplug_arm(plug, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "tap1"));
	ASSERT_EQ(0, netrig_run("tc filter show dev tap1 ingress | grep -q 'pref 1 u32'"));
	ASSERT_EQ(0, netrig_run("tc qdisc del dev tap1 ingress"));
	after = netrig_state();
	ASSERT_STREQ(before, after);
	SEND(0, 4);
	SEES(0, 4);
	free(before);
	free(after);
	wh_netplug_free(plug);
}

/* Qdiscs and filters of others: on the NIC, on its hook, behind ours, and of another guest */
TEST_F(contract, what_is_of_others_stays)
{
	struct wh_netplug_status status;
	struct wh_netplug *other;
	char *before, *after;

	ASSERT_EQ(0, netrig_run("tc qdisc add dev tap0 clsact && "
				"tc filter add dev tap0 ingress prio 77 protocol ip u32 match u32 "
				"0 0 && tc filter add dev tap0 egress prio 5 protocol all u32 "
				"match u32 0 0 && tc qdisc add dev tap1 ingress && "
				"tc qdisc add dev tap1 root handle 9: pfifo limit 99 && "
				"ip link add wh0123456789b0 type ifb && "
				"ip link set tap1 alias 'wherry netplug of somebody'"));
	DO(world_new(&self->world, "other", &other, &self->err));
	before = netrig_state();
	DO(wh_netplug_arm(self->plug, &self->err));
	ASSERT_GT(0, wh_netplug_arm(other, &self->err));
	wh_netplug_free(other);
	/* marks of another name are no marks: there is nothing to be ended */
	DO(world_new(&self->world, "other", &other, &self->err));
	DO(wh_netplug_status(other, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_IDLE, status.state);
	ASSERT_EQ(0, netrig_run("tc filter show dev tap0 ingress | grep -q 'pref 77 u32'"));
	SEND(1, 9);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(wh_netplug_fence(self->plug, &self->err));
	ASSERT_EQ(-EBUSY, wh_netplug_disarm(self->plug, &self->err));
	ASSERT_EQ(0, netrig_run("ip link set tap0 down && ip link set tap1 down"));
	DO(wh_netplug_disarm(self->plug, &self->err));
	ASSERT_EQ(0, netrig_run("ip link set tap0 up && ip link set tap1 up"));
	after = netrig_state();
	ASSERT_STREQ(before, after);
	free(before);
	free(after);
	wh_netplug_free(other);
}

/* Nothing is let go by the one who leaves, nor by the next one who only looks */
TEST_F(contract, an_orphan_stays_held_until_somebody_decides)
{
	struct wh_netplug_status status;
	struct wh_netplug *other = NULL;
	unsigned outside = 0;
	char *before = netrig_state(), *after;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	ASSERT_EQ(-EBUSY, world_new(&self->world, "guest", &other, &self->err));
	wh_netplug_free(self->plug);
	self->plug = NULL;
	world_send(&self->world, 0, 2, 100);
	SEES(1, 0);
	DO(world_new(&self->world, "guest", &self->plug, &self->err));
	DO(wh_netplug_status(self->plug, &status, &self->err));
	ASSERT_EQ(WH_NETPLUG_ORPHAN, status.state);
	ASSERT_EQ(WORLD_EDGE, status.edge);
	ASSERT_EQ(-EBUSY, wh_netplug_arm(self->plug, NULL));
	ASSERT_EQ(-EIO, wh_netplug_release(self->plug, 1, NULL));
	ASSERT_EQ(-EIO, wh_netplug_turn(self->plug, 1, NULL));
	SEES(1, 0);
	/* this side goes on: what the dead one held comes as far as it is still there */
	DO(wh_netplug_disarm(self->plug, &self->err));
	netrig_seen(&self->world.rig, seen, SEEN_MAX, 7);
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

TEST_F(contract, an_orphan_that_is_fenced_lets_nothing_out)
{
	unsigned outside = 0;
	char *before = netrig_state(), *after;

	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	wh_netplug_free(self->plug);
	DO(world_new(&self->world, "guest", &self->plug, &self->err));
	DO(wh_netplug_fence(self->plug, &self->err));
	world_send(&self->world, 0, 2, 100);
	ASSERT_EQ(-EBUSY, wh_netplug_disarm(self->plug, &self->err));
	SEES(1, 0);
	ASSERT_EQ(0, netrig_run("ip link set tap0 down && ip link set tap1 down"));
	DO(wh_netplug_disarm(self->plug, &self->err));
	ASSERT_EQ(0, netrig_run("ip link set tap0 up && ip link set tap1 up"));
	SEES(1, 0);
	after = netrig_state();
	ASSERT_STREQ(before, after);
	free(before);
	free(after);
}

/* The guest's process dies: its tap is gone, and what is of it can go */
TEST_F(contract, a_nic_that_is_gone)
{
	DO(wh_netplug_arm(self->plug, &self->err));
	SEND(1, 6);
	for (unsigned nic = 0; nic < WORLD_NICS; nic++)
		close(self->world.rig.taps[nic]);
	DO(wh_netplug_turn(self->plug, 1, &self->err));
	DO(wh_netplug_fence(self->plug, &self->err));
	DO(wh_netplug_disarm(self->plug, &self->err));
	ASSERT_EQ(1, netrig_run("ip -br link | grep -v '^lo\\|^br0\\|^out'"));
}

/* Does it change something outside its process? */
static bool step_counts(long call)
{
	return call == SYS_sendmsg || call == SYS_ioctl || call == SYS_write;
}

/* In a child that is killed before its @step-th such call. Return: false if it got through */
static bool killed_at(struct world *world, unsigned step, int (*what)(struct wh_netplug *plug))
{
	struct __ptrace_syscall_info call = { 0 };
	struct wh_netplug *plug;
	unsigned count = 0;
	int status;
	pid_t pid = fork();

	if (pid == 0) {
		ptrace(PTRACE_TRACEME, 0, NULL, NULL);
		raise(SIGSTOP);
		if (world_new(world, "guest", &plug, NULL) < 0)
			_exit(2);
		_exit(what(plug) < 0);
	}
	waitpid(pid, &status, 0);
	ptrace(PTRACE_SETOPTIONS, pid, NULL, PTRACE_O_TRACESYSGOOD);
	while (ptrace(PTRACE_SYSCALL, pid, NULL, NULL) == 0 && waitpid(pid, &status, 0) == pid &&
	       WIFSTOPPED(status)) {
		if (ptrace(PTRACE_GET_SYSCALL_INFO, pid, sizeof(call), &call) <= 0 ||
		    call.op != PTRACE_SYSCALL_INFO_ENTRY || !step_counts((long)call.entry.nr) ||
		    count++ < step)
			continue;
		kill(pid, SIGKILL);
		waitpid(pid, &status, 0);
		return true;
	}
	if (!WIFEXITED(status) || WEXITSTATUS(status) != 0)
		ksft_print_msg("the child ended with %x\n", status);
	return false;
}

static int do_arm(struct wh_netplug *plug)
{
	return wh_netplug_arm(plug, NULL);
}

static int do_disarm(struct wh_netplug *plug)
{
	return wh_netplug_disarm(plug, NULL);
}

/*
 * Killed at every step of setting up, and of taking away: whoever comes next finds it, finishes
 * it, and leaves what was there before. Between its death and that, the guest may be cut off or
 * not yet held, but nothing is outside that was held once.
 */
TEST_F_TIMEOUT(contract, killed_at_every_step, 200)
{
	char *before = state_without_hooks(), *after;
	unsigned step = 0;
	bool through;

	wh_netplug_free(self->plug);
	do {
		through = !killed_at(&self->world, step, do_arm);
		/* through: an orphan is left, and its clean-up is killed at each step too */
		for (unsigned second = 0; through && second < 100; second += WORLD_STRIDE)
			if (!killed_at(&self->world, second, do_disarm))
				break;
		DO(world_new(&self->world, "guest", &self->plug, &self->err));
		DO(wh_netplug_disarm(self->plug, &self->err));
		wh_netplug_free(self->plug);
		self->plug = NULL;
		after = state_without_hooks();
		ASSERT_STREQ(before, after)
		TH_LOG("killed at step %u", step);
		free(after);
		step += WORLD_STRIDE;
	} while (!through && step < 300);
	ASSERT_TRUE(through);
	ASSERT_LT(20, step);
	free(before);
}

#endif /* SELFTESTS_NETPLUG_NICS_H */
