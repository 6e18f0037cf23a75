/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The process that serves the faults of a guest is killed, at many points and many times in
 * a row. The guest is this process's and waits; every byte of it is looked at in the end.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/recover.h"
#include "selftests/lib/child.h"
#include "selftests/lib/memory.h"
#include "selftests/lib/receiver.h"

#include <signal.h>

#define PAGES_ALL ((uint64_t)BLOCKS * BLOCK_PAGES)
#define KILLS 8u
#define HUGE_KILLS 2u /* of four pages */

FIXTURE(agent)
{
	struct pair pair;
	struct child child;
	struct wh_config config;
	struct wh_callbacks callbacks;
	char folder[32];
	char path[64];
	char qmp[64];
	unsigned kills;
	unsigned loads;	 /* atomic */
	unsigned starts; /* atomic */
	bool slow;	 /* atomic: device state is loaded when the test says so */
	struct huge_pages huge_pages;
	struct wh_err err;
};

FIXTURE_VARIANT(agent)
{
	enum wh_urgent urgent;
	bool huge;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(agent, off) { .urgent = WH_URGENT_OFF };
FIXTURE_VARIANT_ADD(agent, at_switch) { .urgent = WH_URGENT_AT_SWITCH };
FIXTURE_VARIANT_ADD(agent, huge) { .urgent = WH_URGENT_AT_SWITCH, .huge = true };
/* clang-format on */

static void dest_event(void *opaque, const struct wh_event *event)
{
	FIXTURE_DATA(agent) *self = opaque;

	end_event(&self->pair.dest, event);
}

static int dest_load(void *opaque, const void *data, size_t length, enum wh_device_format format,
		     struct wh_err *err)
{
	FIXTURE_DATA(agent) *self = opaque;
	int ret = end_load(&self->pair.dest, data, length, format, err);

	__atomic_fetch_add(&self->loads, 1, __ATOMIC_RELEASE);
	return ret == 0 && __atomic_load_n(&self->slow, __ATOMIC_ACQUIRE) ? WH_PENDING : ret;
}

static int dest_start(void *opaque, struct wh_err *err)
{
	FIXTURE_DATA(agent) *self = opaque;

	__atomic_fetch_add(&self->starts, 1, __ATOMIC_RELEASE);
	return end_run(&self->pair.dest, err);
}

static int start_agent(FIXTURE_DATA(agent) *self)
{
	char program[256];
	const char *argv[] = { program, "agent", "--socket", self->path, "--qmp", self->qmp, NULL };
	const char *line;
	int ret;

	ret = built_path(program, sizeof(program), "wherry", &self->err);
	if (ret == 0)
		ret = child_start(&self->child, argv, -1, &self->err);
	return ret ? ret : child_line(&self->child, &line, SECONDS * 1000, &self->err) - 1;
}

static void kill_agent(FIXTURE_DATA(agent) *self)
{
	kill(self->child.pid, SIGKILL);
	child_end(&self->child);
}

static int new_dest(FIXTURE_DATA(agent) *self)
{
	struct end *dest = &self->pair.dest;
	int ret;

	dest->role = WH_DEST;
	ret = wh_new(&dest->migration, WH_DEST, &self->config, &self->err);
	for (unsigned i = 0; i < BLOCKS && !ret; i++) {
		ret = end_block(dest, i, true);
		if (!ret)
			ret = wh_add_block(dest->migration, &dest->block[i], &self->err);
	}
	return ret;
}

/* In precopy, which goes on until somebody ends it */
FIXTURE_SETUP(agent)
{
	struct end *source = &self->pair.source;
	struct wh_err *err = &self->err;

	setvbuf(stdout, NULL, _IOLBF, 0);
	memset(self, 0, sizeof(*self));
	/* For both ends, and a page that is on its way */
	if (variant->huge &&
	    huge_pages_take(&self->huge_pages, 2 * BLOCKS * BLOCK_BYTES / (2u << 20) + 2, err))
		SKIP(return, "%s", err->text);
	source->huge = self->pair.dest.huge = variant->huge;
	source->bandwidth = 4u << 20;
	self->kills = variant->huge ? HUGE_KILLS : KILLS;
	strcpy(self->folder, "/tmp/wherry-agent.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->path, sizeof(self->path), "%s/socket", self->folder);
	snprintf(self->qmp, sizeof(self->qmp), "%s/qmp", self->folder);
	self->callbacks = (struct wh_callbacks){
		.event = dest_event,
		.device_load = dest_load,
		.start = dest_start,
	};
	wh_config_init(&self->config);
	self->config.callbacks = &self->callbacks;
	self->config.opaque = self;
	self->config.urgent = variant->urgent;
	self->config.agent = self->path;
	ASSERT_EQ(0, end_new(source, WH_SOURCE, variant->urgent, false, err))
	TH_LOG("%s", err->text);
	ASSERT_EQ(0, new_dest(self)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, start_agent(self)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_listen(self->pair.dest.migration, "tcp:127.0.0.1:0", err))
	TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_start(&self->pair.dest, false, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_connect(source->migration, wh_listen_uri(self->pair.dest.migration), err))
	TH_LOG("%s", err->text);
	end_run(source, NULL);
	ASSERT_EQ(0, end_start(source, false, err)) TH_LOG("%s", err->text);
}

FIXTURE_TEARDOWN(agent)
{
	child_end(&self->child);
	unlink(self->path);
	unlink(self->qmp);
	rmdir(self->folder);
}

static bool until(FIXTURE_DATA(agent) *self, enum wh_phase phase)
{
	return end_phase(&self->pair.dest, phase);
}

static uint64_t pages_left(FIXTURE_DATA(agent) *self)
{
	struct wh_stats stats;

	wh_get_stats(self->pair.dest.migration, &stats);
	return stats.pages_left;
}

/* What the guest's threads have waited, as the VMM sees it */
static uint64_t faults_of_threads(FIXTURE_DATA(agent) *self)
{
	unsigned count = wh_get_thread_waits(self->pair.dest.migration, NULL, 0);
	struct wh_thread_wait *waits = calloc(count + 1, sizeof(*waits));
	uint64_t faults = 0;

	count = wh_get_thread_waits(self->pair.dest.migration, waits, count);
	for (unsigned i = 0; i < count; i++)
		faults += waits[i].faults;
	free(waits);
	return faults;
}

static uint64_t latencies(FIXTURE_DATA(agent) *self)
{
	uint64_t counts[WH_LATENCIES], sum = 0;

	wh_get_latencies(self->pair.dest.migration, counts);
	for (unsigned i = 0; i < WH_LATENCIES; i++)
		sum += counts[i];
	return sum;
}

static bool left_at_most(FIXTURE_DATA(agent) *self, uint64_t pages)
{
	for (unsigned i = 0; i < SECONDS * 10000; i++) {
		if (pages_left(self) <= pages)
			return true;
		usleep(100);
	}
	return false;
}

/* The next one has it, and the source comes */
static int take_up(FIXTURE_DATA(agent) *self)
{
	int ret = start_agent(self);

	if (ret == 0)
		ret = wh_recover(self->pair.dest.migration, "tcp:127.0.0.1:0", &self->err);
	if (ret)
		return ret;
	if (!end_phase(&self->pair.source, WH_PHASE_PAUSED))
		return -ETIMEDOUT;
	return end_again(&self->pair.source, wh_listen_uri(self->pair.dest.migration), &self->err);
}

static void free_both(FIXTURE_DATA(agent) *self)
{
	struct end *dest = &self->pair.dest;

	wh_free(self->pair.dest.migration);
	end_free(&self->pair.source);
	for (unsigned i = 0; i < BLOCKS; i++) {
		workload_fini(&dest->workload[i]);
		munmap(dest->block[i].addr, BLOCK_BYTES);
		close(dest->block[i].fd);
	}
}

static void ends_well(FIXTURE_DATA(agent) *self, struct __test_metadata *_metadata)
{
	ASSERT_TRUE(until(self, WH_PHASE_DONE)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, wh_wait(self->pair.dest.migration, WAIT_NS, &self->err))
	TH_LOG("%s", self->err.text);
	EXPECT_TRUE(end_phase(&self->pair.source, WH_PHASE_DONE));
	EXPECT_EQ(0, pages_left(self));
	EXPECT_EQ(1, self->loads);
	EXPECT_EQ(1, self->starts);
	EXPECT_EQ(0, wrong_byte(&self->pair));
	EXPECT_EQ(0, child_wait(&self->child, SECONDS * 1000, &self->err))
	TH_LOG("%s", self->err.text);
	free_both(self);
}

/* Its figures are the VMM's, all of them when it has said that it is over */
TEST_F(agent, lives)
{
	struct wh_migration *dest = self->pair.dest.migration;
	struct wh_stats source, stats;

	ASSERT_EQ(0, wh_start_postcopy(self->pair.source.migration, &self->err));
	ASSERT_EQ(0, wh_wait(dest, WAIT_NS, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(end_phase(&self->pair.source, WH_PHASE_DONE));
	wh_get_stats(self->pair.source.migration, &source);
	wh_get_stats(dest, &stats);
	EXPECT_EQ(source.bytes, stats.bytes);
	EXPECT_EQ(source.bytes_return, stats.bytes_return);
	EXPECT_EQ(source.pages_normal, stats.pages_normal);
	EXPECT_LT(0, stats.faults);
	EXPECT_EQ(stats.faults, faults_of_threads(self));
	EXPECT_LT(0, latencies(self));
	EXPECT_LE(stats.fault_p50_ns, stats.fault_p99_ns);
	EXPECT_LT(0, stats.fault_p50_ns);
	ends_well(self, _metadata);
}

/* Again and again, each time when some more pages are there */
TEST_F(agent, killed_in_postcopy)
{
	struct wh_stats before, stats;

	ASSERT_EQ(0, wh_start_postcopy(self->pair.source.migration, &self->err));
	ASSERT_TRUE(until(self, WH_PHASE_POSTCOPY));
	memset(&before, 0, sizeof(before));
	for (unsigned i = 0; i < self->kills; i++) {
		ASSERT_TRUE(until(self, WH_PHASE_POSTCOPY)) TH_LOG("%u", i);
		ASSERT_TRUE(left_at_most(self, PAGES_ALL * (self->kills - i) / (self->kills + 1)));
		kill_agent(self);
		ASSERT_EQ(-ECONNRESET, wh_wait(self->pair.dest.migration, WAIT_NS, &self->err))
		TH_LOG("%u: %s", i, self->err.text);
		ASSERT_EQ(WH_PHASE_PAUSED, wh_get_phase(self->pair.dest.migration)) TH_LOG("%u", i);
		ASSERT_LT(0, pages_left(self));
		wh_get_stats(self->pair.dest.migration, &stats);
		EXPECT_LT(before.bytes, stats.bytes);
		EXPECT_LE(before.faults, stats.faults);
		before = stats;
		ASSERT_EQ(0, take_up(self)) TH_LOG("%u: %s", i, self->err.text);
	}
	EXPECT_LT(0, before.faults);
	ends_well(self, _metadata);
}

/* While the link is broken, before the source comes back, and in its handshake */
TEST_F(agent, killed_while_it_waits)
{
	ASSERT_EQ(0, wh_start_postcopy(self->pair.source.migration, &self->err));
	ASSERT_TRUE(until(self, WH_PHASE_POSTCOPY));
	ASSERT_EQ(0, wh_pause(self->pair.dest.migration, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(until(self, WH_PHASE_PAUSED));
	kill_agent(self);
	for (unsigned i = 0; i < KILLS; i++) {
		ASSERT_EQ(0, start_agent(self)) TH_LOG("%s", self->err.text);
		/* that the one before has died may not be known yet */
		ASSERT_EQ(0, wh_recover(self->pair.dest.migration, "tcp:127.0.0.1:0", &self->err))
		TH_LOG("%s", self->err.text);
		if (i % 2) {
			ASSERT_TRUE(end_phase(&self->pair.source, WH_PHASE_PAUSED));
			ASSERT_EQ(0,
				  end_again(&self->pair.source,
					    wh_listen_uri(self->pair.dest.migration), &self->err));
			usleep(i * 100);
		}
		kill_agent(self);
		ASSERT_GT(0, wh_wait(self->pair.dest.migration, WAIT_NS, &self->err));
		ASSERT_TRUE(until(self, WH_PHASE_PAUSED));
	}
	ASSERT_EQ(0, take_up(self)) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/* It lives, and the link breaks: the same one goes on */
TEST_F(agent, paused)
{
	struct wh_err err;
	int ret = -EBUSY;

	ASSERT_EQ(0, wh_start_postcopy(self->pair.source.migration, &self->err));
	ASSERT_TRUE(until(self, WH_PHASE_POSTCOPY));
	EXPECT_EQ(-EBUSY, wh_recover(self->pair.dest.migration, "tcp:127.0.0.1:0", &err));
	ASSERT_EQ(0, wh_pause(self->pair.dest.migration, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(-ECANCELED, wh_wait(self->pair.dest.migration, WAIT_NS, &self->err))
	TH_LOG("%s", self->err.text);
	for (unsigned i = 0; ret == -EBUSY && i < SECONDS * 1000; i++) {
		ret = wh_recover(self->pair.dest.migration, "tcp:127.0.0.1:0", &self->err);
		usleep(1000);
	}
	ASSERT_EQ(0, ret) TH_LOG("%s", self->err.text);
	ASSERT_TRUE(end_phase(&self->pair.source, WH_PHASE_PAUSED));
	ASSERT_EQ(0, end_again(&self->pair.source, wh_listen_uri(self->pair.dest.migration),
			       &self->err));
	ends_well(self, _metadata);
}

/* The agent's monitor. Return: what wherry qmp gave to exit() */
static int tell(FIXTURE_DATA(agent) *self, const char *command, const char *arguments)
{
	char program[256];
	const char *argv[] = { program, "qmp", self->qmp, command, arguments, NULL };
	struct child child;
	int ret;

	ret = built_path(program, sizeof(program), "wherry", &self->err);
	if (ret == 0)
		ret = child_start(&child, argv, -1, &self->err);
	if (ret == 0)
		ret = child_wait(&child, SECONDS * 1000, &self->err);
	child_end(&child);
	return ret;
}

/* By whoever operates it; the VMM hears of it */
TEST_F(agent, operated)
{
	char uri[64], arguments[96];
	int ret = 1;

	ASSERT_EQ(0, tell(self, "query-migrate", NULL)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(1, tell(self, "migrate-pause", NULL));
	ASSERT_EQ(0, wh_start_postcopy(self->pair.source.migration, &self->err));
	ASSERT_TRUE(until(self, WH_PHASE_POSTCOPY));
	/* the monitor hears of the phase a little later than the VMM */
	for (unsigned i = 0; ret && i < 100; i++)
		ret = tell(self, "migrate-pause", NULL);
	ASSERT_EQ(0, ret) TH_LOG("%s", self->err.text);
	ASSERT_EQ(-ECANCELED, wh_wait(self->pair.dest.migration, WAIT_NS, &self->err));
	snprintf(uri, sizeof(uri), "unix:%s/again", self->folder);
	snprintf(arguments, sizeof(arguments), "uri=%s", uri);
	/* too early it is refused for a moment */
	ret = 1;
	for (unsigned i = 0; ret && i < 100; i++)
		ret = tell(self, "migrate-recover", arguments);
	ASSERT_EQ(0, ret);
	ASSERT_TRUE(end_phase(&self->pair.source, WH_PHASE_PAUSED));
	ASSERT_EQ(0, end_again(&self->pair.source, uri, &self->err)) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
	unlink(uri + strlen("unix:"));
}

/* The package is here, and the one who was to say "start" is not: the guest is ours alone */
TEST_F(agent, killed_while_device_state_is_loaded)
{
	__atomic_store_n(&self->slow, true, __ATOMIC_RELEASE);
	ASSERT_EQ(0, wh_start_postcopy(self->pair.source.migration, &self->err));
	for (unsigned i = 0; i < SECONDS * 2000 && !__atomic_load_n(&self->loads, __ATOMIC_ACQUIRE);
	     i++)
		usleep(500);
	kill_agent(self);
	ASSERT_EQ(-ECONNRESET, wh_wait(self->pair.dest.migration, WAIT_NS, &self->err));
	ASSERT_EQ(WH_PHASE_PAUSED, wh_get_phase(self->pair.dest.migration));
	EXPECT_EQ(0, self->starts);
	ASSERT_EQ(0, wh_device_loaded(self->pair.dest.migration, 0));
	EXPECT_EQ(1, self->starts);
	ASSERT_EQ(0, take_up(self)) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/* Nothing has been handed out: the source keeps its guest, which has never stood still */
TEST_F(agent, killed_before_the_switch)
{
	struct end *source = &self->pair.source;
	uint64_t passes;

	ASSERT_TRUE(until(self, WH_PHASE_PRECOPY));
	kill_agent(self);
	ASSERT_EQ(-ECONNRESET, wh_wait(self->pair.dest.migration, WAIT_NS, &self->err));
	EXPECT_EQ(WH_PHASE_FAILED, wh_get_phase(self->pair.dest.migration));
	EXPECT_EQ(-EBUSY, wh_recover(self->pair.dest.migration, "tcp:127.0.0.1:0", &self->err));
	EXPECT_TRUE(end_phase(source, WH_PHASE_FAILED));
	/* parked, its figures can be looked at */
	end_pause(source, NULL);
	passes = source->workload[0].passes;
	for (unsigned i = 0; i < SECONDS * 100 && source->workload[0].passes < passes + 2; i++) {
		end_run(source, NULL);
		usleep(10000);
		end_pause(source, NULL);
	}
	EXPECT_LE(passes + 2, source->workload[0].passes);
	EXPECT_EQ(0, self->starts);
	EXPECT_EQ(0, workload_verify(&source->workload[0]));
	free_both(self);
}

TEST_HARNESS_MAIN
