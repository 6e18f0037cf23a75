/* SPDX-License-Identifier: MIT */
#include "checkpoint/source_internal.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>

/* So often the same checkpoint is sent */
#define TRIES_MAX 3u

void cp_source_to(struct cp_source *source, enum cp_source_state to)
{
	enum cp_source_state from = source->state;

	cp_source_move(&source->state, to);
	source->answer_due_ns =
		to == CP_SOURCE_SYNC || to == CP_SOURCE_WAIT_ACK || to == CP_SOURCE_LEAVING ?
			source->now_ns + source->set.answer_ns :
			UINT64_MAX;
	if (source->ops->moved)
		source->ops->moved(source->world, from, to);
}

/* The one place that stops and resumes the guest. */
void cp_source_settle_guest(struct cp_source *source)
{
	bool stands = source->stalled || source->state == CP_SOURCE_STOP ||
		      source->state == CP_SOURCE_STAGE || source->state == CP_SOURCE_FENCED;

	if (stands && source->guest == CP_GUEST_RUNS) {
		source->guest = CP_GUEST_STOPPING;
		source->ops->stop(source->world);
	} else if (!stands && source->guest == CP_GUEST_STANDS) {
		source->guest = CP_GUEST_RUNS;
		source->ops->resume(source->world);
	}
}

/*
 * What could not be done is tried again by cp_source_step(): until it is, output stays held,
 * which is the safe side of both.
 */
void cp_source_settle_hold(struct cp_source *source)
{
	if (source->fence_due && !source->ops->fence(source->world, NULL))
		source->fence_due = false;
	if (source->open_due && !source->ops->open(source->world, NULL))
		source->open_due = false;
	if (source->release_due && !source->ops->release(source->world, source->release_due, NULL))
		source->release_due = 0;
}

void cp_source_end_fenced(struct cp_source *source)
{
	source->fence_due = true;
	source->release_due = 0;
	cp_source_to(source, CP_SOURCE_FENCED);
	cp_source_settle_hold(source);
	cp_source_settle_guest(source);
}

void cp_source_end_released(struct cp_source *source)
{
	source->open_due = cp_source_holds(source->state);
	source->release_due = 0;
	source->stalled = false;
	cp_source_to(source, CP_SOURCE_RELEASED);
	cp_source_settle_hold(source);
	cp_source_settle_guest(source);
}

/*
 * Before COMMIT of the first checkpoint the destination has nothing that it could run from,
 * whatever became of the link: what is held can go.
 */
void cp_source_lost(struct cp_source *source, const struct wh_err *why, uint64_t now_ns)
{
	source->now_ns = now_ns;
	if (cp_source_has_ended(source) || source->state == CP_SOURCE_HOLD ||
	    source->state == CP_SOURCE_IDLE)
		return;
	if (why)
		source->why = *why;
	if (!source->committed) {
		cp_source_end_released(source);
		return;
	}
	cp_source_to(source, CP_SOURCE_HOLD);
	cp_source_settle_guest(source);
}

void cp_source_say(struct cp_source *source, enum cp_kind kind, uint64_t epoch,
		   const struct cp_msg *msg)
{
	static const struct cp_msg nothing;
	struct cp_header header = {
		.kind = kind,
		.generation = source->set.generation,
		.epoch = epoch,
	};
	struct wh_err err = { 0 };

	if (source->ops->say(source->world, &header, msg ? msg : &nothing, &err) < 0)
		cp_source_lost(source, &err, source->now_ns);
}

void cp_source_init(struct cp_source *source, const struct cp_source_ops *ops, void *world,
		    const struct cp_source_settings *settings, const struct cp_block *blocks,
		    uint32_t block_count)
{
	assert(settings->generation && block_count && block_count <= CP_BLOCKS_MAX);
	*source = (struct cp_source){
		.ops = ops,
		.world = world,
		.set = *settings,
		.blocks = blocks,
		.block_count = block_count,
		.epoch = 1,
		.answer_due_ns = UINT64_MAX,
	};
	cp_pace_init(&source->pace, &settings->pace);
}

void cp_source_pace(struct cp_source *source, const struct cp_pace_settings *pace)
{
	source->set.pace = *pace;
	cp_pace_init(&source->pace, pace);
}

void cp_source_soon(struct cp_source *source, uint64_t now_ns)
{
	if (source->stop_due_ns > now_ns)
		source->stop_due_ns = now_ns;
}

void cp_source_start(struct cp_source *source, uint64_t now_ns)
{
	struct cp_msg msg = { .hello = {
				      .features = source->set.features & CP_FEATURES,
				      .blocks = source->block_count,
				      .contents_max = source->set.contents_max,
				      .device_max = source->set.device_max,
				      .heartbeat_ns = source->set.heartbeat_ns,
				      .lease_ns = source->set.lease_ns,
			      } };

	source->now_ns = source->heard_ns = source->said_ns = now_ns;
	cp_source_to(source, CP_SOURCE_SYNC);
	cp_source_say(source, CP_HELLO, 0, &msg);
	for (uint32_t i = 0; i < source->block_count && source->state == CP_SOURCE_SYNC; i++) {
		msg.block.length = source->blocks[i].length;
		msg.block.page_size = source->blocks[i].page_size;
		msg.block.name = source->blocks[i].name;
		cp_source_say(source, CP_BLOCK, 0, &msg);
	}
}

void cp_source_synced(struct cp_source *source, uint64_t now_ns)
{
	struct wh_err err = { 0 };

	source->now_ns = now_ns;
	if (source->state != CP_SOURCE_SYNC)
		return;
	if (source->ops->hold(source->world, &err) < 0) {
		cp_source_lost(source, &err, now_ns);
		return;
	}
	cp_source_to(source, CP_SOURCE_ARMED);
	source->stop_due_ns = now_ns;
}

/* The guest stands still: the barrier, or no checkpoint. */
static void close_epoch(struct cp_source *source)
{
	struct wh_err err = { 0 };

	if (source->ops->turn(source->world, source->epoch, &err) < 0) {
		source->figures.refused++;
		source->stop_due_ns = source->now_ns + source->pace.interval_ns;
		cp_source_to(source, source->committed ? CP_SOURCE_RUN : CP_SOURCE_ARMED);
		cp_source_settle_guest(source);
		return;
	}
	source->stopped_ns = source->now_ns;
	source->tries = 0;
	cp_source_to(source, CP_SOURCE_STAGE);
	source->ops->stage(source->world, source->epoch);
}

void cp_source_stopped(struct cp_source *source, uint64_t now_ns)
{
	source->now_ns = now_ns;
	if (source->guest != CP_GUEST_STOPPING)
		return;
	source->guest = CP_GUEST_STANDS;
	if (source->state == CP_SOURCE_STOP)
		close_epoch(source);
	else
		cp_source_settle_guest(source);
}

/*
 * The epoch is closed, so it cannot be closed again: what cannot be copied now is never
 * acknowledged, and somebody has to decide. Nothing is lost by that but time.
 */
void cp_source_staged(struct cp_source *source, int code, uint64_t now_ns)
{
	struct wh_err err = { 0 };

	source->now_ns = now_ns;
	if (source->state != CP_SOURCE_STAGE)
		return;
	if (code < 0) {
		err_sys(&err, code, "checkpoint %llu: copying what changed",
			(unsigned long long)source->epoch);
		cp_source_lost(source, &err, now_ns);
		return;
	}
	source->figures.stop_ns = now_ns - source->stopped_ns;
	source->resumed_ns = now_ns;
	source->refused = false;
	cp_source_to(source, CP_SOURCE_SEND);
	cp_source_settle_guest(source);
	source->ops->send(source->world, source->epoch);
}

/* Sent in vain: once more, while there is sense in it */
void cp_source_send_again(struct cp_source *source)
{
	struct wh_err err = { 0 };

	source->figures.refused++;
	source->refused = false;
	/* the first is all of memory, which is not kept */
	if (source->epoch == 1 || ++source->tries >= TRIES_MAX) {
		err_set(&err, -EREMOTEIO, "checkpoint %llu: the destination refuses it: %s",
			(unsigned long long)source->epoch, source->why.text);
		/* what was refused cannot be run from */
		if (source->epoch == 1)
			source->committed = false;
		cp_source_lost(source, &err, source->now_ns);
		return;
	}
	if (source->state == CP_SOURCE_WAIT_ACK)
		cp_source_to(source, CP_SOURCE_SEND);
	source->ops->send(source->world, source->epoch);
}

void cp_source_sent(struct cp_source *source, const struct cp_msg *totals, uint64_t now_ns)
{
	source->now_ns = now_ns;
	if (source->state != CP_SOURCE_SEND)
		return;
	if (source->refused) {
		cp_source_send_again(source);
		return;
	}
	/* before the first byte of it may be on its way */
	source->committed = true;
	cp_source_to(source, CP_SOURCE_WAIT_ACK);
	cp_source_say(source, CP_COMMIT, source->epoch, totals);
}

void cp_source_bye(struct cp_source *source)
{
	source->leave = false;
	cp_source_to(source, CP_SOURCE_LEAVING);
	cp_source_say(source, CP_BYE, source->epoch - 1, NULL);
}

/* The guest stands still above the limit and not before less than half of it is held */
void cp_source_held(struct cp_source *source, uint64_t bytes)
{
	if (!cp_source_holds(source->state) || cp_source_has_ended(source))
		return;
	if (bytes > source->set.held_max)
		source->stalled = true;
	else if (bytes <= source->set.held_max / 2)
		source->stalled = false;
	cp_source_settle_guest(source);
}

static void stop_if_due(struct cp_source *source)
{
	if ((source->state != CP_SOURCE_RUN && source->state != CP_SOURCE_ARMED) ||
	    source->now_ns < source->stop_due_ns || source->release_due)
		return;
	cp_source_to(source, CP_SOURCE_STOP);
	if (source->guest == CP_GUEST_STANDS)
		close_epoch(source);
	else
		cp_source_settle_guest(source);
}

uint64_t cp_source_step(struct cp_source *source, uint64_t now_ns)
{
	struct wh_err err = { 0 };
	uint64_t next;

	source->now_ns = now_ns;
	cp_source_settle_hold(source);
	if (source->state == CP_SOURCE_IDLE || source->state == CP_SOURCE_HOLD ||
	    cp_source_has_ended(source))
		return source->fence_due || source->open_due || source->release_due ?
			       now_ns + source->set.heartbeat_ns :
			       UINT64_MAX;
	if (now_ns - source->heard_ns > source->set.lease_ns)
		err_set(&err, -ETIMEDOUT, "the destination was silent for %llu ms",
			(unsigned long long)((now_ns - source->heard_ns) / 1000000));
	/* its heart beats, and yet: one connection of the two may be dead */
	else if (now_ns > source->answer_due_ns)
		err_set(&err, -ETIMEDOUT, "checkpoint %llu: no answer for %llu ms",
			(unsigned long long)source->epoch,
			(unsigned long long)(source->set.answer_ns / 1000000));
	if (err.code) {
		cp_source_lost(source, &err, now_ns);
		return now_ns;
	}
	if (now_ns - source->said_ns >= source->set.heartbeat_ns) {
		source->said_ns = now_ns;
		cp_source_say(source, CP_HEARTBEAT, source->epoch - 1, NULL);
	}
	stop_if_due(source);
	next = source->said_ns + source->set.heartbeat_ns;
	if (source->answer_due_ns < next)
		next = source->answer_due_ns + 1;
	if ((source->state == CP_SOURCE_RUN || source->state == CP_SOURCE_ARMED) &&
	    source->stop_due_ns < next && !source->release_due)
		next = source->stop_due_ns;
	return next;
}

int cp_source_leave(struct cp_source *source, uint64_t now_ns, struct wh_err *err)
{
	source->now_ns = now_ns;
	switch (source->state) {
	case CP_SOURCE_SYNC:
	case CP_SOURCE_ARMED:
		cp_source_end_released(source);
		return 0;
	case CP_SOURCE_RUN:
		cp_source_bye(source);
		return 0;
	case CP_SOURCE_STOP:
	case CP_SOURCE_STAGE:
	case CP_SOURCE_SEND:
	case CP_SOURCE_WAIT_ACK:
		/* behind the acknowledgement of what is on its way */
		source->leave = true;
		return 0;
	case CP_SOURCE_LEAVING:
	case CP_SOURCE_RELEASED:
		return 0;
	case CP_SOURCE_IDLE:
	case CP_SOURCE_HOLD:
	case CP_SOURCE_FENCED:
	case CP_SOURCE_STATE_COUNT:
		break;
	}
	return err_set(err, -EINVAL, "not protected: it is in %s",
		       cp_source_state_name(source->state));
}

int cp_source_release(struct cp_source *source, struct wh_err *err)
{
	if (source->state != CP_SOURCE_HOLD)
		return err_set(err, -EINVAL, "nothing to decide: it is in %s",
			       cp_source_state_name(source->state));
	cp_source_end_released(source);
	return 0;
}

int cp_source_fence(struct cp_source *source, struct wh_err *err)
{
	if (!cp_source_may(source->state, CP_SOURCE_FENCED))
		return err_set(err, -EINVAL, "nothing to fence: it is in %s",
			       cp_source_state_name(source->state));
	cp_source_end_fenced(source);
	return 0;
}
