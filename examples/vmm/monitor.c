/* SPDX-License-Identifier: MIT */
/*
 * --qmp SOCKET: the monitor of libwherry-qmp, driven by the main loop. Its callbacks come
 * on the main thread, as the commands of stdin do.
 */
#include "vmm.h"

#include <errno.h>

/*
 * Processors may be stopped and started here only while nobody moves the guest: the
 * library does so on its own thread, and one that waits for a missing page would not stop.
 */
static int check_idle(const struct vmm *vmm, struct wh_err *err)
{
	enum wh_phase phase = vmm->migration ? wh_get_phase(vmm->migration) : WH_PHASE_SETUP;
	bool is_here = vmm->listen ? phase == WH_PHASE_DONE :
				     !vmm->migration || phase == WH_PHASE_FAILED ||
					     phase == WH_PHASE_CANCELLED;

	if (!vmm->migrating && is_here)
		return 0;
	return fail(err, -EBUSY, "the guest is being moved, or not here (%s)",
		    wh_phase_name(phase));
}

static int on_stop(void *opaque, struct wh_err *err)
{
	struct vmm *vmm = opaque;

	if (check_idle(vmm, err))
		return err->code;
	return guest_pausing(vmm) ? 0 : guest_park(vmm, err);
}

static int on_cont(void *opaque, struct wh_err *err)
{
	struct vmm *vmm = opaque;

	if (check_idle(vmm, err))
		return err->code;
	return guest_pausing(vmm) ? guest_run(vmm, err) : 0;
}

static int on_migrate(void *opaque, const char *uri, const struct wh_config *config,
		      struct wh_err *err)
{
	struct vmm *vmm = opaque;

	if (check_idle(vmm, err))
		return err->code;
	if (vmm->listen)
		return fail(err, -EBUSY, "a guest that came here stays");
	if (guest_pausing(vmm)) /* the destination would let it run */
		return fail(err, -EBUSY, "the guest is stopped: cont first");
	vmm->config = *config;
	return vmm_migrate(vmm, uri, err);
}

/* --listen defer, and now it is known where */
static int on_incoming(void *opaque, const char *uri, const struct wh_config *config,
		       struct wh_err *err)
{
	struct vmm *vmm = opaque;

	if (!vmm->listen)
		return fail(err, -EBUSY, "'--listen' was not specified on the command line");
	vmm->config = *config;
	if (!vmm_migrate(vmm, uri, err))
		say("listening", "%s", member("uri", wh_listen_uri(vmm->migration)).text);
	return err->code;
}

static void on_quit(void *opaque)
{
	struct vmm *vmm = opaque;

	vmm->quitting = true;
}

static unsigned on_vcpus(void *opaque, uint32_t *tids, unsigned room)
{
	const struct vmm *vmm = opaque;

	for (unsigned i = 0; i < vmm->cpus && i < room; i++)
		tids[i] = (uint32_t)__atomic_load_n(&vmm->cpu[i].tid, __ATOMIC_RELAXED);
	return vmm->cpus;
}

int monitor_open(struct vmm *vmm, struct wh_err *err)
{
	const struct wh_qmp_callbacks callbacks = {
		.migrate = on_migrate,
		.incoming = on_incoming,
		.stop = on_stop,
		.cont = on_cont,
		.quit = on_quit,
		.vcpus = on_vcpus,
	};
	struct wh_qmp_config config;

	wh_qmp_config_init(&config);
	config.path = vmm->qmp;
	config.callbacks = &callbacks;
	config.opaque = vmm;
	config.defaults = &vmm->config;
	return vmm->qmp ? wh_qmp_new(&vmm->monitor, &config, err) : 0;
}

void monitor_set(const struct vmm *vmm)
{
	if (vmm->monitor)
		wh_qmp_set_migration(vmm->monitor, vmm->migration,
				     vmm->listen ? WH_DEST : WH_SOURCE);
}
