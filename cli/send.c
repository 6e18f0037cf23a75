/* SPDX-License-Identifier: MIT */
/*
 * wherry send: a parked VM into a waiting QEMU, or another destination.
 *
 * Nothing runs here, so nothing is written meanwhile, and one pass is all there is. By
 * postcopy the guest runs at once and its pages come as it touches them; the folder stays what
 * it is, so whatever becomes of the other end, this copy can be sent again, as long as the guest
 * did not run there.
 */
#include "cli/cli.h"
#include "cli/send.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define TURN_NS 100000000ll /* between two looks at signals and progress */
#define RETRY_NS 500000000ull
#define NS_PER_S 1000000000ull
#define SHOW_NS 400000000ull

static const char usage[] =
	"usage: wherry send --from DIR URI [options]\n"
	"\n"
	"Is the source of a migration: what wherry receive has kept in DIR goes to a destination\n"
	"that waits, a QEMU with -incoming or another. DIR is not changed.\n"
	"\n"
	"  URI                    tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or fd:N; or\n"
	"                         file:PATH[,offset=N], for a QEMU's -incoming file: later\n"
	"  --from DIR             the parked VM; or a file to which a QEMU has migrated\n"
	"  --mapped-ram           into a file: each page has its place there\n"
	"                         (at the QEMU: the capability mapped-ram)\n"
	"  --force                the file may be there already, and is replaced\n"
	"  --postcopy             the guest runs at once, its memory comes as it is touched\n"
	"                         (at the destination: the capability postcopy-ram)\n"
	"  --urgent off|switch|start\n"
	"                         as postcopy-preempt there: a connection for pages that are\n"
	"                         waited for; from QEMU 8.0 on switch, before that start (off)\n"
	"  --return-path off|on   without --postcopy: the destination says whether it took over\n"
	"                         (at a QEMU: the capability return-path) (off)\n"
	"  --multifd N            pages by N connections, at the same time; no --postcopy with it\n"
	"                         (at a QEMU: the capability multifd, and multifd-channels)\n"
	"  --multifd-compression none|zstd\n"
	"                         as multifd-compression there (none)\n"
	"  --multifd-level N      of zstd, 0 to 20 (1)\n"
	"  --multifd-sync section|round\n"
	"                         as machine types up to 8.0 have it, or later ones (what the\n"
	"                         machine type says)\n"
	"  --switchover-ack       do not switch before the destination says that it is ready\n"
	"                         (at a QEMU from 8.1 on: the capability switchover-ack)\n"
	"  --bandwidth SIZE       bytes a second of what was not asked for (no limit)\n"
	"  --machine NAME         instead of the machine type in DIR\n"
	"  --recover SECONDS      a link that breaks in postcopy: try so long to resume (0)\n"
	"  --verify[=on|off]      against the digests, before anything is sent (on)\n"
	"  --tls WORDS            dir=DIR and more: every connection speaks TLS (tls.rst)\n"
	"  --timeout SECONDS      to connect, and until a silent peer is taken for dead (10)\n"
	"  --json                 one JSON object a line\n"
	"  --quiet                nothing but errors\n"
	"  --help\n"
	"\n"
	"Exit status: 0 all of it is there; 1 not; 2 usage.\n";

enum {
	OPTION_FROM = 1,
	OPTION_MAPPED_RAM,
	OPTION_FORCE,
	OPTION_POSTCOPY,
	OPTION_URGENT,
	OPTION_RETURN_PATH,
	OPTION_MULTIFD,
	OPTION_MULTIFD_METHOD,
	OPTION_MULTIFD_LEVEL,
	OPTION_MULTIFD_SYNC,
	OPTION_SWITCHOVER_ACK,
	OPTION_BANDWIDTH,
	OPTION_MACHINE,
	OPTION_RECOVER,
	OPTION_VERIFY,
	OPTION_TIMEOUT,
	OPTION_TLS,
	OPTION_JSON,
	OPTION_QUIET,
	OPTION_HELP,
};

static const struct option options[] = {
	{ "from", required_argument, NULL, OPTION_FROM },
	{ "mapped-ram", no_argument, NULL, OPTION_MAPPED_RAM },
	{ "force", no_argument, NULL, OPTION_FORCE },
	{ "postcopy", no_argument, NULL, OPTION_POSTCOPY },
	{ "urgent", required_argument, NULL, OPTION_URGENT },
	{ "return-path", required_argument, NULL, OPTION_RETURN_PATH },
	{ "multifd", required_argument, NULL, OPTION_MULTIFD },
	{ "multifd-compression", required_argument, NULL, OPTION_MULTIFD_METHOD },
	{ "multifd-level", required_argument, NULL, OPTION_MULTIFD_LEVEL },
	{ "multifd-sync", required_argument, NULL, OPTION_MULTIFD_SYNC },
	{ "switchover-ack", no_argument, NULL, OPTION_SWITCHOVER_ACK },
	{ "bandwidth", required_argument, NULL, OPTION_BANDWIDTH },
	{ "machine", required_argument, NULL, OPTION_MACHINE },
	{ "recover", required_argument, NULL, OPTION_RECOVER },
	{ "verify", optional_argument, NULL, OPTION_VERIFY },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "tls", required_argument, NULL, OPTION_TLS },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "quiet", no_argument, NULL, OPTION_QUIET },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ 0 },
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

static bool is_interrupted(void *opaque)
{
	(void)opaque;
	return interrupted;
}

/* A line of text, or an object with the figures of the migration */
static void say(const struct send *send, const char *kind, const char *text)
{
	uint64_t ns = receive_now_ns() - send->begin_ns;
	json_object *object;
	struct wh_stats stats;
	char figures[2048];

	if (!send->json) {
		if (!send->quiet)
			fprintf(stderr, "%6.2f s  %s\n", (double)ns / (double)NS_PER_S, text);
		return;
	}
	object = json_object_new_object();
	json_object_object_add(object, "kind", json_object_new_string(kind));
	json_object_object_add(object, "t_ms", json_object_new_uint64(ns / 1000000));
	json_object_object_add(object, "text", json_object_new_string(text));
	if (send->migration) {
		wh_get_stats(send->migration, &stats);
		wh_stats_json(&stats, figures, sizeof(figures));
		json_object_object_add(object, "migration", json_tokener_parse(figures));
	}
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
							    JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
	json_object_put(object);
}

static void on_event(void *opaque, const struct wh_event *event)
{
	struct send *send = opaque;
	struct wh_err err = { 0 };
	char text[320];

	if (event->kind != WH_EVENT_PHASE)
		return;
	if (event->phase == WH_PHASE_PRECOPY && send->postcopy)
		wh_start_postcopy(send->migration, &err);
	snprintf(text, sizeof(text), "%s%s%.280s", wh_phase_name(event->phase),
		 event->err ? ": " : "", event->err ? event->err->text : "");
	say(send, "phase", text);
}

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	if (level <= WH_LOG_WARNING)
		say(opaque, "note", line);
}

/* Nobody writes: the first pass has everything. */
static int on_dirty_sync(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			 struct wh_err *err)
{
	(void)opaque;
	(void)block;
	(void)map;
	(void)pages;
	(void)err;
	return 0;
}

static int on_device_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	const struct send *send = opaque;

	*length = send->parked.device_length;
	*data = malloc(*length ? *length : 1);
	if (!*data)
		return receive_fail(err, -ENOMEM, "no memory for device state");
	memcpy(*data, send->parked.device, *length);
	return 0;
}

const struct wh_callbacks send_callbacks = {
	.event = on_event,
	.log = on_log,
	.dirty_sync = on_dirty_sync,
	.device_save = on_device_save,
};

int send_urgent(const char *name, const char *text, enum wh_urgent *urgent)
{
	static const char *const words[] = { "off", "switch", "start" };

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (!strcmp(text, words[i])) {
			*urgent = (enum wh_urgent)i;
			return 0;
		}
	return cli_usage(name, "--urgent %s: off, switch or start was expected", text);
}

/* The other names are QEMU's: a setting of it that is not to be had here */
static int multifd_method(const char *name, const char *text, struct wh_config *config)
{
	static const char *const others[] = { "zlib", "qpl", "uadk", "qatzip" };

	for (unsigned i = 0; i < sizeof(others) / sizeof(others[0]); i++)
		if (!strcmp(text, others[i]))
			return cli_usage(name,
					 "--multifd-compression %s is not supported: none and zstd are",
					 text);
	if (strcmp(text, "none") != 0 && strcmp(text, "zstd") != 0)
		return cli_usage(name, "--multifd-compression %s: none or zstd was expected", text);
	config->multifd_method = *text == 'z' ? WH_MULTIFD_ZSTD : WH_MULTIFD_PLAIN;
	return 0;
}

int send_multifd(const char *name, enum send_multifd option, const char *text,
		 struct wh_config *config)
{
	uint64_t number = 0;
	bool round = false;
	int ret = 0;

	switch (option) {
	case SEND_MULTIFD:
		ret = cli_number(name, "multifd", text, WH_MULTIFD_MAX, &number);
		config->multifd = (unsigned)number;
		break;
	case SEND_MULTIFD_METHOD:
		ret = multifd_method(name, text, config);
		break;
	case SEND_MULTIFD_LEVEL:
		ret = cli_number(name, "multifd-level", text, WH_MULTIFD_LEVEL_MAX, &number);
		config->multifd_level = (int)number;
		break;
	case SEND_MULTIFD_SYNC:
		ret = cli_word(name, "multifd-sync", text, "section", "round", &round);
		config->multifd_marks = round ? WH_MULTIFD_BY_ROUND : WH_MULTIFD_BY_SECTION;
		break;
	}
	return ret;
}

static int read_option(struct send *send, struct wh_config *config, int option)
{
	uint64_t number = 0;
	int ret = 0;

	switch (option) {
	case OPTION_FROM:
		send->from = optarg;
		break;
	case OPTION_MAPPED_RAM:
		send->mapped_ram = true;
		break;
	case OPTION_FORCE:
		send->force = true;
		break;
	case OPTION_POSTCOPY:
		send->postcopy = true;
		break;
	case OPTION_URGENT:
		ret = send_urgent("send", optarg, &config->urgent);
		break;
	case OPTION_RETURN_PATH:
		ret = cli_word("send", "return-path", optarg, "off", "on", &config->return_path);
		break;
	case OPTION_MULTIFD:
	case OPTION_MULTIFD_METHOD:
	case OPTION_MULTIFD_LEVEL:
	case OPTION_MULTIFD_SYNC:
		ret = send_multifd("send", (enum send_multifd)(option - OPTION_MULTIFD), optarg,
				   config);
		break;
	case OPTION_SWITCHOVER_ACK:
		config->switchover_ack = true;
		break;
	case OPTION_BANDWIDTH:
		ret = cli_number("send", "bandwidth", optarg, INT64_MAX, &number);
		config->bandwidth = number;
		config->postcopy_bandwidth = number;
		break;
	case OPTION_MACHINE:
		config->machine = optarg;
		break;
	case OPTION_RECOVER:
		ret = cli_number("send", "recover", optarg, 86400, &number);
		send->recover_ns = number * NS_PER_S;
		break;
	case OPTION_VERIFY:
		send->verify = true;
		if (optarg)
			ret = cli_word("send", "verify", optarg, "off", "on", &send->verify);
		break;
	case OPTION_TIMEOUT:
		ret = cli_number("send", "timeout", optarg, 86400, &number);
		config->connect_timeout_ns = number * NS_PER_S;
		config->dead_peer_ns = number * NS_PER_S;
		break;
	case OPTION_TLS:
		ret = cli_tls("send", optarg, &config->tls);
		break;
	case OPTION_JSON:
		send->json = true;
		break;
	case OPTION_QUIET:
		send->quiet = true;
		break;
	default:
		ret = cli_usage("send", NULL); /* getopt has said what */
	}
	return ret;
}

/* Return: 0, -1 help was asked for, or EXIT_USAGE */
static int read_options(struct send *send, struct wh_config *config, int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (read_option(send, config, option))
			return EXIT_USAGE;
	}
	if (optind == argc)
		return cli_usage("send", "where to is missing");
	send->uri = argv[optind++];
	if (optind < argc)
		return cli_usage("send", "what is %s?", argv[optind]);
	if (!send->from)
		return cli_usage("send", "--from DIR is missing");
	if (config->urgent && !send->postcopy)
		return cli_usage("send", "--urgent is for --postcopy");
	if (wh_is_file(send->uri) && send->postcopy)
		return cli_usage("send", "--postcopy needs somebody who asks, a file does not");
	if (!wh_is_file(send->uri) && (send->mapped_ram || send->force))
		return cli_usage("send", "--mapped-ram and --force are for file:PATH");
	if (config->multifd && send->postcopy)
		return cli_usage("send", "--multifd and --postcopy do not go together");
	if (config->multifd && wh_is_file(send->uri))
		return cli_usage("send", "--multifd needs connections, a file has none");
	config->postcopy = send->postcopy;
	return 0;
}

static void show_progress(struct send *send)
{
	uint64_t now = receive_now_ns();
	struct wh_stats stats;
	char text[160];

	if (now < send->shown_ns + SHOW_NS)
		return;
	send->shown_ns = now;
	wh_get_stats(send->migration, &stats);
	snprintf(text, sizeof(text),
		 "%-16s %5" PRIu64 " MiB  %5" PRIu64 " MB/s  %7" PRIu64 " pages left  %6" PRIu64
		 " requests",
		 wh_phase_name(stats.phase), stats.bytes >> 20, stats.bandwidth / 1000000,
		 stats.pages_left, stats.requests);
	say(send, "progress", text);
}

/* The guest over there has what it has, and the rest is here: until it can be reached again */
static bool try_again(struct send *send)
{
	uint64_t now = receive_now_ns();
	struct wh_err err = { 0 };

	if (wh_get_phase(send->migration) != WH_PHASE_PAUSED)
		return false;
	if (!send->broken_ns)
		send->broken_ns = now;
	if (now - send->broken_ns >= send->recover_ns)
		return false;
	nanosleep(&(struct timespec){ .tv_nsec = RETRY_NS }, NULL);
	wh_resume(send->migration, send->uri, &err); /* not yet; the event says why */
	return true;
}

int send_step(struct send *send, struct wh_err *err)
{
	int ret = wh_wait(send->migration, TURN_NS, err);

	if (ret == -EAGAIN) {
		if (wh_get_phase(send->migration) == WH_PHASE_POSTCOPY)
			send->broken_ns = 0;
		show_progress(send);
		return 1;
	}
	return ret && try_again(send) ? 1 : ret;
}

/* Return: 0 all of it is there, or a negative errno and the sentence */
static int wait_for_it(struct send *send, struct wh_err *err)
{
	int ret;

	while ((ret = send_step(send, err)) == 1)
		if (interrupted)
			return receive_fail(err, -EINTR, "interrupted%s",
					    send->postcopy ? ", the guest may miss pages" : "");
	return ret;
}

int send_start(struct send *send, struct wh_config *config, struct wh_err *err)
{
	const struct parked *parked = &send->parked;
	int ret;

	config->device_format = parked->device_format;
	ret = wh_new(&send->migration, WH_SOURCE, config, err);
	for (unsigned i = 0; i < parked->blocks && !ret; i++) {
		const struct wh_block block = {
			.name = parked->block[i].name,
			.addr = parked->block[i].at,
			.length = parked->block[i].length,
			.page_size = parked->block[i].page_size,
			.fd = -1,
		};

		ret = wh_add_block(send->migration, &block, err);
	}
	if (!ret)
		ret = wh_connect(send->migration, send->uri, err);
	return ret ? ret : wh_start(send->migration, err);
}

static int run(struct send *send, struct wh_config *config, struct wh_err *err)
{
	char text[160];
	int ret;

	ret = parked_open(&send->parked, send->from, err);
	if (send->parked.in_file)
		send->verify = false;
	if (!ret && send->verify)
		ret = parked_verify(&send->parked, err);
	if (ret)
		return ret;
	snprintf(text, sizeof(text), "%u blocks of %" PRIu64 " MiB, %zu bytes of device state%s",
		 send->parked.blocks, send->parked.bytes >> 20, send->parked.device_length,
		 send->verify ? ", as they were received" : "");
	say(send, "parked", text);
	if (!config->machine)
		config->machine = send->parked.machine;
	if (wh_is_file(send->uri))
		return send_file(send, config->machine, is_interrupted, err);
	ret = send_start(send, config, err);
	return ret ? ret : wait_for_it(send, err);
}

void send_summary(const struct send *send, int ret)
{
	struct wh_stats stats = { 0 };
	char text[200];

	if (ret && !send->json)
		return;
	if (send->migration)
		wh_get_stats(send->migration, &stats);
	else if (send->written)
		stats = *send->written;
	snprintf(text, sizeof(text),
		 "%s %s in %.2f s: %" PRIu64 " pages, %" PRIu64 " zero, %" PRIu64
		 " requests; %.1f MiB",
		 ret ? "failed" : "sent",
		 wh_is_file(send->uri) ? "to a file" :
		 send->postcopy	       ? "by postcopy" :
					 "by precopy",
		 (double)stats.now_ns / (double)NS_PER_S, stats.pages_normal, stats.pages_zero,
		 stats.requests, (double)stats.bytes / (1 << 20));
	say(send, "summary", text);
}

int cmd_send(int argc, char **argv)
{
	static struct send send;
	struct sigaction action = { .sa_handler = on_signal };
	struct wh_err err = { 0 };
	struct wh_config config;
	int ret;

	send = (struct send){ .parked.fd = -1, .verify = true, .begin_ns = receive_now_ns() };
	wh_config_init(&config);
	config.callbacks = &send_callbacks;
	config.opaque = &send;
	config.urgent = WH_URGENT_OFF;
	config.return_path = false;
	config.machine = NULL;
	ret = read_options(&send, &config, argc, argv);
	if (ret < 0)
		fputs(usage, stdout);
	if (ret)
		return ret < 0 ? 0 : ret;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	ret = run(&send, &config, &err);
	if (ret)
		fprintf(stderr, "wherry send: %s\n", err.text);
	send_summary(&send, ret);
	wh_free(send.migration);
	parked_close(&send.parked);
	return ret ? 1 : 0;
}
