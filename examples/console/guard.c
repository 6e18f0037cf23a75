/* SPDX-License-Identifier: MIT */
/*
 * A protection is begun, told of, and freed, here; a thread of the library's drives it.
 */
#include "console.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <sys/eventfd.h>

void guard_event(void *opaque, const struct wh_protect_event *event)
{
	struct console *console = opaque;
	bool complete = event->to == WH_PROTECT_RUN || event->to == WH_PROTECT_READY;
	bool passes = wh_protect_cycles(event->from) && wh_protect_cycles(event->to);

	if (console->monitor)
		wh_qmp_protect_event(console->monitor, event);
	if (!passes || (complete && !console->complete))
		say("checkpoint", "%s%s,\"epoch\":%" PRIu64 ",\"generation\":%" PRIu64 "%s",
		    member("state", wh_protect_state_name(event->to)).text,
		    member("from", wh_protect_state_name(event->from)).text, event->epoch,
		    event->generation, member("error", event->err ? event->err->text : "").text);
	console->complete = complete || (console->complete && event->to != WH_PROTECT_DEGRADED);
	eventfd_write(console->wake_fd, 1);
}

enum wh_protect_state guard_state(const struct console *console)
{
	struct wh_protect_status status = { .state = WH_PROTECT_RELEASED };

	if (console->protect)
		wh_protect_get_status(console->protect, &status);
	return status.state;
}

/* The monitor is to tell of this one from here on, and of the last one no more. */
static void protect_set(struct console *console, struct wh_protect *protect, enum wh_role role)
{
	struct wh_protect *last = console->protect;

	if (console->monitor)
		wh_qmp_set_protect(console->monitor, protect, role);
	console->protect = protect;
	wh_protect_free(last);
	console->complete = false;
}

/* What its network card sends is held by this process, the kernel, another process, or nobody */
static int plug_open(struct console *console, struct wh_err *err)
{
	static const enum wh_netplug_edge edges[] = { WH_NETPLUG_QUEUE, WH_NETPLUG_PLUG };
	struct wh_netplug_config config;

	if (!console->guest.nic || console->hold == HOLD_NONE || console->plug)
		return 0;
	wh_netplug_config_init(&config);
	if (console->holder) {
		config.edge = WH_NETPLUG_HOLDER;
		config.name = console->holder;
		config.answer_ns = console->protection.lease_ns / 2;
	} else {
		config.edge = edges[console->hold];
		config.name = console->guest.nic;
		config.nics = &console->guest.nic;
		config.nic_count = 1;
	}
	return wh_netplug_new(&console->plug, &config, err);
}

static int start(struct console *console, enum wh_role role, const char *uri, const char *pulse_uri,
		 struct wh_err *err)
{
	struct wh_protect *protect;

	if (!console->protection.generation_file)
		return fail(err, -EINVAL,
			    "--generation is missing: which file has the number of "
			    "the session?");
	/* who gives the right says with it that all output that matters is held */
	console->protection.output_held = console->protection.authority == WH_PROTECT_ALONE;
	if (vmm_protect_new(console->vmm, role, uri, pulse_uri, &console->protection, &protect,
			    err))
		return err->code;
	protect_set(console, protect, role);
	if (wh_protect_start(protect, err)) {
		protect_set(console, NULL, role);
		return err->code;
	}
	return 0;
}

int guard_begin(struct console *console, const char *uri, const char *pulse_uri,
		const struct wh_protect_pace *pace, struct wh_err *err)
{
	struct vmm_status status;

	if (drive_idle(console, err))
		return err->code;
	vmm_get_status(console->vmm, &status);
	if (!status.running)
		return fail(err, -EBUSY, "the guest is stopped: cont first");
	protect_set(console, NULL, WH_SOURCE);
	if (plug_open(console, err))
		return err->code;
	console->protection.plug = console->plug;
	if (pace)
		console->protection.pace = *pace;
	return start(console, WH_SOURCE, uri, pulse_uri, err);
}

int guard_listen(struct console *console, struct wh_err *err)
{
	if (start(console, WH_DEST, console->replica, console->pulse, err))
		return err->code;
	say("listening", "%s", member("uri", wh_protect_listen_uri(console->protect)).text);
	return 0;
}

void guard_end(struct console *console)
{
	protect_set(console, NULL, WH_SOURCE);
	wh_netplug_free(console->plug);
	console->plug = NULL;
}

struct member guard_figures(const struct console *console)
{
	struct wh_protect_status s;
	struct member m = { "" };

	if (!console->protect)
		return m;
	wh_protect_get_status(console->protect, &s);
	snprintf(m.text, sizeof(m.text),
		 ",\"checkpoint\":{\"state\":\"%s\",\"epoch\":%" PRIu64 ",\"checkpoints\":%" PRIu64
		 ",\"interval_ns\":%" PRIu64 ",\"stop_ns\":%" PRIu64 ",\"stop_max_ns\":%" PRIu64
		 ",\"stop_sum_ns\":%" PRIu64 ",\"ack_ns\":%" PRIu64 ",\"dirty_bytes\":%" PRIu64
		 ",\"wire_bytes\":%" PRIu64 ",\"bytes\":%" PRIu64 ",\"held_packets\":%" PRIu64
		 ",\"held_bytes\":%" PRIu64 "}",
		 wh_protect_state_name(s.state), s.epoch, s.checkpoints, s.interval_ns, s.stop_ns,
		 s.stop_max_ns, s.stop_sum_ns, s.ack_ns, s.dirty_bytes, s.wire_bytes, s.bytes,
		 s.held_packets, s.held_bytes);
	return m;
}
