/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Two processes, a link that breaks, and somebody who tells both what to do about it. The
 * guest's memory is verified where it is in the end.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/scene.h"

#include <signal.h>

FIXTURE(again)
{
	struct scene scene;
};

FIXTURE_VARIANT(again)
{
	const char *urgent;
	bool own_loop;
};

/* clang-format off */
#define AGAIN(urgent_, drive_) \
	FIXTURE_VARIANT_ADD(again, urgent_##_##drive_) { \
		.urgent = #urgent_, .own_loop = #drive_[0] == 'o' }
/* clang-format on */
AGAIN(off, lib);
AGAIN(off, own);
AGAIN(switch, lib);
AGAIN(switch, own);
AGAIN(start, lib);
AGAIN(start, own);

FIXTURE_SETUP(again)
{
	scene_init(&self->scene, variant->own_loop);
}

FIXTURE_TEARDOWN(again)
{
	scene_end(&self->scene);
}

static bool listens_elsewhere(const void *arg)
{
	return *((const struct vmm *)arg)->uri;
}

static void both_pause(struct scene *s, struct __test_metadata *_metadata)
{
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-paused"))
	TH_LOG("%s", s->source->text);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "postcopy-paused"))
	TH_LOG("%s", s->dest->text);
}

static void recover(struct scene *s, struct __test_metadata *_metadata)
{
	/* too early it is refused for a moment, until the old connection is closed */
	for (unsigned i = 0; i < 100; i++) {
		s->dest->uri[0] = '\0';
		vmm_command(s->dest, "recover tcp:127.0.0.1:0\n");
		if (pair_until(&s->pair, listens_elsewhere, s->dest, 50))
			break;
	}
	ASSERT_STRNE("", s->dest->uri) TH_LOG("%s", s->dest->text);
	/* so it may be here; its status line says when it is not */
	for (unsigned i = 0; i < 100 && !strcmp(s->source->phase, "postcopy-paused"); i++) {
		vmm_command(s->source, "resume %s\n", s->dest->uri);
		pair_watch(&s->pair, 50);
	}
}

/* As in cuts.c: a guest that writes little, and a stream that takes its time */
TEST_F(again, and_again)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS("--urgent", variant->urgent, "--rate", "500"));
	start_proxy(s, _metadata, &(struct proxy_script){ 0 });
	start_source(s,
		     ARGS("--urgent", variant->urgent, "--rate", "500", "--postcopy-bandwidth",
			  "10M"),
		     "postcopy\n");
	ASSERT_TRUE(pair_until(&s->pair, some_left, s, 2 * SOON))
	TH_LOG("%s\n%s", s->source->text, s->dest->text);
	proxy_cut(s->proxy);
	both_pause(s, _metadata);
	recover(s, _metadata);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "postcopy-active"))
	TH_LOG("%s\n%s", s->source->text, s->dest->text);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-active"));
	vmm_command(s->source, "pause\n");
	both_pause(s, _metadata);
	recover(s, _metadata);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source)) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(0, vmm_exit(s->source)) TH_LOG("%s", s->source->text);
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_TRUE(vmm_number(s->dest, "verified"));
	EXPECT_EQ(2, vmm_number(s->dest, "recoveries"));
	EXPECT_EQ(2, vmm_number(s->source, "recoveries"));
}

TEST_HARNESS_MAIN
