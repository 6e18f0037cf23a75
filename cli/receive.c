/* SPDX-License-Identifier: MIT */
/*
 * wherry receive: take a guest out of any QEMU and keep it.
 *
 * In precopy the capture is written before the source is told that all is well, so that
 * a full disk leaves the guest where it was. In postcopy the source cannot take it back
 * any more when its last page is here: there the capture is written afterwards.
 */
#include "cli/cli.h"
#include "cli/receive.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TURN_NS 100000000ll /* between two looks at signals and progress */
#define NS_PER_S 1000000000ull

static const char usage[] =
	"usage: wherry receive URI --out DIR [options]\n"
	"\n"
	"Is the destination of a migration, of QEMU or of another user of the library, and\n"
	"keeps what comes: a file for each block of RAM (sparse), the device state as it is,\n"
	"and manifest.json with lengths and digests, which is written last. Nothing runs here.\n"
	"\n"
	"  URI                     tcp:HOST:PORT, rdma:HOST:PORT, unix:PATH, vsock:CID:PORT or\n"
	"                          fd:N; or file:PATH[,offset=N], to which a QEMU has migrated\n"
	"  --out DIR               a folder that is empty, or is made\n"
	"  --force                 DIR may hold a capture, which goes when the new one is complete\n"
	"  --reserve on|off        where postcopy may come: room in DIR for all of RAM before that (on)\n"
	"  --postcopy on|off       as at the source (on)\n"
	"  --urgent on|off         as postcopy-preempt at the source; on takes either (on)\n"
	"  --multifd N             of its connections exactly so many (as many as come)\n"
	"  --switchover-ack        as at the source (QEMU 8.1 and later): say when it may switch\n"
	"  --touch[=THREADS]       read memory at random while pages are missing (1)\n"
	"  --memory memfd|private  where RAM lies meanwhile (memfd)\n"
	"  --verify[=on|off]       a digest of each page, so that damage can be found later (on)\n"
	"  --hugetlb               fail if a block of huge pages cannot have them here too\n"
	"  --device-max SIZE       bytes of device state taken (256M)\n"
	"  --pin-max SIZE          over RDMA: no more memory than this is pinned at a time\n"
	"  --odp off|on            over RDMA: pin nothing, where the device can do that (on)\n"
	"  --tls WORDS             dir=DIR and more: every connection speaks TLS (tls.rst)\n"
	"  --timeout SECONDS       until a connection says what it is, and until a silent\n"
	"                          peer is taken for dead (10)\n"
	"  --recover SECONDS       a postcopy whose link breaks: listen again there for so long\n"
	"  --json                  one JSON object a line\n"
	"  --quiet                 nothing but errors\n"
	"  --help\n"
	"\n"
	"Exit status: 0 all of it is in DIR; 1 not; 2 usage.\n";

enum {
	OPTION_OUT = 1,
	OPTION_FORCE,
	OPTION_RESERVE,
	OPTION_POSTCOPY,
	OPTION_URGENT,
	OPTION_MULTIFD,
	OPTION_SWITCHOVER_ACK,
	OPTION_TOUCH,
	OPTION_MEMORY,
	OPTION_HUGETLB,
	OPTION_VERIFY,
	OPTION_DEVICE_MAX,
	OPTION_PIN_MAX,
	OPTION_ODP,
	OPTION_TIMEOUT,
	OPTION_TLS,
	OPTION_RECOVER,
	OPTION_JSON,
	OPTION_QUIET,
	OPTION_HELP,
};

static const struct option options[] = {
	{ "out", required_argument, NULL, OPTION_OUT },
	{ "force", no_argument, NULL, OPTION_FORCE },
	{ "reserve", required_argument, NULL, OPTION_RESERVE },
	{ "postcopy", required_argument, NULL, OPTION_POSTCOPY },
	{ "urgent", required_argument, NULL, OPTION_URGENT },
	{ "multifd", required_argument, NULL, OPTION_MULTIFD },
	{ "switchover-ack", no_argument, NULL, OPTION_SWITCHOVER_ACK },
	{ "touch", optional_argument, NULL, OPTION_TOUCH },
	{ "memory", required_argument, NULL, OPTION_MEMORY },
	{ "hugetlb", no_argument, NULL, OPTION_HUGETLB },
	{ "verify", optional_argument, NULL, OPTION_VERIFY },
	{ "device-max", required_argument, NULL, OPTION_DEVICE_MAX },
	{ "pin-max", required_argument, NULL, OPTION_PIN_MAX },
	{ "odp", required_argument, NULL, OPTION_ODP },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "tls", required_argument, NULL, OPTION_TLS },
	{ "recover", required_argument, NULL, OPTION_RECOVER },
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

static void on_event(void *opaque, const struct wh_event *event)
{
	struct receive *receive = opaque;

	if (event->kind != WH_EVENT_PHASE)
		return;
	if (event->phase == WH_PHASE_POSTCOPY)
		receive->postcopy = true;
	receive_say(receive, "phase", "%s", wh_phase_name(event->phase));
	/* once for each break, and not when it is given up: then that is the result */
	if (event->phase == WH_PHASE_PAUSED && receive->recover_s && !receive->broken)
		receive_say(receive, "note",
			    "the link broke (%s); listening on %s again for %" PRIu64
			    " s (QEMU: migrate with resume=true)",
			    event->err ? event->err->text : "no reason",
			    wh_listen_uri(receive->migration), receive->recover_s);
	receive->broken = event->phase == WH_PHASE_PAUSED || event->phase == WH_PHASE_RECOVER;
}

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	if (level <= WH_LOG_WARNING)
		receive_say(opaque, "note", "%s", line);
}

int receive_block(struct receive *receive, const char *name, uint64_t length, uint64_t page_size,
		  struct wh_block *block, struct wh_err *err)
{
	int ret = receive_block_make(receive, name, length, page_size, block, err);

	if (ret)
		return ret;
	receive_say(receive, "block", "block '%s': %" PRIu64 " KiB in pages of %" PRIu64 " KiB",
		    name, length >> 10, block->page_size >> 10);
	if (receive->migration && wh_may_postcopy(receive->migration) && !receive->out.sparse)
		return receive_out_reserve(receive, err);
	receive_out_room(receive);
	return 0;
}

static int on_block(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		    struct wh_block *block, struct wh_err *err)
{
	return receive_block(opaque, name, length, page_size, block, err);
}

static void *writer_main(void *arg)
{
	struct receive *receive = arg;
	int ret = receive_out_write(receive, &receive->write_err);

	receive->written = !ret;
	wh_device_loaded(receive->migration, ret);
	return NULL;
}

/* Unless the main thread has given up meanwhile: it would not wait for this one. */
static int start_writer(struct receive *receive, struct wh_err *err)
{
	int ret = ECANCELED;

	pthread_mutex_lock(&receive->write_lock);
	if (!receive->write_stop)
		ret = pthread_create(&receive->writer, NULL, writer_main, receive);
	receive->writing = !ret;
	pthread_mutex_unlock(&receive->write_lock);
	if (!ret)
		return WH_PENDING;
	errno = ret;
	return receive_fail(err, -ret, "thread that writes: %m");
}

static void stop_writer(struct receive *receive, bool at_once)
{
	bool writing;

	pthread_mutex_lock(&receive->write_lock);
	if (at_once)
		__atomic_store_n(&receive->write_stop, true, __ATOMIC_RELEASE);
	writing = receive->writing;
	pthread_mutex_unlock(&receive->write_lock);
	if (writing)
		pthread_join(receive->writer, NULL);
}

/* Device state is the last there is of a precopy stream, and only of such a one. */
static int on_device(void *opaque, const void *data, size_t length, enum wh_device_format format,
		     struct wh_err *err)
{
	struct receive *receive = opaque;
	struct wh_stats stats;

	receive->device = malloc(length ? length : 1);
	if (!receive->device)
		return receive_fail(err, -ENOMEM, "no memory for %zu bytes of device state",
				    length);
	if (length)
		memcpy(receive->device, data, length);
	receive->device_length = length;
	receive->device_format = format;
	wh_get_stats(receive->migration, &stats);
	if (stats.pages_left)
		return 0;
	return start_writer(receive, err);
}

/* A guest would run from here on; what reads memory now is what there is of one. */
static int on_start(void *opaque, struct wh_err *err)
{
	struct receive *receive = opaque;
	struct wh_stats stats;

	(void)err;
	receive->started = true;
	wh_get_stats(receive->migration, &stats);
	if (stats.pages_left)
		receive_touch_start(receive);
	return 0;
}

static const struct wh_callbacks callbacks = {
	.event = on_event,
	.log = on_log,
	.block = on_block,
	.device_load = on_device,
	.start = on_start,
};

static int read_option(struct receive *receive, struct wh_config *config, int option)
{
	uint64_t number = 1;
	bool yes = false;
	int ret = 0;

	switch (option) {
	case OPTION_OUT:
		receive->out.path = optarg;
		break;
	case OPTION_FORCE:
		receive->out.force = true;
		break;
	case OPTION_RESERVE:
		ret = cli_word("receive", "reserve", optarg, "on", "off", &receive->out.sparse);
		break;
	case OPTION_POSTCOPY:
		ret = cli_word("receive", "postcopy", optarg, "off", "on", &config->postcopy);
		break;
	case OPTION_URGENT:
		ret = cli_word("receive", "urgent", optarg, "off", "on", &yes);
		config->urgent = yes ? WH_URGENT_AT_SWITCH : WH_URGENT_OFF;
		break;
	case OPTION_MULTIFD:
		ret = cli_number("receive", "multifd", optarg, WH_MULTIFD_MAX, &number);
		config->multifd = (unsigned)number;
		break;
	case OPTION_SWITCHOVER_ACK:
		config->switchover_ack = true;
		break;
	case OPTION_TOUCH:
		if (optarg)
			ret = cli_number("receive", "touch", optarg, RECEIVE_TOUCH_MAX, &number);
		receive->touchers = (unsigned)number;
		break;
	case OPTION_MEMORY:
		ret = cli_word("receive", "memory", optarg, "memfd", "private", &yes);
		receive->memory = yes ? RECEIVE_PRIVATE : RECEIVE_MEMFD;
		break;
	case OPTION_HUGETLB:
		receive->hugetlb = true;
		break;
	case OPTION_VERIFY:
		receive->verify = true;
		if (optarg)
			ret = cli_word("receive", "verify", optarg, "off", "on", &receive->verify);
		break;
	case OPTION_DEVICE_MAX:
		ret = cli_number("receive", "device-max", optarg, UINT64_C(1) << 32,
				 &config->device_state_max);
		break;
	case OPTION_PIN_MAX:
		ret = cli_number("receive", "pin-max", optarg, INT64_MAX, &config->rdma_pin_max);
		break;
	case OPTION_ODP:
		ret = cli_word("receive", "odp", optarg, "off", "on", &config->rdma_odp);
		break;
	case OPTION_TIMEOUT:
		ret = cli_number("receive", "timeout", optarg, 86400, &number);
		config->connect_timeout_ns = number * NS_PER_S;
		config->dead_peer_ns = number * NS_PER_S;
		break;
	case OPTION_RECOVER:
		ret = cli_number("receive", "recover", optarg, UINT64_C(30) * 86400, &number);
		receive->recover_s = number;
		config->auto_recover_ns = number * NS_PER_S;
		break;
	case OPTION_TLS:
		ret = cli_tls("receive", optarg, &config->tls);
		break;
	case OPTION_JSON:
		receive->json = true;
		break;
	case OPTION_QUIET:
		receive->quiet = true;
		break;
	default:
		ret = cli_usage("receive", NULL); /* getopt has said what */
	}
	return ret;
}

/* Return: 0 and *@uri, -1 help was asked for, or EXIT_USAGE */
static int read_options(struct receive *receive, struct wh_config *config, int argc, char **argv,
			const char **uri)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPTION_HELP)
			return -1;
		if (read_option(receive, config, option))
			return EXIT_USAGE;
	}
	if (optind == argc)
		return cli_usage("receive", "where to listen is missing");
	*uri = argv[optind++];
	if (optind < argc)
		return cli_usage("receive", "what is %s?", argv[optind]);
	if (!receive->out.path)
		return cli_usage("receive", "--out DIR is missing");
	return 0;
}

static int was_interrupted(const struct receive *receive, struct wh_err *err)
{
	bool lost = wh_get_phase(receive->migration) == WH_PHASE_POSTCOPY;

	return receive_fail(err, -EINTR, "interrupted%s", lost ? ", with pages missing" : "");
}

/* Return: 0 all of it has come, or a negative errno and the sentence */
static int wait_for_it(struct receive *receive, struct wh_err *err)
{
	int ret;

	while ((ret = wh_wait(receive->migration, TURN_NS, err)) == -EAGAIN) {
		if (interrupted)
			return was_interrupted(receive, err);
		receive_progress(receive);
	}
	return ret;
}

/*
 * After postcopy nobody else has this guest any more: a signal changes nothing here.
 */
static int keep(struct receive *receive, struct wh_err *err)
{
	int ret = 0;

	if (!receive->written)
		ret = receive_out_write(receive, err);
	return ret ? ret : receive_out_finish(receive, err);
}

static int receive_one(struct receive *receive, const char *uri, struct wh_err *err)
{
	int ret;

	ret = wh_listen(receive->migration, uri, err);
	if (ret)
		return ret;
	receive_listening(receive);
	ret = wh_start(receive->migration, err);
	if (ret)
		return ret;
	ret = wait_for_it(receive, err);
	stop_writer(receive, ret != 0);
	receive_touch_stop(receive, !ret);
	/* What made the migration fail, unless it was that failure which stopped the writer */
	if (receive->write_err.code && receive->write_err.code != -ECANCELED) {
		*err = receive->write_err;
		return err->code;
	}
	return ret ? ret : keep(receive, err);
}

static int run(struct receive *receive, const struct wh_config *config, const char *uri,
	       struct wh_err *err)
{
	int ret;

	ret = receive_out_open(receive, err);
	if (!ret && wh_is_file(uri)) {
		ret = receive_file(receive, uri, is_interrupted, config->device_state_max, err);
		return ret ? ret : keep(receive, err);
	}
	if (!ret)
		ret = wh_new(&receive->migration, WH_DEST, config, err);
	if (!ret)
		ret = receive_one(receive, uri, err);
	return ret;
}

static void catch_signals(void)
{
	static const int numbers[] = { SIGINT, SIGTERM, SIGHUP };
	struct sigaction action = { .sa_handler = on_signal };

	for (unsigned i = 0; i < sizeof(numbers) / sizeof(numbers[0]); i++)
		sigaction(numbers[i], &action, NULL);
	signal(SIGPIPE, SIG_IGN); /* of what shows progress; the guest is worth more */
}

int cmd_receive(int argc, char **argv)
{
	static struct receive receive;
	struct wh_err err = { 0 };
	struct wh_config config;
	const char *uri = NULL;
	int ret;

	receive = (struct receive){ .out.fd = -1, .verify = true, .begin_ns = receive_now_ns() };
	pthread_mutex_init(&receive.show_lock, NULL);
	pthread_mutex_init(&receive.write_lock, NULL);
	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = &receive;
	ret = read_options(&receive, &config, argc, argv, &uri);
	if (ret < 0)
		fputs(usage, stdout);
	if (ret)
		return ret < 0 ? 0 : ret;
	catch_signals();
	ret = run(&receive, &config, uri, &err);
	receive_summary(&receive, ret, &err);
	/* An interrupted one goes on until here, and looks at the folder for each block. */
	wh_free(receive.migration);
	receive_out_close(&receive, !ret);
	/*
	 * A thread that waits for a page that will not come any more ends with the process
	 * only; memory it looks at stays until then.
	 */
	if (!ret)
		receive_blocks_drop(&receive);
	free(receive.device);
	return ret ? 1 : 0;
}
