/* SPDX-License-Identifier: MIT */
/*
 * wherry demo --protect: the first machine is killed, the guest goes on at the second one,
 * and somebody outside looks whether it has forgotten anything that it had said.
 */
#include "cli/demo_protect.h"

#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <limits.h>
#include <poll.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/random.h>
#include <sys/stat.h>
#include <unistd.h>

#define ASK_NS (2 * NS_PER_MS)
#define WARM_REPLIES 50u
#define LATE_REPLIES 250u
#define ARGS_MAX 48
#define REPLICA_TAP "wh-replica"

static const char usage[] =
	"usage: wherry demo --protect [options]\n"
	"\n"
	"Starts a guest with a network card and its replica in another process, asks the guest\n"
	"500 times a second over the network, kills its process, lets the replica take over, and\n"
	"judges by all the replies that it got whether the survivor remembers each of them.\n"
	"\n"
	"  --ram SIZE        memory of the guest (256M)\n"
	"  --vcpus N         its processors (2)\n"
	"  --threads         plain threads instead of /dev/kvm\n"
	"  --rate PAGES      a second and processor that it writes (10000)\n"
	"  --interval MS     from one checkpoint to the next (50; 0: as it needs)\n"
	"  --seconds N       that it runs protected, and up to 0.4 more (5)\n"
	"  --copy-on-write   its pages are copied while it runs again\n"
	"  --kill WHAT       source, destination, or link: then nobody dies, and chance decides\n"
	"                    which of them goes on; so it does with agent: a process of its own\n"
	"                    holds, and dies or is silent (source)\n"
	"  --seed N          of chance (another one each time)\n"
	"  --hold KIND       queue, plug or none: with none the verdict is what you would\n"
	"                    expect (queue)\n"
	"  --json            one JSON object a line\n"
	"  --help\n"
	"\n"
	"Exit status: 0 nothing is missing; 1 it is, or something went wrong; 2 usage.\n";

struct settings {
	const char *ram, *vcpus, *rate, *interval, *hold;
	bool threads, copy_on_write;
	unsigned seconds;
};

static void child_line(void *arg, struct demo_child *child, const char *text)
{
	struct demo_protect *p = arg;
	const char *end = child == &p->demo.child[DEMO_DEST] ? "replica" : "primary";
	json_object *line = json_tokener_parse(text);
	const char *kind = demo_string(line, "kind");
	const char *error = demo_string(line, "error");

	if (!strcmp(kind, "status") || !strcmp(kind, "summary")) {
		json_object **kept =
			*kind == 's' && kind[1] == 't' ? &child->latest : &child->summary;

		json_object_put(*kept);
		*kept = json_object_get(line);
		if (kept == &p->demo.child[DEMO_SOURCE].latest)
			p->told_ns = demo_now_ns();
	} else if (!strcmp(kind, "listening")) {
		snprintf(child->uri, sizeof(child->uri), "%s", demo_string(line, "uri"));
	} else if (!strcmp(kind, "checkpoint")) {
		snprintf(child->phase, sizeof(child->phase), "%s", demo_string(line, "state"));
		demo_say(&p->demo, "%s: %s%s%s", end, child->phase, *error ? ": " : "", error);
	} else if (!strcmp(kind, "guest")) {
		child->guest_ns = demo_now_ns();
		demo_say(&p->demo, "%s: guest %s: %" PRIu64 " vCPUs (%s), %" PRIu64 " MiB", end,
			 demo_string(line, "what"), demo_number(line, "vcpus"),
			 demo_string(line, "cpus_by"), demo_number(line, "ram_bytes") >> 20);
	} else if (!strcmp(kind, "log") && strcmp(demo_string(line, "level"), "debug")) {
		demo_say(&p->demo, "%s: %s", end, demo_string(line, "text"));
		if (!strcmp(demo_string(line, "level"), "error") && !*child->error)
			snprintf(child->error, sizeof(child->error), "%s",
				 demo_string(line, "text"));
	}
	json_object_put(line);
}

/* One turn. Return: 0; -EINTR it is enough; -EIO a process has ended that should not have */
static int turn(struct demo_protect *p)
{
	struct pollfd fds[] = {
		{ .fd = p->signal_fd, .events = POLLIN },
		{ .fd = p->demo.child[DEMO_SOURCE].out, .events = POLLIN },
		{ .fd = p->demo.child[DEMO_DEST].out, .events = POLLIN },
		{ .fd = p->witness.fd, .events = POLLIN },
		{ .fd = p->holder.out, .events = POLLIN },
	};

	poll(fds, sizeof(fds) / sizeof(fds[0]), 2);
	if (fds[0].revents)
		return -EINTR;
	if (p->witness.fd >= 0)
		witness_turn(&p->witness, demo_now_ns());
	if (p->holder.out >= 0 && fds[4].revents)
		demo_holder_read(p);
	for (unsigned i = 0; i < DEMO_END_COUNT; i++) {
		struct demo_child *child = &p->demo.child[i];

		if (child->out >= 0 && fds[1 + i].revents)
			demo_child_read(child, child_line, p);
		if (child->reaped && !child->summary && !p->gone[i])
			return -EIO;
	}
	return 0;
}

int demo_until(struct demo_protect *p, const char *what, bool (*so)(const struct demo_protect *p),
	       unsigned ms)
{
	uint64_t end_ns = demo_now_ns() + ms * NS_PER_MS;
	int ret = 0;

	p->doing = what;
	while (!ret && !so(p))
		ret = demo_now_ns() < end_ns ? turn(p) : -ETIMEDOUT;
	return ret;
}

static bool listens(const struct demo_protect *p)
{
	return *p->demo.child[DEMO_DEST].uri;
}

static bool runs(const struct demo_protect *p)
{
	return p->demo.child[DEMO_SOURCE].guest_ns;
}

static bool answers(const struct demo_protect *p)
{
	return p->witness.replies >= WARM_REPLIES;
}

static bool is_protected(const struct demo_protect *p)
{
	return !strcmp(p->demo.child[DEMO_SOURCE].phase, "run");
}

static bool answers_again(const struct demo_protect *p)
{
	size_t n = p->witness.replies;

	return n >= LATE_REPLIES && p->witness.reply[n - LATE_REPLIES].at_ns > p->taken_ns;
}

static bool has_ended(const struct demo_protect *p)
{
	return p->demo.child[p->survivor].reaped;
}

static int start(struct demo_protect *p, enum demo_end end, const struct settings *settings)
{
	const char *args[ARGS_MAX] = { p->program };
	const char *const own[][2] = {
		{ "--ram", settings->ram },
		{ "--vcpus", settings->vcpus },
		{ "--rate", settings->rate },
		{ "--lease", "1000" },
		{ "--hold", settings->hold },
		{ "--interval", settings->interval },
		{ "--nic", end == DEMO_SOURCE ? DEMO_PRIMARY_TAP : REPLICA_TAP },
		{ "--holder", end == DEMO_SOURCE && p->edge ? DEMO_HOLDER : NULL },
		{ "--replica", end == DEMO_DEST ? "tcp:127.0.0.1:0" : NULL },
	};
	char generation[300];
	unsigned n = 1;

	for (unsigned i = 0; i < sizeof(own) / sizeof(own[0]); i++) {
		if (!own[i][1])
			continue;
		args[n++] = own[i][0];
		args[n++] = own[i][1];
	}
	if (settings->threads)
		args[n++] = "--threads";
	if (settings->copy_on_write && end == DEMO_SOURCE)
		args[n++] = "--copy-on-write";
	snprintf(generation, sizeof(generation), "%s/%d", p->folder, end);
	args[n++] = "--generation";
	args[n++] = generation;
	return demo_child_start(&p->demo.child[end], p->program, args) ? -EIO : 0;
}

/* Both are there, the guest answers, and is protected */
static int begin(struct demo_protect *p, const struct settings *settings, struct wh_err *err)
{
	int ret = start(p, DEMO_DEST, settings);

	if (!ret)
		ret = demo_until(p, "the replica listens", listens, DEMO_SOON_MS);
	if (!ret && p->edge)
		ret = demo_holder_start(p);
	if (!ret)
		ret = start(p, DEMO_SOURCE, settings);
	if (!ret)
		ret = demo_until(p, "the guest runs", runs, DEMO_SOON_MS);
	if (!ret)
		ret = witness_open(&p->witness, DEMO_NET_OUTSIDE, ASK_NS, err);
	if (!ret)
		ret = demo_until(p, "the guest answers", answers, DEMO_SOON_MS);
	if (ret)
		return ret;
	dprintf(p->demo.child[DEMO_SOURCE].in, "protect %s\n", p->demo.child[DEMO_DEST].uri);
	ret = demo_until(p, "the guest is protected", is_protected, 2 * DEMO_SOON_MS);
	p->protected_ns = demo_now_ns();
	return ret;
}

/* For so long, and then for a moment that nobody knows */
static int run_protected(struct demo_protect *p, unsigned seconds)
{
	uint64_t end_ns = demo_now_ns() + (uint64_t)seconds * 1000 * NS_PER_MS;
	int ret = 0;

	p->doing = "it runs protected";
	end_ns += demo_chance(p, 400 * NS_PER_MS);
	while (!ret && demo_now_ns() < end_ns) {
		ret = turn(p);
		demo_survive_progress(p);
	}
	return ret;
}

static int survive(struct demo_protect *p, struct wh_err *err)
{
	int ret = demo_break(p, err);

	p->taken_ns = demo_now_ns();
	if (!ret)
		ret = demo_until(p, "the guest answers again", answers_again, DEMO_SOON_MS);
	if (ret)
		return ret;
	dprintf(p->demo.child[p->survivor].in, "quit\n");
	return demo_until(p, "its memory is verified", has_ended, DEMO_SOON_MS);
}

/* Return: false if there is no such word */
static bool kill_named(const char *word, enum demo_kill *what)
{
	static const char *const words[] = { "source", "destination", "link", "agent" };

	for (unsigned i = 0; i < DEMO_KILL_COUNT; i++) {
		*what = (enum demo_kill)i;
		if (!strcmp(word, words[i]))
			return true;
	}
	return false;
}

/* Return: 0; or the exit status plus one */
static int read_options(struct demo_protect *p, struct settings *settings, int argc, char **argv)
{
	static const struct option options[] = {
		{ "protect", no_argument, NULL, 'P' },
		{ "ram", required_argument, NULL, 'r' },
		{ "vcpus", required_argument, NULL, 'v' },
		{ "threads", no_argument, NULL, 't' },
		{ "rate", required_argument, NULL, 'a' },
		{ "interval", required_argument, NULL, 'i' },
		{ "seconds", required_argument, NULL, 's' },
		{ "hold", required_argument, NULL, 'o' },
		{ "copy-on-write", no_argument, NULL, 'c' },
		{ "kill", required_argument, NULL, 'k' },
		{ "seed", required_argument, NULL, 'e' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	uint64_t seconds = settings->seconds;
	int option, ret = 0;

	while (!ret && (option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		switch (option) {
		case 'P':
			break;
		case 'r':
			settings->ram = optarg;
			break;
		case 'v':
			settings->vcpus = optarg;
			break;
		case 't':
			settings->threads = true;
			break;
		case 'a':
			settings->rate = optarg;
			break;
		case 'i':
			settings->interval = optarg;
			break;
		case 's':
			if (!strcmp(optarg, "0"))
				seconds = 0;
			else
				ret = cli_number("demo", "seconds", optarg, 3600, &seconds);
			break;
		case 'c':
			settings->copy_on_write = true;
			break;
		case 'k':
			if (!kill_named(optarg, &p->kill))
				ret = cli_usage("demo", "--kill: not '%s'", optarg);
			break;
		case 'e':
			ret = cli_number("demo", "seed", optarg, UINT64_MAX, &p->seed);
			break;
		case 'o':
			settings->hold = optarg;
			break;
		case 'j':
			p->demo.json = true;
			break;
		case 'h':
			return fputs(usage, stdout) < 0 ? 2 : 1;
		default:
			return cli_usage("demo", NULL) + 1;
		}
	}
	settings->seconds = (unsigned)seconds;
	if (!ret && p->kill == DEMO_KILL_AGENT && !strcmp(settings->hold, "none"))
		ret = cli_usage("demo", "--kill agent: with --hold none there is none");
	if (!ret && optind < argc)
		ret = cli_usage("demo", "what is %s?", argv[optind]);
	return ret ? ret + 1 : 0;
}

static void tidy(struct demo_protect *p)
{
	char path[300];

	demo_children_end(p->demo.child, DEMO_END_COUNT);
	demo_holder_end(p);
	witness_close(&p->witness);
	close(p->signal_fd);
	for (unsigned end = 0; end < DEMO_END_COUNT; end++) {
		snprintf(path, sizeof(path), "%s/%u", p->folder, end);
		unlink(path);
	}
	rmdir(p->folder);
}

static void begin_chance(struct demo_protect *p)
{
	if (!p->seed && getrandom(&p->seed, sizeof(p->seed), 0) < 0)
		p->seed = demo_now_ns();
	p->seed &= UINT32_MAX; /* a number that can be typed */
	p->chance = p->seed;
	demo_chance(p, 1);
}

int demo_protect(int argc, char **argv)
{
	static const char *const taps[] = { DEMO_PRIMARY_TAP, REPLICA_TAP };
	struct settings settings = { "256M", "2", "10000", "50", "queue", .seconds = 5 };
	static struct demo_protect p = { .witness.fd = -1, .holder = { .in = -1, .out = -1 } };
	const char *place = getenv("TMPDIR");
	static char program[PATH_MAX];
	struct wh_err err = { 0 };
	bool right;
	int ret;

	p.program = program;
	snprintf(p.folder, sizeof(p.folder), "%s/wherry-demo.XXXXXX", place ? place : "/tmp");
	for (unsigned i = 0; i < DEMO_END_COUNT; i++)
		p.demo.child[i].in = p.demo.child[i].out = -1;
	ret = read_options(&p, &settings, argc, argv);
	if (ret)
		return ret - 1;
	begin_chance(&p);
	if (p.kill == DEMO_KILL_AGENT)
		p.edge = settings.hold;
	if (demo_find_program(program, sizeof(program)))
		return 1;
	if (demo_net_open(taps, 2, &err)) {
		fprintf(stderr, "wherry demo: a network of its own: %s\n", err.text);
		return 1;
	}
	p.signal_fd = demo_signals_open();
	if (p.signal_fd < 0 || !mkdtemp(p.folder)) {
		perror("wherry demo");
		return 1;
	}
	p.demo.terminal = !p.demo.json && isatty(STDOUT_FILENO);
	p.demo.begin_ns = demo_now_ns();
	ret = begin(&p, &settings, &err);
	if (!ret)
		ret = run_protected(&p, settings.seconds);
	if (!ret)
		ret = survive(&p, &err);
	if (ret && err.code)
		demo_say(&p.demo, "%s", err.text);
	right = demo_survive_summary(&p, ret);
	tidy(&p);
	return right ? 0 : 1;
}
