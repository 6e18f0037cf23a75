/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The example VMM alone: its guest runs, its dirty log tells what was written, its
 * device state moves a processor, its verification finds every kind of wrong byte.
 */
#include "kselftest_harness.h"

#include "examples/vmm/machine.h"

#include <time.h>
#include <unistd.h>

#define RAM_BYTES (16ull << 20)
#define CPUS 2u

static uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}

static int guest_make(struct vmm *vmm, bool kvm, struct wh_err *err)
{
	*vmm = (struct vmm){
		.ops = kvm ? kvm_cpus : &thread_cpus,
		.config = { .cpus = CPUS, .ram_bytes = RAM_BYTES },
		.serial_fd = -1,
	};
	return ram_open(vmm, err) || guest_open(vmm, err) ? err->code : 0;
}

/* Until it has gone over its memory so many times; a processor that cannot ends the test. */
static void run_passes(struct vmm *vmm, uint64_t passes, struct wh_err *err)
{
	uint64_t until = vmm->serial_chars + passes * CPUS;

	guest_run(vmm, err);
	while (__atomic_load_n(&vmm->serial_chars, __ATOMIC_RELAXED) < until)
		usleep(100);
	guest_park(vmm, err);
}

static void run_for(struct vmm *vmm, unsigned us, struct wh_err *err)
{
	guest_run(vmm, err);
	usleep(us);
	guest_park(vmm, err);
}

FIXTURE(machine)
{
	struct vmm vmm;
	struct wh_err err;
};

FIXTURE_VARIANT(machine)
{
	bool kvm;
};

FIXTURE_VARIANT_ADD(machine, kvm){
	.kvm = true,
};

FIXTURE_VARIANT_ADD(machine, threads){
	.kvm = false,
};

FIXTURE_SETUP(machine)
{
	if (variant->kvm && access("/dev/kvm", R_OK | W_OK) < 0)
		SKIP(return, "no /dev/kvm");
	ASSERT_EQ(0, guest_make(&self->vmm, variant->kvm, &self->err))
	TH_LOG("%s", self->err.text);
	ram_fill(&self->vmm);
}

FIXTURE_TEARDOWN(machine)
{
}

TEST_F(machine, runs_and_verifies)
{
	EXPECT_EQ(0, ram_verify(&self->vmm, &self->err)) TH_LOG("%s", self->err.text);
	/* Stopped at many points of the program, it must never look wrong */
	for (unsigned i = 0; i < 200; i++) {
		run_for(&self->vmm, i * 7, &self->err);
		ASSERT_EQ(0, ram_verify(&self->vmm, &self->err)) TH_LOG("%s", self->err.text);
	}
	run_passes(&self->vmm, 1, &self->err);
	ASSERT_EQ(0, ram_verify(&self->vmm, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_LT(0, self->vmm.cpu[1].state.passes);
}

/* As a monitor may ask for it: told twice, there is still one thread a processor. */
TEST_F(machine, runs_and_parks_once)
{
	guest_run(&self->vmm, &self->err);
	guest_run(&self->vmm, &self->err);
	usleep(20000);
	guest_park(&self->vmm, &self->err);
	guest_park(&self->vmm, &self->err);
	EXPECT_EQ(0, ram_verify(&self->vmm, &self->err)) TH_LOG("%s", self->err.text);
}

/* The verification must fail, with the address, for a wrong byte anywhere. */
TEST_F(machine, finds_wrong_bytes)
{
	uint64_t page = self->vmm.cpu[1].first + 7;
	const uint64_t wrong[] = {
		1,				    /* the program */
		PAGE_BYTES - 1,			    /* behind it */
		5 * PAGE_BYTES + 77,		    /* zeros */
		page * PAGE_BYTES,		    /* a stepped byte */
		page * PAGE_BYTES + 1,		    /* the pattern beside it */
		page * PAGE_BYTES + PAGE_BYTES - 1, /* and at the end of the page */
		RAM_BYTES - 1,			    /* the quiet tail */
	};
	char text[32];

	run_passes(&self->vmm, 1, &self->err);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		ram_page(&self->vmm, 0)[wrong[i]] ^= 0x40;
		EXPECT_EQ(-EILSEQ, ram_verify(&self->vmm, &self->err));
		snprintf(text, sizeof(text), "address 0x%llx:", (unsigned long long)wrong[i]);
		EXPECT_NE(NULL, strstr(self->err.text, text)) TH_LOG("%s", self->err.text);
		ram_page(&self->vmm, 0)[wrong[i]] ^= 0x40;
	}
	memset(ram_page(&self->vmm, page), 0, PAGE_BYTES);
	EXPECT_EQ(-EILSEQ, ram_verify(&self->vmm, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "all of the page is zero"));
}

/* A page that is one step behind, as a lost write would leave it. */
TEST_F(machine, finds_lost_step)
{
	run_passes(&self->vmm, 1, &self->err);
	--*ram_page(&self->vmm, self->vmm.cpu[0].first + 1);
	EXPECT_EQ(-EILSEQ, ram_verify(&self->vmm, &self->err));
}

TEST_F(machine, moves_by_device_state)
{
	struct vmm other;
	void *state;
	size_t length;

	run_passes(&self->vmm, 1, &self->err);
	ASSERT_EQ(0, guest_make(&other, variant->kvm, &self->err)) TH_LOG("%s", self->err.text);
	for (unsigned i = 0; i < 50; i++) {
		run_for(&self->vmm, i * 13, &self->err);
		ASSERT_EQ(0, guest_save(&self->vmm, &state, &length, &self->err));
		memcpy(other.ram.addr, self->vmm.ram.addr, RAM_BYTES);
		ASSERT_EQ(0, guest_load(&other, state, length, &self->err))
		TH_LOG("%s", self->err.text);
		free(state);
		ASSERT_EQ(0, ram_verify(&other, &self->err)) TH_LOG("%s", self->err.text);
	}
	run_passes(&other, 1, &self->err);
	EXPECT_EQ(0, ram_verify(&other, &self->err)) TH_LOG("%s", self->err.text);
}

TEST_F(machine, refuses_broken_state)
{
	uint8_t *state, *broken;
	size_t length;
	void *data;

	ASSERT_EQ(0, guest_save(&self->vmm, &data, &length, &self->err));
	state = data;
	broken = malloc(length + 1);
	ASSERT_NE(NULL, broken);
	for (size_t n = 0; n < length; n++) {
		memcpy(broken, state, n);
		ASSERT_EQ(-EPROTO, guest_load(&self->vmm, broken, n, &self->err))
		TH_LOG("%zu bytes of %zu", n, length);
	}
	memcpy(broken, state, length);
	broken[length] = 0;
	EXPECT_EQ(-EPROTO, guest_load(&self->vmm, broken, length + 1, &self->err));
	/* Every byte of the header has one right value. */
	for (size_t n = 0; n < STATE_HEADER_BYTES; n++) {
		broken[n] ^= 0x11;
		EXPECT_EQ(-EPROTO, guest_load(&self->vmm, broken, length, &self->err));
		broken[n] ^= 0x11;
	}
	/* Of a processor some are refused and some are not: none may do harm. */
	for (size_t n = STATE_HEADER_BYTES; n < length; n++) {
		broken[n] ^= 0x80;
		guest_load(&self->vmm, broken, length, &self->err);
		broken[n] ^= 0x80;
	}
	EXPECT_EQ(0, guest_load(&self->vmm, state, length, &self->err))
	TH_LOG("%s", self->err.text);
	run_passes(&self->vmm, 1, &self->err);
	EXPECT_EQ(0, ram_verify(&self->vmm, &self->err)) TH_LOG("%s", self->err.text);
}

/* A processor that would be somewhere else is refused, and with it the state. */
TEST_F(machine, refuses_place_outside_share)
{
	uint64_t outside = self->vmm.share_pages + 1;
	struct vmm *vmm = &self->vmm;
	size_t length, cpu_bytes;
	void *state;
	char *place;

	ASSERT_EQ(0, guest_save(vmm, &state, &length, &self->err));
	if (variant->kvm) {
		vmm->cpu[1].first++;
		EXPECT_EQ(-EPROTO, guest_load(vmm, state, length, &self->err));
		EXPECT_NE(NULL, strstr(self->err.text, "vCPU 1")) TH_LOG("%s", self->err.text);
		vmm->cpu[1].first--;
	}
	EXPECT_EQ(0, guest_load(vmm, state, length, &self->err)) TH_LOG("%s", self->err.text);
	cpu_bytes = (length - STATE_HEADER_BYTES) / CPUS;
	place = (char *)state + STATE_HEADER_BYTES + cpu_bytes;
	memcpy(place + offsetof(struct cpu_state, pages), &outside, sizeof(outside));
	EXPECT_EQ(-EPROTO, guest_load(vmm, state, length, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "vCPU 1")) TH_LOG("%s", self->err.text);
#if defined(__x86_64__)
	/* Behind the end of all addresses: what follows is not page 0 */
	outside = 0;
	memcpy(place + offsetof(struct cpu_state, pages), &outside, sizeof(outside));
	outside = -(uint64_t)PAGE_BYTES;
	memcpy(place + offsetof(struct cpu_state, regs.rdi), &outside, sizeof(outside));
	outside = (uint64_t)(vmm_program_stepped - vmm_program);
	memcpy(place + offsetof(struct cpu_state, regs.rip), &outside, sizeof(outside));
	EXPECT_EQ(variant->kvm ? -EPROTO : 0, guest_load(vmm, state, length, &self->err));
#endif
}

/* Copying only what the log tells of, while it runs, gives the same memory. */
TEST_F(machine, logs_what_is_written)
{
	struct vmm *vmm = &self->vmm;
	uint64_t pages = RAM_BYTES / PAGE_BYTES;
	uint64_t map[RAM_BYTES / PAGE_BYTES / 64];
	uint64_t copied = 0;
	uint8_t *copy;

	/* Plain threads have none: the library keeps it */
	ASSERT_EQ(variant->kvm, vmm->ops->dirty_sync != NULL);
	if (!variant->kvm)
		return;
	copy = malloc(RAM_BYTES);
	ASSERT_NE(NULL, copy);
	vmm->config.rate = 20000;
	ASSERT_EQ(0, vmm->ops->dirty_start(vmm, &self->err)) TH_LOG("%s", self->err.text);
	memset(map, 0xff, sizeof(map));
	guest_run(vmm, &self->err);
	for (unsigned round = 0; round < 20; round++) {
		usleep(2000);
		if (round == 19)
			guest_park(vmm, &self->err);
		ASSERT_EQ(0, vmm->ops->dirty_sync(vmm, &vmm->ram, map, pages, &self->err))
		TH_LOG("%s", self->err.text);
		for (uint64_t page = 0; page < pages; page++) {
			if (!(map[page / 64] >> page % 64 & 1))
				continue;
			memcpy(copy + page * PAGE_BYTES, ram_page(vmm, page), PAGE_BYTES);
			copied++;
		}
		memset(map, 0, sizeof(map));
	}
	vmm->ops->dirty_stop(vmm);
	EXPECT_EQ(0, memcmp(copy, vmm->ram.addr, RAM_BYTES));
	/* It is a log, not a list of everything */
	EXPECT_GT(pages * 10, copied);
	EXPECT_LT(pages + 20, copied);
}

TEST_F(machine, keeps_its_rate)
{
	const struct cpu_state *state = &self->vmm.cpu[0].state;
	uint64_t begin = now_ms();
	uint64_t steps;

	self->vmm.config.rate = 10000;
	run_for(&self->vmm, 300000, &self->err);
	steps = state->passes * self->vmm.share_pages + state->pages;
	/* A busy machine makes it slower, nothing makes it faster; 200 ahead for the batches */
	EXPECT_GT((now_ms() - begin + 1) * 10 + 200, steps);
	EXPECT_LT(100, steps);
}

TEST_HARNESS_MAIN
