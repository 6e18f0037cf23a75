/* SPDX-License-Identifier: MIT */
#ifndef RDMA_VSOURCE_H
#define RDMA_VSOURCE_H

#include "rdma/vlru.h"
#include "wire/control.h"

#include <stdbool.h>

/*
 * The source's end of the control channel: what is said next, what is written next, and what the
 * peer may say. An engine: no verbs, descriptor, clock or thread.
 *
 * It is in a bracket, which the stream has announced, or outside. Inside there are ranges of
 * memory: the caller hands them over (vsource_range()), and asks until it has to wait what is to be
 * done for them (vsource_next()). Outside he sends the stream himself, a message whenever
 * vsource_may_stream() says so.
 */

#define VSOURCE_BLOCKS_MAX 256u
#define VSOURCE_RANGES 256u /* that wait */
/* One request of so many chunks, and its answer, is a message of VLINK_SEND_MAX */
#define VSOURCE_ASK_MAX VSOURCE_RANGES
#define VSOURCE_SIGNAL 8u /* one write in so many says when it is complete, at least */

#define VSOURCE_WRITES_MAX 64u

/* Of 1 << bits bytes. A key of 0 is none */
struct vsource_chunk {
	struct vlru_node there; /* among those with a key */
	struct vlru_node here;	/* among those that are registered on this side */
	uint32_t rkey;
	uint16_t block;
	uint16_t waiting; /* ranges that wait to be written with this key */
	uint16_t writes;  /* under way */
	bool asked;	  /* for a key: the message is put together, or on its way */
	bool hot;	  /* it is among those */
};

/* What is expected of a chunk, any thread's */
enum vsource_hint {
	VSOURCE_PLAIN,
	VSOURCE_HOT, /* its key is asked for with others, before it is needed, and given back last */
	VSOURCE_COLD, /* it is given back first */
};

/**
 * struct vsource_block - Memory that is to be written to the peer
 * @addr:	Where it is here; read, to see whether it is zeros
 * @chunk:	vsource_chunks() of them, all zeros
 * @hint:	Of each MiB an enum vsource_hint, atomic, or NULL
 * @host:	Where it is there, and this is filled in, as @start and @rkey
 * @start:	Where it begins in the peer's idea of its addresses
 * @rkey:	Of all of it, if it is pinned
 */
struct vsource_block {
	const uint8_t *addr;
	uint64_t length;
	struct vsource_chunk *chunk;
	const uint8_t *hint;
	uint64_t host;
	uint64_t start;
	uint32_t rkey;
};

struct vsource_range {
	unsigned block;
	uint64_t offset;
	uint64_t length; /* 0: it is dealt with */
	enum vsource_content {
		CONTENT_UNKNOWN,
		CONTENT_ZERO, /* when it was looked at; what is written since is sent again */
		CONTENT_DATA,
	} content;
};

enum vsource_step {
	VSOURCE_STREAM, /* no bracket */
	VSOURCE_LIST,	/* the peer is asked for its blocks */
	VSOURCE_MEMORY, /* ranges are written, until vsource_close() and there are none left */
};

struct vsource {
	struct vsource_block block[VSOURCE_BLOCKS_MAX];
	unsigned blocks;
	bool pin_all;  /* agreed: keys are of blocks, and nothing is asked for */
	bool several;  /* agreed: a request may be of more than one chunk */
	bool no_room;  /* agreed: a key of 0 says that there is none until some are given back */
	unsigned bits; /* agreed: a chunk has 1 << bits bytes */
	enum vsource_step step;
	bool listed;
	bool closing;
	bool credit;		/* the peer has room for a message */
	enum control_kind owed; /* an answer, 0: none */
	struct vsource_range range[VSOURCE_RANGES];
	unsigned first, ranges, looked; /* so many of them have a key, or are dealt with */
	struct vsource_chunk *ask[VSOURCE_ASK_MAX]; /* whose keys are asked for, or given back */
	unsigned asked;
	unsigned to_unpin;	 /* of those that are given back: on this side too */
	struct vlru there, here; /* chunks that are registered */
	struct vlru hot;	 /* those there that are hot; there.max is of both */
	struct {
		unsigned block;
		uint64_t chunk;
	} ahead;		   /* so far it was looked for hot ones that have no key */
	struct vsource_chunk *pin; /* that was to be, last */
	struct vsource_chunk *under_way[VSOURCE_WRITES_MAX]; /* whose writes */
	unsigned writes_first;
	unsigned writes_max, writes, quiet; /* under way; of them behind the last signal */
	/* counters */
	uint64_t written_bytes, zero_bytes, registers, unregisters, messages;
};

static inline uint64_t vsource_chunks(const struct vsource *source, uint64_t length)
{
	return (length + (UINT64_C(1) << source->bits) - 1) >> source->bits;
}

/*
 * @flags: what was agreed in connecting
 * @writes_max: under way at once, VSOURCE_WRITES_MAX at most
 */
void vsource_init(struct vsource *source, uint32_t flags, unsigned writes_max);
/* No more than so many bytes are registered on either side, but one chunk; 0: no limit */
void vsource_limit(struct vsource *source, uint64_t bytes_max);
/* In the order of the stream's list; at most VSOURCE_BLOCKS_MAX */
void vsource_add_block(struct vsource *source, const uint8_t *addr, uint64_t length,
		       struct vsource_chunk *chunk);

/* The stream has announced a bracket, and all that it has said is with the peer */
void vsource_open(struct vsource *source);
/**
 * vsource_range() - Memory that is to be written, in a bracket that is not closed
 * @offset:	In the block; the range is in it, is not empty, and crosses no border of a MiB
 *
 * No byte of it is handed over twice in a bracket. What follows on the last one is added to it.
 *
 * Return: false, there is no room for it now
 */
bool vsource_range(struct vsource *source, unsigned block, uint64_t offset, uint64_t length);
/* There are no more. The bracket ends when vsource_is_open() says that it has */
void vsource_close(struct vsource *source);
bool vsource_is_open(const struct vsource *source);

/* May a message of the stream be sent? Then it is, and the peer has no room for another */
bool vsource_may_stream(struct vsource *source);

/* What is to be written: @offset of @block, of this side, to @address with @rkey */
struct vsource_write {
	unsigned block;
	uint64_t offset;
	uint32_t length;
	uint64_t address;
	uint32_t rkey;
	bool signal;
};

enum vsource_next {
	VSOURCE_WAIT,  /* for the peer, for writes to be complete, or for ranges */
	VSOURCE_SAY,   /* @message of @bytes */
	VSOURCE_WRITE, /* @write */
	VSOURCE_PIN,   /* register the chunk of @write on this side; or vsource_not_pinned() */
	VSOURCE_UNPIN, /* it is not read any more */
};

/**
 * vsource_next() - What is to be done now; ask again until it is to wait
 * @message:	VLINK_SEND_MAX bytes
 */
enum vsource_next vsource_next(struct vsource *source, uint8_t *message, size_t *bytes,
			       struct vsource_write *write);
/*
 * The chunk that was to be registered is not: there is no room. Return: it goes on with those that
 * are, or waits for them; false, there are none
 */
bool vsource_not_pinned(struct vsource *source);
/* So many of the writes are complete, in their order */
void vsource_written(struct vsource *source, unsigned writes);

/**
 * vsource_take() - A message of the peer's
 *
 * Return: 0, or a negative errno and a sentence: the connection is to be ended. -ECONNABORTED is
 * what the peer has given up with
 */
int vsource_take(struct vsource *source, const uint8_t *message, size_t bytes, struct wh_err *err);

#endif /* RDMA_VSOURCE_H */
