/* SPDX-License-Identifier: MIT */
#include "checkpoint/dest_internal.h"

#include "base/err.h"

#include <errno.h>

void cp_dest_to(struct cp_dest *dest, enum cp_dest_state to)
{
	enum cp_dest_state from = dest->state;

	cp_dest_move(&dest->state, to);
	if (dest->ops->moved)
		dest->ops->moved(dest->world, from, to);
}

static bool decided(const struct cp_dest *dest)
{
	return dest->state == CP_DEST_APPLYING || cp_dest_ended(dest->state);
}

/* A link that does not take it is noticed by whoever reads from it, too */
int cp_dest_say(struct cp_dest *dest, enum cp_kind kind, uint64_t epoch, const struct cp_msg *msg,
		struct wh_err *err)
{
	static const struct cp_msg nothing;
	struct cp_header header = {
		.kind = kind,
		.generation = dest->generation,
		.epoch = epoch,
	};

	return dest->ops->say(dest->world, &header, msg ? msg : &nothing, err);
}

void cp_dest_init(struct cp_dest *dest, const struct cp_dest_ops *ops, void *world,
		  const struct cp_dest_settings *settings, uint64_t now_ns)
{
	*dest = (struct cp_dest){
		.ops = ops,
		.world = world,
		.set = *settings,
		.now_ns = now_ns,
		.heard_ns = now_ns,
		.said_ns = now_ns,
	};
}

void cp_dest_forget(struct cp_dest *dest)
{
	if (dest->begun)
		dest->ops->drop(dest->world);
	dest->begun = false;
	dest->verifying = false;
}

/* Nothing to run from, or not to be run: an end */
void cp_dest_end(struct cp_dest *dest)
{
	cp_dest_forget(dest);
	cp_dest_to(dest, CP_DEST_FENCED);
}

void cp_dest_lost(struct cp_dest *dest, const struct wh_err *why, uint64_t now_ns)
{
	dest->now_ns = now_ns;
	if (decided(dest) || dest->state == CP_DEST_SUSPECT)
		return;
	if (why)
		dest->why = *why;
	if (!dest->complete) {
		cp_dest_end(dest);
		return;
	}
	cp_dest_forget(dest);
	cp_dest_to(dest, CP_DEST_SUSPECT);
}

static void run_if_applied(struct cp_dest *dest)
{
	if (dest->state != CP_DEST_APPLYING || dest->applying)
		return;
	cp_dest_to(dest, CP_DEST_TAKEOVER);
	(void)cp_dest_say(dest, CP_TAKEOVER_NOTICE, dest->complete, NULL, NULL);
	dest->ops->run(dest->world);
}

int cp_dest_takeover(struct cp_dest *dest, uint64_t generation, struct wh_err *err)
{
	int ret;

	if (!cp_dest_may(dest->state, CP_DEST_APPLYING))
		return err_set(err, -EINVAL, "no taking over: it is in %s",
			       cp_dest_state_name(dest->state));
	if (!dest->complete)
		return err_set(err, -ENODATA, "no taking over: no checkpoint is complete");
	if (generation <= dest->generation)
		return err_set(err, -ESTALE, "no taking over: generation %llu is not above %llu",
			       (unsigned long long)generation,
			       (unsigned long long)dest->generation);
	ret = dest->ops->persist(dest->world, generation, err);
	if (ret < 0)
		return ret;
	dest->generation = generation;
	cp_dest_forget(dest);
	cp_dest_to(dest, CP_DEST_APPLYING);
	run_if_applied(dest);
	return 0;
}

int cp_dest_abandon(struct cp_dest *dest, struct wh_err *err)
{
	if (dest->state == CP_DEST_FENCED)
		return 0;
	if (!cp_dest_may(dest->state, CP_DEST_FENCED))
		return err_set(err, -EINVAL, "no abandoning: it is in %s",
			       cp_dest_state_name(dest->state));
	cp_dest_end(dest);
	return 0;
}

void cp_dest_applied(struct cp_dest *dest, uint64_t now_ns)
{
	dest->now_ns = now_ns;
	if (!dest->applying)
		return;
	dest->applying = false;
	run_if_applied(dest);
	if (dest->state == CP_DEST_COMPLETE && !dest->verifying) {
		dest->verifying = true;
		dest->ops->verify(dest->world, dest->epoch, dest->full);
	}
}

int cp_dest_refuse(struct cp_dest *dest, const struct wh_err *why, struct wh_err *err)
{
	struct cp_msg msg;

	cp_reason_set(&msg.nack.reason, why->text);
	cp_dest_forget(dest);
	dest->refused = true;
	if (dest->complete && dest->state != CP_DEST_READY)
		cp_dest_to(dest, CP_DEST_READY);
	else if (dest->state == CP_DEST_COMPLETE)
		cp_dest_to(dest, CP_DEST_SYNC);
	return cp_dest_say(dest, CP_NACK, dest->epoch, &msg, err);
}

/*
 * From here on it can be run from: all of it is here and right. The acknowledgement says so;
 * whether it arrives is of no account to this end.
 */
void cp_dest_verified(struct cp_dest *dest, const struct wh_err *why, uint64_t now_ns)
{
	struct wh_err err = { 0 };
	int ret;

	dest->now_ns = now_ns;
	if (dest->state != CP_DEST_COMPLETE || !dest->verifying)
		return;
	dest->verifying = false;
	if (why) {
		ret = cp_dest_refuse(dest, why, &err);
	} else {
		dest->begun = dest->degraded = false;
		dest->complete = dest->epoch;
		dest->applying = true;
		dest->ops->keep(dest->world, dest->epoch);
		cp_dest_to(dest, CP_DEST_READY);
		ret = cp_dest_say(dest, CP_ACK, dest->epoch, NULL, &err);
	}
	if (ret < 0)
		cp_dest_lost(dest, &err, now_ns);
}

uint64_t cp_dest_step(struct cp_dest *dest, uint64_t now_ns)
{
	struct wh_err err = { 0 };

	dest->now_ns = now_ns;
	if (decided(dest) || !dest->generation)
		return UINT64_MAX;
	if (now_ns - dest->heard_ns > dest->lease_ns) {
		err_set(&err, -ETIMEDOUT, "the source was silent for %llu ms",
			(unsigned long long)((now_ns - dest->heard_ns) / 1000000));
		cp_dest_lost(dest, &err, now_ns);
		if (dest->state != CP_DEST_SUSPECT || dest->set.authority != CP_ON_OUR_OWN)
			return UINT64_MAX;
		if (!cp_dest_takeover(dest, dest->generation + 1, &dest->why))
			return UINT64_MAX;
		/* it could not be made lasting: not before it can */
		return now_ns + dest->heartbeat_ns;
	}
	if (dest->state != CP_DEST_SUSPECT && now_ns - dest->said_ns >= dest->heartbeat_ns) {
		dest->said_ns = now_ns;
		if (cp_dest_say(dest, CP_HEARTBEAT, dest->complete, NULL, &err) < 0)
			cp_dest_lost(dest, &err, now_ns);
	}
	if (dest->state == CP_DEST_SUSPECT)
		return dest->heard_ns + dest->lease_ns + 1;
	return dest->said_ns + dest->heartbeat_ns;
}
