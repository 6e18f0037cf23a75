/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_QEMU_H
#define CLI_DRILL_QEMU_H

#include "cli/drill_end.h"

#include <sys/types.h>

/*
 * wherry drill: a QEMU, started without a machine: RAM, and nobody who runs in it. Its
 * contents come from a file (source), or are read by commands of its monitor (destination).
 */

struct qmpcall;

/**
 * struct drill_qemu - One that was started
 * @said:	What it says on its standard error goes there
 * @monitor:	A connected socket each
 */
struct drill_qemu {
	pid_t pid;
	int said;
	int monitor[2];
};

/* @options: NULL at the end. Return: 0 or a negative errno, and nothing is left */
int drill_qemu_start(struct drill_qemu *qemu, const char *binary, const char *const options[]);
/* Killed if it is still there. Return: as waitpid() gives it */
int drill_qemu_end(struct drill_qemu *qemu);
/* The end of what it said, in one line */
void drill_qemu_said(const struct drill_qemu *qemu, char *text, size_t room);
/* Return: 7 of 7.2, or a negative errno and a sentence */
int drill_qemu_major(const char *binary, struct wh_err *err);

/* Instead of drill_end_main(). @folder: for what is in memory, as files */
void drill_qemu_main(const struct drill_plan *plan, const char *binary, const char *folder,
		     struct drill_shared *shared, int fd) __attribute__((noreturn));

#endif /* CLI_DRILL_QEMU_H */
