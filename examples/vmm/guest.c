/* SPDX-License-Identifier: MIT */
/*
 * The guest as a whole: its processors' threads, run and parked together.
 */
#include "vmm.h"

#include <errno.h>
#include <stdarg.h>
#include <stdio.h>
#include <sys/eventfd.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define PACE_NS 5000000ull	  /* the pacer lets a processor run for so long */
#define PACE_LATE_NS 100000000ull /* paused, or waiting for a page: not made up for */
#define PACE_FREE (1u << 16)

int fail(struct wh_err *err, int code, const char *format, ...)
{
	va_list args;

	if (err) {
		va_start(args, format);
		err->code = code;
		vsnprintf(err->text, sizeof(err->text), format, args);
		va_end(args);
	}
	return code;
}

uint64_t now_ns(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * NS_PER_S + (uint64_t)t.tv_nsec;
}

static bool pausing(const struct guest *guest)
{
	return __atomic_load_n(&guest->pausing, __ATOMIC_ACQUIRE);
}

static void *cpu_main(void *arg)
{
	struct cpu *cpu = arg;
	struct guest *guest = cpu->guest;

	for (;;) {
		pthread_mutex_lock(&guest->lock);
		cpu->tid = gettid();
		cpu->parked = true;
		pthread_cond_broadcast(&guest->changed);
		while (pausing(guest))
			pthread_cond_wait(&guest->changed, &guest->lock);
		cpu->parked = false;
		guest->ops->kick(cpu, false);
		cpu->next_ns = now_ns();
		pthread_mutex_unlock(&guest->lock);
		guest->ops->run(cpu);
	}
	return NULL;
}

/* With the lock held. */
static void wait_parked(struct guest *guest)
{
	for (unsigned i = 0; i < guest->cpus; i++)
		while (!guest->cpu[i].parked)
			pthread_cond_wait(&guest->changed, &guest->lock);
}

int guest_open(struct guest *guest, struct wh_err *err)
{
	uint64_t pages = guest->ram.bytes / PAGE_BYTES;
	uint64_t share = (pages - SHARES_FIRST - pages / 8) / guest->cpus;
	int ret;

	pthread_mutex_init(&guest->lock, NULL);
	pthread_cond_init(&guest->changed, NULL);
	guest->pausing = true;
	guest->broken_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (guest->broken_fd < 0)
		return fail(err, -errno, "eventfd: %m");
	for (unsigned i = 0; i < guest->cpus; i++)
		guest->cpu[i] = (struct cpu){
			.guest = guest,
			.index = i,
			.first = SHARES_FIRST + i * share,
			.pages = share,
			.fd = -1,
		};
	ret = guest->ops->open(guest, err);
	for (unsigned i = 0; i < guest->cpus && !ret; i++) {
		ret = -pthread_create(&guest->cpu[i].thread, NULL, cpu_main, &guest->cpu[i]);
		if (ret)
			return fail(err, ret, "thread of vCPU %u cannot be made", i);
	}
	if (ret)
		return ret;
	pthread_mutex_lock(&guest->lock);
	wait_parked(guest);
	pthread_mutex_unlock(&guest->lock);
	return 0;
}

void guest_run(struct guest *guest)
{
	pthread_mutex_lock(&guest->lock);
	__atomic_store_n(&guest->pausing, false, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&guest->changed);
	pthread_mutex_unlock(&guest->lock);
}

void guest_park(struct guest *guest)
{
	pthread_mutex_lock(&guest->lock);
	__atomic_store_n(&guest->pausing, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < guest->cpus; i++)
		guest->ops->kick(&guest->cpu[i], true);
	wait_parked(guest);
	pthread_mutex_unlock(&guest->lock);
}

bool guest_parked(struct guest *guest)
{
	return pausing(guest);
}

void guest_broke(struct cpu *cpu, const char *format, ...)
{
	struct guest *guest = cpu->guest;
	char text[WH_ERR_TEXT - 16];
	va_list args;

	va_start(args, format);
	vsnprintf(text, sizeof(text), format, args);
	va_end(args);
	pthread_mutex_lock(&guest->lock);
	if (!guest->broken.code)
		fail(&guest->broken, -EIO, "vCPU %u: %s", cpu->index, text);
	eventfd_write(guest->broken_fd, 1);
	cpu->parked = true;
	pthread_cond_broadcast(&guest->changed);
	while (!pausing(guest))
		pthread_cond_wait(&guest->changed, &guest->lock);
	pthread_mutex_unlock(&guest->lock);
}

void guest_serial(struct guest *guest, char c)
{
	__atomic_fetch_add(&guest->serial_chars, 1, __ATOMIC_RELAXED);
	if (guest->serial_fd >= 0 && write(guest->serial_fd, &c, 1) < 0)
		return; /* nobody listens: a serial port does not mind */
}

uint32_t guest_pace(struct cpu *cpu)
{
	uint64_t rate = cpu->guest->rate;
	uint64_t steps, now = now_ns();
	struct timespec at;

	if (!rate)
		return PACE_FREE;
	steps = rate * PACE_NS / NS_PER_S;
	steps = steps ? steps : 1;
	if (now > cpu->next_ns + PACE_LATE_NS)
		cpu->next_ns = now;
	at.tv_sec = (time_t)(cpu->next_ns / NS_PER_S);
	at.tv_nsec = (long)(cpu->next_ns % NS_PER_S);
	/* A kick ends it early: the few steps that come too soon do not matter. */
	clock_nanosleep(CLOCK_MONOTONIC, TIMER_ABSTIME, &at, NULL);
	cpu->next_ns += steps * NS_PER_S / rate;
	return (uint32_t)steps;
}
