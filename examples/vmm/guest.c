/* SPDX-License-Identifier: MIT */
/*
 * The guest as a whole: its processors' threads, run and parked together; device state;
 * and the processors where there is no KVM.
 */
#include "vmm.h"

#include <errno.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define PACES_PER_S 200 /* how often a processor with a rate waits */

bool guest_pausing(const struct vmm *vmm)
{
	return __atomic_load_n(&vmm->pausing, __ATOMIC_ACQUIRE);
}

static void *cpu_main(void *arg)
{
	struct cpu *cpu = arg;
	struct wh_err err = { 0 };

	__atomic_store_n(&cpu->tid, gettid(), __ATOMIC_RELAXED);
	if (!cpu->vmm->ops->run(cpu, &err))
		return NULL;
	fprintf(stderr, "wherry-vmm: vCPU %u: %s\n", cpu->index, err.text);
	exit(1);
}

static void kicked(int number)
{
	(void)number; /* only to end a system call with EINTR */
}

int guest_open(struct vmm *vmm, struct wh_err *err)
{
	struct sigaction action = { .sa_handler = kicked };
	uint64_t pages = vmm->ram.length / PAGE_BYTES;

	sigaction(SIGUSR1, &action, NULL);
	vmm->pausing = true;
	vmm->share_pages = (pages - SHARES_FIRST - pages / 8) / vmm->cpus;
	for (unsigned i = 0; i < vmm->cpus; i++) {
		vmm->cpu[i].vmm = vmm;
		vmm->cpu[i].index = i;
		vmm->cpu[i].first = SHARES_FIRST + i * vmm->share_pages;
	}
	return vmm->ops->open ? vmm->ops->open(vmm, err) : 0;
}

int guest_run(void *opaque, struct wh_err *err)
{
	struct vmm *vmm = opaque;

	__atomic_store_n(&vmm->pausing, false, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vmm->cpus; i++)
		if (pthread_create(&vmm->cpu[i].thread, NULL, cpu_main, &vmm->cpu[i]))
			return fail(err, -EAGAIN, "no thread for vCPU %u", i);
	if (vmm->monitor)
		wh_qmp_set_running(vmm->monitor, true);
	return 0;
}

/*
 * A signal alone could come just before KVM_RUN and be lost; immediate_exit makes that
 * KVM_RUN return. An access of the guest that was given to us is completed even then,
 * so that afterwards the registers are all there is.
 */
int guest_park(void *opaque, struct wh_err *err)
{
	struct vmm *vmm = opaque;

	(void)err;
	__atomic_store_n(&vmm->pausing, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vmm->cpus; i++) {
		if (vmm->cpu[i].run)
			__atomic_store_n(&vmm->cpu[i].run->immediate_exit, 1, __ATOMIC_SEQ_CST);
		pthread_kill(vmm->cpu[i].thread, SIGUSR1);
	}
	for (unsigned i = 0; i < vmm->cpus; i++) {
		pthread_join(vmm->cpu[i].thread, NULL);
		if (vmm->cpu[i].run)
			vmm->cpu[i].run->immediate_exit = 0;
	}
	if (vmm->monitor)
		wh_qmp_set_running(vmm->monitor, false);
	return 0;
}

void guest_serial(struct vmm *vmm, char c)
{
	__atomic_fetch_add(&vmm->serial_chars, 1, __ATOMIC_RELAXED);
	if (vmm->serial_fd >= 0 && write(vmm->serial_fd, &c, 1) < 0)
		return; /* a serial port does not mind */
}

uint32_t guest_pace(const struct vmm *vmm)
{
	uint64_t steps = vmm->rate / PACES_PER_S ? vmm->rate / PACES_PER_S : 1;
	struct timespec pause;

	if (!vmm->rate)
		return UINT16_MAX;
	pause.tv_sec = (time_t)(steps / vmm->rate);
	pause.tv_nsec = (long)(steps * NS_PER_S / vmm->rate % NS_PER_S);
	nanosleep(&pause, NULL); /* the few steps that come too soon after a kick do not matter */
	return (uint32_t)steps;
}

static size_t cpu_bytes(const struct vmm *vmm)
{
	return sizeof(struct place) + vmm->ops->state_bytes;
}

/* Device state begins with what has to be alike at both ends, in words. */
static void header_of(const struct vmm *vmm, char *header)
{
	memset(header, 0, STATE_HEADER_BYTES);
	snprintf(header, STATE_HEADER_BYTES,
		 "wherry-vmm 2: %" PRIu64 " bytes, %u vCPUs (%s, %zu bytes)", vmm->ram.length,
		 vmm->cpus, vmm->ops->name, cpu_bytes(vmm));
}

int guest_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	struct vmm *vmm = opaque;
	char *at;
	int ret = 0;

	*length = STATE_HEADER_BYTES + vmm->cpus * cpu_bytes(vmm);
	*data = at = malloc(*length);
	if (!at)
		return fail(err, -ENOMEM, "no memory for device state");
	header_of(vmm, at);
	at += STATE_HEADER_BYTES;
	for (unsigned i = 0; i < vmm->cpus && !ret; i++, at += cpu_bytes(vmm)) {
		memcpy(at, &vmm->cpu[i].place, sizeof(struct place));
		if (vmm->ops->get)
			ret = vmm->ops->get(&vmm->cpu[i], at + sizeof(struct place), err);
	}
	if (ret)
		free(*data);
	return ret;
}

/* It comes from a stranger: nothing is used that was not looked at. */
int guest_load(struct vmm *vmm, const void *data, size_t length, struct wh_err *err)
{
	const char *at = data;
	char header[STATE_HEADER_BYTES];
	int ret = 0;

	header_of(vmm, header);
	if (length < STATE_HEADER_BYTES || memcmp(at, header, STATE_HEADER_BYTES))
		return fail(err, -EPROTO, "device state is of '%.*s', here is '%s'",
			    (int)(length < STATE_HEADER_BYTES ? length : STATE_HEADER_BYTES), at,
			    header);
	if (length != STATE_HEADER_BYTES + vmm->cpus * cpu_bytes(vmm))
		return fail(err, -EPROTO, "device state: %zu bytes for %u vCPUs", length,
			    vmm->cpus);
	at += STATE_HEADER_BYTES;
	for (unsigned i = 0; i < vmm->cpus && !ret; i++, at += cpu_bytes(vmm)) {
		memcpy(&vmm->cpu[i].place, at, sizeof(struct place));
		if (vmm->cpu[i].place.pages > vmm->share_pages)
			return fail(err, -EPROTO, "vCPU %u: it is not in its share", i);
		if (vmm->ops->set)
			ret = vmm->ops->set(&vmm->cpu[i], at + sizeof(struct place), err);
	}
	return ret;
}

/* Plain threads do what the program does. Nothing logs their writes, the library has to. */
static int thread_run(struct cpu *cpu, struct wh_err *err)
{
	struct place *place = &cpu->place;
	uint32_t steps = 0;

	(void)err;
	while (!guest_pausing(cpu->vmm)) {
		if (!steps--) {
			steps = guest_pace(cpu->vmm);
			continue;
		}
		if (place->pages == cpu->vmm->share_pages) {
			place->pages = 0;
			place->passes++;
			guest_serial(cpu->vmm, (char)('0' + place->passes % 8));
		}
		++*(volatile uint8_t *)ram_page(cpu->vmm, cpu->first + place->pages++);
	}
	return 0;
}

const struct cpus_ops thread_cpus = { .name = "plain threads", .run = thread_run };
