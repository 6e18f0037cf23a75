/* SPDX-License-Identifier: MIT */
#ifndef RDMA_VSOURCE_INTERNAL_H
#define RDMA_VSOURCE_INTERNAL_H

/* For vsource.c, messages and writes, and vsource_keep.c, what is registered */
#include "rdma/vsource.h"

static inline struct vsource_range *vsource_range_at(struct vsource *source, unsigned at)
{
	return &source->range[(source->first + at) % VSOURCE_RANGES];
}

static inline struct vsource_chunk *vsource_chunk_of(struct vsource *source,
						     const struct vsource_range *range)
{
	return &source->block[range->block].chunk[range->offset >> source->bits];
}

static inline uint64_t vsource_peers_address(const struct vsource *source,
					     const struct vsource_range *range)
{
	return source->block[range->block].start + range->offset;
}

bool vsource_is_zero(const struct vsource *source, struct vsource_range *range);
/* Return: bytes of a message with a payload of so many items */
size_t vsource_say(struct vsource *source, uint8_t *message, enum control_kind kind,
		   uint32_t count);

/* It has a key, and is being written to, or about to be */
void keep_use(struct vsource *source, struct vsource_chunk *chunk);
/* The next range that was looked at has no key, and the peer has room for a message. Return: 0, it waits */
size_t keep_say(struct vsource *source, uint8_t *message);
int keep_take_grants(struct vsource *source, const struct control *control, struct wh_err *err);
int keep_take_finished(struct vsource *source, const struct control *control, struct wh_err *err);
/* Is the chunk registered on this side? If not, what is to be done for that: PIN, UNPIN, or WAIT */
bool keep_has(const struct vsource *source, const struct vsource_chunk *chunk);
enum vsource_next keep_pin(struct vsource *source, struct vsource_chunk *chunk,
			   struct vsource_write *write);
/* What was given back to the peer is not read here, either. Return: false, nothing of that */
bool keep_unpin(struct vsource *source, struct vsource_write *write);

#endif /* RDMA_VSOURCE_INTERNAL_H */
