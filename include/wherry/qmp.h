/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_QMP_H
#define WHERRY_QMP_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>
#include <wherry/migration.h>
#include <wherry/protect.h>

/*
 * libwherry-qmp, a library of its own beside libwherry: a monitor that speaks QEMU's QMP
 * on a unix socket, for those migrations that a VMM attaches to it.
 */

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct wh_qmp - One monitor: a socket, and who is connected to it
 *
 * It knows one migration at a time. Unless a function says otherwise it is for one
 * thread at a time.
 */
struct wh_qmp;

/**
 * struct wh_qmp_callbacks - What the VMM does for its monitor
 *
 * Called on the monitor's thread: the one in wh_qmp_process(), or the library's. While
 * one works nobody is answered, so none may wait for a peer or for a missing page. With
 * NULL the command is refused. Those with an err return 0 or a negative errno and a
 * sentence, which the client gets.
 *
 * @migrate:	Begin to send to @uri, as @config says but for its callbacks and opaque, which
 *		are the VMM's. It makes the migration, calls wh_qmp_set_migration(), and
 *		drives it
 * @incoming:	The same at the destination: listen at @uri. Without it the VMM does
 *		not wait for a guest
 * @stop:	Stop the guest, and wh_qmp_set_running()
 * @cont:	Let it run, and wh_qmp_set_running(). Not called where the guest may be
 *		running at the destination
 * @quit:	End the process soon; the client has been answered
 * @protect:	Begin to protect the guest, by a replica at @uri. @pulse_uri: for the second
 *		connection, may be NULL; @pace: that a client has set, NULL: the VMM's own.
 *		It makes the protection, calls wh_qmp_set_protect(), and starts it
 * @vcpus:	Fill in at most @room thread ids of the processors, in their order; returns
 *		how many there are; it calls nothing of the monitor. Without it threads are
 *		told of in any order
 */
struct wh_qmp_callbacks {
	int (*migrate)(void *opaque, const char *uri, const struct wh_config *config,
		       struct wh_err *err);
	int (*incoming)(void *opaque, const char *uri, const struct wh_config *config,
			struct wh_err *err);
	int (*stop)(void *opaque, struct wh_err *err);
	int (*cont)(void *opaque, struct wh_err *err);
	void (*quit)(void *opaque);
	int (*protect)(void *opaque, const char *uri, const char *pulse_uri,
		       const struct wh_protect_pace *pace, struct wh_err *err);
	unsigned (*vcpus)(void *opaque, uint32_t *tids, unsigned room);
};

/**
 * struct wh_qmp_config - How to make a monitor
 * @size:	sizeof(struct wh_qmp_config), set by wh_qmp_config_init()
 * @path:	Of the unix socket. One that nobody listens on is replaced
 * @callbacks:	Copied
 * @opaque:	First argument of each
 * @defaults:	What capabilities and parameters are before a client sets them; copied,
 *		strings in it stay the caller's. NULL: those of wh_config_init()
 * @running:	The guest runs already
 */
struct wh_qmp_config {
	size_t size;
	const char *path;
	const struct wh_qmp_callbacks *callbacks;
	void *opaque;
	const struct wh_config *defaults;
	bool running;
};

void wh_qmp_config_init(struct wh_qmp_config *config);

/**
 * wh_qmp_new() - Make a monitor; it listens when this returns
 *
 * The socket is the owner's alone (mode 0600).
 *
 * Return: 0 and *@qmp, for wh_qmp_free(); or a negative errno and a sentence
 */
int wh_qmp_new(struct wh_qmp **qmp, const struct wh_qmp_config *config, struct wh_err *err);

/* Hang up, remove the socket, end its thread. Not from a callback */
void wh_qmp_free(struct wh_qmp *qmp);

/**
 * wh_qmp_set_migration() - The migration to tell of from now on
 * @migration:	NULL: none. Not driven yet. Must stay until another one is set, or
 *		wh_qmp_free()
 * @role:	Which end of it
 *
 * Any thread, but not from a callback of the migration: it may wait for a command that
 * waits for that. When it returns, the one before is not used any more.
 */
void wh_qmp_set_migration(struct wh_qmp *qmp, struct wh_migration *migration, enum wh_role role);

/* To be called from the event callback of that migration; any thread, waits for nothing */
void wh_qmp_event(struct wh_qmp *qmp, const struct wh_event *event);

/**
 * wh_qmp_set_protect() - The protection to tell of from now on
 * @protect:	NULL: none. Not started yet. Must stay until another one is set, or wh_qmp_free()
 *
 * Any thread, but not from a callback of the protection. When it returns, the one before is not
 * used any more.
 */
void wh_qmp_set_protect(struct wh_qmp *qmp, struct wh_protect *protect, enum wh_role role);

/* To be called from the event callback of that protection; any thread, waits for nothing */
void wh_qmp_protect_event(struct wh_qmp *qmp, const struct wh_protect_event *event);

/* The guest runs from here on, or does not; any thread, waits for nothing */
void wh_qmp_set_running(struct wh_qmp *qmp, bool running);

/* Let a thread of the library drive it */
int wh_qmp_start(struct wh_qmp *qmp, struct wh_err *err);

/**
 * wh_qmp_fd() - Or drive it from an event loop: readable when wh_qmp_process() has work
 *
 * Owned by the monitor.
 */
int wh_qmp_fd(const struct wh_qmp *qmp);
/* Do what can be done without waiting. Return: 0, or a negative errno and a sentence */
int wh_qmp_process(struct wh_qmp *qmp, struct wh_err *err);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_QMP_H */
