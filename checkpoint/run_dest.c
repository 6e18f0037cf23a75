/* SPDX-License-Identifier: MIT */
/*
 * Joining: the destination. What comes, the store, and the engine's turn.
 */
#include "checkpoint/run_dest.h"

#include "checkpoint/generation.h"

#include <errno.h>
#include <stdlib.h>

#define HELLO_NS (10 * NS_PER_S) /* from HELLO to the last block */

static const enum wh_protect_state state_of[] = {
	[CP_DEST_SYNC] = WH_PROTECT_SYNC,	    [CP_DEST_READY] = WH_PROTECT_READY,
	[CP_DEST_RECEIVING] = WH_PROTECT_RECEIVING, [CP_DEST_COMPLETE] = WH_PROTECT_COMPLETE,
	[CP_DEST_SUSPECT] = WH_PROTECT_SUSPECT,	    [CP_DEST_APPLYING] = WH_PROTECT_APPLYING,
	[CP_DEST_TAKEOVER] = WH_PROTECT_TAKEOVER,   [CP_DEST_FENCED] = WH_PROTECT_FENCED,
};
_Static_assert(sizeof(state_of) / sizeof(state_of[0]) == CP_DEST_STATE_COUNT, "one for each");

/* ---- What the engine asks for ---- */

static int on_say(void *world, struct cp_header *header, const struct cp_msg *msg,
		  struct wh_err *err)
{
	struct wh_protect *p = world;
	struct protect_link *pulse = &p->link[LINK_PULSE];

	if (header->kind == CP_TAKEOVER_NOTICE) {
		/* on any that there is: the other may be the dead one */
		for (unsigned i = 0; i < LINK_COUNT; i++)
			(void)link_say(&p->link[i], header, msg, NULL);
		return 0;
	}
	if (header->kind != CP_HEARTBEAT)
		return link_say(&p->link[LINK_CONTENTS], header, msg, err);
	/* before it has connected it cannot hear any */
	return link_up(pulse) ? link_say(pulse, header, msg, err) : 0;
}

static int on_block(void *world, uint32_t index, const struct cp_block *block, struct wh_err *err)
{
	struct wh_protect *p = world;

	return cp_store_block(p->dest->store, index, block, err);
}

static int on_entry(void *world, const struct cp_entry *entry, bool full, struct wh_err *err)
{
	struct wh_protect *p = world;

	if (!full)
		p->dest->coming_bytes += (uint64_t)entry->pages * TARGET_PAGE;
	return cp_store_entry(p->dest->store, entry, full, err);
}

static void on_verify(void *world, uint64_t epoch, bool full)
{
	struct wh_protect *p = world;

	(void)epoch;
	p->dest->verify_due = true;
	p->dest->full = full;
}

static void on_drop(void *world)
{
	struct wh_protect *p = world;

	p->dest->verify_due = false;
	cp_store_drop(p->dest->store);
}

static void on_keep(void *world, uint64_t epoch)
{
	struct wh_protect *p = world;
	struct protect_dest *side = p->dest;

	(void)epoch;
	cp_store_keep(side->store);
	side->apply_due = true;
	side->checkpoints++;
	side->kept_at_ns = clock_now_ns();
	side->dirty_bytes = side->coming_bytes;
	side->wire_bytes = side->coming_wire;
}

static int on_persist(void *world, uint64_t generation, struct wh_err *err)
{
	struct wh_protect *p = world;
	int ret = generation_write(p->generation_file, generation, err);

	if (ret == 0)
		p->generation = generation;
	return ret;
}

static void on_run(void *world)
{
	struct wh_protect *p = world;

	p->dest->run_due = true;
	admit_notice(p->dest);
}

static void on_moved(void *world, enum cp_dest_state from, enum cp_dest_state to)
{
	struct wh_protect *p = world;
	struct protect_dest *side = p->dest;
	enum wh_protect_state told = state_of[to];

	/* it is told when the guest does run */
	if (to == CP_DEST_TAKEOVER)
		return;
	if (from == CP_DEST_COMPLETE && (to == CP_DEST_SYNC || !side->apply_due))
		side->refused++;
	if (to == CP_DEST_SUSPECT)
		side->fence_at_ns = 0;
	/* and no complete one is behind: what came in parts was refused */
	if (to == CP_DEST_READY && side->engine.degraded)
		told = WH_PROTECT_DEGRADED;
	else if (to == CP_DEST_READY)
		p->why = (struct wh_err){ 0 };
	protect_moved(p, told, side->engine.complete, side->engine.generation,
		      to == CP_DEST_SUSPECT || to == CP_DEST_FENCED ? &side->engine.why : NULL);
}

static const struct cp_dest_ops ops = {
	.say = on_say,
	.block = on_block,
	.entry = on_entry,
	.verify = on_verify,
	.drop = on_drop,
	.keep = on_keep,
	.persist = on_persist,
	.run = on_run,
	.moved = on_moved,
};

/* ---- What comes ---- */

static int begin(struct protect_dest *side, struct wh_err *err)
{
	const struct wh_protect_config *config = &side->p->config;
	const struct cp_store_settings store = {
		.contents_max = config->contents_max,
		.device_max = config->device_max,
	};
	const struct cp_dest_settings settings = {
		.generation = side->p->generation,
		.contents_max = config->contents_max,
		.device_max = config->device_max,
		.features = CP_FEATURES,
		.authority = config->authority == WH_PROTECT_ALONE ? CP_ON_OUR_OWN : CP_ASK,
	};

	cp_store_free(side->store);
	side->store = cp_store_new(&store, side->p->region, side->p->blocks, err);
	cp_dest_init(&side->engine, &ops, side->p, &settings, clock_now_ns());
	return side->store ? 0 : -ENOMEM;
}

/* READY is said: from here on there is a session, and its end is an end */
static bool has_begun(const struct cp_dest *engine)
{
	return engine->block_count && engine->blocks_seen == engine->block_count;
}

int protect_dest_heard(struct protect_link *link, const struct cp_header *header,
		       const uint8_t *bytes, struct wh_err *err)
{
	struct protect_dest *side = link->p->dest;
	size_t length = CP_HEADER + header->length;
	int ret = 0;

	if (link == &link->p->link[LINK_PULSE] && header->kind != CP_HEARTBEAT)
		return err_set(err, -EPROTO, "checkpoint: %s on the connection for heartbeats",
			       cp_name(header->kind));
	side->bytes += length;
	if (header->kind == CP_BEGIN)
		side->coming_bytes = side->coming_wire = 0;
	side->coming_wire += length;
	if (header->kind == CP_PAGES || header->kind == CP_DEVICE) {
		ret = cp_dest_expects(&side->engine, header, err);
		if (ret < 0)
			return ret;
		if (ret == 0 && header->kind == CP_PAGES)
			ret = cp_store_pages(side->store, bytes + CP_HEADER, header->length, err);
		else if (ret == 0)
			ret = cp_store_device(side->store, bytes + CP_HEADER, header->length, err);
		if (ret < 0)
			return ret;
	}
	ret = cp_dest_message(&side->engine, header, bytes, clock_now_ns(), err);
	if (ret == 0 && header->kind == CP_HELLO) {
		side->hello_ns = clock_now_ns();
		protect_moved(link->p, WH_PROTECT_SYNC, 0, side->engine.generation, NULL);
		admit_session(side);
	}
	if (ret == 0 && header->kind == CP_DEGRADE) {
		struct wh_err why;

		err_set(&why, -ENOSPC, "checkpoint %llu: more is written than there is room for",
			(unsigned long long)header->epoch);
		protect_moved(link->p, WH_PROTECT_DEGRADED, side->engine.complete,
			      side->engine.generation, &why);
	}
	return ret;
}

/* ---- The turn ---- */

static void verify(struct protect_dest *side)
{
	struct wh_protect *p = side->p;
	struct wh_err err = { 0 };
	size_t length = 0;
	const void *device;
	int ret;

	side->verify_due = false;
	ret = cp_store_verify(side->store, side->full, &err);
	device = cp_store_coming_device(side->store, &length);
	if (ret == 0 && p->cb.device_check)
		ret = p->cb.device_check(p->config.opaque, device, length, &err);
	if (ret < 0)
		protect_log_peer(p, "checkpoint %llu is refused: %s",
				 (unsigned long long)side->engine.epoch, protect_said(&err, ret));
	cp_dest_verified(&side->engine, ret < 0 ? &err : NULL, clock_now_ns());
}

static void apply(struct protect_dest *side)
{
	/* of one that is large in parts: meanwhile it has to be said that we are here */
	if (!cp_store_apply(side->store))
		return;
	side->apply_due = false;
	cp_store_applied(side->store);
	cp_store_step(side->store, clock_now_ns());
	cp_dest_applied(&side->engine, clock_now_ns());
}

static void run(struct protect_dest *side)
{
	struct wh_protect *p = side->p;
	struct wh_err err = { 0 };
	size_t length = 0;
	const void *device = cp_store_kept_device(side->store, &length);
	int ret;

	side->run_due = false;
	side->running = true;
	ret = p->cb.run(p->config.opaque, device, length, &err);
	if (ret < 0)
		protect_log(p, WH_LOG_ERROR, "the guest does not run here: %s",
			    protect_said(&err, ret));
	protect_moved(p, WH_PROTECT_TAKEOVER, side->engine.complete, side->engine.generation, &err);
}

/* WH_PROTECT_FENCE: once the lease is over, and again after another one */
static uint64_t fence_peer(struct protect_dest *side, uint64_t now_ns)
{
	struct wh_protect *p = side->p;
	struct cp_dest *engine = &side->engine;
	struct wh_err err = { 0 };
	int ret;

	if (p->config.authority != WH_PROTECT_FENCE || engine->state != CP_DEST_SUSPECT)
		return UINT64_MAX;
	if (!side->fence_at_ns)
		side->fence_at_ns = engine->heard_ns + engine->lease_ns;
	if (now_ns < side->fence_at_ns)
		return side->fence_at_ns;
	ret = p->cb.fence_peer(p->config.opaque, engine->generation + 1, &err);
	if (ret == 0)
		ret = cp_dest_takeover(engine, engine->generation + 1, &err);
	if (ret < 0)
		protect_log_peer(p, "the source is not known to be fenced: %s",
				 protect_said(&err, ret));
	side->fence_at_ns = ret == WH_PENDING ? UINT64_MAX : clock_now_ns() + engine->lease_ns;
	return ret < 0 ? side->fence_at_ns : UINT64_MAX;
}

static void look_at_links(struct protect_dest *side)
{
	struct wh_protect *p = side->p;
	struct wh_err why;

	for (unsigned i = 0; i < LINK_COUNT; i++) {
		if (!link_lost(&p->link[i], &why))
			continue;
		if (has_begun(&side->engine) || side->engine.state != CP_DEST_SYNC) {
			cp_dest_lost(&side->engine, &why, clock_now_ns());
			continue;
		}
		/* nothing has begun: it was nobody, and the source comes yet */
		protect_log_peer(p, "a connection was refused: %s", why.text);
		for (unsigned j = 0; j < LINK_COUNT; j++)
			link_close(&p->link[j]);
		if (side->engine.generation)
			protect_moved(p, WH_PROTECT_SETUP, 0, 0, NULL);
		if (begin(side, &why) < 0)
			cp_dest_lost(&side->engine, &why, clock_now_ns());
	}
	/* of a source that is lost nothing is taken; it may ask again what became of its guest */
	if (side->engine.state == CP_DEST_SUSPECT)
		for (unsigned i = 0; i < LINK_COUNT; i++)
			link_close(&p->link[i]);
}

/*
 * Between HELLO and READY whoever has connected may be anybody, and what time he gives himself
 * does not count
 */
static uint64_t hello_turn(struct protect_dest *side, uint64_t now_ns)
{
	struct wh_err err;

	if (!side->engine.generation || has_begun(&side->engine))
		return UINT64_MAX;
	if (now_ns < side->hello_ns + HELLO_NS)
		return side->hello_ns + HELLO_NS;
	err_set(&err, -ETIMEDOUT, "checkpoint: HELLO, and no blocks");
	link_break(&side->p->link[LINK_CONTENTS], &err);
	return 0;
}

uint64_t protect_dest_turn(struct wh_protect *p, uint64_t now_ns)
{
	struct protect_dest *side = p->dest;
	uint64_t next, then;

	look_at_links(side);
	next = admit_turn(side, now_ns);
	/* the answer to it is on its way by now */
	if (side->apply_due)
		apply(side);
	if (side->run_due)
		run(side);
	then = hello_turn(side, now_ns);
	next = then < next ? then : next;
	then = has_begun(&side->engine) ? cp_dest_step(&side->engine, clock_now_ns()) : UINT64_MAX;
	next = then < next ? then : next;
	then = fence_peer(side, clock_now_ns());
	next = then < next ? then : next;
	if (side->verify_due)
		verify(side);
	if (side->apply_due || side->run_due || side->verify_due || p->link[LINK_CONTENTS].broken ||
	    p->link[LINK_PULSE].broken)
		return 0;
	return next;
}

bool protect_dest_ended(const struct wh_protect *p)
{
	return p->dest->engine.state == CP_DEST_FENCED || p->dest->running;
}

void protect_dest_status(const struct wh_protect *p, struct wh_protect_status *status,
			 uint64_t now_ns)
{
	const struct protect_dest *side = p->dest;
	const struct cp_dest *engine = &side->engine;

	status->generation = engine->generation;
	status->epoch = engine->complete;
	status->checkpoints = side->checkpoints;
	status->refused = side->refused;
	status->ack_age_ns = side->checkpoints ? now_ns - side->kept_at_ns : UINT64_MAX;
	status->heard_age_ns = engine->generation ? now_ns - engine->heard_ns : UINT64_MAX;
	status->dirty_bytes = side->dirty_bytes;
	status->wire_bytes = side->wire_bytes;
	status->bytes = side->bytes;
	status->degraded = engine->degraded;
}

/* ---- Making it, and what somebody decides ---- */

int protect_dest_new(struct wh_protect *p, struct wh_err *err)
{
	p->dest = calloc(1, sizeof(*p->dest));
	if (!p->dest)
		return err_set(err, -ENOMEM, "protection: no memory");
	p->dest->p = p;
	return 0;
}

int protect_dest_listen(struct wh_protect *p, const struct uri uri[LINK_COUNT], unsigned count,
			struct wh_err *err)
{
	int ret = begin(p->dest, err);

	return ret == 0 ? admit_listen(p->dest, uri, count, err) : ret;
}

void protect_dest_stop(struct wh_protect *p)
{
	admit_stop(p->dest);
}

void protect_dest_free(struct wh_protect *p)
{
	admit_free(p->dest);
	cp_store_free(p->dest->store);
	free(p->dest);
}

int protect_dest_takeover(struct wh_protect *p, const void *what, struct wh_err *err)
{
	const uint64_t *generation = what;
	struct cp_dest *engine = &p->dest->engine;

	return cp_dest_takeover(engine, *generation ? *generation : engine->generation + 1, err);
}

int protect_dest_abandon(struct wh_protect *p, const void *what, struct wh_err *err)
{
	(void)what;
	return cp_dest_abandon(&p->dest->engine, err);
}
