/* SPDX-License-Identifier: MIT */
/*
 * Joining: the source. Its two connections, the guest, and the engine's turn.
 */
#include "checkpoint/generation.h"
#include "checkpoint/run_source.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

#define IN_BYTES 4096u /* the destination has small things to say */
#define RETRY_NS (10 * NS_PER_MS)

static const enum wh_protect_state state_of[] = {
	[CP_SOURCE_IDLE] = WH_PROTECT_SETUP,	    [CP_SOURCE_SYNC] = WH_PROTECT_SYNC,
	[CP_SOURCE_ARMED] = WH_PROTECT_ARMED,	    [CP_SOURCE_RUN] = WH_PROTECT_RUN,
	[CP_SOURCE_STOP] = WH_PROTECT_STOP,	    [CP_SOURCE_STAGE] = WH_PROTECT_STAGE,
	[CP_SOURCE_SEND] = WH_PROTECT_SEND,	    [CP_SOURCE_WAIT_ACK] = WH_PROTECT_WAIT_ACK,
	[CP_SOURCE_DEGRADED] = WH_PROTECT_DEGRADED, [CP_SOURCE_LEAVING] = WH_PROTECT_LEAVING,
	[CP_SOURCE_HOLD] = WH_PROTECT_HOLD,	    [CP_SOURCE_FENCED] = WH_PROTECT_FENCED,
	[CP_SOURCE_RELEASED] = WH_PROTECT_RELEASED,
};
_Static_assert(sizeof(state_of) / sizeof(state_of[0]) == CP_SOURCE_STATE_COUNT, "one for each");

/* ---- What the engine asks for ---- */

static int on_say(void *world, struct cp_header *header, const struct cp_msg *msg,
		  struct wh_err *err)
{
	struct wh_protect *p = world;

	return link_say(&p->link[header->kind == CP_HEARTBEAT ? LINK_PULSE : LINK_CONTENTS], header,
			msg, err);
}

static void on_stop(void *world)
{
	struct wh_protect *p = world;

	p->source->stop_due = true;
	p->source->resume_due = false;
}

static void on_stage(void *world, uint64_t epoch)
{
	struct wh_protect *p = world;

	(void)epoch;
	p->source->stage_due = true;
}

static void resume(struct protect_source *side)
{
	struct wh_protect *p = side->p;
	struct wh_err err = { 0 };
	uint64_t begin_ns = clock_now_ns();
	int ret;

	ret = p->cb.resume(p->config.opaque, &err);
	side->resume_due = ret < 0;
	side->resume_ns = clock_now_ns() - begin_ns;
	side->retry_ns = begin_ns + RETRY_NS;
	if (side->resume_due)
		protect_log_peer(p, "the guest does not go on: %s", protect_said(&err, ret));
}

/* At once: a millisecond here is one for which the guest stands still */
static void on_resume(void *world)
{
	struct wh_protect *p = world;

	resume(p->source);
}

static void on_send(void *world, uint64_t epoch)
{
	struct wh_protect *p = world;

	(void)epoch;
	p->source->send_due = true;
}

static void on_moved(void *world, enum cp_source_state from, enum cp_source_state to)
{
	struct wh_protect *p = world;
	struct protect_source *side = p->source;
	bool lost = to == CP_SOURCE_DEGRADED || to == CP_SOURCE_HOLD || to == CP_SOURCE_FENCED ||
		    (to == CP_SOURCE_RELEASED && from != CP_SOURCE_LEAVING);

	if (from == CP_SOURCE_WAIT_ACK && to == CP_SOURCE_RUN) {
		side->acked_due = true;
		/* that it was degraded is over */
		p->why = (struct wh_err){ 0 };
	}
	if (to == CP_SOURCE_HOLD)
		side->dial_again_ns = 0;
	side->linger_ns = clock_now_ns() + p->config.lease_ns;
	protect_moved(p, state_of[to], side->engine.epoch, side->engine.set.generation,
		      lost ? &side->engine.why : NULL);
}

static const struct cp_source_ops ops = {
	.say = on_say,
	.hold = source_hold,
	.turn = source_turn_epoch,
	.release = source_release,
	.fence = source_fence,
	.open = source_open,
	.sync = source_copy_sync,
	.stop = on_stop,
	.stage = on_stage,
	.resume = on_resume,
	.send = on_send,
	.moved = on_moved,
};

/* ---- Connecting ---- */

static struct source_dial *dial_of(struct dial *dial)
{
	return (struct source_dial *)(void *)((char *)dial - offsetof(struct source_dial, dial));
}

static void drop_dialled(struct source_dial *dial)
{
	if (dial->pier)
		pier_close(dial->pier);
	else if (dial->fd >= 0)
		close(dial->fd);
	dial->pier = NULL;
	dial->fd = -1;
}

static void give_up(struct protect_source *side, const struct wh_err *why)
{
	side->given_up = true;
	for (unsigned i = 0; i < LINK_COUNT; i++) {
		dial_cancel(&side->dial[i].dial);
		if (side->dial[i].pier)
			drop_dialled(&side->dial[i]);
	}
	protect_moved(side->p, WH_PROTECT_RELEASED, 0, side->p->generation, why);
}

static void dialled(struct dial *dial, int fd, struct wh_err *err)
{
	struct source_dial *done = dial_of(dial);
	struct protect_source *side = done->p->source;

	if (fd >= 0)
		done->fd = fd;
	else if (side->p->state == WH_PROTECT_SETUP && !protect_stops(side->p))
		give_up(side, err);
}

static void called(struct pier *pier, struct wh_err *err)
{
	struct source_dial *done = pier->owner;

	if (err)
		drop_dialled(done);
	dialled(&done->dial, err ? -1 : pier_fd(pier), err);
}

static int begin_dial(struct protect_source *side, unsigned which, struct wh_err *err)
{
	const struct wh_protect_config *config = &side->p->config;
	const struct socket_tuning tuning = {
		.dead_peer_ns = config->answer_ns,
		.tls = side->p->tls,
	};
	struct source_dial *dial = &side->dial[which];
	struct wh_err why = { 0 };

	dial->dial = (struct dial){ .done = dialled };
	if (side->uri[which].kind == URI_RDMA) {
		drop_dialled(dial); /* of a start that has failed */
		dial->pier = pier_dial(side->p, &side->uri[which], config->connect_timeout_ns,
				       called, dial, &why);
		if (!dial->pier && err)
			*err = why;
		return dial->pier ? 0 : why.code;
	}
	return dial_start(&dial->dial, side->p->loop, &side->uri[which], config->connect_timeout_ns,
			  &tuning, err);
}

static int open_link(struct protect_source *side, unsigned which, struct wh_err *err)
{
	struct source_dial *dial = &side->dial[which];
	int ret = link_open(&side->p->link[which], side->p, dial->fd, dial->pier, IN_BYTES, "", 0,
			    err);

	if (ret < 0)
		drop_dialled(dial);
	dial->pier = NULL;
	dial->fd = -1;
	return ret;
}

/* What tells the second connection from the first: it begins with this */
static int say_pulse(struct protect_source *side, struct wh_err *err)
{
	static const struct cp_msg nothing;
	struct cp_header header = {
		.kind = CP_HEARTBEAT,
		.generation = side->p->generation,
		.epoch = side->engine.epoch - 1,
	};

	return link_say(&side->p->link[LINK_PULSE], &header, &nothing, err);
}

static void connected(struct protect_source *side)
{
	struct wh_err err = { 0 };
	int ret = open_link(side, LINK_CONTENTS, &err);

	if (ret == 0)
		ret = open_link(side, LINK_PULSE, &err);
	if (ret == 0)
		ret = say_pulse(side, &err);
	if (ret < 0) {
		give_up(side, &err);
		return;
	}
	source_slots_begin(side, side->p->link[LINK_CONTENTS].fd);
	cp_source_start(&side->engine, clock_now_ns());
}

/*
 * In HOLD, since the other side may run the guest and the only one who knows is the other side:
 * it is asked again and again, on the second connection, and what it may answer is
 * TAKEOVER_NOTICE.
 */
static uint64_t ask_again(struct protect_source *side, uint64_t now_ns)
{
	struct source_dial *pulse = &side->dial[LINK_PULSE];
	struct protect_link *link = &side->p->link[LINK_PULSE];

	if (side->engine.state != CP_SOURCE_HOLD || side->uri[LINK_PULSE].kind == URI_FD)
		return UINT64_MAX;
	if (pulse->fd >= 0 && link->fd < 0 && open_link(side, LINK_PULSE, NULL) == 0)
		(void)say_pulse(side, NULL);
	if (link->fd >= 0 || pulse->pier || dial_busy(&pulse->dial))
		return UINT64_MAX;
	if (now_ns >= side->dial_again_ns) {
		side->dial_again_ns = now_ns + side->p->config.lease_ns;
		(void)begin_dial(side, LINK_PULSE, NULL);
	}
	return side->dial_again_ns;
}

/* ---- The turn ---- */

static void stop_guest(struct protect_source *side)
{
	struct wh_protect *p = side->p;
	struct wh_err err = { 0 };
	uint64_t begin_ns;
	int ret;

	source_copy_prepare(side);
	begin_ns = clock_now_ns();
	ret = p->cb.pause(p->config.opaque, &err);
	if (ret < 0) {
		protect_log_peer(p, "the guest does not stand still: %s", protect_said(&err, ret));
		side->retry_ns = begin_ns + RETRY_NS;
		return;
	}
	side->stop_due = false;
	side->pause_ns = clock_now_ns() - begin_ns;
	cp_source_stopped(&side->engine, clock_now_ns());
}

static void count_stop(struct protect_source *side)
{
	if (side->engine.state != CP_SOURCE_SEND)
		return;
	side->stop_ns = side->pause_ns + side->engine.figures.stop_ns + side->resume_ns;
	side->stop_sum_ns += side->stop_ns;
	if (side->stop_ns > side->stop_max_ns)
		side->stop_max_ns = side->stop_ns;
}

/* In the order in which they matter: first what the guest waits for */
static void work(struct protect_source *side)
{
	uint64_t now_ns = clock_now_ns();

	if (side->resume_due && now_ns >= side->retry_ns)
		resume(side);
	if (side->acked_due) {
		side->acked_due = false;
		source_copy_acked(side);
	}
	if (side->stop_due && now_ns >= side->retry_ns)
		stop_guest(side);
	if (side->stage_due) {
		side->stage_due = false;
		source_copy_stage(side);
		count_stop(side);
	}
	if (side->send_due) {
		side->send_due = false;
		if (side->engine.state == CP_SOURCE_SEND)
			source_copy_send(side);
	}
}

/* Return: when to look again: somebody who takes nothing is not waited for for ever */
static uint64_t look_at_links(struct protect_source *side, uint64_t now_ns)
{
	struct protect_link *link = side->p->link;
	uint64_t next = UINT64_MAX;
	struct wh_err why;
	bool over[LINK_COUNT];

	for (unsigned i = 0; i < LINK_COUNT; i++)
		if (link_lost(&link[i], &why))
			cp_source_lost(&side->engine, &why, clock_now_ns());
	/* of one that is lost nothing is read, but whether the other side runs */
	over[LINK_PULSE] = cp_source_ended(side->engine.state);
	over[LINK_CONTENTS] = over[LINK_PULSE] || side->engine.state == CP_SOURCE_HOLD;
	for (unsigned i = 0; i < LINK_COUNT; i++) {
		if (!over[i] || link[i].fd < 0)
			continue;
		if (link_flushed(&link[i]) || now_ns >= side->linger_ns)
			link_close(&link[i]);
		else
			next = side->linger_ns;
	}
	return next;
}

uint64_t protect_source_turn(struct wh_protect *p, uint64_t now_ns)
{
	struct protect_source *side = p->source;
	uint64_t next, then;

	if (side->given_up)
		return UINT64_MAX;
	if (side->engine.state == CP_SOURCE_IDLE && side->dial[LINK_CONTENTS].fd >= 0 &&
	    side->dial[LINK_PULSE].fd >= 0)
		connected(side);
	next = look_at_links(side, now_ns);
	then = source_plug_turn(side, now_ns);
	next = then < next ? then : next;
	then = ask_again(side, now_ns);
	next = then < next ? then : next;
	then = source_copy_watch(side, now_ns);
	next = then < next ? then : next;
	then = cp_source_step(&side->engine, clock_now_ns());
	next = then < next ? then : next;
	work(side);
	if (source_copy_turn(side) || side->stage_due || side->send_due || side->acked_due ||
	    p->link[LINK_CONTENTS].broken || p->link[LINK_PULSE].broken)
		return 0;
	if ((side->stop_due || side->resume_due) && side->retry_ns < next)
		return side->retry_ns;
	return next;
}

int protect_source_heard(struct protect_link *link, const struct cp_header *header,
			 const uint8_t *bytes, struct wh_err *err)
{
	struct protect_source *side = link->p->source;
	struct cp_msg msg;
	int ret = cp_get(header, bytes + CP_HEADER, &msg, err);

	if (ret == 0)
		ret = cp_source_message(&side->engine, header, &msg, clock_now_ns(), err);
	return ret;
}

bool protect_source_ended(const struct wh_protect *p)
{
	const struct protect_source *side = p->source;
	const struct cp_source *engine = &side->engine;

	if (side->given_up)
		return true;
	return !engine->fence_due && !engine->open_due && !side->stop_due && !side->resume_due &&
	       engine->guest ==
		       (engine->state == CP_SOURCE_FENCED ? CP_GUEST_STANDS : CP_GUEST_RUNS);
}

void protect_source_status(const struct wh_protect *p, struct wh_protect_status *status,
			   uint64_t now_ns)
{
	const struct protect_source *side = p->source;
	const struct cp_source *engine = &side->engine;

	status->generation = p->generation;
	status->epoch = engine->epoch;
	status->checkpoints = engine->figures.checkpoints;
	status->refused = engine->figures.refused;
	status->interval_ns = engine->pace.interval_ns;
	status->stop_ns = side->stop_ns;
	status->stop_max_ns = side->stop_max_ns;
	status->stop_sum_ns = side->stop_sum_ns;
	status->ack_ns = engine->figures.ack_ns;
	status->ack_age_ns =
		engine->figures.checkpoints ? now_ns - engine->figures.acked_at_ns : UINT64_MAX;
	status->heard_age_ns = engine->heard_ns ? now_ns - engine->heard_ns : UINT64_MAX;
	status->dirty_bytes = side->dirty_bytes;
	status->wire_bytes = side->wire_bytes;
	status->bytes = side->bytes;
	status->held_packets = side->held.held_packets;
	status->held_bytes = side->held.held_bytes;
	status->held_age_ns = engine->waits ? now_ns - engine->since_ns : UINT64_MAX;
	status->dropped = side->held.dropped;
	status->stalled = cp_source_stalls(engine);
	status->degraded = engine->degraded;
}

/* ---- Making it, and what somebody decides ---- */

int protect_source_new(struct wh_protect *p, struct wh_err *err)
{
	p->source = calloc(1, sizeof(*p->source));
	if (!p->source)
		return err_set(err, -ENOMEM, "protection: no memory");
	p->source->p = p;
	for (unsigned i = 0; i < LINK_COUNT; i++) {
		p->source->dial[i].p = p;
		p->source->dial[i].fd = -1;
	}
	return 0;
}

int protect_source_connect(struct wh_protect *p, const struct uri uri[LINK_COUNT],
			   struct wh_err *err)
{
	(void)err;
	for (unsigned i = 0; i < LINK_COUNT; i++)
		p->source->uri[i] = uri[i];
	return 0;
}

static uint32_t features(unsigned pack)
{
	return (pack & WH_PROTECT_ZERO ? CP_FEATURE(CP_ZERO) : 0) |
	       (pack & WH_PROTECT_XBZRLE ? CP_FEATURE(CP_XBZRLE) : 0) |
	       (pack & WH_PROTECT_ZSTD ? CP_FEATURE(CP_ZSTD) : 0);
}

static void pace_of(struct cp_pace_settings *to, const struct wh_protect_pace *from)
{
	*to = (struct cp_pace_settings){
		.min_ns = from->min_ns,
		.max_ns = from->max_ns,
		.stop_ns = from->stop_ns,
		.duty_percent = from->duty_percent,
		.hold_ns = from->hold_ns,
	};
}

int protect_source_start(struct wh_protect *p, struct wh_err *err)
{
	struct protect_source *side = p->source;
	struct cp_source_settings settings = {
		.generation = p->generation + 1,
		.heartbeat_ns = p->config.heartbeat_ns,
		.lease_ns = p->config.lease_ns,
		.answer_ns = p->config.answer_ns,
		.contents_max = p->config.contents_max,
		.device_max = p->config.device_max,
		.held_max = p->config.held_max,
		.held_told = p->config.plug != NULL,
		.full_stalls = p->config.full == WH_PROTECT_FULL_STALL,
		.features = features(p->config.pack),
	};
	int ret;

	if (p->generation >= UINT64_MAX - 1)
		return err_set(err, -EOVERFLOW, "start: there is no generation above %llu",
			       (unsigned long long)p->generation);
	ret = generation_write(p->generation_file, p->generation + 1, err);
	if (ret < 0)
		return ret;
	p->generation++;
	ret = source_copy_new(side, err);
	if (ret < 0)
		return ret;
	pace_of(&settings.pace, &p->config.pace);
	cp_source_init(&side->engine, &ops, p, &settings, p->block, p->blocks);
	for (unsigned i = 0; ret == 0 && i < LINK_COUNT; i++)
		ret = begin_dial(side, i, err);
	return ret;
}

void protect_source_free(struct wh_protect *p)
{
	for (unsigned i = 0; i < LINK_COUNT; i++)
		if (p->source->dial[i].fd >= 0 && !p->source->dial[i].pier)
			close(p->source->dial[i].fd);
	source_copy_free(p->source);
	free(p->source);
}

int protect_source_leave(struct wh_protect *p, const void *what, struct wh_err *err)
{
	struct protect_source *side = p->source;

	(void)what;
	if (side->given_up)
		return 0;
	if (side->engine.state == CP_SOURCE_IDLE) {
		give_up(side, NULL);
		return 0;
	}
	return cp_source_leave(&side->engine, clock_now_ns(), err);
}

int protect_source_release(struct wh_protect *p, const void *what, struct wh_err *err)
{
	(void)what;
	return cp_source_release(&p->source->engine, err);
}

int protect_source_fence(struct wh_protect *p, const void *what, struct wh_err *err)
{
	(void)what;
	return cp_source_fence(&p->source->engine, err);
}

int protect_source_pace(struct wh_protect *p, const void *what, struct wh_err *err)
{
	struct cp_pace_settings pace;

	(void)err;
	pace_of(&pace, what);
	cp_source_pace(&p->source->engine, &pace);
	return 0;
}
