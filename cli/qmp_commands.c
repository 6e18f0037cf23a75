/* SPDX-License-Identifier: MIT */
/*
 * Joining: the commands. A command either is done when its answer goes out or has only been
 * begun, and events say how it went on; none waits for a peer.
 */
#include "cli/qmp_commands.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <json-c/json.h>
#include <string.h>
#include <wherry/wherry.h>

struct json_object *qmp_nothing(void)
{
	return json_object_new_object();
}

static struct json_object *capabilities_agree(struct wh_qmp *qmp, struct qmp_client *client,
					      const struct qmp_request *request, struct wh_err *err)
{
	struct json_object *enable = qmp_request_argument(request, "enable");

	(void)qmp;
	if (enable && json_object_array_length(enable)) {
		qmp_fail(err, -EINVAL, "Parameter 'enable' names a capability that is not offered");
		return NULL;
	}
	client->negotiated = true;
	return qmp_nothing();
}

static struct json_object *stop(struct wh_qmp *qmp, struct qmp_client *client,
				const struct qmp_request *request, struct wh_err *err)
{
	(void)client, (void)request;
	if (!qmp->callbacks.stop)
		qmp_fail(err, -ENOSYS, "the guest cannot be stopped here");
	else if (!qmp->callbacks.stop(qmp->opaque, err))
		return qmp_nothing();
	return NULL;
}

/*
 * After the switch a source is never to run its guest, whoever asks for it: that is where
 * this differs from QEMU. A destination starts its own by itself.
 */
static struct json_object *cont(struct wh_qmp *qmp, struct qmp_client *client,
				const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_view view;

	(void)client, (void)request;
	qmp_look(qmp, &view);
	if (view.attached && qmp_guest_is_away(view.role, view.stats.phase)) {
		if (view.role == WH_DEST)
			return qmp_nothing();
		qmp_fail(err, -EBUSY, "The guest may be running at the destination (%s)",
			 view.status);
	} else if (!qmp->callbacks.cont) {
		qmp_fail(err, -ENOSYS, "the guest cannot be started here");
	} else if (!qmp->callbacks.cont(qmp->opaque, err)) {
		return qmp_nothing();
	}
	return NULL;
}

static struct json_object *quit(struct wh_qmp *qmp, struct qmp_client *client,
				const struct qmp_request *request, struct wh_err *err)
{
	(void)client, (void)request;
	if (!qmp->callbacks.quit) {
		qmp_fail(err, -ENOSYS, "this process cannot be ended here");
		return NULL;
	}
	qmp->quitting = true;
	return qmp_nothing();
}

static struct json_object *query_status(struct wh_qmp *qmp, struct qmp_client *client,
					const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_view view;

	(void)client, (void)request, (void)err;
	qmp_look(qmp, &view);
	return qmp_view_status(&view);
}

static struct json_object *query_stats(struct wh_qmp *qmp, struct qmp_client *client,
				       const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_view view;

	(void)client, (void)request, (void)err;
	qmp_look(qmp, &view);
	return qmp_view_stats(&view);
}

/* What it speaks is that of QEMU 7.2; who speaks it is in the package. */
static struct json_object *version(void)
{
	struct json_object *both = json_object_new_object();
	struct json_object *number = json_object_new_object();
	char package[64] = "wherry ";

	strncat(package, wh_version(), sizeof(package) - sizeof("wherry "));
	qmp_add_number(number, "micro", 0);
	qmp_add_number(number, "minor", 2);
	qmp_add_number(number, "major", 7);
	json_object_object_add(both, "qemu", number);
	qmp_add_text(both, "package", package);
	return both;
}

struct json_object *qmp_greeting(void)
{
	struct json_object *greeting = json_object_new_object();
	struct json_object *body = json_object_new_object();

	json_object_object_add(body, "version", version());
	json_object_object_add(body, "capabilities", json_object_new_array());
	json_object_object_add(greeting, "QMP", body);
	return greeting;
}

static struct json_object *query_version(struct wh_qmp *qmp, struct qmp_client *client,
					 const struct qmp_request *request, struct wh_err *err)
{
	(void)qmp, (void)client, (void)request, (void)err;
	return version();
}

static struct json_object *query_commands(struct wh_qmp *qmp, struct qmp_client *client,
					  const struct qmp_request *request, struct wh_err *err);

static const struct qmp_commands {
	const char *name;
	const char *arguments; /* as for qmp_request_check() */
	qmp_command_fn *run;
} commands[] = {
	{ "qmp_capabilities", "enable?a", capabilities_agree },
	{ "migrate", "uri:s blk?b inc?b detach?b resume?b", qmp_migrate },
	{ "migrate-incoming", "uri:s", qmp_migrate_incoming },
	{ "migrate-set-capabilities", "capabilities:a", qmp_set_capabilities },
	{ "migrate-set-parameters", "*", qmp_set_parameters },
	{ "query-migrate", "", qmp_query_migrate },
	{ "query-migrate-parameters", "", qmp_query_parameters },
	{ "query-migrate-capabilities", "", qmp_query_capabilities },
	{ "migrate-start-postcopy", "", qmp_migrate_start_postcopy },
	{ "migrate-pause", "", qmp_migrate_pause },
	{ "migrate-recover", "uri:s", qmp_migrate_recover },
	{ "migrate_cancel", "", qmp_migrate_cancel },
	{ "migrate-continue", "state:s", qmp_migrate_continue },
	{ "checkpoint-start", "uri:s pulse-uri?s", qmp_checkpoint_start },
	{ "checkpoint-stop", "force?b", qmp_checkpoint_stop },
	{ "checkpoint-takeover", "generation?n", qmp_checkpoint_takeover },
	{ "checkpoint-abandon", "", qmp_checkpoint_abandon },
	{ "query-checkpoint", "", qmp_query_checkpoint },
	{ "migrate-set-mc-delay", "value:n", qmp_set_mc_delay },
	{ "query-status", "", query_status },
	{ "stop", "", stop },
	{ "cont", "", cont },
	{ "quit", "", quit },
	{ "query-commands", "", query_commands },
	{ "query-version", "", query_version },
	{ "x-wherry-stats", "", query_stats },
};

#define COMMANDS (sizeof(commands) / sizeof(commands[0]))

static struct json_object *query_commands(struct wh_qmp *qmp, struct qmp_client *client,
					  const struct qmp_request *request, struct wh_err *err)
{
	struct json_object *array = json_object_new_array();

	(void)qmp, (void)client, (void)request, (void)err;
	for (size_t i = 0; i < COMMANDS; i++) {
		struct json_object *row = json_object_new_object();

		qmp_add_text(row, "name", commands[i].name);
		json_object_array_add(array, row);
	}
	return array;
}

/* Return: NULL and a sentence if it cannot be executed now */
static const struct qmp_commands *find(const struct qmp_client *client, const char *name,
				       struct wh_err *err)
{
	bool agrees = !strcmp(name, "qmp_capabilities");

	if (agrees && client->negotiated) {
		qmp_fail(err, -ENOENT,
			 "Capabilities negotiation is already complete, command ignored");
		return NULL;
	}
	if (!agrees && !client->negotiated) {
		qmp_fail(err, -ENOENT,
			 "Expecting capabilities negotiation with 'qmp_capabilities'");
		return NULL;
	}
	for (size_t i = 0; i < COMMANDS; i++)
		if (!strcmp(commands[i].name, name))
			return &commands[i];
	qmp_fail(err, -ENOENT, "The command %s has not been found", name);
	return NULL;
}

struct json_object *qmp_answer(struct wh_qmp *qmp, struct qmp_client *client,
			       struct json_object *object)
{
	enum qmp_class class = QMP_GENERIC_ERROR;
	const struct qmp_commands *command = NULL;
	struct json_object *result = NULL;
	struct json_object *answer;
	struct qmp_request request;
	struct wh_err err = { 0 };

	if (!qmp_request_get(&request, object, &err)) {
		command = find(client, request.command, &err);
		class = command ? QMP_GENERIC_ERROR : QMP_COMMAND_NOT_FOUND;
	}
	if (command && !qmp_request_check(&request, command->arguments, &err))
		result = command->run(qmp, client, &request, &err);
	if (result) {
		answer = json_object_new_object();
		json_object_object_add(answer, "return", result);
	} else {
		answer = qmp_error(class, err.text);
	}
	if (request.has_id)
		json_object_object_add(answer, "id", json_object_get(request.id));
	return answer;
}
