/* SPDX-License-Identifier: MIT */
/*
 * A migration is begun, driven to its end, and freed, here: by the library's threads, which
 * wake the main loop, or with --own-loop by the main loop itself.
 */
#include "console.h"

#include <errno.h>
#include <sys/eventfd.h>

static void on_event(void *opaque, const struct wh_event *event)
{
	const struct console *console = opaque;

	if (console->monitor)
		wh_qmp_event(console->monitor, event);
	say_event(event);
	eventfd_write(console->wake_fd, 1);
}

static void on_running(void *opaque, bool running)
{
	const struct console *console = opaque;

	if (console->monitor)
		wh_qmp_set_running(console->monitor, running);
}

int drive_open(struct console *console, struct wh_err *err)
{
	struct vmm_config *guest = &console->guest;

	console->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (console->wake_fd < 0)
		return fail(err, -errno, "eventfd: %m");
	guest->incoming = console->listen || console->replica;
	guest->opaque = console;
	guest->event = on_event;
	guest->protect_event = guard_event;
	guest->log = say_log;
	guest->running = on_running;
	return vmm_new(&console->vmm, guest, err);
}

enum wh_phase drive_phase(const struct console *console)
{
	return console->migration ? wh_get_phase(console->migration) : WH_PHASE_SETUP;
}

int drive_idle(const struct console *console, struct wh_err *err)
{
	enum wh_phase phase = drive_phase(console);
	bool failed = phase == WH_PHASE_FAILED || phase == WH_PHASE_CANCELLED;
	bool here = console->listen ? phase == WH_PHASE_DONE : !console->migration || failed;
	enum wh_protect_state state = guard_state(console);

	if (state != WH_PROTECT_RELEASED && state != WH_PROTECT_TAKEOVER)
		return fail(err, -EBUSY, "the guest is protected, or not here (%s)",
			    wh_protect_state_name(state));
	if (!console->migrating && here)
		return 0;
	return fail(err, -EBUSY, "the guest is being moved, or not here (%s)",
		    wh_phase_name(phase));
}

/* The monitor is to tell of this one from here on, and of the last one no more. */
static void migration_set(struct console *console, struct wh_migration *migration)
{
	struct wh_migration *last = console->migration;

	if (console->monitor)
		wh_qmp_set_migration(console->monitor, migration,
				     console->listen ? WH_DEST : WH_SOURCE);
	console->migration = migration;
	wh_free(last);
}

int drive_begin(struct console *console, const char *uri, const struct wh_config *config,
		struct wh_err *err)
{
	struct wh_migration *migration;
	struct vmm_status status;

	if (console->listen && console->migration)
		return fail(err, -EBUSY, "one guest is awaited already, or here");
	if (console->replica)
		return fail(err, -EBUSY, "a guest that came here stays");
	if (!console->listen && drive_idle(console, err))
		return err->code;
	vmm_get_status(console->vmm, &status);
	if (!console->listen && !status.running) /* the destination would let it run */
		return fail(err, -EBUSY, "the guest is stopped: cont first");
	if (vmm_migration_new(console->vmm, uri, config, &migration, err))
		return err->code;
	migration_set(console, migration);
	if (!console->own_loop && wh_start(migration, err)) {
		migration_set(console, NULL);
		return err->code;
	}
	console->migrating = true;
	if (console->listen)
		say_listening(migration);
	return 0;
}

int drive_fd(const struct console *console)
{
	if (!console->own_loop)
		return console->wake_fd;
	return console->migrating ? wh_fd(console->migration) : -1;
}

bool drive_ending(const struct console *console)
{
	return console->migrating && wh_phase_ended(drive_phase(console));
}

int drive_step(struct console *console, struct wh_err *err)
{
	eventfd_t count;
	int ret = 1;

	eventfd_read(console->wake_fd, &count);
	if (console->own_loop && console->migrating)
		ret = wh_process(console->migration, err);
	else if (drive_ending(console))
		ret = wh_wait(console->migration, -1, err);
	if (ret == 1)
		return 1;
	console->migrating = false;
	return drive_phase(console) == WH_PHASE_DONE ? 0 : -EIO;
}

void drive_end(struct console *console)
{
	if (console->vmm && !vmm_loaded(console->vmm))
		return;
	migration_set(console, NULL);
	guard_end(console);
	wh_qmp_free(console->monitor);
}
