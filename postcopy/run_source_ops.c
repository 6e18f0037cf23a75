/* SPDX-License-Identifier: MIT */
/*
 * Joining: the source engine's view of the world: the VMM's callbacks, and the log
 * of written pages.
 */
#include "postcopy/run_source.h"

#include <errno.h>
#include <stdlib.h>

int run_source_log_start(struct wh_migration *m, struct wh_err *err)
{
	struct source_side *side = m->source;
	int ret = 0;

	if (!m->cb.dirty_sync) {
		ret = dirty_log_open(&side->log, m->region, m->regions, err);
		side->own_log = ret == 0;
	} else if (m->cb.dirty_start) {
		ret = m->cb.dirty_start(m->config.opaque, err);
		if (ret < 0 && err && !err->text[0])
			err_sys(err, ret, "starting to log writes");
	}
	side->logging = ret == 0;
	return ret;
}

/* Bulk loop, or after it. */
void run_source_log_stop(struct wh_migration *m)
{
	struct source_side *side = m->source;

	if (!side->logging)
		return;
	side->logging = false;
	if (side->own_log)
		dirty_log_close(&side->log);
	else if (m->cb.dirty_stop)
		m->cb.dirty_stop(m->config.opaque);
}

static int op_dirty_sync(void *ctx, unsigned block, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	struct source_side *side = m->source;
	const struct region *region = &m->region[block];
	struct wh_block public = {
		.name = region->name,
		.addr = region->addr,
		.length = region->length,
		.page_size = region->page_size,
		.fd = region->fd,
		.fd_offset = region->fd_offset,
	};
	int64_t ret;

	/* Before postcopy only the bulk thread looks at these bits: no atomics needed. */
	if (side->own_log)
		ret = dirty_log_scan(&side->log, block, side->block[block].dirty, err);
	else
		ret = m->cb.dirty_sync(m->config.opaque, &public, side->block[block].dirty,
				       region->length / TARGET_PAGE, err);
	if (ret < 0 && err && !err->text[0])
		return err_sys(err, (int)ret, "block '%s': reading the log of writes",
			       region->name);
	return ret < 0 ? (int)ret : 0;
}

static int op_pause(void *ctx, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	int ret = m->cb.pause ? m->cb.pause(m->config.opaque, err) : 0;

	if (ret < 0 && err && !err->text[0])
		return err_sys(err, ret, "pausing the guest");
	return ret;
}

static int op_resume(void *ctx, struct wh_err *err)
{
	struct wh_migration *m = ctx;
	int ret = m->cb.resume ? m->cb.resume(m->config.opaque, err) : 0;

	if (ret < 0)
		run_log(m, WH_LOG_ERROR, "the guest could not be resumed: error %d", -ret);
	return ret;
}

static int op_device(void *ctx, const void **data, size_t *length, enum wh_device_format *format,
		     struct wh_err *err)
{
	struct wh_migration *m = ctx;
	struct source_side *side = m->source;
	int ret;

	/* Without any there is no section either: a QEMU would not know ours. */
	*format = m->cb.device_save ? m->config.device_format : WH_DEVICE_QEMU;
	if (m->cb.device_save) {
		free(side->device);
		side->device = NULL;
		side->device_length = 0;
		ret = m->cb.device_save(m->config.opaque, &side->device, &side->device_length, err);
		if (ret < 0)
			return err && err->text[0] ? ret : err_sys(err, ret, "saving device state");
	}
	*data = side->device;
	*length = side->device_length;
	return 0;
}

static int op_open_urgent(void *ctx, struct wh_err *err)
{
	return source_side_open_urgent(ctx, err);
}

static void op_moved(void *ctx, enum source_phase from, enum source_phase to,
		     const struct wh_err *err)
{
	struct wh_migration *m = ctx;
	enum wh_phase before = source_phase_public(from);
	enum wh_phase phase = source_phase_public(to);
	struct wh_err cancelled = { 0 };

	/* The last sync is behind us: logging more would only cost. */
	if (to == SOURCE_POSTCOPY || to == SOURCE_HANDOVER)
		run_source_log_stop(m);
	if (to == SOURCE_CANCELLED && !err) {
		err_set(&cancelled, -ECANCELED, "the migration was cancelled");
		err = &cancelled;
	}
	if (before != phase || err)
		run_moved(m, phase, err);
}

static void op_asked(void *ctx)
{
	loop_wake(((struct wh_migration *)ctx)->bulk);
}

static void op_serve(void *ctx)
{
	loop_wake(((struct wh_migration *)ctx)->fault);
}

static void op_round(void *ctx, uint64_t round, uint64_t bytes, uint64_t dirty_pages)
{
	struct wh_migration *m = ctx;
	struct wh_event event = { .kind = WH_EVENT_ROUND,
				  .phase = wh_get_phase(m),
				  .round = round };

	run_log(m, WH_LOG_DEBUG, "round %llu: %llu bytes, %llu pages dirty",
		(unsigned long long)round, (unsigned long long)bytes,
		(unsigned long long)dirty_pages);
	if (m->cb.event)
		m->cb.event(m->config.opaque, &event);
}

static void op_beside_open(void *ctx)
{
	ferry_beside_open(ctx);
}

static bool op_beside_page(void *ctx, unsigned block, uint64_t page)
{
	return ferry_beside_page(ctx, block, page);
}

static bool op_beside_close(void *ctx)
{
	return ferry_beside_close(ctx);
}

const struct source_ops run_source_ops = {
	.dirty_sync = op_dirty_sync,
	.pause = op_pause,
	.resume = op_resume,
	.device = op_device,
	.open_urgent = op_open_urgent,
	.moved = op_moved,
	.asked = op_asked,
	.serve = op_serve,
	.round = op_round,
	.random = run_random,
	.beside_open = op_beside_open,
	.beside_page = op_beside_page,
	.beside_close = op_beside_close,
};
