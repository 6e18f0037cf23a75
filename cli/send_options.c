/* SPDX-License-Identifier: MIT */
/* wherry send: its options, some of which are wherry relay's too */
#include "cli/cli.h"
#include "cli/send.h"

#include <getopt.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_S 1000000000ull

static const char usage[] =
	"usage: wherry send --from DIR URI [options]\n"
	"\n"
	"Is the source of a migration: what wherry receive has kept in DIR goes to a destination\n"
	"that waits, a QEMU with -incoming or another. DIR is not changed.\n"
	"\n"
	"  URI                    tcp:HOST:PORT, rdma:HOST:PORT, unix:PATH, vsock:CID:PORT,\n"
	"                         fd:N; or\n"
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
	"  --pin-all              over RDMA: all memory is registered before it begins\n"
	"                         (as the capability rdma-pin-all)\n"
	"  --pin-max SIZE         over RDMA: no more memory than this is pinned at a time\n"
	"  --odp off|on           over RDMA: pin nothing, where the device can do that (on)\n"
	"  --switchover-ack       do not switch before the destination says that it is ready\n"
	"                         (at a QEMU from 8.1 on: the capability switchover-ack)\n"
	"  --bandwidth SIZE       bytes a second of what was not asked for (no limit)\n"
	"  --machine NAME         instead of the machine type in DIR\n"
	"  --page-size BLOCK=SIZE with --postcopy: host pages of a block there, 2M of hugetlb\n"
	"                         (what DIR says, which knows it of a source with postcopy-ram)\n"
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
	OPTION_PIN_ALL,
	OPTION_PIN_MAX,
	OPTION_ODP,
	OPTION_SWITCHOVER_ACK,
	OPTION_BANDWIDTH,
	OPTION_MACHINE,
	OPTION_PAGE_SIZE,
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
	{ "pin-all", no_argument, NULL, OPTION_PIN_ALL },
	{ "pin-max", required_argument, NULL, OPTION_PIN_MAX },
	{ "odp", required_argument, NULL, OPTION_ODP },
	{ "switchover-ack", no_argument, NULL, OPTION_SWITCHOVER_ACK },
	{ "bandwidth", required_argument, NULL, OPTION_BANDWIDTH },
	{ "machine", required_argument, NULL, OPTION_MACHINE },
	{ "page-size", required_argument, NULL, OPTION_PAGE_SIZE },
	{ "recover", required_argument, NULL, OPTION_RECOVER },
	{ "verify", optional_argument, NULL, OPTION_VERIFY },
	{ "timeout", required_argument, NULL, OPTION_TIMEOUT },
	{ "tls", required_argument, NULL, OPTION_TLS },
	{ "json", no_argument, NULL, OPTION_JSON },
	{ "quiet", no_argument, NULL, OPTION_QUIET },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ 0 },
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

/* BLOCK=SIZE, and there may be such a sign in BLOCK */
static int page_size(struct send *send, char *text)
{
	char *value = strrchr(text, '=');
	uint64_t bytes = 0;

	if (!value || value == text)
		return cli_usage("send", "--page-size %s: BLOCK=SIZE was expected", text);
	if (send->page_sizes == SEND_PAGE_SIZES)
		return cli_usage("send", "--page-size: more than %u times", SEND_PAGE_SIZES);
	*value++ = '\0';
	if (cli_number("send", "page-size", value, INT64_MAX, &bytes))
		return EXIT_USAGE;
	send->page_size[send->page_sizes].block = text;
	send->page_size[send->page_sizes++].bytes = bytes;
	return 0;
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
	case OPTION_PIN_ALL:
		config->rdma_pin_all = true;
		break;
	case OPTION_PIN_MAX:
		ret = cli_number("send", "pin-max", optarg, INT64_MAX, &config->rdma_pin_max);
		break;
	case OPTION_ODP:
		ret = cli_word("send", "odp", optarg, "off", "on", &config->rdma_odp);
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
	case OPTION_PAGE_SIZE:
		ret = page_size(send, optarg);
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

int send_options(struct send *send, struct wh_config *config, int argc, char **argv)
{
	int option;

	while ((option = getopt_long(argc, argv, "", options, NULL)) != -1) {
		if (option == OPTION_HELP) {
			fputs(usage, stdout);
			return -1;
		}
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
	if (send->page_sizes && !send->postcopy)
		return cli_usage("send", "--page-size is for --postcopy");
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
