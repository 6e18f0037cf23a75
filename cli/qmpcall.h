/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMPCALL_H
#define CLI_QMPCALL_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

struct json_object;
struct json_tokener;

/**
 * struct qmpcall - A connection to somebody's QMP monitor, ours or that of a QEMU
 *
 * For one thread. What an answer has of a monitor's error is "CLASS: sentence", and -EREMOTEIO.
 */
struct qmpcall {
	int fd;
	struct json_tokener *parser;
	struct json_object *event[64]; /* that came before an answer, oldest first */
	unsigned events;
	size_t used, have;
	size_t message_bytes;
	char input[8192];
};

/* Until the monitor has agreed on QMP. Return: 0, or a negative errno and nothing is left */
int qmpcall_open(struct qmpcall *call, const char *path, struct wh_err *err);
/* The same on a connected socket, which is taken over. @oob: for qmpcall_execute_oob() too */
int qmpcall_attach(struct qmpcall *call, int fd, bool oob, struct wh_err *err);
void qmpcall_close(struct qmpcall *call);

/**
 * qmpcall_execute() - One command
 * @arguments:	Taken over; may be NULL
 * @result:	For json_object_put(); may be NULL
 */
int qmpcall_execute(struct qmpcall *call, const char *command, struct json_object *arguments,
		    struct json_object **result, struct wh_err *err);

/* In front of all that the monitor is at: a QEMU's may wait for guest memory */
int qmpcall_execute_oob(struct qmpcall *call, const char *command, struct json_object *arguments,
			struct wh_err *err);

/* Return: 1 and *@event, for json_object_put(); 0 if there was none; or a negative errno */
int qmpcall_event(struct qmpcall *call, int timeout_ms, struct json_object **event,
		  struct wh_err *err);

/* A member that is a string, "" if there is none. @object may be anything */
const char *qmpcall_text(struct json_object *object, const char *name);

uint64_t qmpcall_now_ms(void);

#endif /* CLI_QMPCALL_H */
