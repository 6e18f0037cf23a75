/* SPDX-License-Identifier: MIT */
#include "selftests/lib/vmm_process.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define ARGS_MAX 64
#define VMMS_MAX 8

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static void run(const char *const *args, int out, pid_t parent)
{
	const char *build = getenv("WH_BUILD");
	const char *argv[ARGS_MAX] = { "wherry-vmm" };
	char program[512];
	unsigned n = 1;

	snprintf(program, sizeof(program), "%s/wherry-vmm", build ? build : "build");
	for (unsigned i = 0; args[i] && n < ARGS_MAX - 2; i++)
		argv[n++] = args[i];
	argv[n] = "--json";
	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent)
		_exit(126);
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
	int ends[2];

	memset(vmm, 0, sizeof(*vmm));
	vmm->out = -1;
	if (pipe2(ends, O_CLOEXEC) < 0)
		return -errno;
	vmm->pid = fork();
	if (vmm->pid < 0) {
		vmm->pid = 0;
		close(ends[0]);
		close(ends[1]);
		return -errno;
	}
	if (!vmm->pid)
		run(args, ends[1], parent);
	close(ends[1]);
	vmm->out = ends[0];
	return 0;
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
		vmm->out = -1;
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

bool vmm_until(struct vmm *const *vmms, unsigned count, bool (*so)(void *arg), void *arg,
	       unsigned ms)
{
	struct pollfd fds[VMMS_MAX];
	uint64_t until = now_ms() + ms;

	while (!so(arg)) {
		uint64_t now = now_ms();
		unsigned open = 0;

		for (unsigned i = 0; i < count && i < VMMS_MAX; i++) {
			fds[i] = (struct pollfd){ .fd = vmms[i]->out, .events = POLLIN };
			open += vmms[i]->out >= 0;
		}
		if (!open || now >= until)
			return false;
		if (poll(fds, count, (int)(until - now)) <= 0)
			continue;
		for (unsigned i = 0; i < count && i < VMMS_MAX; i++)
			if (vmms[i]->out >= 0 && fds[i].revents)
				take(vmms[i]);
	}
	return true;
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

void vmm_end(struct vmm *vmm)
{
	if (vmm->pid > 0 && !vmm->ended) {
		kill(vmm->pid, SIGKILL);
		waitpid(vmm->pid, &vmm->status, 0);
	}
	if (vmm->pid > 0 && vmm->out >= 0)
		close(vmm->out);
	json_object_put(vmm->summary);
	vmm->summary = NULL;
	vmm->pid = 0;
}
