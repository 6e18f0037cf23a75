/* SPDX-License-Identifier: MIT */
/*
 * wherry-vmm: a small VMM that moves its guest with libwherry.
 *
 * A source runs a guest and does what stdin says; a destination (--listen) waits for one.
 * When the guest was moved both end, the destination after it has looked at every byte.
 * When it was not, a destination whose guest never ran ends; whoever has the guest, or
 * memory of it that is nowhere else, stays until it is told to quit. So does everybody with
 * a monitor, since there may be more to ask.
 *
 * A guest can be protected by a process that is its replica (--replica). Both stay until they
 * are told to quit, and the one whose guest goes on looks at every byte then: a replica that has
 * taken over, a source that was released.
 */
#include "console.h"

#include <errno.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define STATUS_MS 200
#define RUN_ON_US 100000 /* before it is verified */

static int console_open(struct console *console, struct wh_err *err)
{
	const char *listen = console->listen;

	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdin, NULL, _IONBF, 0); /* what poll() says of it is all there is */
	if (monitor_open(console, err) || drive_open(console, err))
		return err->code;
	say_guest(console);
	if (console->replica)
		return guard_listen(console, err);
	if (!listen || !strcmp(listen, "defer"))
		return 0;
	return drive_begin(console, listen, &console->config, err);
}

static bool moved(const struct console *console)
{
	return drive_phase(console) == WH_PHASE_DONE;
}

/* Of the two that there were it is the guest here that goes on */
static bool survived(const struct console *console)
{
	enum wh_protect_state state = guard_state(console);

	if (console->replica)
		return state == WH_PROTECT_TAKEOVER;
	return console->complete && state == WH_PROTECT_RELEASED &&
	       drive_phase(console) == WH_PHASE_SETUP;
}

/* It was moved, or has survived: what is left to be done before the end */
static int finish(struct console *console, struct wh_err *err)
{
	int ret;

	if (!console->guest.incoming && !survived(console))
		return 0;
	usleep(RUN_ON_US);
	ret = guest_park(console->vmm, err) ? err->code : ram_verify(console->vmm, err);
	console->verified = !ret;
	return ret;
}

/* Return: 1 it goes on, or this process does; 0 moved; or a negative errno */
static int console_step(struct console *console, struct wh_err *err)
{
	int ret = drive_step(console, err);

	if (ret < 0) /* what went wrong is in @err, should it be told to quit */
		return console->listen && drive_phase(console) == WH_PHASE_FAILED ? ret : 1;
	return ret || console->monitor ? 1 : finish(console, err);
}

static int console_loop(struct console *console, struct wh_err *err)
{
	struct pollfd fds[] = {
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = -1, .events = POLLIN },
		{ .fd = console->monitor ? wh_qmp_fd(console->monitor) : -1, .events = POLLIN },
	};
	uint64_t status_ms = 0;
	char line[512];
	int ret;

	while ((ret = console_step(console, err)) == 1) {
		if (now_ms() >= status_ms) {
			status_ms = now_ms() + STATUS_MS;
			say_status(console, "status", "");
		}
		fds[1].fd = drive_fd(console);
		if (poll(fds, 3, STATUS_MS) > 0 && fds[0].revents && !drive_ending(console)) {
			if (fgets(line, sizeof(line), stdin))
				command(console, line);
			else
				fds[0].fd = -1; /* no more commands, and nothing else */
		}
		if (console->monitor && wh_qmp_process(console->monitor, err))
			return err->code;
		if (console->quitting)
			return moved(console) || survived(console) ? finish(console, err) : -EINTR;
	}
	return ret;
}

int main(int argc, char **argv)
{
	static struct console console;
	struct wh_err err = { 0 };
	int ret;

	options_read(&console, argc, argv);
	ret = console_open(&console, &err);
	if (!ret)
		ret = console_loop(&console, &err);
	say_summary(&console, ret, &err);
	drive_end(&console);
	return ret ? 1 : 0;
}
