/* SPDX-License-Identifier: MIT */
/*
 * The guest as a whole: its processors' threads, run and parked together; device state;
 * and the processors where there is no KVM.
 */
#include "machine.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define NS_PER_S 1000000000ull
#define PACES_PER_S 200 /* how often a processor with a rate waits */

bool guest_running(const struct vmm *vmm)
{
	return __atomic_load_n(&vmm->running, __ATOMIC_ACQUIRE);
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
	vmm->share_pages = (pages - SHARES_FIRST - pages / 8) / vmm->config.cpus;
	vmm->cpus = vmm->config.cpus + (vmm->config.nic != NULL);
	for (unsigned i = 0; i < vmm->cpus; i++) {
		vmm->cpu[i].vmm = vmm;
		vmm->cpu[i].index = i;
		vmm->cpu[i].first = SHARES_FIRST + i * vmm->share_pages;
	}
	return vmm->ops->open ? vmm->ops->open(vmm, err) : 0;
}

int cpus_run(struct vmm *vmm, struct wh_err *err)
{
	if (vmm->config.nic && !vmm->nic_is_here)
		nic_here(vmm);
	vmm->nic_is_here = true;
	__atomic_store_n(&vmm->running, true, __ATOMIC_RELEASE);
	for (unsigned i = 0; i < vmm->cpus; i++)
		if (pthread_create(&vmm->cpu[i].thread, NULL, cpu_main, &vmm->cpu[i]))
			return fail(err, -EAGAIN, "no thread for vCPU %u", i);
	return 0;
}

int guest_run(void *opaque, struct wh_err *err)
{
	struct vmm *vmm = opaque;

	if (guest_running(vmm))
		return 0;
	if (cpus_run(vmm, err))
		return err->code;
	if (vmm->config.running)
		vmm->config.running(vmm->config.opaque, true);
	return 0;
}

/*
 * A signal alone could come just before KVM_RUN and be lost; immediate_exit makes that
 * KVM_RUN return. An access of the guest that was given to us is completed even then,
 * so that afterwards the registers are all there is.
 */
void cpus_park(struct vmm *vmm)
{
	__atomic_store_n(&vmm->running, false, __ATOMIC_RELEASE);
	if (vmm->config.nic)
		nic_kick(vmm);
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
}

int guest_park(void *opaque, struct wh_err *err)
{
	struct vmm *vmm = opaque;

	(void)err;
	if (!guest_running(vmm))
		return 0;
	cpus_park(vmm);
	if (vmm->config.running)
		vmm->config.running(vmm->config.opaque, false);
	return 0;
}

void guest_serial(struct vmm *vmm, char c)
{
	__atomic_fetch_add(&vmm->serial_chars, 1, __ATOMIC_RELAXED);
	if (write(vmm->serial_fd, &c, 1) < 0)
		return; /* a serial port does not mind */
}

uint32_t guest_pace(const struct vmm *vmm)
{
	uint64_t rate = vmm->config.rate;
	uint64_t steps = rate / PACES_PER_S ? rate / PACES_PER_S : 1;
	struct timespec pause;

	if (!rate)
		return UINT16_MAX;
	pause.tv_sec = (time_t)(steps / rate);
	pause.tv_nsec = (long)(steps * NS_PER_S / rate % NS_PER_S);
	nanosleep(&pause, NULL); /* the few steps that come too soon after a kick do not matter */
	return (uint32_t)steps;
}

static size_t state_bytes(const struct vmm *vmm)
{
	return STATE_HEADER_BYTES + vmm->cpus * sizeof(struct cpu_state);
}

static void state_of(const struct vmm *vmm, struct guest_state *state)
{
	memset(state, 0, sizeof(*state));
	snprintf(state->header, sizeof(state->header),
		 "wherry-vmm 3: %" PRIu64 " bytes, %u vCPUs%s (%s, %zu bytes)", vmm->ram.length,
		 vmm->config.cpus, vmm->config.nic ? ", network" : "", vmm->ops->name,
		 sizeof(struct cpu_state));
	for (unsigned i = 0; i < vmm->cpus; i++)
		state->cpu[i] = vmm->cpu[i].state;
}

int guest_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	const struct vmm *vmm = opaque;

	*length = state_bytes(vmm);
	*data = malloc(sizeof(struct guest_state));
	if (!*data)
		return fail(err, -ENOMEM, "no memory for device state");
	state_of(vmm, *data);
	return 0;
}

/* Of a header that may be anything */
static bool has_nic(const char *header, size_t length)
{
	return memmem(header, length, ", network", sizeof(", network") - 1);
}

/* It comes from a stranger: nothing is used that was not looked at. */
int guest_load(struct vmm *vmm, const void *data, size_t length, struct wh_err *err)
{
	size_t header = length < STATE_HEADER_BYTES ? length : STATE_HEADER_BYTES;
	struct guest_state here, state;

	state_of(vmm, &here);
	if (has_nic(data, header) != (vmm->config.nic != NULL))
		return fail(err, -EPROTO, "the guest has %s network card there and %s here: --nic",
			    vmm->config.nic ? "no" : "a", vmm->config.nic ? "one" : "none");
	if (length != state_bytes(vmm) || memcmp(data, here.header, STATE_HEADER_BYTES))
		return fail(err, -EPROTO, "device state is of '%.*s', here is '%s'", (int)header,
			    (const char *)data, here.header);
	memcpy(&state, data, length);
	for (struct cpu *cpu = vmm->cpu; cpu < vmm->cpu + vmm->cpus; cpu++) {
		cpu->state = state.cpu[cpu->index];
		if (cpu->state.pages > vmm->share_pages)
			return fail(err, -EPROTO, "vCPU %u: it is not in its share", cpu->index);
		if (vmm->ops->set_state && vmm->ops->set_state(cpu, err))
			return err->code;
	}
	return 0;
}

/* Plain threads do what the program does. Nothing logs their writes, the library has to. */
static int thread_run(struct cpu *cpu, struct wh_err *err)
{
	struct cpu_state *state = &cpu->state;
	uint32_t steps = 0;

	(void)err;
	if (cpu_is_nic(cpu))
		nic_serve(cpu->vmm);
	for (; guest_running(cpu->vmm); steps--) {
		if (!steps)
			steps = guest_pace(cpu->vmm);
		if (state->pages == cpu->vmm->share_pages) {
			state->pages = 0;
			state->passes++;
			guest_serial(cpu->vmm, (char)('0' + state->passes % 8));
		}
		++*(volatile uint8_t *)ram_page(cpu->vmm, cpu->first + state->pages++);
	}
	return 0;
}

const struct cpus_ops thread_cpus = { .name = "plain threads", .run = thread_run };
