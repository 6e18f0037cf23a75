/* SPDX-License-Identifier: MIT */
#ifndef LIB_QEMU_H
#define LIB_QEMU_H

#include <stdint.h>
#include <wherry/err.h>

#include "selftests/lib/child.h"

struct json_object;
struct json_tokener;

#define QEMU_PROGRAM "qemu-system-x86_64"
/* How long it may take over an answer; a loaded machine is slow */
#define QEMU_ANSWER_MS 20000
#define QEMU_EVENTS_MAX 256

/**
 * struct qemu - A real QEMU, driven over QMP
 *
 * For one thread. Functions return 0 or a negative errno with a sentence; what
 * QEMU answers with an error is -EREMOTEIO and its own description.
 */
struct qemu {
	struct child child;
	int qmp;
	int answer_ms; /* for what is known to take longer; 0: QEMU_ANSWER_MS */
	struct json_tokener *parser;
	size_t have;
	size_t used;
	unsigned events;
	struct json_object *event[QEMU_EVENTS_MAX]; /* not waited for yet, oldest first */
	char input[4096];
};

/**
 * qemu_start() - Start one and agree with it on QMP
 * @argv:	Its arguments, without program name, NULL at the end. In front of them
 *		come -nodefaults, -display none and QMP, on a unix socket of our own
 *
 * Return: 0; or a negative errno, then nothing is left
 */
int qemu_start(struct qemu *qemu, const char *const argv[], struct wh_err *err);
/* The same with a program that is not QEMU_PROGRAM */
int qemu_start_program(struct qemu *qemu, const char *program, const char *const argv[],
		       struct wh_err *err);

enum qemu_version {
	QEMU_7_2,  /* QEMU_PROGRAM, of Debian 12 */
	QEMU_10_0, /* of its backports, brought below build/ by lib/get-qemu-10 */
	QEMU_VERSION_COUNT
};

/* "7.2", as in the names of its machine types */
const char *qemu_version_name(enum qemu_version version);
/* Its program, or NULL and why it cannot be had */
const char *qemu_program(enum qemu_version version, char *why, size_t size);

/* Kill it if it is still there, and forget it; also after a qemu_start() that failed */
void qemu_end(struct qemu *qemu);

/**
 * qemu_command() - Execute one QMP command
 * @reply:	What it returned, for json_object_put(); may be NULL
 * @arguments:	JSON of its arguments, as for printf(); NULL: none
 */
int qemu_command(struct qemu *qemu, struct json_object **reply, struct wh_err *err,
		 const char *command, const char *arguments, ...)
	__attribute__((format(printf, 5, 6)));

/**
 * qemu_wait_event() - Until an event of this name has come
 * @data:	Its data, for json_object_put(), NULL if it has none; may be NULL
 *
 * Those of other names that come meanwhile are kept.
 */
int qemu_wait_event(struct qemu *qemu, const char *name, struct json_object **data, int timeout_ms,
		    struct wh_err *err);

/* The capabilities to be switched on, NULL at the end */
int qemu_capabilities(struct qemu *qemu, const char *const names[], struct wh_err *err);
int qemu_parameter(struct qemu *qemu, const char *name, uint64_t value, struct wh_err *err);
int qemu_migrate(struct qemu *qemu, const char *uri, struct wh_err *err);
int qemu_migrate_incoming(struct qemu *qemu, const char *uri, struct wh_err *err);

/**
 * qemu_status() - Of the migration
 * @status:	Room for 32 bytes: "none", "setup", "active", ...
 */
int qemu_status(struct qemu *qemu, char status[32], struct wh_err *err);

/**
 * qemu_wait_status() - Until the migration has a status
 *
 * Return: -EREMOTEIO as soon as it has ended with another one
 */
int qemu_wait_status(struct qemu *qemu, const char *wanted, int timeout_ms, struct wh_err *err);

/* A figure of query-migrate, by its path: "ram/dirty-sync-count"; 0 if it is not there */
int qemu_figure(struct qemu *qemu, const char *path, uint64_t *value, struct wh_err *err);
/* Until it is at least so much; -EREMOTEIO if the migration has ended before */
int qemu_wait_figure(struct qemu *qemu, const char *path, uint64_t value, int timeout_ms,
		     struct wh_err *err);

#endif /* LIB_QEMU_H */
