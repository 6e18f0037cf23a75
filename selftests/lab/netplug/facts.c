/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What the kernel's plug does, by tc and without any of our code: each fact that netplug stands on,
 * by the number that it has in Documentation/netplug.rst. A kernel on which one of them fails is one
 * on which the plug has to be thought about again.
 */
#include "selftests/lib/netrig.h"

#include <wherry/netplug.h>

#include "kselftest_harness.h"

#define SEEN_MAX 4096
#define FRAME_BYTES 114 /* with its link header */
#define HANDLE "root handle 5748: plug"
#define PLUG(what) netrig_run("tc qdisc change dev f0 " HANDLE " " what)

FIXTURE(fact)
{
	struct netrig rig;
	unsigned number;
};

static struct netrig_mark seen[SEEN_MAX];

/* tap0's packets go to f0, whose root holds them: created with a limit, and with @how */
static bool rig_open(const char *how, const char *filter)
{
	return netrig_run("ip link add f0 type ifb && ip link set f0 up && "
			  "printf 'qdisc add dev f0 " HANDLE " %s\nqdisc add dev tap0 ingress\n"
			  "filter add dev tap0 parent ffff: prio 1 protocol %s "
			  "action mirred egress redirect dev f0\n' | tc -batch -",
			  how, filter) == 0;
}

#define LIMIT "limit 10000000"
#define ALL "all matchall"

FIXTURE_SETUP(fact)
{
	const char *missing = netrig_open(&self->rig, 2);

	if (missing)
		SKIP(return, "%s", missing);
	if (netrig_run("ip link add scratch type ifb && tc qdisc add dev scratch root plug "
		       "2>/dev/null"))
		SKIP(return, "this kernel has no sch_plug");
	netrig_run("ip link del scratch");
}

FIXTURE_TEARDOWN(fact)
{
}

static void send(struct netrig *rig, unsigned *number, unsigned epoch, unsigned count)
{
	for (unsigned i = 0; i < count; i++)
		netrig_send(rig, 0, epoch, (*number)++, NETRIG_OTHER);
}

/* Return: packets of @epoch among those that come out, of which there are to be @count */
static unsigned comes(struct netrig *rig, unsigned epoch, unsigned count, unsigned *all)
{
	size_t n = netrig_seen(rig, seen, SEEN_MAX, count);
	unsigned of_epoch = 0;

	for (size_t i = 0; i < n; i++)
		of_epoch += seen[i].epoch == epoch;
	*all = (unsigned)n;
	return of_epoch;
}

#define OPEN(how, filter) ASSERT_TRUE(rig_open(how, filter))
#define SEND(epoch, count) send(&self->rig, &self->number, epoch, count)
/* @count packets come out, @of of them of @epoch */
#define COMES(count, epoch, of)                                       \
	do {                                                          \
		unsigned all;                                         \
		EXPECT_EQ(of, comes(&self->rig, epoch, count, &all)); \
		EXPECT_EQ(count, all);                                \
	} while (0)

/* Nobody has said BUFFER: it holds from the first packet on */
TEST_F(fact, t01_a_new_plug_holds)
{
	OPEN(LIMIT, ALL);
	SEND(1, 4);
	COMES(0, 1, 0);
	EXPECT_EQ(0, PLUG("block"));
	EXPECT_EQ(0, PLUG("release"));
	COMES(4, 1, 4);
}

/* Why one closed epoch is all that may wait: 7 of the second leave with the first, 3 never do */
TEST_F(fact, t02_two_closed_epochs_are_mixed)
{
	OPEN(LIMIT, ALL);
	SEND(1, 3);
	EXPECT_EQ(0, PLUG("block"));
	SEND(2, 10);
	EXPECT_EQ(0, PLUG("block"));
	EXPECT_EQ(0, PLUG("release"));
	COMES(10, 2, 7);
	EXPECT_EQ(0, PLUG("release"));
	COMES(0, 2, 0);
}

/* Why the limit is in the message that makes it */
TEST_F(fact, t03_without_a_limit_everything_is_dropped)
{
	OPEN("block", ALL);
	SEND(1, 5);
	EXPECT_EQ(0, PLUG("release_indefinite"));
	COMES(0, 1, 0);
	EXPECT_EQ(0, netrig_run("tc -s qdisc show dev f0 | grep -q 'dropped 5'"));
}

/* Why fencing does not delete it */
TEST_F(fact, t04_to_delete_it_opens_the_gate)
{
	OPEN(LIMIT, ALL);
	SEND(1, 5);
	EXPECT_EQ(0, netrig_run("tc qdisc del dev f0 root"));
	SEND(2, 4);
	COMES(4, 2, 4);
}

/* Why a plug whose device was down is made anew: 3 are acknowledged, 5 of the next leave too */
TEST_F(fact, t05_a_purge_leaves_the_counts)
{
	OPEN(LIMIT, ALL);
	SEND(1, 5);
	EXPECT_EQ(0, netrig_run("ip link set f0 down && ip link set f0 up"));
	SEND(2, 3);
	EXPECT_EQ(0, PLUG("block"));
	SEND(3, 9);
	EXPECT_EQ(0, PLUG("release"));
	COMES(8, 3, 5);
}

/* Why commands never create: one that does makes another plug instead of saying that it is lost */
TEST_F(fact, t06_a_lost_plug_is_reported_by_a_change)
{
	OPEN(LIMIT, ALL);
	SEND(1, 5);
	EXPECT_EQ(0, netrig_run("tc qdisc del dev f0 root"));
	EXPECT_NE(0, PLUG("release 2>/dev/null"));
	EXPECT_EQ(0, netrig_run("tc qdisc replace dev f0 " HANDLE " release"));
	SEND(2, 5);
	COMES(0, 2, 0);
}

/* Who had armed it is gone, as each tc is: it holds on, and an epoch that he closed is whole */
TEST_F(fact, t07_it_outlives_who_commands_it)
{
	OPEN(LIMIT, ALL);
	SEND(1, 3);
	EXPECT_EQ(0, PLUG("block"));
	SEND(2, 6);
	COMES(0, 1, 0);
	EXPECT_EQ(0, PLUG("release"));
	COMES(3, 1, 3);
}

/* What leaves comes in at its NIC once more, behind the hook: not back into the plug */
TEST_F(fact, t08_it_goes_on_behind_the_hook)
{
	OPEN(LIMIT, ALL);
	EXPECT_EQ(0, PLUG("release_indefinite"));
	SEND(1, 7);
	COMES(7, 1, 7);
	EXPECT_EQ(0, netrig_run("tc -s qdisc show dev f0 | grep -q ' 7 pkt'"));
}

/* Why the filter goes last: what comes after it overtakes what is held */
TEST_F(fact, t09_without_the_filter_packets_overtake)
{
	OPEN(LIMIT, ALL);
	SEND(1, 4);
	EXPECT_EQ(0, netrig_run("tc filter del dev tap0 parent ffff:"));
	SEND(2, 2);
	COMES(2, 2, 2);
	EXPECT_EQ(0, PLUG("release_indefinite"));
	COMES(4, 1, 4);
}

/* How to fence: what is held is gone, what comes is dropped, in one message */
TEST_F(fact, t10_down_is_fenced)
{
	OPEN(LIMIT, ALL);
	SEND(1, 5);
	EXPECT_EQ(0, netrig_run("ip link set f0 down"));
	SEND(2, 5);
	COMES(0, 1, 0);
	EXPECT_EQ(0, netrig_run("ip link set f0 up"));
	EXPECT_EQ(0, PLUG("release_indefinite"));
	COMES(0, 1, 0);
	EXPECT_EQ(0, netrig_run("tc filter show dev tap0 ingress | grep -q f0"));
}

/* Why the filter is for all protocols: of each kind one is sent, and all but IPv4 are outside */
TEST_F(fact, t11_a_filter_for_ip_holds_only_that)
{
	unsigned all;

	OPEN(LIMIT, "ip u32 match u32 0 0");
	for (unsigned kind = 0; kind < NETRIG_KIND_COUNT; kind++)
		ASSERT_EQ(0, netrig_send(&self->rig, 0, 1, kind, kind));
	EXPECT_EQ(NETRIG_KIND_COUNT - 1, comes(&self->rig, 1, NETRIG_KIND_COUNT - 1, &all));
	for (unsigned i = 0; i < all; i++)
		EXPECT_NE(NETRIG_IPV4, seen[i].number);
}

/* And why it steals: with a copy in the plug, the packet itself goes on */
TEST_F(fact, t11_what_is_not_stolen_goes_on)
{
	OPEN(LIMIT, ALL);
	EXPECT_EQ(0, netrig_run("printf 'filter del dev tap0 parent ffff:\n"
				"filter add dev tap0 parent ffff: prio 1 protocol all matchall "
				"action mirred egress mirror dev f0\n' | tc -batch -"));
	SEND(1, 5);
	COMES(5, 1, 5);
}

/* Why it is given a limit of ours: an ifb's own is 32 packets of 1514 bytes */
TEST_F(fact, t12_its_own_limit_is_small)
{
	const unsigned room = 32 * 1514 / FRAME_BYTES;

	OPEN("", ALL);
	SEND(1, room + 50);
	EXPECT_EQ(0, PLUG("release_indefinite"));
	COMES(room, 1, room);
}

/* A release of many is slower than the ifb's queue of 32, and keeps their order */
TEST_F(fact, t12_many_keep_their_order)
{
	OPEN(LIMIT, ALL);
	SEND(1, 3000);
	EXPECT_EQ(0, PLUG("release_indefinite"));
	COMES(3000, 1, 3000);
	for (unsigned i = 0; i < 3000; i++)
		ASSERT_EQ(i, seen[i].number);
}

/*
 * A release returns before they have left, so what takes the plug away has to wait. That some are
 * lost otherwise is chance; that none is when we do it is not.
 */
TEST_F(fact, t16_disarming_waits_for_the_last_one)
{
	struct wh_netplug_config config;
	struct wh_netplug *plug;
	struct wh_err err = { 0 };

	wh_netplug_config_init(&config);
	config.edge = WH_NETPLUG_PLUG;
	config.name = "guest";
	config.nics = (const char *const[]){ "tap0" };
	config.nic_count = 1;
	ASSERT_EQ(0, wh_netplug_new(&plug, &config, &err)) TH_LOG("%s", err.text);
	ASSERT_EQ(0, wh_netplug_arm(plug, &err)) TH_LOG("%s", err.text);
	SEND(1, 3000);
	ASSERT_EQ(0, wh_netplug_disarm(plug, &err)) TH_LOG("%s", err.text);
	COMES(3000, 1, 3000);
	wh_netplug_free(plug);
}

/* Two NICs in one plug: one barrier, one release, and each packet goes on at its own */
TEST_F(fact, t18_one_plug_for_several_nics)
{
	unsigned all, of_second = 0;

	OPEN(LIMIT, ALL);
	EXPECT_EQ(0, netrig_run("printf 'qdisc add dev tap1 ingress\nfilter add dev tap1 parent "
				"ffff: prio 1 protocol all matchall action mirred egress redirect "
				"dev f0\n' | tc -batch -"));
	for (unsigned i = 0; i < 6; i++)
		ASSERT_EQ(0, netrig_send(&self->rig, i & 1, 1, i, NETRIG_OTHER));
	EXPECT_EQ(0, PLUG("block"));
	for (unsigned i = 6; i < 10; i++)
		ASSERT_EQ(0, netrig_send(&self->rig, i & 1, 2, i, NETRIG_OTHER));
	EXPECT_EQ(0, PLUG("release"));
	EXPECT_EQ(6, comes(&self->rig, 1, 6, &all));
	EXPECT_EQ(6, all);
	for (unsigned i = 0; i < all; i++)
		of_second += seen[i].nic == 1;
	EXPECT_EQ(3, of_second);
}

/* No fact of the plug's: the other edge, which newer kernels give a shorter queue than it had */
TEST_F(fact, the_queue_is_to_be_had_too)
{
	struct wh_netplug_config config;
	struct wh_netplug *plug;
	struct wh_err err = { 0 };

	wh_netplug_config_init(&config);
	config.edge = WH_NETPLUG_QUEUE;
	config.name = "guest";
	config.nics = (const char *const[]){ "tap0" };
	config.nic_count = 1;
	ASSERT_EQ(0, wh_netplug_new(&plug, &config, &err)) TH_LOG("%s", err.text);
	ASSERT_EQ(0, wh_netplug_arm(plug, &err)) TH_LOG("%s", err.text);
	SEND(1, 3);
	ASSERT_EQ(0, wh_netplug_turn(plug, 1, &err)) TH_LOG("%s", err.text);
	SEND(2, 2);
	COMES(0, 1, 0);
	ASSERT_EQ(0, wh_netplug_release(plug, 1, &err)) TH_LOG("%s", err.text);
	COMES(3, 1, 3);
	wh_netplug_free(plug);
}

TEST_HARNESS_MAIN
