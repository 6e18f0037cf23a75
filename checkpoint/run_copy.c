/* SPDX-License-Identifier: MIT */
/*
 * Joining: the stage, the guest's writes, and the connection for contents. All of memory first,
 * in parts; then what was written, an epoch at a time.
 */
#include "checkpoint/run_source.h"

#include <errno.h>
#include <sys/random.h>

#define PART_BYTES (UINT64_C(8) << 20)	  /* of the first checkpoint, at once */
#define ENOUGH_BYTES (UINT64_C(16) << 20) /* left of it: a stop of a few milliseconds */
#define ROUNDS_MAX 16u			  /* then it is stopped with what there is, if that fits */
#define LOOK_NS (50 * NS_PER_MS)
#define AHEAD_BYTES (UINT64_C(16) << 20) /* so much is worth copying before the stop */
#define PREPARE_LOOKS 3u
#define PREPARED_NS NS_PER_MS

static int written_of_vmm(void *world, unsigned block, uint64_t *map, struct wh_err *err)
{
	struct protect_source *side = world;
	const struct region *region = &side->p->region[block];
	struct wh_block asked = {
		.name = region->name,
		.addr = region->addr,
		.length = region->length,
		.page_size = region->page_size,
		.fd = -1,
	};

	return side->p->cb.dirty_sync(side->p->config.opaque, &asked, map,
				      region->length / TARGET_PAGE, err);
}

int source_copy_new(struct protect_source *side, struct wh_err *err)
{
	const struct wh_protect_config *config = &side->p->config;
	struct cp_dirty dirty = { .written = written_of_vmm, .world = side };
	struct cp_stage_settings settings = {
		.generation = side->p->generation,
		.contents_max = config->contents_max,
		.device_max = config->device_max,
		.slab_cap = 2 * config->contents_max,
		.cache_bytes = config->pack & WH_PROTECT_XBZRLE ? config->contents_max / 4 : 0,
		.hash = config->pack & WH_PROTECT_UNCHANGED,
		.watch = source_slots_watch(side),
	};

	if (getrandom(&settings.seed, sizeof(settings.seed), 0) != sizeof(settings.seed))
		return err_sys(err, errno, "protection: random numbers");
	if (side->uri[LINK_CONTENTS].kind == URI_RDMA)
		settings.watch = pier_watch(side->p);
	cp_stage_free(side->stage); /* of a start that has failed */
	side->stage = NULL;
	cow_free(side->cow);
	side->cow = NULL;
	side->own_log = !side->p->cb.dirty_sync && !config->copy_on_write;
	if (side->own_log)
		dirty = cp_dirty_uffd(&side->log);
	if (config->copy_on_write) {
		side->cow = cow_new(side->p->region, side->p->blocks, err);
		if (!side->cow)
			return -EINVAL;
		settings.cow = side->cow;
		dirty = cow_dirty(side->cow);
	}
	side->stage = cp_stage_new(&settings, side->p->region, side->p->blocks, &dirty, err);
	return side->stage ? 0 : -ENOMEM;
}

static int log_start(struct protect_source *side, struct wh_err *err)
{
	struct wh_protect *p = side->p;
	int ret = 0;

	if (side->cow)
		ret = cow_open(side->cow, err);
	else if (side->own_log)
		ret = dirty_log_open(&side->log, p->region, p->blocks, err);
	else if (p->cb.dirty_start)
		ret = p->cb.dirty_start(p->config.opaque, err);
	side->logging = ret >= 0;
	return ret;
}

static void log_stop(struct protect_source *side)
{
	if (!side->logging)
		return;
	side->logging = false;
	if (side->cow)
		cow_close(side->cow);
	else if (side->own_log)
		dirty_log_close(&side->log);
	else if (side->p->cb.dirty_stop)
		side->p->cb.dirty_stop(side->p->config.opaque);
}

void source_copy_free(struct protect_source *side)
{
	log_stop(side);
	cp_stage_free(side->stage);
	cow_free(side->cow);
}

static void lost(struct protect_source *side, int ret, struct wh_err *why)
{
	(void)protect_said(why, ret);
	cp_source_lost(&side->engine, why, clock_now_ns());
}

void source_copy_sync(void *world, enum cp_parts parts)
{
	struct wh_protect *p = world;
	struct protect_source *side = p->source;

	side->syncing = parts != CP_PARTS_NONE;
	side->rounds = 0;
	if (parts == CP_PARTS_MORE)
		return;
	side->packed_epoch = 0;
	side->again = side->syncing;
	side->all = parts == CP_PARTS_ALL;
	/* the rest of one that is under way */
	if (side->sending == SENDING_PART)
		side->drained = true;
}

/* The next part is packed; or what is left is little enough for a stop */
static int sync_on(struct protect_source *side, struct wh_err *err)
{
	uint64_t most = side->p->config.contents_max, enough = most / 2;
	int64_t n = cp_stage_copy(side->stage, PART_BYTES, err);

	if (n > 0) {
		side->sending = SENDING_PART;
		side->drained = false;
		return cp_stage_pack(side->stage, side->engine.epoch, err);
	}
	if (n == 0)
		n = cp_stage_look(side->stage, err);
	if (n < 0)
		return (int)n;
	if (enough > ENOUGH_BYTES)
		enough = ENOUGH_BYTES;
	/* of the first it is an end if it does not fit; later it can go on for as long as it likes */
	if ((uint64_t)n * TARGET_PAGE <= enough ||
	    (++side->rounds >= ROUNDS_MAX &&
	     (side->engine.state == CP_SOURCE_SYNC || (uint64_t)n * TARGET_PAGE <= most))) {
		side->syncing = false;
		cp_source_synced(&side->engine, clock_now_ns());
	}
	return 0;
}

static void sync_turn(struct protect_source *side)
{
	struct wh_err err = { 0 };
	int ret = 0;

	if (!side->logging) {
		ret = log_start(side, &err);
		if (ret >= 0)
			cp_stage_begin(side->stage, side->engine.set.features);
	} else if (side->again) {
		cp_stage_again(side->stage, side->all);
	}
	side->again = false;
	if (ret >= 0)
		ret = sync_on(side, &err);
	if (ret < 0)
		lost(side, ret, &err);
}

/*
 * What is protected while the guest runs need not be in the stop. What it writes meanwhile is left,
 * so once more, while that takes long.
 */
void source_copy_prepare(struct protect_source *side)
{
	uint64_t begin_ns = clock_now_ns(), end_ns;
	struct wh_err err = { 0 };

	for (unsigned i = 0; side->cow && i < PREPARE_LOOKS; i++) {
		/* what fails here fails in the stop, where it counts */
		if (cp_stage_look(side->stage, &err) < 0)
			return;
		end_ns = clock_now_ns();
		if (end_ns - begin_ns < PREPARED_NS)
			return;
		begin_ns = end_ns;
	}
}

void source_copy_stage(struct protect_source *side)
{
	struct wh_protect *p = side->p;
	struct wh_err err = { 0 };
	void *device = NULL;
	size_t length = 0;
	int ret = 0;

	if (p->cb.device_save)
		ret = p->cb.device_save(p->config.opaque, &device, &length, &err);
	if (ret >= 0)
		ret = cp_stage_stop(side->stage, device, length, &err);
	if (ret < 0)
		(void)protect_said(&err, ret);
	else
		side->looked_ns = clock_now_ns();
	cp_source_staged(&side->engine, ret < 0 ? &err : NULL, clock_now_ns());
}

void source_copy_send(struct protect_source *side)
{
	uint64_t epoch = side->engine.epoch;
	struct wh_err err = { 0 };
	int ret = 0;

	if (side->packed_epoch == epoch)
		cp_stage_rewind(side->stage);
	else
		ret = cp_stage_pack(side->stage, epoch, &err);
	if (ret < 0) {
		lost(side, ret, &err);
		return;
	}
	side->packed_epoch = epoch;
	side->wire_bytes = 0;
	side->sending = SENDING_EPOCH;
	side->drained = false;
}

void source_copy_acked(struct protect_source *side)
{
	struct wh_err err = { 0 };

	cp_stage_acked(side->stage);
	side->dirty_bytes = cp_stage_last(side->stage)->pages * TARGET_PAGE;
	side->ahead = false;
	/* if there is no memory now the stop will have to look for it */
	if (cp_stage_ready(side->stage, &err) < 0)
		protect_log_peer(side->p, "room for the next checkpoint: %s", err.text);
	cp_stage_step(side->stage, clock_now_ns());
}

static void look(struct protect_source *side, bool ahead, uint64_t now_ns)
{
	const struct cp_source *engine = &side->engine;
	struct wh_err err = { 0 };
	int64_t n = cp_stage_look(side->stage, &err);

	side->looked_ns = now_ns;
	side->ahead |= ahead;
	if (n >= 0)
		cp_source_written(&side->engine, (uint64_t)n * TARGET_PAGE, now_ns);
	if (ahead && n >= 0 && engine->state == CP_SOURCE_RUN && !engine->full && !side->cow &&
	    (uint64_t)n * TARGET_PAGE > AHEAD_BYTES)
		n = cp_stage_copy(side->stage, side->p->config.contents_max / 4, &err);
	/* what cannot be had now is tried again in the stop, where it counts */
	if (n < 0)
		protect_log_peer(side->p, "what was written: %s", err.text);
}

/*
 * A guest that is checkpointed often is not looked at in between. Of one that runs on, since the
 * last one is slow to be acknowledged or its pace is so, it is seen in time that it writes more
 * than there is room for.
 */
uint64_t source_copy_watch(struct protect_source *side, uint64_t now_ns)
{
	const struct cp_source *engine = &side->engine;
	uint64_t due_ns = side->looked_ns + LOOK_NS;
	bool ahead = engine->state == CP_SOURCE_RUN && !side->ahead && !side->acked_due;
	uint64_t ahead_ns = engine->stop_due_ns - engine->pace.interval_ns / 4;

	if ((engine->state != CP_SOURCE_RUN && engine->state != CP_SOURCE_SEND &&
	     engine->state != CP_SOURCE_WAIT_ACK) ||
	    engine->epoch == 1 || engine->full)
		return UINT64_MAX;
	ahead &= now_ns >= ahead_ns;
	if (ahead || now_ns >= due_ns) {
		look(side, ahead, now_ns);
		return now_ns + LOOK_NS;
	}
	if (engine->state == CP_SOURCE_RUN && !side->ahead && ahead_ns < due_ns)
		return ahead_ns;
	return due_ns;
}

unsigned source_pieces(struct wh_protect *p, struct iovec *piece, unsigned room)
{
	struct protect_source *side = p->source;
	unsigned have = 0;

	if (side->sending == SENDING_NOTHING || side->drained)
		return 0;
	for (unsigned i = 0; i < SOURCE_OUTS && room - have >= CP_OUT_PIECES; i++) {
		struct cp_out *out = &side->out[i];

		if (!cp_stage_next(side->stage, out)) {
			side->drained = true;
			break;
		}
		for (unsigned j = 0; j < out->count; j++)
			piece[have++] = out->iov[j];
		side->wire_bytes += out->bytes;
		side->bytes += out->bytes;
	}
	/* nothing is under way whose end would bring the next turn */
	if (!have)
		loop_wake(p->loop);
	return have;
}

bool source_copy_turn(struct protect_source *side)
{
	const struct protect_link *link = &side->p->link[LINK_CONTENTS];
	enum source_sending sent = side->sending;
	struct cp_msg totals;

	if (cp_source_ended(side->engine.state) || side->engine.state == CP_SOURCE_HOLD) {
		side->sending = SENDING_NOTHING;
		side->syncing = false;
		log_stop(side);
		return false;
	}
	if (sent != SENDING_NOTHING && side->drained && !link_sending(link) && link_up(link)) {
		side->sending = SENDING_NOTHING;
		if (sent == SENDING_PART) {
			cp_stage_forget(side->stage);
		} else {
			cp_stage_totals(side->stage, &totals);
			cp_source_sent(&side->engine, &totals, clock_now_ns());
		}
	}
	if (side->syncing && side->sending == SENDING_NOTHING)
		sync_turn(side);
	return side->syncing && side->sending == SENDING_NOTHING;
}
