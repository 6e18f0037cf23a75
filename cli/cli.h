/* SPDX-License-Identifier: MIT */
#ifndef CLI_CLI_H
#define CLI_CLI_H

#include <stdbool.h>
#include <stdint.h>

/*
 * wherry: one file (or a few) a subcommand. A subcommand gets "wherry NAME" as argv[0],
 * so that getopt_long() begins its sentences with it, and returns the exit status: 0, 1
 * for what went wrong, 2 for how it was called.
 */
#define EXIT_USAGE 2

int cmd_agent(int argc, char **argv);
int cmd_check(int argc, char **argv);
int cmd_demo(int argc, char **argv);
int cmd_drill(int argc, char **argv);
int cmd_dump(int argc, char **argv);
int cmd_netplug(int argc, char **argv);
int cmd_protect(int argc, char **argv);
int cmd_qmp(int argc, char **argv);
int cmd_receive(int argc, char **argv);
int cmd_relay(int argc, char **argv);
int cmd_send(int argc, char **argv);
int cmd_top(int argc, char **argv);

/*
 * "wherry NAME: ..." and where to read more, on stderr; no @format where getopt_long()
 * has said what is wrong. Return: EXIT_USAGE
 */
int cli_usage(const char *name, const char *format, ...) __attribute__((format(printf, 2, 3)));

/*
 * Values of options: 1 to @most, K, M and G behind it; one of two words, @value is whether it was
 * @yes. Return: 0, or EXIT_USAGE when they have said what is wrong
 */
int cli_number(const char *name, const char *option, const char *text, uint64_t most,
	       uint64_t *value);
int cli_word(const char *name, const char *option, const char *text, const char *no,
	     const char *yes, bool *value);

/*
 * --tls: wh_tls_parse(), kept until the process ends. Return: 0, or EXIT_USAGE when it has said
 * what is wrong
 */
struct wh_tls;
int cli_tls(const char *name, const char *text, const struct wh_tls **tls);

/* Of main(): what stdout could not take is a failure too. Return: status, or 1 */
int cli_finish(const char *name, int status);

#endif /* CLI_CLI_H */
