/* SPDX-License-Identifier: MIT */
/*
 * What a VMM does for its migration: setting one up, and the callbacks. They come on the
 * library's threads, or on the one that calls wh_process(). Where the guest's functions
 * have the right shape, the library calls them itself.
 */
#include "machine.h"

#include <errno.h>

static void on_event(void *opaque, const struct wh_event *event)
{
	const struct vmm *vmm = opaque;

	vmm->config.event(vmm->config.opaque, event);
}

/*
 * What a device has in guest memory: here the program, which is to be the one that runs.
 * Looking at it may wait for the page, so it is not for the thread that fetches pages.
 */
static void *loader_main(void *arg)
{
	struct vmm *vmm = arg;
	struct wh_err err = { 0 };
	int ret = ram_verify_page(vmm, 0, &err);

	if (ret)
		vmm->config.log(NULL, WH_LOG_ERROR, err.text);
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

bool vmm_loaded(struct vmm *vmm)
{
	if (vmm->loading && __atomic_load_n(&vmm->loaded, __ATOMIC_ACQUIRE))
		vmm->loading = pthread_join(vmm->loader, NULL);
	return !vmm->loading;
}

int vmm_migration_new(struct vmm *vmm, const char *uri, const struct wh_config *how,
		      struct wh_migration **migration, struct wh_err *err)
{
	const struct wh_callbacks callbacks = {
		.event = on_event,
		.log = vmm->config.log,
		.pause = guest_park,
		.resume = guest_run,
		.device_save = guest_save,
		.dirty_start = vmm->ops->dirty_start, /* NULL: the library logs writes */
		.dirty_sync = vmm->ops->dirty_sync,
		.dirty_stop = vmm->ops->dirty_stop,
		.device_load = on_device_load,
		.start = guest_run,
	};
	struct wh_config config = *how;
	bool dest = vmm->config.incoming;
	int ret;

	config.callbacks = &callbacks;
	config.opaque = vmm;
	ret = wh_new(migration, dest ? WH_DEST : WH_SOURCE, &config, err);
	if (ret)
		return ret;
	ret = wh_add_block(*migration, &vmm->ram, err);
	if (!ret)
		ret = (dest ? wh_listen : wh_connect)(*migration, uri, err);
	if (ret)
		wh_free(*migration);
	else
		vmm->migration = *migration;
	return ret;
}
