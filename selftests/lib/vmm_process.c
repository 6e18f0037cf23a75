/* SPDX-License-Identifier: MIT */
#include "selftests/lib/vmm_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGS_MAX 64
#define SOON 20000u /* in ms: what has no reason to take long */

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void run(const char *const *args, int in, int out, pid_t parent)
{
	const char *build = getenv("WH_BUILD");
	const char *argv[ARGS_MAX] = { "wherry-vmm" };
	char program[512];
	unsigned n = 1;

	snprintf(program, sizeof(program), "%s/wherry-vmm", build ? build : "build");
	for (unsigned i = 0; args[i] && n < ARGS_MAX - 1; i++)
		argv[n++] = args[i];
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
	dup2(in, STDIN_FILENO);
	dup2(out, STDOUT_FILENO);
	dup2(out, STDERR_FILENO);
	/* exec takes strings that it does not write */
	execv(program, (char *const *)(uintptr_t)argv);
	dprintf(STDERR_FILENO, "%s: %s\n", program, strerror(errno));
	_exit(127);
}

int vmm_start(struct vmm *vmm, const char *const *args)
{
	pid_t parent = getpid();
	int in[2], out[2];

	memset(vmm, 0, sizeof(*vmm));
	signal(SIGPIPE, SIG_IGN); /* a command may come too late */
	if (pipe2(in, O_CLOEXEC) < 0)
		return -errno;
	if (pipe2(out, O_CLOEXEC) < 0) {
		close(in[0]);
		close(in[1]);
		return -errno;
	}
	vmm->pid = fork();
	if (!vmm->pid)
		run(args, in[0], out[1], parent);
	close(in[0]);
	close(out[1]);
	vmm->in = in[1];
	vmm->out = out[0];
	return vmm->pid < 0 ? -EAGAIN : 0;
}

void vmm_command(const struct vmm *vmm, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	vdprintf(vmm->in, format, args);
	va_end(args);
}

static const char *text_of(json_object *line, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(line, name, &value) ? json_object_get_string(value) : "";
}

static uint64_t number_of(json_object *line, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(line, name, &value) ? json_object_get_uint64(value) : 0;
}

static void take_phase(struct vmm *vmm, json_object *line)
{
	size_t have = strlen(vmm->phases);

	snprintf(vmm->phase, sizeof(vmm->phase), "%s", text_of(line, "phase"));
	snprintf(vmm->phases + have, sizeof(vmm->phases) - have, " %s", vmm->phase);
	if (*text_of(line, "error"))
		snprintf(vmm->error, sizeof(vmm->error), "%s", text_of(line, "error"));
}

static void take_line(struct vmm *vmm)
{
	json_object *line = json_tokener_parse(vmm->line);
	const char *kind = text_of(line, "kind");

	if (!strcmp(kind, "status") || !strcmp(kind, "summary")) {
		snprintf(vmm->guest, sizeof(vmm->guest), "%s", text_of(line, "guest"));
		vmm->serial_chars = number_of(line, "serial_chars");
		vmm->rounds = number_of(line, "rounds");
		vmm->pages_left = number_of(line, "pages_left");
	}
	if (!strcmp(kind, "round"))
		vmm->rounds = number_of(line, "round");
	if (!strcmp(kind, "listening"))
		snprintf(vmm->uri, sizeof(vmm->uri), "%s", text_of(line, "uri"));
	if (!strcmp(kind, "phase"))
		take_phase(vmm, line);
	if (!strcmp(kind, "summary")) {
		json_object_put(vmm->summary);
		vmm->summary = json_object_get(line);
	}
	if (strcmp(kind, "status")) {
		int n = snprintf(vmm->text + vmm->text_have, sizeof(vmm->text) - vmm->text_have,
				 "%s\n", vmm->line);

		if (n > 0 && (size_t)n < sizeof(vmm->text) - vmm->text_have)
			vmm->text_have += (size_t)n;
	}
	json_object_put(line);
}

static void take(struct vmm *vmm)
{
	ssize_t n = read(vmm->out, vmm->line + vmm->have, sizeof(vmm->line) - 1 - vmm->have);
	char *newline;

	if (n < 0 && errno == EINTR)
		return;
	if (n <= 0) {
		close(vmm->out);
		vmm->ended = waitpid(vmm->pid, &vmm->status, 0) == vmm->pid;
		return;
	}
	vmm->have += (size_t)n;
	vmm->line[vmm->have] = '\0';
	while ((newline = strchr(vmm->line, '\n'))) {
		*newline = '\0';
		take_line(vmm);
		vmm->have -= (size_t)(newline + 1 - vmm->line);
		memmove(vmm->line, newline + 1, vmm->have + 1);
	}
	if (vmm->have == sizeof(vmm->line) - 1)
		vmm->have = 0;
}

bool pair_until(struct vmm_pair *pair, bool (*so)(const void *arg), const void *arg, unsigned ms)
{
	struct vmm *vmms[] = { &pair->source, &pair->dest };
	uint64_t until = now_ms() + ms;
	struct pollfd fds[2];

	while (!so(arg)) {
		uint64_t now = now_ms();
		unsigned open = 0;

		for (unsigned i = 0; i < 2; i++) {
			bool speaks = vmms[i]->pid > 0 && !vmms[i]->ended;

			fds[i] = (struct pollfd){ .fd = speaks ? vmms[i]->out : -1,
						  .events = POLLIN };
			open += speaks;
		}
		if (!open || now >= until)
			return false;
		if (poll(fds, 2, (int)(until - now)) <= 0)
			continue;
		for (unsigned i = 0; i < 2; i++)
			if (fds[i].revents)
				take(vmms[i]);
	}
	return true;
}

static bool never(const void *arg)
{
	(void)arg;
	return false;
}

void pair_watch(struct vmm_pair *pair, unsigned ms)
{
	pair_until(pair, never, NULL, ms);
}

static bool listens(const void *arg)
{
	return *((const struct vmm *)arg)->uri;
}

bool pair_until_listening(struct vmm_pair *pair)
{
	return pair_until(pair, listens, &pair->dest, SOON);
}

static bool has_ended(const void *arg)
{
	return ((const struct vmm *)arg)->ended;
}

bool pair_until_ended(struct vmm_pair *pair, const struct vmm *vmm)
{
	return pair_until(pair, has_ended, vmm, SOON);
}

struct wanted {
	const struct vmm *vmm;
	const char *phase;
};

static bool is_in(const void *arg)
{
	const struct wanted *wanted = arg;

	return !strcmp(wanted->vmm->phase, wanted->phase);
}

bool pair_until_phase(struct vmm_pair *pair, const struct vmm *vmm, const char *phase)
{
	struct wanted wanted = { .vmm = vmm, .phase = phase };

	return pair_until(pair, is_in, &wanted, 4 * SOON);
}

int vmm_exit(const struct vmm *vmm)
{
	if (!vmm->ended)
		return -1;
	return WIFEXITED(vmm->status) ? WEXITSTATUS(vmm->status) : 256 + WTERMSIG(vmm->status);
}

uint64_t vmm_number(const struct vmm *vmm, const char *name)
{
	return number_of(vmm->summary, name);
}

bool vmm_was(const struct vmm *vmm, const char *phase)
{
	char word[40];

	snprintf(word, sizeof(word), " %s ", phase);
	if (strstr(vmm->phases, word))
		return true;
	return !strcmp(vmm->phase, phase);
}

void vmm_signal(const struct vmm *vmm, int number)
{
	if (vmm->pid > 0 && !vmm->ended)
		kill(vmm->pid, number);
}

void vmm_forget(struct vmm *vmm)
{
	if (vmm->pid <= 0)
		return;
	if (!vmm->ended) {
		kill(vmm->pid, SIGKILL);
		waitpid(vmm->pid, &vmm->status, 0);
		close(vmm->out);
	}
	close(vmm->in);
	json_object_put(vmm->summary);
	memset(vmm, 0, sizeof(*vmm));
}

void pair_end(struct vmm_pair *pair)
{
	vmm_forget(&pair->source);
	vmm_forget(&pair->dest);
}
