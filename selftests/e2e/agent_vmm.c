/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The example VMM and its agent, which is killed in postcopy: whoever operates the VMM has
 * the next one take over.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/scene.h"
#include "selftests/lib/child.h"
#include "selftests/lib/receiver.h"

#include <signal.h>
#include <unistd.h>

#define WAIT_MS 10000

FIXTURE(agent_vmm)
{
	struct scene scene;
	struct child child;
	char folder[32];
	char path[64];
	char qmp[64];
	struct wh_err err;
};

static int start_agent(FIXTURE_DATA(agent_vmm) *self)
{
	char program[256];
	const char *argv[] = { program, "agent", "--socket", self->path, NULL };
	const char *line;
	int ret;

	ret = built_path(program, sizeof(program), "wherry", &self->err);
	if (ret == 0)
		ret = child_start(&self->child, argv, -1, &self->err);
	return ret ? ret : child_line(&self->child, &line, WAIT_MS, &self->err) - 1;
}

/* In postcopy, with an agent, and then without */
FIXTURE_SETUP(agent_vmm)
{
	struct scene *s = &self->scene;

	memset(self, 0, sizeof(*self));
	scene_init(s, false);
	strcpy(self->folder, "/tmp/wherry-agent.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->path, sizeof(self->path), "%s/socket", self->folder);
	snprintf(self->qmp, sizeof(self->qmp), "%s/qmp", self->folder);
	ASSERT_EQ(0, start_agent(self)) TH_LOG("%s", self->err.text);
	start_dest(s, _metadata,
		   ARGS("--agent", self->path, "--memory", "memfd", "--rate", "500", "--qmp",
			self->qmp));
	start_source(s, ARGS("--rate", "500", "--postcopy-bandwidth", "25M"), "postcopy\n");
	ASSERT_TRUE(pair_until(&s->pair, some_left, s, 2 * SOON))
	TH_LOG("%s\n%s", s->source->text, s->dest->text);
	kill(self->child.pid, SIGKILL);
	child_end(&self->child);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "postcopy-paused"))
	TH_LOG("%s", s->dest->text);
	EXPECT_NE(NULL, strstr(s->dest->text, "the agent has died")) TH_LOG("%s", s->dest->text);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-paused"));
	ASSERT_EQ(0, start_agent(self)) TH_LOG("%s", self->err.text);
}

FIXTURE_TEARDOWN(agent_vmm)
{
	scene_end(&self->scene);
	child_end(&self->child);
	unlink(self->path);
	unlink(self->qmp);
	rmdir(self->folder);
}

static void ends_well(FIXTURE_DATA(agent_vmm) *self, struct __test_metadata *_metadata)
{
	struct scene *s = &self->scene;

	EXPECT_TRUE(pair_until_ended(&s->pair, s->source)) TH_LOG("%s", s->source->text);
	EXPECT_EQ(0, vmm_exit(s->source)) TH_LOG("%s", s->source->text);
	EXPECT_EQ(0, child_wait(&self->child, WAIT_MS, &self->err)) TH_LOG("%s", self->err.text);
	/* with a monitor it stays, since there may be more to ask */
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "completed")) TH_LOG("%s", s->dest->text);
	vmm_command(s->dest, "quit\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_TRUE(vmm_number(s->dest, "verified"));
	EXPECT_EQ(1, vmm_number(s->dest, "recoveries"));
	EXPECT_EQ(1, vmm_number(s->source, "recoveries"));
}

static bool listens_elsewhere(const void *arg)
{
	return *((const struct vmm *)arg)->uri;
}

TEST_F(agent_vmm, recovered_by_command)
{
	struct scene *s = &self->scene;

	s->dest->uri[0] = '\0';
	vmm_command(s->dest, "recover tcp:127.0.0.1:0\n");
	ASSERT_TRUE(pair_until(&s->pair, listens_elsewhere, s->dest, SOON))
	TH_LOG("%s", s->dest->text);
	vmm_command(s->source, "resume %s\n", s->dest->uri);
	ends_well(self, _metadata);
}

/* The monitor holds the migration while it hands over */
TEST_F(agent_vmm, recovered_by_qmp)
{
	char program[256], uri[80];
	const char *argv[] = { program, "qmp", self->qmp, "migrate-recover", uri, NULL };
	struct child child;

	snprintf(uri, sizeof(uri), "uri=unix:%s/again", self->folder);
	ASSERT_EQ(0, built_path(program, sizeof(program), "wherry", &self->err));
	ASSERT_EQ(0, child_start(&child, argv, -1, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, child_wait(&child, WAIT_MS, &self->err)) TH_LOG("%s", self->err.text);
	child_end(&child);
	vmm_command(self->scene.source, "resume %s\n", uri + strlen("uri="));
	ends_well(self, _metadata);
	unlink(uri + strlen("uri=unix:"));
}

TEST_HARNESS_MAIN
