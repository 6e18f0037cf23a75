/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_RUN_RDMA_H
#define CHECKPOINT_RUN_RDMA_H

#include "checkpoint/run.h"
#include "checkpoint/slab.h"
#include "rdma/link.h"
#include "rdma/vflow.h"
#include "ring/address.h"
#include "ring/socket.h"

/*
 * A connection of a protection over RDMA, in its loop. To whoever has one it is what a socket is: an
 * operation that receives and one that sends, each done() with what has come of it. The kernel knows
 * nothing of these; it is piers_turn() that does them.
 *
 * How the bytes go is in rdma/vflow.h. The source of contents writes them from its slabs, which it
 * registers when something of them is sent for the first time, into a slab that the destination has
 * lent: from there they are copied before anybody looks at them, and what a checkpoint is made of is
 * never where somebody else can write.
 */

#define PIERS_MAX 32u /* of a protection, those that are being closed included */

struct pier {
	struct pier *next;
	struct wh_protect *p;
	struct vlink link;
	struct vflow flow;
	struct op event, receive, send;
	bool closing; /* nobody has it any more */
	uint64_t linger_ns;
	bool gone;	   /* nothing more comes, but what is here */
	bool ended;	   /* and that was told */
	struct wh_err why; /* it is gone */

	/* connecting; @called is told once how that went */
	void (*called)(struct pier *pier, struct wh_err *err);
	void *owner;
	struct uri uri;
	struct address address[ADDRESSES_MAX];
	unsigned addresses, at_address;
	uint64_t deadline_ns, attempt_ns;

	struct op *into; /* somebody waits for bytes */
	uint8_t *to;
	size_t room;

	struct op *from; /* somebody sends */
	const struct iovec *piece;
	size_t pieces, piece_at, total;
	uint8_t *message; /* one is being put together, or NULL */
	uint32_t bytes, landed;
	unsigned writes, quiet; /* under way; since one that says when it is complete */

	/* what was lent */
	struct slab_pool pool;
	struct slab_chain chain;
	struct ibv_mr *mr;
};

struct pier_listener {
	void (*accepted)(struct pier_listener *listener, struct pier *pier);
	struct wh_protect *p;
	unsigned count;
	struct pier_request {
		struct op op;
		struct pier_listener *listener;
		struct vcm cm;
	} request[LISTENERS_MAX];
};

/* ---- run_rdma.c ---- */

/* What has come of all of them. Return: when to look again at the latest */
uint64_t piers_turn(struct wh_protect *p, uint64_t now_ns);
/* The loop is closed */
void piers_free(struct wh_protect *p);
/* A descriptor that stands for it, and is not to be closed */
int pier_fd(const struct pier *pier);
/* @op is done() with the bytes that have come, or with a negative errno: none will */
void pier_receive(struct pier *pier, struct op *op, uint8_t *to, size_t room);
/*
 * @op is done() when all of @msg has left: what it points to stays until then. Nothing else is
 * being sent
 */
void pier_send(struct pier *pier, struct op *op, const struct msghdr *msg);
bool pier_sending(const struct pier *pier);
/* A few bytes, at once: of a connection on which nothing was said yet */
void pier_say(struct pier *pier, const uint8_t *bytes, size_t length);
/* All that was sent is there, or nothing goes there any more */
bool pier_flushed(const struct pier *pier);
/* Why nothing more comes. Return: its code, 0: that is not so */
int pier_why(const struct pier *pier, struct wh_err *err);
/* The other end may write what is large. Return: 0, or a negative errno and a sentence */
int pier_lend(struct pier *pier, struct wh_err *err);
/* No operation is done() any more. What was sent leaves, if it can do so soon. NULL is fine */
void pier_close(struct pier *pier);

/* run_rdma_send.c */
int pier_push(struct pier *pier, struct wh_err *err);
/* Of the slabs of p->slabs: they are registered with this connection's device no more */
void pier_unpin(struct pier *pier);
struct slab_watch pier_watch(struct wh_protect *p);

/* run_rdma_dial.c: on its way to be connected. @called is told, but not if this returns NULL */
struct pier *pier_dial(struct wh_protect *p, const struct uri *uri, uint64_t timeout_ns,
		       void (*called)(struct pier *pier, struct wh_err *err), void *owner,
		       struct wh_err *err);
/* A turn of that. Return: when it has to be turned again */
uint64_t pier_dial_turn(struct pier *pier, uint64_t now_ns);
/* @uri: its port is filled in, if it was 0. Return: 0, or a negative errno and a sentence */
int pier_listen(struct pier_listener *listener, struct wh_protect *p, struct uri *uri,
		struct wh_err *err);
/* The loop is closed */
void pier_listen_end(struct pier_listener *listener);
/* One that is zeroed, on the list. NULL: there are too many, or no memory */
struct pier *pier_new(struct wh_protect *p, struct wh_err *err);
void pier_poll(struct pier *pier, struct op *op, int fd);

#endif /* CHECKPOINT_RUN_RDMA_H */
