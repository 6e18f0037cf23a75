/* SPDX-License-Identifier: GPL-2.0 */
#ifndef LAB_RDMA_PEER_H
#define LAB_RDMA_PEER_H

/*
 * The other end of a connection, which says what it likes. It uses librdmacm as simply as that goes,
 * and nothing of ours but the codec.
 */
#include <errno.h>
#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdlib.h>

#include "wire/control.h"

#define PEER_BUFFER 65536u
#define PEER_QUEUES                           \
	{                                     \
		.cap = { .max_send_wr = 8,    \
			 .max_recv_wr = 8,    \
			 .max_send_sge = 1,   \
			 .max_recv_sge = 1 }, \
		.sq_sig_all = 1,              \
	}

struct peer {
	struct rdma_cm_id *id;
	struct ibv_mr *mr;
	uint8_t *buffer; /* sent from, then two that are received into */
	bool connected;
	struct control got;
};

static inline void peer_rooms(struct peer *peer)
{
	peer->buffer = calloc(3, PEER_BUFFER);
	peer->mr = rdma_reg_msgs(peer->id, peer->buffer, 3 * PEER_BUFFER);
	/* the answer, and READY behind it */
	for (unsigned i = 1; i < 3; i++)
		(void)rdma_post_recv(peer->id, (void *)(uintptr_t)i, peer->buffer + i * PEER_BUFFER,
				     PEER_BUFFER, peer->mr);
}

/* Return: 0, or what kept it from connecting */
static inline int peer_connect(struct peer *peer, const char *host, const char *port,
			       const void *hello, uint8_t length)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP }, *list;
	struct ibv_qp_init_attr attr = PEER_QUEUES;
	struct rdma_conn_param param = {
		.private_data = hello,
		.private_data_len = length,
		.retry_count = 5,
		.rnr_retry_count = 7,
	};
	int ret = -1;

	*peer = (struct peer){ 0 };
	if (rdma_getaddrinfo(host, port, &hints, &list))
		return -1;
	if (rdma_create_ep(&peer->id, list, NULL, &attr) == 0) {
		peer_rooms(peer);
		ret = rdma_connect(peer->id, &param) ? -errno : 0;
		peer->connected = ret == 0;
	}
	rdma_freeaddrinfo(list);
	return ret;
}

static inline void peer_close(struct peer *peer)
{
	if (!peer->id)
		return;
	if (peer->connected)
		rdma_disconnect(peer->id);
	if (peer->mr)
		rdma_dereg_mr(peer->mr);
	rdma_destroy_ep(peer->id);
	free(peer->buffer);
	peer->id = NULL;
}

/* The next message's kind; 0: there is none any more */
static inline unsigned peer_hear(struct peer *peer)
{
	struct ibv_wc wc;
	uint8_t *at;

	if (rdma_get_recv_comp(peer->id, &wc) <= 0 || wc.status != IBV_WC_SUCCESS)
		return 0;
	at = peer->buffer + wc.wr_id * PEER_BUFFER;
	if (control_get(at, wc.byte_len, &peer->got, NULL) < 0)
		return 0;
	/* good until two more have come */
	(void)rdma_post_recv(peer->id, (void *)(uintptr_t)wc.wr_id, at, PEER_BUFFER, peer->mr);
	return peer->got.kind;
}

static inline bool peer_send(struct peer *peer, size_t bytes)
{
	struct ibv_wc wc;

	return rdma_post_send(peer->id, NULL, peer->buffer, bytes, peer->mr, 0) == 0 &&
	       rdma_get_send_comp(peer->id, &wc) > 0 && wc.status == IBV_WC_SUCCESS;
}

static inline bool peer_say(struct peer *peer, enum control_kind kind, uint32_t count, size_t bytes)
{
	return peer_send(peer, control_put(peer->buffer, kind, count, bytes));
}

#endif /* LAB_RDMA_PEER_H */
