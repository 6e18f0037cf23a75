/* SPDX-License-Identifier: MIT */
/*
 * What a VMM does to have its guest protected, or to be where it would go on: the callbacks.
 * They come on the protection's thread.
 */
#include "machine.h"

#include <errno.h>

static void on_event(void *opaque, const struct wh_protect_event *event)
{
	const struct vmm *vmm = opaque;

	if (event->to == WH_PROTECT_FENCED && vmm->config.running)
		vmm->config.running(vmm->config.opaque, false);
	vmm->config.protect_event(vmm->config.opaque, event);
}

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	const struct vmm *vmm = opaque;

	vmm->config.log(NULL, level, line);
}

/* For a moment, many times a second: nobody is told that it does not run */
static int on_pause(void *opaque, struct wh_err *err)
{
	(void)err;
	cpus_park(opaque);
	return 0;
}

static int on_resume(void *opaque, struct wh_err *err)
{
	return cpus_run(opaque, err);
}

/* It does not run here until all is over, so that what is looked at may as well be taken */
static int on_device_check(void *opaque, const void *data, size_t length, struct wh_err *err)
{
	return guest_load(opaque, data, length, err);
}

static int on_run(void *opaque, const void *data, size_t length, struct wh_err *err)
{
	if (guest_load(opaque, data, length, err) || ram_verify_page(opaque, 0, err))
		return err->code;
	return guest_run(opaque, err);
}

int vmm_protect_new(struct vmm *vmm, enum wh_role role, const char *uri, const char *pulse_uri,
		    const struct wh_protect_config *how, struct wh_protect **protect,
		    struct wh_err *err)
{
	const struct wh_protect_callbacks callbacks = {
		.event = on_event,
		.log = on_log,
		.pause = on_pause,
		.resume = on_resume,
		.device_save = guest_save,
		.dirty_start = vmm->ops->dirty_start, /* NULL: the library tracks writes */
		.dirty_sync = vmm->ops->dirty_sync,
		.dirty_stop = vmm->ops->dirty_stop,
		.device_check = on_device_check,
		.run = on_run,
	};
	struct wh_protect_config config = *how;
	int ret;

	config.callbacks = &callbacks;
	config.opaque = vmm;
	ret = wh_protect_new(protect, role, &config, err);
	if (ret)
		return ret;
	ret = wh_protect_add_block(*protect, &vmm->ram, err);
	if (!ret)
		ret = (role == WH_DEST ? wh_protect_listen : wh_protect_connect)(*protect, uri,
										 pulse_uri, err);
	if (ret)
		wh_protect_free(*protect);
	return ret;
}
