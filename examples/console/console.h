/* SPDX-License-Identifier: MIT */
#ifndef CONSOLE_H
#define CONSOLE_H

#include "examples/vmm/vmm.h"

#include <wherry/qmp.h>

/*
 * How somebody operates the example VMM: its command line, lines of stdin, lines of JSON
 * on stdout, and a QMP monitor. Of the VMM it knows what is in vmm.h.
 */
enum hold {
	HOLD_QUEUE,
	HOLD_PLUG,
	HOLD_NONE,
};

struct console {
	/* The command line */
	const char *listen;  /* a destination; NULL: a source */
	const char *replica; /* a destination too, of a protected guest */
	const char *pulse;   /* where its second connection is; NULL: there as well */
	const char *qmp;
	const char *tls;	 /* of both roles */
	bool own_loop;		 /* drives a migration; else the library's threads do */
	struct wh_config config; /* of a migration that no monitor configures */
	struct vmm_config guest;
	enum hold hold;	      /* what holds the output of a protected guest */
	const char *holder;   /* or which process does; NULL: none */
	uint64_t interval_ns; /* 0: as the guest needs it */
	struct wh_protect_config protection;

	struct vmm *vmm;		/* NULL: not yet */
	struct wh_migration *migration; /* the last one, or NULL */
	bool migrating;			/* it has not ended */
	struct wh_protect *protect;	/* the last one, or NULL */
	struct wh_netplug *plug;	/* of those that have begun here */
	bool complete;			/* there is a checkpoint, as the protection's thread says */
	int wake_fd;			/* an eventfd: drive_step() has work */
	struct wh_qmp *monitor;		/* NULL: none was asked for */
	bool quitting;
	bool verified; /* every byte of the guest, at the end */
};

/* options.c: ends the process if they are wrong */
void options_read(struct console *console, int argc, char **argv);

/* drive.c: the guest, and its migration from begin to end */
int drive_open(struct console *console, struct wh_err *err);
/* The migration is freed, and the monitor; not if a thread waits for a page that never comes */
void drive_end(struct console *console);
/* -EBUSY: the guest is being moved, or not here */
int drive_idle(const struct console *console, struct wh_err *err);
/* To @uri, or to here; -EBUSY as well */
int drive_begin(struct console *console, const char *uri, const struct wh_config *config,
		struct wh_err *err);
/* Readable when drive_step() has work; -1: never */
int drive_fd(const struct console *console);
/* Return: 0 moved; a negative errno: not, the phase says who has the guest; 1 neither */
int drive_step(struct console *console, struct wh_err *err);
/* The last one's, SETUP if there is none */
enum wh_phase drive_phase(const struct console *console);
/* It has ended, but for drive_step() saying so: no time for commands */
bool drive_ending(const struct console *console);

/* guard.c: the guest's protection. By a replica at @uri; @pace may be NULL */
int guard_begin(struct console *console, const char *uri, const char *pulse_uri,
		const struct wh_protect_pace *pace, struct wh_err *err);
/* Or here is the replica */
int guard_listen(struct console *console, struct wh_err *err);
void guard_event(void *opaque, const struct wh_protect_event *event);
/* The last one's, RELEASED if there is none */
enum wh_protect_state guard_state(const struct console *console);
/* Protection and plug are freed */
void guard_end(struct console *console);

/* monitor.c: nothing without --qmp */
int monitor_open(struct console *console, struct wh_err *err);

/* command.c: a line of stdin */
void command(struct console *console, char *line);

/* say.c: a line of JSON on stdout; @format adds members, each with a comma before it */
void say(const char *kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
struct member {
	char text[1024];
} member(const char *name, const char *text); /* of any text; nothing if there is none */
struct member guard_figures(const struct console *console); /* nothing without protection */
uint64_t now_ms(void);

/* status.c: the lines. Where it is, how it ended */
void say_guest(const struct console *console);
void say_listening(const struct wh_migration *migration);
void say_status(const struct console *console, const char *kind, const char *more);
void say_summary(const struct console *console, int ret, const struct wh_err *err);
/* Of the library, and so on its threads */
void say_event(const struct wh_event *event);
void say_phase(enum wh_phase phase, const char *error);
void say_log(void *unused, enum wh_log_level level, const char *text);

#endif /* CONSOLE_H */
