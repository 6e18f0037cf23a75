/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_SIM_PIPE_H
#define SELFTESTS_SIM_PIPE_H

#include "selftests/sim/sim.h"

static inline void pipe_open(struct pipe *pipe, size_t capacity, uint64_t delay_ns)
{
	pipe->capacity = capacity;
	pipe->delay_ns = delay_ns;
	pipe->open = pipe->dialed = true;
}

static inline void pipe_reset(struct pipe *pipe)
{
	uint8_t *bytes = pipe->bytes;
	size_t room = pipe->room;

	memset(pipe, 0, sizeof(*pipe));
	pipe->bytes = bytes;
	pipe->room = room;
}

/* How many more bytes the kernel would take now */
static inline size_t pipe_space(const struct pipe *pipe)
{
	size_t held = (size_t)(pipe->written - pipe->read);

	if (!pipe->open || pipe->segments == PIPE_SEGMENTS)
		return 0;
	return held < pipe->capacity ? pipe->capacity - held : 0;
}

/* The caller has asked for space. Bytes become readable some time later, in order. */
static inline void pipe_write(struct sim *sim, struct pipe *pipe, const void *bytes, size_t length)
{
	struct pipe_segment *segment, *last;
	size_t at;

	if (pipe->silent)
		return;
	at = (size_t)(pipe->written - pipe->base);
	if (at + length > pipe->room) {
		size_t gone = (size_t)(pipe->read - pipe->base);

		if (gone)
			memmove(pipe->bytes, pipe->bytes + gone, at - gone);
		pipe->base += gone;
		at -= gone;
	}
	if (at + length > pipe->room) {
		pipe->room = 2 * (at + length);
		pipe->bytes = realloc(pipe->bytes, pipe->room);
	}
	memcpy(pipe->bytes + at, bytes, length);
	pipe->written += length;
	segment = &pipe->segment[(pipe->first + pipe->segments) % PIPE_SEGMENTS];
	segment->end = pipe->written;
	segment->at_ns = sim->now_ns + sim_pick(sim, pipe->delay_ns + 1);
	if (pipe->segments) {
		last = &pipe->segment[(pipe->first + pipe->segments - 1) % PIPE_SEGMENTS];
		if (segment->at_ns < last->at_ns)
			segment->at_ns = last->at_ns;
	}
	pipe->segments++;
}

static inline size_t pipe_ready(const struct sim *sim, const struct pipe *pipe)
{
	uint64_t end = pipe->read;

	for (unsigned i = 0; i < pipe->segments; i++) {
		const struct pipe_segment *s = &pipe->segment[(pipe->first + i) % PIPE_SEGMENTS];

		if (s->at_ns > sim->now_ns)
			break;
		end = s->end;
	}
	return (size_t)(end - pipe->read);
}

/* When something will be readable that is not yet */
static inline uint64_t pipe_next_ns(const struct sim *sim, const struct pipe *pipe)
{
	for (unsigned i = 0; i < pipe->segments; i++) {
		const struct pipe_segment *s = &pipe->segment[(pipe->first + i) % PIPE_SEGMENTS];

		if (s->at_ns > sim->now_ns)
			return s->at_ns;
	}
	return SIM_NEVER;
}

/* At most pipe_ready() of them */
static inline void pipe_read(struct pipe *pipe, void *to, size_t length)
{
	if (!length)
		return;
	memcpy(to, pipe->bytes + (pipe->read - pipe->base), length);
	pipe->read += length;
	while (pipe->segments && pipe->segment[pipe->first].end <= pipe->read) {
		pipe->first = (pipe->first + 1) % PIPE_SEGMENTS;
		pipe->segments--;
	}
}

/* All was read and nothing more comes */
static inline bool pipe_ended(const struct pipe *pipe)
{
	return pipe->open && pipe->writer_gone && pipe->read == pipe->written;
}

/* The connection dies: of what is on its way only the first so many bytes arrive. */
static inline void pipe_cut(struct pipe *pipe, uint64_t keep)
{
	uint64_t end = pipe->read + keep;

	if (end < pipe->written)
		pipe->written = end;
	for (unsigned i = 0; i < pipe->segments; i++) {
		struct pipe_segment *s = &pipe->segment[(pipe->first + i) % PIPE_SEGMENTS];

		if (s->end >= pipe->written) {
			s->end = pipe->written;
			pipe->segments = i + 1;
		}
	}
	if (pipe->read == pipe->written)
		pipe->segments = 0;
	pipe->writer_gone = true;
	pipe->reader_gone = true;
}

#endif /* SELFTESTS_SIM_PIPE_H */
