/* SPDX-License-Identifier: MIT */
/*
 * wherry demo: move a guest that never stops writing from one process to another.
 */
#include "cli/cli.h"
#include "cli/demo_protect.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/wait.h>
#include <unistd.h>

#define ARGS_MAX 64
#define WARM_MS 500 /* the guest runs before it is moved */
#define ROUNDS 2    /* of precopy, to be seen before postcopy */
#define MS_MAX 3600000
#define PATIENCE 4 /* times the time asked for, where memory is slow */

static const char usage[] =
	"usage: wherry demo [options]\n"
	"\n"
	"Starts two processes of the example VMM, lets the guest in the first one write all\n"
	"its memory for ever, moves it to the second one while it runs (precopy, then\n"
	"postcopy), and verifies every byte there.\n"
	"\n"
	"  --ram SIZE              memory of the guest (1G)\n"
	"  --vcpus N               its processors (2)\n"
	"  --memory KIND           private, memfd or hugetlb (private)\n"
	"  --threads               plain threads instead of /dev/kvm\n"
	"  --rate PAGES            a second and processor that it writes (150000; 0: all it can)\n"
	"  --uri URI               of the link: tcp:HOST:PORT or unix:PATH (tcp:127.0.0.1:0)\n"
	"  --urgent off|switch|start  second connection for awaited pages (switch)\n"
	"  --postcopy-after MS     in precopy for so long, and until two rounds have ended, which\n"
	"                          may make it four times as long (4000; 0: precopy only)\n"
	"  --bandwidth SIZE        bytes a second in precopy (600M, which is less than the\n"
	"                          guest writes; 0: no limit)\n"
	"  --postcopy-bandwidth SIZE  of the background pages of postcopy (600M)\n"
	"  --fault-spin US         poll for faults so long before sleeping\n"
	"  --own-loop              both ends drive the migration from their own event loops\n"
	"  --json                  one JSON object a line\n"
	"  --help\n"
	"\n"
	"  --protect               instead: a guest that survives the end of its process, with some\n"
	"                          of these options and --interval, --seconds, --kill, --seed, --hold,\n"
	"                          --copy-on-write; see wherry demo --protect --help\n"
	"\n"
	"Exit status: 0 moved and verified; 1 not; 2 usage.\n";

/* Arguments that go on to the VMM: to both ends, or to the source or destination only */
enum demo_to {
	TO_BOTH,
	TO_SOURCE,
	TO_DEST,
	TO_NOBODY,
};

struct demo_args {
	const char *arg[DEMO_END_COUNT][ARGS_MAX];
	unsigned count[DEMO_END_COUNT];
};

static void args_add(struct demo_args *args, enum demo_end end, const char *arg)
{
	if (args->count[end] < ARGS_MAX - 1)
		args->arg[end][args->count[end]++] = arg;
}

static void keep(json_object **kept, json_object *line)
{
	json_object_put(*kept);
	*kept = json_object_get(line);
}

/* The first one is the cause, the others follow from it. */
static void child_error(struct demo_child *child, const char *text)
{
	if (!*child->error)
		snprintf(child->error, sizeof(child->error), "%s", text);
}

static void child_line(void *arg, struct demo_child *child, const char *text)
{
	struct demo *demo = arg;
	const char *end = child == &demo->child[DEMO_DEST] ? "destination" : "source";
	json_object *line = json_tokener_parse(text);
	const char *kind = demo_string(line, "kind");

	if (!strcmp(kind, "status")) {
		keep(&child->latest, line);
		demo_progress(demo);
	} else if (!strcmp(kind, "summary")) {
		keep(&child->summary, line);
	} else if (!strcmp(kind, "listening")) {
		snprintf(child->uri, sizeof(child->uri), "%s", demo_string(line, "uri"));
	} else if (!strcmp(kind, "phase")) {
		snprintf(child->phase, sizeof(child->phase), "%s", demo_string(line, "phase"));
		demo_say(demo, "%s: %s%s%s", end, child->phase,
			 *demo_string(line, "error") ? ": " : "", demo_string(line, "error"));
		child_error(child, demo_string(line, "error"));
	} else if (!strcmp(kind, "guest")) {
		child->guest_ns = demo_now_ns();
		demo_say(demo, "%s: guest %s: %" PRIu64 " vCPUs (%s), %" PRIu64 " MiB", end,
			 demo_string(line, "what"), demo_number(line, "vcpus"),
			 demo_string(line, "cpus_by"), demo_number(line, "ram_bytes") >> 20);
	} else if (!strcmp(kind, "log")) {
		const char *level = demo_string(line, "level");
		bool plain = !strcmp(level, "debug") || !strcmp(level, "info");

		demo_say(demo, "%s: %s%s%s", end, plain ? "" : level, plain ? "" : ": ",
			 demo_string(line, "text"));
		if (!strcmp(level, "error"))
			child_error(child, demo_string(line, "text"));
	}
	json_object_put(line);
}

/* One turn of at most @ms (-1: for ever); false: a signal says that it is enough */
static bool demo_turn(struct demo *demo, int signal_fd, int ms)
{
	struct pollfd fds[] = {
		{ .fd = signal_fd, .events = POLLIN },
		{ .fd = demo->child[DEMO_SOURCE].out, .events = POLLIN },
		{ .fd = demo->child[DEMO_DEST].out, .events = POLLIN },
	};

	if (poll(fds, sizeof(fds) / sizeof(fds[0]), ms) < 0)
		return errno == EINTR;
	if (fds[0].revents)
		return false;
	for (unsigned i = 0; i < DEMO_END_COUNT; i++)
		if (demo->child[i].out >= 0 && fds[1 + i].revents)
			demo_child_read(&demo->child[i], child_line, demo);
	return true;
}

/* One end is gone or says that it failed: the other one has nobody to wait for. */
static bool demo_failed(const struct demo *demo)
{
	for (unsigned i = 0; i < DEMO_END_COUNT; i++) {
		const struct demo_child *child = &demo->child[i];

		if (child->reaped && (!WIFEXITED(child->status) || WEXITSTATUS(child->status)))
			return true;
		if (!strcmp(child->phase, "failed") || !strcmp(child->phase, "unknown") ||
		    !strcmp(child->phase, "postcopy-paused"))
			return true;
	}
	return false;
}

/* The guest is to be moved, and later to go ahead of its memory: each is said once. */
static void demo_command(struct demo *demo)
{
	struct demo_child *source = &demo->child[DEMO_SOURCE];
	uint64_t now = demo_now_ns();

	if (source->guest_ns && !demo->moved_ns && now > source->guest_ns + WARM_MS * NS_PER_MS &&
	    dprintf(source->in, "migrate %s\n", demo->child[DEMO_DEST].uri) > 0)
		demo->moved_ns = now;
	if (!demo->moved_ns || !demo->after_ns || demo->ahead ||
	    strcmp(source->phase, "active") != 0 || now < demo->moved_ns + demo->after_ns)
		return;
	if (demo_number(source->latest, "rounds") >= ROUNDS ||
	    now > demo->moved_ns + PATIENCE * demo->after_ns)
		demo->ahead = dprintf(source->in, "postcopy\n") > 0;
}

/* Return: 0 both have ended; -EINTR; -EIO one failed; -EINVAL it does not like its arguments */
static int demo_run(struct demo *demo, struct demo_args *args, int signal_fd)
{
	struct demo_child *source = &demo->child[DEMO_SOURCE];
	struct demo_child *dest = &demo->child[DEMO_DEST];

	if (demo_child_start(dest, demo->program, args->arg[DEMO_DEST]))
		return -EIO;
	while (!*dest->uri) {
		if (!demo_turn(demo, signal_fd, -1))
			return -EINTR;
		if (dest->reaped)
			return WIFEXITED(dest->status) && WEXITSTATUS(dest->status) == EXIT_USAGE ?
				       -EINVAL :
				       -EIO;
	}
	if (demo_child_start(source, demo->program, args->arg[DEMO_SOURCE]))
		return -EIO;
	while (!source->reaped || !dest->reaped) {
		/* The children speak often enough for it to be noticed when it is time */
		if (!demo_turn(demo, signal_fd, -1))
			return -EINTR;
		if (demo_failed(demo))
			return -EIO;
		demo_command(demo);
	}
	return 0;
}

/* After a failure: who still runs is told to end, and says why. */
static void demo_drain(struct demo *demo, int signal_fd)
{
	uint64_t until = demo_now_ns() + DEMO_END_GRACE_MS * NS_PER_MS;

	for (unsigned i = 0; i < DEMO_END_COUNT; i++)
		if (demo->child[i].in >= 0)
			dprintf(demo->child[i].in, "quit\n");
	while ((demo->child[DEMO_SOURCE].out >= 0 || demo->child[DEMO_DEST].out >= 0) &&
	       demo_now_ns() < until && demo_turn(demo, signal_fd, DEMO_END_GRACE_MS))
		;
}

static const struct {
	struct option option;
	enum demo_to to;
} demo_options[] = {
	{ { "ram", required_argument, NULL, 0 }, TO_BOTH },
	{ { "vcpus", required_argument, NULL, 0 }, TO_BOTH },
	{ { "memory", required_argument, NULL, 0 }, TO_BOTH },
	{ { "threads", no_argument, NULL, 0 }, TO_BOTH },
	{ { "rate", required_argument, NULL, 0 }, TO_BOTH },
	{ { "urgent", required_argument, NULL, 0 }, TO_BOTH },
	{ { "own-loop", no_argument, NULL, 0 }, TO_BOTH },
	{ { "bandwidth", required_argument, NULL, 0 }, TO_SOURCE },
	{ { "postcopy-bandwidth", required_argument, NULL, 0 }, TO_SOURCE },
	{ { "fault-spin", required_argument, NULL, 0 }, TO_DEST },
	{ { "uri", required_argument, NULL, 'u' }, TO_NOBODY },
	{ { "postcopy-after", required_argument, NULL, 'p' }, TO_NOBODY },
	{ { "json", no_argument, NULL, 'j' }, TO_NOBODY },
	{ { "help", no_argument, NULL, 'h' }, TO_NOBODY },
};
#define OPTION_COUNT (sizeof(demo_options) / sizeof(demo_options[0]))

static void option_pass(struct demo_args *args, unsigned which, char *const *names)
{
	for (enum demo_end end = DEMO_SOURCE; end < DEMO_END_COUNT; end++) {
		if (demo_options[which].to != TO_BOTH &&
		    demo_options[which].to != (end == DEMO_SOURCE ? TO_SOURCE : TO_DEST))
			continue;
		args_add(args, end, names[which]);
		if (optarg)
			args_add(args, end, optarg);
	}
}

/*
 * What both ends always get, and the defaults. The link is slower than the guest writes,
 * as links are: precopy alone would not end, on any machine.
 */
static void args_default(struct demo *demo, struct demo_args *args)
{
	static const char *const link[] = { "--bandwidth", "600M", "--postcopy-bandwidth", "600M" };
	static const char *const both[] = { "--ram", "1G", "--rate", "150000" };

	for (enum demo_end end = DEMO_SOURCE; end < DEMO_END_COUNT; end++) {
		args_add(args, end, demo->program);
		for (unsigned i = 0; i < sizeof(both) / sizeof(both[0]); i++)
			args_add(args, end, both[i]);
	}
	for (unsigned i = 0; i < sizeof(link) / sizeof(link[0]); i++)
		args_add(args, DEMO_SOURCE, link[i]);
}

static void args_postcopy(struct demo_args *args, bool postcopy)
{
	for (enum demo_end end = DEMO_SOURCE; end < DEMO_END_COUNT; end++) {
		args_add(args, end, "--postcopy");
		args_add(args, end, postcopy ? "on" : "off");
	}
	if (!postcopy)
		return;
	/* Postcopy is to be seen even where the link is faster than the guest */
	args_add(args, DEMO_SOURCE, "--downtime");
	args_add(args, DEMO_SOURCE, "1");
}

/* Return: 0; or the exit status plus one */
static int demo_read_options(struct demo *demo, struct demo_args *args, int argc, char **argv)
{
	static char names[OPTION_COUNT][32];
	struct option options[OPTION_COUNT + 1] = { 0 };
	char *name_at[OPTION_COUNT];
	uint64_t after_ms = 4000;
	int option, at = 0, wrong = 0;

	for (unsigned i = 0; i < OPTION_COUNT; i++) {
		options[i] = demo_options[i].option;
		snprintf(names[i], sizeof(names[i]), "--%s", options[i].name);
		name_at[i] = names[i];
	}
	while ((option = getopt_long(argc, argv, "", options, &at)) != -1) {
		if (option == 0)
			option_pass(args, (unsigned)at, name_at);
		else if (option == 'u')
			demo->listen = optarg;
		else if (option == 'p' && !strcmp(optarg, "0"))
			after_ms = 0;
		else if (option == 'p')
			wrong = cli_number("demo", "postcopy-after", optarg, MS_MAX, &after_ms);
		else if (option == 'j')
			demo->json = true;
		else if (option == 'h')
			return fputs(usage, stdout) < 0 ? 2 : 1;
		else
			return cli_usage("demo", NULL) + 1; /* getopt has said what */
		if (wrong)
			return wrong + 1;
	}
	if (optind < argc)
		return cli_usage("demo", "what is %s?", argv[optind]) + 1;
	args_add(args, DEMO_DEST, "--listen");
	args_add(args, DEMO_DEST, demo->listen);
	demo->after_ns = after_ms * NS_PER_MS;
	args_postcopy(args, after_ms != 0);
	return 0;
}

int cmd_demo(int argc, char **argv)
{
	static struct demo demo;
	static struct demo_args args;
	char program[PATH_MAX];
	int signal_fd, ret;
	bool right;

	for (int i = 1; i < argc; i++)
		if (!strcmp(argv[i], "--protect"))
			return demo_protect(argc, argv);
	demo = (struct demo){ .program = program, .listen = "tcp:127.0.0.1:0" };
	for (unsigned i = 0; i < DEMO_END_COUNT; i++)
		demo.child[i].in = demo.child[i].out = -1;
	args_default(&demo, &args);
	ret = demo_read_options(&demo, &args, argc, argv);
	if (ret)
		return ret - 1;
	if (demo_find_program(program, sizeof(program)))
		return 1;
	signal_fd = demo_signals_open();
	if (signal_fd < 0) {
		perror("wherry demo: signalfd");
		return 1;
	}
	demo.terminal = !demo.json && isatty(STDOUT_FILENO);
	demo.begin_ns = demo_now_ns();
	ret = demo_run(&demo, &args, signal_fd);
	if (ret == -EIO)
		demo_drain(&demo, signal_fd);
	right = ret != -EINVAL && demo_summary(&demo, ret == -EINTR) && !ret;
	demo_children_end(demo.child, DEMO_END_COUNT);
	close(signal_fd);
	if (ret == -EINVAL)
		return cli_usage("demo", NULL);
	return right ? 0 : 1;
}
