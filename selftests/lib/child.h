/* SPDX-License-Identifier: MIT */
#ifndef LIB_CHILD_H
#define LIB_CHILD_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <wherry/err.h>

/**
 * struct child - A program that a test runs
 * @pid:	0 when it is gone
 * @out:	Its standard output, a pipe
 * @said:	Its standard error, a memfd that can be read at any time
 *
 * It is killed when the test ends, in whatever way.
 */
struct child {
	pid_t pid;
	int pidfd;
	int out;
	int said;
	int status; /* as of waitpid(), once it is gone */
	size_t have;
	char line[8192];
};

/**
 * child_start() - Run a program
 * @keep:	A descriptor it inherits under the same number, -1 for none
 *
 * Return: 0; or a negative errno and a sentence, nothing is left
 */
int child_start(struct child *child, const char *const argv[], int keep, struct wh_err *err);

/**
 * child_line() - The next line of its standard output, without newline
 * @line:	Valid until the next call
 *
 * Return: 1; 0 at its end; -ETIMEDOUT, -EMSGSIZE
 */
int child_line(struct child *child, const char **line, int timeout_ms, struct wh_err *err);

/**
 * child_wait() - Until it is gone; its standard output is thrown away meanwhile
 *
 * Return: what it gave to exit(); -EINTR if a signal ended it; -ETIMEDOUT
 */
int child_wait(struct child *child, int timeout_ms, struct wh_err *err);

/* What it wrote to standard error so far, at most the last size - 1 bytes */
const char *child_said(const struct child *child, char *text, size_t size);

/* Kill it if it is still there, and forget it */
void child_end(struct child *child);

#endif /* LIB_CHILD_H */
