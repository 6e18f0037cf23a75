/* SPDX-License-Identifier: MIT */
/*
 * Edge: memory registration.
 */
#include "rdma/memory.h"

#include "base/err.h"
#include "rdma/probe.h"
#include "wire/control.h"

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <sys/resource.h>

int vmem_open(struct vmem *vmem, struct ibv_pd *pd, bool local, unsigned blocks, struct wh_err *err)
{
	*vmem = (struct vmem){ .pd = pd, .local = local, .bits = CONTROL_CHUNK_BITS };
	vmem->block = calloc(blocks, sizeof(*vmem->block));
	return vmem->block ? 0 : err_set(err, -ENOMEM, "rdma: no memory for %u blocks", blocks);
}

void vmem_on_demand(struct vmem *vmem)
{
	const uint32_t needs = vmem->lent ? IBV_ODP_SUPPORT_READ : IBV_ODP_SUPPORT_WRITE;

	vmem->on_demand = verbs_on_demand(vmem->pd->context) & needs;
}

static uint64_t chunks(const struct vmem *vmem, const struct vmem_block *block)
{
	return (block->length + (UINT64_C(1) << vmem->bits) - 1) >> vmem->bits;
}

int vmem_add(struct vmem *vmem, uint8_t *addr, uint64_t length, struct wh_err *err)
{
	struct vmem_block *block = &vmem->block[vmem->blocks];

	*block = (struct vmem_block){ .addr = addr, .length = length };
	block->chunk = calloc(chunks(vmem, block), sizeof(*block->chunk));
	if (!block->chunk)
		return err_set(err, -ENOMEM, "rdma: no memory for %llu chunks",
			       (unsigned long long)chunks(vmem, block));
	vmem->blocks++;
	return 0;
}

uint64_t vmem_room(uint64_t max)
{
	struct rlimit limit;

	/* whoever has CAP_IPC_LOCK may have more; not in every name space of users, so that is not counted on */
	if (getrlimit(RLIMIT_MEMLOCK, &limit) < 0)
		return 0;
	if (!max)
		max = UINT64_MAX;
	return limit.rlim_cur == RLIM_INFINITY || limit.rlim_cur > max ? max : limit.rlim_cur;
}

static unsigned long long kib(uint64_t bytes)
{
	return bytes >> 10;
}

/* What may be pinned has been: whoever gives some of it back may have more. Which limit it is, is told */
static int no_room(const struct vmem *vmem, uint64_t bytes, int code, struct wh_err *err)
{
	struct rlimit limit = { 0 };

	(void)getrlimit(RLIMIT_MEMLOCK, &limit);
	if (!code)
		return err_set(err, -ENOMEM,
			       "rdma: pinning %llu KiB beside %llu KiB: the limit is %llu KiB",
			       kib(bytes), kib(vmem->pinned), kib(vmem->max));
	if (code != EAGAIN && limit.rlim_cur != RLIM_INFINITY)
		return err_set(err, -ENOMEM,
			       "rdma: pinning %llu KiB beside %llu KiB: the limit is %llu KiB "
			       "(ulimit -l)",
			       kib(bytes), kib(vmem->pinned), kib(limit.rlim_cur));
	return err_set(err, -ENOMEM, "rdma: pinning %llu KiB beside %llu KiB: %s", kib(bytes),
		       kib(vmem->pinned),
		       code == EAGAIN ? "the control group may have no more (rdma.max)" :
					"there is no memory");
}

static int failed(const struct vmem *vmem, uint64_t bytes, int code, struct wh_err *err)
{
	if (code == EFAULT)
		return err_set(err, -EFAULT,
			       "rdma: pinning %llu KiB: it is not all there, or cannot be written",
			       kib(bytes));
	if (code == ENOMEM || code == EAGAIN || code == EPERM)
		return no_room(vmem, bytes, code, err);
	return err_sys(err, code, "rdma: pinning %llu KiB beside %llu KiB", kib(bytes),
		       kib(vmem->pinned));
}

/* QEMU takes a key of 0 for none: if a device gives that, it is asked for another */
static struct ibv_mr *reg(const struct vmem *vmem, void *addr, uint64_t bytes, int how)
{
	/* what is read only may be memory that cannot be written, too */
	const int access = how | (vmem->local ? 0 :
				  vmem->lent  ? IBV_ACCESS_REMOTE_READ :
						IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE);
	struct ibv_mr *mr = ibv_reg_mr(vmem->pd, addr, bytes, access);
	struct ibv_mr *second;

	if (!mr || mr->rkey || vmem->local)
		return mr;
	second = ibv_reg_mr(vmem->pd, addr, bytes, access);
	ibv_dereg_mr(mr);
	return second;
}

/* What a device says that it can, a kernel may not let it do with this memory */
static void reg_on_demand(struct vmem *vmem, struct vmem_chunk *chunk, uint8_t *addr,
			  uint64_t bytes)
{
	if (!vmem->on_demand)
		return;
	chunk->mr = reg(vmem, addr, bytes, IBV_ACCESS_ON_DEMAND);
	chunk->pinned = false;
	/* which the control group may have no more of, pinned or not */
	if (chunk->mr || errno == EAGAIN)
		return;
	err_sys(&vmem->refused, errno, "rdma: memory is pinned, as on-demand paging was refused");
	vmem->on_demand = false;
}

static int grant(struct vmem *vmem, struct vmem_chunk *chunk, uint8_t *addr, uint64_t bytes,
		 uint32_t *key, struct wh_err *err)
{
	if (!chunk->mr) {
		reg_on_demand(vmem, chunk, addr, bytes);
		if (!chunk->mr && vmem->max && bytes > vmem->max - vmem->pinned)
			return no_room(vmem, bytes, 0, err);
		if (!chunk->mr) {
			chunk->mr = reg(vmem, addr, bytes, 0);
			chunk->pinned = true;
		}
		if (!chunk->mr)
			return failed(vmem, bytes, errno, err);
		vmem->bytes += bytes;
		vmem->pinned += chunk->pinned ? bytes : 0;
	}
	*key = vmem->local ? chunk->mr->lkey : chunk->mr->rkey;
	return 0;
}

int vmem_grant(struct vmem *vmem, unsigned block, uint64_t chunk, uint32_t *key, struct wh_err *err)
{
	struct vmem_block *b = &vmem->block[block];
	uint64_t offset = chunk << vmem->bits;
	uint64_t bytes = b->length - offset;

	if (bytes > UINT64_C(1) << vmem->bits)
		bytes = UINT64_C(1) << vmem->bits;
	return grant(vmem, &b->chunk[chunk], b->addr + offset, bytes, key, err);
}

int vmem_grant_whole(struct vmem *vmem, unsigned block, uint32_t *key, struct wh_err *err)
{
	struct vmem_block *b = &vmem->block[block];

	return grant(vmem, &b->whole, b->addr, b->length, key, err);
}

static int take_back(struct vmem *vmem, struct vmem_chunk *chunk, struct wh_err *err)
{
	uint64_t bytes;
	int ret;

	if (!chunk->mr)
		return 0;
	bytes = chunk->mr->length;
	ret = ibv_dereg_mr(chunk->mr);
	if (ret)
		return err_sys(err, ret, "rdma: unpinning %llu KiB", kib(bytes));
	vmem->bytes -= bytes;
	vmem->pinned -= chunk->pinned ? bytes : 0;
	chunk->mr = NULL;
	return 0;
}

int vmem_revoke(struct vmem *vmem, unsigned block, uint64_t chunk, struct wh_err *err)
{
	return take_back(vmem, &vmem->block[block].chunk[chunk], err);
}

void vmem_close(struct vmem *vmem)
{
	for (unsigned i = 0; i < vmem->blocks; i++) {
		struct vmem_block *block = &vmem->block[i];

		(void)take_back(vmem, &block->whole, NULL);
		for (uint64_t chunk = 0; chunk < chunks(vmem, block); chunk++)
			(void)take_back(vmem, &block->chunk[chunk], NULL);
		free(block->chunk);
	}
	free(vmem->block);
	*vmem = (struct vmem){ 0 };
}
