/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: the floor over RDMA, for a page that is waited for: read the fault, read the page from the
 * other end's memory, sleep until that is complete, place it. One connection, all of the memory
 * registered, and librdmacm's own calls.
 */
#ifndef WH_NO_RDMA
#include "base/bytes.h"
#include "selftests/lib/bench_floor.h"

#include <rdma/rdma_cma.h>
#include <rdma/rdma_verbs.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#define PORT "4799"
#define KEY_BYTES 12 /* where the memory is, and its key: said in connecting */

static struct ibv_qp_init_attr attr = {
	.cap = { .max_send_wr = 4, .max_recv_wr = 1, .max_send_sge = 1, .max_recv_sge = 1 },
	.sq_sig_all = 1,
};

static struct rdma_cm_id *endpoint(const struct bench_load *load, int flags)
{
	struct rdma_addrinfo hints = { .ai_port_space = RDMA_PS_TCP, .ai_flags = flags }, *list;
	struct rdma_cm_id *id = NULL;

	if (rdma_getaddrinfo(load->rdma, PORT, &hints, &list))
		return NULL;
	if (rdma_create_ep(&id, list, NULL, &attr))
		id = NULL;
	rdma_freeaddrinfo(list);
	return id;
}

static void serve_faults(struct floor_dest *dest, struct rdma_cm_id *id, struct ibv_mr *mr,
			 uint64_t from, uint32_t key)
{
	uint64_t page = bench_page(dest->load->memory);
	struct uffd_msg msg;
	struct ibv_wc wc;

	floor_hurry();
	while (read(dest->uffd, &msg, sizeof(msg)) == sizeof(msg)) {
		uint64_t offset =
			(msg.arg.pagefault.address & ~(page - 1)) - (uintptr_t)dest->memory;

		bench_hop(dest->shared, BENCH_HOP_FAULT);
		bench_hop(dest->shared, BENCH_HOP_REQUEST);
		if (rdma_post_read(id, NULL, dest->page, page, mr, 0, from + offset, key))
			return;
		floor_follow(dest, msg.arg.pagefault.feat.ptid);
		if (rdma_get_send_comp(id, &wc) != 1 || wc.status != IBV_WC_SUCCESS)
			return;
		bench_hop(dest->shared, BENCH_HOP_ARRIVED);
		floor_place_page(dest, offset);
		bench_hop(dest->shared, BENCH_HOP_PLACED);
	}
}

static void dest_main(const struct bench_side *side, struct floor_dest *dest)
{
	struct rdma_conn_param param = { .initiator_depth = 1, .rnr_retry_count = 7 };
	struct rdma_cm_id *listener = endpoint(side->load, RAI_PASSIVE), *id;
	uint8_t said[KEY_BYTES];
	struct ibv_mr *mr;

	if (!listener || floor_prepare(dest) < 0 || floor_arm(dest) < 0 ||
	    rdma_listen(listener, 1) < 0)
		return;
	bench_stamp(&side->shared->ready_ns);
	if (rdma_get_request(listener, &id) < 0)
		return;
	memcpy(said, id->event->param.conn.private_data, sizeof(said));
	mr = rdma_reg_msgs(id, dest->page, bench_page(side->load->memory));
	if (!mr || rdma_accept(id, &param) < 0)
		return;
	bench_stamp(&side->shared->postcopy_ns);
	serve_faults(dest, id, mr, get_be64(said), get_be32(said + 8));
}

static void source_main(const struct bench_side *side, void *memory)
{
	uint8_t say[KEY_BYTES];
	struct rdma_conn_param param = {
		.private_data = say,
		.private_data_len = sizeof(say),
		.responder_resources = 1,
		.retry_count = 7,
		.rnr_retry_count = 7,
	};
	struct rdma_cm_id *id = endpoint(side->load, 0);
	struct ibv_mr *mr;

	bench_fill(memory, side->load->bytes);
	mr = id ? rdma_reg_read(id, memory, side->load->bytes) : NULL;
	if (!mr)
		return;
	put_be64(say, (uintptr_t)memory);
	put_be32(say + 8, mr->rkey);
	if (rdma_connect(id, &param) == 0)
		bench_stamp(&side->shared->ready_ns);
	for (;;)
		pause();
}

static int run(struct bench_side *side, bool source)
{
	struct floor_dest dest = { .load = side->load, .shared = side->shared, .cpu = -1 };
	pid_t *pid = source ? &side->source : &side->dest;

	side->shared->ready_ns = 0;
	dest.memory = bench_map(side->load, source, &dest.fd);
	if (dest.memory == MAP_FAILED)
		return -1;
	if (!source)
		side->base = (uintptr_t)dest.memory;
	*pid = bench_fork();
	if (*pid == 0) {
		if (source)
			source_main(side, dest.memory);
		else
			dest_main(side, &dest);
		_exit(1);
	}
	munmap(dest.memory, side->load->bytes);
	if (dest.fd >= 0)
		close(dest.fd);
	return bench_wait(side, &side->shared->ready_ns);
}

static int floor_start(struct bench_side *side)
{
	int ret = run(side, false);

	return ret < 0 ? ret : run(side, true);
}

static int floor_go(struct bench_side *side)
{
	return bench_wait(side, &side->shared->postcopy_ns);
}

static void floor_stop(struct bench_side *side)
{
	bench_kill(&side->source);
	bench_kill(&side->dest);
}

const struct bench_kind bench_floor_rdma = {
	.start = floor_start,
	.go = floor_go,
	.stop = floor_stop,
};
#endif
