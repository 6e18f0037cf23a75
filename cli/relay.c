/* SPDX-License-Identifier: MIT */
/*
 * wherry relay: the destination of one QEMU and the source of another, at once.
 *
 *	FROM --> pages into memory of ours, device state --> TO
 *
 * The guest is sent on as soon as its device state is here. By precopy all of its memory is
 * here by then. By postcopy memory is still missing: what is read of it to be sent faults, is asked
 * for, and comes, as for a guest. FROM hears that it is taken over when TO has it. What TO does
 * not take is kept in a folder: without a return path FROM has long ended, and after a
 * switch to postcopy it cannot take the guest back.
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

#define TURN_NS 100000000ll
#define NS_PER_S 1000000000ull

static const char usage[] =
	"usage: wherry relay FROM TO --out DIR [options]\n"
	"\n"
	"Is the destination of a migration at FROM and the source of one to TO: a guest goes from\n"
	"one QEMU to another by way of this process.\n"
	"\n"
	"  FROM, TO               tcp:HOST:PORT, unix:PATH, vsock:CID:PORT or fd:N\n"
	"  --out DIR              what TO does not take is kept there, as by wherry receive\n"
	"  --reserve on|off       room there for all of RAM, before it may come by postcopy (on)\n"
	"  --postcopy             to TO: the guest runs there at once\n"
	"  --urgent off|switch|start\n"
	"                         to TO, as for wherry send (off)\n"
	"  --return-path off|on   to TO, without --postcopy (off)\n"
	"  --multifd N, --multifd-compression, --multifd-level, --multifd-sync\n"
	"                         to TO, as for wherry send (0); from FROM as many as come\n"
	"  --recover SECONDS      to TO: a link that breaks in postcopy (0)\n"
	"  --tls WORDS            dir=DIR and more: every connection speaks TLS (tls.rst)\n"
	"  --tls-from WORDS, --tls-to WORDS\n"
	"                         those of one side; off: plain there\n"
	"  --timeout SECONDS      until a silent peer is taken for dead (10)\n"
	"  --json                 one JSON object a line\n"
	"  --quiet                nothing but errors\n"
	"  --help\n"
	"\n"
	"Exit status: 0 the guest is at TO, all of it; 1 not; 2 usage.\n";

enum {
	OPTION_OUT = 1,
	OPTION_RESERVE,
	OPTION_POSTCOPY,
	OPTION_URGENT,
	OPTION_RETURN_PATH,
	OPTION_MULTIFD,
	OPTION_MULTIFD_METHOD,
	OPTION_MULTIFD_LEVEL,
	OPTION_MULTIFD_SYNC,
	OPTION_RECOVER,
	OPTION_TIMEOUT,
	OPTION_TLS,
	OPTION_TLS_FROM,
	OPTION_TLS_TO,
	OPTION_JSON,
	OPTION_QUIET,
	OPTION_HELP,
};

static const struct option options[] = {
	{ "out", required_argument, NULL, OPTION_OUT },
	{ "reserve", required_argument, NULL, OPTION_RESERVE },
	{ "postcopy", no_argument, NULL, OPTION_POSTCOPY },
	{ "urgent", required_argument, NULL, OPTION_URGENT },
	{ "return-path", required_argument, NULL, OPTION_RETURN_PATH },
	{ "multifd", required_argument, NULL, OPTION_MULTIFD },
	{ "multifd-compression", required_argument, NULL, OPTION_MULTIFD_METHOD },
	{ "multifd-level", required_argument, NULL, OPTION_MULTIFD_LEVEL },
	{ "multifd-sync", required_argument, NULL, OPTION_MULTIFD_SYNC },
	{ "recover", required_argument, NULL, OPTION_RECOVER },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "tls", required_argument, NULL, OPTION_TLS },
	{ "tls-from", required_argument, NULL, OPTION_TLS_FROM },
	{ "tls-to", required_argument, NULL, OPTION_TLS_TO },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "quiet", no_argument, NULL, OPTION_QUIET },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ 0 },
};

/**
 * struct relay - One run of the command
 * @here:	Device state has come; set last, atomic
 * @answered:	wh_device_loaded() was said
 * @recovering:	FROM is waited for again
 * @kept:	The folder is a parked VM
 */
struct relay {
	struct receive receive;
	struct send send;
	const char *from;
	bool here;
	bool answered;
	bool recovering;
	bool kept;
};

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

static void on_event(void *opaque, const struct wh_event *event)
{
	struct relay *relay = opaque;

	if (event->kind != WH_EVENT_PHASE)
		return;
	if (event->phase == WH_PHASE_POSTCOPY)
		relay->receive.postcopy = true;
	receive_say(&relay->receive, "phase", "from: %s", wh_phase_name(event->phase));
}

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	struct relay *relay = opaque;

	if (level <= WH_LOG_WARNING)
		receive_say(&relay->receive, "note", "from: %s", line);
}

static int on_block(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		    struct wh_block *block, struct wh_err *err)
{
	struct receive *receive = &((struct relay *)opaque)->receive;
	int ret = receive_block_make(receive, name, length, page_size, block, err);

	/* Behind a switch it may have to be kept, and then nobody else has it */
	if (!ret && wh_may_postcopy(receive->migration) && !receive->out.sparse)
		ret = receive_out_reserve(receive, err);
	return ret;
}

static int on_device(void *opaque, const void *data, size_t length, enum wh_device_format format,
		     struct wh_err *err)
{
	struct relay *relay = opaque;
	struct receive *receive = &relay->receive;

	receive->device = malloc(length ? length : 1);
	if (!receive->device)
		return receive_fail(err, -ENOMEM, "no memory for %zu bytes of device state",
				    length);
	if (length)
		memcpy(receive->device, data, length);
	receive->device_length = length;
	receive->device_format = format;
	__atomic_store_n(&relay->here, true, __ATOMIC_RELEASE);
	return WH_PENDING;
}

static const struct wh_callbacks callbacks = {
	.event = on_event,
	.log = on_log,
	.block = on_block,
	.device_load = on_device,
};

static int read_tls(const char *text, const struct wh_tls **tls)
{
	*tls = NULL;
	return strcmp(text, "off") != 0 ? cli_tls("relay", text, tls) : 0;
}

static int read_option(struct relay *relay, struct wh_config *in, struct wh_config *out, int option)
{
	uint64_t number = 0;
	int ret = 0;

	switch (option) {
	case OPTION_OUT:
		relay->receive.out.path = optarg;
		break;
	case OPTION_RESERVE:
		ret = cli_word("relay", "reserve", optarg, "on", "off", &relay->receive.out.sparse);
		break;
	case OPTION_POSTCOPY:
		relay->send.postcopy = true;
		break;
	case OPTION_URGENT:
		ret = send_urgent("relay", optarg, &out->urgent);
		break;
	case OPTION_RETURN_PATH:
		ret = cli_word("relay", "return-path", optarg, "off", "on", &out->return_path);
		break;
	case OPTION_MULTIFD:
	case OPTION_MULTIFD_METHOD:
	case OPTION_MULTIFD_LEVEL:
	case OPTION_MULTIFD_SYNC:
		ret = send_multifd("relay", (enum send_multifd)(option - OPTION_MULTIFD), optarg,
				   out);
		break;
	case OPTION_RECOVER:
		ret = cli_number("relay", "recover", optarg, 86400, &number);
		relay->send.recover_ns = number * NS_PER_S;
		break;
	case OPTION_TIMEOUT:
		ret = cli_number("relay", "timeout", optarg, 86400, &number);
		in->connect_timeout_ns = in->dead_peer_ns = number * NS_PER_S;
		out->connect_timeout_ns = out->dead_peer_ns = number * NS_PER_S;
		break;
	case OPTION_TLS:
		ret = cli_tls("relay", optarg, &in->tls);
		out->tls = in->tls;
		break;
	case OPTION_TLS_FROM:
		ret = read_tls(optarg, &in->tls);
		break;
	case OPTION_TLS_TO:
		ret = read_tls(optarg, &out->tls);
		break;
	case OPTION_JSON:
		relay->receive.json = relay->send.json = true;
		break;
	case OPTION_QUIET:
		relay->receive.quiet = relay->send.quiet = true;
		break;
	default:
		ret = cli_usage("relay", NULL); /* getopt has said what */
	}
	return ret;
}

/* Return: 0, -1 help was asked for, or EXIT_USAGE */
static int read_options(struct relay *relay, struct wh_config *in, struct wh_config *out, int argc,
			char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (read_option(relay, in, out, option))
			return EXIT_USAGE;
	}
	if (argc - optind < 2)
		return cli_usage("relay", "where from and where to are expected");
	relay->from = argv[optind++];
	relay->send.uri = argv[optind++];
	if (optind < argc)
		return cli_usage("relay", "what is %s?", argv[optind]);
	if (!relay->receive.out.path)
		return cli_usage("relay", "--out DIR is missing");
	if (out->urgent && !relay->send.postcopy)
		return cli_usage("relay", "--urgent is for --postcopy");
	if (out->multifd && relay->send.postcopy)
		return cli_usage("relay", "--multifd and --postcopy do not go together");
	out->postcopy = relay->send.postcopy;
	return 0;
}

/* It is taken over */
static void answer(struct relay *relay)
{
	if (!relay->answered)
		wh_device_loaded(relay->receive.migration, 0);
	relay->answered = true;
}

/* Until device state is here. Return: 0, or why it does not come */
static int wait_device(struct relay *relay, struct wh_err *err)
{
	struct receive *receive = &relay->receive;
	int ret;

	do {
		ret = wh_wait(receive->migration, TURN_NS, err);
		if (__atomic_load_n(&relay->here, __ATOMIC_ACQUIRE))
			return 0;
		if (interrupted)
			return receive_fail(err, -EINTR, "interrupted");
		receive_progress(receive);
	} while (ret == -EAGAIN);
	return ret ? ret : receive_fail(err, -EPROTO, "it has ended without device state");
}

/* What has come, as what is to be sent */
static void hand_on(struct relay *relay, struct wh_config *out)
{
	const struct receive *receive = &relay->receive;
	struct parked *parked = &relay->send.parked;

	parked->blocks = receive->blocks;
	for (unsigned i = 0; i < receive->blocks; i++) {
		struct parked_block *block = &parked->block[i];

		memcpy(block->name, receive->block[i].name, sizeof(block->name));
		block->at = receive->block[i].at;
		block->length = receive->block[i].length;
		block->page_size = receive->block[i].page_size;
	}
	parked->device = receive->device;
	parked->device_length = receive->device_length;
	parked->device_format = receive->device_format;
	out->machine = wh_get_machine(receive->migration);
}

/* The link that pages come by has broken: FROM is waited for, where it was. */
static void recover(struct relay *relay)
{
	struct wh_err err = { 0 };
	bool paused = wh_get_phase(relay->receive.migration) == WH_PHASE_PAUSED;

	if (paused && !relay->recovering &&
	    !wh_recover(relay->receive.migration, relay->from, &err))
		receive_say(&relay->receive, "note",
			    "the link from FROM is broken: pages are missing, it has to resume");
	relay->recovering = paused && !err.code;
}

/* Does the guest run at TO, or may it? */
static bool is_over_there(const struct relay *relay)
{
	enum wh_phase phase =
		relay->send.migration ? wh_get_phase(relay->send.migration) : WH_PHASE_FAILED;

	return phase == WH_PHASE_POSTCOPY || phase == WH_PHASE_PAUSED ||
	       phase == WH_PHASE_RECOVER || phase == WH_PHASE_DONE || phase == WH_PHASE_UNKNOWN;
}

/*
 * FROM is told as soon as TO has the guest, and not before. What is missing here is missing
 * there, so it is waited for without limit.
 */
static int send_on(struct relay *relay, struct wh_config *out, struct wh_err *err)
{
	int ret = send_start(&relay->send, out, err);
	struct wh_err ignored;

	if (ret)
		return ret;
	do {
		ret = send_step(&relay->send, err);
		if (is_over_there(relay))
			answer(relay);
		else if (interrupted)
			wh_cancel(relay->send.migration, &ignored);
		recover(relay);
	} while (ret == 1);
	return ret;
}

/* All of it, and then into the folder */
static int keep_all(struct relay *relay, struct wh_err *err)
{
	struct receive *receive = &relay->receive;
	int ret;

	answer(relay);
	while ((ret = wh_wait(receive->migration, TURN_NS, err)) == -EAGAIN ||
	       (ret && wh_get_phase(receive->migration) == WH_PHASE_PAUSED)) {
		recover(relay);
		receive_progress(receive);
	}
	if (!ret)
		ret = receive_out_write(receive, err);
	return ret ? ret : receive_out_finish(receive, err);
}

static int not_taken(struct relay *relay, struct wh_err *why)
{
	const struct receive *receive = &relay->receive;
	struct wh_err err = { 0 };

	if (keep_all(relay, &err))
		return receive_fail(why, err.code, "%.150s; and it is not in %.100s: %.150s",
				    why->text, receive->out.path, err.text);
	relay->kept = true;
	return receive_fail(why, why->code, "%.250s; the guest is in %.100s", why->text,
			    receive->out.path);
}

static int run(struct relay *relay, const struct wh_config *in, struct wh_config *out,
	       struct wh_err *err)
{
	struct receive *receive = &relay->receive;
	int ret = receive_out_open(receive, err);

	if (!ret)
		ret = wh_new(&receive->migration, WH_DEST, in, err);
	if (!ret)
		ret = wh_listen(receive->migration, relay->from, err);
	if (ret)
		return ret;
	receive_listening(receive);
	ret = wh_start(receive->migration, err);
	if (!ret)
		ret = wait_device(relay, err);
	if (ret)
		return ret;
	hand_on(relay, out);
	ret = send_on(relay, out, err);
	if (ret && !is_over_there(relay))
		return not_taken(relay, err);
	/* All of it was read here, so nothing is missing; but FROM may not have heard so */
	if (!ret && wh_wait(receive->migration, -1, err))
		receive_say(receive, "note", "the guest is at TO, but not for FROM: %s", err->text);
	return ret;
}

int cmd_relay(int argc, char **argv)
{
	static struct relay relay;
	struct sigaction action = { .sa_handler = on_signal };
	struct wh_config in, out;
	struct wh_err err = { 0 };
	int ret;

	relay = (struct relay){ 0 };
	relay.receive =
		(struct receive){ .out.fd = -1, .verify = true, .begin_ns = receive_now_ns() };
	relay.send = (struct send){ .parked.fd = -1, .begin_ns = relay.receive.begin_ns };
	pthread_mutex_init(&relay.receive.show_lock, NULL);
	wh_config_init(&in);
	in.callbacks = &callbacks;
	in.opaque = &relay;
	wh_config_init(&out);
	out.callbacks = &send_callbacks;
	out.opaque = &relay.send;
	out.urgent = WH_URGENT_OFF;
	out.return_path = false;
	ret = read_options(&relay, &in, &out, argc, argv);
	if (ret < 0)
		fputs(usage, stdout);
	if (ret)
		return ret < 0 ? 0 : ret;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	ret = run(&relay, &in, &out, &err);
	if (ret)
		fprintf(stderr, "wherry relay: %s\n", err.text);
	send_summary(&relay.send, ret);
	wh_free(relay.send.migration);
	wh_free(relay.receive.migration);
	receive_out_close(&relay.receive, relay.kept);
	if (!ret)
		receive_blocks_drop(&relay.receive);
	free(relay.receive.device);
	return ret ? 1 : 0;
}
