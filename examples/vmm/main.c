/* SPDX-License-Identifier: MIT */
/*
 * wherry-vmm: a small VMM that moves its guest with libwherry.
 *
 * A source runs a guest and does what stdin says; a destination (--listen) waits for one.
 * When the guest was moved both end, the destination after it has looked at every byte.
 * When it was not, a destination whose guest never ran ends; whoever has the guest, or
 * memory of it that is nowhere else, stays until it is told to quit. So does everybody with
 * a monitor, since there may be more to ask.
 */
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

#define STATUS_MS 200
#define RUN_ON_US 100000       /* the moved guest, before it is verified */
#define LAST_WORD_WAIT_MS 5000 /* for somebody who reads */

static int vmm_open(struct vmm *vmm, struct wh_err *err)
{
	int flags = O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC;

	signal(SIGPIPE, SIG_IGN);
	setvbuf(stdin, NULL, _IONBF, 0); /* what poll() says of it is all there is */
	vmm->wake_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vmm->serial_fd = vmm->serial ? open(vmm->serial, flags, 0644) : -1;
	if (vmm->wake_fd < 0 || (vmm->serial && vmm->serial_fd < 0))
		return fail(err, -errno, "serial port: %m");
	vmm->ops = vmm->threads || !kvm_cpus ? &thread_cpus : kvm_cpus;
	if (vmm->ops == kvm_cpus && access("/dev/kvm", R_OK | W_OK) < 0) {
		say_log(NULL, WH_LOG_WARNING, "no /dev/kvm: plain threads are the processors");
		vmm->ops = &thread_cpus;
	}
	if (ram_open(vmm, err) || guest_open(vmm, err) || monitor_open(vmm, err))
		return err->code;
	if (vmm->listen) {
		if (strcmp(vmm->listen, "defer") != 0 && vmm_migrate(vmm, vmm->listen, err))
			return err->code;
	} else {
		ram_fill(vmm);
		if (guest_run(vmm, err))
			return err->code;
	}
	say("guest", "%s%s,\"vcpus\":%u,\"ram_bytes\":%" PRIu64,
	    member("what", vmm->listen ? "is awaited" : "runs").text,
	    member("cpus_by", vmm->ops->name).text, vmm->cpus, vmm->ram.length);
	if (vmm->migration)
		say("listening", "%s", member("uri", wh_listen_uri(vmm->migration)).text);
	return 0;
}

/* Where it is. What the library makes is an object: its members go among ours. */
static void say_status(const struct vmm *vmm, const char *kind, const char *more)
{
	char figures[2048] = "";
	struct wh_stats stats;
	size_t length = 1;

	if (vmm->migration) {
		wh_get_stats(vmm->migration, &stats);
		length = wh_stats_json(&stats, figures, sizeof(figures));
		figures[0] = ',';
	}
	say(kind, "%s%s,\"serial_chars\":%" PRIu64 "%.*s", more,
	    member("guest", guest_pausing(vmm) ? "paused" : "running").text,
	    __atomic_load_n(&vmm->serial_chars, __ATOMIC_RELAXED), (int)length - 1, figures);
}

/* With how long each processor stood still for missing pages */
static void say_summary(const struct vmm *vmm, int ret, const struct wh_err *err)
{
	struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };
	struct wh_thread_wait waits[2 * CPUS_MAX];
	unsigned count = 0;
	char more[3072];
	int n;

	n = snprintf(more, sizeof(more), "%s,\"verified\":%s%s,\"vcpus\":[",
		     member("result", ret ? "failed" : "ok").text,
		     !ret && vmm->listen ? "true" : "false",
		     member("error", ret ? err->text : "").text);
	if (vmm->listen && vmm->migration)
		count = wh_get_thread_waits(vmm->migration, waits, 2 * CPUS_MAX);
	for (unsigned i = 0; i < vmm->cpus && vmm->listen; i++) {
		pid_t tid = __atomic_load_n(&vmm->cpu[i].tid, __ATOMIC_RELAXED);
		struct wh_thread_wait wait = { .tid = (uint32_t)tid };

		for (unsigned w = 0; w < count && w < 2 * CPUS_MAX; w++)
			wait = waits[w].tid == wait.tid ? waits[w] : wait;
		n += snprintf(more + n, sizeof(more) - (size_t)n,
			      "%s{\"tid\":%u,\"faults\":%" PRIu64 ",\"waited_ns\":%" PRIu64 "}",
			      i ? "," : "", wait.tid, wait.faults, wait.waited_ns);
	}
	snprintf(more + n, sizeof(more) - (size_t)n, "]");
	poll(&out, 1, LAST_WORD_WAIT_MS);
	say_status(vmm, "summary", more);
}

static void recover(const struct vmm *vmm, const char *uri, struct wh_err *err)
{
	if (!wh_recover(vmm->migration, uri, err))
		say("listening", "%s", member("uri", wh_listen_uri(vmm->migration)).text);
}

/* A line of stdin. Return: false if it is quit */
static bool command(struct vmm *vmm, char *line)
{
	enum wh_phase phase = vmm->migration ? wh_get_phase(vmm->migration) : WH_PHASE_FAILED;
	const char *word = strtok(line, " \n");
	const char *uri = strtok(NULL, "\n");
	struct wh_err err = { 0 };

	if (!word)
		return true;
	if (!strcmp(word, "quit"))
		return false;
	/* Again too, if the guest is here for certain */
	if (!strcmp(word, "migrate") && uri &&
	    (phase == WH_PHASE_FAILED || phase == WH_PHASE_CANCELLED)) {
		if (vmm_migrate(vmm, uri, &err))
			say_phase(WH_PHASE_FAILED, err.text);
		return true;
	}
	if (vmm->migration && !strcmp(word, "postcopy"))
		wh_start_postcopy(vmm->migration, &err);
	else if (vmm->migration && !strcmp(word, "cancel"))
		wh_cancel(vmm->migration, &err);
	else if (vmm->migration && !strcmp(word, "pause"))
		wh_pause(vmm->migration, &err);
	else if (vmm->migration && uri && !strcmp(word, "resume"))
		wh_resume(vmm->migration, uri, &err);
	else if (vmm->migration && uri && !strcmp(word, "recover"))
		recover(vmm, uri, &err);
	else
		fail(&err, -EINVAL,
		     "not now: %s (migrate URI, postcopy, cancel, pause, recover URI, resume URI, quit)",
		     word);
	if (err.code)
		say_log(NULL, WH_LOG_ERROR, err.text);
	return true;
}

/* The last migration is over, but for wh_wait() or wh_process() saying so. */
static bool ending(const struct vmm *vmm)
{
	return vmm->migrating && wh_phase_ended(wh_get_phase(vmm->migration));
}

/* The guest was moved: what is left to be done before the end */
static int finish(struct vmm *vmm, struct wh_err *err)
{
	if (!vmm->listen)
		return 0;
	usleep(RUN_ON_US);
	guest_park(vmm, err);
	return ram_verify(vmm, err);
}

/* Return: 1 it goes on, or this process does; 0 moved; or a negative errno */
static int migration_step(struct vmm *vmm, struct wh_err *err)
{
	enum wh_phase phase;
	int ret = 1;

	if (vmm->own_loop)
		ret = wh_process(vmm->migration, err);
	else if (ending(vmm))
		ret = wh_wait(vmm->migration, -1, err);
	if (ret == 1)
		return 1;
	vmm->migrating = false;
	phase = wh_get_phase(vmm->migration);
	if (phase != WH_PHASE_DONE) /* what went wrong is in @err, should it be told to quit */
		return vmm->listen && phase == WH_PHASE_FAILED ? -EIO : 1;
	return vmm->monitor ? 1 : finish(vmm, err);
}

static int vmm_quit(struct vmm *vmm, struct wh_err *err)
{
	bool moved = vmm->migration && wh_get_phase(vmm->migration) == WH_PHASE_DONE;

	return moved ? finish(vmm, err) : -EINTR;
}

static int vmm_loop(struct vmm *vmm, struct wh_err *err)
{
	struct pollfd fds[] = {
		{ .fd = STDIN_FILENO, .events = POLLIN },
		{ .fd = vmm->wake_fd, .events = POLLIN },
		{ .fd = -1, .events = POLLIN },
		{ .fd = vmm->monitor ? wh_qmp_fd(vmm->monitor) : -1, .events = POLLIN },
	};
	uint64_t status_ms = 0;
	eventfd_t count;
	char line[512];
	int ret = 1;

	while (ret == 1) {
		fds[2].fd = vmm->own_loop && vmm->migrating ? wh_fd(vmm->migration) : -1;
		if (poll(fds, 4, STATUS_MS) > 0 && fds[0].revents && !ending(vmm)) {
			if (!fgets(line, sizeof(line), stdin))
				fds[0].fd = -1; /* no more commands, and nothing else */
			else if (!command(vmm, line))
				vmm->quitting = true;
		}
		if (vmm->monitor && wh_qmp_process(vmm->monitor, err))
			return err->code;
		if (vmm->quitting)
			return vmm_quit(vmm, err);
		eventfd_read(vmm->wake_fd, &count);
		if (vmm->migrating)
			ret = migration_step(vmm, err);
		if (ret == 1 && now_ms() >= status_ms) {
			status_ms = now_ms() + STATUS_MS;
			say_status(vmm, "status", "");
		}
	}
	return ret;
}

int main(int argc, char **argv)
{
	static struct vmm vmm;
	struct wh_err err = { 0 };
	int ret;

	options_read(&vmm, argc, argv);
	ret = vmm_open(&vmm, &err);
	if (!ret)
		ret = vmm_loop(&vmm, &err);
	say_summary(&vmm, ret, &err);
	/* If not, the loader waits for a page that never comes, and then needs it still. */
	if (!vmm.loading ||
	    (__atomic_load_n(&vmm.loaded, __ATOMIC_ACQUIRE) && !pthread_join(vmm.loader, NULL))) {
		if (vmm.monitor)
			wh_qmp_set_migration(vmm.monitor, NULL, WH_SOURCE);
		wh_free(vmm.migration);
		wh_qmp_free(vmm.monitor);
	}
	return ret ? 1 : 0;
}
