/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The table of runs, runs.def: a guest that runs in a real QEMU is taken out of it, put into
 * one, or both. QEMU says "completed" then, all of its RAM is compared byte for byte, and where
 * the guest goes on it says on its serial port that it has lost nothing.
 *
 * make check-interop runs all of it, make check what the last column says.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/interop/guest_pair.h"
#include "selftests/interop/runs.h"
#include "selftests/lib/certs.h"
#include "selftests/lib/memory.h"

/* For both QEMUs and ours between them */
#define HUGE_PAGES (4 * VM_RAM_BYTES / (2 * MIB))
/*
 * With all of the guest's pages in the cache a round would be so short that the guest may
 * have written nothing in it, and the migration is over. So half of them are not.
 */
#define XBZRLE_CACHE (8 * MIB)
/* There is a second's worth to be sent; whoever takes longer does not go on at all */
#define REFUSED_MS 4000

FIXTURE(run)
{
	struct guest_pair pair;
	struct receiver receiver;
	struct child wherry; /* send or relay */
	char creds[96];
	char tls[160]; /* what wherry is told of them; "": it does not speak TLS */
	struct huge_pages huge_pages;
};

FIXTURE_VARIANT(run)
{
	struct run run;
};

#define ADD(name) FIXTURE_VARIANT_ADD(run, name)
#define TEST_OF(qemu, board, role, mode, wire, memory, when)                \
	ADD(qemu_##qemu##_##board##_##role##_##mode##_##wire##_##memory){   \
		.run = RUN_OF(qemu, board, role, mode, wire, memory, when), \
	};
#define RUN(qemu, board, role, mode, wire, memory, when) \
	WHERE_##wire(TEST_OF(qemu, board, role, mode, wire, memory, when))
#define REFUSED(qemu, mode, wire, sentence)
#include "selftests/interop/runs.def"
#undef RUN
#undef REFUSED

FIXTURE_SETUP(run)
{
	struct wh_err err = { 0 };

	DO(guest_pair_open(&self->pair, &err));
	if (variant->run.wire == run_tls) {
		snprintf(self->creds, sizeof(self->creds), "%s/creds", self->pair.dir);
		snprintf(self->tls, sizeof(self->tls), "--tls=%s,dir=%s,hostname=localhost",
			 run_credentials(&variant->run), self->creds);
		ASSERT_EQ(0, mkdir(self->creds, 0700));
		ASSERT_TRUE(certs_make(self->creds, NULL));
	}
	if (variant->run.memory == run_hugetlb)
		DO(huge_pages_take(&self->huge_pages, HUGE_PAGES, &err));
}

static void say(const char *who, const struct child *child)
{
	char text[2000];

	if (child->pidfd > 0 && child_said(child, text, sizeof(text))[0])
		fprintf(TH_LOG_STREAM, "# %s said: %s\n", who, text);
}

FIXTURE_TEARDOWN(run)
{
	if (!__test_passed(_metadata)) {
		say("the first QEMU", &self->pair.vm[0].qemu.child);
		say("the second QEMU", &self->pair.vm[1].qemu.child);
		say("wherry receive", &self->receiver.child);
		say("wherry", &self->wherry);
	}
	child_end(&self->wherry);
	receiver_end(&self->receiver);
	guest_pair_close(&self->pair);
	if (variant->run.memory == run_hugetlb)
		huge_pages_drop(&self->huge_pages);
}

static int start_qemu(FIXTURE_DATA(run) *self, const struct run *run, unsigned which,
		      struct wh_err *err)
{
	const struct vm_kind kind = { run->qemu, run->board, run->memory };
	const char *capabilities[4];
	char object[192];
	const char *const tls[] = { "-object", object, NULL };
	int ret;

	run_capabilities(run, capabilities);
	snprintf(object, sizeof(object), "tls-creds-%s,id=tls0,dir=%s,endpoint=%s",
		 run_credentials(run), self->creds, which ? "server" : "client");
	ret = guest_pair_start(&self->pair, which, &kind, capabilities,
			       run->wire == run_tls ? tls : NULL, err);
	return ret ? ret : run_parameters(run, &self->pair.vm[which].qemu, err);
}

/* Slow enough for the guest to write in each round, and for pages to be waited for */
static int leave(FIXTURE_DATA(run) *self, const struct run *run, const char *uri,
		 struct wh_err *err)
{
	const struct guest_leave how = {
		.postcopy = run->mode != run_precopy,
		.rounds = run->wire == run_xbzrle ? 4 : 2,
		.bandwidth = (run->mode == run_precopy ? 64 : 32) * MIB,
		.cache = run->wire == run_xbzrle ? XBZRLE_CACHE : 0,
	};
	const struct guest_leave soon = { 0 };

	return guest_pair_leave(&self->pair, uri, run->role == run_destination ? &soon : &how, err);
}

/*
 * Out of a QEMU, as the run says. When it is about the way into one: by precopy and without
 * any ado, but with postcopy-ram, without which huge pages are not on the wire.
 */
static int take(FIXTURE_DATA(run) *self, const struct run *run, struct wh_err *err)
{
	bool postcopy = run->role != run_destination && run->mode != run_precopy;
	const char *options[8] = { "--touch=2" };
	unsigned n = postcopy ? 1 : 0;
	char link[96];
	int ret;

	if (run->memory == run_anon || run->memory == run_two) {
		options[n++] = "--memory";
		options[n++] = "private";
	}
	if (run->memory == run_hugetlb && postcopy)
		options[n++] = "--hugetlb";
	if (run->wire == run_tls)
		options[n++] = self->tls;
	options[n] = NULL;
	snprintf(link, sizeof(link), "unix:%s/in", self->pair.dir);
	ret = receiver_start(&self->receiver, link, self->pair.out, options, err);
	if (!ret)
		ret = start_qemu(self, run, 0, err);
	if (!ret)
		ret = leave(self, run, self->receiver.uri, err);
	return ret ? ret : receiver_wait(&self->receiver, WAIT_MS, err);
}

/* wherry send or wherry relay, to the second QEMU at @to; @from for relay, else the folder */
static int start_wherry(FIXTURE_DATA(run) *self, const struct run *run, const char *from,
			const char *to, struct wh_err *err)
{
	const char *argv[20] = { "", from ? "relay" : "send", "--json", from ? "--out" : "--from",
				 self->pair.out };
	unsigned n = 5;
	int ret;

	if (from)
		argv[n++] = from;
	argv[n++] = to;
	n = run_options(run, argv, n, !from);
	if (run->wire == run_tls)
		argv[n++] = self->tls;
	argv[n] = NULL;
	ret = guest_pair_command(&self->wherry, argv, err);
	return ret || !from ? ret : guest_pair_listens(&self->wherry, err);
}

/* What it says last are its figures */
static int wait_wherry(FIXTURE_DATA(run) *self, struct json_object **figures, struct wh_err *err)
{
	char said[400];
	const char *line;
	int ret;

	*figures = NULL;
	while ((ret = child_line(&self->wherry, &line, WAIT_MS, err)) == 1) {
		json_object_put(*figures);
		*figures = json_tokener_parse(line);
	}
	if (!ret)
		ret = child_wait(&self->wherry, WAIT_MS, err);
	if (ret > 0)
		ret = err_set(err, -EREMOTEIO, "wherry failed: %s",
			      child_said(&self->wherry, said, sizeof(said)));
	return ret;
}

static int compare_block(FIXTURE_DATA(run) *self, const struct vm_block *block, uint64_t at,
			 struct wh_err *err)
{
	const struct image sent = { .at = self->pair.sent + at, .length = block->length };
	struct image got;
	int ret = receiver_open(&self->receiver, block->name, &got, err);

	if (ret)
		return ret;
	ret = image_compare(&sent, &got, err);
	if (ret)
		err_wrap(err, "block '%s'", block->name);
	image_close(&got);
	return ret;
}

/* The folder is what QEMU has, and what the guest can have left */
static int compare_folder(FIXTURE_DATA(run) *self, const struct run *run, struct wh_err *err)
{
	struct vm_block block[VM_BLOCKS_MAX];
	unsigned blocks = vm_blocks(run->memory, block);
	uint64_t at = 0;
	int ret = 0;

	for (unsigned i = 0; i < blocks && !ret; at += block[i++].length)
		ret = compare_block(self, &block[i], at, err);
	if (!ret)
		ret = guest_check(self->pair.sent, &self->pair.range, err);
	return ret ? ret : guest_check_serial(self->pair.vm[0].serial, err);
}

static void check_taken(struct __test_metadata *_metadata, FIXTURE_DATA(run) *self,
			const struct run *run)
{
	const struct receiver *receiver = &self->receiver;
	bool postcopy = run->mode != run_precopy;

	EXPECT_EQ(postcopy, receiver_figure(receiver, "postcopy"));
	EXPECT_EQ(postcopy, receiver_figure(receiver, "faults") > 0);
	EXPECT_EQ(postcopy, receiver_figure(receiver, "requests") > 0);
	EXPECT_EQ(run->mode == run_preempt, receiver_figure(receiver, "pages_urgent") > 0);
	EXPECT_EQ(run->wire == run_xbzrle, receiver_figure(receiver, "pages_xbzrle") > 0);
}

/* In a relay it depends on who is faster whether a page that is asked for is there already */
static void check_given(struct __test_metadata *_metadata, const struct run *run,
			struct json_object *said)
{
	struct json_object *figures = json_object_object_get(said, "migration");
	struct json_object *urgent = json_object_object_get(figures, "pages_urgent");
	bool preempt = run->mode == run_preempt;

	EXPECT_EQ(run->mode != run_precopy,
		  json_object_get_int64(json_object_object_get(figures, "requests")) > 0);
	if (!preempt || run->role == run_destination) {
		EXPECT_EQ(preempt, json_object_get_int64(urgent) > 0);
	}
}

static void as_source(struct __test_metadata *_metadata, FIXTURE_DATA(run) *self,
		      const struct run *run)
{
	struct wh_err err = { 0 };

	DO(take(self, run, &err));
	DO(compare_folder(self, run, &err));
	check_taken(_metadata, self, run);
}

static void as_destination(struct __test_metadata *_metadata, FIXTURE_DATA(run) *self,
			   const struct run *run)
{
	struct qemu *qemu = &self->pair.vm[1].qemu;
	struct run plain = *run;
	struct json_object *said;
	struct wh_err err = { 0 };
	char uri[96];

	plain.wire = run_plain;
	DO(take(self, &plain, &err));
	DO(compare_folder(self, run, &err));
	DO(start_qemu(self, run, 1, &err));
	snprintf(uri, sizeof(uri), "unix:%s/to", self->pair.dir);
	DO(qemu_migrate_incoming(qemu, uri, &err));
	DO(start_wherry(self, run, NULL, uri, &err));
	DO(wait_wherry(self, &said, &err));
	check_given(_metadata, run, said);
	json_object_put(said);
	DO(qemu_wait_status(qemu, "completed", WAIT_MS, &err));
	DO(guest_pair_check(&self->pair, &err));
}

static void as_relay(struct __test_metadata *_metadata, FIXTURE_DATA(run) *self,
		     const struct run *run)
{
	struct qemu *qemu = &self->pair.vm[1].qemu;
	struct json_object *said;
	struct wh_err err = { 0 };
	char from[96], to[96];

	snprintf(from, sizeof(from), "unix:%s/from", self->pair.dir);
	snprintf(to, sizeof(to), "unix:%s/to", self->pair.dir);
	DO(start_qemu(self, run, 1, &err));
	DO(qemu_migrate_incoming(qemu, to, &err));
	DO(start_wherry(self, run, from, to, &err));
	DO(start_qemu(self, run, 0, &err));
	DO(leave(self, run, from, &err));
	DO(wait_wherry(self, &said, &err));
	check_given(_metadata, run, said);
	json_object_put(said);
	DO(qemu_wait_status(qemu, "completed", WAIT_MS, &err));
	DO(guest_pair_check(&self->pair, &err));
}

TEST_F_TIMEOUT(run, goes_well, TEST_SECONDS)
{
	const struct run *run = &variant->run;
	char why[160];

	if (!qemu_program(run->qemu, why, sizeof(why)))
		SKIP(return, "%s", why);
	switch (run->role) {
	case run_source:
		as_source(_metadata, self, run);
		break;
	case run_destination:
		as_destination(_metadata, self, run);
		break;
	default:
		as_relay(_metadata, self, run);
	}
}

TEST(pairs)
{
	char missing[8000];

	EXPECT_EQ(0, runs_missing(missing, sizeof(missing)))
	{
		TH_LOG("not in runs.def:%s", missing);
	}
}

FIXTURE(refused)
{
	struct guest_pair pair;
};

FIXTURE_VARIANT(refused)
{
	enum qemu_version version;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(refused, qemu_7_2) { .version = QEMU_7_2 };
FIXTURE_VARIANT_ADD(refused, qemu_10_0) { .version = QEMU_10_0 };
/* clang-format on */

FIXTURE_SETUP(refused)
{
	struct wh_err err = { 0 };

	(void)variant;
	DO(guest_pair_open(&self->pair, &err));
}

FIXTURE_TEARDOWN(refused)
{
	(void)variant;
	guest_pair_close(&self->pair);
}

/* From one QEMU to another, until one says what it has against it, which may be afterwards */
static int try_refused(struct guest_pair *pair, const struct run *run, struct wh_err *err)
{
	const struct vm_kind kind = { run->qemu, run->board, run->memory };
	const struct guest_leave how = {
		.postcopy = true,
		.rounds = 2,
		.bandwidth = 64 * MIB,
		.rounds_ms = REFUSED_MS,
	};
	const char *capabilities[4];
	char uri[96];
	int ret;

	run_capabilities(run, capabilities);
	snprintf(uri, sizeof(uri), "unix:%s/to", pair->dir);
	ret = guest_pair_start(pair, 1, &kind, capabilities, NULL, err);
	if (!ret)
		ret = qemu_migrate_incoming(&pair->vm[1].qemu, uri, err);
	if (!ret)
		ret = guest_pair_start(pair, 0, &kind, capabilities, NULL, err);
	if (!ret)
		ret = guest_pair_go(pair, uri, &how, err);
	if (!ret)
		ret = qemu_wait_status(&pair->vm[1].qemu, "completed", REFUSED_MS, err);
	if (ret)
		return ret;
	ret = child_wait(&pair->vm[1].qemu.child, REFUSED_MS, err);
	return ret == -ETIMEDOUT ? 0 : ret;
}

TEST_F_TIMEOUT(refused, by_qemu_itself, TEST_SECONDS)
{
	char why[160];

	if (!qemu_program(variant->version, why, sizeof(why)))
		SKIP(return, "%s", why);
	for (unsigned i = 0; i < REFUSED_COUNT; i++) {
		const struct run *run = &refused[i].run;
		struct wh_err err = { 0 };

		if (run->qemu != variant->version)
			continue;
		EXPECT_GT(0, try_refused(&self->pair, run, &err));
		EXPECT_NE(NULL, strstr(err.text, refused[i].sentence))
		{
			TH_LOG("%s: %s", run->name, err.text);
		}
		vm_end(&self->pair.vm[0]);
		vm_end(&self->pair.vm[1]);
	}
}

/* Those of the other targets are left out by name, so that they are not even skipped */
int main(int argc, char **argv)
{
	const char *when = getenv("WHERRY_RUNS");
	const char *options[2 * RUNS_MAX + 2] = { argv[0] };

	if (argc > 1 || (when && !strcmp(when, "all")))
		return test_harness_run(argc, argv);
	argc = (int)runs_left_out(options, 1);
	return test_harness_run(argc, (char **)(uintptr_t)options);
}
