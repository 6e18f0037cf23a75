/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What becomes of the guest when a migration does not end as planned. In precopy the
 * source's guest runs on; in postcopy neither process gives up what it has.
 */
#include "kselftest_harness.h"

#include "selftests/lib/proxy.h"
#include "selftests/lib/vmm_process.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <stdlib.h>
#include <unistd.h>

#define RAM "64M"
#define SOON 5000u
#define ARGS_MAX 48

FIXTURE(faults)
{
	struct vmm source;
	struct vmm dest;
	struct vmm *both[2];
	struct proxy *proxy;
	uint64_t serial_chars;
};

FIXTURE_VARIANT(faults)
{
	bool own_loop;
};

FIXTURE_VARIANT_ADD(faults, lib){
	.own_loop = false,
};

FIXTURE_VARIANT_ADD(faults, own){
	.own_loop = true,
};

FIXTURE_SETUP(faults)
{
	self->both[0] = &self->source;
	self->both[1] = &self->dest;
	self->source.out = -1;
	self->dest.out = -1;
}

FIXTURE_TEARDOWN(faults)
{
	vmm_end(&self->source);
	vmm_end(&self->dest);
	proxy_end(self->proxy);
}

static void start(struct vmm *vmm, const char *what, bool own_loop, const char *const *more)
{
	const char *args[ARGS_MAX] = { what, "--ram", RAM, own_loop ? "--own-loop" : NULL };
	unsigned count = own_loop ? 4 : 3;

	for (unsigned i = 0; more[i] && count < ARGS_MAX - 1; i++)
		args[count++] = more[i];
	args[count] = NULL;
	vmm_start(vmm, args);
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__, NULL })

static bool listens(void *arg)
{
	return *((struct vmm *)arg)->uri;
}

static bool has_ended(void *arg)
{
	return ((struct vmm *)arg)->ended;
}

struct wanted {
	const struct vmm *vmm;
	const char *phase;
};

static bool is_in(void *arg)
{
	const struct wanted *wanted = arg;

	return !strcmp(wanted->vmm->phase, wanted->phase);
}

static bool until_phase(FIXTURE_DATA(faults) *self, struct vmm *vmm, const char *phase)
{
	struct wanted wanted = { .vmm = vmm, .phase = phase };

	return vmm_until(self->both, 2, is_in, &wanted, 4 * SOON);
}

static bool until_ended(FIXTURE_DATA(faults) *self, struct vmm *vmm)
{
	return vmm_until(self->both, 2, has_ended, vmm, SOON);
}

static bool writes_on(void *arg)
{
	FIXTURE_DATA(faults) *self = arg;

	return !strcmp(self->source.guest, "running") &&
	       self->source.serial_chars > self->serial_chars + 4;
}

/* The source's guest runs and gets on with its work. */
static bool guest_goes_on(FIXTURE_DATA(faults) *self)
{
	self->serial_chars = self->source.serial_chars;
	return vmm_until(self->both, 2, writes_on, self, SOON);
}

static bool some_left(void *arg)
{
	FIXTURE_DATA(faults) *self = arg;

	return self->source.pages_left > 0 && self->dest.pages_left > 0 &&
	       vmm_was(&self->dest, "postcopy-active");
}

static bool half_a_second(void *arg)
{
	(void)arg;
	return false;
}

static void stays(FIXTURE_DATA(faults) *self, struct __test_metadata *_metadata, const char *phase)
{
	/* The one wait for nothing: that nobody gives up cannot be waited for otherwise */
	vmm_until(self->both, 2, half_a_second, NULL, 500);
	EXPECT_STREQ(phase, self->source.phase);
	EXPECT_STREQ(phase, self->dest.phase);
	EXPECT_EQ(-1, vmm_exit(&self->source)) TH_LOG("%s", self->source.text);
	EXPECT_EQ(-1, vmm_exit(&self->dest)) TH_LOG("%s", self->dest.text);
}

/* Told to end, they do, though processors of the destination may wait for pages. */
static void end_both(FIXTURE_DATA(faults) *self, struct __test_metadata *_metadata)
{
	vmm_signal(&self->source, SIGTERM);
	vmm_signal(&self->dest, SIGTERM);
	EXPECT_TRUE(until_ended(self, &self->source));
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(1, vmm_exit(&self->source));
	EXPECT_EQ(1, vmm_exit(&self->dest));
}

static void start_dest(FIXTURE_DATA(faults) *self, struct __test_metadata *_metadata, bool own_loop,
		       const char *const *more)
{
	start(&self->dest, "dest", own_loop, more);
	ASSERT_TRUE(vmm_until(&self->both[1], 1, listens, &self->dest, SOON))
	TH_LOG("%s", self->dest.text);
}

static void start_proxy(FIXTURE_DATA(faults) *self, struct __test_metadata *_metadata,
			const struct proxy_script *script)
{
	self->proxy = proxy_start(self->dest.uri, script);
	ASSERT_NE(NULL, self->proxy);
}

TEST_F(faults, destination_killed_in_precopy)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--hold", "0"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--bandwidth", "20M"));
	ASSERT_TRUE(until_phase(self, &self->source, "active")) TH_LOG("%s", self->source.text);
	ASSERT_TRUE(until_phase(self, &self->dest, "active"));
	vmm_signal(&self->dest, SIGKILL);
	ASSERT_TRUE(until_phase(self, &self->source, "failed")) TH_LOG("%s", self->source.text);
	EXPECT_STRNE("", self->source.error);
	EXPECT_TRUE(guest_goes_on(self));
	EXPECT_EQ(-1, vmm_exit(&self->source));
	vmm_signal(&self->source, SIGINT);
	EXPECT_TRUE(until_ended(self, &self->source));
	EXPECT_EQ(1, vmm_exit(&self->source)) TH_LOG("%s", self->source.text);
	EXPECT_EQ(256 + SIGKILL, vmm_exit(&self->dest));
}

TEST_F(faults, cancelled_in_precopy)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--hold", "0"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--bandwidth", "20M", "--cancel-at", "300"));
	ASSERT_TRUE(until_phase(self, &self->source, "cancelled")) TH_LOG("%s", self->source.text);
	EXPECT_TRUE(guest_goes_on(self));
	EXPECT_EQ(-1, vmm_exit(&self->source));
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(1, vmm_exit(&self->dest));
	EXPECT_STREQ("failed", self->dest.phase);
	EXPECT_STRNE("", self->dest.error);
}

TEST_F(faults, nobody_listens)
{
	start(&self->source, "source", variant->own_loop, ARGS("--to", "tcp:127.0.0.1:1"));
	ASSERT_TRUE(until_phase(self, &self->source, "failed")) TH_LOG("%s", self->source.text);
	EXPECT_NE(NULL, strstr(self->source.error, "127.0.0.1")) TH_LOG("%s", self->source.error);
	EXPECT_TRUE(guest_goes_on(self));
}

/* Its device state is for two processors. */
TEST_F(faults, device_state_refused)
{
	start_dest(self, _metadata, variant->own_loop,
		   ARGS("--postcopy", "off", "--vcpus", "3", "--hold", "0"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--postcopy", "off", "--rate", "30000"));
	ASSERT_TRUE(until_phase(self, &self->source, "failed")) TH_LOG("%s", self->source.text);
	EXPECT_TRUE(vmm_was(&self->source, "device")) TH_LOG("%s", self->source.phases);
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(1, vmm_exit(&self->dest));
	EXPECT_NE(NULL, strstr(self->dest.error, "vCPUs")) TH_LOG("%s", self->dest.error);
	EXPECT_TRUE(guest_goes_on(self)) TH_LOG("%s", self->source.text);
}

/* The same, found out by a thread that loads it in its own time. */
TEST_F(faults, device_state_refused_later)
{
	start_dest(self, _metadata, variant->own_loop,
		   ARGS("--postcopy", "off", "--vcpus", "3", "--hold", "0", "--load-elsewhere"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--postcopy", "off", "--rate", "30000"));
	ASSERT_TRUE(until_phase(self, &self->source, "failed")) TH_LOG("%s", self->source.text);
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(1, vmm_exit(&self->dest));
	EXPECT_TRUE(guest_goes_on(self)) TH_LOG("%s", self->source.text);
}

/* In postcopy there is no way back: what the destination cannot load stays stopped. */
TEST_F(faults, device_state_refused_in_postcopy)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--vcpus", "3", "--hold", "0"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--postcopy-at", "0"));
	ASSERT_TRUE(until_ended(self, &self->dest)) TH_LOG("%s", self->dest.text);
	EXPECT_EQ(1, vmm_exit(&self->dest));
	ASSERT_TRUE(until_phase(self, &self->source, "postcopy-paused"))
	TH_LOG("%s", self->source.text);
	vmm_until(self->both, 2, half_a_second, NULL, 500);
	EXPECT_EQ(-1, vmm_exit(&self->source));
	EXPECT_STREQ("paused", self->source.guest);
}

/* A page that the loading thread reads is fetched for it. */
TEST_F(faults, device_state_loaded_elsewhere)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--load-elsewhere", "--hold", "0"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--postcopy-at", "0", "--hold", "0"));
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_TRUE(until_ended(self, &self->source));
	EXPECT_EQ(0, vmm_exit(&self->dest)) TH_LOG("%s", self->dest.text);
	EXPECT_EQ(0, vmm_exit(&self->source)) TH_LOG("%s", self->source.text);
	EXPECT_TRUE(vmm_was(&self->dest, "postcopy-active"));
}

TEST_F(faults, other_ram_size)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--ram", "32M", "--hold", "0"));
	start(&self->source, "source", variant->own_loop, ARGS("--to", self->dest.uri));
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(1, vmm_exit(&self->dest));
	EXPECT_NE(NULL, strstr(self->dest.error, "ram")) TH_LOG("%s", self->dest.text);
	ASSERT_TRUE(until_phase(self, &self->source, "failed")) TH_LOG("%s", self->source.text);
	EXPECT_TRUE(guest_goes_on(self));
}

/* All was sent and the answer is lost: it may run there, so it must not run here. */
TEST_F(faults, answer_lost_in_precopy)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--postcopy", "off", "--hold", "0"));
	start_proxy(self, _metadata, &(struct proxy_script){ .deaf = true });
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", proxy_uri(self->proxy), "--postcopy", "off", "--rate", "30000"));
	ASSERT_TRUE(until_phase(self, &self->source, "unknown")) TH_LOG("%s", self->source.text);
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(0, vmm_exit(&self->dest)) TH_LOG("%s", self->dest.text);
	vmm_until(self->both, 2, half_a_second, NULL, 500);
	EXPECT_STREQ("paused", self->source.guest);
	EXPECT_EQ(-1, vmm_exit(&self->source));
}

/* Change a byte of a guest's memfd behind everybody's back. */
static bool spoil(const struct vmm *vmm, off_t offset)
{
	char path[64], link[300], target[64];
	struct dirent *entry;
	bool done = false;
	DIR *fds;
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/fd", (int)vmm->pid);
	fds = opendir(path);
	while (fds && !done && (entry = readdir(fds))) {
		snprintf(link, sizeof(link), "%s/%s", path, entry->d_name);
		memset(target, 0, sizeof(target));
		if (readlink(link, target, sizeof(target) - 1) < 0 || !strstr(target, "wherry-vmm"))
			continue;
		fd = open(link, O_RDWR | O_CLOEXEC);
		done = fd >= 0 && pwrite(fd, "!", 1, offset) == 1;
		if (fd >= 0)
			close(fd);
	}
	if (fds)
		closedir(fds);
	return done;
}

static bool guest_writes(void *arg)
{
	FIXTURE_DATA(faults) *self = arg;

	return self->source.serial_chars > 2;
}

/* A byte that is not what the guest wrote arrives like any other, and is found. */
TEST_F(faults, wrong_byte)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--hold", "0", "--memory", "memfd"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--memory", "memfd", "--migrate-after", "1000",
		   "--postcopy-at", "0"));
	ASSERT_TRUE(vmm_until(self->both, 2, guest_writes, self, SOON));
	ASSERT_TRUE(spoil(&self->source, (64 << 20) - 3));
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(1, vmm_exit(&self->dest)) TH_LOG("%s", self->dest.text);
	EXPECT_NE(NULL, strstr(self->dest.text, "first bad address 0x3fffffd:"))
	TH_LOG("%s", self->dest.text);
	EXPECT_TRUE(until_ended(self, &self->source));
	EXPECT_EQ(0, vmm_exit(&self->source));
}

TEST_F(faults, ended_by_signal_in_precopy)
{
	start_dest(self, _metadata, variant->own_loop, ARGS("--hold", "0"));
	start(&self->source, "source", variant->own_loop,
	      ARGS("--to", self->dest.uri, "--bandwidth", "20M"));
	ASSERT_TRUE(until_phase(self, &self->dest, "active")) TH_LOG("%s", self->dest.text);
	vmm_signal(&self->source, SIGTERM);
	EXPECT_TRUE(until_ended(self, &self->source));
	EXPECT_EQ(1, vmm_exit(&self->source));
	EXPECT_TRUE(until_ended(self, &self->dest));
	EXPECT_EQ(1, vmm_exit(&self->dest));
}

/* Links that are cut, or (@stall) go silent, when so many bytes have passed */
FIXTURE(cuts)
{
	FIXTURE_DATA(faults) f;
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
	self->f.both[0] = &self->f.source;
	self->f.both[1] = &self->f.dest;
	self->f.source.out = -1;
	self->f.dest.out = -1;
}

FIXTURE_TEARDOWN(cuts)
{
	vmm_end(&self->f.source);
	vmm_end(&self->f.dest);
	proxy_end(self->f.proxy);
}

TEST_F(cuts, in_precopy)
{
	FIXTURE_DATA(faults) *f = &self->f;

	start_dest(f, _metadata, false, ARGS("--hold", "0"));
	start_proxy(f, _metadata, &(struct proxy_script){ .cut_at = variant->bytes });
	/* It never converges */
	start(&f->source, "source", false,
	      ARGS("--to", proxy_uri(f->proxy), "--bandwidth", "100M", "--downtime", "0"));
	ASSERT_TRUE(until_phase(f, &f->source, "failed")) TH_LOG("%s", f->source.text);
	EXPECT_TRUE(guest_goes_on(f));
	EXPECT_TRUE(until_ended(f, &f->dest)) TH_LOG("%s", f->dest.text);
	EXPECT_EQ(1, vmm_exit(&f->dest));
	EXPECT_STREQ("failed", f->dest.phase);
	EXPECT_STRNE("", f->dest.error);
}

TEST_F(cuts, silence_in_precopy)
{
	FIXTURE_DATA(faults) *f = &self->f;

	start_dest(f, _metadata, false, ARGS("--hold", "0", "--dead-peer", "1000"));
	start_proxy(f, _metadata,
		    &(struct proxy_script){ .cut_at = variant->bytes, .stall = true });
	start(&f->source, "source", false,
	      ARGS("--to", proxy_uri(f->proxy), "--bandwidth", "100M", "--downtime", "0",
		   "--dead-peer", "1000"));
	ASSERT_TRUE(until_phase(f, &f->source, "failed")) TH_LOG("%s", f->source.text);
	EXPECT_TRUE(guest_goes_on(f));
}

/* Of postcopy, wherever in it */
FIXTURE(postcopy_cut)
{
	FIXTURE_DATA(faults) f;
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
	self->f.both[0] = &self->f.source;
	self->f.both[1] = &self->f.dest;
	self->f.source.out = -1;
	self->f.dest.out = -1;
}

FIXTURE_TEARDOWN(postcopy_cut)
{
	vmm_end(&self->f.source);
	vmm_end(&self->f.dest);
	proxy_end(self->f.proxy);
}

/* A guest that writes little, so that it does not ask for all of its memory at once */
static void start_postcopy(FIXTURE_DATA(faults) *f, struct __test_metadata *_metadata,
			   const FIXTURE_VARIANT(postcopy_cut) * variant, bool stall)
{
	start_dest(f, _metadata, variant->own_loop,
		   ARGS("--urgent", variant->urgent, "--rate", "500", "--dead-peer", "1000"));
	start_proxy(f, _metadata, &(struct proxy_script){ .stall = stall });
	start(&f->source, "source", variant->own_loop,
	      ARGS("--to", proxy_uri(f->proxy), "--urgent", variant->urgent, "--rate", "500",
		   "--postcopy-at", "0", "--postcopy-bandwidth", "10M", "--dead-peer", "1000"));
	ASSERT_TRUE(vmm_until(f->both, 2, some_left, f, 2 * SOON))
	TH_LOG("%s\n%s", f->source.text, f->dest.text);
}

TEST_F(postcopy_cut, both_pause)
{
	FIXTURE_DATA(faults) *f = &self->f;

	start_postcopy(f, _metadata, variant, false);
	proxy_cut(f->proxy);
	EXPECT_TRUE(until_phase(f, &f->source, "postcopy-paused")) TH_LOG("%s", f->source.text);
	EXPECT_TRUE(until_phase(f, &f->dest, "postcopy-paused")) TH_LOG("%s", f->dest.text);
	EXPECT_STRNE("", f->source.error);
	EXPECT_STRNE("", f->dest.error);
	stays(f, _metadata, "postcopy-paused");
	EXPECT_STREQ("paused", f->source.guest);
	EXPECT_LT(0, f->dest.pages_left);
	end_both(f, _metadata);
}

/* Nothing is said any more, and nothing is closed. */
TEST_F(postcopy_cut, silence)
{
	FIXTURE_DATA(faults) *f = &self->f;

	start_postcopy(f, _metadata, variant, true);
	proxy_cut(f->proxy);
	EXPECT_TRUE(until_phase(f, &f->dest, "postcopy-paused")) TH_LOG("%s", f->dest.text);
	EXPECT_TRUE(until_phase(f, &f->source, "postcopy-paused")) TH_LOG("%s", f->source.text);
	stays(f, _metadata, "postcopy-paused");
	end_both(f, _metadata);
}

/* The thread of a process with this name; 0 */
static pid_t thread_named(pid_t pid, const char *name)
{
	char path[64], comm[300], text[32];
	struct dirent *entry;
	pid_t found = 0;
	DIR *tasks;
	FILE *file;

	snprintf(path, sizeof(path), "/proc/%d/task", (int)pid);
	tasks = opendir(path);
	while (tasks && !found && (entry = readdir(tasks))) {
		snprintf(comm, sizeof(comm), "%s/%s/comm", path, entry->d_name);
		file = fopen(comm, "re");
		if (file && fgets(text, sizeof(text), file) && !strncmp(text, name, strlen(name)))
			found = atoi(entry->d_name);
		if (file)
			fclose(file);
	}
	if (tasks)
		closedir(tasks);
	return found;
}

/* Where and how the thread that serves faults runs is as it was asked for. */
TEST(fault_thread)
{
	FIXTURE_DATA(faults) f = { .both = { &f.source, &f.dest } };
	struct sched_param param;
	cpu_set_t cpus;
	pid_t tid;

	start_dest(&f, _metadata, false,
		   ARGS("--fault-cpu", "0", "--fault-priority", "7", "--fault-spin", "50", "--rate",
			"500", "--hold", "0"));
	start(&f.source, "source", false,
	      ARGS("--to", f.dest.uri, "--rate", "500", "--postcopy-at", "0",
		   "--postcopy-bandwidth", "20M", "--hold", "0"));
	ASSERT_TRUE(vmm_until(f.both, 2, some_left, &f, 2 * SOON)) TH_LOG("%s", f.dest.text);
	tid = thread_named(f.dest.pid, "wherry-fault");
	ASSERT_LT(0, tid);
	EXPECT_EQ(SCHED_FIFO, sched_getscheduler(tid));
	EXPECT_EQ(0, sched_getparam(tid, &param));
	EXPECT_EQ(7, param.sched_priority);
	EXPECT_EQ(0, sched_getaffinity(tid, sizeof(cpus), &cpus));
	EXPECT_EQ(1, CPU_COUNT(&cpus));
	EXPECT_TRUE(CPU_ISSET(0, &cpus));
	EXPECT_TRUE(until_ended(&f, &f.dest));
	EXPECT_TRUE(until_ended(&f, &f.source));
	EXPECT_EQ(0, vmm_exit(&f.dest)) TH_LOG("%s", f.dest.text);
	EXPECT_EQ(0, vmm_exit(&f.source)) TH_LOG("%s", f.source.text);
	EXPECT_LT(0, vmm_number(&f.dest, "faults"));
	vmm_end(&f.source);
	vmm_end(&f.dest);
}

/* Killed there, the source has what was not sent and keeps it. */
TEST_F(postcopy_cut, destination_killed)
{
	FIXTURE_DATA(faults) *f = &self->f;

	start_postcopy(f, _metadata, variant, false);
	vmm_signal(&f->dest, SIGKILL);
	EXPECT_TRUE(until_phase(f, &f->source, "postcopy-paused")) TH_LOG("%s", f->source.text);
	EXPECT_TRUE(until_ended(f, &f->dest));
	vmm_until(f->both, 2, half_a_second, NULL, 500);
	EXPECT_EQ(-1, vmm_exit(&f->source));
	EXPECT_STREQ("paused", f->source.guest);
	EXPECT_LT(0, f->source.pages_left);
}

/* Ended by a signal, though its processors wait for pages that are not there */
TEST_F(postcopy_cut, destination_ended)
{
	FIXTURE_DATA(faults) *f = &self->f;

	start_postcopy(f, _metadata, variant, false);
	vmm_signal(&f->dest, SIGTERM);
	EXPECT_TRUE(until_ended(f, &f->dest)) TH_LOG("%s", f->dest.text);
	EXPECT_EQ(1, vmm_exit(&f->dest));
	EXPECT_TRUE(until_phase(f, &f->source, "postcopy-paused")) TH_LOG("%s", f->source.text);
}

TEST_HARNESS_MAIN
