/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The network card of the example VMM, and the witness outside: who asks the guest hears
 * what is in its memory, and can tell from it when that memory is not the one it was.
 */
#include "kselftest_harness.h"

#include "base/clock.h"
#include "cli/witness.h"
#include "examples/vmm/machine.h"
#include "selftests/lib/netrig.h"

#include <poll.h>
#include <unistd.h>

#define RAM_BYTES (16ull << 20)
#define EVERY_NS NS_PER_MS

static int guest_make(struct vmm *vmm, bool kvm, const char *nic, struct wh_err *err)
{
	*vmm = (struct vmm){
		.ops = kvm ? kvm_cpus : &thread_cpus,
		.config = { .cpus = 2, .ram_bytes = RAM_BYTES, .nic = nic, .rate = 20000 },
		.serial_fd = -1,
	};
	if (nic_open(vmm, err) || ram_open(vmm, err) || guest_open(vmm, err))
		return err->code;
	ram_fill(vmm);
	/* an address of its own, which does not follow that of a port */
	return netrig_run("ip link set %s addrgenmode none && ip link set %s master br0 up", nic,
			  nic);
}

FIXTURE(nic)
{
	struct netrig rig;
	struct vmm vmm;
	struct witness witness;
	struct wh_err err;
};

FIXTURE_VARIANT(nic)
{
	bool kvm;
};

FIXTURE_VARIANT_ADD(nic, kvm){
	.kvm = true,
};

FIXTURE_VARIANT_ADD(nic, threads){
	.kvm = false,
};

FIXTURE_SETUP(nic)
{
	const char *missing = netrig_open(&self->rig, 0);

	self->witness.fd = -1;
	if (missing)
		SKIP(return, "%s", missing);
	if (variant->kvm && access("/dev/kvm", R_OK | W_OK) < 0)
		SKIP(return, "no /dev/kvm");
	ASSERT_EQ(0, netrig_run("ip link set br0 address 52:54:00:00:00:01"));
	ASSERT_EQ(0, guest_make(&self->vmm, variant->kvm, "guest0", &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, witness_open(&self->witness, "br0", EVERY_NS, &self->err))
	TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(nic)
{
	witness_close(&self->witness);
}

/* Until there are so many replies, or for five seconds */
static bool ask_until(struct witness *witness, size_t replies)
{
	uint64_t until = clock_now_ns() + 5 * NS_PER_S;
	struct pollfd fd = { .fd = witness->fd, .events = POLLIN };

	while (witness->replies < replies && clock_now_ns() < until) {
		witness_turn(witness, clock_now_ns());
		poll(&fd, 1, 1);
	}
	return witness->replies >= replies;
}

TEST_F(nic, answers)
{
	struct witness *witness = &self->witness;
	struct witness_verdict verdict;

	guest_run(&self->vmm, &self->err);
	ASSERT_TRUE(ask_until(witness, 300)) TH_LOG("%zu replies", witness->replies);
	guest_park(&self->vmm, &self->err);
	EXPECT_EQ(1, witness->reply[0].count);
	verdict = witness_judge(witness->reply, witness->replies, witness->reply[100].at_ns);
	EXPECT_EQ(0, verdict.missing);
	EXPECT_EQ(witness->replies, verdict.before + verdict.after);
	EXPECT_EQ(0, ram_verify(&self->vmm, &self->err)) TH_LOG("%s", self->err.text);
}

/* Parked at any moment, between a request and its reply as well */
TEST_F(nic, is_parked_and_goes_on)
{
	struct witness *witness = &self->witness;
	struct witness_verdict verdict;

	for (unsigned i = 0; i < 200; i++) {
		guest_run(&self->vmm, &self->err);
		witness_turn(witness, clock_now_ns());
		usleep(i * 11);
		guest_park(&self->vmm, &self->err);
		ASSERT_EQ(0, ram_verify(&self->vmm, &self->err)) TH_LOG("%s", self->err.text);
	}
	guest_run(&self->vmm, &self->err);
	ASSERT_TRUE(ask_until(witness, witness->replies + 50));
	guest_park(&self->vmm, &self->err);
	verdict = witness_judge(witness->reply, witness->replies, 0);
	EXPECT_EQ(0, verdict.missing);
	EXPECT_LT(100, verdict.after);
	/* Whatever was asked was answered, each once */
	EXPECT_GE(witness->asked, witness->replies);
	EXPECT_EQ(witness->replies, witness->reply[witness->replies - 1].count);
}

/* Another VMM, with the device state of the first and its memory as it is, or was before */
static void moves(FIXTURE_DATA(nic) *self, struct __test_metadata *_metadata, bool kvm,
		  bool with_all)
{
	struct witness *witness = &self->witness;
	struct witness_verdict verdict;
	struct vmm other;
	uint64_t at_ns;
	size_t length;
	void *state;

	ASSERT_EQ(0, guest_make(&other, kvm, "guest1", &self->err)) TH_LOG("%s", self->err.text);
	guest_run(&self->vmm, &self->err);
	ASSERT_TRUE(ask_until(witness, 100));
	guest_park(&self->vmm, &self->err);
	ASSERT_EQ(0, guest_save(&self->vmm, &state, &length, &self->err));
	memcpy(other.ram.addr, self->vmm.ram.addr, RAM_BYTES);
	if (!with_all) {
		guest_run(&self->vmm, &self->err);
		ASSERT_TRUE(ask_until(witness, 120));
		guest_park(&self->vmm, &self->err);
	}
	at_ns = clock_now_ns();
	ASSERT_EQ(0, guest_load(&other, state, length, &self->err)) TH_LOG("%s", self->err.text);
	guest_run(&other, &self->err);
	ASSERT_TRUE(ask_until(witness, witness->replies + 100));
	guest_park(&other, &self->err);
	verdict = witness_judge(witness->reply, witness->replies, at_ns);
	EXPECT_LE(100, verdict.after);
	EXPECT_EQ(with_all, verdict.missing == 0);
	EXPECT_LE(with_all ? 0 : 20, verdict.missing) TH_LOG("%zu missing", verdict.missing);
	EXPECT_EQ(0, ram_verify(&other, &self->err)) TH_LOG("%s", self->err.text);
	free(state);
}

TEST_F(nic, is_part_of_the_guest)
{
	moves(self, _metadata, variant->kvm, true);
}

TEST_F(nic, tells_who_has_forgotten)
{
	moves(self, _metadata, variant->kvm, false);
}

/* The card writes memory without a processor: the log of KVM knows nothing of it */
TEST_F(nic, its_writes_are_logged)
{
	uint64_t map[RAM_BYTES / PAGE_BYTES / 64] = { 0 };
	struct vmm *vmm = &self->vmm;

	if (!vmm->ops->dirty_sync)
		SKIP(return, "the library tracks writes");
	ASSERT_EQ(0, vmm->ops->dirty_start(vmm, &self->err));
	guest_run(vmm, &self->err);
	/* one that is not answered: the guest itself writes nothing */
	ASSERT_EQ(0, netrig_send_in(&self->rig, 1));
	for (unsigned i = 0; i < 500 && !__atomic_load_n(&vmm->nic_wrote, __ATOMIC_SEQ_CST); i++)
		usleep(10000);
	guest_park(vmm, &self->err);
	ASSERT_EQ(0, vmm->ops->dirty_sync(vmm, &vmm->ram, map, RAM_BYTES / PAGE_BYTES, &self->err));
	EXPECT_TRUE(map[0] >> NIC_FRAME_PAGE & 1);
	EXPECT_FALSE(map[0] >> NIC_DATA_PAGE & 1);
	memset(map, 0, sizeof(map));
	ASSERT_EQ(0, vmm->ops->dirty_sync(vmm, &vmm->ram, map, RAM_BYTES / PAGE_BYTES, &self->err));
	EXPECT_FALSE(map[0] >> NIC_FRAME_PAGE & 1);
	vmm->ops->dirty_stop(vmm);
}

/* A processor in another's program is none of this guest */
TEST_F(nic, refuses_another_place)
{
#if defined(__x86_64__)
	struct guest_state *state;
	struct kvm_regs nic;
	size_t length;
	void *data;

	if (!variant->kvm)
		SKIP(return, "plain threads have no registers");
	ASSERT_EQ(0, guest_save(&self->vmm, &data, &length, &self->err));
	state = data;
	nic = state->cpu[2].regs;
	state->cpu[2].regs = state->cpu[1].regs;
	EXPECT_EQ(-EPROTO, guest_load(&self->vmm, state, length, &self->err));
	state->cpu[2].regs = nic;
	EXPECT_EQ(0, guest_load(&self->vmm, state, length, &self->err));
	nic.rbx = state->cpu[1].regs.rbx;
	nic.rcx = state->cpu[1].regs.rcx;
	nic.rdi = state->cpu[1].regs.rdi;
	state->cpu[1].regs = nic;
	EXPECT_EQ(-EPROTO, guest_load(&self->vmm, state, length, &self->err));
	free(data);
#endif
}

TEST_F(nic, needs_a_tap)
{
	struct vmm other = { .config.nic = "a-name-that-is-too-long" };

	EXPECT_EQ(-EINVAL, nic_open(&other, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "no name of a tap")) TH_LOG("%s", self->err.text);
	other.config.nic = "br0"; /* a device, but no tap */
	EXPECT_EQ(-EINVAL, nic_open(&other, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "tap br0")) TH_LOG("%s", self->err.text);
}

TEST_HARNESS_MAIN
