/* SPDX-License-Identifier: GPL-2.0 */
/*
 * wherry check: every area, as text and as JSON, here and where something is missing.
 */
#include <json-c/json.h>
#include <net/if.h>
#include <sched.h>
#include <stddef.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/syscall.h>

#include <linux/filter.h>
#include <linux/seccomp.h>

#include "kselftest_harness.h"

#define OUTPUT_BYTES (256 << 10)

struct output {
	char text[OUTPUT_BYTES];
	int status;
};

/* Runs it with @arguments, and stderr along with stdout */
static int run_check(struct output *output, const char *arguments)
{
	const char *build = getenv("WH_BUILD");
	char command[512];
	size_t have = 0;
	FILE *pipe;
	size_t n;

	snprintf(command, sizeof(command), "exec %s/wherry check %s 2>&1", build ? build : "build",
		 arguments);
	pipe = popen(command, "re");
	if (!pipe)
		return -1;
	do {
		n = fread(output->text + have, 1, OUTPUT_BYTES - 1 - have, pipe);
		have += n;
	} while (n > 0);
	output->text[have] = '\0';
	output->status = pclose(pipe);
	return 0;
}

static const char *field(json_object *item, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(item, name, &value) ? json_object_get_string(value) : NULL;
}

static bool flag(json_object *item, const char *name)
{
	json_object *value;

	return json_object_object_get_ex(item, name, &value) && json_object_get_boolean(value);
}

static json_object *find(json_object *items, const char *area, const char *name)
{
	for (size_t i = 0; i < json_object_array_length(items); i++) {
		json_object *item = json_object_array_get_idx(items, i);

		if (!strcmp(field(item, "area"), area) &&
		    (!name || !strcmp(field(item, "name"), name)))
			return item;
	}
	return NULL;
}

FIXTURE(check)
{
	struct output *output;
	json_object *top;
	json_object *items;
};

FIXTURE_SETUP(check)
{
	self->output = calloc(1, sizeof(*self->output));
	ASSERT_NE(NULL, self->output);
	self->top = NULL;
	self->items = NULL;
}

FIXTURE_TEARDOWN(check)
{
	json_object_put(self->top);
	free(self->output);
}

static json_object *parse(struct output *output, json_object **items)
{
	json_object *top = json_tokener_parse(output->text);

	if (top && !json_object_object_get_ex(top, "items", items))
		*items = NULL;
	return top;
}

TEST_F(check, every_area_as_json)
{
	static const char *const areas[] = { "userfaultfd", "io_uring", "memory",
					     "kvm",	    "rdma",	"netplug" };
	json_object *needed;
	int missing = 0;

	ASSERT_EQ(0, run_check(self->output, "--json"));
	self->top = parse(self->output, &self->items);
	ASSERT_NE(NULL, self->items)
	{
		TH_LOG("%s", self->output->text);
	}
	for (size_t i = 0; i < sizeof(areas) / sizeof(areas[0]); i++) {
		EXPECT_NE(NULL, find(self->items, areas[i], NULL))
		{
			TH_LOG("no %s", areas[i]);
		}
	}
	for (size_t i = 0; i < json_object_array_length(self->items); i++) {
		json_object *item = json_object_array_get_idx(self->items, i);

		ASSERT_NE(NULL, field(item, "name"));
		EXPECT_NE('\0', field(item, "detail")[0])
		{
			TH_LOG("%s", field(item, "name"));
		}
		if (flag(item, "present")) {
			EXPECT_STREQ("", field(item, "remedy"));
		}
		missing += flag(item, "needed") && !flag(item, "present");
	}
	ASSERT_TRUE(json_object_object_get_ex(self->top, "needed-missing", &needed));
	EXPECT_EQ(missing, json_object_get_int(needed));
	EXPECT_EQ(missing ? 1 : 0, WEXITSTATUS(self->output->status));
	EXPECT_TRUE(WIFEXITED(self->output->status));
}

/* As text: the same names, under their areas */
TEST_F(check, every_area_as_text)
{
	struct output *text = calloc(1, sizeof(*text));
	const char *at;

	ASSERT_NE(NULL, text);
	ASSERT_EQ(0, run_check(self->output, "--json"));
	ASSERT_EQ(0, run_check(text, ""));
	self->top = parse(self->output, &self->items);
	ASSERT_NE(NULL, self->items);
	at = text->text;
	for (size_t i = 0; i < json_object_array_length(self->items); i++) {
		json_object *item = json_object_array_get_idx(self->items, i);
		char row[128];

		snprintf(row, sizeof(row), "  %-8s%s ",
			 flag(item, "present") ? "ok" :
			 flag(item, "needed")  ? "MISSING" :
						 "missing",
			 field(item, "name"));
		at = strstr(at, row);
		ASSERT_NE(NULL, at)
		{
			TH_LOG("no '%s' in its place", row);
		}
		if (field(item, "remedy")[0]) {
			EXPECT_NE(NULL, strstr(at, field(item, "remedy")));
		}
	}
	free(text);
}

/* This machine's kernel, as root: what the tests of the library count on */
TEST_F(check, what_is_here)
{
	static const char *const here[][2] = {
		{ "userfaultfd", "descriptor" },
		{ "userfaultfd", "MISSING_SHMEM" },
		{ "io_uring", "ring" },
		{ "memory", "memfd" },
	};

	if (geteuid() != 0)
		SKIP(return, "needs root");
	ASSERT_EQ(0, run_check(self->output, "--json"));
	self->top = parse(self->output, &self->items);
	ASSERT_NE(NULL, self->items);
	for (size_t i = 0; i < sizeof(here) / sizeof(here[0]); i++) {
		json_object *item = find(self->items, here[i][0], here[i][1]);

		ASSERT_NE(NULL, item)
		{
			TH_LOG("%s", here[i][1]);
		}
		EXPECT_TRUE(flag(item, "present"))
		{
			TH_LOG("%s", field(item, "detail"));
		}
	}
}

/* From here on @number fails with @code in this process and its children. */
static int forbid(long number, int code)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (unsigned)number, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | (unsigned)code),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = 4, .filter = filter };

	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0 ||
	    prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) < 0)
		return -errno;
	return 0;
}

TEST_F(check, without_io_uring)
{
	json_object *item;

	ASSERT_EQ(0, forbid(SYS_io_uring_setup, EPERM));
	ASSERT_EQ(0, run_check(self->output, "--json"));
	EXPECT_EQ(1, WEXITSTATUS(self->output->status));
	self->top = parse(self->output, &self->items);
	ASSERT_NE(NULL, self->items);
	item = find(self->items, "io_uring", "ring");
	ASSERT_NE(NULL, item);
	EXPECT_FALSE(flag(item, "present"));
	EXPECT_TRUE(flag(item, "needed"));
	EXPECT_NE(NULL, strstr(field(item, "detail"), "seccomp"));
	EXPECT_FALSE(flag(find(self->items, "io_uring", "DEFER_TASKRUN"), "present"));
	/* the others are looked at all the same */
	EXPECT_NE(NULL, find(self->items, "netplug", "sch_plug"));
}

/* The probe of sch_plug sets up a lo: its own, not this one, which stays down */
TEST_F(check, touches_no_device)
{
	char state[16] = "";
	FILE *file;

	if (geteuid() != 0)
		SKIP(return, "needs root: a network namespace");
	ASSERT_EQ(0, unshare(CLONE_NEWNET | CLONE_NEWNS));
	ASSERT_EQ(0, mount(NULL, "/", NULL, MS_REC | MS_PRIVATE, NULL));
	ASSERT_EQ(0, mount("none", "/sys", "sysfs", 0, NULL));
	ASSERT_EQ(0, run_check(self->output, "--json"));
	self->top = parse(self->output, &self->items);
	ASSERT_NE(NULL, self->items);
	file = fopen("/sys/class/net/lo/flags", "re");
	ASSERT_NE(NULL, file);
	EXPECT_NE(NULL, fgets(state, sizeof(state), file));
	fclose(file);
	EXPECT_EQ(0, strtol(state, NULL, 16) & IFF_UP);
}

static bool everybody_may(void)
{
	FILE *file = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");
	int value = file ? fgetc(file) : '1';

	if (file)
		fclose(file);
	return value != '0';
}

/* No right to anything: what is missing says what gives it */
TEST_F(check, without_rights)
{
	char copy[] = "/tmp/wherry-check-XXXXXX", command[1200];
	const char *build = getenv("WH_BUILD");
	json_object *item;

	if (geteuid() != 0)
		SKIP(return, "needs root, to give its rights up");
	if (everybody_may())
		SKIP(return, "vm.unprivileged_userfaultfd is 1: nobody lacks a right");
	/* where everybody may start it */
	ASSERT_NE(NULL, mkdtemp(copy));
	snprintf(command, sizeof(command), "chmod 755 %s && cp %s/wherry %s/wherry", copy,
		 build ? build : "build", copy);
	ASSERT_EQ(0, system(command));
	setenv("WH_BUILD", copy, 1);
	ASSERT_EQ(0, setresgid(65534, 65534, 65534));
	ASSERT_EQ(0, setresuid(65534, 65534, 0)); /* to be able to clean up */
	ASSERT_EQ(0, run_check(self->output, "--json"));
	ASSERT_EQ(0, seteuid(0));
	snprintf(command, sizeof(command), "%s/wherry", copy);
	unlink(command);
	rmdir(copy);

	self->top = parse(self->output, &self->items);
	ASSERT_NE(NULL, self->items)
	{
		TH_LOG("%s", self->output->text);
	}
	EXPECT_EQ(1, WEXITSTATUS(self->output->status));
	item = find(self->items, "userfaultfd", "descriptor");
	ASSERT_NE(NULL, item);
	EXPECT_FALSE(flag(item, "present"));
	EXPECT_STREQ("sysctl vm.unprivileged_userfaultfd=1", field(item, "remedy"));
	/* features can be asked for by anybody */
	EXPECT_TRUE(flag(find(self->items, "userfaultfd", "MISSING_SHMEM"), "present"));
}

TEST_HARNESS_MAIN
