/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Our monitor beside that of a real QEMU 7.2: the same is said to both, and the answers
 * have the same members of the same types, and the same classes of errors. The values are
 * of different guests, and are not compared.
 */
#include <fcntl.h>
#include <signal.h>
#include <stdarg.h>
#include <stdlib.h>
#include <sys/prctl.h>
#include <sys/wait.h>

#include "selftests/cli/qmp_requests.h"
#include "selftests/cli/qmp_talk.h"

#include "kselftest_harness.h"

#define SLOW "{\"max-bandwidth\":4096,\"max-postcopy-bandwidth\":4096}"
#define CAPABILITIES                                              \
	"{\"capabilities\":["                                     \
	"{\"capability\":\"events\",\"state\":true},"             \
	"{\"capability\":\"return-path\",\"state\":true},"        \
	"{\"capability\":\"postcopy-blocktime\",\"state\":true}," \
	"{\"capability\":\"postcopy-ram\",\"state\":true}]}"

/* A process with a monitor, and a connection to it */
struct side {
	pid_t pid;
	char path[100];
	struct talk talk;
};

/* The same pair, once of QEMUs and once of ours */
struct pair {
	bool is_qemu;
	char uri[128];
	struct side source;
	struct side dest;
};

FIXTURE(beside)
{
	char folder[64];
	struct pair *pair; /* QEMU's, ours */
};

FIXTURE_SETUP(beside)
{
	if (system("command -v qemu-system-x86_64 >/dev/null") != 0)
		SKIP(return, "no qemu-system-x86_64");
	snprintf(self->folder, sizeof(self->folder), "/tmp/wherry-qmp-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	self->pair = calloc(2, sizeof(*self->pair));
	self->pair[0].is_qemu = true;
}

static void side_end(struct side *side)
{
	if (side->pid <= 0)
		return;
	kill(side->pid, SIGKILL);
	waitpid(side->pid, NULL, 0);
	talk_close(&side->talk);
	unlink(side->path);
	side->pid = 0;
}

FIXTURE_TEARDOWN(beside)
{
	char path[128];

	for (unsigned i = 0; i < 2; i++) {
		side_end(&self->pair[i].source);
		side_end(&self->pair[i].dest);
		snprintf(path, sizeof(path), "%s/wire-%u", self->folder, i);
		unlink(path);
	}
	rmdir(self->folder);
	free(self->pair);
}

static void run(bool is_qemu, bool is_dest, const char *path)
{
	const char *build = getenv("WH_BUILD");
	char program[256], qmp[256];
	int null = open("/dev/null", O_RDWR | O_CLOEXEC);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	dup2(null, STDIN_FILENO);
	dup2(null, STDOUT_FILENO);
	dup2(null, STDERR_FILENO);
	snprintf(program, sizeof(program), "%s/wherry-vmm", build ? build : "build");
	/*
	 * It begins when somebody is connected: a QEMU 7.2 that accepts while its monitor's
	 * thread is being set up greets twice, or loses a part of what it reads.
	 */
	snprintf(qmp, sizeof(qmp), is_qemu ? "unix:%s,server=on,wait=on" : "%s", path);
	if (is_qemu)
		execlp("qemu-system-x86_64", "qemu", "-M", "none", "-m", "16", "-nodefaults",
		       "-display", "none", "-qmp", qmp, is_dest ? "-incoming" : NULL, "defer",
		       NULL);
	else
		execl(program, program, "--threads", "--ram", "16M", "--rate", "400", "--urgent",
		      "off", "--postcopy", "off", "--qmp", qmp, is_dest ? "--listen" : NULL,
		      "defer", NULL);
	_exit(127);
}

static bool side_start(struct side *side, bool is_qemu, bool is_dest, const char *folder)
{
	snprintf(side->path, sizeof(side->path), "%s/%s-%s", folder, is_qemu ? "qemu" : "wherry",
		 is_dest ? "dest" : "source");
	side->pid = fork();
	if (!side->pid)
		run(is_qemu, is_dest, side->path);
	return side->pid > 0 && talk_open(&side->talk, side->path);
}

static bool pair_start(struct pair *pair, const char *folder)
{
	snprintf(pair->uri, sizeof(pair->uri), "{\"uri\":\"unix:%s/wire-%u\"}", folder,
		 !pair->is_qemu);
	return side_start(&pair->source, pair->is_qemu, false, folder) &&
	       side_start(&pair->dest, pair->is_qemu, true, folder);
}

/* Differences of members and types, beneath @where; @but: a member that may be missing here */
static unsigned differences(const char *where, json_object *qemu, json_object *ours,
			    const char *but)
{
	enum json_type type = json_object_get_type(qemu);
	unsigned count = 0;
	char inner[256];

	/* QEMU prints a whole number of a "number" without a point */
	if (type != json_object_get_type(ours) &&
	    !(strstr(where, "mbps") && json_object_is_type(ours, json_type_double))) {
		fprintf(stderr, "# %s: %s there, %s here\n", where, json_type_to_name(type),
			json_type_to_name(json_object_get_type(ours)));
		return 1;
	}
	if (type == json_type_array && json_object_array_length(qemu) &&
	    json_object_array_length(ours)) {
		snprintf(inner, sizeof(inner), "%s[0]", where);
		return differences(inner, json_object_array_get_idx(qemu, 0),
				   json_object_array_get_idx(ours, 0), but);
	}
	if (type != json_type_object)
		return 0;
	json_object_object_foreach(qemu, name, value)
	{
		snprintf(inner, sizeof(inner), "%s.%s", where, name);
		if (json_object_object_get_ex(ours, name, NULL))
			count += differences(inner, value, talk_part(ours, name), but);
		else if (!but || strcmp(but, name) != 0)
			count += 1 + 0 * (unsigned)fprintf(stderr, "# %s: not here\n", inner);
	}
	json_object_object_foreach(ours, our_name, our_value)
	{
		(void)our_value;
		if (!json_object_object_get_ex(qemu, our_name, NULL))
			count += 1 + 0 * (unsigned)fprintf(stderr, "# %s.%s: not there\n", where,
							   our_name);
	}
	return count;
}

/* What both return has the same shape */
static bool same(const char *what, json_object *qemu, json_object *ours, const char *but)
{
	bool is = qemu && ours && differences(what, qemu, ours, but) == 0;

	if (!is)
		fprintf(stderr, "# %s\n# QEMU: %s\n# here: %s\n", what,
			json_object_get_string(qemu), json_object_get_string(ours));
	json_object_put(qemu);
	json_object_put(ours);
	return is;
}

static bool same_query(const char *command, struct side *qemu, struct side *ours)
{
	return same(command, talk_result(&qemu->talk, command, NULL),
		    talk_result(&ours->talk, command, NULL), NULL);
}

/* Until both have the status, at the source or at the destination */
static bool same_status(struct pair *pair, bool at_dest, const char *status, const char *but)
{
	json_object *info[2];
	char what[64];

	for (unsigned i = 0; i < 2; i++)
		info[i] = talk_until(at_dest ? &pair[i].dest.talk : &pair[i].source.talk, status);
	snprintf(what, sizeof(what), "%s at the %s", *status ? status : "nothing",
		 at_dest ? "destination" : "source");
	return same(what, info[0], info[1], but);
}

static bool both_do(struct pair *pair, bool at_dest, const char *command, const char *arguments)
{
	bool did = true;

	for (unsigned i = 0; i < 2; i++)
		did &= talk_does(at_dest ? &pair[i].dest.talk : &pair[i].source.talk, command,
				 arguments ? arguments : pair[i].uri);
	return did;
}

static bool begin(struct pair *pair, const char *folder)
{
	return pair_start(&pair[0], folder) && pair_start(&pair[1], folder) &&
	       both_do(pair, false, "migrate-set-capabilities", CAPABILITIES) &&
	       both_do(pair, true, "migrate-set-capabilities", CAPABILITIES);
}

#define NONE "{}"

TEST_F(beside, queries)
{
	static const char *const commands[] = {
		"query-version",
		"query-status",
		"query-migrate",
		"query-migrate-capabilities",
		"query-migrate-parameters",
		"query-commands",
	};

	ASSERT_TRUE(begin(self->pair, self->folder));
	for (size_t i = 0; i < sizeof(commands) / sizeof(commands[0]); i++) {
		EXPECT_TRUE(same_query(commands[i], &self->pair[0].source, &self->pair[1].source));
		EXPECT_TRUE(same_query(commands[i], &self->pair[0].dest, &self->pair[1].dest));
	}
}

/* The same capabilities by name; commands that a QEMU has all, but for those of protection */
TEST_F(beside, names)
{
	static const char *const lists[] = { "query-migrate-capabilities", "query-commands" };
	static const char *const members[] = { "capability", "name" };

	ASSERT_TRUE(begin(self->pair, self->folder));
	for (unsigned l = 0; l < 2; l++) {
		json_object *qemu = talk_result(&self->pair[0].source.talk, lists[l], NULL);
		json_object *ours = talk_result(&self->pair[1].source.talk, lists[l], NULL);

		for (size_t i = 0; i < json_object_array_length(ours); i++) {
			const char *name =
				talk_text(json_object_array_get_idx(ours, i), members[l]);
			/* the one that those of 8.1 and later have */
			bool newer = !strcmp(name, "switchover-ack");
			bool there = newer || !strncmp(name, "x-wherry", 8) ||
				     strstr(name, "checkpoint") ||
				     !strcmp(name, "migrate-set-mc-delay");

			for (size_t j = 0; j < json_object_array_length(qemu); j++)
				there |= !strcmp(name, talk_text(json_object_array_get_idx(qemu, j),
								 members[l]));
			EXPECT_TRUE(there)
			{
				TH_LOG("a QEMU has no %s", name);
			}
		}
		if (l == 0) {
			EXPECT_EQ(json_object_array_length(qemu) + 1,
				  json_object_array_length(ours));
		}
		json_object_put(qemu);
		json_object_put(ours);
	}
}

/* The first thing that is said to a line; whatever else there is is passed over */
static json_object *first_answer(struct talk *talk, const char *line, unsigned number)
{
	json_object *first = NULL;
	json_object *answer;
	char text[1024], mark[16];

	snprintf(mark, sizeof(mark), "mark-%u", number);
	snprintf(text, sizeof(text), "%s\n{\"execute\":\"query-version\",\"id\":\"%s\"}\n", line,
		 mark);
	talk_say(talk, text);
	while ((answer = talk_answer(talk, TALK_MS)) && strcmp(talk_text(answer, "id"), mark) != 0)
		if (first)
			json_object_put(answer);
		else
			first = answer;
	json_object_put(answer);
	return first;
}

TEST_F(beside, answers_and_classes_of_errors)
{
	ASSERT_TRUE(begin(self->pair, self->folder));
	for (unsigned i = 0; i < sizeof(requests) / sizeof(requests[0]); i++) {
		json_object *qemu = first_answer(&self->pair[0].source.talk, requests[i], i);
		json_object *ours = first_answer(&self->pair[1].source.talk, requests[i], i);

		EXPECT_NE(NULL, qemu);
		EXPECT_STREQ(talk_kind(qemu), talk_kind(ours))
		{
			TH_LOG("%s: QEMU %s, here %s", requests[i], json_object_get_string(qemu),
			       json_object_get_string(ours));
		}
		EXPECT_TRUE(same(requests[i], qemu, ours, NULL));
	}
}

/* Before anybody has agreed on QMP */
TEST_F(beside, greeting)
{
	json_object *greeting[2];

	for (unsigned i = 0; i < 2; i++) {
		struct side *side = &self->pair[i].source;

		snprintf(side->path, sizeof(side->path), "%s/first-%u", self->folder, i);
		side->pid = fork();
		if (!side->pid)
			run(i == 0, false, side->path);
		while (!talk_connect(&side->talk, side->path))
			talk_nap();
		greeting[i] = talk_next(&side->talk, TALK_MS);
		EXPECT_TRUE(talk_is(&side->talk, "{\"execute\":\"query-status\"}\n",
				    "CommandNotFound"));
		EXPECT_TRUE(
			talk_is(&side->talk, "{\"execute\":\"nonsense\"}\n", "CommandNotFound"));
		EXPECT_TRUE(talk_is(&side->talk,
				    "{\"execute\":\"qmp_capabilities\","
				    "\"arguments\":{\"enable\":[\"nonsense\"]}}\n",
				    "GenericError"));
	}
	EXPECT_TRUE(same("greeting", greeting[0], greeting[1], NULL));
}

/* Running, then cancelled; then to where nobody listens */
TEST_F(beside, cancelled_and_failed)
{
	ASSERT_TRUE(begin(self->pair, self->folder));
	EXPECT_TRUE(same_status(self->pair, false, "", NULL));
	EXPECT_TRUE(same_status(self->pair, true, "", NULL));
	ASSERT_TRUE(both_do(self->pair, false, "migrate-set-parameters", SLOW));
	ASSERT_TRUE(both_do(self->pair, true, "migrate-incoming", NULL));
	EXPECT_TRUE(same_status(self->pair, true, "", NULL)); /* listens */
	ASSERT_TRUE(both_do(self->pair, false, "migrate", NULL));
	EXPECT_TRUE(same_status(self->pair, false, "active", NULL));
	EXPECT_TRUE(same_status(self->pair, true, "active", NULL));
	for (unsigned i = 0; i < 2; i++) {
		struct talk *source = &self->pair[i].source.talk;

		EXPECT_TRUE(talk_is(source,
				    "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/x\"}}",
				    "GenericError"));
		EXPECT_TRUE(talk_is(source,
				    "{\"execute\":\"migrate-set-capabilities\",\"arguments\":"
				    "{\"capabilities\":[{\"capability\":\"postcopy-ram\","
				    "\"state\":false}]}}",
				    "GenericError"));
		EXPECT_TRUE(talk_is(source, "{\"execute\":\"migrate-pause\"}", "GenericError"));
	}
	EXPECT_TRUE(same_query("query-status", &self->pair[0].source, &self->pair[1].source));
	ASSERT_TRUE(both_do(self->pair, false, "migrate_cancel", NONE));
	EXPECT_TRUE(same_status(self->pair, false, "cancelled", NULL));
	ASSERT_TRUE(
		both_do(self->pair, false, "migrate", "{\"uri\":\"unix:/no/such/folder/wire\"}"));
	EXPECT_TRUE(same_status(self->pair, false, "failed", NULL));
}

/* Over to postcopy, and then one end is gone */
static bool in_postcopy(struct pair *pair, const char *folder)
{
	return begin(pair, folder) && both_do(pair, false, "migrate-set-parameters", SLOW) &&
	       both_do(pair, true, "migrate-incoming", NULL) &&
	       both_do(pair, false, "migrate", NULL) && same_status(pair, false, "active", NULL) &&
	       both_do(pair, false, "migrate-start-postcopy", NONE) &&
	       same_status(pair, false, "postcopy-active", NULL) &&
	       same_status(pair, true, "postcopy-active", NULL);
}

TEST_F(beside, postcopy_paused_at_the_source)
{
	ASSERT_TRUE(in_postcopy(self->pair, self->folder));
	EXPECT_TRUE(same_query("query-status", &self->pair[0].source, &self->pair[1].source));
	EXPECT_TRUE(same_query("query-status", &self->pair[0].dest, &self->pair[1].dest));
	for (unsigned i = 0; i < 2; i++)
		side_end(&self->pair[i].dest);
	EXPECT_TRUE(same_status(self->pair, false, "postcopy-paused", NULL));
	/* It is there, and says what can be done and what cannot */
	for (unsigned i = 0; i < 2; i++) {
		struct talk *source = &self->pair[i].source.talk;

		EXPECT_TRUE(talk_is(source, "{\"execute\":\"query-status\"}", "return"));
		EXPECT_TRUE(talk_is(source, "{\"execute\":\"migrate-pause\"}", "GenericError"));
		EXPECT_TRUE(talk_is(source,
				    "{\"execute\":\"migrate\",\"arguments\":{\"uri\":\"unix:/x\"}}",
				    "GenericError"));
	}
	/* The guest may be running there: QEMU would do as it is told */
	EXPECT_TRUE(talk_is(&self->pair[1].source.talk, "{\"execute\":\"cont\"}", "GenericError"));
}

TEST_F(beside, postcopy_paused_at_the_destination)
{
	ASSERT_TRUE(in_postcopy(self->pair, self->folder));
	for (unsigned i = 0; i < 2; i++)
		side_end(&self->pair[i].source);
	EXPECT_TRUE(same_status(self->pair, true, "postcopy-paused", NULL));
	EXPECT_TRUE(same_query("query-status", &self->pair[0].dest, &self->pair[1].dest));
	/* Its processors wait for pages that do not come; it does not wait for them */
	EXPECT_TRUE(talk_is(&self->pair[1].dest.talk, "{\"execute\":\"stop\"}", "GenericError"));
	EXPECT_TRUE(
		talk_is(&self->pair[1].dest.talk, "{\"execute\":\"x-wherry-stats\"}", "return"));
}

/* The old connection is closed a moment after the status says so */
static bool does_soon(struct talk *talk, const char *command, const char *arguments)
{
	uint64_t until = talk_now_ms() + TALK_MS;
	char text[512];

	snprintf(text, sizeof(text), "{\"execute\":\"%s\",\"arguments\":%s}\n", command, arguments);
	for (;;) {
		json_object *answer = talk_ask(talk, text);
		bool did = !strcmp(talk_kind(answer), "return");

		json_object_put(answer);
		if (did || talk_now_ms() > until)
			return did;
		talk_nap();
	}
}

/* Paused by command, and on over another socket; twice */
TEST_F(beside, paused_and_recovered)
{
	json_object *stats;

	ASSERT_TRUE(in_postcopy(self->pair, self->folder));
	for (unsigned round = 1; round <= 2; round++) {
		ASSERT_TRUE(both_do(self->pair, false, "migrate-pause", NONE));
		EXPECT_TRUE(same_status(self->pair, false, "postcopy-paused", NULL));
		EXPECT_TRUE(same_status(self->pair, true, "postcopy-paused", NULL));
		for (unsigned i = 0; i < 2; i++) {
			struct pair *pair = &self->pair[i];
			char uri[192], resume[224], path[128];

			snprintf(path, sizeof(path), "%s/again-%u-%u", self->folder, round, i);
			snprintf(uri, sizeof(uri), "{\"uri\":\"unix:%s\"}", path);
			snprintf(resume, sizeof(resume), "{\"uri\":\"unix:%s\",\"resume\":true}",
				 path);
			/* The other end's command */
			EXPECT_TRUE(talk_is(&pair->source.talk,
					    "{\"execute\":\"migrate-recover\","
					    "\"arguments\":{\"uri\":\"unix:/x\"}}",
					    "GenericError"));
			ASSERT_TRUE(does_soon(&pair->dest.talk, "migrate-recover", uri));
			ASSERT_TRUE(does_soon(&pair->source.talk, "migrate", resume));
			json_object_put(talk_until(&pair->source.talk, "postcopy-active"));
			json_object_put(talk_until(&pair->dest.talk, "postcopy-active"));
			unlink(path);
		}
		EXPECT_TRUE(same_status(self->pair, false, "postcopy-active", NULL));
		EXPECT_TRUE(same_status(self->pair, true, "postcopy-active", NULL));
	}
	stats = talk_result(&self->pair[1].source.talk, "x-wherry-stats", NULL);
	EXPECT_EQ(2, json_object_get_int(talk_part(talk_part(stats, "stats"), "recoveries")));
	json_object_put(stats);
}

/* All of it, to the end */
TEST_F(beside, events_of_a_postcopy)
{
	static const char *const wanted[] = { "setup", "active", "postcopy-active", "completed" };

	ASSERT_TRUE(begin(self->pair, self->folder));
	/* Its pages are zero, and a few bytes each */
	ASSERT_TRUE(talk_does(&self->pair[0].source.talk, "migrate-set-parameters",
			      "{\"max-bandwidth\":4096,\"max-postcopy-bandwidth\":0}"));
	ASSERT_TRUE(talk_does(&self->pair[1].source.talk, "migrate-set-parameters",
			      "{\"max-bandwidth\":1048576,\"max-postcopy-bandwidth\":0}"));
	ASSERT_TRUE(both_do(self->pair, true, "migrate-incoming", NULL));
	for (unsigned i = 0; i < 2; i++) {
		struct pair *pair = &self->pair[i];
		char text[256];
		unsigned at = 0, stops = 0;
		bool asked = false;

		snprintf(text, sizeof(text), "{\"execute\":\"migrate\",\"arguments\":%s}\n",
			 pair->uri);
		ASSERT_TRUE(talk_say(&pair->source.talk, text));
		while (at < 4) {
			json_object *event = talk_next(&pair->source.talk, TALK_MS);
			const char *name = talk_text(event, "event");
			const char *status = talk_text(talk_part(event, "data"), "status");

			ASSERT_NE(NULL, event);
			stops += !strcmp(name, "STOP");
			/* On the way QEMU has "device" in precopy, and ours in postcopy too */
			if (!strcmp(name, "MIGRATION") && strcmp(status, "device") != 0)
				EXPECT_STREQ(wanted[at++], status)
				{
					TH_LOG("of %s", i ? "ours" : "QEMU");
				}
			json_object_put(event);
			if (at == 2 && !asked) {
				asked = true;
				talk_say(&pair->source.talk,
					 "{\"execute\":\"migrate-start-postcopy\"}\n");
			}
		}
		EXPECT_EQ(1, stops);
	}
	/* blocktime itself is not measured here */
	EXPECT_TRUE(same_status(self->pair, true, "completed", "postcopy-blocktime"));
}

TEST_HARNESS_MAIN
