/* SPDX-License-Identifier: MIT */
#ifndef CLI_DEMO_H
#define CLI_DEMO_H

#include <json-c/json.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>

/*
 * wherry demo: two processes of the example VMM, and what they say (demo.c) made into
 * progress and a summary (demo_show.c).
 */

#define DEMO_LINE_MAX 16384
#define DEMO_END_GRACE_MS 2000 /* for a process that was asked to end */
#define NS_PER_MS 1000000ull

enum demo_end {
	DEMO_SOURCE,
	DEMO_DEST,
	DEMO_END_COUNT
};

/**
 * struct demo_child - One process of the VMM
 * @in:		Write end of its input, for commands; -1 before it is started
 * @out:	Read end of its output; -1 when that has ended
 * @status:	What waitpid() said, once @reaped
 * @guest_ns:	When it said that its guest is there; 0 before
 * @latest:	Its last "status" line, for json_object_put(); NULL before
 * @summary:	Its "summary" line, the same
 * @error:	The first sentence about a failure that it said
 */
struct demo_child {
	pid_t pid;
	int in;
	int out;
	bool reaped;
	int status;
	uint64_t guest_ns;
	size_t have;
	char line[DEMO_LINE_MAX];
	char phase[32];
	char error[512];
	char uri[256];
	json_object *latest;
	json_object *summary;
};

struct demo {
	const char *program;
	const char *listen;
	bool json;
	bool terminal;	/* a line that is written over and over */
	unsigned shown; /* columns of it */
	struct demo_child child[DEMO_END_COUNT];
	uint64_t shown_ns;
	uint64_t rate_ns; /* when rate_bytes were sent */
	uint64_t rate_bytes;
	uint64_t begin_ns;
	uint64_t after_ns; /* of precopy at least; 0: precopy only */
	uint64_t moved_ns; /* when the source was told to; 0 before */
	bool ahead;	   /* it was told to go over to postcopy */
};

/* demo_child.c */
uint64_t demo_now_ns(void);
/* Where wherry-vmm is. Return: 0, or -ENOENT when it has said so */
int demo_find_program(char *path, size_t room);
/* SIGINT and its like, for poll(); from here on they do nothing else */
int demo_signals_open(void);
/* It ends when we do. Return: 0, or -1 when it has said why not */
int demo_child_start(struct demo_child *child, const char *program, const char *const *args);
/* What there is of its output, line by line; at its end it is reaped */
void demo_child_read(struct demo_child *child,
		     void (*line)(void *arg, struct demo_child *child, const char *text),
		     void *arg);
void demo_child_reap(struct demo_child *child, int flags);
/* Whatever still runs is asked to end, and made to if it does not; all is given back */
void demo_children_end(struct demo_child *children, unsigned count);

/* demo_show.c */
/* A number of a child's line; 0 if it is not there */
uint64_t demo_number(json_object *line, const char *name);
const char *demo_string(json_object *line, const char *name);
/* A line that stays: "precopy", a round, an error */
void demo_say(struct demo *demo, const char *format, ...) __attribute__((format(printf, 2, 3)));
/* A line that is written over by the next one, on a terminal */
void demo_live(struct demo *demo, const char *text);
/* That one is wiped out, so that what follows stands alone */
void demo_wipe(struct demo *demo);
/* {"kind": ..., "t_ms": ...}, a number more in it, and out with it */
json_object *demo_object(const struct demo *demo, const char *kind);
void demo_add(json_object *object, const char *name, uint64_t value);
void demo_print(json_object *object);
/* Where it is now; at most as often as the children say so */
void demo_progress(struct demo *demo);
/* Return: true if everything went right */
bool demo_summary(struct demo *demo, bool interrupted);

#endif /* CLI_DEMO_H */
