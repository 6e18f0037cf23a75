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

bool cp_source_stalls(const struct cp_source *source)
{
	return source->stalled || source->full ||
	       (source->state == CP_SOURCE_DEGRADED && source->set.full_stalls);
}

/* The one place that stops and resumes the guest. */
void cp_source_settle_guest(struct cp_source *source)
{
	bool stands = cp_source_stalls(source) || source->state == CP_SOURCE_STOP ||
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
	if (source->release_due &&
	    !source->ops->release(source->world, source->release_due, NULL)) {
		source->release_due = 0;
		/* what waits still was said behind that stop */
		if (source->since_ns < source->stopped_ns)
			source->since_ns = source->stopped_ns;
	}
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
	source->stalled = source->full = false;
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
	/* there will be no other one that it could wait for */
	source->full = false;
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
		.parts_due_ns = UINT64_MAX,
	};
	cp_pace_init(&source->pace, &settings->pace);
}

void cp_source_pace(struct cp_source *source, const struct cp_pace_settings *pace)
{
	source->set.pace = *pace;
	cp_pace_init(&source->pace, pace);
	source->idle_ns = 0;
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
	if (source->state == CP_SOURCE_SYNC) {
		if (source->ops->hold(source->world, &err) < 0) {
			cp_source_lost(source, &err, now_ns);
			return;
		}
		cp_source_to(source, CP_SOURCE_ARMED);
		source->stop_due_ns = now_ns;
	} else if (source->state == CP_SOURCE_DEGRADED && source->parts_due_ns == UINT64_MAX) {
		source->stop_due_ns = now_ns;
	}
}

/* What went of it, if anything did, is given up: the session is over, or it begins again. */
static void parts_end(struct cp_source *source)
{
	source->parts_due_ns = UINT64_MAX;
	if (source->degraded)
		source->ops->sync(source->world, CP_PARTS_NONE);
}

void cp_source_degrade(struct cp_source *source, const struct wh_err *why, enum cp_parts parts)
{
	bool told = source->degraded;
	struct cp_msg msg;

	source->why = *why;
	source->degraded = true;
	source->refused = source->full = false;
	source->stop_due_ns = UINT64_MAX;
	if (source->state != CP_SOURCE_DEGRADED)
		cp_source_to(source, CP_SOURCE_DEGRADED);
	cp_reason_set(&msg.degrade.reason, why->text);
	if (!told)
		cp_source_say(source, CP_DEGRADE, source->epoch, &msg);
	if (source->state != CP_SOURCE_DEGRADED)
		return;
	cp_source_settle_guest(source);
	if (source->leave) {
		cp_source_bye(source);
	} else if (parts == CP_PARTS_ALL) {
		parts_end(source);
		source->parts_due_ns = source->now_ns + source->set.lease_ns;
	} else {
		source->ops->sync(source->world, parts);
	}
}

/*
 * The guest stands still: the barrier, or no checkpoint. One that was closed before and could not
 * be sent is closed still.
 */
static void close_epoch(struct cp_source *source)
{
	struct wh_err err = { 0 };

	if (source->refused) {
		cp_source_send_again(source);
		return;
	}
	if (!source->closed && source->ops->turn(source->world, source->epoch, &err) < 0) {
		source->figures.refused++;
		source->stop_due_ns = source->now_ns + source->pace.interval_ns;
		cp_source_to(source, source->degraded  ? CP_SOURCE_DEGRADED :
				     source->committed ? CP_SOURCE_RUN :
							 CP_SOURCE_ARMED);
		cp_source_settle_guest(source);
		return;
	}
	source->closed = true;
	source->ran_ns = source->stopped_ns ? source->now_ns - source->stopped_ns : 0;
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
 * What is too much for one goes in parts, and the rest of it is copied in another stop. What cannot
 * be copied for another reason is never acknowledged, and somebody has to decide.
 */
void cp_source_staged(struct cp_source *source, const struct wh_err *why, uint64_t now_ns)
{
	source->now_ns = now_ns;
	if (source->state != CP_SOURCE_STAGE)
		return;
	if (source->refused) {
		cp_source_send_again(source);
		return;
	}
	if (why) {
		struct wh_err err = *why;

		err_wrap(&err, "checkpoint %llu", (unsigned long long)source->epoch);
		if (why->code == -ENOSPC && source->committed)
			cp_source_degrade(source, &err,
					  source->degraded ? CP_PARTS_MORE : CP_PARTS_WRITTEN);
		else
			cp_source_lost(source, &err, now_ns);
		return;
	}
	source->figures.stop_ns = now_ns - source->stopped_ns;
	source->resumed_ns = now_ns;
	source->full = false;
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
	err_set(&err, -EREMOTEIO, "checkpoint %llu: the destination refuses it: %.150s",
		(unsigned long long)source->epoch, source->why.text);
	/* nothing is kept of what went in parts */
	if (source->degraded) {
		cp_source_degrade(source, &err, CP_PARTS_ALL);
		return;
	}
	/* the first is all of memory, which is not kept */
	if (source->epoch == 1 || ++source->tries >= TRIES_MAX) {
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
	parts_end(source);
	cp_source_to(source, CP_SOURCE_LEAVING);
	cp_source_say(source, CP_BYE, source->epoch - 1, NULL);
}

/*
 * The guest waits while there is still room for what it may write until it stands, if that is
 * wanted. What is too much already is known here sooner than in the stop; not while another is under
 * way, whose answer comes first.
 */
void cp_source_written(struct cp_source *source, uint64_t bytes, uint64_t now_ns)
{
	uint64_t most = source->set.contents_max;
	struct wh_err err = { 0 };

	source->now_ns = now_ns;
	if (source->state != CP_SOURCE_RUN && source->state != CP_SOURCE_SEND &&
	    source->state != CP_SOURCE_WAIT_ACK)
		return;
	if (source->set.full_stalls && bytes > most - most / 4) {
		source->full = true;
		if (source->stop_due_ns > now_ns)
			source->stop_due_ns = now_ns;
		cp_source_settle_guest(source);
	}
	if (source->state != CP_SOURCE_RUN || bytes <= most)
		return;
	err_set(&err, -ENOSPC, "checkpoint %llu: %llu bytes have changed, there is room for %llu",
		(unsigned long long)source->epoch, (unsigned long long)bytes,
		(unsigned long long)most);
	cp_source_degrade(source, &err, CP_PARTS_WRITTEN);
}

/* The guest stands still above the limit and not before less than half of it is held */
void cp_source_held(struct cp_source *source, uint64_t bytes)
{
	if (bytes && !source->waits)
		source->since_ns = source->now_ns;
	source->waits = bytes;
	if (!cp_source_holds(source->state) || cp_source_has_ended(source))
		return;
	if (bytes > source->set.held_max)
		source->stalled = true;
	else if (bytes <= source->set.held_max / 2)
		source->stalled = false;
	cp_source_settle_guest(source);
}

static bool may_stop(const struct cp_source *source)
{
	return (source->state == CP_SOURCE_RUN || source->state == CP_SOURCE_ARMED ||
		source->state == CP_SOURCE_DEGRADED) &&
	       !source->release_due;
}

/* Where no output waits nobody waits for the stop */
static uint64_t stop_due(const struct cp_source *source)
{
	bool idle = source->set.held_told && source->state == CP_SOURCE_RUN && !source->waits &&
		    !source->full;

	return source->stop_due_ns + (idle ? source->idle_ns : 0);
}

static void stop_if_due(struct cp_source *source)
{
	uint64_t due_ns = stop_due(source);

	if (!may_stop(source) || source->now_ns < due_ns)
		return;
	source->stop_due_ns = due_ns;
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
	if (source->state == CP_SOURCE_DEGRADED && now_ns >= source->parts_due_ns) {
		source->parts_due_ns = UINT64_MAX;
		source->ops->sync(source->world, CP_PARTS_ALL);
	}
	stop_if_due(source);
	next = source->said_ns + source->set.heartbeat_ns;
	if (source->answer_due_ns < next)
		next = source->answer_due_ns + 1;
	if (may_stop(source) && stop_due(source) < next)
		next = stop_due(source);
	if (source->parts_due_ns < next)
		next = source->parts_due_ns;
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
	case CP_SOURCE_DEGRADED:
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
