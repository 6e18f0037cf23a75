/* SPDX-License-Identifier: MIT */
/*
 * Joining: what holds the guest's output, and the source's engine.
 */
#include "checkpoint/run_source.h"

#include <errno.h>
#include <poll.h>

#define LOOK_NS (2 * NS_PER_MS)	     /* not more often, */
#define LOOK_MAX_NS (20 * NS_PER_MS) /* and as often while something is held */

static struct protect_source *source_of(void *world)
{
	struct wh_protect *p = world;

	return p->source;
}

static struct wh_netplug *plug_of(void *world)
{
	struct wh_protect *p = world;

	return p->config.plug;
}

int source_hold(void *world, struct wh_err *err)
{
	if (!plug_of(world))
		return 0;
	source_of(world)->plug_look = true;
	return wh_netplug_arm(plug_of(world), err);
}

int source_turn_epoch(void *world, uint64_t epoch, struct wh_err *err)
{
	struct wh_err why = { 0 };
	int ret;

	if (!plug_of(world))
		return 0;
	ret = wh_netplug_turn(plug_of(world), epoch, &why);
	if (ret < 0) {
		/* perhaps it is held no more */
		source_of(world)->plug_look = true;
		protect_log_peer(world, "epoch %llu is not closed: %s", (unsigned long long)epoch,
				 why.text);
		if (err)
			*err = why;
	}
	return ret;
}

/*
 * What fails here is done again, and until then everything stays held; it is for the log
 * alone, and the same is said once: it may be long before somebody else holds.
 */
static int told(struct wh_protect *p, const char *what, int ret, const struct wh_err *why)
{
	struct protect_source *side = p->source;

	side->plug_look = true;
	if (ret < 0 && ret != side->plug_said)
		protect_log_peer(p, "%s: %s; it is tried again", what, why->text);
	side->plug_said = ret;
	return ret;
}

int source_release(void *world, uint64_t epoch, struct wh_err *err)
{
	struct wh_err why = { 0 };

	(void)err;
	if (!plug_of(world))
		return 0;
	return told(world, "letting go what is held",
		    wh_netplug_release(plug_of(world), epoch, &why), &why);
}

int source_fence(void *world, struct wh_err *err)
{
	struct wh_err why = { 0 };

	(void)err;
	if (!plug_of(world))
		return 0;
	return told(world, "fencing", wh_netplug_fence(plug_of(world), &why), &why);
}

int source_open(void *world, struct wh_err *err)
{
	struct wh_err why = { 0 };

	(void)err;
	if (!plug_of(world))
		return 0;
	return told(world, "letting everything go", wh_netplug_disarm(plug_of(world), &why), &why);
}

static void poll_done(struct op *op, int result)
{
	struct protect_source *side =
		(void *)((char *)op - offsetof(struct protect_source, plug_poll));

	side->plug_ready |= result >= 0;
}

/*
 * Who has lost what holds its output can let go nothing any more, and so has nothing of the
 * destination either: that one may go on, or somebody decides otherwise.
 */
static void look(struct protect_source *side, uint64_t now_ns)
{
	struct wh_err err = { 0 };
	int ret = wh_netplug_status(side->p->config.plug, &side->held, &err);

	side->plug_look = false;
	side->plug_look_ns = now_ns;
	if (side->held.state != WH_NETPLUG_HELD && cp_source_holds(side->engine.state)) {
		if (ret == 0)
			err_set(&err, -EIO, "it is %s", wh_netplug_state_name(side->held.state));
		err_wrap(&err, "what the guest sends is not held any more");
		cp_source_lost(&side->engine, &err, now_ns);
	} else if (ret == 0) {
		cp_source_held(&side->engine, side->held.held_bytes);
	} else if (side->held.state == WH_NETPLUG_HELD) {
		protect_log_peer(side->p, "what is held: %s", err.text);
	}
}

uint64_t source_plug_turn(struct protect_source *side, uint64_t now_ns)
{
	struct wh_netplug *plug = side->p->config.plug;
	struct wh_err err = { 0 };

	if (!plug)
		return UINT64_MAX;
	if (side->plug_ready) {
		side->plug_ready = false;
		if (wh_netplug_process(plug, &err) < 0) {
			side->plug_look = true;
			protect_log_peer(side->p, "what the guest sends: %s", err.text);
		}
	}
	if (!op_busy(&side->plug_poll) && wh_netplug_fd(plug) >= 0) {
		side->plug_poll.done = poll_done;
		loop_poll(side->p->loop, &side->plug_poll, wh_netplug_fd(plug), POLLIN);
	}
	if (side->plug_look ||
	    (cp_source_holds(side->engine.state) && now_ns - side->plug_look_ns >= LOOK_NS))
		look(side, now_ns);
	return cp_source_holds(side->engine.state) ? now_ns + LOOK_MAX_NS : UINT64_MAX;
}
