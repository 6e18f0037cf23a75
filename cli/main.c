/* SPDX-License-Identifier: MIT */
/*
 * wherry: which subcommand.
 */
#include "cli/cli.h"

#include <errno.h>
#include <inttypes.h>
#include <stdbool.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <wherry/wherry.h>

static const struct {
	const char *name;
	int (*run)(int argc, char **argv);
	const char *what;
} commands[] = {
	{ "demo", cmd_demo, "move a running guest between two processes, and verify it" },
	{ "drill", cmd_drill, "break migrations on purpose, bring them back, and verify them" },
	{ "receive", cmd_receive, "take a migration from a QEMU and keep it in a directory" },
	{ "send", cmd_send, "put what receive has kept into a waiting QEMU" },
	{ "relay", cmd_relay, "move a guest between two QEMUs, by way of here" },
	{ "agent", cmd_agent, "serve the missing pages of another process's guest" },
	{ "netplug", cmd_netplug, "hold what a guest sends until it may be seen" },
	{ "protect", cmd_protect, "have a guest survive its machine, through QMP monitors" },
	{ "qmp", cmd_qmp, "give a QMP monitor a command, print its events" },
	{ "top", cmd_top, "watch a migration through its QMP monitor" },
	{ "check", cmd_check, "tell what this machine can do" },
	{ "dump", cmd_dump, "print a recorded stream, message by message" },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static void help(void)
{
	printf("usage: wherry COMMAND [OPTION]... [ARGUMENT]...\n\n"
	       "Moves the memory of running virtual machines between hosts.\n\n"
	       "Commands:\n");
	for (size_t i = 0; i < COMMANDS; i++)
		printf("  %-9s %s\n", commands[i].name, commands[i].what);
	printf("\n  wherry COMMAND --help   options of a command\n"
	       "  wherry --version        version\n\n"
	       "See wherry(1).\n");
}

int cli_usage(const char *name, const char *format, ...)
{
	va_list args;

	if (format) {
		fprintf(stderr, "wherry %s: ", name);
		va_start(args, format);
		vfprintf(stderr, format, args);
		va_end(args);
		fputc('\n', stderr);
	}
	fprintf(stderr, "Try 'wherry %s --help'.\n", name);
	return EXIT_USAGE;
}

int cli_number(const char *name, const char *option, const char *text, uint64_t most,
	       uint64_t *value)
{
	static const char units[] = "KMG";
	const char *unit;
	char *end;

	errno = 0;
	*value = strtoull(text, &end, 10);
	unit = *end ? strchr(units, *end) : NULL;
	if (unit && !end[1]) {
		unsigned shift = 10 * (unsigned)(unit - units + 1);

		end++;
		*value = *value > UINT64_MAX >> shift ? UINT64_MAX : *value << shift;
	}
	if (errno || *end || *text < '0' || *text > '9' || !*value || *value > most)
		return cli_usage(name, "--%s %s: 1 to %" PRIu64 " was expected", option, text,
				 most);
	return 0;
}

int cli_word(const char *name, const char *option, const char *text, const char *no,
	     const char *yes, bool *value)
{
	*value = !strcmp(text, yes);
	if (*value || !strcmp(text, no))
		return 0;
	return cli_usage(name, "--%s %s: %s or %s was expected", option, text, yes, no);
}

int cli_tls(const char *name, const char *text, const struct wh_tls **tls)
{
	static struct wh_tls *kept[8];
	static unsigned count;
	struct wh_err err;

	if (count == sizeof(kept) / sizeof(kept[0]))
		return cli_usage(name, "--tls is there too often");
	if (wh_tls_parse(&kept[count], text, &err) < 0)
		return cli_usage(name, "--tls %s: %s", text, err.text);
	*tls = kept[count++];
	return 0;
}

int cli_finish(const char *name, int status)
{
	if (fflush(stdout) == 0 && !ferror(stdout))
		return status;
	fprintf(stderr, "wherry %s: standard output: %s\n", name, strerrordesc_np(errno));
	return status ? status : 1;
}

/* Is one letter wrong, too many or missing, or are two in the wrong order? */
static bool is_close(const char *a, const char *b)
{
	size_t same = 0;

	while (a[same] && a[same] == b[same])
		same++;
	a += same;
	b += same;
	if (!*a || !*b)
		return strlen(a) + strlen(b) < 2;
	if (a[0] == b[1] && a[1] == b[0] && !strcmp(a + 2, b + 2))
		return true;
	return !strcmp(a + 1, b + 1) || !strcmp(a + 1, b) || !strcmp(a, b + 1);
}

static int unknown(const char *name)
{
	fprintf(stderr, "wherry: there is no command '%s'", name);
	for (size_t i = 0; i < COMMANDS; i++)
		if (is_close(name, commands[i].name))
			fprintf(stderr, "; is it '%s'?", commands[i].name);
	fprintf(stderr, "\nTry 'wherry --help'.\n");
	return EXIT_USAGE;
}

int main(int argc, char **argv)
{
	static char title[32];

	if (argc < 2) {
		fprintf(stderr, "wherry: a command is missing\nTry 'wherry --help'.\n");
		return EXIT_USAGE;
	}
	if (!strcmp(argv[1], "--help") || !strcmp(argv[1], "-h") || !strcmp(argv[1], "help")) {
		help();
		return cli_finish("help", 0);
	}
	if (!strcmp(argv[1], "--version") || !strcmp(argv[1], "-V")) {
		printf("wherry %s\n", wh_version());
		return cli_finish("version", 0);
	}
	for (size_t i = 0; i < COMMANDS; i++) {
		if (strcmp(argv[1], commands[i].name) != 0)
			continue;
		snprintf(title, sizeof(title), "wherry %s", commands[i].name);
		argv[1] = title;
		return cli_finish(commands[i].name, commands[i].run(argc - 1, argv + 1));
	}
	return unknown(argv[1]);
}
