/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What becomes of the guest when a migration does not end as planned: processes that are
 * killed, commands at the wrong time, state that is refused, memory that is wrong.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/scene.h"

#include <dirent.h>
#include <fcntl.h>
#include <sched.h>
#include <signal.h>
#include <sys/resource.h>
#include <unistd.h>

FIXTURE(faults)
{
	struct scene scene;
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
	scene_init(&self->scene, variant->own_loop);
}

FIXTURE_TEARDOWN(faults)
{
	scene_end(&self->scene);
}

TEST_F(faults, destination_killed_in_precopy)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS());
	start_source(s, ARGS("--bandwidth", "20M"), "");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "active")) TH_LOG("%s", s->source->text);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "active"));
	vmm_signal(s->dest, SIGKILL);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_STRNE("", s->source->error);
	EXPECT_TRUE(guest_goes_on(s));
	EXPECT_EQ(-1, vmm_exit(s->source));
	vmm_command(s->source, "quit\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source));
	EXPECT_EQ(1, vmm_exit(s->source)) TH_LOG("%s", s->source->text);
	EXPECT_EQ(256 + SIGKILL, vmm_exit(s->dest));
}

TEST_F(faults, source_killed_in_precopy)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS());
	start_source(s, ARGS("--bandwidth", "20M"), "");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "active")) TH_LOG("%s", s->dest->text);
	vmm_signal(s->source, SIGKILL);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(1, vmm_exit(s->dest));
	EXPECT_STREQ("failed", s->dest->phase);
}

/* Twice, and then for good: a migration that ended leaves nothing behind in the guest. */
TEST_F(faults, cancelled_in_precopy)
{
	struct scene *s = &self->scene;

	for (unsigned i = 0; i < 3; i++) {
		start_dest(s, _metadata, ARGS());
		if (!i)
			start(s, s->source,
			      ARGS("--bandwidth", "20M", "--postcopy-bandwidth", "40M"));
		vmm_command(s->source, "migrate %s\n", s->dest->uri);
		ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "active"))
		TH_LOG("%s", s->source->text);
		ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "active"));
		if (i == 2)
			break;
		vmm_command(s->source, "cancel\n");
		ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "cancelled"))
		TH_LOG("%s", s->source->text);
		EXPECT_TRUE(guest_goes_on(s));
		EXPECT_EQ(-1, vmm_exit(s->source));
		EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
		EXPECT_EQ(1, vmm_exit(s->dest));
		EXPECT_STREQ("failed", s->dest->phase);
		EXPECT_STRNE("", s->dest->error);
		vmm_forget(s->dest);
	}
	vmm_command(s->source, "postcopy\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source));
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(0, vmm_exit(s->source)) TH_LOG("%s", s->source->text);
}

TEST_F(faults, nobody_listens)
{
	struct scene *s = &self->scene;

	start(s, s->source, ARGS());
	vmm_command(s->source, "migrate tcp:127.0.0.1:1\n");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_NE(NULL, strstr(s->source->error, "127.0.0.1")) TH_LOG("%s", s->source->error);
	EXPECT_TRUE(guest_goes_on(s));
}

/* No command does harm. */
TEST_F(faults, commands_refused)
{
	struct scene *s = &self->scene;

	start(s, s->source, ARGS());
	vmm_command(s->source, "\n \npostcopy\ncancel\nmigrate\nfly \"away\"\n%01000d\n", 0);
	vmm_command(s->source, "migrate nowhere\n");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_NE(NULL, strstr(s->source->error, "nowhere")) TH_LOG("%s", s->source->error);
	EXPECT_NE(NULL, strstr(s->source->text, "not now: postcopy"));
	EXPECT_NE(NULL, strstr(s->source->text, "not now: cancel"));
	EXPECT_NE(NULL, strstr(s->source->text, "not now: migrate"));
	EXPECT_NE(NULL, strstr(s->source->text, "not now: fly"));
	EXPECT_TRUE(guest_goes_on(s)) TH_LOG("%s", s->source->text);
	start_dest(s, _metadata, ARGS());
	vmm_command(s->source, "migrate %s\npostcopy\n", s->dest->uri);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
}

/* Its device state is for two processors. */
TEST_F(faults, device_state_refused)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS("--postcopy", "off", "--vcpus", "3"));
	start_source(s, ARGS("--postcopy", "off", "--rate", "30000"), "");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(vmm_was(s->source, "device")) TH_LOG("%s", s->source->phases);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(1, vmm_exit(s->dest));
	EXPECT_NE(NULL, strstr(s->dest->error, "3 vCPUs")) TH_LOG("%s", s->dest->error);
	EXPECT_TRUE(guest_goes_on(s)) TH_LOG("%s", s->source->text);
}

/* In postcopy there is no way back: what the destination cannot load stays stopped. */
TEST_F(faults, device_state_refused_in_postcopy)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS("--vcpus", "3"));
	start_source(s, ARGS("--rate", "30000"), "postcopy\n");
	ASSERT_TRUE(pair_until_ended(&s->pair, s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(1, vmm_exit(s->dest));
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "postcopy-paused"))
	TH_LOG("%s", s->source->text);
	pair_watch(&s->pair, 500);
	EXPECT_EQ(-1, vmm_exit(s->source));
	EXPECT_STREQ("paused", s->source->guest);
}

TEST_F(faults, other_ram_size)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS("--ram", "32M"));
	start_source(s, ARGS("--rate", "30000"), "");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(1, vmm_exit(s->dest));
	EXPECT_NE(NULL, strstr(s->dest->error, "ram")) TH_LOG("%s", s->dest->text);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(guest_goes_on(s));
}

/* All was sent and the answer is lost: it may run there, so it must not run here. */
TEST_F(faults, answer_lost_in_precopy)
{
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS("--postcopy", "off"));
	start_proxy(s, _metadata, &(struct proxy_script){ .deaf = true });
	start_source(s, ARGS("--postcopy", "off", "--rate", "30000"), "");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "unknown")) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	pair_watch(&s->pair, 500);
	EXPECT_STREQ("paused", s->source->guest);
	EXPECT_EQ(-1, vmm_exit(s->source));
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

static bool guest_writes(const void *arg)
{
	const struct scene *scene = arg;

	return scene->source->serial_chars > 2;
}

static void start_spoiled(struct scene *scene, struct __test_metadata *_metadata,
			  const char *postcopy, off_t offset)
{
	start_dest(scene, _metadata, ARGS("--memory", "memfd", "--postcopy", postcopy));
	start(scene, scene->source,
	      ARGS("--memory", "memfd", "--postcopy", postcopy, "--rate", "30000"));
	ASSERT_TRUE(pair_until(&scene->pair, guest_writes, scene, SOON));
	ASSERT_TRUE(spoil(scene->source, offset));
	vmm_command(scene->source, "migrate %s\n", scene->dest->uri);
}

/* A byte that is not what the guest wrote arrives like any other, and is found. */
TEST_F(faults, wrong_byte)
{
	struct scene *s = &self->scene;

	start_spoiled(s, _metadata, "on", (64 << 20) - 3);
	vmm_command(s->source, "postcopy\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(1, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_NE(NULL, strstr(s->dest->text, "first bad address 0x3fffffd:"))
	TH_LOG("%s", s->dest->text);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source));
	EXPECT_EQ(0, vmm_exit(s->source));
}

/*
 * What is wrong with a device is found out later, by a thread that looks at guest memory:
 * behind the program, where it does no harm to the one that runs.
 */
TEST_F(faults, device_state_refused_later)
{
	struct scene *s = &self->scene;

	start_spoiled(s, _metadata, "off", 4090);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->source, "failed")) TH_LOG("%s", s->source->text);
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(1, vmm_exit(s->dest));
	EXPECT_STREQ("failed", s->dest->phase);
	EXPECT_NE(NULL, strstr(s->dest->text, "first bad address 0xffa:"))
	TH_LOG("%s", s->dest->text);
	EXPECT_TRUE(guest_goes_on(s)) TH_LOG("%s", s->source->text);
}

/* Nobody reads what the source says: it gets on, and says how much was lost. */
TEST_F(faults, nobody_reads)
{
	struct vmm_pair unread = { 0 };
	struct scene *s = &self->scene;

	start_dest(s, _metadata, ARGS());
	s->source = &unread.source;
	start(s, s->source, ARGS("--bandwidth", "200M", "--downtime", "0"));
	ASSERT_LE(0, fcntl(s->source->out, F_SETPIPE_SZ, 4096));
	vmm_command(s->source, "migrate %s\n", s->dest->uri);
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "active"));
	pair_watch(&s->pair, 1500);
	vmm_command(s->source, "postcopy\n");
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_TRUE(pair_until_ended(&unread, s->source));
	EXPECT_EQ(0, vmm_exit(s->source)) TH_LOG("%s", s->source->text);
	EXPECT_LT(0, vmm_number(s->source, "lost"));
	pair_end(&unread);
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
	struct scene *s = calloc(1, sizeof(*s));
	struct sched_param param;
	cpu_set_t cpus;
	pid_t tid;

	scene_init(s, false);
	start_dest(s, _metadata,
		   ARGS("--fault-cpu", "0", "--fault-priority", "7", "--fault-spin", "50", "--rate",
			"500"));
	start_source(s, ARGS("--rate", "500", "--postcopy-bandwidth", "20M"), "postcopy\n");
	ASSERT_TRUE(pair_until(&s->pair, some_left, s, 2 * SOON)) TH_LOG("%s", s->dest->text);
	tid = thread_named(s->dest->pid, "wherry-fault");
	ASSERT_LT(0, tid);
	EXPECT_EQ(SCHED_FIFO, sched_getscheduler(tid));
	EXPECT_EQ(0, sched_getparam(tid, &param));
	EXPECT_EQ(7, param.sched_priority);
	EXPECT_EQ(0, sched_getaffinity(tid, sizeof(cpus), &cpus));
	EXPECT_EQ(1, CPU_COUNT(&cpus));
	EXPECT_TRUE(CPU_ISSET(0, &cpus));
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source));
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(0, vmm_exit(s->source)) TH_LOG("%s", s->source->text);
	EXPECT_LT(0, vmm_number(s->dest, "faults"));
	scene_end(s);
	free(s);
}

static int nicer(const struct vmm *vmm, const char *thread)
{
	pid_t tid = thread_named(vmm->pid, thread);

	return getpriority(PRIO_PROCESS, (id_t)tid) - getpriority(PRIO_PROCESS, (id_t)vmm->pid);
}

/* How nice both bulk threads are in postcopy; nobody is before it, and nobody else is ever */
static void bulk_thread(struct __test_metadata *_metadata, const char *urgent, int dest, int source)
{
	struct scene *s = calloc(1, sizeof(*s));

	scene_init(s, false);
	start_dest(s, _metadata, ARGS("--rate", "500", "--urgent", urgent));
	start_source(s,
		     ARGS("--rate", "500", "--urgent", urgent, "--bulk-nice", "3", "--bandwidth",
			  "20M", "--postcopy-bandwidth", "20M"),
		     "");
	ASSERT_TRUE(pair_until_phase(&s->pair, s->dest, "active")) TH_LOG("%s", s->dest->text);
	ASSERT_LT(0, thread_named(s->dest->pid, "wherry-dest"));
	ASSERT_LT(0, thread_named(s->source->pid, "wherry-source"));
	EXPECT_EQ(0, nicer(s->dest, "wherry-dest"));
	EXPECT_EQ(0, nicer(s->source, "wherry-source"));
	vmm_command(s->source, "postcopy\n");
	ASSERT_TRUE(pair_until(&s->pair, some_left, s, 2 * SOON)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(dest, nicer(s->dest, "wherry-dest"));
	EXPECT_EQ(source, nicer(s->source, "wherry-source"));
	ASSERT_LT(0, thread_named(s->dest->pid, "wherry-fault"));
	ASSERT_LT(0, thread_named(s->source->pid, "wherry-request"));
	EXPECT_EQ(0, nicer(s->dest, "wherry-fault"));
	EXPECT_EQ(0, nicer(s->source, "wherry-request"));
	EXPECT_TRUE(pair_until_ended(&s->pair, s->dest));
	EXPECT_TRUE(pair_until_ended(&s->pair, s->source));
	EXPECT_EQ(0, vmm_exit(s->dest)) TH_LOG("%s", s->dest->text);
	EXPECT_EQ(0, vmm_exit(s->source)) TH_LOG("%s", s->source->text);
	scene_end(s);
	free(s);
}

/* What nobody waits for lets the guest go first, as soon as that waits for pages. */
TEST(bulk_yields)
{
	bulk_thread(_metadata, "switch", 5, 3);
}

/* Somebody waits for it */
TEST(bulk_has_all_pages)
{
	bulk_thread(_metadata, "off", 0, 0);
}

TEST_HARNESS_MAIN
