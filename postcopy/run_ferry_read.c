/* SPDX-License-Identifier: MIT */
/*
 * Joining: what the destination reads from the source's memory by itself, at the source. It is told
 * keys here, of chunks that are registered when they are asked for, and nothing is seen of its reads.
 *
 * Keys are told from the switch to postcopy on. The guest is stopped then, and does not run here any
 * more: what is read is what would be sent. Losing the connection is nobody's loss: the destination asks
 * for what it does not get.
 */
#ifndef WH_NO_RDMA
#include "postcopy/ferry.h"
#include "postcopy/on_demand.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>

static_assert(VREAD_BLOCKS_MAX >= RAM_BLOCKS_MAX, "every block is one of its own");
static_assert(VLINK_SEND_MAX >= VREAD_MESSAGE, "it fits");

/* One who is resumed by asks for all: see run_read.c */
bool ferry_read_offered(const struct ferry *ferry)
{
	const struct wh_config *config = &ferry->m->config;

	return ferry->has_back && config->postcopy && config->rdma_read_max &&
	       wh_get_phase(ferry->m) != WH_PHASE_PAUSED;
}

/* One chunk more would be. What precopy has pinned is so until the end */
static bool is_beyond_limit(const struct ferry *ferry)
{
	const struct wh_config *config = &ferry->m->config;
	const struct vmem *lent = &ferry->lent;
	uint64_t pinned = ferry->memory.pinned + lent->pinned + CONTROL_CHUNK;

	if (lent->bytes + CONTROL_CHUNK > config->rdma_read_max)
		return true;
	return config->rdma_pin_max && !lent->on_demand && pinned > config->rdma_pin_max;
}

/* Without a key it asks: neither limit nor a lack of memory is an error */
static uint32_t op_key(void *ctx, unsigned block, uint64_t chunk)
{
	struct ferry *ferry = ctx;
	struct vmem *lent = &ferry->lent;
	struct wh_err err = { 0 };
	uint32_t key = 0;

	if (!lent->block[block].chunk[chunk].mr && is_beyond_limit(ferry))
		return 0;
	if (vmem_grant(lent, block, chunk, &key, &err) < 0)
		key = 0;
	on_demand_look(ferry->m, lent);
	return key;
}

static const struct vlend_ops lend_ops = { op_key };

int ferry_read_begin(struct ferry *ferry, struct wh_err *err)
{
	const struct wh_migration *m = ferry->m;
	int ret;

	vlend_init(&ferry->lend, &lend_ops, ferry);
	ret = vmem_open(&ferry->lent, ferry->read.pd, false, m->regions, err);
	ferry->lent.lent = true;
	if (ret == 0)
		on_demand_begin(m, &ferry->lent);
	for (unsigned i = 0; i < m->regions && ret == 0; i++) {
		const struct region *region = &m->region[i];

		ret = vmem_add(&ferry->lent, region->addr, region->length, err);
		vlend_add_block(&ferry->lend, (uintptr_t)region->addr, region->length);
	}
	return ret;
}

/* The queue pair goes before the memory that is read through it */
void ferry_read_end(struct ferry *ferry)
{
	vlink_disconnect(&ferry->read);
	vmem_close(&ferry->lent);
	vlink_close(&ferry->read);
}

static bool is_lent(const struct ferry *ferry)
{
	enum source_phase phase = source_get_phase(ferry->m->source->engine);

	return phase == SOURCE_POSTCOPY || phase == SOURCE_ENDING;
}

static int answer(struct ferry *ferry, const uint8_t *message, size_t bytes, struct wh_err *err)
{
	size_t length;
	uint8_t *at;
	int ret = vlink_room(&ferry->read, &at, err);

	if (ret < 0)
		return ret;
	/* it asks once more when it has been answered */
	if (!ret || !is_lent(ferry))
		return err_set(err, -EPROTO, "rdma: a request for keys%s",
			       ret ? " before postcopy" : ", before the last ones were answered");
	ret = vlend_take(&ferry->lend, message, bytes, at, &length, err);
	if (ret == 0)
		ret = vlink_receive(&ferry->read, err);
	return ret < 0 ? ret : vlink_send(&ferry->read, length, err);
}

static int turn(struct ferry *ferry, struct wh_err *err)
{
	const uint8_t *message;
	size_t bytes;
	uint8_t *at;
	int ret;

	while ((ret = vlink_event(&ferry->read, err)) > 0)
		;
	if (ret == 0)
		ret = vlink_room(&ferry->read, &at, err);
	while (ret >= 0 && (ret = vlink_received(&ferry->read, &message, &bytes, err)) > 0)
		ret = answer(ferry, message, bytes, err);
	return ret;
}

int ferry_read_turn(struct ferry *ferry, struct wh_err *err)
{
	enum source_phase phase = source_get_phase(ferry->m->source->engine);
	struct wh_err why = { 0 };
	int ret;

	/* What is over says nothing of who asks */
	if (!ferry->read.up || ferry->read_over || phase == SOURCE_PAUSED ||
	    source_phase_ended(phase))
		return 0;
	ret = turn(ferry, &why);
	if (ret == -EPROTO)
		*err = why;
	ferry->read_over = ret < 0;
	if (ret < 0)
		return ret == -EPROTO ? ret : 0;
	ferry_watch(ferry, &ferry->read_event, vlink_event_fd(&ferry->read), POLLIN);
	ferry_watch(ferry, &ferry->read_receive, vlink_receive_fd(&ferry->read), POLLIN);
	ferry_watch(ferry, &ferry->read_send, vlink_send_fd(&ferry->read), POLLIN);
	return 0;
}
#endif
