/* SPDX-License-Identifier: MIT */
/*
 * Joining: commands about the migration. Those that call it hold migration_lock, so that
 * it stays while they do; those of the VMM are called without, since they set it.
 */
#include "cli/qmp_commands.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <json-c/json.h>
#include <stddef.h>
#include <string.h>

#define IN_PROGRESS "There's a migration process in progress"

/* A descriptor's number is not for whoever connects: it might be that of anything. */
int qmp_check_uri(const char *uri, struct wh_err *err)
{
	static const char *const kinds[] = { "tcp:", "unix:", "vsock:", "rdma:" };

	for (size_t i = 0; i < sizeof(kinds) / sizeof(kinds[0]); i++)
		if (!strncmp(uri, kinds[i], strlen(kinds[i])))
			return 0;
	return qmp_fail(err, -EINVAL, "Parameter 'uri' expects a valid migration protocol");
}

/* Return: 0, or a negative errno and the sentence why a guest cannot be sent now */
static int may_migrate(struct wh_qmp *qmp, struct wh_err *err)
{
	struct qmp_view view;

	qmp_look(qmp, &view);
	if (view.attached && view.role == WH_DEST && view.stats.phase != WH_PHASE_DONE)
		return qmp_fail(err, -EBUSY, "Guest is waiting for an incoming migration");
	if (view.attached && qmp_is_moving(view.stats.phase))
		return qmp_fail(err, -EBUSY, IN_PROGRESS);
	if (view.attached && qmp_guest_is_away(view.role, view.stats.phase))
		return qmp_fail(err, -EBUSY, "The guest may be running at the destination (%s)",
				view.status);
	if (qmp_is_protected(qmp))
		return qmp_fail(err, -EBUSY, "The guest is protected: checkpoint-stop first");
	if (!qmp->callbacks.migrate)
		return qmp_fail(err, -ENOSYS, "this process has no guest to be migrated");
	return 0;
}

/* The sentence of a failed attempt is what query-migrate tells from then on. */
static struct json_object *begin(struct wh_qmp *qmp, const char *uri,
				 int (*how)(void *opaque, const char *uri,
					    const struct wh_config *config, struct wh_err *err),
				 struct wh_err *err)
{
	struct wh_config config = qmp_settings_config(&qmp->settings);

	qmp_set_error(qmp, "");
	if (qmp_check_uri(uri, err) || how(qmp->opaque, uri, &config, err)) {
		qmp_set_error(qmp, err->text);
		return NULL;
	}
	return qmp_nothing();
}

/* Under the lock, in the state for which it was written; with a URI if it has one */
struct call {
	enum wh_role role;
	bool any_role;
	enum wh_phase phase;
	const char *otherwise; /* the sentence in any other state */
	int (*call)(struct wh_migration *migration, const char *uri, struct wh_err *err);
};

static struct json_object *call_if(struct wh_qmp *qmp, const struct call *call, const char *uri,
				   struct wh_err *err)
{
	int ret;

	pthread_mutex_lock(&qmp->migration_lock);
	if (!qmp->migration || (!call->any_role && qmp->role != call->role) ||
	    wh_get_phase(qmp->migration) != call->phase)
		ret = qmp_fail(err, -EBUSY, "%s", call->otherwise);
	else if (uri && qmp_check_uri(uri, err))
		ret = -EINVAL;
	else
		ret = call->call(qmp->migration, uri, err);
	pthread_mutex_unlock(&qmp->migration_lock);
	return ret ? NULL : qmp_nothing();
}

/* For the table of calls, all of which may have a URI */
static int call_pause(struct wh_migration *migration, const char *uri, struct wh_err *err)
{
	(void)uri;
	return wh_pause(migration, err);
}

/* There are no block devices: blk and inc change nothing; detach never has, in QMP */
struct json_object *qmp_migrate(struct wh_qmp *qmp, struct qmp_client *client,
				const struct qmp_request *request, struct wh_err *err)
{
	static const struct call resume = {
		.role = WH_SOURCE,
		.phase = WH_PHASE_PAUSED,
		.otherwise = "Cannot resume if there is no paused migration",
		.call = wh_resume,
	};
	const char *uri = qmp_request_text(request, "uri");

	(void)client;
	if (qmp_request_flag(request, "resume"))
		return call_if(qmp, &resume, uri, err);
	if (may_migrate(qmp, err))
		return NULL;
	return begin(qmp, uri, qmp->callbacks.migrate, err);
}

struct json_object *qmp_migrate_incoming(struct wh_qmp *qmp, struct qmp_client *client,
					 const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_view view;

	(void)client;
	qmp_look(qmp, &view);
	if (view.attached && view.role == WH_DEST)
		qmp_fail(err, -EBUSY, "The incoming migration has already been started");
	else if (view.attached || !qmp->callbacks.incoming)
		qmp_fail(err, -EBUSY, "this process does not wait for a guest");
	else
		return begin(qmp, qmp_request_text(request, "uri"), qmp->callbacks.incoming, err);
	return NULL;
}

struct json_object *qmp_migrate_start_postcopy(struct wh_qmp *qmp, struct qmp_client *client,
					       const struct qmp_request *request,
					       struct wh_err *err)
{
	int ret;

	(void)client, (void)request;
	pthread_mutex_lock(&qmp->migration_lock);
	if (!(qmp->settings.on & QMP_POSTCOPY))
		ret = qmp_fail(err, -EINVAL,
			       "Enable postcopy with migrate-set-capabilities before "
			       "the start of migration");
	else if (!qmp->migration || qmp->role != WH_SOURCE ||
		 !qmp_is_moving(wh_get_phase(qmp->migration)))
		ret = qmp_fail(err, -EBUSY,
			       "Postcopy must be started after migration has been started");
	else
		ret = wh_start_postcopy(qmp->migration, err);
	pthread_mutex_unlock(&qmp->migration_lock);
	return ret ? NULL : qmp_nothing();
}

struct json_object *qmp_migrate_pause(struct wh_qmp *qmp, struct qmp_client *client,
				      const struct qmp_request *request, struct wh_err *err)
{
	static const struct call pause = {
		.any_role = true,
		.phase = WH_PHASE_POSTCOPY,
		.otherwise =
			"migrate-pause is currently only supported during postcopy-active state",
		.call = call_pause,
	};

	(void)client, (void)request;
	return call_if(qmp, &pause, NULL, err);
}

struct json_object *qmp_migrate_recover(struct wh_qmp *qmp, struct qmp_client *client,
					const struct qmp_request *request, struct wh_err *err)
{
	static const struct call recover = {
		.role = WH_DEST,
		.phase = WH_PHASE_PAUSED,
		.otherwise = "Migrate recover can only be run when postcopy is paused.",
		.call = wh_recover,
	};

	(void)client;
	return call_if(qmp, &recover, qmp_request_text(request, "uri"), err);
}

/* Without anything to be cancelled it is done already, as in QEMU. */
struct json_object *qmp_migrate_cancel(struct wh_qmp *qmp, struct qmp_client *client,
				       const struct qmp_request *request, struct wh_err *err)
{
	int ret = 0;

	(void)client, (void)request;
	pthread_mutex_lock(&qmp->migration_lock);
	if (qmp->migration && qmp->role == WH_SOURCE && qmp_is_moving(wh_get_phase(qmp->migration)))
		ret = wh_cancel(qmp->migration, err);
	pthread_mutex_unlock(&qmp->migration_lock);
	return ret ? NULL : qmp_nothing();
}

/* Nothing waits in pre-switchover here: the state is never the one that is expected. */
struct json_object *qmp_migrate_continue(struct wh_qmp *qmp, struct qmp_client *client,
					 const struct qmp_request *request, struct wh_err *err)
{
	static const char *const states[] = {
		"none",
		"setup",
		"cancelling",
		"cancelled",
		"active",
		"postcopy-active",
		"postcopy-paused",
		"postcopy-recover",
		"completed",
		"failed",
		"colo",
		"pre-switchover",
		"device",
		"wait-unplug",
	};
	const char *state = qmp_request_text(request, "state");
	struct qmp_view view;

	(void)client;
	qmp_look(qmp, &view);
	for (size_t i = 0; i < sizeof(states) / sizeof(states[0]); i++)
		if (!strcmp(states[i], state)) {
			qmp_fail(err, -EBUSY, "Migration not in expected state: %s", view.status);
			return NULL;
		}
	qmp_fail(err, -EINVAL, "Parameter 'state' does not accept value '%s'", state);
	return NULL;
}

/* A migration takes its settings with it when it begins. */
static bool is_bound(struct wh_qmp *qmp)
{
	struct qmp_view view;

	qmp_look(qmp, &view);
	return view.attached && qmp_is_moving(view.stats.phase);
}

struct json_object *qmp_set_capabilities(struct wh_qmp *qmp, struct qmp_client *client,
					 const struct qmp_request *request, struct wh_err *err)
{
	struct json_object *array = qmp_request_argument(request, "capabilities");
	struct qmp_settings settings = qmp->settings;

	(void)client;
	if (qmp_settings_set_capabilities(&settings, array, err))
		return NULL;
	/* What is only told can be asked for at any time */
	if (((settings.on ^ qmp->settings.on) & ~(QMP_EVENTS | QMP_BLOCKTIME)) && is_bound(qmp)) {
		qmp_fail(err, -EBUSY, IN_PROGRESS);
		return NULL;
	}
	qmp->settings = settings;
	return qmp_nothing();
}

struct json_object *qmp_set_parameters(struct wh_qmp *qmp, struct qmp_client *client,
				       const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_settings settings = qmp->settings;

	(void)client;
	if (request->arguments && qmp_settings_set_parameters(&settings, request->arguments, err))
		return NULL;
	if (!qmp_settings_alike(&settings, &qmp->settings) && is_bound(qmp)) {
		qmp_fail(err, -EBUSY, IN_PROGRESS ", and has its parameters");
		return NULL;
	}
	qmp->settings = settings;
	return qmp_nothing();
}

struct json_object *qmp_query_migrate(struct wh_qmp *qmp, struct qmp_client *client,
				      const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_view view;

	(void)client, (void)request, (void)err;
	qmp_look(qmp, &view);
	return qmp_view_migrate(&view);
}

struct json_object *qmp_query_capabilities(struct wh_qmp *qmp, struct qmp_client *client,
					   const struct qmp_request *request, struct wh_err *err)
{
	(void)client, (void)request, (void)err;
	return qmp_settings_capabilities(&qmp->settings);
}

struct json_object *qmp_query_parameters(struct wh_qmp *qmp, struct qmp_client *client,
					 const struct qmp_request *request, struct wh_err *err)
{
	(void)client, (void)request, (void)err;
	return qmp_settings_parameters(&qmp->settings);
}
