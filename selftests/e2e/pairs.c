/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest that never stops writing moves between two processes: every kind of memory,
 * every way to switch over, every kind of link, both ways to drive the library. Its
 * memory is verified by the destination each time.
 */
#include "kselftest_harness.h"

#include "selftests/lib/memory.h"
#include "selftests/lib/vmm_process.h"

#include <stdlib.h>
#include <unistd.h>

#define RAM "64M"
#define RAM_HUGE_PAGES 32u
#define SECONDS 25u
#define ARGS_MAX 48

enum how {
	PRECOPY, /* without postcopy */
	AT_ONCE, /* postcopy before the first round has ended */
	ROUNDS,	 /* postcopy after some rounds that cannot converge */
};

FIXTURE(pair)
{
	char folder[64];
	struct huge_pages huge_pages;
	struct vmm source;
	struct vmm dest;
};

FIXTURE_VARIANT(pair)
{
	const char *memory;
	enum how how;
	const char *urgent;
	bool unix_link;
	bool own_loop;
	bool threads; /* instead of KVM: the library logs the writes */
};

/* clang-format off */
#define CASE(memory_, how_, urgent_, link_, drive_, cpus_) \
	FIXTURE_VARIANT_ADD(pair, memory_##_##how_##_##urgent_##_##link_##_##drive_##_##cpus_) { \
		.memory = #memory_, .how = how_, .urgent = #urgent_, \
		.unix_link = #link_[0] == 'l', .own_loop = #drive_[0] == 'o', \
		.threads = #cpus_[0] == 't', \
	};
#define DRIVES(memory, how, urgent, link) \
	CASE(memory, how, urgent, link, lib, kvm) \
	CASE(memory, how, urgent, link, own, kvm)
#define LINKS(memory, how, urgent) \
	DRIVES(memory, how, urgent, tcp) \
	DRIVES(memory, how, urgent, local)
#define URGENTS(memory, how) \
	LINKS(memory, how, off) \
	LINKS(memory, how, switch) \
	LINKS(memory, how, start)
#define HOWS(memory) \
	LINKS(memory, PRECOPY, off) \
	URGENTS(memory, AT_ONCE) \
	URGENTS(memory, ROUNDS) \
	CASE(memory, PRECOPY, off, tcp, lib, threads) \
	CASE(memory, AT_ONCE, off, tcp, lib, threads) \
	CASE(memory, ROUNDS, switch, tcp, lib, threads) \
	CASE(memory, ROUNDS, switch, local, own, threads)
/* clang-format on */

HOWS(private)
HOWS(memfd)
HOWS(hugetlb)

FIXTURE_SETUP(pair)
{
	struct wh_err err = { 0 };

	self->huge_pages.hold = -1;
	self->huge_pages.keeper = -1;
	strcpy(self->folder, "/tmp/wherry-pair.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	if (!strcmp(variant->memory, "hugetlb"))
		ASSERT_EQ(0, huge_pages_take(&self->huge_pages, 2 * RAM_HUGE_PAGES, &err))
	TH_LOG("%s", err.text);
	if (!variant->threads)
		ASSERT_EQ(0, access("/dev/kvm", R_OK | W_OK));
}

FIXTURE_TEARDOWN(pair)
{
	char path[128];

	vmm_end(&self->source);
	vmm_end(&self->dest);
	huge_pages_drop(&self->huge_pages);
	snprintf(path, sizeof(path), "%.60s/socket", self->folder);
	unlink(path);
	rmdir(self->folder);
}

struct args {
	const char *arg[ARGS_MAX];
	unsigned count;
};

static void add(struct args *args, const char *name, const char *value)
{
	args->arg[args->count++] = name;
	if (value)
		args->arg[args->count++] = value;
}

static void common(struct args *args, const FIXTURE_VARIANT(pair) * variant)
{
	add(args, "--ram", RAM);
	add(args, "--memory", variant->memory);
	add(args, "--postcopy", variant->how == PRECOPY ? "off" : "on");
	add(args, "--urgent", variant->urgent);
	add(args, "--hold", "0");
	if (variant->own_loop)
		add(args, "--own-loop", NULL);
	if (variant->threads)
		add(args, "--threads", NULL);
	if (variant->how == PRECOPY)
		add(args, "--rate", "2000");
}

static bool listens(void *arg)
{
	return *((struct vmm *)arg)->uri;
}

static bool both_ended(void *arg)
{
	FIXTURE_DATA(pair) *self = arg;

	return self->source.ended && self->dest.ended;
}

static void start_source(FIXTURE_DATA(pair) *self, const FIXTURE_VARIANT(pair) * variant)
{
	struct args args = { .arg = { "source" }, .count = 1 };

	common(&args, variant);
	add(&args, "--to", self->dest.uri);
	add(&args, "--migrate-after", "50");
	switch (variant->how) {
	case PRECOPY:
		break;
	case AT_ONCE:
		add(&args, "--postcopy-at", "0");
		break;
	case ROUNDS:
		/* Slow enough for the guest to write all of it meanwhile, and to never converge */
		add(&args, "--bandwidth", "200M");
		add(&args, "--downtime", "0");
		add(&args, "--postcopy-at-round", "2");
		break;
	}
	/* Slow enough for the guest to come first to many pages */
	add(&args, "--postcopy-bandwidth", "40M");
	vmm_start(&self->source, args.arg);
}

static void start_dest(FIXTURE_DATA(pair) *self, const FIXTURE_VARIANT(pair) * variant, char *uri,
		       size_t room)
{
	struct args args = { .arg = { "dest" }, .count = 1 };

	common(&args, variant);
	if (variant->unix_link)
		snprintf(uri, room, "unix:%.60s/socket", self->folder);
	else
		snprintf(uri, room, "tcp:127.0.0.1:0");
	add(&args, "--listen", uri);
	add(&args, "--run-after", "50");
	vmm_start(&self->dest, args.arg);
}

TEST_F(pair, moves)
{
	struct vmm *both[] = { &self->source, &self->dest };
	char uri[128];

	start_dest(self, variant, uri, sizeof(uri));
	ASSERT_TRUE(vmm_until(&both[1], 1, listens, &self->dest, 5000))
	TH_LOG("%s", self->dest.text);
	start_source(self, variant);
	EXPECT_TRUE(vmm_until(both, 2, both_ended, self, SECONDS * 1000));
	ASSERT_EQ(0, vmm_exit(&self->source) | vmm_exit(&self->dest))
	TH_LOG("source:\n%s\n%s, %llu pages left\ndestination:\n%s\n%s, %llu pages left",
	       self->source.text, self->source.phase, (unsigned long long)self->source.pages_left,
	       self->dest.text, self->dest.phase, (unsigned long long)self->dest.pages_left);
	EXPECT_STREQ("completed", self->source.phase);
	EXPECT_STREQ("completed", self->dest.phase);
	EXPECT_EQ(0, vmm_number(&self->source, "pages_left"));
	EXPECT_EQ(0, vmm_number(&self->dest, "pages_left"));
	/* But for the urgent channel's end mark, which nobody waits for */
	EXPECT_GE(8, vmm_number(&self->source, "bytes") - vmm_number(&self->dest, "bytes"));

	EXPECT_EQ(variant->how != PRECOPY, vmm_was(&self->source, "postcopy-active"));
	EXPECT_EQ(variant->how != PRECOPY, vmm_was(&self->dest, "postcopy-active"));
	if (variant->how == PRECOPY) {
		EXPECT_EQ(0, vmm_number(&self->dest, "faults"));
		EXPECT_LT(0, vmm_number(&self->source, "rounds"));
		return;
	}
	EXPECT_LT(0, vmm_number(&self->dest, "faults"));
	EXPECT_LT(0, vmm_number(&self->dest, "requests"));
	EXPECT_LT(0, vmm_number(&self->dest, "fault_p50_ns"));
	EXPECT_EQ(strcmp(variant->urgent, "off") != 0,
		  vmm_number(&self->source, "pages_urgent") > 0);
	if (variant->how == AT_ONCE)
		EXPECT_EQ(0, vmm_number(&self->source, "rounds"));
	if (variant->how == ROUNDS)
		EXPECT_LT(1, vmm_number(&self->source, "rounds"));
}

TEST_HARNESS_MAIN
