/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The example VMM alone: its guest runs, its dirty log tells what was written, its
 * device state moves a processor, its verification finds every kind of wrong byte.
 */
#include "kselftest_harness.h"

#include "examples/vmm/vmm.h"

#include <unistd.h>

#define RAM_BYTES (16ull << 20)
#define CPUS 2u

static const struct cpus_ops *cpus_of(bool kvm)
{
	return kvm ? kvm_cpus : &thread_cpus;
}

static int guest_make(struct guest *guest, bool kvm, struct wh_err *err)
{
	int ret;

	*guest = (struct guest){ .ops = cpus_of(kvm), .cpus = CPUS, .serial_fd = -1 };
	ret = ram_open(&guest->ram, MEMORY_PRIVATE, RAM_BYTES, err);
	return ret ? ret : guest_open(guest, err);
}

/* Until it has gone over its memory so many times. */
static void run_passes(struct guest *guest, uint64_t passes)
{
	uint64_t until = guest->serial_chars + passes * CPUS;

	guest_run(guest);
	while (__atomic_load_n(&guest->serial_chars, __ATOMIC_RELAXED) < until &&
	       !__atomic_load_n(&guest->broken.code, __ATOMIC_RELAXED))
		usleep(100);
	guest_park(guest);
}

FIXTURE(machine)
{
	struct guest guest;
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
	ASSERT_EQ(0, guest_make(&self->guest, variant->kvm, &self->err))
	TH_LOG("%s", self->err.text);
	ram_fill(&self->guest);
}

FIXTURE_TEARDOWN(machine)
{
}

TEST_F(machine, runs_and_verifies)
{
	struct place place;

	EXPECT_EQ(0, ram_verify(&self->guest, &self->err)) TH_LOG("%s", self->err.text);
	/* Stopped at many points of the program, it must never look wrong */
	for (unsigned i = 0; i < 200; i++) {
		guest_run(&self->guest);
		usleep(i * 7);
		guest_park(&self->guest);
		ASSERT_EQ(0, ram_verify(&self->guest, &self->err)) TH_LOG("%s", self->err.text);
	}
	run_passes(&self->guest, 1);
	ASSERT_EQ(0, ram_verify(&self->guest, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, self->guest.ops->where(&self->guest.cpu[1], &place, &self->err));
	EXPECT_LT(0, place.passes);
}

/* The verification must fail, with the address, for a wrong byte anywhere. */
TEST_F(machine, finds_wrong_bytes)
{
	uint64_t page = self->guest.cpu[1].first + 7;
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

	run_passes(&self->guest, 1);
	for (unsigned i = 0; i < ARRAY_SIZE(wrong); i++) {
		self->guest.ram.at[wrong[i]] ^= 0x40;
		EXPECT_EQ(-EILSEQ, ram_verify(&self->guest, &self->err));
		snprintf(text, sizeof(text), "address 0x%llx:", (unsigned long long)wrong[i]);
		EXPECT_NE(NULL, strstr(self->err.text, text)) TH_LOG("%s", self->err.text);
		self->guest.ram.at[wrong[i]] ^= 0x40;
	}
	memset(self->guest.ram.at + page * PAGE_BYTES, 0, PAGE_BYTES);
	EXPECT_EQ(-EILSEQ, ram_verify(&self->guest, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "all of the page is zero"));
}

/* A page that is one step behind, as a lost write would leave it. */
TEST_F(machine, finds_lost_step)
{
	uint64_t at = (self->guest.cpu[0].first + 1) * PAGE_BYTES;

	run_passes(&self->guest, 1);
	self->guest.ram.at[at]--;
	EXPECT_EQ(-EILSEQ, ram_verify(&self->guest, &self->err));
}

TEST_F(machine, moves_by_device_state)
{
	struct guest other;
	void *state;
	size_t length;

	run_passes(&self->guest, 1);
	ASSERT_EQ(0, guest_make(&other, variant->kvm, &self->err)) TH_LOG("%s", self->err.text);
	for (unsigned i = 0; i < 50; i++) {
		guest_run(&self->guest);
		usleep(i * 13);
		guest_park(&self->guest);
		ASSERT_EQ(0, state_save(&self->guest, &state, &length, &self->err));
		memcpy(other.ram.at, self->guest.ram.at, RAM_BYTES);
		ASSERT_EQ(0, state_load(&other, state, length, &self->err))
		TH_LOG("%s", self->err.text);
		free(state);
		ASSERT_EQ(0, ram_verify(&other, &self->err)) TH_LOG("%s", self->err.text);
	}
	run_passes(&other, 1);
	EXPECT_EQ(0, ram_verify(&other, &self->err)) TH_LOG("%s", self->err.text);
}

TEST_F(machine, refuses_broken_state)
{
	uint8_t *state, *broken;
	size_t length;
	void *data;

	ASSERT_EQ(0, state_save(&self->guest, &data, &length, &self->err));
	state = data;
	broken = malloc(length + 1);
	ASSERT_NE(NULL, broken);
	for (size_t n = 0; n < length; n++) {
		memcpy(broken, state, n);
		ASSERT_EQ(-EPROTO, state_load(&self->guest, broken, n, &self->err))
		TH_LOG("%zu bytes of %zu", n, length);
	}
	memcpy(broken, state, length);
	broken[length] = 0;
	EXPECT_EQ(-EPROTO, state_load(&self->guest, broken, length + 1, &self->err));
	/* Every field of the header has one right value. */
	for (size_t n = 0; n < 28; n++) {
		broken[n] ^= 0x11;
		EXPECT_EQ(-EPROTO, state_load(&self->guest, broken, length, &self->err));
		broken[n] ^= 0x11;
	}
	/* Of a processor some are refused and some are not: none may do harm. */
	for (size_t n = 28; n < length; n++) {
		broken[n] ^= 0x80;
		state_load(&self->guest, broken, length, &self->err);
		broken[n] ^= 0x80;
	}
	EXPECT_EQ(0, state_load(&self->guest, state, length, &self->err))
	TH_LOG("%s", self->err.text);
	run_passes(&self->guest, 1);
	EXPECT_EQ(0, self->guest.broken.code) TH_LOG("%s", self->guest.broken.text);
	EXPECT_EQ(0, ram_verify(&self->guest, &self->err)) TH_LOG("%s", self->err.text);
}

/* A processor that would be somewhere else is refused, and with it the state. */
TEST_F(machine, refuses_place_outside_share)
{
	struct guest fewer;
	size_t length;
	void *state;

	ASSERT_EQ(0, state_save(&self->guest, &state, &length, &self->err));
	ASSERT_EQ(0, guest_make(&fewer, variant->kvm, &self->err));
	fewer.cpu[1].first++;
	fewer.cpu[1].pages = 0;
	EXPECT_EQ(-EPROTO, state_load(&fewer, state, length, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "vCPU 1")) TH_LOG("%s", self->err.text);
}

/* Copying only what the log tells of, while it runs, gives the same memory. */
TEST_F(machine, logs_what_is_written)
{
	struct guest *guest = &self->guest;
	uint64_t pages = RAM_BYTES / PAGE_BYTES;
	uint64_t map[RAM_BYTES / PAGE_BYTES / 64];
	uint64_t copied = 0;
	uint8_t *copy;

	/* Plain threads have none: the library keeps it */
	ASSERT_EQ(variant->kvm, guest->ops->log != NULL);
	if (!variant->kvm)
		return;
	copy = malloc(RAM_BYTES);
	ASSERT_NE(NULL, copy);
	guest->rate = 20000;
	ASSERT_EQ(0, guest->ops->log(guest, true, &self->err)) TH_LOG("%s", self->err.text);
	memset(map, 0xff, sizeof(map));
	for (unsigned round = 0; round < 20; round++) {
		guest_run(guest);
		usleep(2000);
		if (round == 19)
			guest_park(guest);
		ASSERT_EQ(0, guest->ops->log_take(guest, map, pages, &self->err))
		TH_LOG("%s", self->err.text);
		for (uint64_t page = 0; page < pages; page++) {
			if (!(map[page / 64] >> page % 64 & 1))
				continue;
			memcpy(copy + page * PAGE_BYTES, guest->ram.at + page * PAGE_BYTES,
			       PAGE_BYTES);
			copied++;
		}
		memset(map, 0, sizeof(map));
	}
	guest->ops->log(guest, false, NULL);
	EXPECT_EQ(0, memcmp(copy, guest->ram.at, RAM_BYTES));
	/* It is a log, not a list of everything */
	EXPECT_GT(pages * 10, copied);
	EXPECT_LT(pages + 20, copied);
}

TEST_F(machine, keeps_its_rate)
{
	uint64_t pages = self->guest.cpu[0].pages;
	uint64_t begin = now_ns();
	struct place place;

	self->guest.rate = 10000;
	guest_run(&self->guest);
	usleep(300000);
	guest_park(&self->guest);
	ASSERT_EQ(0, self->guest.ops->where(&self->guest.cpu[0], &place, &self->err));
	/* A busy machine makes it slower, nothing makes it faster; 200 ahead for the batches */
	EXPECT_GT((now_ns() - begin) / 100000 + 200, place.passes * pages + place.pages);
	EXPECT_LT(100, place.passes * pages + place.pages);
}

TEST_HARNESS_MAIN
