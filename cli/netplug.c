/* SPDX-License-Identifier: MIT */
/*
 * wherry netplug: hold what a guest sends, by hand.
 */
#include "cli/netplug.h"

#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <json-c/json.h>
#include <json-c/json_object_iterator.h>
#include <poll.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wherry/wherry.h>

#define ANSWER_NS UINT64_C(15000000000)
#define ENDING_MS 2000
#define LOOK_MS 20

static const char help[] =
	"usage: wherry netplug arm NAME [OPTION]... NIC...\n"
	"       wherry netplug hold NAME [OPTION]... NIC...\n"
	"       wherry netplug turn NAME EPOCH\n"
	"       wherry netplug release NAME EPOCH\n"
	"       wherry netplug fence NAME\n"
	"       wherry netplug disarm NAME\n"
	"       wherry netplug status NAME [--json]\n\n"
	"Holds what the guest NAME sends by its taps (NIC) until it may be seen. After arm, epoch 1 is\n"
	"open; turn closes the open EPOCH, while the guest stands still, and opens the next; release\n"
	"lets go everything up to a closed EPOCH. fence: the other side has the guest, nothing is ever\n"
	"let go. disarm: it stays here, everything is; after a fence only cleans up. A process in the\n"
	"background holds; if it dies the guest is cut off until somebody fences or disarms.\n\n"
	"hold: nothing is held until a VMM arms it that has NAME as its holder, and then nobody else\n"
	"turns, releases or disarms it. The process stays, for the next time, until it is killed.\n\n"
	"arm, hold:\n"
	"  --edge queue|plug  who holds: this process (queue), or the kernel's sch_plug\n"
	"  --bridge BRIDGE    queue: where packets of a NIC go that is no port of a bridge\n"
	"  --limit-bytes N    that may wait; what is above is dropped (125000000; K, M, G)\n"
	"  --limit-packets N  the same in packets, for the queue (65536)\n"
	"  --foreground       hold in this process, not in one in the background\n"
	"status:\n"
	"  --json             one JSON object\n"
	"\n"
	"  --help             this text\n\n"
	"Needs CAP_NET_ADMIN, and gives up everything else. Exit status: 0; 1 it was not done.\n";

enum {
	OPTION_EDGE = 256,
	OPTION_BRIDGE,
	OPTION_BYTES,
	OPTION_PACKETS,
	OPTION_FOREGROUND,
	OPTION_JSON,
	OPTION_HELP,
};

static const struct option options[] = {
	{ "edge", required_argument, NULL, OPTION_EDGE },
	{ "bridge", required_argument, NULL, OPTION_BRIDGE },
	{ "limit-bytes", required_argument, NULL, OPTION_BYTES },
	{ "limit-packets", required_argument, NULL, OPTION_PACKETS },
	{ "foreground", no_argument, NULL, OPTION_FOREGROUND },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ 0 },
};

static int failed(const char *why)
{
	fprintf(stderr, "wherry netplug: %s\n", why);
	return 1;
}

static void show_status(const char *name, const struct wh_netplug_status *status, bool json)
{
	const struct {
		const char *name;
		uint64_t value;
	} numbers[] = {
		{ "epoch", status->epoch },
		{ "released", status->released },
		{ "held-packets", status->held_packets },
		{ "held-bytes", status->held_bytes },
		{ "dropped", status->dropped },
		{ "sent", status->sent },
	};
	struct json_object *top = json_object_new_object();

	json_object_object_add(top, "name", json_object_new_string(name));
	json_object_object_add(top, "state",
			       json_object_new_string(wh_netplug_state_name(status->state)));
	if (status->state != WH_NETPLUG_IDLE || status->holder)
		json_object_object_add(top, "edge",
				       json_object_new_string(wh_netplug_edge_name(status->edge)));
	json_object_object_add(top, "holder", json_object_new_int(status->holder));
	for (size_t i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		json_object_object_add(top, numbers[i].name,
				       json_object_new_uint64(numbers[i].value));
	if (json) {
		printf("%s\n", json_object_to_json_string_ext(top, JSON_C_TO_STRING_PLAIN));
	} else {
		struct json_object_iterator at = json_object_iter_begin(top);
		struct json_object_iterator end = json_object_iter_end(top);

		for (; !json_object_iter_equal(&at, &end); json_object_iter_next(&at))
			printf("%-13s %s\n", json_object_iter_peek_name(&at),
			       json_object_get_string(json_object_iter_peek_value(&at)));
	}
	json_object_put(top);
}

/* What a process that has died left is nobody's: it is looked at and ended from here */
static int find(const char *name, struct wh_netplug **plug, struct wh_err *err)
{
	struct wh_netplug_config config;
	int ret = -ENOENT;

	wh_netplug_config_init(&config);
	config.name = name;
	config.edge = WH_NETPLUG_HOLDER;
	config.answer_ns = ANSWER_NS;
	/* one that is just ending is waited for */
	for (unsigned ms = 0; ms < ENDING_MS; ms += LOOK_MS) {
		ret = wh_netplug_new(plug, &config, err);
		if (ret == -ENOENT) {
			config.edge = WH_NETPLUG_QUEUE;
			ret = wh_netplug_new(plug, &config, err);
			config.edge = WH_NETPLUG_HOLDER;
		}
		if (ret != -ENOTCONN && ret != -EBUSY)
			break;
		poll(NULL, 0, LOOK_MS);
	}
	return ret;
}

/* Return: 0, or a negative errno and a sentence */
static int do_action(struct wh_netplug *plug, const char *action, uint64_t epoch,
		     struct wh_err *err)
{
	if (!strcmp(action, "turn"))
		return wh_netplug_turn(plug, epoch, err);
	if (!strcmp(action, "release"))
		return wh_netplug_release(plug, epoch, err);
	return !strcmp(action, "fence") ? wh_netplug_fence(plug, err) :
					  wh_netplug_disarm(plug, err);
}

static int ask(const char *name, const char *action, uint64_t epoch, bool json)
{
	struct wh_netplug_status status;
	struct wh_netplug *plug = NULL;
	struct wh_err err = { 0 };
	int ret = find(name, &plug, &err);

	if (ret == 0 && strcmp(action, "status") != 0) {
		ret = do_action(plug, action, epoch, &err);
	} else if (ret == 0) {
		ret = wh_netplug_status(plug, &status, &err);
		if (ret == 0)
			show_status(name, &status, json);
	}
	wh_netplug_free(plug);
	return ret < 0 ? failed(err.text) : 0;
}

static int do_epoch(const char *action, const char *name, const char *text)
{
	uint64_t epoch;
	char *end;

	errno = 0;
	epoch = strtoull(text, &end, 10);
	if (errno || *end || *text < '0' || *text > '9')
		return cli_usage("netplug", "%s: '%s' is no epoch", action, text);
	return ask(name, action, epoch, false);
}

struct wanted {
	struct wh_netplug_config config;
	bool foreground;
	bool json;
	bool help;
	bool of_arm; /* an option was given that is arm's, and hold's */
};

static int read_options(int argc, char **argv, struct wanted *wanted)
{
	struct wh_netplug_config *config = &wanted->config;
	bool plug = false;
	int option, ret = 0;

	while (ret == 0 && (option = getopt_long(argc, argv, "h", options, NULL)) != -1) {
		wanted->of_arm |= option >= OPTION_EDGE && option <= OPTION_FOREGROUND;
		switch (option) {
		case OPTION_EDGE:
			ret = cli_word("netplug", "edge", optarg, "queue", "plug", &plug);
			config->edge = plug ? WH_NETPLUG_PLUG : WH_NETPLUG_QUEUE;
			break;
		case OPTION_BRIDGE:
			config->bridge = optarg;
			break;
		case OPTION_BYTES:
			ret = cli_number("netplug", "limit-bytes", optarg, UINT64_C(1) << 40,
					 &config->limit_bytes);
			break;
		case OPTION_PACKETS:
			ret = cli_number("netplug", "limit-packets", optarg, UINT64_C(1) << 30,
					 &config->limit_packets);
			break;
		case OPTION_FOREGROUND:
			wanted->foreground = true;
			break;
		case OPTION_JSON:
			wanted->json = true;
			break;
		case OPTION_HELP:
		case 'h':
			wanted->help = true;
			break;
		default:
			ret = cli_usage("netplug", NULL);
		}
	}
	return ret;
}

/* @words: the action, the name, and what is behind them */
static int act(struct wanted *wanted, int count, char **words)
{
	const char *action = words[0], *name = words[1];
	bool arms = !strcmp(action, "arm"), holds = arms || !strcmp(action, "hold");
	bool shows = !strcmp(action, "status");

	if ((wanted->of_arm && !holds) || (wanted->json && !shows))
		return cli_usage("netplug", "%s does not take that option", action);
	if (holds) {
		if (count < 3 || count - 2 > WH_NETPLUG_NICS_MAX)
			return cli_usage("netplug", "%s: 1 to %d NICs were expected", action,
					 WH_NETPLUG_NICS_MAX);
		wanted->config.name = name;
		wanted->config.nics = (const char *const *)(words + 2);
		wanted->config.nic_count = (unsigned)count - 2;
		return netplug_hold(&wanted->config, arms, wanted->foreground);
	}
	if (!strcmp(action, "turn") || !strcmp(action, "release"))
		return count == 3 ? do_epoch(action, name, words[2]) :
				    cli_usage("netplug", "%s: an epoch was expected", action);
	if (!shows && strcmp(action, "fence") != 0 && strcmp(action, "disarm") != 0)
		return cli_usage("netplug",
				 "'%s' is none of arm, hold, turn, release, fence, disarm, status",
				 action);
	if (count > 2)
		return cli_usage("netplug", "%s takes a name only, not '%s'", action, words[2]);
	return ask(name, action, 0, wanted->json);
}

int cmd_netplug(int argc, char **argv)
{
	struct wanted wanted = { 0 };
	int ret;

	wh_netplug_config_init(&wanted.config);
	ret = read_options(argc, argv, &wanted);
	if (ret)
		return ret;
	if (wanted.help) {
		fputs(help, stdout);
		return 0;
	}
	if (argc - optind < 2)
		return cli_usage("netplug", "what to do, and a name were expected");
	ret = netplug_drop_rights();
	if (ret == -EPERM)
		return failed("CAP_NET_ADMIN is missing: as root, or in namespaces of one's own "
			      "(unshare -Urn)");
	if (ret < 0)
		return failed(strerrordesc_np(-ret));
	return act(&wanted, argc - optind, argv + optind);
}
