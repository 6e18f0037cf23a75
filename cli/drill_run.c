/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: one run, from two processes that are made to a sentence about them.
 */
#include "cli/drill_qemu.h"
#include "cli/drill_run.h"

#include <dirent.h>
#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define DEADLINE_NS (20000 * DRILL_NS_PER_MS) /* for hangs, far above all that a run takes */
#define ANSWER_NS (10000 * DRILL_NS_PER_MS)
#define STEP_MS 50

volatile sig_atomic_t drill_signal;

uint64_t drill_now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 * DRILL_NS_PER_MS + (uint64_t)t.tv_nsec;
}

const char *drill_side_name(enum drill_side side)
{
	return side == DRILL_DEST ? "dest" : "source";
}

void drill_say(struct drill_run *run, const char *format, ...)
{
	double ms = (double)(drill_now_ns() - run->begin_ns) / (double)DRILL_NS_PER_MS;
	char text[512];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	if (run->log)
		fprintf(run->log, "  %9.3f ms  %s\n", ms, text);
	if (run->live)
		fprintf(run->live, "  %9.3f ms  %s\n", ms, text);
}

void drill_wrong(struct drill_run *run, const char *format, ...)
{
	va_list args;

	if (run->result->outcome != DRILL_WRONG) {
		va_start(args, format);
		vsnprintf(run->result->why, sizeof(run->result->why), format, args);
		va_end(args);
		drill_say(run, "WRONG: %s", run->result->why);
	}
	run->result->outcome = DRILL_WRONG;
}

void drill_tell(struct drill_run *run, enum drill_side side, enum drill_what what, const char *uri)
{
	struct drill_order order = { .what = what };
	struct drill_process *end = &run->end[side];

	if (uri)
		snprintf(order.uri, sizeof(order.uri), "%s", uri);
	end->order = what;
	if (send(end->fd, &order, sizeof(order), MSG_NOSIGNAL) != sizeof(order))
		drill_wrong(run, "%s is gone", drill_side_name(side));
}

/* A name of its own: who was killed may hold his for a moment longer */
static void socket_path(const struct drill_run *run, unsigned number, char *path)
{
	snprintf(path, DRILL_PATH, "%s/%016" PRIx64 ".%u", run->folder, run->plan->seed, number);
}

void drill_new_uri(struct drill_run *run, bool tcp, char *uri)
{
	if (tcp) {
		snprintf(uri, DRILL_URI, "tcp:127.0.0.1:0");
		return;
	}
	snprintf(uri, DRILL_URI, "unix:");
	socket_path(run, run->sockets++, uri + strlen(uri));
}

/* The library removes its own; not those of a process that was killed */
static void sockets_remove(const struct drill_run *run)
{
	char path[DRILL_URI];

	for (unsigned i = 0; i < run->sockets; i++) {
		socket_path(run, i, path);
		unlink(path);
	}
}

/* No thread is in this process: what a child inherits is whole. */
static int process_start(struct drill_run *run, enum drill_side side,
			 const struct drill_files *files)
{
	struct drill_process *end = &run->end[side];
	pid_t parent = getpid();
	int fds[2];

	end->order = DRILL_NOTHING;
	if (socketpair(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0, fds) < 0)
		return -errno;
	fflush(NULL);
	end->pid = fork();
	if (!end->pid) {
		for (unsigned i = 0; i < DRILL_SIDES; i++)
			if (run->end[i].fd >= 0)
				close(run->end[i].fd);
		close(fds[0]);
		/* of the terminal: the operator ends all of it */
		signal(SIGINT, SIG_IGN);
		signal(SIGTERM, SIG_IGN);
		signal(SIGHUP, SIG_IGN);
		prctl(PR_SET_PDEATHSIG, SIGKILL);
		if (getppid() != parent)
			_exit(1);
		if (side == run->plan->qemu)
			drill_qemu_main(run->plan, run->binary, run->folder, run->shared, fds[1]);
		drill_end_main(run->plan, side, files, run->agent_path, run->shared, fds[1]);
	}
	close(fds[1]);
	end->fd = fds[0];
	return end->pid < 0 ? -errno : 0;
}

static void hear(struct drill_run *run, enum drill_side side)
{
	struct drill_process *end = &run->end[side];
	struct drill_note note;
	ssize_t n;

	while (!end->gone && (n = recv(end->fd, &note, sizeof(note), MSG_DONTWAIT)) != -1) {
		if (n == sizeof(note)) {
			drill_heard(run, side, &note);
			continue;
		}
		if (!end->killed)
			drill_wrong(run, "%s has died", drill_side_name(side));
		end->gone = true;
	}
}

/* Everything that is ready, and a look at the time */
static void run_step(struct drill_run *run)
{
	struct pollfd fds[DRILL_FDS + DRILL_SIDES];
	int ms = drill_operate_in(run, STEP_MS);

	ms = drill_proxy_poll(&run->proxy, fds, ms);
	for (unsigned side = 0; side < DRILL_SIDES; side++)
		fds[DRILL_FDS + side] = (struct pollfd){
			.fd = run->end[side].gone ? -1 : run->end[side].fd,
			.events = POLLIN,
		};
	(void)poll(fds, DRILL_FDS + DRILL_SIDES, ms);
	run->now_ns = drill_now_ns();
	for (unsigned side = 0; side < DRILL_SIDES; side++)
		hear(run, (enum drill_side)side);
	drill_proxy_step(&run->proxy, run->now_ns);
}

/* Its lines one behind the other */
static void read_file(const char *folder, const char *task, const char *name, char *text,
		      size_t room)
{
	char path[384];
	size_t n = 0;
	FILE *file;

	snprintf(path, sizeof(path), "%s/%s/%s", folder, task, name);
	file = fopen(path, "re");
	if (file) {
		n = fread(text, 1, room - 1, file);
		fclose(file);
	}
	text[n] = '\0';
	while (n && text[n - 1] == '\n')
		text[--n] = '\0';
	for (char *at = text; (at = strchr(at, '\n')); at++)
		*at = ' ';
}

/* Where its threads wait in the kernel, for the log; the kernel tells that to root only */
static void say_threads(struct drill_run *run, enum drill_side side)
{
	char path[64], name[32] = "?", where[256] = "?";
	const struct dirent *entry;
	DIR *tasks;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)run->end[side].pid);
	tasks = opendir(path);
	while (tasks && (entry = readdir(tasks))) {
		if (*entry->d_name == '.')
			continue;
		read_file(path, entry->d_name, "comm", name, sizeof(name));
		read_file(path, entry->d_name, "stack", where, sizeof(where));
		drill_say(run, "%s: thread %s (%s) waits in %s", drill_side_name(side),
			  entry->d_name, name, where);
	}
	if (tasks)
		closedir(tasks);
}

/* false: no answer, which is wrong */
static bool run_until_answer(struct drill_run *run, enum drill_side side)
{
	struct drill_process *end = &run->end[side];
	uint64_t until = drill_now_ns() + ANSWER_NS;

	while (end->order != DRILL_NOTHING && !end->gone && !drill_signal && run->now_ns < until)
		run_step(run);
	if (end->order == DRILL_NOTHING)
		return true;
	if (drill_signal)
		return false;
	drill_wrong(run, "%s does not answer, in phase %s", drill_side_name(side),
		    wh_phase_name(end->phase));
	say_threads(run, side);
	return false;
}

static bool run_begin(struct drill_run *run)
{
	char uri[DRILL_URI];

	drill_new_uri(run, run->plan->tcp, uri);
	do {
		drill_tell(run, DRILL_DEST, DRILL_LISTEN, uri);
		if (!run_until_answer(run, DRILL_DEST))
			return false;
		(void)poll(NULL, 0, run->plan->agent ? 1 : 0);
	} while (drill_no_agent_yet(run, run->end[DRILL_DEST].answer.result) && !drill_signal &&
		 run->now_ns < run->begin_ns + ANSWER_NS);
	if (run->end[DRILL_DEST].answer.result < 0) {
		drill_wrong(run, "dest: %s", run->end[DRILL_DEST].answer.text);
		return false;
	}
	snprintf(run->proxy.to, sizeof(run->proxy.to), "%s", run->end[DRILL_DEST].answer.text);
	drill_hit_early(run, 0);
	if (run->plan->by_command)
		run->switch_ns = run->now_ns + run->plan->switch_ms * DRILL_NS_PER_MS;
	drill_tell(run, DRILL_SOURCE, DRILL_CONNECT, run->proxy.uri[run->plan->proxy_tcp]);
	return true;
}

static void verify(struct drill_run *run, enum drill_side side)
{
	const struct drill_note *answer = &run->end[side].answer;

	if (run->end[side].gone)
		return;
	drill_tell(run, side, DRILL_VERIFY, NULL);
	if (!run_until_answer(run, side) || (run->qemu_ended && side == run->plan->qemu))
		return;
	if (answer->result)
		drill_wrong(run, "%lld pages at the %s are wrong: %s", (long long)answer->result,
			    drill_side_name(side), answer->text);
	else
		drill_say(run, "%s: every byte is right", drill_side_name(side));
}

/* Who runs the guest, and did only one */
static void check_runners(struct drill_run *run)
{
	struct drill_shared *shared = run->shared;
	uint32_t source = __atomic_load_n(&shared->runs[DRILL_SOURCE], __ATOMIC_SEQ_CST);
	uint32_t dest = __atomic_load_n(&shared->runs[DRILL_DEST], __ATOMIC_SEQ_CST);
	enum drill_outcome outcome = run->result->outcome;
	bool source_wanted = outcome == DRILL_AT_SOURCE && !run->end[DRILL_SOURCE].killed;

	if (__atomic_load_n(&shared->ran_twice, __ATOMIC_SEQ_CST))
		drill_wrong(run, "the guest ran at both ends");
	if (outcome == DRILL_WRONG)
		return;
	if (outcome == DRILL_QEMU) {
		if (source && dest)
			drill_wrong(run, "the guest runs at both ends");
		return;
	}
	if (source != source_wanted)
		drill_wrong(run, "%s, and the guest %s at the source", drill_outcome_name(outcome),
			    source ? "runs" : "does not run");
	if (dest != (outcome == DRILL_COMPLETED))
		drill_wrong(run, "%s, and the guest %s at the destination",
			    drill_outcome_name(outcome), dest ? "runs" : "does not run");
}

/* Where the guest is, and what it left behind, which nobody may have written since */
static void check_memory(struct drill_run *run)
{
	enum drill_outcome outcome = run->result->outcome;

	if (outcome == DRILL_WRONG)
		return;
	if (outcome == DRILL_COMPLETED)
		verify(run, DRILL_DEST);
	/* also if that was wrong: is it wrong there too? A QEMU that is lost is not asked */
	if (outcome != DRILL_QEMU || run->plan->qemu != DRILL_SOURCE)
		verify(run, DRILL_SOURCE);
	for (unsigned side = 0; side < DRILL_SIDES; side++) {
		uint32_t wrong = __atomic_load_n(&run->shared->wrong[side], __ATOMIC_RELAXED);

		if (wrong) {
			drill_say(run, "the guest at the %s found wrong bytes %u times",
				  drill_side_name((enum drill_side)side), wrong);
			drill_wrong(run, "the guest at the %s found wrong bytes %u times",
				    drill_side_name((enum drill_side)side), wrong);
		}
	}
}

static void process_end(struct drill_run *run, enum drill_side side)
{
	struct drill_process *end = &run->end[side];
	uint64_t until = drill_now_ns() + ANSWER_NS;
	int status = 0;

	if (end->pid <= 0 || end->killed)
		return;
	kill(end->pid, SIGCONT);
	if (side == run->plan->qemu && run->shared->qemu_pid > 0)
		kill(run->shared->qemu_pid, SIGCONT);
	/* whoever does not answer would not hear this either */
	if (!end->gone && end->order == DRILL_NOTHING && !drill_signal) {
		drill_tell(run, side, DRILL_QUIT, NULL);
		while (waitpid(end->pid, &status, WNOHANG) == 0 && drill_now_ns() < until)
			(void)poll(NULL, 0, 1);
		if (waitpid(end->pid, NULL, WNOHANG) < 0) {
			if (!WIFEXITED(status) || WEXITSTATUS(status))
				drill_wrong(run, "%s ended badly (status 0x%x)",
					    drill_side_name(side), (unsigned)status);
			return;
		}
		drill_wrong(run, "%s does not end", drill_side_name(side));
	}
	kill(end->pid, SIGKILL);
	waitpid(end->pid, &status, 0);
	if (WIFSIGNALED(status) && WTERMSIG(status) != SIGKILL)
		drill_wrong(run, "%s: %s", drill_side_name(side), strsignal(WTERMSIG(status)));
}

static void run_report(struct drill_run *run)
{
	struct drill_result *result = run->result;
	const struct drill_plan *plan = run->plan;
	enum drill_side counts;

	memcpy(result->happened, run->proxy.happened, sizeof(result->happened));
	for (unsigned i = 0; i < plan->faults; i++)
		if (plan->fault[i].kind == DRILL_NO_MEMORY)
			result->happened[i] &=
				__atomic_load_n(&run->shared->place_refused, __ATOMIC_RELAXED) > 0;
		else if (plan->fault[i].kind == DRILL_REMOVES)
			result->happened[i] =
				__atomic_load_n(&run->shared->removed, __ATOMIC_RELAXED);
	for (unsigned side = 0; side < DRILL_SIDES; side++) {
		result->phase[side] = run->end[side].phase;
		result->killed[side] = run->end[side].killed;
	}
	counts = plan->qemu == DRILL_SOURCE ? DRILL_DEST : DRILL_SOURCE;
	result->recoveries = run->end[counts].answer.stats.recoveries;
	result->faults = run->end[DRILL_DEST].answer.stats.faults;
	result->ns = drill_now_ns() - run->begin_ns;
}

/* Both processes are there: until it is over, and what then is */
static void run_migration(struct drill_run *run)
{
	struct drill_result *result = run->result;

	run->now_ns = drill_now_ns();
	if (!run_begin(run))
		return;
	while (result->outcome != DRILL_WRONG && !drill_over(run)) {
		if (drill_signal)
			return;
		if (run->now_ns > run->begin_ns + DEADLINE_NS) {
			drill_wrong(run, "it hangs: source %s, destination %s",
				    wh_phase_name(run->end[DRILL_SOURCE].phase),
				    wh_phase_name(run->end[DRILL_DEST].phase));
			break;
		}
		drill_operate(run);
		run_step(run);
	}
	/* the guest goes on touching what was never written */
	drill_room(run);
	check_runners(run);
	check_memory(run);
	check_runners(run);
}

void drill_run(const struct drill_plan *plan, const char *folder, const char *binary, FILE *live,
	       struct drill_result *result)
{
	static struct drill_run run;
	size_t length = 0;
	int ret;

	*result = (struct drill_result){ .outcome = DRILL_OUTCOMES };
	run = (struct drill_run){
		.plan = plan,
		.result = result,
		.folder = folder,
		.binary = binary,
		.live = live,
		.log = open_memstream(&result->log, &length),
		.begin_ns = drill_now_ns(),
		.end = { { .fd = -1 }, { .fd = -1 } },
	};
	for (unsigned i = 0; i < DRILL_FAULTS; i++)
		run.stranger[i] = -1;
	drill_files_open(&run.files, plan);
	result->small_pages = plan->memory[DRILL_DEST] == DRILL_HUGETLB && !run.files.huge;
	run.shared = mmap(NULL, sizeof(*run.shared), PROT_READ | PROT_WRITE,
			  MAP_SHARED | MAP_ANONYMOUS, -1, 0);
	ret = run.shared == MAP_FAILED ? -errno : drill_agent_start(&run);
	if (ret == 0)
		ret = process_start(&run, DRILL_DEST, &run.files);
	if (ret == 0)
		ret = process_start(&run, DRILL_SOURCE, &run.files);
	if (ret == 0)
		ret = drill_proxy_open(&run.proxy, plan, folder);
	drill_files_close(&run.files);
	run.proxy.hit = drill_hit;
	run.proxy.opaque = &run;
	if (ret < 0)
		drill_wrong(&run, "it cannot be started: %s", strerrordesc_np(-ret));
	else
		run_migration(&run);
	for (unsigned side = 0; side < DRILL_SIDES; side++)
		process_end(&run, (enum drill_side)side);
	drill_agent_end(&run);
	run_report(&run);
	if (drill_signal)
		result->outcome = DRILL_OUTCOMES;
	drill_proxy_close(&run.proxy);
	drill_files_end(&run.files);
	sockets_remove(&run);
	drill_strangers_leave(&run);
	for (unsigned side = 0; side < DRILL_SIDES; side++)
		if (run.end[side].fd >= 0)
			close(run.end[side].fd);
	if (run.shared != MAP_FAILED)
		munmap(run.shared, sizeof(*run.shared));
	if (run.log)
		fclose(run.log);
}
