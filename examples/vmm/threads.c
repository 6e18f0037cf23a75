/* SPDX-License-Identifier: MIT */
/*
 * The guest without KVM: plain threads do what the program does. Nothing logs their
 * writes, so the library has to.
 */
#include "vmm.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <string.h>

/* Only to end a sleep with EINTR. */
static void kicked(int number)
{
	(void)number;
}

static int threads_open(struct guest *guest, struct wh_err *err)
{
	struct sigaction action = { .sa_handler = kicked };

	(void)guest;
	if (sigaction(SIGUSR1, &action, NULL) < 0)
		return fail(err, -errno, "sigaction: %m");
	return 0;
}

static void threads_kick(struct cpu *cpu, bool on)
{
	if (on)
		pthread_kill(cpu->thread, SIGUSR1);
}

static void threads_run(struct cpu *cpu)
{
	struct place *place = &cpu->place;
	uint32_t steps = 0;

	while (!__atomic_load_n(&cpu->guest->pausing, __ATOMIC_ACQUIRE)) {
		volatile uint8_t *at =
			cpu->guest->ram.at + (cpu->first + place->pages) * PAGE_BYTES;

		if (!steps--) {
			steps = guest_pace(cpu);
			continue;
		}
		(*at)++;
		if (++place->pages < cpu->pages)
			continue;
		place->pages = 0;
		place->passes++;
		guest_serial(cpu->guest, (char)('0' + place->passes % 8));
	}
}

static int threads_state(struct cpu *cpu, struct state *state, struct wh_err *err)
{
	STATE(state, cpu->place.passes);
	STATE(state, cpu->place.pages);
	if (cpu->place.pages >= cpu->pages)
		return fail(err, -EPROTO, "vCPU %u: at page %" PRIu64 " of %" PRIu64, cpu->index,
			    cpu->place.pages, cpu->pages);
	return 0;
}

static int threads_where(struct cpu *cpu, struct place *place, struct wh_err *err)
{
	(void)err;
	*place = cpu->place;
	return 0;
}

const struct cpus_ops thread_cpus = {
	.name = "plain threads",
	.number = 2,
	.open = threads_open,
	.run = threads_run,
	.kick = threads_kick,
	.state = threads_state,
	.where = threads_where,
};
