/* SPDX-License-Identifier: MIT */
/*
 * What both engines ask of the simulated world: its source's side, then its destination's.
 */
#ifndef SELFTESTS_CHECKPOINT_SIM_ENDS_H
#define SELFTESTS_CHECKPOINT_SIM_ENDS_H

#include "selftests/checkpoint/sim_world.h"

/* ---- What the source's engine asks for ---------------------------------------- */

static void source_sync(void *world, enum cp_parts parts)
{
	(void)world;
	sim.syncing = parts != CP_PARTS_NONE;
	sim.synced_due = false;
	if (parts == CP_PARTS_NONE || parts == CP_PARTS_MORE)
		return;
	sim.in_parts = true;
	sim.send_epoch = sim.source.epoch;
	send_begin(true);
	for (unsigned i = 0; i < PAGES; i++)
		sim.dirty[i] |= parts == CP_PARTS_ALL;
}

/* Some pages, while the guest runs; or what is left is for the stop */
static void send_parts(void)
{
	if (sim.pipes[TO_DEST].count > QUEUE / 2)
		return;
	for (unsigned i = 0; i < PAGES; i++) {
		if (!sim.dirty[i] || chance(300))
			continue;
		sim.dirty[i] = false;
		send_page(i, sim.guest.memory[i]);
	}
	if (chance(400)) {
		sim.syncing = false;
		sim.synced_due = true;
	}
}

static void source_stop(void *world)
{
	(void)world;
	sim.stopped_due = true;
}

static void source_stage(void *world, uint64_t epoch)
{
	(void)world;
	sim.staged = sim.guest;
	if (epoch < EPOCHS_MAX)
		sim.at_copy[epoch] = sim.guest;
	memcpy(sim.staged_dirty, sim.dirty, sizeof(sim.dirty));
	memset(sim.dirty, 0, sizeof(sim.dirty));
	sim.staged_due = true;
}

static void source_resume(void *world)
{
	(void)world;
}

static void source_send(void *world, uint64_t epoch)
{
	uint8_t device[8];

	(void)world;
	sim.send_epoch = epoch;
	if (!sim.in_parts)
		send_begin(false);
	for (unsigned i = 0; i < PAGES; i++)
		if (sim.staged_dirty[i])
			send_page(i, sim.staged.memory[i]);
	put_be64(device, sim.staged.said);
	send_bytes(CP_DEVICE, device, sizeof(device));
	sim.totals.commit.device = sizeof(device);
	sim.totals.commit.hash = cp_hash_end(&sim.hash);
	sim.sent_due = true;
}

static void source_moved(void *world, enum cp_source_state from, enum cp_source_state to)
{
	(void)world;
	tell("source: %s -> %s", cp_source_state_name(from), cp_source_state_name(to));
	if (to == CP_SOURCE_DEGRADED && from != CP_SOURCE_STOP)
		tally.degraded++;
	if (from == CP_SOURCE_WAIT_ACK && to == CP_SOURCE_RUN) {
		tally.back += sim.in_parts && sim.source.epoch > 2;
		sim.in_parts = false;
	}
	if (to == CP_SOURCE_LEAVING || to == CP_SOURCE_FENCED)
		sim.faulty = true;
	tally.left_degraded += from == CP_SOURCE_DEGRADED && to == CP_SOURCE_LEAVING;
	if (to == CP_SOURCE_HOLD) {
		if (!sim.faulty && sim.source.why.code == -ETIMEDOUT)
			wrong("the destination is given up, which is there: %s",
			      sim.source.why.text);
		tally.held++;
		sim.faulty = true;
		sim.source_closed = true;
	}
}

static const struct cp_source_ops source_ops = {
	.say = source_say,
	.hold = gate_hold,
	.turn = gate_turn,
	.release = gate_release,
	.fence = gate_fence,
	.open = gate_open,
	.sync = source_sync,
	.stop = source_stop,
	.stage = source_stage,
	.resume = source_resume,
	.send = source_send,
	.moved = source_moved,
};

/* ---- What the destination's engine asks for ----------------------------------- */

static int dest_block(void *world, uint32_t index, const struct cp_block *block, struct wh_err *err)
{
	(void)world;
	if (index || block->length != PAGES * PAGE)
		return fails(err, "a block that is not here");
	return 0;
}

static int dest_entry(void *world, const struct cp_entry *entry, bool full, struct wh_err *err)
{
	(void)world;
	if (chance(sim.refuses) || sim.entry_count == ENTRIES) {
		tally.refused++;
		return fails(err, "room for it");
	}
	/* the first of them: what is not said has not changed */
	if (!sim.entry_count && sim.dest.complete)
		sim.coming = sim.kept;
	sim.coming_full = full;
	sim.entries[sim.entry_count++] = *entry;
	if (entry->content == CP_ZERO)
		sim.coming.memory[entry->first] = 0;
	return 0;
}

static void dest_contents(const uint8_t *payload)
{
	while (sim.entry_at < sim.entry_count && !sim.entries[sim.entry_at].bytes)
		sim.entry_at++;
	if (sim.entry_at == sim.entry_count) {
		wrong("contents without a description");
		return;
	}
	sim.coming.memory[sim.entries[sim.entry_at++].first] = get_be64(payload);
}

static void dest_verify(void *world, uint64_t epoch, bool full)
{
	(void)world;
	(void)epoch;
	(void)full;
	sim.verified_due = true;
}

static void dest_drop(void *world)
{
	(void)world;
	sim.entry_count = sim.entry_at = 0;
	sim.coming = sim.kept;
}

static void dest_keep(void *world, uint64_t epoch)
{
	(void)world;
	if (memcmp(&sim.coming, &sim.at_copy[epoch], sizeof(sim.coming)))
		wrong("epoch %llu is complete, and not what was copied", (unsigned long long)epoch);
	sim.kept = sim.coming;
	sim.entry_count = sim.entry_at = 0;
	sim.applied_due = true;
}

static int dest_persist(void *world, uint64_t generation, struct wh_err *err)
{
	(void)world;
	(void)generation;
	return chance(sim.gate_fails) ? fails(err, "making it lasting") : 0;
}

static void dest_run(void *world)
{
	const struct guest *then = &sim.at_copy[sim.dest.complete];

	(void)world;
	if (sim.applied_due || sim.entry_count)
		wrong("runs from what is not in place, or with what is not complete");
	tell("dest: runs, epoch %llu", (unsigned long long)sim.dest.complete);
	if (memcmp(&sim.ram, then, sizeof(*then)))
		wrong("runs from another memory than that of epoch %llu",
		      (unsigned long long)sim.dest.complete);
	sim.survivor_said = sim.ram.said;
	if (sim.outside > sim.survivor_said)
		wrong("packet %llu is outside, the guest has said %llu",
		      (unsigned long long)sim.outside, (unsigned long long)sim.survivor_said);
	tally.took_over++;
}

static void dest_moved(void *world, enum cp_dest_state from, enum cp_dest_state to)
{
	(void)world;
	tell("dest: %s -> %s", cp_dest_state_name(from), cp_dest_state_name(to));
	if (!sim.faulty && (to == CP_DEST_SUSPECT || to == CP_DEST_APPLYING))
		wrong("the source is given up, which is there, in %s",
		      cp_source_state_name(sim.source.state));
}

static const struct cp_dest_ops dest_ops = {
	.say = dest_say,
	.block = dest_block,
	.entry = dest_entry,
	.verify = dest_verify,
	.drop = dest_drop,
	.keep = dest_keep,
	.persist = dest_persist,
	.run = dest_run,
	.moved = dest_moved,
};

#endif
