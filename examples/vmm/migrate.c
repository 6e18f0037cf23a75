/* SPDX-License-Identifier: MIT */
/*
 * What a VMM does for its migration: the callbacks, and setting one up. Callbacks come on
 * the library's threads, or on ours with --own-loop. Where the guest's functions have the
 * right shape, the library calls them itself.
 */
#include "vmm.h"

#include <errno.h>
#include <inttypes.h>
#include <sys/eventfd.h>

static void on_event(void *opaque, const struct wh_event *event)
{
	const struct vmm *vmm = opaque;

	if (vmm->monitor)
		wh_qmp_event(vmm->monitor, event);
	if (event->kind == WH_EVENT_ROUND)
		say("round", ",\"round\":%" PRIu64, event->round);
	else
		say_phase(event->phase, event->err ? event->err->text : "");
	eventfd_write(vmm->wake_fd, 1);
}

/*
 * What a device has in guest memory: here the program, which is to be the one that runs.
 * Looking at it may wait for the page, so it is not for the thread that fetches pages.
 */
static void *loader_main(void *arg)
{
	struct vmm *vmm = arg;
	struct wh_err err = { 0 };
	int ret = ram_verify_program(vmm, &err);

	if (ret)
		say_log(NULL, WH_LOG_ERROR, err.text);
	__atomic_store_n(&vmm->loaded, true, __ATOMIC_RELEASE);
	wh_device_loaded(vmm->migration, ret);
	return NULL;
}

static int on_device_load(void *opaque, const void *data, size_t length,
			  enum wh_device_format format, struct wh_err *err)
{
	struct vmm *vmm = opaque;

	if (format != WH_DEVICE_OWN)
		return fail(err, -EPROTO, "device state of another VMM");
	if (guest_load(vmm, data, length, err))
		return err->code;
	if (pthread_create(&vmm->loader, NULL, loader_main, vmm))
		return fail(err, -EAGAIN, "no thread to look at guest memory");
	vmm->loading = true;
	return WH_PENDING;
}

int vmm_migrate(struct vmm *vmm, const char *uri, struct wh_err *err)
{
	const struct wh_callbacks callbacks = {
		.event = on_event,
		.log = say_log,
		.pause = guest_park,
		.resume = guest_run,
		.device_save = guest_save,
		.dirty_start = vmm->ops->dirty_start, /* NULL: the library logs writes */
		.dirty_sync = vmm->ops->dirty_sync,
		.dirty_stop = vmm->ops->dirty_stop,
		.device_load = on_device_load,
		.start = guest_run,
	};
	struct wh_migration *last = vmm->migration; /* it has failed */
	int ret;

	vmm->config.callbacks = &callbacks;
	vmm->config.opaque = vmm;
	vmm->migration = NULL;
	monitor_set(vmm);
	wh_free(last);
	ret = wh_new(&vmm->migration, vmm->listen ? WH_DEST : WH_SOURCE, &vmm->config, err);
	if (!ret)
		ret = wh_add_block(vmm->migration, &vmm->ram, err);
	if (!ret)
		ret = vmm->listen ? wh_listen(vmm->migration, uri, err) :
				    wh_connect(vmm->migration, uri, err);
	if (!ret)
		monitor_set(vmm);
	if (!ret && !vmm->own_loop)
		ret = wh_start(vmm->migration, err);
	vmm->migrating = !ret;
	if (!ret)
		return 0;
	last = vmm->migration;
	vmm->migration = NULL;
	monitor_set(vmm);
	wh_free(last);
	return ret;
}
