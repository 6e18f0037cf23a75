/* SPDX-License-Identifier: MIT */
/*
 * wherry agent: the part of a destination that may die. It waits at a socket for a VMM, is
 * handed the guest's memory, and ends with the migration. Whoever supervises it starts the
 * next one.
 */
#include "cli/cli.h"

#include <errno.h>
#include <getopt.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/un.h>
#include <unistd.h>
#include <wherry/qmp.h>
#include <wherry/wherry.h>

static const char help[] =
	"usage: wherry agent --socket PATH [--qmp PATH] [--quiet]\n\n"
	"Waits for a VMM that hands its memory over, takes the migration for it, and serves the\n"
	"missing pages of its guest. If it dies the guest waits, and another one goes on.\n\n"
	"  --socket PATH  unix socket to wait at; one that nobody listens on is replaced\n"
	"  --qmp PATH     unix socket of a QMP monitor, for wherry qmp and wherry top\n"
	"  --quiet        no lines on standard output\n"
	"  --help         this text\n\n"
	"Exit status: 0 the guest is at the VMM, all of it; 1 it is not.\n";

enum {
	OPTION_SOCKET = 256,
	OPTION_QMP,
	OPTION_QUIET,
	OPTION_HELP,
};

static const struct option options[] = {
	{ "socket", required_argument, NULL, OPTION_SOCKET },
	{ "qmp", required_argument, NULL, OPTION_QMP },
	{ "quiet", no_argument, NULL, OPTION_QUIET },
	{ "help", no_argument, NULL, OPTION_HELP },
	{ 0 },
};

static int complain(const char *path, int code)
{
	fprintf(stderr, "wherry agent: %s: %s\n", path, strerrordesc_np(code));
	return -1;
}

/* Was it left by one that has died? Nobody listens then */
static bool is_stale(const struct sockaddr_un *at)
{
	int fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	bool stale = fd >= 0 && connect(fd, (const struct sockaddr *)at, sizeof(*at)) < 0 &&
		     errno == ECONNREFUSED;

	if (fd >= 0)
		close(fd);
	return stale;
}

/* The owner's alone: who connects is given to write to whatever memory he names */
static int wait_at(const char *path)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	mode_t mask;
	int fd, ret;

	if (!path[0] || strlen(path) >= sizeof(at.sun_path))
		return complain(path, ENAMETOOLONG);
	memcpy(at.sun_path, path, strlen(path));
	fd = socket(AF_UNIX, SOCK_SEQPACKET | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return complain(path, errno);
	mask = umask(0177);
	ret = bind(fd, (struct sockaddr *)&at, sizeof(at));
	if (ret < 0 && errno == EADDRINUSE && is_stale(&at) && unlink(path) == 0)
		ret = bind(fd, (struct sockaddr *)&at, sizeof(at));
	umask(mask);
	if (ret < 0 || listen(fd, 1) < 0) {
		complain(path, errno);
		close(fd);
		return -1;
	}
	return fd;
}

/* Of wh_agent_serve(); opaque is the monitor, or NULL */

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	(void)opaque;
	if (level <= WH_LOG_WARNING)
		fprintf(stderr, "wherry agent: %s\n", line);
}

static void on_migration(void *opaque, struct wh_migration *migration)
{
	if (opaque)
		wh_qmp_set_migration(opaque, migration, WH_DEST);
}

static void on_event(void *opaque, const struct wh_event *event)
{
	if (opaque)
		wh_qmp_event(opaque, event);
}

/* Whose guest it is, the VMM is to be asked: only the migration is known here */
static int open_monitor(struct wh_qmp **monitor, const char *path)
{
	const struct wh_qmp_callbacks callbacks = { 0 };
	struct wh_qmp_config config;
	struct wh_err err = { 0 };
	int ret;

	wh_qmp_config_init(&config);
	config.path = path;
	config.callbacks = &callbacks;
	ret = wh_qmp_new(monitor, &config, &err);
	if (ret == 0)
		ret = wh_qmp_start(*monitor, &err);
	if (ret < 0)
		fprintf(stderr, "wherry agent: %s\n", err.text);
	return ret;
}

static int serve(int fd, struct wh_qmp *monitor, bool quiet)
{
	const struct wh_agent_hooks hooks = {
		.log = on_log,
		.migration = on_migration,
		.event = on_event,
	};
	struct wh_err err = { 0 };
	int ret;

	ret = wh_agent_serve(fd, &hooks, monitor, &err);
	close(fd);
	if (ret < 0)
		fprintf(stderr, "wherry agent: %s\n", err.text);
	else if (!quiet)
		printf("the guest is there, all of it\n");
	return ret < 0;
}

static int wait_and_serve(const char *path, struct wh_qmp *monitor, bool quiet)
{
	int listener, fd;

	listener = wait_at(path);
	if (listener < 0)
		return 1;
	if (!quiet) {
		printf("waits at %s\n", path);
		fflush(stdout);
	}
	do {
		fd = accept4(listener, NULL, NULL, SOCK_CLOEXEC);
	} while (fd < 0 && errno == EINTR);
	if (fd < 0)
		complain(path, errno);
	/* The next agent's from here on */
	unlink(path);
	close(listener);
	return fd < 0 ? 1 : serve(fd, monitor, quiet);
}

int cmd_agent(int argc, char **argv)
{
	const char *path = NULL, *qmp = NULL;
	struct wh_qmp *monitor = NULL;
	bool quiet = false;
	int option, status;

	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		switch (option) {
		case OPTION_SOCKET:
			path = optarg;
			break;
		case OPTION_QMP:
			qmp = optarg;
			break;
		case OPTION_QUIET:
			quiet = true;
			break;
		case OPTION_HELP:
			fputs(help, stdout);
			return 0;
		default:
			return cli_usage("agent", NULL);
		}
	}
	if (optind < argc)
		return cli_usage("agent", "there is nothing to do with '%s'", argv[optind]);
	if (!path)
		return cli_usage("agent", "--socket is missing");
	status = qmp ? open_monitor(&monitor, qmp) < 0 : 0;
	if (!status)
		status = wait_and_serve(path, monitor, quiet);
	wh_qmp_free(monitor);
	return status;
}
