/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_COMMANDS_H
#define CLI_QMP_COMMANDS_H

#include "cli/qmp_monitor.h"
#include "cli/qmp_request.h"

/*
 * One command: what it returns, or NULL and a sentence. The arguments are of the right
 * names and types.
 */
typedef struct json_object *qmp_command_fn(struct wh_qmp *qmp, struct qmp_client *client,
					   const struct qmp_request *request, struct wh_err *err);

/* {} */
struct json_object *qmp_nothing(void);
struct json_object *qmp_greeting(void);

/* What can be reached by name. Return: 0, or -EINVAL and a sentence */
int qmp_check_uri(const char *uri, struct wh_err *err);

/* qmp_checkpoint.c */
bool qmp_is_protected(struct wh_qmp *qmp);
qmp_command_fn qmp_checkpoint_start;
qmp_command_fn qmp_checkpoint_stop;
qmp_command_fn qmp_checkpoint_takeover;
qmp_command_fn qmp_checkpoint_abandon;
qmp_command_fn qmp_query_checkpoint;
qmp_command_fn qmp_set_mc_delay;

/* qmp_migrate.c */
qmp_command_fn qmp_migrate;
qmp_command_fn qmp_migrate_incoming;
qmp_command_fn qmp_migrate_start_postcopy;
qmp_command_fn qmp_migrate_pause;
qmp_command_fn qmp_migrate_recover;
qmp_command_fn qmp_migrate_cancel;
qmp_command_fn qmp_migrate_continue;
qmp_command_fn qmp_set_capabilities;
qmp_command_fn qmp_set_parameters;
qmp_command_fn qmp_query_migrate;
qmp_command_fn qmp_query_capabilities;
qmp_command_fn qmp_query_parameters;

#endif /* CLI_QMP_COMMANDS_H */
