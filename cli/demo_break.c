/* SPDX-License-Identifier: MIT */
/*
 * wherry demo --protect: something is broken, and it is decided who goes on.
 */
#include "cli/demo_protect.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>

uint32_t demo_chance(struct demo_protect *p, uint32_t below)
{
	p->chance = p->chance * UINT64_C(6364136223846793005) + UINT64_C(1442695040888963407);
	return (uint32_t)(p->chance >> 32) % below;
}

static bool suspects(const struct demo_protect *p)
{
	return !strcmp(p->demo.child[DEMO_DEST].phase, "suspect");
}

static bool has_taken_over(const struct demo_protect *p)
{
	return !strcmp(p->demo.child[DEMO_DEST].phase, "takeover");
}

static bool holds(const struct demo_protect *p)
{
	return !strcmp(p->demo.child[DEMO_SOURCE].phase, "hold");
}

static bool has_released(const struct demo_protect *p)
{
	return !strcmp(p->demo.child[DEMO_SOURCE].phase, "released");
}

static bool both_miss(const struct demo_protect *p)
{
	return holds(p) && suspects(p);
}

static bool is_given_up(const struct demo_protect *p)
{
	return !strcmp(p->demo.child[DEMO_DEST].phase, "fenced");
}

/* What it had sent and what had not been seen yet is seen now: before the time of the kill */
static void kill_end(struct demo_protect *p, enum demo_end end)
{
	struct demo_child *child = &p->demo.child[end];

	kill(child->pid, SIGKILL);
	demo_child_reap(child, 0);
	p->gone[end] = true;
	witness_turn(&p->witness, demo_now_ns());
	p->kill_ns = demo_now_ns();
	demo_say(&p->demo, "%s: killed", end == DEMO_DEST ? "replica" : "primary");
}

/* The guest is to go on at the replica */
static int take_over(struct demo_protect *p)
{
	p->survivor = DEMO_DEST;
	dprintf(p->demo.child[DEMO_DEST].in, "takeover\n");
	return demo_until(p, "the replica has taken over", has_taken_over, DEMO_SOON_MS);
}

/* Or where it is, without a replica */
static int go_on_alone(struct demo_protect *p)
{
	int ret = 0;

	p->survivor = DEMO_SOURCE;
	if (!p->gone[DEMO_DEST]) {
		dprintf(p->demo.child[DEMO_DEST].in, "abandon\n");
		ret = demo_until(p, "the replica gives up", is_given_up, DEMO_SOON_MS);
	}
	dprintf(p->demo.child[DEMO_SOURCE].in, "release\n");
	return ret ? ret : demo_until(p, "the primary goes on", has_released, DEMO_SOON_MS);
}

/* Its output is cut off, and so is the guest at the primary until somebody else holds, or it too */
static int lose_holder(struct demo_protect *p)
{
	int ret;

	demo_holder_break(p);
	witness_turn(&p->witness, demo_now_ns());
	p->kill_ns = demo_now_ns();
	ret = demo_until(p, "both miss the holder", both_miss, DEMO_SOON_MS);
	if (!ret && demo_chance(p, 2)) {
		ret = take_over(p);
		/* who is there again has nothing to say any more */
		return ret || !p->silent ? ret : demo_holder_next(p);
	}
	if (!ret)
		ret = demo_holder_next(p);
	return ret ? ret : go_on_alone(p);
}

int demo_break(struct demo_protect *p, struct wh_err *err)
{
	int ret;

	switch (p->kill) {
	case DEMO_KILL_SOURCE:
		kill_end(p, DEMO_SOURCE);
		ret = demo_until(p, "the replica misses it", suspects, DEMO_SOON_MS);
		return ret ? ret : take_over(p);
	case DEMO_KILL_DESTINATION:
		kill_end(p, DEMO_DEST);
		ret = demo_until(p, "the primary misses it", holds, DEMO_SOON_MS);
		return ret ? ret : go_on_alone(p);
	case DEMO_KILL_LINK:
		ret = demo_net_cut(err);
		p->kill_ns = demo_now_ns();
		demo_say(&p->demo, "link: cut");
		if (!ret)
			ret = demo_until(p, "both miss each other", both_miss, DEMO_SOON_MS);
		if (ret)
			return ret;
		return demo_chance(p, 2) ? take_over(p) : go_on_alone(p);
	case DEMO_KILL_AGENT:
		return lose_holder(p);
	case DEMO_KILL_COUNT:
		break;
	}
	return -EINVAL;
}
