/* SPDX-License-Identifier: MIT */
/*
 * The command line: one table, which is also the help text.
 */
#include "console.h"

#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define USAGE_STATUS 2

/* What a value is stands behind the name: words between bars, text, else a number */
struct option {
	const char *name;
	size_t at; /* in struct console, and its size there */
	size_t bytes;
	uint64_t unit; /* of a number; 0: text */
	const char *help;
};

#define AT(name) offsetof(struct console, name), sizeof(((struct console *)NULL)->name)
#define MS 1000000

/* clang-format off */
static const struct option options[] = {
	{ "--listen URI", AT(listen), 0, "be a destination (else a source); defer: QMP says where" },
	{ "--agent PATH", AT(config.agent), 0, "a destination is driven by the wherry agent there" },
	{ "--ram SIZE", AT(guest.ram_bytes), 1, "of the guest, at both ends alike (256M)" },
	{ "--vcpus N", AT(guest.cpus), 1, "of the guest, at both ends alike (2)" },
	{ "--memory private|memfd|hugetlb", AT(guest.memory), 0, "(private)" },
	{ "--threads", AT(guest.threads), 0, "plain threads instead of /dev/kvm" },
	{ "--rate PAGES", AT(guest.rate), 1, "a second, that each vCPU writes (0: all it can)" },
	{ "--nic TAP", AT(guest.nic), 0, "a network card there, which answers, see nic.h" },
	{ "--serial FILE", AT(guest.serial), 0, "what the guest prints, a digit a pass" },
	{ "--qmp SOCKET", AT(qmp), 0, "be a QMP monitor there" },
	{ "--replica URI", AT(replica), 0, "be the replica of a protected guest" },
	{ "--pulse URI", AT(pulse), 0, "its second connection (as --replica)" },
	{ "--generation FILE", AT(protection.generation_file), 0, "the number of its session" },
	{ "--authority manual|fence|alone", AT(protection.authority), 0, "to take over (manual)" },
	{ "--hold queue|plug|none", AT(hold), 0, "what keeps a protected guest's output (queue)" },
	{ "--holder NAME", AT(holder), 0, "the process that does: wherry netplug hold NAME" },
	{ "--interval MS", AT(interval_ns), MS, "between checkpoints (0: as it needs)" },
	{ "--checkpoint-max SIZE", AT(protection.contents_max), 1, "of one, not less there (256M)" },
	{ "--too-much stall|degrade", AT(protection.full), 0, "a guest that writes more (stall)" },
	{ "--copy-on-write", AT(protection.copy_on_write), 0, "a checkpoint's pages, after its stop" },
	{ "--heartbeat MS", AT(protection.heartbeat_ns), MS, "of a protection (100)" },
	{ "--lease MS", AT(protection.lease_ns), MS, "silent for longer is lost (1000)" },
	{ "--own-loop", AT(own_loop), 0, "the main loop drives it, not the library's threads" },
	{ "--postcopy off|on", AT(config.postcopy), 0, "at both ends alike (on)" },
	{ "--urgent off|switch|start", AT(config.urgent), 0, "second connection (switch)" },
	{ "--postcopy-after MS", AT(config.postcopy_after_ns), MS, "(0: by command only)" },
	{ "--bandwidth SIZE", AT(config.bandwidth), 1, "a second, in precopy (0: no limit)" },
	{ "--postcopy-bandwidth SIZE", AT(config.postcopy_bandwidth), 1, "of unasked pages" },
	{ "--downtime MS", AT(config.downtime_ns), MS, "allowed (300)" },
	{ "--return-path off|on", AT(config.return_path), 0, "in precopy (on)" },
	{ "--pin-all off|on", AT(config.rdma_pin_all), 0, "over RDMA (off)" },
	{ "--read-max SIZE", AT(config.rdma_read_max), 1, "over RDMA, that the other end reads (1G)" },
	{ "--pin-max SIZE", AT(config.rdma_pin_max), 1, "at a time (0: no limit)" },
	{ "--odp off|on", AT(config.rdma_odp), 0, "pin nothing, where the device can do that (on)" },
	{ "--connect-timeout MS", AT(config.connect_timeout_ns), MS, "" },
	{ "--auto-recover MS", AT(config.auto_recover_ns), MS, "a broken postcopy comes back" },
	{ "--dead-peer MS", AT(config.dead_peer_ns), MS, "silent for so long is gone" },
	{ "--tls WORDS", AT(tls), 0, "dir=DIR and more, see wh_tls_parse(3)" },
	{ "--fault-cpu N", AT(config.fault_cpu), 1, "processor of the fault thread" },
	{ "--fault-priority N", AT(config.fault_priority), 1, "its SCHED_FIFO priority" },
	{ "--fault-spin US", AT(config.fault_spin_ns), 1000, "it polls before it sleeps" },
	{ "--bulk-nice N", AT(config.bulk_nice), 1, "of what nobody waits for, in postcopy (5)" },
};
/* clang-format on */
#define OPTION_COUNT (sizeof(options) / sizeof(options[0]))

static void usage(void)
{
	puts("usage: wherry-vmm [option...]\n\n"
	     "A guest whose processors write all their memory for ever, moved from one process\n"
	     "to another by libwherry while it runs, and proved right afterwards.\n\n"
	     "Commands, lines of stdin: migrate URI, postcopy, cancel, pause, recover URI,\n"
	     "resume URI, quit; of protection: protect URI, unprotect, release, fence, and at the\n"
	     "replica takeover, abandon\n");
	for (size_t i = 0; i < OPTION_COUNT; i++)
		printf("  %-32s%s\n", options[i].name, options[i].help);
	puts("\nExit status: 0 moved, and at the destination verified, or the guest goes on here\n"
	     "without its replica, and is verified; 1 not; 2 usage.");
}

/* Which of the words between bars it is */
static bool word(const char *words, const char *text, uint64_t *value)
{
	size_t length;

	for (*value = 0;; ++*value, words += length + 1) {
		length = strcspn(words, "|");
		if (length == strlen(text) && !strncmp(words, text, length))
			return true;
		if (!words[length])
			return false;
	}
}

/* Digits, and K, M or G */
static bool number(const char *text, uint64_t unit, uint64_t max, uint64_t *value)
{
	unsigned shift;
	char *end;

	*value = strtoull(text, &end, 10);
	shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
	return *text >= '0' && *text <= '9' && !end[shift > 0] &&
	       !__builtin_mul_overflow(*value, unit << shift, value) && *value <= max;
}

static bool option_set(struct console *console, const struct option *option, const char *text)
{
	const char *kind = strchr(option->name, ' ');
	uint64_t value = kind ? (uintptr_t)text : 1; /* text, or that a flag is there */
	bool right = true;

	if (kind && strchr(kind, '|'))
		right = word(kind + 1, text, &value);
	else if (kind && option->unit)
		right = number(text, option->unit,
			       option->bytes == sizeof(int) ? INT16_MAX : INT64_MAX, &value);
	if (right) /* little-endian, as the guest */
		memcpy((char *)console + option->at, &value, option->bytes);
	return right;
}

static const struct option *option_named(const char *name)
{
	for (const struct option *option = options; option < options + OPTION_COUNT; option++)
		if (strcspn(option->name, " ") == strlen(name) &&
		    !strncmp(option->name, name, strlen(name)))
			return option;
	return NULL;
}

/* Kept until the process ends: QMP may begin another migration */
static void read_tls(struct console *console)
{
	static struct wh_tls *tls;
	struct wh_err err;

	if (wh_tls_parse(&tls, console->tls, &err)) {
		fprintf(stderr, "wherry-vmm: --tls: %s\n", err.text);
		exit(USAGE_STATUS);
	}
	console->config.tls = tls;
	console->protection.tls = tls;
}

void options_read(struct console *console, int argc, char **argv)
{
	const char *wrong = NULL;

	*console = (struct console){ .guest = { .ram_bytes = 256u << 20, .cpus = 2 } };
	wh_config_init(&console->config);
	wh_protect_config_init(&console->protection);
	console->config.return_path = true;
	for (int i = 1; i < argc && !wrong; i++) {
		const struct option *option = option_named(argv[i]);

		if (!strcmp(argv[i], "--help")) {
			usage();
			exit(fflush(stdout) ? 1 : 0);
		}
		if (!option || (strchr(option->name, ' ') && ++i == argc) ||
		    !option_set(console, option, argv[i]))
			wrong = option ? option->name : argv[i];
	}
	if (!wrong && (console->guest.cpus < 1 || console->guest.cpus > CPUS_MAX))
		wrong = "--vcpus";
	if (!wrong &&
	    (console->guest.ram_bytes % PAGE_BYTES || console->guest.ram_bytes < RAM_BYTES_MIN))
		wrong = "--ram";
	if (!wrong && console->config.agent && (console->own_loop || !console->listen))
		wrong = "--agent";
	if (!wrong && console->replica && (console->listen || !console->protection.generation_file))
		wrong = "--replica";
	if (console->interval_ns)
		console->protection.pace.min_ns = console->protection.pace.max_ns =
			console->interval_ns;
	if (!wrong && console->tls)
		read_tls(console);
	if (!wrong)
		return;
	fprintf(stderr, "wherry-vmm: %s: not so; see wherry-vmm --help\n", wrong);
	exit(USAGE_STATUS);
}
