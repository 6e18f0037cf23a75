/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The monitor of libwherry-qmp alone, with a VMM that only writes down what it is asked to do:
 * requests and their answers, settings, events, quitting.
 */
#include "selftests/cli/qmp_monitor.h"

#include <errno.h>

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

TEST_F(qmp, greeting_and_agreement)
{
	struct talk *other = calloc(1, sizeof(*other));
	json_object *greeting, *version;

	ASSERT_TRUE(talk_connect(other, self->m->path));
	greeting = talk_next(other, TALK_MS);
	version = talk_part(talk_part(talk_part(greeting, "QMP"), "version"), "qemu");
	EXPECT_EQ(7, json_object_get_int(talk_part(version, "major")));
	EXPECT_EQ(0,
		  json_object_array_length(talk_part(talk_part(greeting, "QMP"), "capabilities")));
	json_object_put(greeting);

	EXPECT_TRUE(talk_is(other, "{\"execute\":\"query-status\"}", "CommandNotFound"));
	EXPECT_TRUE(talk_is(other, "{\"execute\":\"nonsense\"}", "CommandNotFound"));
	EXPECT_TRUE(
		talk_is(other,
			"{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[\"oob\"]}}",
			"GenericError"));
	EXPECT_TRUE(talk_is(other,
			    "{\"execute\":\"qmp_capabilities\",\"arguments\":{\"enable\":[]}}",
			    "return"));
	EXPECT_TRUE(talk_is(other, "{\"execute\":\"qmp_capabilities\"}", "CommandNotFound"));
	EXPECT_TRUE(talk_is(other, "{\"execute\":\"query-status\"}", "return"));
	talk_close(other);
	free(other);
}

TEST_F(qmp, id_comes_back_whatever_it_is)
{
	static const char *const ids[] = {
		"1",	       "-1",   "12345678901234567890", "\"a\\u0000b\"",
		"null",	       "true", "[1,{\"a\":[]}]",       "{\"x\":1.5}",
		"\"\xc3\xa9\""
	};

	for (size_t i = 0; i < sizeof(ids) / sizeof(ids[0]); i++) {
		json_object *id = json_tokener_parse(ids[i]);

		for (unsigned wrong = 0; wrong < 2; wrong++) {
			json_object *answer;
			char text[256];

			snprintf(text, sizeof(text), "{\"execute\":\"%s\",\"id\":%s}",
				 wrong ? "nonsense" : "query-status", ids[i]);
			answer = talk_ask(self->talk, text);
			EXPECT_STREQ(wrong ? "CommandNotFound" : "return", talk_kind(answer));
			EXPECT_TRUE(json_object_object_get_ex(answer, "id", NULL));
			EXPECT_TRUE(json_object_equal(id, talk_part(answer, "id")))
			{
				TH_LOG("%s -> %s", text, json_object_get_string(answer));
			}
			json_object_put(answer);
		}
		json_object_put(id);
	}
}

/* Nothing that is said can end the connection, and each thing is answered once */
TEST_F(qmp, what_is_wrong_is_said_and_no_more)
{
	static const char *const wrong[] = {
		"{", /* completed by the next line: see below */
		"}",
		"[]",
		"1",
		"null",
		"{\"execute\":1}",
		"{\"execute\":\"query-status\",\"arguments\":[]}",
		"{\"execute\":\"query-status\",\"arguments\":null}",
		"{\"execute\":\"query-status\",\"extra\":1}",
		"{\"exec-oob\":\"query-status\"}",
		"{\"execute\":\"query-status\",\"execute\":\"stop\"}",
		"{\"execute\":\"query-status\",\"arguments\":{\"x\":1}}",
		"{\"execute\":\"\xff\"}",
		"{\"execute\":\"sto\x01p\"}",
		"{\"execute\":\"migrate\"}",
		"{\"execute\":\"migrate\",\"arguments\":{\"uri\":1}}",
		"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/a\\u0000b\"}}",
		"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/a\",\"resume\":1}}",
		"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/a\",\"x\":1}}",
		"{\"execute\":\"migrate-set-capabilities\",\"arguments\":{\"capabilities\":{}}}",
	};

	EXPECT_TRUE(talk_say(self->talk, "{\"execute\":\n"));
	EXPECT_TRUE(talk_is(self->talk, "\"query-status\"}", "return"));
	for (size_t i = 1; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		char text[512];

		snprintf(text, sizeof(text), "%s\n", wrong[i]);
		EXPECT_TRUE(talk_is(self->talk, text, "GenericError"));
		EXPECT_TRUE(talk_is(self->talk, "{\"execute\":\"query-version\"}", "return"));
	}
	EXPECT_TRUE(talk_is(self->talk, "{\"execute\":\"stop\\u0000\"}", "CommandNotFound"));
	EXPECT_EQ(0, self->m->stops);
	EXPECT_EQ(0, self->m->migrates);
}

TEST_F(qmp, line_without_end)
{
	char *text = malloc(1 << 20);

	memset(text, ' ', 1 << 20);
	memcpy(text, "{\"execute\":\"", 12);
	memset(text + 12, 'a', (1 << 20) - 13);
	text[(1 << 20) - 1] = '\n';
	ASSERT_TRUE(talk_send(self->talk, text, 1 << 20));
	EXPECT_TRUE(talk_is(self->talk, "{\"execute\":\"query-status\"}", "GenericError"));
	json_object_put(talk_answer(self->talk, TALK_MS)); /* that of the command itself */
	EXPECT_TRUE(talk_is(self->talk, "{\"execute\":\"query-status\"}", "return"));
	free(text);
}

TEST_F(qmp, every_command_is_listed_and_known)
{
	static const char *const names[] = {
		"qmp_capabilities",
		"migrate",
		"migrate-incoming",
		"migrate-set-capabilities",
		"migrate-set-parameters",
		"query-migrate",
		"query-migrate-parameters",
		"query-migrate-capabilities",
		"migrate-start-postcopy",
		"migrate-pause",
		"migrate-recover",
		"migrate_cancel",
		"migrate-continue",
		"query-status",
		"stop",
		"cont",
		"quit",
		"query-commands",
		"query-version",
	};
	json_object *all = talk_result(self->talk, "query-commands", NULL);

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++) {
		bool there = false;

		for (size_t j = 0; j < json_object_array_length(all); j++)
			there |= !strcmp(names[i],
					 talk_text(json_object_array_get_idx(all, j), "name"));
		EXPECT_TRUE(there)
		{
			TH_LOG("%s", names[i]);
		}
	}
	json_object_put(all);
}

#define CAPABILITY(name, state) \
	"{\"capabilities\":[{\"capability\":\"" name "\",\"state\":" #state "}]}"

TEST_F(qmp, settings_reach_the_migration)
{
	EXPECT_TRUE(talk_does(self->talk, "migrate-set-capabilities",
			      CAPABILITY("postcopy-preempt", false)));
	EXPECT_TRUE(talk_does(
		self->talk, "migrate-set-parameters",
		"{\"max-bandwidth\":1048576,\"max-postcopy-bandwidth\":7,"
		"\"downtime-limit\":50,\"x-wherry-auto-recover\":1500,\"multifd-channels\":2,\"tls-creds\":null}"));
	EXPECT_TRUE(
		talk_does(self->talk, "migrate",
			  "{\"uri\":\"tcp:host:1\",\"blk\":true,\"inc\":false,\"detach\":true}"));
	EXPECT_EQ(1, self->m->migrates);
	EXPECT_STREQ("tcp:host:1", self->m->uri);
	EXPECT_TRUE(self->m->config.postcopy);
	EXPECT_EQ(WH_URGENT_OFF, self->m->config.urgent);
	EXPECT_EQ(1048576, self->m->config.bandwidth);
	EXPECT_EQ(7, self->m->config.postcopy_bandwidth);
	EXPECT_EQ(50000000, self->m->config.downtime_ns);
	EXPECT_EQ(1500000000, self->m->config.auto_recover_ns);

	EXPECT_TRUE(talk_does(self->talk, "migrate-set-capabilities",
			      CAPABILITY("postcopy-ram", false)));
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_FALSE(self->m->config.postcopy);
	EXPECT_TRUE(
		talk_does(self->talk, "migrate-set-capabilities",
			  "{\"capabilities\":[{\"capability\":\"postcopy-preempt\",\"state\":true},"
			  "{\"capability\":\"switchover-ack\",\"state\":true},"
			  "{\"capability\":\"postcopy-ram\",\"state\":true}]}"));
	EXPECT_FALSE(self->m->config.switchover_ack);
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_TRUE(self->m->config.switchover_ack);
	EXPECT_TRUE(self->m->config.postcopy);
	EXPECT_EQ(WH_URGENT_AT_SWITCH, self->m->config.urgent);
}

TEST_F(qmp, multifd)
{
	EXPECT_TRUE(
		talk_does(self->talk, "migrate-set-capabilities",
			  "{\"capabilities\":[{\"capability\":\"postcopy-preempt\",\"state\":false},"
			  "{\"capability\":\"postcopy-ram\",\"state\":false},"
			  "{\"capability\":\"multifd\",\"state\":true}]}"));
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_EQ(2, self->m->config.multifd);
	EXPECT_EQ(WH_MULTIFD_PLAIN, self->m->config.multifd_method);
	EXPECT_TRUE(talk_does(self->talk, "migrate-set-parameters",
			      "{\"multifd-channels\":5,\"multifd-compression\":\"zstd\","
			      "\"multifd-zstd-level\":3}"));
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_EQ(5, self->m->config.multifd);
	EXPECT_EQ(WH_MULTIFD_ZSTD, self->m->config.multifd_method);
	EXPECT_EQ(3, self->m->config.multifd_level);
	EXPECT_TRUE(
		talk_does(self->talk, "migrate-set-capabilities", CAPABILITY("multifd", false)));
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_EQ(0, self->m->config.multifd);
}

TEST_F(qmp, rdma)
{
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"rdma:1.2.3.4:5\"}"));
	EXPECT_FALSE(self->m->config.rdma_pin_all);
	EXPECT_TRUE(talk_does(self->talk, "migrate-set-capabilities",
			      CAPABILITY("rdma-pin-all", true)));
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"rdma:1.2.3.4:5\"}"));
	EXPECT_TRUE(self->m->config.rdma_pin_all);
	EXPECT_TRUE(talk_does(self->talk, "migrate-set-parameters",
			      "{\"x-wherry-rdma-pin-max\":33554432}"));
	EXPECT_TRUE(talk_does(self->talk, "migrate", "{\"uri\":\"rdma:1.2.3.4:5\"}"));
	EXPECT_EQ(33554432, self->m->config.rdma_pin_max);
}

/* The VMM's credentials have a name; without them nothing has */
TEST_F(qmp, tls)
{
	struct monitor *m = calloc(1, sizeof(*m));
	struct talk *talk = calloc(1, sizeof(*talk));

	m->tls = (struct wh_tls){ .dir = "/creds", .hostname = "there.test" };
	ASSERT_EQ(0, monitor_start(m));
	ASSERT_TRUE(talk_open(talk, m->path));
	EXPECT_TRUE(talk_does(talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_STREQ("/creds there.test", m->tls_seen);
	EXPECT_TRUE(talk_does(talk, "migrate-set-parameters", "{\"tls-hostname\":\"\"}"));
	EXPECT_TRUE(talk_does(talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_STREQ("/creds -", m->tls_seen);
	EXPECT_TRUE(talk_does(talk, "migrate-set-parameters", "{\"tls-creds\":\"\"}"));
	EXPECT_TRUE(talk_does(talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_STREQ("plain", m->tls_seen);
	EXPECT_TRUE(talk_does(talk, "migrate-set-parameters",
			      "{\"tls-creds\":\"tls0\",\"tls-hostname\":\"other.test\"}"));
	EXPECT_TRUE(talk_does(talk, "migrate", "{\"uri\":\"unix:/x\"}"));
	EXPECT_STREQ("/creds other.test", m->tls_seen);
	EXPECT_TRUE(talk_is(talk,
			    "{\"execute\":\"migrate-set-parameters\",\"arguments\":"
			    "{\"tls-creds\":\"tls1\"}}\n",
			    "GenericError"));
	talk_close(talk);
	monitor_end(m);
	free(talk);
	free(m);
}

static uint64_t parameter(struct talk *talk, const char *name)
{
	json_object *all = talk_result(talk, "query-migrate-parameters", NULL);
	uint64_t value = json_object_get_uint64(talk_part(all, name));

	json_object_put(all);
	return value;
}

/* What is refused changes nothing, not even what stands before it */
TEST_F(qmp, settings_all_or_nothing)
{
	static const char *const parameters[] = {
		"{\"downtime-limit\":7,\"no-such\":1}",
		"{\"downtime-limit\":7,\"max-bandwidth\":\"x\"}",
		"{\"downtime-limit\":7,\"max-bandwidth\":1.5}",
		"{\"downtime-limit\":7,\"max-bandwidth\":-1}",
		"{\"downtime-limit\":7,\"max-bandwidth\":18446744073709551615}",
		"{\"downtime-limit\":7,\"multifd-channels\":0}",
		"{\"downtime-limit\":7,\"multifd-channels\":33}",
		"{\"downtime-limit\":7,\"multifd-zstd-level\":21}",
		"{\"downtime-limit\":7,\"multifd-compression\":\"zlib\"}",
		"{\"downtime-limit\":7,\"multifd-compression\":1}",
		"{\"downtime-limit\":7,\"tls-creds\":\"tls0\"}",
		"{\"downtime-limit\":7,\"tls-creds\":5}",
		"{\"downtime-limit\":2000001}",
	};
	static const char *const capabilities[] = {
		CAPABILITY("no-such", true),
		CAPABILITY("multifd", true), /* while there may be postcopy */
		CAPABILITY("postcopy-ram", 1),
		CAPABILITY("postcopy-ram", false), /* and leave preempt without it */
		"{\"capabilities\":[{\"capability\":\"events\",\"state\":true},5]}",
		("{\"capabilities\":[{\"capability\":\"events\",\"state\":true},"
		 "{\"capability\":\"events\"}]}"),
		"{\"capabilities\":[{\"capability\":\"events\",\"state\":true,\"x\":1}]}",
	};
	json_object *before = talk_result(self->talk, "query-migrate-capabilities", NULL);
	json_object *after;
	char text[512];

	for (size_t i = 0; i < sizeof(parameters) / sizeof(parameters[0]); i++) {
		snprintf(text, sizeof(text),
			 "{\"execute\":\"migrate-set-parameters\",\"arguments\":%s}\n",
			 parameters[i]);
		EXPECT_TRUE(talk_is(self->talk, text, "GenericError"));
	}
	EXPECT_EQ(300, parameter(self->talk, "downtime-limit"));
	for (size_t i = 0; i < sizeof(capabilities) / sizeof(capabilities[0]); i++) {
		snprintf(text, sizeof(text),
			 "{\"execute\":\"migrate-set-capabilities\",\"arguments\":%s}\n",
			 capabilities[i]);
		EXPECT_TRUE(talk_is(self->talk, text, "GenericError"));
	}
	EXPECT_TRUE(
		talk_does(self->talk, "migrate-set-capabilities", CAPABILITY("multifd", false)));
	after = talk_result(self->talk, "query-migrate-capabilities", NULL);
	EXPECT_TRUE(json_object_equal(before, after));
	json_object_put(before);
	json_object_put(after);
}

/* A URI that cannot be meant for somebody who connects, and the VMM's own refusal */
TEST_F(qmp, uris)
{
	static const char *const wrong[] = { "", "tcp", "nowhere", "fd:0", "exec:true", "file:/x" };
	json_object *info;
	char text[256];

	for (size_t i = 0; i < sizeof(wrong) / sizeof(wrong[0]); i++) {
		snprintf(text, sizeof(text),
			 "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"%s\"}}", wrong[i]);
		EXPECT_TRUE(talk_is(self->talk, text, "GenericError"));
	}
	EXPECT_EQ(0, self->m->migrates);
	self->m->refuse = true;
	EXPECT_TRUE(talk_is(self->talk,
			    "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/x\"}}",
			    "GenericError"));
	info = talk_result(self->talk, "query-migrate", NULL);
	EXPECT_STREQ("failed", talk_text(info, "status"));
	EXPECT_STREQ("refused: \xc3\xa9?", talk_text(info, "error-desc")); /* what was \xc3 alone */
	json_object_put(info);
}

/* In none of these states can they be done */
TEST_F(qmp, without_a_migration)
{
	static const char *const refused[] = {
		"{\"execute\":\"migrate-start-postcopy\"}",
		"{\"execute\":\"migrate-pause\"}",
		"{\"execute\":\"migrate-recover\",\"arguments\":{\"uri\":\"unix:/x\"}}",
		"{\"execute\":\"migrate-continue\",\"arguments\":{\"state\":\"pre-switchover\"}}",
		"{\"execute\":\"migrate-continue\",\"arguments\":{\"state\":\"nonsense\"}}",
		"{\"execute\":\"migrate-incoming\",\"arguments\":{\"uri\":\"unix:/x\"}}",
		"{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/x\",\"resume\":true}}",
	};

	for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
		EXPECT_TRUE(talk_is(self->talk, refused[i], "GenericError"));
	EXPECT_TRUE(talk_does(self->talk, "migrate_cancel", NULL));
	EXPECT_EQ(0, self->m->migrates);
}

#define DO(command, arguments) "{\"execute\":\"" command "\",\"arguments\":" arguments "}\n"

/* One end of a migration that nobody drives: it listens, or is about to connect */
static struct wh_migration *undriven(struct monitor *m, enum wh_role role)
{
	static char memory[16 * 4096] __attribute__((aligned(4096)));
	const struct wh_callbacks callbacks = { 0 };
	const struct wh_block ram = {
		.name = "ram", .addr = memory, .length = sizeof(memory), .page_size = 4096, .fd = -1
	};
	struct wh_migration *migration = NULL;
	struct wh_config config;
	struct wh_err err = { 0 };
	char uri[128];
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	ret = wh_new(&migration, role, &config, &err);
	snprintf(uri, sizeof(uri), "unix:%s/wire", m->folder);
	if (!ret)
		ret = wh_add_block(migration, &ram, &err);
	if (!ret)
		ret = role == WH_DEST ? wh_listen(migration, uri, &err) :
					wh_connect(migration, uri, &err);
	if (ret)
		fprintf(stderr, "# %s\n", err.text);
	wh_qmp_set_migration(m->qmp, migration, role);
	return ret ? NULL : migration;
}

/* What a migration in its setup lets be done, and what not, at both ends */
TEST_F(qmp, with_a_migration)
{
	static const char *const refused[] = {
		DO("migrate", "{\"uri\":\"unix:/x\"}"),
		DO("migrate-incoming", "{\"uri\":\"unix:/x\"}"),
		DO("migrate-pause", "{}"),
		DO("migrate-recover", "{\"uri\":\"unix:/x\"}"),
		DO("migrate", "{\"uri\":\"unix:/x\",\"resume\":true}"),
		DO("migrate-set-parameters", "{\"max-bandwidth\":77}"),
		DO("migrate-set-capabilities", CAPABILITY("postcopy-ram", false)),
	};

	EXPECT_TRUE(talk_does(self->talk, "migrate-set-capabilities",
			      CAPABILITY("postcopy-preempt", false)));
	for (unsigned is_dest = 0; is_dest < 2; is_dest++) {
		enum wh_role role = is_dest ? WH_DEST : WH_SOURCE;
		struct wh_migration *migration = undriven(self->m, role);
		json_object *info, *status;

		ASSERT_NE(NULL, migration);
		wh_qmp_set_running(self->m->qmp, false);
		for (size_t i = 0; i < sizeof(refused) / sizeof(refused[0]); i++)
			EXPECT_TRUE(talk_is(self->talk, refused[i], "GenericError"));
		/* The same as before changes nothing; what is only told can be asked for */
		EXPECT_TRUE(talk_does(self->talk, "migrate-set-parameters",
				      "{\"downtime-limit\":300}"));
		EXPECT_TRUE(talk_does(self->talk, "migrate-set-capabilities",
				      CAPABILITY("events", true)));
		info = talk_result(self->talk, "query-migrate", NULL);
		status = talk_result(self->talk, "query-status", NULL);
		EXPECT_STREQ(is_dest ? "" : "setup", talk_text(info, "status"));
		EXPECT_EQ(is_dest, talk_part(info, "socket-address") != NULL);
		EXPECT_STREQ(is_dest ? "inmigrate" : "paused", talk_text(status, "status"));
		json_object_put(info);
		json_object_put(status);
		/* The source has its guest. That of the destination is not there yet */
		EXPECT_TRUE(talk_does(self->talk, "cont", NULL));
		EXPECT_EQ(1, self->m->conts);
		wh_qmp_set_migration(self->m->qmp, NULL, role);
		wh_free(migration);
	}
	EXPECT_EQ(0, self->m->migrates);
}

static const char *event_name(json_object *event)
{
	return talk_text(event, "event");
}

/* Before its answer comes what a command has brought about, with the time */
TEST_F(qmp, stop_and_cont)
{
	static const char *const commands[] = { "stop", "cont" };
	static const char *const events[] = { "STOP", "RESUME" };

	for (unsigned i = 0; i < 2; i++) {
		json_object *status, *event, *answer, *timestamp;
		char text[64];

		snprintf(text, sizeof(text), "{\"execute\":\"%s\"}", commands[i]);
		talk_say(self->talk, text);
		event = talk_next(self->talk, TALK_MS);
		answer = talk_next(self->talk, TALK_MS);
		EXPECT_STREQ(events[i], event_name(event));
		timestamp = talk_part(event, "timestamp");
		EXPECT_LT(time(NULL) - 100, json_object_get_int64(talk_part(timestamp, "seconds")));
		EXPECT_GT(1000000, json_object_get_int64(talk_part(timestamp, "microseconds")));
		EXPECT_STREQ("return", talk_kind(answer));
		json_object_put(event);
		json_object_put(answer);
		status = talk_result(self->talk, "query-status", NULL);
		EXPECT_STREQ(i ? "running" : "paused", talk_text(status, "status"));
		EXPECT_EQ(i, (unsigned)json_object_get_boolean(talk_part(status, "running")));
		json_object_put(status);
	}
	EXPECT_EQ(1, self->m->stops);
	/* Again: nothing happens, and nothing is told */
	self->talk->events = 0;
	EXPECT_TRUE(talk_does(self->talk, "cont", NULL));
	EXPECT_EQ(0, self->talk->events);
}

static void happen(struct monitor *m, enum wh_phase phase)
{
	wh_qmp_event(m->qmp, &(struct wh_event){ .kind = WH_EVENT_PHASE, .phase = phase });
}

static void pass(struct monitor *m, uint64_t round)
{
	wh_qmp_event(m->qmp, &(struct wh_event){ .kind = WH_EVENT_ROUND, .round = round });
}

/* Only to those who have asked, each status once, in order */
TEST_F(qmp, events)
{
	static const char *const wanted[] = { "setup", "active", "postcopy-active",
					      "postcopy-paused" };
	struct talk *newcomer = calloc(1, sizeof(*newcomer));
	json_object *event;

	happen(self->m, WH_PHASE_SETUP);
	happen(self->m, WH_PHASE_FAILED);
	pass(self->m, 1);
	EXPECT_TRUE(talk_does(self->talk, "query-status", NULL));
	EXPECT_EQ(0, self->talk->events);

	EXPECT_TRUE(talk_does(self->talk, "migrate-set-capabilities", CAPABILITY("events", true)));
	ASSERT_TRUE(talk_connect(newcomer, self->m->path));
	json_object_put(talk_next(newcomer, TALK_MS));
	happen(self->m, WH_PHASE_SETUP);
	happen(self->m, WH_PHASE_PRECOPY);
	happen(self->m, WH_PHASE_PRECOPY);
	happen(self->m, WH_PHASE_POSTCOPY);
	happen(self->m, WH_PHASE_PAUSED);
	for (size_t i = 0; i < sizeof(wanted) / sizeof(wanted[0]); i++) {
		event = talk_next(self->talk, TALK_MS);
		EXPECT_STREQ("MIGRATION", event_name(event));
		EXPECT_STREQ(wanted[i], talk_text(talk_part(event, "data"), "status"));
		json_object_put(event);
	}
	pass(self->m, 7);
	event = talk_next(self->talk, TALK_MS);
	EXPECT_STREQ("MIGRATION_PASS", event_name(event));
	EXPECT_EQ(7, json_object_get_int(talk_part(talk_part(event, "data"), "pass")));
	json_object_put(event);
	/* Whoever has not agreed on QMP yet is told nothing */
	EXPECT_TRUE(talk_is(newcomer, "{\"execute\":\"qmp_capabilities\"}", "return"));
	EXPECT_EQ(0, newcomer->events);
	talk_close(newcomer);
	free(newcomer);
}

/* More happens than anybody can be told: passes give way, the phase does not */
TEST_F(qmp, events_too_many)
{
	uint64_t until = talk_now_ms() + TALK_MS;
	json_object *event;
	uint64_t last = 0, now;

	EXPECT_TRUE(talk_does(self->talk, "migrate-set-capabilities", CAPABILITY("events", true)));
	happen(self->m, WH_PHASE_POSTCOPY);
	for (uint64_t i = 1; i <= 20000; i++)
		pass(self->m, i);
	happen(self->m, WH_PHASE_DONE);
	event = talk_next(self->talk, TALK_MS);
	EXPECT_STREQ("postcopy-active", talk_text(talk_part(event, "data"), "status"));
	do {
		json_object_put(event);
		event = talk_next(self->talk, TALK_MS);
		if (!event || !strcmp(event_name(event), "MIGRATION"))
			break;
		now = json_object_get_uint64(talk_part(talk_part(event, "data"), "pass"));
		EXPECT_LT(last, now);
		last = now;
	} while (talk_now_ms() < until);
	EXPECT_STREQ("completed", talk_text(talk_part(event, "data"), "status"));
	EXPECT_EQ(20000, last);
	json_object_put(event);
}

/* The answer comes before the end */
TEST_F(qmp, quit)
{
	EXPECT_TRUE(talk_does(self->talk, "quit", NULL));
	for (unsigned i = 0; i < 1000 && !__atomic_load_n(&self->m->quits, __ATOMIC_RELAXED); i++)
		talk_nap();
	EXPECT_EQ(1, __atomic_load_n(&self->m->quits, __ATOMIC_RELAXED));
}

TEST_HARNESS_MAIN
