/* SPDX-License-Identifier: MIT */
/*
 * Edge: the queue pair of a connection and the messages on it. libibverbs has three ways to
 * say that something failed (errno returned, NULL and errno, -1); each call is here once.
 *
 * The two directions have completion queues of their own: a queue for both would have to keep
 * for one what it was asked about the other.
 */
#include "rdma/link.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <rdma/rdma_cma.h>
#include <stdlib.h>
#include <sys/mman.h>

/* Writes, messages, and a probe */
#define QUEUE (VLINK_WRITES + 2 * VLINK_SENDS)

/* What a completion tells of: how many that were handed over, of which so many were... */
#define TELLS(all, writes, messages) \
	((uint64_t)(all) | (uint64_t)(writes) << 16 | (uint64_t)(messages) << 32)

static size_t receive_bytes(const struct vlink *link)
{
	return link->room.receives * link->room.bytes;
}

static size_t stage_at(const struct vlink *link)
{
	return receive_bytes(link) + VLINK_SENDS * VLINK_SEND_MAX;
}

static size_t memory_bytes(const struct vlink *link)
{
	return stage_at(link) + link->room.stage;
}

static int queue_open(struct vlink_queue *queue, struct ibv_context *verbs, struct wh_err *err)
{
	int flags;

	queue->channel = ibv_create_comp_channel(verbs);
	if (!queue->channel)
		return err_sys(err, errno, "rdma: completion channel");
	flags = fcntl(queue->channel->fd, F_GETFL);
	if (flags < 0 || fcntl(queue->channel->fd, F_SETFL, flags | O_NONBLOCK) < 0)
		return err_sys(err, errno, "rdma: completion channel");
	queue->cq = ibv_create_cq(verbs, QUEUE * 2, NULL, queue->channel, 0);
	if (!queue->cq)
		return err_sys(err, errno, "rdma: completion queue");
	if (ibv_req_notify_cq(queue->cq, 0))
		return err_set(err, -EIO, "rdma: completion queue: no events");
	return 0;
}

static void queue_close(struct vlink_queue *queue)
{
	if (queue->cq)
		ibv_destroy_cq(queue->cq);
	if (queue->channel)
		ibv_destroy_comp_channel(queue->channel);
}

/* The next completion, if there is one */
static int queue_look(struct vlink_queue *queue, struct ibv_wc *wc, struct wh_err *err)
{
	int count = ibv_poll_cq(queue->cq, 1, wc);

	if (count < 0)
		return err_set(err, -EIO, "rdma: completion queue cannot be read");
	if (count > 0 && wc->status == IBV_WC_WR_FLUSH_ERR)
		return err_set(err, -ENOTCONN, "rdma: the connection has ended");
	if (count > 0 && wc->status == IBV_WC_RETRY_EXC_ERR)
		return err_set(err, -ETIMEDOUT, "rdma: the peer acknowledges nothing any more");
	if (count > 0 && wc->status != IBV_WC_SUCCESS)
		return err_set(err, -EIO, "rdma: %s", ibv_wc_status_str(wc->status));
	return count;
}

/*
 * The same. When it returns 0 the descriptor becomes readable with the one after: the events that
 * were are taken, then the queue is armed, then looked at once more for what came between the two.
 */
static int queue_next(struct vlink_queue *queue, struct ibv_wc *wc, struct wh_err *err)
{
	int count = queue_look(queue, wc, err);
	struct ibv_cq *cq;
	void *context;

	if (count)
		return count;
	while (ibv_get_cq_event(queue->channel, &cq, &context) == 0)
		ibv_ack_cq_events(cq, 1);
	if (ibv_req_notify_cq(queue->cq, 0))
		return err_set(err, -EIO, "rdma: completion queue: no events");
	return queue_look(queue, wc, err);
}

int vlink_open(struct vlink *link, struct wh_err *err)
{
	struct ibv_qp_init_attr attr = {
		.cap = { .max_send_wr = QUEUE,
			 .max_recv_wr = QUEUE,
			 .max_send_sge = 1,
			 .max_recv_sge = 1 },
		.qp_type = IBV_QPT_RC,
	};
	struct ibv_context *verbs = link->id->verbs;
	int ret;

	link->pd = ibv_alloc_pd(verbs);
	if (!link->pd)
		return err_sys(err, errno, "rdma: protection domain");
	ret = queue_open(&link->send, verbs, err);
	if (ret == 0)
		ret = queue_open(&link->receive, verbs, err);
	if (ret < 0)
		return ret;
	attr.send_cq = link->send.cq;
	attr.recv_cq = link->receive.cq;
	if (rdma_create_qp(link->id, link->pd, &attr) < 0)
		return err_sys(err, errno, "rdma: queue pair");
	/* Pages of its own: what is pinned is not shared with anything after a fork() */
	link->memory = mmap(NULL, memory_bytes(link), PROT_READ | PROT_WRITE,
			    MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	if (link->memory == MAP_FAILED) {
		link->memory = NULL;
		return err_sys(err, errno, "rdma: no memory for messages");
	}
	link->mr = ibv_reg_mr(link->pd, link->memory, memory_bytes(link), IBV_ACCESS_LOCAL_WRITE);
	if (!link->mr)
		return err_sys(err, errno, "rdma: pinning the %zu KiB for messages (ulimit -l)",
			       memory_bytes(link) >> 10);
	return 0;
}

/* The queue pair first: nothing is written into memory whose registration ends */
void vlink_release(struct vlink *link)
{
	if (link->id && link->id->qp)
		rdma_destroy_qp(link->id);
	if (link->mr)
		ibv_dereg_mr(link->mr);
	if (link->memory)
		munmap(link->memory, memory_bytes(link));
	queue_close(&link->send);
	queue_close(&link->receive);
	if (link->pd)
		ibv_dealloc_pd(link->pd);
	link->pd = NULL;
	link->mr = NULL;
	link->memory = NULL;
	link->send = link->receive = (struct vlink_queue){ 0 };
}

int vlink_receive(struct vlink *link, struct wh_err *err)
{
	unsigned slot = link->posted % link->room.receives;
	struct ibv_sge sge = {
		.addr = (uintptr_t)link->memory + slot * link->room.bytes,
		.length = (uint32_t)link->room.bytes,
		.lkey = link->mr->lkey,
	};
	struct ibv_recv_wr wr = { .sg_list = &sge, .num_sge = 1 };
	struct ibv_recv_wr *bad;
	int ret = ibv_post_recv(link->id->qp, &wr, &bad);

	if (ret)
		return err_sys(err, ret, "rdma: receive");
	link->posted++;
	return 0;
}

/* What was looked for in a queue: a link whose queue fails is broken */
static int noted(struct vlink *link, int ret)
{
	if (ret < 0)
		link->broken = true;
	return ret;
}

int vlink_received(struct vlink *link, const uint8_t **at, size_t *bytes, struct wh_err *err)
{
	struct ibv_wc wc;
	int ret = noted(link, queue_next(&link->receive, &wc, err));

	if (ret <= 0)
		return ret;
	/* they are used in the order in which they were posted */
	*at = link->memory + link->taken++ % link->room.receives * link->room.bytes;
	*bytes = wc.byte_len;
	return 1;
}

int vlink_receive_fd(const struct vlink *link)
{
	return link->receive.channel->fd;
}

static void count_sent(struct vlink *link, const struct ibv_wc *wc)
{
	link->sending -= wc->wr_id & 0xffff;
	link->written += wc->wr_id >> 16 & 0xffff;
	link->messages -= (unsigned)(wc->wr_id >> 32);
}

int vlink_reap(struct vlink *link, struct wh_err *err)
{
	struct ibv_wc wc;
	int ret;

	while ((ret = queue_look(&link->send, &wc, err)) > 0)
		count_sent(link, &wc);
	return noted(link, ret);
}

int vlink_room(struct vlink *link, uint8_t **at, struct wh_err *err)
{
	struct ibv_wc wc;
	int ret;

	while ((ret = queue_next(&link->send, &wc, err)) > 0)
		count_sent(link, &wc);
	if (noted(link, ret) < 0)
		return ret;
	*at = link->memory + receive_bytes(link) + link->next * VLINK_SEND_MAX;
	return link->messages < VLINK_SENDS;
}

/* Its completion, if it has one, is that of what is quiet in front of it as well */
static int post(struct vlink *link, struct ibv_send_wr *wr, unsigned writes, unsigned messages,
		struct wh_err *err)
{
	struct ibv_send_wr *bad;
	int ret;

	wr->wr_id = TELLS(link->quiet + 1, link->quiet_writes + writes, messages);
	ret = ibv_post_send(link->id->qp, wr, &bad);
	if (ret)
		return err_sys(err, ret, "rdma: send");
	link->sending++;
	link->messages += messages;
	link->quiet++;
	link->quiet_writes += writes;
	if (wr->send_flags & IBV_SEND_SIGNALED)
		link->quiet = link->quiet_writes = 0;
	return 0;
}

int vlink_send(struct vlink *link, size_t bytes, struct wh_err *err)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)link->memory + receive_bytes(link) + link->next * VLINK_SEND_MAX,
		.length = (uint32_t)bytes,
		.lkey = link->mr->lkey,
	};
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_SEND,
		.send_flags = IBV_SEND_SIGNALED,
	};
	int ret = post(link, &wr, 0, 1, err);

	if (ret == 0)
		link->next = (link->next + 1) % VLINK_SENDS;
	return ret;
}

int vlink_write(struct vlink *link, const struct vlink_write *write, struct wh_err *err)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)write->from,
		.length = write->length,
		.lkey = write->lkey,
	};
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_WRITE,
		.send_flags = write->signal ? IBV_SEND_SIGNALED : 0,
		.wr.rdma = { .remote_addr = write->to, .rkey = write->rkey },
	};

	return post(link, &wr, 1, 0, err);
}

const uint8_t *vlink_stage(const struct vlink *link)
{
	return link->memory + stage_at(link);
}

int vlink_read(struct vlink *link, size_t at, uint32_t length, uint64_t from, uint32_t rkey,
	       struct wh_err *err)
{
	struct ibv_sge sge = {
		.addr = (uintptr_t)link->memory + stage_at(link) + at,
		.length = length,
		.lkey = link->mr->lkey,
	};
	struct ibv_send_wr wr = {
		.sg_list = &sge,
		.num_sge = 1,
		.opcode = IBV_WR_RDMA_READ,
		.send_flags = IBV_SEND_SIGNALED,
		.wr.rdma = { .remote_addr = from, .rkey = rkey },
	};

	return post(link, &wr, 1, 0, err);
}

int vlink_probe(struct vlink *link, struct wh_err *err)
{
	/* of no bytes neither address nor key are looked at */
	struct ibv_send_wr wr = { .opcode = IBV_WR_RDMA_WRITE, .send_flags = IBV_SEND_SIGNALED };

	return post(link, &wr, 0, 0, err);
}

int vlink_send_fd(const struct vlink *link)
{
	return link->send.channel->fd;
}
