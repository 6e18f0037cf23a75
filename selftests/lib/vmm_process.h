/* SPDX-License-Identifier: MIT */
#ifndef LIB_VMM_PROCESS_H
#define LIB_VMM_PROCESS_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * A wherry-vmm (of the folder that was built into) and what it says, for tests that run
 * two of them. It dies with the test's process.
 */

#define VMM_LINE_MAX 16384
#define VMM_TEXT_MAX 262144

struct vmm {
	pid_t pid;
	int out;
	bool ended; /* and reaped */
	int status;
	size_t have;
	char line[VMM_LINE_MAX];
	size_t text_have;
	char text[VMM_TEXT_MAX]; /* all that was said, but for status lines: for a failed test */

	char uri[256];
	char phase[32];
	char phases[512]; /* all of them so far: " setup active device" */
	char error[512];  /* of the last phase that had one */
	char guest[16];	  /* "running", "paused", of the last status */
	uint64_t serial_chars;
	uint64_t rounds;
	uint64_t pages_left;
	json_object *summary;
};

/**
 * vmm_start() - Start one
 * @args:	Without the program's name and --json; ends with NULL
 *
 * Return: 0 or a negative errno
 */
int vmm_start(struct vmm *vmm, const char *const *args);

/**
 * vmm_until() - Read what all of them say until something is so
 * @so:		Looked at after each piece
 *
 * Return: false if it was not so within @ms, or everything that could say it has ended
 */
bool vmm_until(struct vmm *const *vmms, unsigned count, bool (*so)(void *arg), void *arg,
	       unsigned ms);

/* How it ended: its exit status, 256 + its signal, -1 if it has not */
int vmm_exit(const struct vmm *vmm);
uint64_t vmm_number(const struct vmm *vmm, const char *name);
/* Was it ever in this phase? */
bool vmm_was(const struct vmm *vmm, const char *phase);
void vmm_signal(const struct vmm *vmm, int number);
/* Kills it if it still runs, and forgets it. */
void vmm_end(struct vmm *vmm);

#endif /* LIB_VMM_PROCESS_H */
