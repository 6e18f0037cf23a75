/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_GUEST_H
#define SELFTESTS_SIM_GUEST_H

#include "selftests/sim/sim.h"

/*
 * The guest. At the source it writes, and a log knows which pages. At the destination
 * it reads and writes as well; on a page that is missing it sleeps, and wakes when the
 * kernel is told to, no earlier and no later. Nothing else ever wakes it.
 */

static inline uint8_t *truth_page(const struct sim *sim, unsigned block, uint64_t page)
{
	return sim->block[block].truth + page * TARGET_PAGE;
}

static inline uint8_t *source_page(const struct sim *sim, unsigned block, uint64_t page)
{
	return sim->block[block].source.addr + page * TARGET_PAGE;
}

static inline uint8_t *dest_page_at(const struct sim *sim, unsigned block, uint64_t page)
{
	return sim->block[block].dest.addr + page * TARGET_PAGE;
}

static inline bool page_is_zero(const uint8_t *page)
{
	return page[0] == 0 && !memcmp(page, page + 1, TARGET_PAGE - 1);
}

static inline void guest_choose(struct sim *sim, unsigned *block, uint64_t *page)
{
	*block = (unsigned)sim_pick(sim, sim->blocks);
	*page = sim_pick(sim, sim->block[*block].pages);
	/* a few are favourites */
	if (sim_one_in(sim, 2))
		*page %= 3;
}

/* All of the page, or zeros, or eight bytes of it; in memory and in truth alike */
static inline void guest_write(struct sim *sim, uint8_t *memory, uint8_t *truth)
{
	uint64_t value = sim_random(sim) | 1;
	uint64_t at;

	switch (sim_pick(sim, 4)) {
	case 0:
		memset(memory, 0, TARGET_PAGE);
		memset(truth, 0, TARGET_PAGE);
		break;
	case 1:
		at = sim_pick(sim, TARGET_PAGE / 8) * 8;
		memcpy(memory + at, &value, 8);
		memcpy(truth + at, &value, 8);
		break;
	default:
		memset(memory, (int)value, TARGET_PAGE);
		memcpy(memory + 8, &value, 8);
		memcpy(truth, memory, TARGET_PAGE);
		break;
	}
	sim->writes++;
}

static inline void guest_write_at_source(struct sim *sim)
{
	unsigned block;
	uint64_t page;

	guest_choose(sim, &block, &page);
	guest_write(sim, source_page(sim, block, page), truth_page(sim, block, page));
	bits_set(sim->block[block].written, page);
}

static inline bool guest_acts_at_source(struct sim *sim)
{
	if (!sim->source_runs || !sim->plan.writes_left)
		return false;
	sim->plan.writes_left--;
	guest_write_at_source(sim);
	return true;
}

/* The kernel at the destination */

static inline bool page_present(const struct sim *sim, unsigned block, uint64_t page)
{
	return bits_test(sim->block[block].present, page);
}

static inline bool vcpu_sleeps(const struct vcpu *vcpu)
{
	return vcpu->state == VCPU_FAULTED || vcpu->state == VCPU_READ || vcpu->state == VCPU_ASKED;
}

/* A message of somebody who is awake again is never read. */
static inline void kernel_forget(struct sim *sim, const struct vcpu *vcpu)
{
	struct sim_dest *dest = &sim->dest;
	unsigned kept = 0;

	for (unsigned i = 0; i < dest->messages; i++)
		if (dest->message[i] != vcpu)
			dest->message[kept++] = dest->message[i];
	dest->messages = kept;
}

static inline void kernel_wake(struct sim *sim, unsigned block, uint64_t offset, uint64_t length)
{
	for (unsigned i = 0; i < SIM_VCPUS; i++) {
		struct vcpu *vcpu = &sim->vcpu[i];
		uint64_t at = vcpu->page * TARGET_PAGE;

		if (!vcpu_sleeps(vcpu) || vcpu->block != block || at < offset ||
		    at - offset >= length)
			continue;
		sim_trace(sim, "vcpu %u wakes", vcpu->tid);
		kernel_forget(sim, vcpu);
		vcpu->state = VCPU_RUNS;
	}
}

static inline void kernel_wake_all(struct sim *sim)
{
	for (unsigned i = 0; i < sim->blocks; i++)
		kernel_wake(sim, i, 0, UINT64_MAX);
}

static inline void kernel_message(struct sim *sim, struct vcpu *vcpu, enum vcpu_state state)
{
	vcpu->state = state;
	sim->dest.message[sim->dest.messages++] = vcpu;
}

/* Pages that are being removed are nobody's: who touches them has lost anyhow. */
static inline bool page_in_removal(const struct sim *sim, unsigned block, uint64_t page)
{
	for (unsigned i = 0; i < SIM_VCPUS; i++) {
		const struct vcpu *vcpu = &sim->vcpu[i];

		if (vcpu->state >= VCPU_REMOVES && vcpu->block == block && page >= vcpu->page &&
		    page < vcpu->page + vcpu->pages)
			return true;
	}
	return false;
}

static inline void vcpu_zap(struct sim *sim, struct vcpu *vcpu)
{
	struct sim_block *b = &sim->block[vcpu->block];
	uint64_t bytes = vcpu->pages * TARGET_PAGE;

	memset(dest_page_at(sim, vcpu->block, vcpu->page), 0, bytes);
	memset(truth_page(sim, vcpu->block, vcpu->page), 0, bytes);
	bits_range_clear(b->present, vcpu->page, vcpu->pages);
	vcpu->state = VCPU_RUNS;
	sim->removals++;
	sim_trace(sim, "vcpu %u removed block %u page %llu", vcpu->tid, vcpu->block,
		  (unsigned long long)vcpu->page);
}

/* Nobody else may be asleep there, since only one page would be left of two stories. */
static inline bool removal_is_free(const struct sim *sim, const struct vcpu *self)
{
	for (unsigned i = 0; i < SIM_VCPUS; i++) {
		const struct vcpu *vcpu = &sim->vcpu[i];

		if (vcpu != self && vcpu->state >= VCPU_REMOVES)
			return false;
	}
	return true;
}

static inline void vcpu_remove(struct sim *sim, struct vcpu *vcpu)
{
	uint64_t group = sim->block[vcpu->block].dest.page_size / TARGET_PAGE;

	if (!removal_is_free(sim, vcpu))
		return;
	vcpu->page -= vcpu->page % group;
	vcpu->pages = group;
	if (!sim->dest.armed || sim->dest.disarmed) {
		vcpu_zap(sim, vcpu);
		return;
	}
	sim->dest.changing++;
	kernel_message(sim, vcpu, VCPU_REMOVES);
	sim_trace(sim, "vcpu %u removes block %u page %llu", vcpu->tid, vcpu->block,
		  (unsigned long long)vcpu->page);
}

/* A page of zeros where nothing watches */
static inline void kernel_fill(struct sim *sim, unsigned block, uint64_t page)
{
	uint64_t group = sim->block[block].dest.page_size / TARGET_PAGE;

	page -= page % group;
	for (uint64_t i = page; i < page + group; i++) {
		memset(dest_page_at(sim, block, i), 0, TARGET_PAGE);
		bits_set(sim->block[block].present, i);
	}
}

static inline void vcpu_access(struct sim *sim, struct vcpu *vcpu)
{
	uint8_t *memory = dest_page_at(sim, vcpu->block, vcpu->page);
	uint8_t *truth = truth_page(sim, vcpu->block, vcpu->page);

	if (!page_present(sim, vcpu->block, vcpu->page)) {
		if (sim->dest.armed && !sim->dest.disarmed) {
			sim->faults++;
			kernel_message(sim, vcpu, VCPU_FAULTED);
			sim_trace(sim, "vcpu %u faults on block %u page %llu", vcpu->tid,
				  vcpu->block, (unsigned long long)vcpu->page);
			return;
		}
		kernel_fill(sim, vcpu->block, vcpu->page);
	}
	sim->reads++;
	if (memcmp(memory, truth, TARGET_PAGE))
		sim_fail(sim, "vcpu %u reads a wrong page %llu of block %u", vcpu->tid,
			 (unsigned long long)vcpu->page, vcpu->block);
	if (sim_one_in(sim, 2))
		guest_write(sim, memory, truth);
	vcpu->pages = 0; /* done: the next one may be another */
}

/* One vCPU does one thing. What it was waiting for it tries again first. */
static inline bool guest_acts_at_dest(struct sim *sim)
{
	struct vcpu *vcpu = &sim->vcpu[sim_pick(sim, SIM_VCPUS)];

	if (!sim->dest_runs)
		return false;
	if (vcpu->state == VCPU_REMOVE_READ) {
		sim->dest.changing--;
		vcpu->state = VCPU_ZAPS;
		return true;
	}
	if (vcpu->state == VCPU_ZAPS) {
		vcpu_zap(sim, vcpu);
		vcpu->pages = 0;
		return true;
	}
	if (vcpu->state != VCPU_RUNS)
		return false;
	if (!vcpu->pages) {
		guest_choose(sim, &vcpu->block, &vcpu->page);
		vcpu->pages = 1;
		if (page_in_removal(sim, vcpu->block, vcpu->page)) {
			vcpu->pages = 0;
			return true;
		}
		if (sim->plan.removes && sim_one_in(sim, 8)) {
			vcpu_remove(sim, vcpu);
			if (vcpu->state == VCPU_RUNS)
				vcpu->pages = 0;
			return true;
		}
	}
	/* of one that waited the page may be in removal by now */
	if (!page_in_removal(sim, vcpu->block, vcpu->page))
		vcpu_access(sim, vcpu);
	return true;
}

/* After whatever an engine did: nobody sleeps for a page that is there. */
static inline void guest_check_awake(struct sim *sim)
{
	for (unsigned i = 0; i < SIM_VCPUS; i++) {
		const struct vcpu *vcpu = &sim->vcpu[i];

		if (vcpu->state == VCPU_ASKED && page_present(sim, vcpu->block, vcpu->page))
			sim_fail(sim, "vcpu %u sleeps, and page %llu of block %u is there",
				 vcpu->tid, (unsigned long long)vcpu->page, vcpu->block);
	}
}

#endif /* SELFTESTS_SIM_GUEST_H */
