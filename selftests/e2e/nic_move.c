/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest is moved to another process, and to another port of the bridge, while somebody
 * outside asks it all the time: it answers from there, and remembers what it has said.
 */
#include "kselftest_harness.h"

#include "base/clock.h"
#include "cli/witness.h"
#include "selftests/lib/netrig.h"
#include "selftests/lib/vmm_process.h"

#include <linux/if_packet.h>
#include <net/if.h>
#include <poll.h>
#include <stdlib.h>
#include <sys/socket.h>
#include <unistd.h>

#define EVERY_NS NS_PER_MS
#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })
#define GUEST "--ram", "64M", "--vcpus", "2", "--rate", "20000"

FIXTURE(nic_move)
{
	struct netrig rig;
	struct witness witness;
	struct vmm_pair *pair;
	char folder[32];
	char listen[64];
	char qmp[64];
};

FIXTURE_VARIANT(nic_move)
{
	const char *cpus;      /* --threads, or again what is there */
	const char *postcopy;  /* on or off */
	const char *bandwidth; /* of the background pages of postcopy */
};

FIXTURE_VARIANT_ADD(nic_move, kvm_precopy){
	.cpus = "--own-loop",
	.postcopy = "off",
	.bandwidth = "0",
};

FIXTURE_VARIANT_ADD(nic_move, kvm_postcopy){
	.cpus = "--own-loop",
	.postcopy = "on",
	.bandwidth = "40M",
};

FIXTURE_VARIANT_ADD(nic_move, threads_postcopy){
	.cpus = "--threads",
	.postcopy = "on",
	.bandwidth = "40M",
};

FIXTURE_SETUP(nic_move)
{
	const char *missing = netrig_open(&self->rig, 0);

	self->witness.fd = -1;
	if (missing)
		SKIP(return, "%s", missing);
	self->pair = calloc(1, sizeof(*self->pair));
	ASSERT_NE(NULL, self->pair);
	strcpy(self->folder, "/tmp/nic_move.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->listen, sizeof(self->listen), "unix:%s/a", self->folder);
	snprintf(self->qmp, sizeof(self->qmp), "%s/b", self->folder);
}

FIXTURE_TEARDOWN(nic_move)
{
	if (self->pair)
		pair_end(self->pair);
	free(self->pair);
	witness_close(&self->witness);
	if (*self->folder)
		netrig_run("rm -rf %s", self->folder);
}

/* Its tap is there as soon as it runs; a port of the bridge it is not */
static bool plug_in(const char *tap)
{
	for (unsigned i = 0; i < 200; i++) {
		if (!netrig_run("ip link set %s master br0 up 2>/dev/null", tap))
			return true;
		usleep(20000);
	}
	return false;
}

static void turn(FIXTURE_DATA(nic_move) *self)
{
	pair_watch(self->pair, 1);
	witness_turn(&self->witness, clock_now_ns());
}

static bool ask_until(FIXTURE_DATA(nic_move) *self, size_t replies)
{
	uint64_t until = clock_now_ns() + 10 * NS_PER_S;

	while (self->witness.replies < replies && clock_now_ns() < until)
		turn(self);
	return self->witness.replies >= replies;
}

/* Both are there, and the one that has the guest was asked for a while */
static void begin(struct __test_metadata *_metadata, FIXTURE_DATA(nic_move) *self,
		  const FIXTURE_VARIANT(nic_move) * variant)
{
	struct vmm *source = &self->pair->source, *dest = &self->pair->dest;
	struct wh_err err = { 0 };

	ASSERT_EQ(0, vmm_start(dest,
			       ARGS(GUEST, variant->cpus, "--postcopy", variant->postcopy, "--nic",
				    "guest1", "--listen", self->listen, "--qmp", self->qmp)));
	ASSERT_TRUE(pair_until_listening(self->pair)) TH_LOG("%s", dest->text);
	ASSERT_EQ(0, vmm_start(source, ARGS(GUEST, variant->cpus, "--postcopy", variant->postcopy,
					    "--postcopy-after", "200", "--bandwidth", "150M",
					    "--postcopy-bandwidth", variant->bandwidth, "--nic",
					    "guest0")));
	ASSERT_TRUE(plug_in("guest0")) TH_LOG("%s", source->text);
	ASSERT_TRUE(plug_in("guest1")) TH_LOG("%s", dest->text);
	ASSERT_EQ(0, netrig_run("ip link set br0 address 52:54:00:00:00:01"));
	ASSERT_EQ(0, witness_open(&self->witness, "br0", EVERY_NS, &err)) TH_LOG("%s", err.text);
	ASSERT_TRUE(ask_until(self, 50)) TH_LOG("%s", source->text);
	vmm_command(source, "migrate %s\n", self->listen);
}

TEST_F(nic_move, and_is_asked)
{
	struct vmm *source = &self->pair->source, *dest = &self->pair->dest;
	uint64_t at_ns, until = clock_now_ns() + 30 * NS_PER_S;
	struct witness *witness = &self->witness;
	struct witness_verdict verdict;

	begin(_metadata, self, variant);
	while (strcmp(dest->phase, "completed") && clock_now_ns() < until)
		turn(self);
	ASSERT_STREQ("completed", dest->phase) TH_LOG("%s\n%s", source->text, dest->text);
	ASSERT_EQ(variant->postcopy[1] == 'n', vmm_was(dest, "postcopy-active"));
	at_ns = clock_now_ns();
	ASSERT_TRUE(ask_until(self, witness->replies + 100));
	verdict = witness_judge(witness->reply, witness->replies, at_ns);
	EXPECT_EQ(0, verdict.missing);
	EXPECT_LE(50, verdict.before);
	EXPECT_LE(100, verdict.after);

	vmm_command(dest, "quit\n");
	ASSERT_TRUE(pair_until_ended(self->pair, dest));
	EXPECT_EQ(0, vmm_exit(dest)) TH_LOG("%s", dest->text);
	EXPECT_EQ(1, vmm_number(dest, "verified"));
}

/* What it was asked it has answered: nothing comes any more. Nobody judges these replies */
static void until_quiet(const struct witness *witness)
{
	struct pollfd replies = { .fd = witness->fd, .events = POLLIN };
	uint8_t frame[64];

	while (poll(&replies, 1, 10) > 0)
		if (recv(witness->fd, frame, sizeof(frame), 0) < 0)
			break;
}

/* A frame of the guest's, on a port where it is not any more */
static bool say_elsewhere(void)
{
	static const uint8_t frame[60] = {
		0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x52, 0x54, 0x00, 0x77, 0x68, 0x31, 0x88, 0xb5,
	};
	struct sockaddr_ll at = { .sll_family = AF_PACKET };
	int fd = socket(AF_PACKET, SOCK_RAW | SOCK_CLOEXEC, 0);
	bool said;

	at.sll_ifindex = (int)if_nametoindex("old1");
	said = fd >= 0 && sendto(fd, frame, sizeof(frame), 0, (const struct sockaddr *)&at,
				 sizeof(at)) == sizeof(frame);
	if (fd >= 0)
		close(fd);
	return said;
}

/*
 * Something that has held it back lets it go when the guest runs elsewhere already. Now the bridge looks
 * for it there, and it says nothing before it is asked
 */
TEST_F(nic_move, an_old_frame_is_late)
{
	struct vmm *source = &self->pair->source, *dest = &self->pair->dest;
	uint64_t until = clock_now_ns() + 30 * NS_PER_S;

	ASSERT_EQ(0, netrig_run("ip link add old0 master br0 up type veth peer name old1"));
	ASSERT_EQ(0, netrig_run("ip link set old1 up"));
	begin(_metadata, self, variant);
	while (!vmm_was(dest, "postcopy-active") && strcmp(dest->phase, "completed") &&
	       clock_now_ns() < until)
		turn(self);
	ASSERT_TRUE(vmm_was(dest, "postcopy-active") || !strcmp(dest->phase, "completed"))
	TH_LOG("%s\n%s", source->text, dest->text);
	until_quiet(&self->witness);
	ASSERT_TRUE(say_elsewhere());
	EXPECT_TRUE(ask_until(self, self->witness.replies + 100))
	TH_LOG("%s\n%s", source->text, dest->text);
}

TEST_HARNESS_MAIN
