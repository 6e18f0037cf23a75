/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What becomes of the guest when the link breaks. In precopy the source's guest runs on;
 * in postcopy neither process gives up what it has.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/scene.h"

#include <signal.h>

static void stays(struct scene *scene, struct __test_metadata *_metadata, const char *phase)
{
	/* The one wait for nothing: that nobody gives up cannot be waited for otherwise */
	pair_watch(&scene->pair, 500);
	EXPECT_STREQ(phase, scene->source->phase);
	EXPECT_STREQ(phase, scene->dest->phase);
	EXPECT_EQ(-1, vmm_exit(scene->source)) TH_LOG("%s", scene->source->text);
	EXPECT_EQ(-1, vmm_exit(scene->dest)) TH_LOG("%s", scene->dest->text);
}

/* Links that are cut, or (@stall) go silent, when so many bytes have passed */
FIXTURE(cuts)
{
	struct scene scene;
};

FIXTURE_VARIANT(cuts)
{
	uint64_t bytes;
};

/* clang-format off */
#define CUT(bytes_) FIXTURE_VARIANT_ADD(cuts, at_##bytes_) { .bytes = bytes_ }
/* clang-format on */
CUT(1);
CUT(8);
CUT(100);
CUT(5000);
CUT(70000);
CUT(4200001);
CUT(30000000);

FIXTURE_SETUP(cuts)
{
	scene_init(&self->scene, false);
}

FIXTURE_TEARDOWN(cuts)
{
	scene_end(&self->scene);
}

TEST_F(cuts, in_precopy)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS());
	start_proxy(s, _metadata, &(struct proxy_script){ .cut_at = variant->bytes });
	/* It never converges */
	start_source(s, ARGS("--bandwidth", "100M", "--downtime", "0"), "");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(guest_goes_on(s));
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(1, vmm_exit(s->dest));
	EXPECT_STREQ("failed", s->dest->phase);
	EXPECT_STRNE("", s->dest->error);
}

TEST_F(cuts, silence_in_precopy)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS("--dead-peer", "1000"));
	start_proxy(s, _metadata,
		    &(struct proxy_script){ .cut_at = variant->bytes, .stall = true });
	start_source(s, ARGS("--bandwidth", "100M", "--downtime", "0", "--dead-peer", "1000"), "");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(guest_goes_on(s));
}

/* Of postcopy, wherever in it */
FIXTURE(postcopy_cut)
{
	struct scene scene;
};

FIXTURE_VARIANT(postcopy_cut)
{
	const char *urgent;
	bool own_loop;
};

/* clang-format off */
#define POSTCOPY_CUT(urgent_, drive_) \
	FIXTURE_VARIANT_ADD(postcopy_cut, urgent_##_##drive_) { \
		.urgent = #urgent_, .own_loop = #drive_[0] == 'o' }
/* clang-format on */
POSTCOPY_CUT(off, lib);
POSTCOPY_CUT(off, own);
POSTCOPY_CUT(switch, lib);
POSTCOPY_CUT(switch, own);
POSTCOPY_CUT(start, lib);
POSTCOPY_CUT(start, own);

FIXTURE_SETUP(postcopy_cut)
{
	scene_init(&self->scene, variant->own_loop);
}

FIXTURE_TEARDOWN(postcopy_cut)
{
	scene_end(&self->scene);
}

/* A guest that writes little, so that it does not ask for all of its memory at once */
static void start_postcopy(struct scene *s, struct __test_metadata *_metadata, const char *urgent,
			   bool stall)
{
	start_dest(s, _metadata, ARGS("--urgent", urgent, "--rate", "500", "--dead-peer", "1000"));
	start_proxy(s, _metadata, &(struct proxy_script){ .stall = stall });
	start_source(s,
		     ARGS("--urgent", urgent, "--rate", "500", "--postcopy-bandwidth", "10M",
			  "--dead-peer", "1000"),
		     "postcopy\n");
	ASSERT_TRUE(pair_until(&s->pair, some_left, s, 2 * SOON))
	TH_LOG("%s\n%s", s->source->text, s->dest->text);
}

TEST_F(postcopy_cut, both_pause)
{
	struct scene *s = &self->scene;

	start_postcopy(s, _metadata, variant->urgent, false);
	proxy_cut(s->proxy);
	EXPECT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-paused"))
	TH_LOG("%s", s->source->text);
	EXPECT_TRUE(pair_until_phase(&s->pair, s->dest, "postcopy-paused"))
	TH_LOG("%s", s->dest->text);
	EXPECT_STRNE("", s->source->error);
	EXPECT_STRNE("", s->dest->error);
	stays(s, _metadata, "postcopy-paused");
	EXPECT_STREQ("paused", s->source->guest);
	EXPECT_LT(0, s->dest->pages_left);
	/* No second time: what is missing there is only here */
	vmm_command(s->source, "migrate %s\n", s->dest->uri);
	/* Told to end, they do, though processors of the destination may wait for pages. */
	vmm_command(s->source, "quit\n");
	vmm_command(s->dest, "quit\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source));
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(1, vmm_exit(s->source));
	EXPECT_EQ(1, vmm_exit(s->dest));
	EXPECT_NE(NULL, strstr(s->source->text, "not now: migrate"));
}

/* Nothing is said any more, and nothing is closed. */
TEST_F(postcopy_cut, silence)
{
	struct scene *s = &self->scene;

	start_postcopy(s, _metadata, variant->urgent, true);
	proxy_cut(s->proxy);
	EXPECT_TRUE(pair_until_phase(&s->pair, s->dest, "postcopy-paused"))
	TH_LOG("%s", s->dest->text);
	EXPECT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-paused"))
	TH_LOG("%s", s->source->text);
	stays(s, _metadata, "postcopy-paused");
}

/* Killed there, the source has what was not sent and keeps it. */
TEST_F(postcopy_cut, destination_killed)
{
	struct scene *s = &self->scene;

	start_postcopy(s, _metadata, variant->urgent, false);
	vmm_signal(s->dest, SIGKILL);
	EXPECT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-paused"))
	TH_LOG("%s", s->source->text);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	pair_watch(&s->pair, 500);
	EXPECT_EQ(-1, vmm_exit(s->source));
	EXPECT_STREQ("paused", s->source->guest);
	EXPECT_LT(0, s->source->pages_left);
}

/* In the middle of it, though its processors wait for pages that are not there */
TEST_F(postcopy_cut, destination_told_to_quit)
{
	struct scene *s = &self->scene;

	start_postcopy(s, _metadata, variant->urgent, false);
	vmm_command(s->dest, "quit\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(1, vmm_exit(s->dest));
	EXPECT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-paused"))
	TH_LOG("%s", s->source->text);
}

TEST_HARNESS_MAIN
