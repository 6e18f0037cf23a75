/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: the machine they run on.
 */
#include "selftests/lib/bench.h"

#include <inttypes.h>
#include <sched.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/utsname.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"

/* The first line of a file or of what a program prints, without newline; or "?" */
static void first_line(FILE *file, char *line, size_t size)
{
	if (!file || !fgets(line, (int)size, file))
		snprintf(line, size, "?");
	line[strcspn(line, "\n")] = '\0';
}

static void read_line(const char *path, char *line, size_t size)
{
	FILE *file = fopen(path, "re");

	first_line(file, line, size);
	if (file)
		fclose(file);
}

static void cpu_model(char *line, size_t size)
{
	FILE *file = fopen("/proc/cpuinfo", "re");

	snprintf(line, size, "?");
	while (file && fgets(line, (int)size, file)) {
		char *value = strstr(line, ": ");

		if (strncmp(line, "model name", 10) || !value)
			continue;
		value[strcspn(value, "\n")] = '\0';
		memmove(line, value + 2, strlen(value + 2) + 1);
		break;
	}
	if (file)
		fclose(file);
}

void bench_machine(const struct bench *bench)
{
	uint64_t memory = (uint64_t)sysconf(_SC_PHYS_PAGES) * (uint64_t)sysconf(_SC_PAGESIZE);
	char model[128], huge[128], shmem[128], qemu[128];
	FILE *program = popen("qemu-system-x86_64 --version 2>/dev/null", "re");
	struct utsname name = { 0 };
	FILE *file;

	first_line(program, qemu, sizeof(qemu));
	if (program)
		pclose(program);
	uname(&name);
	cpu_model(model, sizeof(model));
	read_line("/sys/kernel/mm/transparent_hugepage/enabled", huge, sizeof(huge));
	read_line("/sys/kernel/mm/transparent_hugepage/shmem_enabled", shmem, sizeof(shmem));
	printf("%s: Linux %s, %ld processors (%s), %.1f GiB,\n"
	       "  huge pages %s, of memfds %s, %s\n",
	       bench->program, name.release, sysconf(_SC_NPROCESSORS_ONLN), model,
	       (double)memory / (1 << 30), huge, shmem, qemu);
	file = bench->json ? fopen(bench->json, "ae") : NULL;
	if (!file)
		return;
	fprintf(file,
		"{\"kind\":\"machine\",\"program\":\"%s\",\"kernel\":\"%s\",\"processors\":%ld,"
		"\"model\":\"%s\",\"memory\":%" PRIu64 ",\"huge_pages\":\"%s\","
		"\"huge_pages_of_memfds\":\"%s\",\"qemu\":\"%s\",\"quick\":%s}\n",
		bench->program, name.release, sysconf(_SC_NPROCESSORS_ONLN), model, memory, huge,
		shmem, qemu, bench->quick ? "true" : "false");
	fclose(file);
}

static cpu_set_t allowed;

void bench_pin(int cpu)
{
	cpu_set_t one;

	if (!CPU_COUNT(&allowed))
		sched_getaffinity(0, sizeof(allowed), &allowed);
	CPU_ZERO(&one);
	CPU_SET(cpu, &one);
	if (sched_setaffinity(0, sizeof(one), &one) < 0) {
		perror("bench: sched_setaffinity");
		exit(1);
	}
}

void bench_unpin(void)
{
	if (CPU_COUNT(&allowed))
		sched_setaffinity(0, sizeof(allowed), &allowed);
}

uint64_t bench_cpu_ns(pid_t pid)
{
	struct timespec time;
	clockid_t clock;

	if (pid <= 0 || clock_getcpuclockid(pid, &clock) != 0 || clock_gettime(clock, &time) < 0)
		return 0;
	return (uint64_t)time.tv_sec * NS_PER_S + (uint64_t)time.tv_nsec;
}

/* A line "name: 12 kB" of a file of the process's */
static uint64_t kib_line(pid_t pid, const char *of, const char *name)
{
	char path[64], line[128];
	uint64_t kib = 0;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/%s", pid, of);
	file = fopen(path, "re");
	while (file && fgets(line, sizeof(line), file)) {
		size_t length = strlen(name);

		if (!strncmp(line, name, length) && line[length] == ':')
			kib = strtoull(line + length + 1, NULL, 10);
	}
	if (file)
		fclose(file);
	return kib << 10;
}

uint64_t bench_smaps(pid_t pid, const char *name)
{
	return kib_line(pid, "smaps_rollup", name);
}

uint64_t bench_status(pid_t pid, const char *name)
{
	return kib_line(pid, "status", name);
}

uint64_t bench_resident(pid_t pid)
{
	uint64_t all, resident = 0;
	char path[64];
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/statm", pid);
	file = fopen(path, "re");
	if (file && fscanf(file, "%" SCNu64 " %" SCNu64, &all, &resident) != 2)
		resident = 0;
	if (file)
		fclose(file);
	return resident * 4096;
}
