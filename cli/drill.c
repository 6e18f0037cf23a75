/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: how it is called, and one run after the other.
 */
#include "cli/drill.h"

#include "cli/cli.h"
#include "cli/drill_qemu.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MIB (1u << 20)
#define RUNS 20u
#define RUNS_MAX 1000000u
#define MEMORY_MIB 12u
#define MEMORY_MIB_MAX 4096u
#define TMPDIR_MAX 60u

static const char usage[] =
	"usage: wherry drill [options]\n"
	"\n"
	"Migrates a guest between two processes of its own, again and again, does to the link\n"
	"and to the processes what a seed says, brings back what broke, and looks at every byte\n"
	"of memory in the end.\n"
	"\n"
	"  --runs N        how many (20)\n"
	"  --seed S        what the seeds of the runs are made from (1)\n"
	"  --replay SEED   the run of this seed only, with all that happens in it\n"
	"  --kinds A,B     faults to choose from (all)\n"
	"  --memory MIB    memory of the guest, at most (12)\n"
	"  --qemu END      a QEMU is the source, the dest, or either, as the seed says\n"
	"  --qemu-binary PATH  which (qemu-system-x86_64)\n"
	"  --list          the faults, and what they are\n"
	"  --json          one JSON object a line\n"
	"  --help\n"
	"\n"
	"With --replay give --kinds, --memory and --qemu as they were.\n"
	"Exit status: 0 nothing was wrong; 1 something was; 2 usage.\n";

struct drill_options {
	uint64_t runs;
	uint64_t seed;
	uint64_t memory;
	unsigned kinds;
	const char *kinds_text;
	const char *qemu; /* where, or NULL */
	struct drill_peer peer;
	bool replay;
	bool json;
	bool list;
};

static const struct option options[] = {
	{ "runs", required_argument, NULL, 'n' },
	{ "seed", required_argument, NULL, 's' },
	{ "replay", required_argument, NULL, 'r' },
	{ "kinds", required_argument, NULL, 'k' },
	{ "memory", required_argument, NULL, 'm' },
	{ "qemu", required_argument, NULL, 'q' },
	{ "qemu-binary", required_argument, NULL, 'b' },
	{ "list", no_argument, NULL, 'l' },
	{ "json", no_argument, NULL, 'j' },
	{ "help", no_argument, NULL, 'h' },
	{ NULL, 0, NULL, 0 },
};

static bool read_number(const char *text, uint64_t max, uint64_t *number)
{
	char *end;

	errno = 0;
	*number = strtoull(text, &end, 0);
	return *text >= '0' && *text <= '9' && !*end && !errno && *number <= max;
}

static bool read_side(const char *text, enum drill_side *side)
{
	static const char *const names[] = { "source", "dest", "either" };

	for (unsigned i = 0; i <= DRILL_SIDES; i++)
		if (!strcmp(text, names[i])) {
			*side = (enum drill_side)i;
			return true;
		}
	return false;
}

/* Return: 0; or the exit status plus one */
static int read_option(struct drill_options *o, int option)
{
	char unknown[32];

	switch (option) {
	case 'n':
		if (!read_number(optarg, RUNS_MAX, &o->runs) || !o->runs)
			return cli_usage("drill", "--runs %s: not 1 to %u", optarg, RUNS_MAX) + 1;
		return 0;
	case 'r':
	case 's':
		o->replay |= option == 'r';
		if (!read_number(optarg, UINT64_MAX, &o->seed))
			return cli_usage("drill", "seed %s: not a number of 64 bits", optarg) + 1;
		return 0;
	case 'm':
		if (!read_number(optarg, MEMORY_MIB_MAX, &o->memory) || !o->memory)
			return cli_usage("drill", "--memory %s: not 1 to %u", optarg,
					 MEMORY_MIB_MAX) +
			       1;
		return 0;
	case 'k':
		o->kinds_text = optarg;
		o->kinds = drill_kinds_read(optarg, unknown, sizeof(unknown));
		if (!o->kinds)
			return cli_usage("drill", "--kinds: there is no '%s', see --list",
					 unknown) +
			       1;
		return 0;
	case 'q':
		o->qemu = optarg;
		if (!read_side(optarg, &o->peer.side))
			return cli_usage("drill", "--qemu %s: not source, dest or either", optarg) +
			       1;
		return 0;
	case 'b':
		o->peer.binary = optarg;
		return 0;
	case 'l':
		o->list = true;
		return 0;
	case 'j':
		o->json = true;
		return 0;
	case 'h':
		return fputs(usage, stdout) < 0 ? 2 : 1;
	default:
		return cli_usage("drill", NULL) + 1; /* getopt has said what */
	}
}

static void show_wrong(const struct drill_options *o, const struct drill_plan *plan,
		       const struct drill_result *result)
{
	fprintf(stderr, "%s", result->log ? result->log : "");
	fprintf(stderr,
		"Again: wherry drill --replay 0x%016" PRIx64 " --memory %" PRIu64 "%s%s%s%s\n",
		plan->seed, o->memory, o->kinds_text ? " --kinds " : "",
		o->kinds_text ? o->kinds_text : "", o->qemu ? " --qemu " : "",
		o->qemu ? o->qemu : "");
}

static int drill_all(const struct drill_options *o, const char *folder)
{
	struct drill_table table = { 0 };
	struct drill_result result;
	struct drill_plan plan;
	uint64_t *wrong = calloc(o->runs, sizeof(*wrong));
	unsigned count = 0;

	if (!wrong)
		return 1;
	for (unsigned i = 0; i < o->runs; i++) {
		drill_plan_make(&plan, o->replay ? o->seed : drill_seed(o->seed, i),
				o->memory * MIB, o->kinds, o->qemu ? &o->peer : NULL);
		if (o->replay && !o->json)
			drill_show_plan(&plan, stdout);
		drill_run(&plan, folder, o->peer.binary, o->replay && !o->json ? stdout : NULL,
			  &result);
		if (result.outcome == DRILL_OUTCOMES) {
			free(result.log);
			break;
		}
		drill_show_run(i, &plan, &result, o->json);
		fflush(stdout);
		drill_table_add(&table, &plan, &result);
		if (result.outcome == DRILL_WRONG) {
			wrong[count++] = plan.seed;
			if (!o->replay)
				show_wrong(o, &plan, &result);
		}
		free(result.log);
	}
	if (!o->replay)
		drill_show_table(&table, wrong, o->qemu, o->json);
	free(wrong);
	return count ? 1 : 0;
}

/* From 8.0 on the second channel comes at the switch, where the machine's type is no older one */
static bool find_qemu(struct drill_peer *peer)
{
	struct wh_err err = { 0 };
	int major = drill_qemu_major(peer->binary, &err);

	if (major < 0)
		fprintf(stderr, "wherry drill: %s: %s\n", peer->binary, err.text);
	peer->urgent = major < 8 ? WH_URGENT_AT_START : WH_URGENT_AT_SWITCH;
	return major >= 0;
}

static void on_signal(int number)
{
	drill_signal = number;
}

/* Whoever wants it to end gets what is left behind taken away first. */
static void catch_signals(void)
{
	struct sigaction action = { .sa_handler = on_signal };

	signal(SIGPIPE, SIG_IGN);
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	sigaction(SIGHUP, &action, NULL);
}

/* A socket's path is short. */
static void folder_name(char *folder, size_t room)
{
	const char *in = getenv("TMPDIR");

	if (!in || !*in || strlen(in) > TMPDIR_MAX)
		in = "/tmp";
	snprintf(folder, room, "%s/wherry-drill.XXXXXX", in);
}

int cmd_drill(int argc, char **argv)
{
	struct drill_options o = {
		.runs = RUNS,
		.seed = 1,
		.memory = MEMORY_MIB,
		.kinds = DRILL_ALL_KINDS,
		.peer = { .binary = "qemu-system-x86_64" },
	};
	char folder[TMPDIR_MAX + 32];
	int option, ret;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		ret = read_option(&o, option);
		if (ret)
			return ret - 1;
	}
	if (optind < argc)
		return cli_usage("drill", "what is %s?", argv[optind]);
	if (o.list) {
		drill_show_list(o.json);
		return 0;
	}
	if (o.qemu && !drill_kinds_with(o.kinds, o.peer.side))
		return cli_usage("drill", "--kinds %s: not with a QEMU there", o.kinds_text);
	if (o.replay)
		o.runs = 1;
	catch_signals();
	if (o.qemu && !find_qemu(&o.peer))
		return 1;
	folder_name(folder, sizeof(folder));
	if (!mkdtemp(folder)) {
		fprintf(stderr, "wherry drill: %s: %s\n", folder, strerrordesc_np(errno));
		return 1;
	}
	ret = drill_all(&o, folder);
	rmdir(folder);
	if (drill_signal) {
		fflush(stdout);
		signal(drill_signal, SIG_DFL);
		(void)raise(drill_signal);
	}
	return ret;
}
