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
	uint8_t *memory; /* of the message that comes, and behind it of those that go */
	struct ibv_mr *mr;
	unsigned sending; /* handed over, and not complete */
	unsigned next;	  /* of VLINK_SENDS */
	bool up;	  /* it was established */
};

#define VLINK_SENDS 4u
#define VLINK_SEND_MAX ((size_t)65 << 10) /* as many results as a request may want */

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
/* Zeroed is fine */
void vcm_close(struct vcm *vcm);

/**
 * vlink_accept() - Take a connection, with room for its first message
 * @id:		Taken over, whatever is returned
 * @hello:	The answer
 * @dead_peer_ns: A peer that acknowledges nothing for about so long is gone; 0 leaves the
 *		device's own
 *
 * Return: 0, or a negative errno and a sentence
 */
int vlink_accept(struct vlink *link, struct rdma_cm_id *id, const struct control_hello *hello,
		 uint64_t dead_peer_ns, struct wh_err *err);

/* Return: 0 nothing new, 1 link->up, -ENOTCONN or another negative errno: it is over */
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

/* Room for the next message, which is not there yet; once for each */
int vlink_receive(struct vlink *link, struct wh_err *err);
/* Return: 1 it is at link->memory, 0 not yet, or a negative errno: the link is broken */
int vlink_received(struct vlink *link, size_t *bytes, struct wh_err *err);
int vlink_receive_fd(const struct vlink *link);

/**
 * vlink_room() - Where a message can be put together
 * @at:		VLINK_SEND_MAX bytes
 *
 * Return: 1, 0 so many are under way that there is none, or a negative errno
 */
int vlink_room(struct vlink *link, uint8_t **at, struct wh_err *err);
/* What was put there, so many bytes */
int vlink_send(struct vlink *link, size_t bytes, struct wh_err *err);
/*
 * Is the peer there? A write of no bytes, which no program of his sees; if nobody acknowledges
 * it, the link is broken after the time that vlink_accept() was given.
 */
int vlink_probe(struct vlink *link, struct wh_err *err);
/* Readable when there may be room again */
int vlink_send_fd(const struct vlink *link);

#endif /* RDMA_LINK_H */
