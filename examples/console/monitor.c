/* SPDX-License-Identifier: MIT */
/*
 * --qmp SOCKET: the monitor of libwherry-qmp, driven by the main loop. Its callbacks come
 * on the main thread, as the commands of stdin do.
 */
#include "console.h"

#include <errno.h>

static int on_stop(void *opaque, struct wh_err *err)
{
	const struct console *console = opaque;

	return drive_idle(console, err) ? err->code : guest_park(console->vmm, err);
}

static int on_cont(void *opaque, struct wh_err *err)
{
	const struct console *console = opaque;

	return drive_idle(console, err) ? err->code : guest_run(console->vmm, err);
}

static int on_migrate(void *opaque, const char *uri, const struct wh_config *config,
		      struct wh_err *err)
{
	struct console *console = opaque;

	if (console->listen)
		return fail(err, -EBUSY, "a guest that came here stays");
	return drive_begin(console, uri, config, err);
}

/* --listen defer, and now it is known where */
static int on_incoming(void *opaque, const char *uri, const struct wh_config *config,
		       struct wh_err *err)
{
	struct console *console = opaque;

	if (!console->listen)
		return fail(err, -EBUSY, "'--listen' was not specified on the command line");
	return drive_begin(console, uri, config, err);
}

static int on_protect(void *opaque, const char *uri, const char *pulse_uri,
		      const struct wh_protect_pace *pace, struct wh_err *err)
{
	return guard_begin(opaque, uri, pulse_uri, pace, err);
}

static void on_quit(void *opaque)
{
	struct console *console = opaque;

	console->quitting = true;
}

static unsigned on_vcpus(void *opaque, uint32_t *tids, unsigned room)
{
	const struct console *console = opaque;
	struct vmm_status status;

	vmm_get_status(console->vmm, &status);
	for (unsigned i = 0; i < console->guest.cpus && i < room; i++)
		tids[i] = status.tids[i];
	return console->guest.cpus;
}

int monitor_open(struct console *console, struct wh_err *err)
{
	const struct wh_qmp_callbacks callbacks = {
		.migrate = on_migrate,
		.incoming = on_incoming,
		.stop = on_stop,
		.cont = on_cont,
		.quit = on_quit,
		.protect = on_protect,
		.vcpus = on_vcpus,
	};
	struct wh_qmp_config config;

	wh_qmp_config_init(&config);
	config.path = console->qmp;
	config.callbacks = &callbacks;
	config.opaque = console;
	config.defaults = &console->config;
	return console->qmp ? wh_qmp_new(&console->monitor, &config, err) : 0;
}
