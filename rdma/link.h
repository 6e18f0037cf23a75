/* SPDX-License-Identifier: MIT */
#ifndef RDMA_LINK_H
#define RDMA_LINK_H

#include "wire/control.h"

#include <stdbool.h>
#include <sys/socket.h>

struct ibv_comp_channel;
struct ibv_cq;
struct ibv_mr;
struct ibv_pd;
struct rdma_cm_id;
struct rdma_event_channel;

/*
 * Messages that can come before one is dealt with, and how long one may be; and bytes for what is
 * read from the peer
 */
struct vlink_room {
	unsigned receives;
	size_t bytes;
	size_t stage;
};

/*
 * A connection: a reliable queue pair, messages of the control channel over it, and its
 * connection manager. Belongs to one thread. Nothing here waits: there are three
 * descriptors, and functions that say what has become of things.
 */
struct vlink {
	struct rdma_event_channel *channel; /* of this connection alone */
	struct rdma_cm_id *id;
	struct ibv_pd *pd;
	struct vlink_queue {
		struct ibv_comp_channel *channel;
		struct ibv_cq *cq;
	} send, receive;
	struct vlink_room room;
	uint8_t *memory; /* of messages that come, behind them of those that go, and the stage */
	struct ibv_mr *mr;
	uint64_t dead_peer_ns;
	int timeout_ms;
	struct control_hello hello; /* connecting: what is said; up: what was answered */
	unsigned posted, taken;	    /* receives, of all that there were */
	unsigned next;		    /* of VLINK_SENDS */
	/* handed over, and not complete: of everything, and of those messages */
	unsigned sending, messages;
	/* of these, behind the last one that says when it is complete */
	unsigned quiet, quiet_writes;
	unsigned written; /* writes or reads that are complete, until somebody takes that */
	bool calling;	  /* it was begun here */
	bool up;	  /* it was established */
	bool told;	  /* the peer may have heard of it, and is told of its end */
	bool broken;	  /* what was sent or awaited has failed */
};

#define VLINK_SENDS 4u
#define VLINK_SEND_MAX ((size_t)65 << 10) /* as many results as a request may want */
#define VLINK_WRITES 32u		  /* under way at once, at most */
#define VLINK_READS 16u			  /* the same, of pages */
#define VLINK_READ_MAX 4096u

/* ---- Connecting: cm.c --------------------------------------------------------- */

struct vcm {
	struct rdma_event_channel *channel;
	struct rdma_cm_id *id;
};

/**
 * vcm_listen() - Wait for connections at an address of an RDMA device
 * @port:	Where it listens, also if @at leaves that to the kernel
 *
 * Return: 0, or a negative errno and a sentence that says which piece is missing
 */
int vcm_listen(struct vcm *vcm, const struct sockaddr *at, uint32_t *port, struct wh_err *err);
/* Readable when vcm_next() has something to say */
int vcm_fd(const struct vcm *vcm);
/**
 * vcm_next() - Who wants to connect
 * @id:		For vlink_accept() or vcm_reject()
 * @hello:	What it said, of a version that is ours
 *
 * Return: 1 somebody, 0 nobody, -EPROTO one that was refused, and why; another negative
 * errno: it does not listen any more
 */
int vcm_next(struct vcm *vcm, struct rdma_cm_id **id, struct control_hello *hello,
	     struct wh_err *err);
void vcm_reject(struct rdma_cm_id *id);
/* Who it is: an address. Is it the one of another? */
void vcm_peer(struct rdma_cm_id *id, struct sockaddr_storage *peer);
bool vcm_is_peer(struct rdma_cm_id *id, const struct sockaddr_storage *peer);
/* Zeroed is fine */
void vcm_close(struct vcm *vcm);

/**
 * vlink_accept() - Take a connection, with room for its first message
 * @id:		Taken over, whatever is returned
 * @hello:	The answer. One for CONTROL_READER has a stage of VLINK_READS pages
 * @dead_peer_ns: A peer that acknowledges nothing for about so long is gone; 0 leaves the
 *		device's own
 *
 * Return: 0, or a negative errno and a sentence
 */
int vlink_accept(struct vlink *link, struct rdma_cm_id *id, const struct control_hello *hello,
		 uint64_t dead_peer_ns, struct wh_err *err);

/**
 * vlink_connect() - Begin to connect to an address
 * @hello:	What is said; link->hello is the answer once it is up
 * @timeout_ms:	For each of finding the device and the way
 *
 * vlink_event() goes on with it; who waits too long closes the link. There is room for the
 * messages that may come at once: an answer, and what asks for more.
 *
 * Return: 0, or a negative errno and a sentence; vlink_close() in any case
 */
int vlink_connect(struct vlink *link, const struct sockaddr *at, const struct control_hello *hello,
		  int timeout_ms, uint64_t dead_peer_ns, struct wh_err *err);

/*
 * Return: 0 nothing new, 1 something, perhaps link->up, -ENOTCONN or another negative errno: it is
 * over, or never was
 */
int vlink_event(struct vlink *link, struct wh_err *err);
int vlink_event_fd(const struct vlink *link);
/* The peer is told, and writes nothing any more; what is under way is not done */
void vlink_disconnect(struct vlink *link);
/* Everything. Memory registered with link->pd is to be given up before. Zeroed is fine */
void vlink_close(struct vlink *link);

/* ---- Messages: verbs.c --------------------------------------------------------- */

/* Objects of the connection; vlink_accept() does that */
int vlink_open(struct vlink *link, struct wh_err *err);
/* All but id and channel */
void vlink_release(struct vlink *link);

/* Room for one more message, which is not there yet; at most room.receives at a time */
int vlink_receive(struct vlink *link, struct wh_err *err);
/*
 * Return: 1 there is one, good until its room is given back by vlink_receive(); 0 not yet, or a
 * negative errno: the link is broken
 */
int vlink_received(struct vlink *link, const uint8_t **at, size_t *bytes, struct wh_err *err);
int vlink_receive_fd(const struct vlink *link);

/**
 * vlink_room() - Where a message can be put together
 * @at:		VLINK_SEND_MAX bytes
 *
 * Return: 1, 0 so many are under way that there is none, or a negative errno
 */
int vlink_room(struct vlink *link, uint8_t **at, struct wh_err *err);
/*
 * Only what is complete, and without a call: vlink_room() is yet to be asked before anybody sleeps.
 * Return: 0, or a negative errno
 */
int vlink_reap(struct vlink *link, struct wh_err *err);
/* What was put there, so many bytes */
int vlink_send(struct vlink *link, size_t bytes, struct wh_err *err);

/**
 * struct vlink_write - What is written into the peer's memory
 * @signal:	Its completion is told, and that of all in front of it. Somebody has to be the
 *		last of all that are under way, and needs one
 */
struct vlink_write {
	const uint8_t *from;
	uint32_t length;
	uint32_t lkey;
	uint64_t to;
	uint32_t rkey;
	bool signal;
};

/* At most VLINK_WRITES are under way. link->written says what has become of them */
int vlink_write(struct vlink *link, const struct vlink_write *write, struct wh_err *err);
/*
 * The same the other way round: from the peer's memory to byte @at of the stage. Each is told of, in
 * their order
 */
int vlink_read(struct vlink *link, size_t at, uint32_t length, uint64_t from, uint32_t rkey,
	       struct wh_err *err);
const uint8_t *vlink_stage(const struct vlink *link);
/*
 * Is the peer there? A write of no bytes, which no program of his sees; if nobody acknowledges
 * it, the link is broken after the time that vlink_accept() was given.
 */
int vlink_probe(struct vlink *link, struct wh_err *err);
/* Readable when there may be room again */
int vlink_send_fd(const struct vlink *link);

#endif /* RDMA_LINK_H */
