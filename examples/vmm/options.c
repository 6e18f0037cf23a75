/* SPDX-License-Identifier: MIT */
/*
 * The command line.
 */
#include "vmm.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define NS_PER_MS 1000000ull
#define USAGE_STATUS 2
#define ARRAY_COUNT(array) (sizeof(array) / sizeof((array)[0]))

static const char usage[] =
	"usage: wherry-vmm source --to URI [options]\n"
	"       wherry-vmm dest [--listen URI] [options]\n"
	"\n"
	"A guest whose processors write all their memory for ever, moved from one process\n"
	"to another by libwherry while it runs, and proved right afterwards.\n"
	"\n"
	"URI: tcp:HOST:PORT, unix:PATH, vsock:CID:PORT, fd:N\n"
	"\n"
	"The guest, alike at both ends:\n"
	"  --ram SIZE            memory (256M)\n"
	"  --vcpus N             processors (2)\n"
	"  --memory KIND         private, memfd or hugetlb (private)\n"
	"  --threads             plain threads instead of /dev/kvm\n"
	"  --rate PAGES          a second and processor that it writes (0: as fast as it can)\n"
	"  --serial FILE         what it prints: a digit a pass and processor\n"
	"The migration:\n"
	"  --postcopy on|off     alike at both ends (on)\n"
	"  --urgent off|switch|start  second connection for awaited pages (switch)\n"
	"  --own-loop            driven by this program's poll loop, not by the library's threads\n"
	"Source:\n"
	"  --migrate-after MS    let the guest run before (500)\n"
	"  --postcopy-after MS   switch to postcopy after so long (0: never by itself)\n"
	"  --postcopy-at MS      the same by an explicit command\n"
	"  --postcopy-at-round N  the same when so many rounds of precopy have ended\n"
	"  --cancel-at MS        cancel it\n"
	"  --bandwidth SIZE      bytes a second in precopy (0: no limit)\n"
	"  --postcopy-bandwidth SIZE  of the background pages of postcopy\n"
	"  --downtime MS         allowed (300)\n"
	"  --return-path on|off  hear from the destination in precopy too (on)\n"
	"  --connect-timeout MS\n"
	"Destination:\n"
	"  --load-elsewhere      device state on a thread of its own\n"
	"  --fault-cpu N         processor of the thread that serves faults\n"
	"  --fault-priority N    its SCHED_FIFO priority\n"
	"  --fault-spin US       it polls so long before it sleeps\n"
	"  --run-after MS        let the guest run before its memory is verified (200)\n"
	"Both:\n"
	"  --dead-peer MS        a silent peer is gone after so long\n"
	"  --hold SECONDS        after a failure the process, and at the source its guest, goes\n"
	"                        on for so long (until SIGTERM or SIGINT)\n"
	"  --json                one JSON object a line\n"
	"  --help\n"
	"\n"
	"Exit status: 0 moved, and at the destination verified; 1 not; 2 usage.\n";

enum option_number {
	OPT_TO = 256,
	OPT_LISTEN,
	OPT_RAM,
	OPT_VCPUS,
	OPT_MEMORY,
	OPT_THREADS,
	OPT_RATE,
	OPT_SERIAL,
	OPT_POSTCOPY,
	OPT_URGENT,
	OPT_OWN_LOOP,
	OPT_MIGRATE_AFTER,
	OPT_POSTCOPY_AFTER,
	OPT_POSTCOPY_AT,
	OPT_POSTCOPY_AT_ROUND,
	OPT_CANCEL_AT,
	OPT_BANDWIDTH,
	OPT_POSTCOPY_BANDWIDTH,
	OPT_DOWNTIME,
	OPT_RETURN_PATH,
	OPT_CONNECT_TIMEOUT,
	OPT_LOAD_ELSEWHERE,
	OPT_FAULT_CPU,
	OPT_FAULT_PRIORITY,
	OPT_FAULT_SPIN,
	OPT_RUN_AFTER,
	OPT_DEAD_PEER,
	OPT_HOLD,
	OPT_JSON,
	OPT_HELP
};

static const struct option options_long[] = {
	{ "to", required_argument, NULL, OPT_TO },
	{ "listen", required_argument, NULL, OPT_LISTEN },
	{ "ram", required_argument, NULL, OPT_RAM },
	{ "vcpus", required_argument, NULL, OPT_VCPUS },
	{ "memory", required_argument, NULL, OPT_MEMORY },
	{ "threads", no_argument, NULL, OPT_THREADS },
	{ "rate", required_argument, NULL, OPT_RATE },
	{ "serial", required_argument, NULL, OPT_SERIAL },
	{ "postcopy", required_argument, NULL, OPT_POSTCOPY },
	{ "urgent", required_argument, NULL, OPT_URGENT },
	{ "own-loop", no_argument, NULL, OPT_OWN_LOOP },
	{ "migrate-after", required_argument, NULL, OPT_MIGRATE_AFTER },
	{ "postcopy-after", required_argument, NULL, OPT_POSTCOPY_AFTER },
	{ "postcopy-at", required_argument, NULL, OPT_POSTCOPY_AT },
	{ "postcopy-at-round", required_argument, NULL, OPT_POSTCOPY_AT_ROUND },
	{ "cancel-at", required_argument, NULL, OPT_CANCEL_AT },
	{ "bandwidth", required_argument, NULL, OPT_BANDWIDTH },
	{ "postcopy-bandwidth", required_argument, NULL, OPT_POSTCOPY_BANDWIDTH },
	{ "downtime", required_argument, NULL, OPT_DOWNTIME },
	{ "return-path", required_argument, NULL, OPT_RETURN_PATH },
	{ "connect-timeout", required_argument, NULL, OPT_CONNECT_TIMEOUT },
	{ "load-elsewhere", no_argument, NULL, OPT_LOAD_ELSEWHERE },
	{ "fault-cpu", required_argument, NULL, OPT_FAULT_CPU },
	{ "fault-priority", required_argument, NULL, OPT_FAULT_PRIORITY },
	{ "fault-spin", required_argument, NULL, OPT_FAULT_SPIN },
	{ "run-after", required_argument, NULL, OPT_RUN_AFTER },
	{ "dead-peer", required_argument, NULL, OPT_DEAD_PEER },
	{ "hold", required_argument, NULL, OPT_HOLD },
	{ "json", no_argument, NULL, OPT_JSON },
	{ "help", no_argument, NULL, OPT_HELP },
	{ NULL, 0, NULL, 0 },
};

/* The argument as a number with K, M or G behind it; false: it is none, or above @max */
static bool number(const char *text, uint64_t scale, uint64_t max, uint64_t *value)
{
	static const char suffixes[] = "KMG";
	const char *suffix;
	char *end;

	if (*text < '0' || *text > '9')
		return false;
	errno = 0;
	*value = strtoull(text, &end, 10);
	if (errno)
		return false;
	suffix = *end ? strchr(suffixes, *end) : NULL;
	if (suffix) {
		scale <<= 10 * (suffix - suffixes + 1);
		end++;
	}
	if (*end || *value > max / scale)
		return false;
	*value *= scale;
	return true;
}

static bool choice(const char *text, const char *const *names, unsigned count, unsigned *value)
{
	for (*value = 0; *value < count; ++*value)
		if (!strcmp(text, names[*value]))
			return true;
	return false;
}

static bool on_off(const char *text, bool *value)
{
	static const char *const names[] = { "off", "on" };
	unsigned which;

	if (!choice(text, names, ARRAY_COUNT(names), &which))
		return false;
	*value = which == 1;
	return true;
}

static bool milliseconds(const char *text, uint64_t *ns)
{
	return number(text, NS_PER_MS, INT64_MAX, ns);
}

static bool moment(const char *text, int64_t *ns)
{
	uint64_t value = 0;
	bool ok = milliseconds(text, &value);

	*ns = (int64_t)value;
	return ok;
}

static bool guest_option(struct options *o, int option, const char *text, bool *ok)
{
	const char *const kinds[] = { memory_name(MEMORY_PRIVATE), memory_name(MEMORY_MEMFD),
				      memory_name(MEMORY_HUGETLB) };
	uint64_t value = 0;
	unsigned which = 0;

	_Static_assert(ARRAY_COUNT(kinds) == MEMORY_COUNT, "a name for each kind of memory");
	switch (option) {
	case OPT_RAM:
		*ok = number(text, 1, INT64_MAX, &o->ram_bytes) && !(o->ram_bytes % PAGE_BYTES) &&
		      o->ram_bytes >= RAM_BYTES_MIN;
		return true;
	case OPT_VCPUS:
		*ok = number(text, 1, CPUS_MAX, &value) && value;
		o->cpus = (unsigned)value;
		return true;
	case OPT_MEMORY:
		*ok = choice(text, kinds, MEMORY_COUNT, &which);
		o->memory = (enum memory_kind)which;
		return true;
	case OPT_THREADS:
		o->threads = true;
		return true;
	case OPT_RATE:
		*ok = number(text, 1, UINT32_MAX, &o->rate);
		return true;
	case OPT_SERIAL:
		o->serial = text;
		return true;
	}
	return false;
}

static bool config_option(struct options *o, int option, const char *text, bool *ok)
{
	static const char *const urgents[] = {
		[WH_URGENT_OFF] = "off", [WH_URGENT_AT_SWITCH] = "switch", [WH_URGENT_AT_START] = "start"
	};
	uint64_t value = 0;
	unsigned which = 0;

	switch (option) {
	case OPT_POSTCOPY:
		*ok = on_off(text, &o->config.postcopy);
		return true;
	case OPT_URGENT:
		*ok = choice(text, urgents, ARRAY_COUNT(urgents), &which);
		o->config.urgent = (enum wh_urgent)which;
		return true;
	case OPT_POSTCOPY_AFTER:
		*ok = milliseconds(text, &o->config.postcopy_after_ns);
		return true;
	case OPT_BANDWIDTH:
		*ok = number(text, 1, INT64_MAX, &o->config.bandwidth);
		return true;
	case OPT_POSTCOPY_BANDWIDTH:
		*ok = number(text, 1, INT64_MAX, &o->config.postcopy_bandwidth);
		return true;
	case OPT_DOWNTIME:
		*ok = milliseconds(text, &o->config.downtime_ns);
		return true;
	case OPT_RETURN_PATH:
		*ok = on_off(text, &o->config.return_path);
		return true;
	case OPT_CONNECT_TIMEOUT:
		*ok = milliseconds(text, &o->config.connect_timeout_ns);
		return true;
	case OPT_DEAD_PEER:
		*ok = milliseconds(text, &o->config.dead_peer_ns);
		return true;
	case OPT_FAULT_CPU:
		*ok = number(text, 1, INT16_MAX, &value);
		o->config.fault_cpu = (int)value;
		return true;
	case OPT_FAULT_PRIORITY:
		*ok = number(text, 1, 99, &value);
		o->config.fault_priority = (int)value;
		return true;
	case OPT_FAULT_SPIN:
		*ok = number(text, 1000, INT64_MAX, &o->config.fault_spin_ns);
		return true;
	}
	return false;
}

static bool own_option(struct options *o, int option, const char *text, bool *ok)
{
	uint64_t value = 0;

	switch (option) {
	case OPT_TO:
		o->uri = text;
		*ok = o->side == SIDE_SOURCE;
		return true;
	case OPT_LISTEN:
		o->uri = text;
		*ok = o->side == SIDE_DEST;
		return true;
	case OPT_OWN_LOOP:
		o->own_loop = true;
		return true;
	case OPT_MIGRATE_AFTER:
		*ok = milliseconds(text, &o->migrate_after_ns);
		return true;
	case OPT_POSTCOPY_AT:
		*ok = moment(text, &o->postcopy_at_ns);
		return true;
	case OPT_POSTCOPY_AT_ROUND:
		*ok = number(text, 1, INT64_MAX, &o->postcopy_at_round) && o->postcopy_at_round;
		return true;
	case OPT_CANCEL_AT:
		*ok = moment(text, &o->cancel_at_ns);
		return true;
	case OPT_LOAD_ELSEWHERE:
		o->load_elsewhere = true;
		return true;
	case OPT_RUN_AFTER:
		*ok = milliseconds(text, &o->run_after_ns);
		return true;
	case OPT_HOLD:
		*ok = number(text, 1000 * NS_PER_MS, INT64_MAX, &value);
		o->hold_ns = (int64_t)value;
		return true;
	case OPT_JSON:
		o->json = true;
		return true;
	}
	return false;
}

static int complain(const char *what, const char *which)
{
	fprintf(stderr, "wherry-vmm: %s%s; see wherry-vmm --help\n", what, which);
	return USAGE_STATUS + 1;
}

static int options_rest(struct options *o, int argc, char **argv)
{
	int option, at;

	while ((option = getopt_long(argc, argv, "", options_long, &at)) != -1) {
		bool ok = true;

		if (option == OPT_HELP)
			return fputs(usage, stdout) < 0 ? 2 : 1;
		if (option == '?')
			return USAGE_STATUS + 1; /* getopt has said what */
		if (!guest_option(o, option, optarg, &ok) && !config_option(o, option, optarg, &ok))
			own_option(o, option, optarg, &ok);
		if (!ok)
			return complain("not so: --", options_long[at].name);
	}
	if (optind < argc)
		return complain("what is ", argv[optind]);
	if (!o->uri)
		return complain("missing: --to", " URI");
	return 0;
}

int options_read(struct options *o, int argc, char **argv)
{
	static const char *const sides[] = { [SIDE_SOURCE] = "source", [SIDE_DEST] = "dest" };
	unsigned side;

	*o = (struct options){
		.ram_bytes = 256ull << 20,
		.cpus = 2,
		.migrate_after_ns = 500 * NS_PER_MS,
		.postcopy_at_ns = -1,
		.cancel_at_ns = -1,
		.hold_ns = -1,
		.run_after_ns = 200 * NS_PER_MS,
	};
	wh_config_init(&o->config);
	o->config.return_path = true;
	if (argc > 1 && !strcmp(argv[1], "--help"))
		return fputs(usage, stdout) < 0 ? 2 : 1;
	if (argc < 2 || !choice(argv[1], sides, ARRAY_COUNT(sides), &side))
		return complain("source or dest", "?");
	o->side = (enum side)side;
	if (o->side == SIDE_DEST)
		o->uri = "tcp:127.0.0.1:0";
	return options_rest(o, argc - 1, argv + 1);
}
