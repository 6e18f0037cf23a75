/* SPDX-License-Identifier: MIT */
#ifndef LIB_VMM_PROCESS_H
#define LIB_VMM_PROCESS_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * Two wherry-vmm (of the folder that was built into), what they are told and what they
 * say. They die with the test's process. All zero: not started.
 */

#define VMM_LINE_MAX 16384
#define VMM_TEXT_MAX 262144

struct vmm {
	pid_t pid;
	int in;
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

struct vmm_pair {
	struct vmm source;
	struct vmm dest;
};

/**
 * vmm_start() - Start one
 * @args:	Without the program's name; ends with NULL
 *
 * Return: 0 or a negative errno
 */
int vmm_start(struct vmm *vmm, const char *const *args);
/* Lines for its stdin, each with its newline */
void vmm_command(const struct vmm *vmm, const char *format, ...)
	__attribute__((format(printf, 2, 3)));
void vmm_signal(const struct vmm *vmm, int number);
/* Kills it if it still runs; another one can be started. */
void vmm_forget(struct vmm *vmm);

/* How it ended: its exit status, 256 + its signal, -1 if it has not */
int vmm_exit(const struct vmm *vmm);
/* Of its summary */
uint64_t vmm_number(const struct vmm *vmm, const char *name);
/* Was it ever in this phase? */
bool vmm_was(const struct vmm *vmm, const char *phase);

/**
 * pair_until() - Read what both say until something is so
 * @so:		Looked at after each piece
 *
 * Return: false if it was not so within @ms, or who could say it has ended
 */
bool pair_until(struct vmm_pair *pair, bool (*so)(const void *arg), const void *arg, unsigned ms);
/* The same, and nothing to wait for */
void pair_watch(struct vmm_pair *pair, unsigned ms);
bool pair_until_listening(struct vmm_pair *pair);
bool pair_until_phase(struct vmm_pair *pair, const struct vmm *vmm, const char *phase);
bool pair_until_ended(struct vmm_pair *pair, const struct vmm *vmm);
/* vmm_forget() of both */
void pair_end(struct vmm_pair *pair);

#endif /* LIB_VMM_PROCESS_H */
