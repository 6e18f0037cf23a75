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
	struct vmm_pair pair;
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

	pair_end(&self->pair);
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
	if (variant->own_loop)
		add(args, "--own-loop", NULL);
	if (variant->threads)
		add(args, "--threads", NULL);
	if (variant->how == PRECOPY)
		add(args, "--rate", "2000");
}

static bool both_ended(const void *arg)
{
	const struct vmm_pair *pair = arg;

	return pair->source.ended && pair->dest.ended;
}

/* Nothing else would happen if one of them ended */
static bool two_rounds(const void *arg)
{
	const struct vmm_pair *pair = arg;

	return pair->source.rounds >= 2 || pair->source.ended || pair->dest.ended;
}

static void start_dest(struct vmm_pair *pair, const FIXTURE_VARIANT(pair) * variant,
		       const char *folder)
{
	struct args args = { .count = 0 };
	char uri[128];

	common(&args, variant);
	if (variant->unix_link)
		snprintf(uri, sizeof(uri), "unix:%.60s/socket", folder);
	else
		snprintf(uri, sizeof(uri), "tcp:127.0.0.1:0");
	add(&args, "--listen", uri);
	vmm_start(&pair->dest, args.arg);
}

static void start_source(struct vmm_pair *pair, const FIXTURE_VARIANT(pair) * variant)
{
	struct args args = { .count = 0 };

	common(&args, variant);
	/* Slow enough for the guest to come first to many pages */
	add(&args, "--postcopy-bandwidth", "40M");
	if (variant->how == ROUNDS) {
		/* Slow enough for the guest to write all of it meanwhile, and to never converge */
		add(&args, "--bandwidth", "200M");
		add(&args, "--downtime", "0");
	}
	vmm_start(&pair->source, args.arg);
}

static void move(struct vmm_pair *pair, enum how how)
{
	switch (how) {
	case PRECOPY:
		vmm_command(&pair->source, "migrate %s\n", pair->dest.uri);
		break;
	case AT_ONCE:
		vmm_command(&pair->source, "migrate %s\npostcopy\n", pair->dest.uri);
		break;
	case ROUNDS:
		vmm_command(&pair->source, "migrate %s\n", pair->dest.uri);
		pair_until(pair, two_rounds, pair, SECONDS * 1000);
		vmm_command(&pair->source, "postcopy\n");
		break;
	}
	pair_until(pair, both_ended, pair, SECONDS * 1000);
}

TEST_F(pair, moves)
{
	const struct vmm *source = &self->pair.source;
	const struct vmm *dest = &self->pair.dest;

	start_dest(&self->pair, variant, self->folder);
	ASSERT_TRUE(pair_until_listening(&self->pair)) TH_LOG("%s", dest->text);
	start_source(&self->pair, variant);
	move(&self->pair, variant->how);
	ASSERT_EQ(0, vmm_exit(source) | vmm_exit(dest))
	TH_LOG("source:\n%s\n%s, %llu pages left\ndestination:\n%s\n%s, %llu pages left",
	       source->text, source->phase, (unsigned long long)source->pages_left, dest->text,
	       dest->phase, (unsigned long long)dest->pages_left);
	EXPECT_STREQ("completed", source->phase);
	EXPECT_STREQ("completed", dest->phase);
	EXPECT_EQ(0, vmm_number(source, "pages_left"));
	EXPECT_EQ(0, vmm_number(dest, "pages_left"));
	EXPECT_EQ(0, vmm_number(source, "lost") + vmm_number(dest, "lost"));
	/* But for the urgent channel's end mark and second copies, which nobody waits for */
	EXPECT_GE(8 + vmm_number(source, "pages_again") * (8 + 255 + 4096),
		  vmm_number(source, "bytes") - vmm_number(dest, "bytes"));

	EXPECT_EQ(variant->how != PRECOPY, vmm_was(source, "postcopy-active"));
	EXPECT_EQ(variant->how != PRECOPY, vmm_was(dest, "postcopy-active"));
	if (variant->how == PRECOPY) {
		EXPECT_EQ(0, vmm_number(dest, "faults"));
		EXPECT_LT(0, vmm_number(source, "rounds"));
		return;
	}
	EXPECT_LT(0, vmm_number(dest, "faults"));
	EXPECT_LT(0, vmm_number(dest, "requests"));
	EXPECT_LT(0, vmm_number(dest, "fault_p50_ns"));
	EXPECT_EQ(strcmp(variant->urgent, "off") != 0, vmm_number(source, "pages_urgent") > 0);
	if (variant->how == AT_ONCE)
		EXPECT_EQ(0, vmm_number(source, "rounds"));
	if (variant->how == ROUNDS)
		EXPECT_LT(1, vmm_number(source, "rounds"));
}

TEST_HARNESS_MAIN
