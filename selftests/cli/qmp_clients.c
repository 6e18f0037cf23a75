/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Who connects to a monitor, and how: many at once, slow ones, ones that do not read; and
 * the socket itself.
 */
#include "selftests/cli/qmp_monitor.h"

#include <fcntl.h>
#include <sys/resource.h>
#include <sys/stat.h>

#include "kselftest_harness.h"

#define CLIENTS_MAX 16
#define STATUS "{\"execute\":\"query-status\"}\n"
#define PARAMETERS "{\"execute\":\"query-migrate-parameters\"}\n" /* a long answer */
#define EVENTS_ON "{\"capabilities\":[{\"capability\":\"events\",\"state\":true}]}"

FIXTURE(clients)
{
	struct monitor *m;
	struct talk *talk[CLIENTS_MAX + 1];
};

FIXTURE_SETUP(clients)
{
	self->m = calloc(1, sizeof(*self->m));
	for (unsigned i = 0; i <= CLIENTS_MAX; i++) {
		self->talk[i] = calloc(1, sizeof(struct talk));
		self->talk[i]->fd = -1;
	}
	ASSERT_EQ(0, monitor_start(self->m));
}

FIXTURE_TEARDOWN(clients)
{
	for (unsigned i = 0; i <= CLIENTS_MAX; i++) {
		talk_close(self->talk[i]);
		free(self->talk[i]);
	}
	monitor_end(self->m);
	free(self->m);
}

/* Whoever is one too many waits, and is served as soon as somebody goes */
TEST_F(clients, one_too_many)
{
	json_object *greeting;

	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		ASSERT_TRUE(talk_open(self->talk[i], self->m->path));
	ASSERT_TRUE(talk_connect(self->talk[CLIENTS_MAX], self->m->path));
	for (unsigned i = 0; i < CLIENTS_MAX; i++)
		EXPECT_TRUE(talk_is(self->talk[i], STATUS, "return"));
	EXPECT_EQ(NULL, talk_next(self->talk[CLIENTS_MAX], 50));
	talk_close(self->talk[3]);
	greeting = talk_next(self->talk[CLIENTS_MAX], TALK_MS);
	EXPECT_NE(NULL, talk_part(greeting, "QMP"));
	json_object_put(greeting);
}

/* Asks and asks and reads nothing: others are answered, and later all of it is there */
TEST_F(clients, does_not_read_for_a_while)
{
	struct talk *slow = self->talk[0];
	struct pollfd room = { .events = POLLOUT };
	unsigned asked = 0;
	unsigned answered = 0;

	ASSERT_TRUE(talk_open(slow, self->m->path));
	room.fd = slow->fd;
	ASSERT_TRUE(talk_open(self->talk[1], self->m->path));
	/* Until the monitor does not read either */
	while (poll(&room, 1, 500) == 1) {
		if (send(slow->fd, PARAMETERS, strlen(PARAMETERS), MSG_DONTWAIT | MSG_NOSIGNAL) !=
		    (ssize_t)strlen(PARAMETERS))
			continue;
		asked++;
		ASSERT_GT(100000, asked);
		if (asked % 100 == 0)
			ASSERT_TRUE(talk_is(self->talk[1], STATUS, "return"));
	}
	EXPECT_LT(100, asked);
	EXPECT_TRUE(talk_is(self->talk[1], STATUS, "return"));
	while (answered < asked) {
		json_object *answer = talk_next(slow, TALK_MS);

		ASSERT_STREQ("return", talk_kind(answer));
		json_object_put(answer);
		answered++;
	}
}

/* Never reads what it is told: it is dropped, and nobody else notices */
TEST_F(clients, never_reads)
{
	struct talk *deaf = self->talk[0];
	struct talk *other = self->talk[1];
	uint64_t pass = 0;
	uint64_t until;

	ASSERT_TRUE(talk_open(deaf, self->m->path));
	ASSERT_TRUE(talk_open(other, self->m->path));
	ASSERT_TRUE(talk_does(deaf, "migrate-set-capabilities", EVENTS_ON));
	until = talk_now_ms() + TALK_MS;
	/* A hangup is told even to somebody who does not read */
	for (;;) {
		struct pollfd hangup = { .fd = deaf->fd, .events = 0 };

		for (unsigned i = 0; i < 32; i++) {
			enum wh_phase phase = i % 2 ? WH_PHASE_POSTCOPY : WH_PHASE_PAUSED;

			wh_qmp_event(self->m->qmp,
				     &(struct wh_event){ .kind = WH_EVENT_PHASE, .phase = phase });
			wh_qmp_event(self->m->qmp,
				     &(struct wh_event){ .kind = WH_EVENT_ROUND, .round = ++pass });
		}
		ASSERT_TRUE(talk_is(other, STATUS, "return"));
		if (poll(&hangup, 1, 0) == 1 && (hangup.revents & POLLHUP))
			break;
		ASSERT_GT(until, talk_now_ms());
	}
	/* No more than the limit, and what the kernel holds of it, was kept for him */
	EXPECT_LT(100, pass);
	EXPECT_GT(50000, pass);
	EXPECT_TRUE(talk_is(other, STATUS, "return"));
}

/* One of them says the beginning of something and no more */
TEST_F(clients, half_a_request)
{
	ASSERT_TRUE(talk_open(self->talk[0], self->m->path));
	ASSERT_TRUE(talk_open(self->talk[1], self->m->path));
	ASSERT_TRUE(talk_say(self->talk[0], "{\"execute\":\"query-st"));
	EXPECT_TRUE(talk_is(self->talk[1], STATUS, "return"));
	EXPECT_TRUE(talk_is(self->talk[0], "atus\"}", "return"));
}

/* Has nothing more to say, and is answered all the same */
TEST_F(clients, half_closed)
{
	ASSERT_TRUE(talk_open(self->talk[0], self->m->path));
	/* More than lies in a socket, so that the end is seen while there is more to send */
	for (unsigned i = 0; i < 500; i++)
		ASSERT_TRUE(talk_say(self->talk[0], PARAMETERS));
	shutdown(self->talk[0]->fd, SHUT_WR);
	usleep(20000); /* so that it is likely; right it is either way */
	for (unsigned i = 0; i < 500; i++) {
		json_object *answer = talk_next(self->talk[0], TALK_MS);

		ASSERT_STREQ("return", talk_kind(answer));
		json_object_put(answer);
	}
	EXPECT_EQ(NULL, talk_next(self->talk[0], TALK_MS));
	EXPECT_TRUE(self->talk[0]->ended);
}

/* Goes away with an answer on its way to it. SIGPIPE would end this process */
TEST_F(clients, goes_away)
{
	ASSERT_TRUE(talk_open(self->talk[1], self->m->path));
	for (unsigned i = 0; i < 200; i++) {
		ASSERT_TRUE(talk_open(self->talk[0], self->m->path));
		ASSERT_TRUE(talk_say(self->talk[0], STATUS STATUS STATUS "{\"execute\":"));
		talk_close(self->talk[0]);
	}
	EXPECT_TRUE(talk_is(self->talk[1], STATUS, "return"));
}

/* Without a descriptor for him: he is hung up on, and the others stay */
TEST_F(clients, no_descriptor)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	struct rlimit limit, none;
	struct talk *late = self->talk[1];

	ASSERT_TRUE(talk_open(self->talk[0], self->m->path));
	memset(late, 0, sizeof(*late));
	late->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	snprintf(address.sun_path, sizeof(address.sun_path), "%s", self->m->path);
	ASSERT_EQ(0, getrlimit(RLIMIT_NOFILE, &limit));
	none = (struct rlimit){ .rlim_cur = (rlim_t)late->fd + 1, .rlim_max = limit.rlim_max };
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
	EXPECT_EQ(0, connect(late->fd, (struct sockaddr *)&address, sizeof(address)));
	EXPECT_EQ(NULL, talk_next(late, TALK_MS));
	EXPECT_TRUE(late->ended);
	EXPECT_TRUE(talk_is(self->talk[0], STATUS, "return"));
	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &limit));
	talk_close(late);
	EXPECT_TRUE(talk_open(late, self->m->path));
}

FIXTURE(place)
{
	struct monitor *m;
	struct wh_err err;
};

FIXTURE_SETUP(place)
{
	self->m = calloc(1, sizeof(*self->m));
	memset(&self->err, 0, sizeof(self->err));
	ASSERT_EQ(0, monitor_place(self->m));
}

FIXTURE_TEARDOWN(place)
{
	monitor_end(self->m);
	free(self->m);
}

TEST_F(place, only_for_its_owner_and_gone_at_the_end)
{
	struct stat file;
	mode_t before = umask(0);

	ASSERT_EQ(0, monitor_open(self->m, &self->err));
	umask(before);
	ASSERT_EQ(0, lstat(self->m->path, &file));
	EXPECT_TRUE(S_ISSOCK(file.st_mode));
	EXPECT_EQ(0600, file.st_mode & 07777);
	wh_qmp_free(self->m->qmp);
	self->m->qmp = NULL;
	EXPECT_EQ(-1, lstat(self->m->path, &file));
}

/* One that was left is replaced; one that is used, or is no socket, is not */
TEST_F(place, taken)
{
	struct monitor other = { 0 };
	struct stat file;
	int fd;

	ASSERT_EQ(0, monitor_open(self->m, &self->err));
	strcpy(other.path, self->m->path);
	EXPECT_EQ(-EADDRINUSE, monitor_open(&other, &self->err));
	EXPECT_NE('\0', self->err.text[0]);
	EXPECT_EQ(NULL, other.qmp);
	wh_qmp_free(self->m->qmp);

	fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	{
		struct sockaddr_un address = { .sun_family = AF_UNIX };

		snprintf(address.sun_path, sizeof(address.sun_path), "%s", self->m->path);
		ASSERT_EQ(0, bind(fd, (struct sockaddr *)&address, sizeof(address)));
	}
	close(fd);
	EXPECT_EQ(0, monitor_open(self->m, &self->err));
	wh_qmp_free(self->m->qmp);
	self->m->qmp = NULL;

	fd = open(self->m->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	close(fd);
	EXPECT_EQ(-EADDRINUSE, monitor_open(self->m, &self->err));
	EXPECT_EQ(0, lstat(self->m->path, &file));
	EXPECT_TRUE(S_ISREG(file.st_mode));
	unlink(self->m->path);
}

/* What somebody else has put there meanwhile is his */
TEST_F(place, replaced_by_another)
{
	struct stat file;

	ASSERT_EQ(0, monitor_open(self->m, &self->err));
	ASSERT_EQ(0, unlink(self->m->path));
	close(open(self->m->path, O_CREAT | O_WRONLY | O_CLOEXEC, 0600));
	wh_qmp_free(self->m->qmp);
	self->m->qmp = NULL;
	EXPECT_EQ(0, lstat(self->m->path, &file));
	unlink(self->m->path);
}

TEST_F(place, wrong_configuration)
{
	struct wh_qmp_callbacks callbacks = { 0 };
	struct wh_qmp_config config;

	memset(self->m->path, 'x', sizeof(self->m->path) - 1);
	wh_qmp_config_init(&config);
	config.path = self->m->path;
	EXPECT_EQ(-EINVAL, wh_qmp_new(&self->m->qmp, &config, &self->err));
	config.callbacks = &callbacks;
	config.size--;
	EXPECT_EQ(-EINVAL, wh_qmp_new(&self->m->qmp, &config, &self->err));
	config.size++;
	config.path = "";
	EXPECT_EQ(-EINVAL, wh_qmp_new(&self->m->qmp, &config, &self->err));
	config.path = "/no/such/folder/monitor";
	EXPECT_EQ(-ENOENT, wh_qmp_new(&self->m->qmp, &config, NULL));
	EXPECT_EQ(NULL, self->m->qmp);
}

/* Nobody drives it meanwhile: passes give way to later ones, phases do not */
TEST_F(place, more_happens_than_there_are_notes)
{
	struct talk *talk = calloc(1, sizeof(*talk));
	const struct wh_event first = { .kind = WH_EVENT_PHASE, .phase = WH_PHASE_POSTCOPY };
	const struct wh_event last = { .kind = WH_EVENT_PHASE, .phase = WH_PHASE_DONE };
	char got[256] = "";

	ASSERT_EQ(0, monitor_open(self->m, &self->err));
	ASSERT_TRUE(talk_connect(talk, self->m->path));
	ASSERT_TRUE(talk_say(talk,
			     "{\"execute\":\"qmp_capabilities\"}"
			     "{\"execute\":\"migrate-set-capabilities\",\"arguments\":" EVENTS_ON
			     "}"));
	for (unsigned i = 0; i < 10; i++)
		wh_qmp_process(self->m->qmp, &self->err);
	for (unsigned i = 0; i < 3; i++) /* the greeting, and two answers */
		json_object_put(talk_next(talk, 0));

	wh_qmp_event(self->m->qmp, &first);
	for (uint64_t round = 1; round <= 1000; round++)
		wh_qmp_event(self->m->qmp,
			     &(struct wh_event){ .kind = WH_EVENT_ROUND, .round = round });
	wh_qmp_event(self->m->qmp, &last);
	for (unsigned i = 0; i < 10; i++)
		wh_qmp_process(self->m->qmp, &self->err);
	for (;;) {
		json_object *event = talk_next(talk, 0);
		json_object *data = talk_part(event, "data");
		size_t have = strlen(got);

		if (!event)
			break;
		snprintf(got + have, sizeof(got) - have, "%s%s ", talk_text(data, "status"),
			 talk_text(data, "pass"));
		json_object_put(event);
	}
	EXPECT_STREQ("postcopy-active 1000 completed ", got);
	talk_close(talk);
	free(talk);
}

/* In somebody's loop: its descriptor is readable when there is something to do */
TEST_F(place, own_loop)
{
	struct talk *talk = calloc(1, sizeof(*talk));
	struct pollfd ready;
	unsigned answers = 0;

	ASSERT_EQ(0, monitor_open(self->m, &self->err));
	ready = (struct pollfd){ .fd = wh_qmp_fd(self->m->qmp), .events = POLLIN };
	EXPECT_EQ(0, poll(&ready, 1, 0));
	ASSERT_TRUE(talk_connect(talk, self->m->path));
	ASSERT_TRUE(talk_say(talk, "{\"execute\":\"qmp_capabilities\"}" STATUS));
	while (answers < 3) {
		json_object *answer;

		if (poll(&ready, 1, 0) == 1)
			ASSERT_EQ(0, wh_qmp_process(self->m->qmp, &self->err));
		answer = talk_next(talk, 0);
		answers += answer != NULL;
		json_object_put(answer);
	}
	/* And quiet when there is nothing: it does not spin */
	for (unsigned i = 0; i < 3; i++)
		wh_qmp_process(self->m->qmp, &self->err);
	EXPECT_EQ(0, poll(&ready, 1, 20));
	wh_qmp_set_running(self->m->qmp, false);
	EXPECT_EQ(1, poll(&ready, 1, 0));
	talk_close(talk);
	free(talk);
}

TEST_HARNESS_MAIN
