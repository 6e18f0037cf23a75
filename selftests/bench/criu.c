/* SPDX-License-Identifier: MIT */
/*
 * CRIU's lazy-pages beside ours, where a CRIU is installed and starts: a process whose thread
 * touches all of its memory at random, over loopback TCP. CRIU dumps it, serves its pages
 * from the dump, and restores it in a process namespace of its own, since its number is
 * still taken here; the time begins when it finds itself restored.
 *
 * Nothing of the system is changed for it. CRIU needs pipes as large as a quarter of the
 * process, and so CAP_SYS_RESOURCE; or fs.pipe-max-size as large as that, and 0 in
 * fs.pipe-user-pages-soft.
 */
#include "base/clock.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/child.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <linux/capability.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define WAIT_MS 120000
#define PORT "27183"

enum {
	FLOOR,
	WHERRY,
	CRIU,
	WAYS
};

struct results {
	struct bench_row time[WAYS];
	struct bench_row p50[WAYS];
	struct bench_row p99[WAYS];
};

/* What CRIU works with, all in one folder */
struct dump {
	char folder[64];
	char result[96];
	pid_t guest;
	struct child pages; /* dump: serves them */
	struct child lazy;
	struct child restored;
};

/* ---- The process that is moved ---------------------------------------------------- */

/* Touches when it finds itself restored: somebody else is its parent */
static void __attribute__((noreturn))
guest_main(const struct dump *dump, const struct bench_load *load)
{
	static struct bench_shared shared;
	pid_t parent = getppid();
	struct bench_side side = { .load = load, .shared = &shared };
	void *memory;
	FILE *file;
	int fd;

	setsid();
	close_range(0, ~0U, 0);
	for (fd = open("/dev/null", O_RDWR); fd >= 0 && fd < 2;)
		fd = dup(fd);
	memory = bench_map(load, false, &fd);
	if (memory == MAP_FAILED)
		_exit(1);
	bench_fill(memory, load->bytes);
	bench_stamp(&shared.ready_ns);
	while (getppid() == parent)
		poll(NULL, 0, 1);
	bench_stamp(&shared.postcopy_ns);
	if (bench_touch(&side, memory) < 0 || bench_wait(&side, &shared.touched_ns) < 0)
		_exit(1);
	file = fopen(dump->result, "we");
	if (!file)
		_exit(1);
	fprintf(file, "%llu %llu %llu\n",
		(unsigned long long)(shared.touched_ns - shared.postcopy_ns),
		(unsigned long long)shared.touch_p50_ns, (unsigned long long)shared.touch_p99_ns);
	fclose(file);
	for (;;)
		pause();
}

/* ---- CRIU ------------------------------------------------------------------------- */

static int remove_one(const char *path, const struct stat *stat, int type, struct FTW *at)
{
	(void)stat;
	(void)type;
	(void)at;
	return remove(path);
}

/* The first error that it told of, as a reason */
static int refused(const struct child *child, const char *what, char *why, size_t size)
{
	char said[4096], *line;

	child_said(child, said, sizeof(said));
	line = strstr(said, "Error");
	/* That one is no reason to give up */
	if (line && strstr(line, "rlimit") && strstr(line, "rlimit") < strchrnul(line, '\n'))
		line = strstr(line + 1, "Error");
	line = line ? line : said;
	line[strcspn(line, "\n")] = '\0';
	for (char *at = line; *at; at++)
		if (*at == '"' || *at == '\\')
			*at = '\'';
	snprintf(why, size, "criu %s: %.120s", what, line);
	return -1;
}

/* Pipes of any size are for who has CAP_SYS_RESOURCE; else the system has a limit */
static bool pipes_fit(uint64_t bytes, char *why, size_t size)
{
	FILE *status = fopen("/proc/self/status", "re");
	FILE *limit = fopen("/proc/sys/fs/pipe-max-size", "re");
	unsigned long long caps = 0, most = 0;
	char line[128];

	while (status && fgets(line, sizeof(line), status))
		if (!strncmp(line, "CapEff:", 7))
			caps = strtoull(line + 7, NULL, 16);
	if (limit && fscanf(limit, "%llu", &most) != 1)
		most = 0;
	if (status)
		fclose(status);
	if (limit)
		fclose(limit);
	if (caps >> CAP_SYS_RESOURCE & 1 || most >= bytes / 4)
		return true;
	snprintf(why, size, "no CAP_SYS_RESOURCE, and fs.pipe-max-size is %llu", most);
	return false;
}

static int starts(char *why, size_t size)
{
	static const char *const argv[] = { "criu", "check", NULL };
	struct wh_err err = { 0 };
	struct child child;
	int ret;

	if (child_start(&child, argv, -1, &err) < 0) {
		snprintf(why, size, "%.150s", err.text);
		return -1;
	}
	ret = child_wait(&child, WAIT_MS, &err);
	if (ret == 127)
		snprintf(why, size, "no criu is installed");
	else if (ret)
		refused(&child, "check", why, size);
	child_end(&child);
	return ret ? -1 : 0;
}

/* A CRIU that says so on a pipe when it is ready; it goes on then */
static int start_ready(struct child *child, const char **argv, unsigned count, char *why,
		       size_t size)
{
	struct wh_err err = { 0 };
	struct pollfd ready;
	char number[16], byte;
	int fds[2], ret = -1;

	if (pipe2(fds, O_CLOEXEC) < 0)
		return -1;
	snprintf(number, sizeof(number), "%d", fds[1]);
	argv[count++] = "--status-fd";
	argv[count++] = number;
	argv[count] = NULL;
	if (child_start(child, argv, fds[1], &err) == 0) {
		close(fds[1]);
		fds[1] = -1;
		ready = (struct pollfd){ .fd = fds[0], .events = POLLIN };
		if (poll(&ready, 1, WAIT_MS) == 1 && read(fds[0], &byte, 1) == 1)
			ret = 0;
		else
			refused(child, argv[1], why, size);
	}
	close(fds[0]);
	if (fds[1] >= 0)
		close(fds[1]);
	return ret;
}

static int serve(struct dump *dump, char *why, size_t size)
{
	const char *lazy[16] = { "criu",      "lazy-pages", "--page-server",
				 "--address", "127.0.0.1",  "--port",
				 PORT,	      "-D",	    dump->folder };
	const char *argv[16] = { "criu",   "dump", "--lazy-pages", "--address", "127.0.0.1",
				 "--port", PORT,   "-D",	   dump->folder };
	char pid[16];

	snprintf(pid, sizeof(pid), "%d", dump->guest);
	argv[9] = "-t";
	argv[10] = pid;
	if (start_ready(&dump->pages, argv, 11, why, size) < 0)
		return -1;
	return start_ready(&dump->lazy, lazy, 9, why, size);
}

/* Return: 0 and three figures in ns */
static int restore(struct dump *dump, unsigned long long ns[3], char *why, size_t size)
{
	const char *const argv[] = { "unshare", "--pid",	"--fork", "--mount-proc", "criu",
				     "restore", "--lazy-pages", "-D",	  dump->folder,	  NULL };
	uint64_t until = clock_now_ns() + WAIT_MS * NS_PER_MS;
	struct wh_err err = { 0 };
	FILE *file;
	int got = 0;

	if (child_start(&dump->restored, argv, -1, &err) < 0)
		return -1;
	while (got != 3 && clock_now_ns() < until) {
		poll(NULL, 0, 10);
		file = fopen(dump->result, "re");
		if (file) {
			got = fscanf(file, "%llu %llu %llu", &ns[0], &ns[1], &ns[2]);
			fclose(file);
		}
		if (waitpid(dump->restored.pid, NULL, WNOHANG | WNOWAIT) == dump->restored.pid)
			break;
	}
	return got == 3 ? 0 : refused(&dump->restored, "restore", why, size);
}

static int run_criu(struct results *results, const struct bench_load *load)
{
	struct bench_row *row = &results->time[CRIU];
	struct dump dump = { .folder = "/tmp/wherry-bench-criu-XXXXXX" };
	struct bench_warm *warm = bench_warm(2 * load->bytes, 0);
	unsigned long long ns[3];
	int ret = -1;

	if (!mkdtemp(dump.folder))
		return -1;
	snprintf(dump.result, sizeof(dump.result), "%s/result", dump.folder);
	bench_warm_end(warm);
	dump.guest = bench_fork();
	if (dump.guest == 0)
		guest_main(&dump, load);
	/* Until it has filled its memory */
	for (int i = 0; i < 2000 && bench_resident(dump.guest) < load->bytes; i++)
		poll(NULL, 0, 10);
	poll(NULL, 0, 100);
	if (serve(&dump, row->why, sizeof(row->why)) == 0 &&
	    restore(&dump, ns, row->why, sizeof(row->why)) == 0) {
		bench_add(row, (double)ns[0] / 1e9);
		bench_add(&results->p50[CRIU], (double)ns[1] / 1e3);
		bench_add(&results->p99[CRIU], (double)ns[2] / 1e3);
		ret = 0;
	}
	child_end(&dump.restored);
	child_end(&dump.lazy);
	child_end(&dump.pages);
	bench_kill(&dump.guest);
	nftw(dump.folder, remove_one, 16, FTW_DEPTH | FTW_PHYS);
	return ret;
}

/* ---- And the others --------------------------------------------------------------- */

static void run_other(struct results *results, unsigned way, const struct bench_load *load)
{
	const struct bench_kind *kind = way == FLOOR ? &bench_floor : &bench_wherry;
	struct bench_side side;

	if (bench_start(&side, kind, load) == 0) {
		const struct bench_shared *shared = side.shared;

		if (bench_go(&side) == 0 && bench_wait(&side, &shared->touched_ns) == 0) {
			bench_add(&results->time[way],
				  (double)(shared->touched_ns - shared->postcopy_ns) / 1e9);
			bench_add(&results->p50[way], (double)shared->touch_p50_ns / 1e3);
			bench_add(&results->p99[way], (double)shared->touch_p99_ns / 1e3);
		}
		bench_stop(&side);
	}
	snprintf(results->time[way].why, sizeof(results->time[way].why), "%s", side.why);
}

int main(int argc, char **argv)
{
	static const char *const names[WAYS] = { "floor", "wherry", "CRIU lazy-pages" };
	struct bench_load load = bench_load_default;
	struct results results = { 0 };
	struct bench bench;
	char variant[96];
	bool have;

	bench_begin(&bench, "criu", argc, argv);
	load.tcp = true;
	load.touchers = 1;
	load.bytes = bench.bytes;
	have = bench_wants(&bench, names[CRIU]) &&
	       starts(results.time[CRIU].why, sizeof(results.time[CRIU].why)) == 0 &&
	       pipes_fit(load.bytes, results.time[CRIU].why, sizeof(results.time[CRIU].why));
	for (unsigned round = 0; bench_again(round); round++) {
		for (unsigned way = FLOOR; way <= WHERRY; way++)
			if (bench_wants(&bench, names[way]))
				run_other(&results, way, &load);
		have = have && run_criu(&results, &load) == 0;
	}
	for (unsigned way = 0; way < WAYS; way++) {
		results.time[way].side = results.p50[way].side = results.p99[way].side = names[way];
		memcpy(results.p50[way].why, results.time[way].why, sizeof(results.p50[way].why));
		memcpy(results.p99[way].why, results.time[way].why, sizeof(results.p99[way].why));
	}
	snprintf(variant, sizeof(variant), "%llu MiB, 1 toucher, TCP, beside CRIU",
		 (unsigned long long)(load.bytes / MIB));
	bench_print(&bench, BENCH_TOUCH_TIME, variant, results.time, WAYS);
	bench_print(&bench, BENCH_TOUCH_P50, variant, results.p50, WAYS);
	bench_print(&bench, BENCH_TOUCH_P99, variant, results.p99, WAYS);
	return 0;
}
