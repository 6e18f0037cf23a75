/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The option of the example VMM: a guest that moves over TLS, when two who have not the right
 * credentials were refused and have kept theirs.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/scene.h"
#include "selftests/lib/certs.h"

#include <sys/stat.h>

FIXTURE(tls)
{
	struct scene scene;
	char top[32];
	char words[2][96]; /* of --tls: those of both; another CA's, another key */
};

FIXTURE_VARIANT(tls)
{
	const char *kind;
	const char *urgent;
	const char *other; /* what a source says that has the wrong ones */
	bool own_loop;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(tls, x509) { .kind = "x509", .urgent = "switch", .other = "is of another CA" };
FIXTURE_VARIANT_ADD(tls, psk_own) { .kind = "psk", .urgent = "start", .other = "is it the same key?", .own_loop = true };
/* clang-format on */

FIXTURE_SETUP(tls)
{
	char path[64];

	scene_init(&self->scene, variant->own_loop);
	strcpy(self->top, "/tmp/wherry-tls.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->top));
	for (int i = 0; i < 2; i++) {
		snprintf(path, sizeof(path), "%s/%d", self->top, i);
		ASSERT_EQ(0, mkdir(path, 0700));
		ASSERT_TRUE(certs_make(path, NULL));
		snprintf(self->words[i], sizeof(self->words[i]), "%s,dir=%s", variant->kind, path);
	}
}

FIXTURE_TEARDOWN(tls)
{
	char command[64];

	(void)variant;
	scene_end(&self->scene);
	snprintf(command, sizeof(command), "rm -rf %s", self->top);
	EXPECT_EQ(0, system(command));
}

/* A source that fails, and whose guest goes on */
static void refused(struct scene *s, struct __test_metadata *_metadata, const char *const *more,
		    const char *why)
{
	start_source(s, more, "");
	EXPECT_TRUE(pair_until_phase(&s->pair, s->source, "failed"))
	TH_LOG("%s", s->source->text);
	EXPECT_NE(NULL, strstr(s->source->error, why)) TH_LOG("%s", s->source->error);
	EXPECT_TRUE(guest_goes_on(s));
	EXPECT_EQ(NULL, strstr(s->source->error, "main channel: main channel"));
	vmm_forget(s->source);
	EXPECT_EQ(-1, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
}

TEST_F(tls, moves)
{
	struct scene *s = &self->scene;
	const char *const ours[] = { "--threads", "--tls",	   self->words[0],
				     "--urgent",  variant->urgent, NULL };
	const char *const slow[] = { "--threads",     "--tls",
				     self->words[0],  "--urgent",
				     variant->urgent, "--postcopy-bandwidth",
				     "10M",	      NULL };

	start_dest(s, _metadata, ours);
	refused(s, _metadata, ARGS("--threads", "--tls", self->words[1]), variant->other);
	/* plainly, and it hears nothing but that the connection is gone; which it says once */
	refused(s, _metadata, ARGS("--threads", "--postcopy", "off", "--return-path", "off"),
		"main channel: send: ");
	/* slow enough that its guest asks for pages */
	start_source(s, slow, "postcopy\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source)) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(0, vmm_exit(s->source)) TH_LOG("%s", s->source->error);
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->error);
	EXPECT_LT(0, vmm_number(s->source, "pages_urgent"));
}

/* What it is told has to be so before it does anything */
TEST(words)
{
	static const char *const wrong[] = { "dir=", "ssl,dir=/a", NULL };

	for (unsigned i = 0; wrong[i]; i++) {
		struct scene s = { 0 };

		scene_init(&s, false);
		start(&s, s.source, ARGS("--tls", wrong[i]));
		EXPECT_TRUE(pair_until_ended(&s.pair, s.source));
		EXPECT_EQ(2, vmm_exit(s.source)) TH_LOG("%s", wrong[i]);
		scene_end(&s);
	}
}

TEST_HARNESS_MAIN
