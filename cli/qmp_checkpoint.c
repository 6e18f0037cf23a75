/* SPDX-License-Identifier: MIT */
/*
 * Joining: commands about a protected guest. Those that call its protection hold
 * migration_lock, so that it stays while they do; that of the VMM is called without.
 */
#include "cli/qmp_commands.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <string.h>

#define NS_PER_MS 1000000u
#define DELAY_MS_MAX 10000

bool qmp_is_protected(struct wh_qmp *qmp)
{
	struct qmp_view view;

	qmp_look(qmp, &view);
	return view.protection && !wh_protect_ended(view.protect.state);
}

struct json_object *qmp_checkpoint_start(struct wh_qmp *qmp, struct qmp_client *client,
					 const struct qmp_request *request, struct wh_err *err)
{
	const char *pulse_uri = qmp_request_text(request, "pulse-uri");
	const char *uri = qmp_request_text(request, "uri");
	struct qmp_view view;

	(void)client;
	qmp_look(qmp, &view);
	if (!qmp->callbacks.protect)
		qmp_fail(err, -ENOSYS, "this process has no guest to be protected");
	else if (qmp_is_protected(qmp))
		qmp_fail(err, -EBUSY, "There's a protection in progress");
	else if (view.attached && qmp_is_moving(view.stats.phase))
		qmp_fail(err, -EBUSY, "There's a migration process in progress");
	else if (view.attached && qmp_guest_is_away(view.role, view.stats.phase))
		qmp_fail(err, -EBUSY, "The guest may be running at the destination (%s)",
			 view.status);
	else if (!qmp_check_uri(uri, err) && (!pulse_uri || !qmp_check_uri(pulse_uri, err)) &&
		 !qmp->callbacks.protect(qmp->opaque, uri, pulse_uri,
					 qmp->pace.max_ns ? &qmp->pace : NULL, err))
		return qmp_nothing();
	return NULL;
}

/* A decision of the end that it is for, under the lock */
static struct json_object *decide(struct wh_qmp *qmp, enum wh_role role,
				  int (*call)(struct wh_protect *protect, struct wh_err *err),
				  struct wh_err *err)
{
	int ret;

	pthread_mutex_lock(&qmp->migration_lock);
	if (!qmp->protect)
		ret = qmp_fail(err, -EBUSY, "No guest is protected here");
	else if (qmp->protect_role != role)
		ret = qmp_fail(err, -EBUSY, "That is for the %s to decide",
			       role == WH_SOURCE ? "source" : "destination");
	else
		ret = call(qmp->protect, err);
	pthread_mutex_unlock(&qmp->migration_lock);
	return ret ? NULL : qmp_nothing();
}

/* With force: the destination is lost, and it is known that it never runs the guest */
struct json_object *qmp_checkpoint_stop(struct wh_qmp *qmp, struct qmp_client *client,
					const struct qmp_request *request, struct wh_err *err)
{
	(void)client;
	return decide(qmp, WH_SOURCE,
		      qmp_request_flag(request, "force") ? wh_protect_release : wh_protect_stop,
		      err);
}

/* Never to run it on this side */
struct json_object *qmp_checkpoint_abandon(struct wh_qmp *qmp, struct qmp_client *client,
					   const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_view view;

	(void)client, (void)request;
	qmp_look(qmp, &view);
	if (view.protection && view.protect_role == WH_SOURCE)
		return decide(qmp, WH_SOURCE, wh_protect_fence, err);
	return decide(qmp, WH_DEST, wh_protect_abandon, err);
}

struct json_object *qmp_checkpoint_takeover(struct wh_qmp *qmp, struct qmp_client *client,
					    const struct qmp_request *request, struct wh_err *err)
{
	struct json_object *generation = qmp_request_argument(request, "generation");
	int ret;

	(void)client;
	if (generation && json_object_get_int64(generation) <= 0) {
		qmp_fail(err, -EINVAL, "Parameter 'generation' expects a number above 0");
		return NULL;
	}
	pthread_mutex_lock(&qmp->migration_lock);
	if (!qmp->protect || qmp->protect_role != WH_DEST)
		ret = qmp_fail(err, -EBUSY, "No guest of elsewhere is protected here");
	else
		ret = wh_protect_takeover(qmp->protect, json_object_get_uint64(generation), err);
	pthread_mutex_unlock(&qmp->migration_lock);
	return ret ? NULL : qmp_nothing();
}

/* As the first generation had it: milliseconds. For the protection there is, and the next one */
struct json_object *qmp_set_mc_delay(struct wh_qmp *qmp, struct qmp_client *client,
				     const struct qmp_request *request, struct wh_err *err)
{
	int64_t ms = json_object_get_int64(qmp_request_argument(request, "value"));
	struct wh_protect_config config;
	struct wh_protect_pace pace;
	int ret = 0;

	(void)client;
	if (ms < 1 || ms > DELAY_MS_MAX) {
		qmp_fail(err, -EINVAL, "Parameter 'value' expects a number from 1 to %d",
			 DELAY_MS_MAX);
		return NULL;
	}
	wh_protect_config_init(&config);
	pace = config.pace;
	pace.min_ns = pace.max_ns = (uint64_t)ms * NS_PER_MS;
	pthread_mutex_lock(&qmp->migration_lock);
	if (qmp->protect && qmp->protect_role == WH_SOURCE)
		ret = wh_protect_set_pace(qmp->protect, &pace, err);
	pthread_mutex_unlock(&qmp->migration_lock);
	if (ret)
		return NULL;
	qmp->pace = pace;
	return qmp_nothing();
}

struct json_object *qmp_query_checkpoint(struct wh_qmp *qmp, struct qmp_client *client,
					 const struct qmp_request *request, struct wh_err *err)
{
	struct qmp_view view;

	(void)client, (void)request, (void)err;
	qmp_look(qmp, &view);
	return qmp_view_checkpoint(&view);
}
