/* SPDX-License-Identifier: MIT */
/*
 * Joining: what outlives an agent. The memfd is the VMM's; the agent writes, and the next one
 * reads it as if a stranger had written it.
 *
 * A bit of received is set behind the page's COPY, which is one step for whoever looks. So
 * between the two a page is there and its bit is not: it comes again, and COPY finds the
 * page there before (PLACED_BEFORE). Nothing of it needs to be flushed: a process that is
 * killed has made all its stores up to some point, and none of those behind.
 */
#include "postcopy/agent.h"

#include "base/bits.h"
#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

#define MAGIC UINT64_C(0x3274677972726877) /* "whrrygt2" */
#define SEALS (F_SEAL_SHRINK | F_SEAL_GROW | F_SEAL_SEAL)

enum {
	WORD_MAGIC,
	WORD_STAGE,
	WORD_RAM_ID,
	WORD_HAS_ID,
	WORD_ID_HIGH,
	WORD_ID_LOW,
	WORD_BLOCKS, /* words of the first block */
	BLOCK_NUMBER = 0,
	BLOCK_USED,
	BLOCK_PAGE,
	BLOCK_WORDS,
};

static uint64_t *block_words(const struct agent_state *state, unsigned block)
{
	return state->words + WORD_BLOCKS + (size_t)block * BLOCK_WORDS;
}

static void lay_out(struct agent_state *state, const struct region *regions, unsigned blocks)
{
	size_t at = WORD_BLOCKS + (size_t)blocks * BLOCK_WORDS;

	*state = (struct agent_state){ .fd = -1, .blocks = blocks };
	for (unsigned i = 0; i < blocks; i++) {
		state->at[i] = at;
		at += bits_words(regions[i].length / TARGET_PAGE);
	}
	state->figures = at;
	state->bytes = (at + AGENT_FIGURE_WORDS) * sizeof(uint64_t);
}

static int map(struct agent_state *state, struct wh_err *err)
{
	void *words = mmap(NULL, state->bytes, PROT_READ | PROT_WRITE, MAP_SHARED, state->fd, 0);

	if (words == MAP_FAILED)
		return err_sys(err, errno, "agent: mapping %zu bytes of state", state->bytes);
	state->words = words;
	return 0;
}

int agent_state_new(struct agent_state *state, const struct region *regions, unsigned blocks,
		    struct wh_err *err)
{
	int ret;

	lay_out(state, regions, blocks);
	state->fd = memfd_create("wherry-agent", MFD_CLOEXEC | MFD_ALLOW_SEALING);
	if (state->fd < 0 || ftruncate(state->fd, (off_t)state->bytes) < 0 ||
	    fcntl(state->fd, F_ADD_SEALS, SEALS) < 0)
		ret = err_sys(err, errno, "agent: memfd for %zu bytes of state", state->bytes);
	else
		ret = map(state, err);
	if (ret < 0) {
		agent_state_close(state);
		return ret;
	}
	state->words[WORD_MAGIC] = MAGIC;
	return 0;
}

int agent_state_open(struct agent_state *state, int fd, const struct region *regions,
		     unsigned blocks, struct wh_err *err)
{
	struct stat stat;
	int ret, seals;

	lay_out(state, regions, blocks);
	seals = fcntl(fd, F_GET_SEALS);
	if (seals < 0 || (seals & SEALS) != SEALS || fstat(fd, &stat) < 0 ||
	    (uint64_t)stat.st_size != state->bytes)
		return err_set(err, -EPROTO, "agent: the state is no sealed memfd of %zu bytes",
			       state->bytes);
	state->fd = fd;
	ret = map(state, err);
	if (ret == 0 && state->words[WORD_MAGIC] != MAGIC)
		ret = err_set(err, -EPROTO, "agent: the state is of another version");
	if (ret < 0) {
		state->fd = -1;
		agent_state_close(state);
	}
	return ret;
}

void agent_state_close(struct agent_state *state)
{
	if (state->words)
		munmap(state->words, state->bytes);
	if (state->bytes && state->fd >= 0)
		close(state->fd);
	*state = (struct agent_state){ .fd = -1 };
}

enum agent_stage agent_state_get(const struct agent_state *state)
{
	return (enum agent_stage)__atomic_load_n(&state->words[WORD_STAGE], __ATOMIC_ACQUIRE);
}

/* Release: who sees the stage sees the list of blocks */
void agent_state_set(struct agent_state *state, enum agent_stage stage)
{
	__atomic_store_n(&state->words[WORD_STAGE], (uint64_t)stage, __ATOMIC_RELEASE);
}

uint64_t *agent_state_received(const struct agent_state *state, unsigned block)
{
	return state->words + state->at[block];
}

void agent_state_note(struct agent_state *state, unsigned block, unsigned number,
		      const struct ram_block *line)
{
	uint64_t *words = block_words(state, block);

	words[BLOCK_NUMBER] = number + 1u;
	words[BLOCK_USED] = line->used;
	words[BLOCK_PAGE] = line->page_size;
}

void agent_state_keep(struct agent_state *state, uint32_t ram_id, const struct identity *identity)
{
	state->words[WORD_RAM_ID] = ram_id;
	state->words[WORD_ID_HIGH] = identity->id.high;
	state->words[WORD_ID_LOW] = identity->id.low;
	state->words[WORD_HAS_ID] = identity->known;
}

/* The block that is number @number of the list, or state->blocks */
static unsigned find_number(const struct agent_state *state, unsigned number)
{
	unsigned block;

	for (block = 0; block < state->blocks; block++)
		if (block_words(state, block)[BLOCK_NUMBER] == number + 1u)
			break;
	return block;
}

int agent_state_past(const struct agent_state *state, const struct region *regions,
		     struct dest_past *past, struct wh_err *err)
{
	struct ram_blocks *blocks = &past->blocks;
	unsigned block;

	if (agent_state_get(state) != AGENT_STAGE_ARMED)
		return err_set(err, -EPROTO, "agent: there is no guest to be taken up");
	past->ram_id = (uint32_t)state->words[WORD_RAM_ID];
	past->has_id = state->words[WORD_HAS_ID];
	past->id.high = state->words[WORD_ID_HIGH];
	past->id.low = state->words[WORD_ID_LOW];
	blocks->count = 0;
	while ((block = find_number(state, blocks->count)) < state->blocks) {
		const uint64_t *words = block_words(state, block);
		struct ram_block *line = &blocks->block[blocks->count++];

		line->used = words[BLOCK_USED];
		line->page_size = words[BLOCK_PAGE];
		if (!line->used || line->used % TARGET_PAGE || line->used > regions[block].length)
			return err_set(err, -EPROTO, "agent: block '%s': %llu bytes of %llu in use",
				       regions[block].name, (unsigned long long)line->used,
				       (unsigned long long)regions[block].length);
		wire_name_set(&line->name, regions[block].name);
		/* each number once, and no more of them than blocks */
		if (blocks->count == state->blocks)
			break;
	}
	if (!blocks->count)
		return err_set(err, -EPROTO, "agent: the guest to be taken up has no block");
	return 0;
}

uint64_t agent_state_missing(const struct agent_state *state, const struct region *regions)
{
	uint64_t missing = 0;

	for (unsigned i = 0; i < state->blocks; i++) {
		const uint64_t *words = block_words(state, i);
		uint64_t used = words[BLOCK_USED];

		if (!words[BLOCK_NUMBER])
			continue;
		if (used > regions[i].length)
			used = regions[i].length;
		missing += used / TARGET_PAGE -
			   bits_count(agent_state_received(state, i), used / TARGET_PAGE);
	}
	return missing;
}
