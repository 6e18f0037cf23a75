/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The monitor of a VMM whose guest can be protected: what is asked for, what is refused, and
 * what is told of all the states that a protection goes through.
 */
#include "selftests/cli/qmp_monitor.h"

#include <errno.h>
#include <wherry/protect.h>

#include "kselftest_harness.h"

FIXTURE(qmp)
{
	struct monitor *m;
	struct talk *talk;
};

FIXTURE_SETUP(qmp)
{
	self->m = calloc(1, sizeof(*self->m));
	self->talk = calloc(1, sizeof(*self->talk));
	ASSERT_EQ(0, monitor_start(self->m));
	ASSERT_TRUE(talk_open(self->talk, self->m->path));
}

FIXTURE_TEARDOWN(qmp)
{
	talk_close(self->talk);
	monitor_end(self->m);
	free(self->talk);
	free(self->m);
}

static bool is_refused(struct talk *talk, const char *command, const char *arguments)
{
	char text[512];

	snprintf(text, sizeof(text), "{\"execute\":\"%s\",\"arguments\":%s}\n", command, arguments);
	return talk_is(talk, text, "GenericError");
}

TEST_F(qmp, start_is_the_vmms)
{
	struct monitor *m = self->m;

	EXPECT_TRUE(talk_does(self->talk, "checkpoint-start", "{\"uri\":\"unix:/run/b\"}"));
	EXPECT_EQ(1, m->protects);
	EXPECT_STREQ("unix:/run/b", m->uri);
	EXPECT_STREQ("-", m->pulse_uri);
	EXPECT_EQ(0, m->pace.max_ns);

	EXPECT_TRUE(talk_does(self->talk, "migrate-set-mc-delay", "{\"value\":25}"));
	EXPECT_TRUE(talk_does(self->talk, "checkpoint-start",
			      "{\"uri\":\"tcp:a:1\",\"pulse-uri\":\"tcp:b:1\"}"));
	EXPECT_STREQ("tcp:b:1", m->pulse_uri);
	EXPECT_EQ(25000000, m->pace.min_ns);
	EXPECT_EQ(25000000, m->pace.max_ns);
	EXPECT_LT(0, m->pace.stop_ns);
}

TEST_F(qmp, what_is_not_right_is_refused)
{
	struct talk *talk = self->talk;

	EXPECT_TRUE(is_refused(talk, "checkpoint-start", "{}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-start", "{\"uri\":\"fd:3\"}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-start",
			       "{\"uri\":\"unix:/run/b\",\"pulse-uri\":\"exec:a\"}"));
	EXPECT_EQ(0, self->m->protects);
	EXPECT_TRUE(is_refused(talk, "migrate-set-mc-delay", "{\"value\":0}"));
	EXPECT_TRUE(is_refused(talk, "migrate-set-mc-delay", "{\"value\":-1}"));
	EXPECT_TRUE(is_refused(talk, "migrate-set-mc-delay", "{\"value\":10001}"));
	EXPECT_TRUE(is_refused(talk, "migrate-set-mc-delay", "{\"value\":\"7\"}"));
	EXPECT_TRUE(is_refused(talk, "migrate-set-mc-delay", "{\"value\":1.5}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-takeover", "{}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-takeover", "{\"generation\":0}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-takeover", "{\"generation\":-3}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-stop", "{}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-stop", "{\"force\":1}"));
	EXPECT_TRUE(is_refused(talk, "checkpoint-abandon", "{}"));
}

TEST_F(qmp, nothing_is_protected)
{
	json_object *info = talk_result(self->talk, "query-checkpoint", NULL);

	EXPECT_STREQ("none", talk_text(info, "state"));
	json_object_put(info);
}

static void happens(struct monitor *m, enum wh_protect_state from, enum wh_protect_state to,
		    uint64_t epoch)
{
	const struct wh_err lost = { .code = -EPIPE, .text = "lost" };
	bool why = to == WH_PROTECT_HOLD || to == WH_PROTECT_DEGRADED;

	wh_qmp_protect_event(m->qmp, &(const struct wh_protect_event){
					     .from = from,
					     .to = to,
					     .epoch = epoch,
					     .generation = 7,
					     .err = why ? &lost : NULL,
				     });
}

static void cycle(struct monitor *m, enum wh_protect_state from, uint64_t epoch)
{
	happens(m, from, WH_PROTECT_STOP, epoch);
	happens(m, WH_PROTECT_STOP, WH_PROTECT_STAGE, epoch);
	happens(m, WH_PROTECT_STAGE, WH_PROTECT_SEND, epoch);
	happens(m, WH_PROTECT_SEND, WH_PROTECT_WAIT_ACK, epoch);
	happens(m, WH_PROTECT_WAIT_ACK, WH_PROTECT_RUN, epoch + 1);
}

/* Return: how many there were up to the one that says @state */
static unsigned told_until(struct talk *talk, const char *state, json_object **last)
{
	unsigned count = 0;

	for (;;) {
		json_object *event = talk_next(talk, TALK_MS);

		if (!event)
			return 0;
		count++;
		*last = json_object_get(talk_part(event, "data"));
		if (strcmp(talk_text(event, "event"), "CHECKPOINT") ||
		    !strcmp(talk_text(*last, "state"), state)) {
			json_object_put(event);
			return count;
		}
		json_object_put(event);
		json_object_put(*last);
	}
}

/* Whoever did not ask for passes is told of what changes something, be there ever so many */
TEST_F(qmp, events_of_what_lasts)
{
	json_object *data = NULL;

	happens(self->m, WH_PROTECT_SETUP, WH_PROTECT_SYNC, 0);
	EXPECT_EQ(1, told_until(self->talk, "sync", &data));
	json_object_put(data);
	happens(self->m, WH_PROTECT_SYNC, WH_PROTECT_ARMED, 1);
	cycle(self->m, WH_PROTECT_ARMED, 1);
	EXPECT_GE(4, told_until(self->talk, "run", &data));
	EXPECT_EQ(2, json_object_get_int(talk_part(data, "epoch")));
	EXPECT_EQ(7, json_object_get_int(talk_part(data, "generation")));
	json_object_put(data);
	for (unsigned i = 2; i < 1000; i++)
		cycle(self->m, WH_PROTECT_RUN, i);
	happens(self->m, WH_PROTECT_RUN, WH_PROTECT_HOLD, 1000);
	EXPECT_EQ(1, told_until(self->talk, "hold", &data));
	EXPECT_STREQ("run", talk_text(data, "from"));
	EXPECT_STREQ("lost", talk_text(data, "reason"));
	json_object_put(data);
}

/* Too much: that, and that it is over */
TEST_F(qmp, events_of_a_time_without_checkpoints)
{
	json_object *data = NULL;

	happens(self->m, WH_PROTECT_SYNC, WH_PROTECT_ARMED, 1);
	cycle(self->m, WH_PROTECT_ARMED, 1);
	EXPECT_LT(0, told_until(self->talk, "run", &data));
	EXPECT_STREQ("sync", talk_text(data, "from"));
	json_object_put(data);
	cycle(self->m, WH_PROTECT_RUN, 2);
	happens(self->m, WH_PROTECT_RUN, WH_PROTECT_DEGRADED, 3);
	EXPECT_EQ(1, told_until(self->talk, "degraded", &data));
	EXPECT_STREQ("run", talk_text(data, "from"));
	EXPECT_STREQ("lost", talk_text(data, "reason"));
	json_object_put(data);
	cycle(self->m, WH_PROTECT_DEGRADED, 3);
	EXPECT_EQ(2, told_until(self->talk, "run", &data));
	EXPECT_STREQ("degraded", talk_text(data, "from"));
	json_object_put(data);
	for (unsigned i = 4; i < 100; i++)
		cycle(self->m, WH_PROTECT_RUN, i);
	happens(self->m, WH_PROTECT_RUN, WH_PROTECT_HOLD, 100);
	EXPECT_EQ(1, told_until(self->talk, "hold", &data));
	json_object_put(data);
}

TEST_F(qmp, events_of_each_checkpoint)
{
	json_object *data = NULL;
	unsigned count = 0;

	ASSERT_TRUE(talk_does(self->talk, "migrate-set-capabilities",
			      "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}"));
	happens(self->m, WH_PROTECT_SYNC, WH_PROTECT_ARMED, 1);
	EXPECT_EQ(1, told_until(self->talk, "armed", &data));
	json_object_put(data);
	/* With time for each of them */
	for (unsigned i = 1; i < 5; i++) {
		cycle(self->m, i == 1 ? WH_PROTECT_ARMED : WH_PROTECT_RUN, i);
		count += told_until(self->talk, "run", &data);
		EXPECT_EQ(i + 1, (unsigned)json_object_get_int(talk_part(data, "epoch")));
		json_object_put(data);
	}
	EXPECT_LE(4, count);
	EXPECT_GE(20, count);
}

TEST_HARNESS_MAIN
