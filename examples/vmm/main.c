/* SPDX-License-Identifier: MIT */
/*
 * wherry-vmm: a small VMM that moves its guest with libwherry.
 *
 * One poll loop: signals, what the library's callbacks noted, and with --own-loop the
 * migration itself.
 */
#include "vmm.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define STATUS_SPAN_NS (200 * NS_PER_MS)

enum stage {
	STAGE_WARM, /* source: the guest runs, nothing has begun */
	STAGE_MIGRATE,
	STAGE_AFTER, /* destination: all of it is here, the guest runs on */
	STAGE_HOLD,  /* it did not end well: the process goes on, see --hold */
	STAGE_END
};

struct vmm {
	struct options options;
	struct report report;
	struct guest guest;
	struct mover mover;
	struct verdict verdict;
	enum stage stage;
	uint64_t stage_ns;  /* when it began */
	uint64_t status_ns; /* next status line */
	int signal_fd;
};

static void stage_move(struct vmm *vmm, enum stage stage)
{
	vmm->stage = stage;
	vmm->stage_ns = now_ns();
}

/* Something went wrong that nothing can be done about; the first one is said. */
static void went_wrong(struct vmm *vmm, const struct wh_err *err)
{
	vmm->verdict.code = 1;
	if (!vmm->verdict.err.code)
		vmm->verdict.err = *err;
}

static int machine_open(struct vmm *vmm, struct wh_err *err)
{
	const struct options *options = &vmm->options;
	struct guest *guest = &vmm->guest;
	int ret;

	guest->cpus = options->cpus;
	guest->rate = options->rate;
	guest->serial_fd = -1;
	guest->ops = kvm_cpus && !options->threads ? kvm_cpus : &thread_cpus;
	if (guest->ops != &thread_cpus && access("/dev/kvm", R_OK | W_OK) < 0) {
		report_log(&vmm->report, WH_LOG_WARNING,
			   "/dev/kvm cannot be used: plain threads are the processors");
		guest->ops = &thread_cpus;
	}
	if (options->serial) {
		guest->serial_fd =
			open(options->serial, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
		if (guest->serial_fd < 0)
			return fail(err, -errno, "%s: %m", options->serial);
	}
	ret = ram_open(&guest->ram, options->memory, options->ram_bytes, err);
	return ret ? ret : guest_open(guest, err);
}

static int signals_open(struct vmm *vmm, struct wh_err *err)
{
	sigset_t set;

	sigemptyset(&set);
	sigaddset(&set, SIGINT);
	sigaddset(&set, SIGTERM);
	/* Before there are threads, so that none of them gets one. */
	pthread_sigmask(SIG_BLOCK, &set, NULL);
	signal(SIGPIPE, SIG_IGN);
	vmm->signal_fd = signalfd(-1, &set, SFD_CLOEXEC | SFD_NONBLOCK);
	if (vmm->signal_fd < 0)
		return fail(err, -errno, "signalfd: %m");
	return 0;
}

static int vmm_open(struct vmm *vmm, struct wh_err *err)
{
	int ret = signals_open(vmm, err);

	if (!ret)
		ret = machine_open(vmm, err);
	if (!ret)
		ret = mover_open(&vmm->mover, &vmm->options, &vmm->guest, err);
	if (ret)
		return ret;
	if (vmm->options.side == SIDE_SOURCE) {
		ram_fill(&vmm->guest);
		guest_run(&vmm->guest);
		report_guest(&vmm->report, &vmm->guest, "runs");
		stage_move(vmm, STAGE_WARM);
		return 0;
	}
	report_guest(&vmm->report, &vmm->guest, "is awaited");
	ret = mover_begin(&vmm->mover, err);
	if (ret)
		return ret;
	report_listening(&vmm->report, wh_listen_uri(vmm->mover.migration));
	stage_move(vmm, STAGE_MIGRATE);
	return 0;
}

static void verify(struct vmm *vmm)
{
	struct wh_err err = { 0 };
	uint64_t begin;

	guest_park(&vmm->guest);
	begin = now_ns();
	if (ram_verify(&vmm->guest, &err))
		went_wrong(vmm, &err);
	else
		vmm->verdict.verified = true;
	vmm->verdict.verify_ms = (double)(now_ns() - begin) / (double)NS_PER_MS;
}

/* It has ended: who has the guest? */
static void migrated(struct vmm *vmm, int result, const struct wh_err *err)
{
	enum wh_phase phase = wh_get_phase(vmm->mover.migration);
	struct wh_err failure = *err;

	if (phase == WH_PHASE_DONE && !result) {
		stage_move(vmm, vmm->options.side == SIDE_DEST ? STAGE_AFTER : STAGE_END);
		return;
	}
	if (!failure.code)
		fail(&failure, result ? result : -EIO, "the migration ended as '%s'",
		     wh_phase_name(phase));
	went_wrong(vmm, &failure);
	stage_move(vmm, STAGE_HOLD);
}

static void start_postcopy(struct vmm *vmm)
{
	struct wh_err err = { 0 };

	if (wh_start_postcopy(vmm->mover.migration, &err))
		report_log(&vmm->report, WH_LOG_ERROR, err.text);
}

static void round_ended(struct vmm *vmm, uint64_t round)
{
	report_round(&vmm->report, round);
	if (vmm->options.postcopy_at_round == round)
		start_postcopy(vmm);
}

static void notes_print(struct vmm *vmm)
{
	eventfd_t count;
	struct note note;

	eventfd_read(vmm->mover.notes_fd, &count);
	while (mover_note(&vmm->mover, &note)) {
		if (note.log)
			report_log(&vmm->report, note.level, note.text);
		else if (note.event.kind == WH_EVENT_ROUND)
			round_ended(vmm, note.event.round);
		else
			report_phase(&vmm->report, note.event.phase, note.text);
	}
}

/* Each of the two things that may be due while it migrates, once. */
static void commands(struct vmm *vmm)
{
	uint64_t since_ns = now_ns() - vmm->stage_ns;
	struct options *options = &vmm->options;
	struct wh_err err = { 0 };

	if (options->side != SIDE_SOURCE)
		return;
	if (options->postcopy_at_ns >= 0 && since_ns >= (uint64_t)options->postcopy_at_ns) {
		options->postcopy_at_ns = -1;
		start_postcopy(vmm);
	}
	if (options->cancel_at_ns >= 0 && since_ns >= (uint64_t)options->cancel_at_ns) {
		options->cancel_at_ns = -1;
		if (wh_cancel(vmm->mover.migration, &err))
			report_log(&vmm->report, WH_LOG_ERROR, err.text);
	}
}

static void migrating(struct vmm *vmm)
{
	struct wh_err err = { 0 };
	int ret;

	commands(vmm);
	if (vmm->options.own_loop) {
		ret = wh_process(vmm->mover.migration, &err);
		if (ret == 1)
			return;
	} else {
		if (!wh_phase_ended(wh_get_phase(vmm->mover.migration)))
			return;
		ret = wh_wait(vmm->mover.migration, -1, &err);
	}
	notes_print(vmm);
	migrated(vmm, ret, &err);
}

static void stage_step(struct vmm *vmm)
{
	uint64_t since_ns = now_ns() - vmm->stage_ns;
	struct wh_err err = { 0 };

	switch (vmm->stage) {
	case STAGE_WARM:
		if (since_ns < vmm->options.migrate_after_ns)
			break;
		stage_move(vmm, STAGE_MIGRATE);
		if (mover_begin(&vmm->mover, &err)) {
			went_wrong(vmm, &err);
			report_log(&vmm->report, WH_LOG_ERROR, err.text);
			stage_move(vmm, STAGE_HOLD);
			break;
		}
		migrating(vmm); /* with the own loop the first step begins it */
		break;
	case STAGE_MIGRATE:
		migrating(vmm);
		break;
	case STAGE_AFTER:
		if (since_ns < vmm->options.run_after_ns)
			break;
		verify(vmm);
		stage_move(vmm, STAGE_END);
		break;
	case STAGE_HOLD:
		if (vmm->options.hold_ns >= 0 && since_ns >= (uint64_t)vmm->options.hold_ns)
			stage_move(vmm, STAGE_END);
		break;
	case STAGE_END:
		break;
	}
}

/* Until when nothing has to be done that no descriptor tells of */
static int poll_ms(const struct vmm *vmm)
{
	const struct options *options = &vmm->options;
	uint64_t until = vmm->status_ns;
	int64_t due[2] = { -1, -1 };
	uint64_t now;

	if (vmm->stage == STAGE_WARM)
		due[0] = (int64_t)options->migrate_after_ns;
	if (vmm->stage == STAGE_AFTER)
		due[0] = (int64_t)options->run_after_ns;
	if (vmm->stage == STAGE_HOLD)
		due[0] = options->hold_ns;
	if (vmm->stage == STAGE_MIGRATE && options->side == SIDE_SOURCE) {
		due[0] = options->postcopy_at_ns;
		due[1] = options->cancel_at_ns;
	}
	for (unsigned i = 0; i < 2; i++)
		if (due[i] >= 0 && vmm->stage_ns + (uint64_t)due[i] < until)
			until = vmm->stage_ns + (uint64_t)due[i];
	now = now_ns();
	return until <= now ? 0 : (int)((until - now + NS_PER_MS - 1) / NS_PER_MS);
}

/* A signal ends it wherever it is; so does a processor that cannot go on. */
static void vmm_interrupted(struct vmm *vmm, const struct pollfd *fds)
{
	struct signalfd_siginfo info;
	struct wh_err err = { 0 };

	if (fds[0].revents && read(vmm->signal_fd, &info, sizeof(info)) == (ssize_t)sizeof(info)) {
		fail(&err, -EINTR, "ended by signal %u", info.ssi_signo);
		went_wrong(vmm, &err);
		stage_move(vmm, STAGE_END);
	}
	if (fds[1].revents) {
		pthread_mutex_lock(&vmm->guest.lock);
		err = vmm->guest.broken;
		pthread_mutex_unlock(&vmm->guest.lock);
		report_log(&vmm->report, WH_LOG_ERROR, err.text);
		went_wrong(vmm, &err);
		stage_move(vmm, STAGE_END);
	}
}

static int vmm_loop(struct vmm *vmm)
{
	while (vmm->stage != STAGE_END) {
		bool own = vmm->options.own_loop && vmm->stage == STAGE_MIGRATE;
		struct pollfd fds[] = {
			{ .fd = vmm->signal_fd, .events = POLLIN },
			{ .fd = vmm->guest.broken_fd, .events = POLLIN },
			{ .fd = vmm->mover.notes_fd, .events = POLLIN },
			{ .fd = own ? wh_fd(vmm->mover.migration) : -1, .events = POLLIN },
		};

		if (poll(fds, sizeof(fds) / sizeof(fds[0]), poll_ms(vmm)) < 0) {
			if (errno == EINTR)
				continue;
			perror("wherry-vmm: poll");
			return 1;
		}
		notes_print(vmm);
		vmm_interrupted(vmm, fds);
		stage_step(vmm);
		if (now_ns() >= vmm->status_ns && vmm->stage != STAGE_END) {
			vmm->status_ns = now_ns() + STATUS_SPAN_NS;
			report_status(&vmm->report, &vmm->guest, vmm->mover.migration);
		}
	}
	return vmm->verdict.code;
}

int main(int argc, char **argv)
{
	static struct vmm vmm;
	struct wh_err err = { 0 };
	int ret;

	ret = options_read(&vmm.options, argc, argv);
	if (ret)
		return ret - 1;
	report_open(&vmm.report, &vmm.options);
	ret = vmm_open(&vmm, &err);
	if (ret) {
		if (vmm.report.json)
			report_log(&vmm.report, WH_LOG_ERROR, err.text);
		else
			fprintf(stderr, "wherry-vmm: %s\n", err.text);
		return 1;
	}
	ret = vmm_loop(&vmm);
	notes_print(&vmm);
	report_summary(&vmm.report, &vmm.guest, vmm.mover.migration, &vmm.verdict);
	mover_end(&vmm.mover);
	/* Processors may stand at a page that never comes: only the kernel can end them. */
	if (ret)
		_exit(ret);
	return 0;
}
