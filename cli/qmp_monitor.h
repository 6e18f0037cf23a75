/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_MONITOR_H
#define CLI_QMP_MONITOR_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <wherry/protect.h>
#include <wherry/qmp.h>

#include "cli/qmp_frame.h"
#include "cli/qmp_settings.h"
#include "cli/qmp_view.h"

struct json_object;

#define QMP_CLIENTS_MAX 16u
#define QMP_NOTES_MAX 64u
/* While so much is unread of what a client was told, it is not listened to */
#define QMP_OUT_PAUSE (64u << 10)
/* So much, which then is events, and it is dropped */
#define QMP_OUT_MAX (256u << 10)

/**
 * struct qmp_client - Somebody who is connected
 * @negotiated:	It has said qmp_capabilities
 * @gone:	To be closed at the end of the turn, since others may be in the middle of
 *		telling it something
 * @in:		Read and not looked at yet, from @in_used to @in_have
 * @out:	To be sent, from @out_used to @out_have
 */
struct qmp_client {
	int fd;
	bool negotiated;
	bool ended; /* it will say no more */
	bool gone;
	uint32_t waits_for; /* as epoll knows it */
	size_t in_used, in_have;
	size_t out_used, out_have, out_room;
	char *out;
	char in[4096];
	struct qmp_frames frames;
};

enum qmp_note_kind {
	QMP_NOTE_PHASE,
	QMP_NOTE_PASS,
	QMP_NOTE_STOP,
	QMP_NOTE_RESUME,
	QMP_NOTE_CHECKPOINT,
};

/* Something that happened, on any thread, for those who are connected */
struct qmp_note {
	enum qmp_note_kind kind;
	enum wh_phase phase;
	uint64_t pass;
	uint64_t time_us;
	enum wh_protect_state from, to; /* of a protection */
	uint64_t epoch, generation;
	char reason[WH_ERR_TEXT];
};

struct wh_qmp {
	/* Of the monitor's thread alone */
	struct qmp_settings settings;
	struct wh_protect_pace pace; /* its max_ns 0: nobody has set one */
	struct wh_qmp_callbacks callbacks;
	void *opaque;
	struct qmp_client *client[QMP_CLIENTS_MAX];
	unsigned clients;
	bool quitting;
	const char *told_status;			  /* the last MIGRATION event */
	uint64_t setup_ns, precopy_bytes, downtime_bytes; /* see qmp_notes.c */

	/* The socket */
	int epoll, listener, wake, spare;
	bool listening; /* the listener is in epoll */
	char path[108];
	dev_t device;
	ino_t inode;

	/* Its thread, if it has one */
	bool threaded;
	bool stopping; /* atomic */
	pthread_t thread;

	/* Under migration_lock. Commands hold it while they wait for the migration */
	pthread_mutex_t migration_lock;
	struct wh_migration *migration;
	enum wh_role role;
	struct wh_protect *protect;
	enum wh_role protect_role;

	/* Under note_lock, for which nobody waits long */
	pthread_mutex_t note_lock;
	bool running;
	bool complete; /* that there is a checkpoint was noted, */
	bool degraded; /* or will be again */
	unsigned notes;
	struct qmp_note note[QMP_NOTES_MAX];
	char error[WH_ERR_TEXT];
};

/* qmp_notes.c: have what happened told to everybody */
void qmp_notes_tell(struct wh_qmp *qmp);
/* What is known now of @qmp */
void qmp_look(struct wh_qmp *qmp, struct qmp_view *view);
void qmp_set_error(struct wh_qmp *qmp, const char *text);

/* qmp_commands.c: do what a client asks for. Return: the whole answer, for json_object_put() */
struct json_object *qmp_answer(struct wh_qmp *qmp, struct qmp_client *client,
			       struct json_object *object);

/* qmp_client.c */
struct qmp_client *qmp_client_new(int fd);
void qmp_client_free(struct qmp_client *client);
/* Something for it: takes what there is, answers, sends what can be sent */
void qmp_client_turn(struct wh_qmp *qmp, struct qmp_client *client);
/* What can be sent of what it is to be told */
void qmp_client_send(struct qmp_client *client);
void qmp_client_say(struct qmp_client *client, struct json_object *object);
/* To be waited for, as epoll has it */
uint32_t qmp_client_waits_for(const struct qmp_client *client);

#endif /* CLI_QMP_MONITOR_H */
