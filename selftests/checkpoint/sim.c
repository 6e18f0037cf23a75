/* SPDX-License-Identifier: MIT */
/*
 * Both engines in one process, with a guest, a gate, links and a manager that a seed plays:
 * everything late, broken, refused or dead at any moment.
 *
 * Looked at after every step:
 *	what was seen outside is a beginning of what the guest has said, without a gap, and,
 *	while the destination can still be told to run, of what the guest there would have said;
 *	what is complete at the destination is the guest's memory as it was copied, and so is that
 *	of a guest that runs there; from then on nothing of the source's is seen any more;
 *	the gate never holds more than two epochs;
 *	nobody gives the other up who is there, however long there is no checkpoint.
 * At the end the guest is seen in one place, or held in one, or everything is dead.
 *
 *	sim [--from N] [--count N]	so many seeds, 20000
 *	sim --seed N			one, told step by step
 */
#include "selftests/checkpoint/sim_ends.h"

/* ---- What happens -------------------------------------------------------------- */

static void lose_source(const struct wh_err *err)
{
	sim.source_closed = true;
	sim.faulty = true;
	if (!sim.source_dead)
		cp_source_lost(&sim.source, err, sim.now_ns);
}

static void lose_dest(const struct wh_err *err)
{
	sim.dest_closed = true;
	sim.faulty = true;
	if (!sim.dest_dead)
		cp_dest_lost(&sim.dest, err, sim.now_ns);
}

/* A bit of a message of an epoch is another: nothing of it may be believed */
static void flip(struct packet *packet)
{
	unsigned kind = packet->bytes[5];
	size_t bit;

	if (!chance(sim.flips) || kind < CP_BEGIN || kind == CP_NACK)
		return;
	bit = draw() % (packet->length * 8);
	packet->bytes[bit / 8] ^= (uint8_t)(1u << bit % 8);
	tally.flipped++;
	sim.flipped = true;
	tell("a bit of %s is flipped", cp_name((enum cp_kind)kind));
}

static void deliver(unsigned which)
{
	struct pipe *pipe = &sim.pipes[which];
	bool to_dest = which == TO_DEST || which == BEAT_TO_DEST;
	struct wh_err err = { 0 };
	struct cp_header header;
	struct packet *packet;
	struct cp_msg msg;
	int ret;

	if (!pipe->count)
		return;
	packet = &pipe->packets[pipe->first];
	pipe->first = (pipe->first + 1) % QUEUE;
	pipe->count--;
	if (to_dest ? sim.dest_dead || sim.dest_closed : sim.source_dead || sim.source_closed)
		return;
	flip(packet);
	ret = cp_header_get(packet->bytes, to_dest ? CP_FROM_SOURCE : CP_FROM_DEST, &header, &err);
	if (!ret && to_dest) {
		ret = cp_dest_expects(&sim.dest, &header, &err);
		if (!ret && header.kind == CP_DEVICE)
			sim.coming.said = get_be64(packet->bytes + CP_HEADER);
		if (ret >= 0 && header.kind == CP_PAGES && !ret)
			dest_contents(packet->bytes + CP_HEADER);
		if (ret >= 0)
			ret = cp_dest_message(&sim.dest, &header, packet->bytes, sim.now_ns, &err);
	} else if (!ret) {
		ret = cp_get(&header, packet->bytes + CP_HEADER, &msg, &err);
		if (!ret)
			ret = cp_source_message(&sim.source, &header, &msg, sim.now_ns, &err);
	}
	if (ret >= 0)
		return;
	tell("%s gives up: %s", to_dest ? "dest" : "source", err.text);
	/* behind a decision something of before may still be on its way */
	if (!sim.flipped && ret != -ESTALE &&
	    !(to_dest ? cp_dest_ended(sim.dest.state) : cp_source_ended(sim.source.state)))
		wrong("a message is not understood: %s", err.text);
	if (to_dest)
		lose_dest(&err);
	else
		lose_source(&err);
}

/* It could not be copied, since it is too much or for another reason: all of it is to be still */
static void stage_ends(void)
{
	struct wh_err err = { 0 };

	if (chance(sim.too_much) && (sim.source.committed || !sim.quiet)) {
		fails(&err, "room for all of it");
		err.code = -ENOSPC;
	} else if (chance(sim.gate_fails / 4)) {
		fails(&err, "copying");
	}
	for (unsigned i = 0; err.code && i < PAGES; i++)
		sim.dirty[i] |= sim.staged_dirty[i];
	cp_source_staged(&sim.source, err.code ? &err : NULL, sim.now_ns);
}

static void finish_source(void)
{
	bool *due[] = { &sim.synced_due, &sim.stopped_due, &sim.staged_due, &sim.sent_due };
	unsigned which = draw() % 5;

	if (which == 4 && sim.syncing && !sim.source_dead)
		send_parts();
	if (sim.source_dead || which == 4 || !*due[which])
		return;
	*due[which] = false;
	switch (which) {
	case 0:
		cp_source_synced(&sim.source, sim.now_ns);
		break;
	case 1:
		cp_source_stopped(&sim.source, sim.now_ns);
		break;
	case 2:
		stage_ends();
		break;
	default:
		cp_source_sent(&sim.source, &sim.totals, sim.now_ns);
		break;
	}
}

static void finish_dest(void)
{
	struct wh_err err = { 0 };

	if (sim.dest_dead)
		return;
	if (sim.applied_due && chance(sim.slow ? 40 : 500)) {
		sim.applied_due = false;
		sim.ram = sim.kept;
		cp_dest_applied(&sim.dest, sim.now_ns);
	} else if (sim.verified_due) {
		sim.verified_due = false;
		if (sim.applied_due)
			wrong("unpacked while the last one is being put in place");
		if (chance(sim.refuses))
			fails(&err, "unpacking");
		cp_dest_verified(&sim.dest, err.code ? &err : NULL, sim.now_ns);
	}
}

static void go_wrong(void)
{
	if (chance(sim.cut_rate)) {
		unsigned which = draw() % PIPES;

		tell("pipe %u is cut", which);
		sim.faulty = true;
		sim.pipes[which].cut = true;
		/* seen by both, by one, by nobody */
		if (chance(300))
			lose_source(NULL);
		if (chance(300))
			lose_dest(NULL);
	}
	if (chance(sim.kill_rate) && !sim.dest_dead) {
		sim.faulty = true;
		if (chance(500)) {
			tell("the source dies");
			/* with the gate as it is: what is held stays held */
			sim.source_dead = true;
		} else if (sim.dest.state != CP_DEST_TAKEOVER) {
			tell("the destination dies");
			sim.dest_dead = true;
		}
		tally.dead++;
	}
}

/*
 * Somebody who decides: either the destination is told first, and heard of, and then the
 * source, or the other way round. Never both on the strength of silence.
 */
static void decide(void)
{
	struct wh_err err = { 0 };

	sim.faulty = true;
	if (sim.source.state == CP_SOURCE_HOLD && !sim.source_dead &&
	    (sim.dest_dead || sim.dest.state == CP_DEST_FENCED ||
	     (chance(300) && !cp_dest_abandon(&sim.dest, &err)))) {
		if (!cp_source_release(&sim.source, &err))
			tally.released++;
		return;
	}
	if (sim.dest_dead)
		return;
	if (sim.dest.state != CP_DEST_SYNC && chance(sim.dest.state == CP_DEST_SUSPECT ? 500 : 10))
		(void)cp_dest_takeover(&sim.dest, sim.dest.generation + 1, &err);
	if ((sim.dest.state == CP_DEST_TAKEOVER || sim.dest.state == CP_DEST_APPLYING) &&
	    !sim.source_dead && !cp_source_fence(&sim.source, &err))
		tally.fenced++;
}

static void look(void)
{
	const struct cp_dest *dest = &sim.dest;

	/* as long as it may be told to run, nothing may be outside that it does not know */
	if (!sim.dest_dead && dest->state != CP_DEST_FENCED && dest->complete &&
	    sim.outside > sim.at_copy[dest->complete].said)
		wrong("packet %llu is outside, epoch %llu ends with %llu",
		      (unsigned long long)sim.outside, (unsigned long long)dest->complete,
		      (unsigned long long)sim.at_copy[dest->complete].said);
	if (dest->state == CP_DEST_TAKEOVER && sim.outside > sim.survivor_said)
		wrong("both are seen");
}

static void begin_seed(uint64_t seed, bool trace)
{
	static const struct cp_block block = {
		.length = PAGES * PAGE,
		.page_size = PAGE,
		.name = { .length = 3, .text = "ram" },
	};
	struct cp_source_settings source = {
		.generation = 7,
		.heartbeat_ns = 10 * MS,
		.lease_ns = 200 * MS,
		.answer_ns = 400 * MS,
		.contents_max = 64 * PAGE,
		.device_max = 64,
		.held_max = 40,
		.features = CP_FEATURES,
		.pace = { .min_ns = 5 * MS,
			  .max_ns = 50 * MS,
			  .stop_ns = 5 * MS,
			  .duty_percent = 50,
			  .hold_ns = 60 * MS },
	};
	struct cp_dest_settings dest = {
		.generation = 6,
		.contents_max = 64 * PAGE,
		.device_max = 64,
		.features = CP_FEATURES,
	};

	memset(&sim, 0, sizeof(sim));
	sim.trace = trace;
	sim.rng = seed * UINT64_C(0x9e3779b97f4a7c15) + 1;
	for (unsigned i = 0; i < 8; i++)
		draw();
	sim.slow = chance(200);
	sim.quiet = chance(150);
	sim.too_much = chance(400) ? 100 : 0;
	source.full_stalls = chance(500);
	source.held_told = chance(500);
	if (!sim.quiet) {
		sim.cut_rate = chance(500) ? 2 : 0;
		sim.kill_rate = chance(300) ? 1 : 0;
		sim.gate_fails = chance(300) ? 100 : 0;
		sim.refuses = chance(200) ? 30 : 0;
		sim.flips = chance(200) ? 10 : 0;
		sim.decide_rate = chance(700) ? 20 : 0;
		sim.leave_rate = chance(200) ? 2 : 0;
		dest.authority = chance(400) ? CP_ON_OUR_OWN : CP_ASK;
	}
	for (unsigned i = 0; i < PAGES; i++)
		sim.guest.memory[i] = i & 1 ? draw() : 0;
	cp_source_init(&sim.source, &source_ops, NULL, &source, &block, 1);
	cp_dest_init(&sim.dest, &dest_ops, NULL, &dest, 0);
	cp_source_start(&sim.source, 0);
}

static void one_step(void)
{
	switch (draw() % 8) {
	case 0:
	case 1:
		guest_step();
		break;
	case 2:
	case 3:
		deliver(draw() % PIPES);
		break;
	case 4:
		finish_source();
		break;
	case 5:
		finish_dest();
		break;
	case 6:
		sim.now_ns += draw() % (2 * MS);
		if (!sim.source_dead)
			cp_source_step(&sim.source, sim.now_ns);
		if (!sim.dest_dead)
			cp_dest_step(&sim.dest, sim.now_ns);
		break;
	default:
		tell_held();
		go_wrong();
		if (chance(sim.decide_rate))
			decide();
		if (chance(sim.too_much) && !sim.source_dead)
			cp_source_written(&sim.source, (chance(300) ? 65 : 50) * PAGE, sim.now_ns);
		if (chance(sim.leave_rate) && !sim.source_dead)
			(void)cp_source_leave(&sim.source, sim.now_ns, NULL);
		break;
	}
	look();
}

/* Whatever was refused or late comes to its end now */
static void settle(void)
{
	sim.cut_rate = sim.kill_rate = sim.gate_fails = sim.refuses = sim.flips = 0;
	sim.too_much = 0;
	for (unsigned i = 0; i < 60000 && !sim.failed; i++) {
		if (i == 20000 && sim.quiet)
			cp_source_leave(&sim.source, sim.now_ns, NULL);
		one_step();
		if (cp_source_ended(sim.source.state) && cp_dest_ended(sim.dest.state) && i > 20000)
			break;
	}
}

static void judge(void)
{
	enum cp_source_state source = sim.source.state;
	enum cp_dest_state dest = sim.dest.state;
	bool runs_there = dest == CP_DEST_TAKEOVER && !sim.dest_dead;

	if (sim.quiet) {
		if (source != CP_SOURCE_RELEASED || dest != CP_DEST_FENCED ||
		    sim.outside != sim.guest.said || sim.source.figures.checkpoints < 3)
			wrong("ends in %s, %s, %llu of %llu packets seen, %llu checkpoints",
			      cp_source_state_name(source), cp_dest_state_name(dest),
			      (unsigned long long)sim.outside, (unsigned long long)sim.guest.said,
			      (unsigned long long)sim.source.figures.checkpoints);
		tally.left++;
	}
	if (!sim.source_dead && source == CP_SOURCE_RELEASED && runs_there)
		wrong("runs at both ends");
	if (!sim.source_dead && (sim.source.open_due || sim.source.fence_due))
		wrong("the gate was never opened or fenced");
	if (!sim.source_dead && !cp_source_stalls(&sim.source) && source != CP_SOURCE_FENCED &&
	    source != CP_SOURCE_STAGE && sim.source.guest == CP_GUEST_STANDS)
		wrong("the guest stands still in %s", cp_source_state_name(source));
	if (!sim.source_dead && source >= CP_SOURCE_RUN && source <= CP_SOURCE_LEAVING &&
	    sim.now_ns - sim.source.figures.acked_at_ns > 2000 * MS)
		wrong("no checkpoint for long, in %s", cp_source_state_name(source));
	/* nobody who could say so, and yet nobody waits for a decision */
	if (!sim.source_dead && !sim.dest_dead && source == CP_SOURCE_FENCED && !runs_there &&
	    dest != CP_DEST_APPLYING)
		wrong("fenced, and the guest is in %s", cp_dest_state_name(dest));
	if (sim.dest.set.authority == CP_ON_OUR_OWN && runs_there && !sim.decide_rate)
		tally.on_own++;
	tally.checkpoints += sim.source.figures.checkpoints;
	tally.again += sim.source.figures.refused;
}

static bool try_seed(uint64_t seed, bool trace)
{
	begin_seed(seed, trace);
	for (sim.steps = 0; sim.steps < 4000 && !sim.failed; sim.steps++)
		one_step();
	if (!sim.failed)
		settle();
	if (!sim.failed)
		judge();
	return !sim.failed;
}

int main(int argc, char **argv)
{
	uint64_t first = 1, count = 2000, bad = 0;
	bool all;

	for (int i = 1; i + 1 < argc; i += 2) {
		uint64_t value = strtoull(argv[i + 1], NULL, 0);

		if (!strcmp(argv[i], "--from"))
			first = value;
		else if (!strcmp(argv[i], "--count"))
			count = value;
		else if (!strcmp(argv[i], "--seed"))
			return printf("1..1\n%s 1 seed %s %s\n",
				      try_seed(value, true) ? "ok" : "not ok", argv[i + 1],
				      sim.why),
			       sim.failed;
	}
	printf("TAP version 13\n1..2\n");
	for (uint64_t seed = first; seed < first + count && bad < 10; seed++) {
		if (try_seed(seed, false))
			continue;
		bad++;
		printf("# again: build/selftests/checkpoint/sim --seed %llu: %s\n",
		       (unsigned long long)seed, sim.why);
	}
	printf("%s 1 %llu seeds\n", bad ? "not ok" : "ok", (unsigned long long)count);
	printf("# %llu checkpoints, %llu refused or again, %llu times held, %llu took over (%llu on "
	       "their own), %llu released, %llu fenced, %llu bits flipped, %llu left in order, "
	       "%llu died, %llu times degraded, %llu back, %llu left so\n",
	       (unsigned long long)tally.checkpoints, (unsigned long long)tally.again,
	       (unsigned long long)tally.held, (unsigned long long)tally.took_over,
	       (unsigned long long)tally.on_own, (unsigned long long)tally.released,
	       (unsigned long long)tally.fenced, (unsigned long long)tally.flipped,
	       (unsigned long long)tally.left, (unsigned long long)tally.dead,
	       (unsigned long long)tally.degraded, (unsigned long long)tally.back,
	       (unsigned long long)tally.left_degraded);
	all = tally.checkpoints && tally.again && tally.held && tally.took_over && tally.on_own &&
	      tally.released && tally.fenced && tally.flipped && tally.left && tally.dead &&
	      tally.degraded && tally.back && tally.left_degraded;
	printf("%s 2 everything was met\n", all ? "ok" : "not ok");
	return bad || !all;
}
