/* SPDX-License-Identifier: MIT */
/*
 * Codec: QEMU's capabilities and parameters, and struct wh_config.
 *
 * All that QEMU 7.2 names are told, so that a tool which looks for one finds it. What has
 * no effect here cannot be changed: a setting that is taken and does nothing is worse
 * than one that is refused.
 */
#include "cli/qmp_settings.h"

#include "cli/qmp_json.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stddef.h>
#include <stdio.h>
#include <string.h>

#define NS_PER_MS 1000000u
#define DOWNTIME_MAX_MS 2000000u
#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))

static const struct capability {
	const char *name;
	unsigned bit; /* 0: not here */
} capabilities[] = {
	{ "xbzrle", 0 },
	{ "rdma-pin-all", QMP_PIN_ALL },
	{ "auto-converge", 0 },
	{ "zero-blocks", 0 },
	{ "compress", 0 },
	{ "events", QMP_EVENTS },
	{ "postcopy-ram", QMP_POSTCOPY },
	{ "x-colo", 0 },
	{ "release-ram", 0 },
	{ "block", 0 },
	{ "return-path", QMP_RETURN_PATH },
	{ "pause-before-switchover", 0 },
	{ "multifd", QMP_MULTIFD },
	{ "dirty-bitmaps", 0 },
	{ "postcopy-blocktime", QMP_BLOCKTIME },
	{ "late-block-activate", 0 },
	{ "x-ignore-shared", 0 },
	{ "validate-uuid", 0 },
	{ "background-snapshot", 0 },
	{ "zero-copy-send", 0 },
	{ "postcopy-preempt", QMP_PREEMPT },
	{ "switchover-ack", QMP_SWITCHOVER_ACK }, /* of 8.1 */
};

/*
 * @text: a string; @words: one of these, told by its place; else a number, or a flag if
 * @flag. Without @unit it is fixed
 */
static const struct parameter {
	const char *name;
	const char *text;
	uint64_t value;
	bool flag;
	const char *words; /* each with its end, and an empty one behind them */
	size_t at;	   /* in struct qmp_settings, in @unit */
	uint64_t unit;
	uint64_t min;
	uint64_t max;
} parameters[] = {
	{ .name = "announce-initial", .value = 50 },
	{ .name = "announce-max", .value = 550 },
	{ .name = "announce-rounds", .value = 5 },
	{ .name = "announce-step", .value = 100 },
	{ .name = "compress-level", .value = 1 },
	{ .name = "compress-threads", .value = 8 },
	{ .name = "compress-wait-thread", .flag = true, .value = 1 },
	{ .name = "decompress-threads", .value = 2 },
	{ .name = "throttle-trigger-threshold", .value = 50 },
	{ .name = "cpu-throttle-initial", .value = 20 },
	{ .name = "cpu-throttle-increment", .value = 10 },
	{ .name = "cpu-throttle-tailslow", .flag = true },
	{ .name = "max-cpu-throttle", .value = 99 },
	{ .name = "tls-creds", .text = "" },
	{ .name = "tls-hostname", .text = "" },
	{ .name = "tls-authz", .text = "" },
	{ .name = "max-bandwidth",
	  .at = offsetof(struct qmp_settings, config.bandwidth),
	  .unit = 1,
	  .max = INT64_MAX },
	{ .name = "downtime-limit",
	  .at = offsetof(struct qmp_settings, config.downtime_ns),
	  .unit = NS_PER_MS,
	  .max = DOWNTIME_MAX_MS },
	{ .name = "x-checkpoint-delay", .value = 20000 },
	{ .name = "block-incremental", .flag = true },
	{ .name = "multifd-channels",
	  .at = offsetof(struct qmp_settings, channels),
	  .unit = 1,
	  .min = 1,
	  .max = WH_MULTIFD_MAX },
	{ .name = "xbzrle-cache-size", .value = 67108864 },
	{ .name = "max-postcopy-bandwidth",
	  .at = offsetof(struct qmp_settings, config.postcopy_bandwidth),
	  .unit = 1,
	  .max = INT64_MAX },
	{ .name = "multifd-compression",
	  .words = "none\0zstd\0",
	  .at = offsetof(struct qmp_settings, method),
	  .unit = 1 },
	{ .name = "multifd-zlib-level", .value = 1 },
	{ .name = "multifd-zstd-level",
	  .at = offsetof(struct qmp_settings, level),
	  .unit = 1,
	  .max = WH_MULTIFD_LEVEL_MAX },
	/* ours: see wh_config */
	{ .name = "x-wherry-auto-recover",
	  .at = offsetof(struct qmp_settings, config.auto_recover_ns),
	  .unit = NS_PER_MS,
	  .max = INT64_MAX / NS_PER_MS },
	{ .name = "x-wherry-rdma-pin-max",
	  .at = offsetof(struct qmp_settings, config.rdma_pin_max),
	  .unit = 1,
	  .max = INT64_MAX },
};

void qmp_settings_init(struct qmp_settings *settings, const struct wh_config *defaults)
{
	wh_config_init(&settings->config);
	if (defaults)
		settings->config = *defaults;
	settings->tls = (struct wh_tls){ 0 };
	settings->tls_hostname[0] = '\0';
	settings->tls_on = settings->config.tls != NULL;
	if (settings->tls_on) {
		settings->tls = *settings->config.tls;
		if (settings->tls.hostname)
			snprintf(settings->tls_hostname, sizeof(settings->tls_hostname), "%s",
				 settings->tls.hostname);
	}
	settings->config.tls = NULL;
	settings->channels = settings->config.multifd ? settings->config.multifd : 2;
	settings->method = settings->config.multifd_method;
	settings->level = (uint64_t)settings->config.multifd_level;
	settings->on = (settings->config.multifd ? QMP_MULTIFD : 0u) |
		       (settings->config.postcopy ? QMP_POSTCOPY : 0u) |
		       (settings->config.return_path ? QMP_RETURN_PATH : 0u) |
		       (settings->config.switchover_ack ? QMP_SWITCHOVER_ACK : 0u) |
		       (settings->config.rdma_pin_all ? QMP_PIN_ALL : 0u) |
		       (settings->config.postcopy && settings->config.urgent ? QMP_PREEMPT : 0u);
}

struct wh_config qmp_settings_config(struct qmp_settings *settings)
{
	struct wh_config config = settings->config;

	settings->tls.hostname = settings->tls_hostname[0] ? settings->tls_hostname : NULL;
	if (settings->tls_on)
		config.tls = &settings->tls;

	config.postcopy = settings->on & QMP_POSTCOPY;
	config.return_path = settings->on & QMP_RETURN_PATH;
	config.multifd = settings->on & QMP_MULTIFD ? (unsigned)settings->channels : 0;
	config.multifd_method = (enum wh_multifd_method)settings->method;
	config.multifd_level = (int)settings->level;
	config.switchover_ack = settings->on & QMP_SWITCHOVER_ACK;
	config.rdma_pin_all = settings->on & QMP_PIN_ALL;
	if (!(settings->on & QMP_PREEMPT))
		config.urgent = WH_URGENT_OFF;
	else if (config.urgent == WH_URGENT_OFF)
		config.urgent = WH_URGENT_AT_SWITCH;
	return config;
}

struct json_object *qmp_settings_capabilities(const struct qmp_settings *settings)
{
	struct json_object *array = json_object_new_array();

	for (size_t i = 0; i < COUNT_OF(capabilities); i++) {
		struct json_object *row = json_object_new_object();

		qmp_add_flag(row, "state", settings->on & capabilities[i].bit);
		qmp_add_text(row, "capability", capabilities[i].name);
		json_object_array_add(array, row);
	}
	return array;
}

static uint64_t value_of(const struct qmp_settings *settings, const struct parameter *parameter)
{
	uint64_t value;

	if (!parameter->unit)
		return parameter->value;
	memcpy(&value, (const char *)settings + parameter->at, sizeof(value));
	return value / parameter->unit;
}

/* Return: the word at that place, "" if there are fewer */
static const char *word(const struct parameter *parameter, uint64_t place)
{
	const char *at = parameter->words;

	while (*at && place--)
		at += strlen(at) + 1;
	return at;
}

bool qmp_settings_alike(const struct qmp_settings *a, const struct qmp_settings *b)
{
	if (a->tls_on != b->tls_on || strcmp(a->tls_hostname, b->tls_hostname) != 0)
		return false;
	for (size_t i = 0; i < COUNT_OF(parameters); i++)
		if (value_of(a, &parameters[i]) != value_of(b, &parameters[i]))
			return false;
	return true;
}

static const char *text_of(const struct qmp_settings *settings, const struct parameter *parameter)
{
	if (!strcmp(parameter->name, "tls-creds"))
		return settings->tls_on ? QMP_TLS_ID : "";
	if (!strcmp(parameter->name, "tls-hostname"))
		return settings->tls_hostname;
	return parameter->text;
}

struct json_object *qmp_settings_parameters(const struct qmp_settings *settings)
{
	struct json_object *all = json_object_new_object();

	for (size_t i = 0; i < COUNT_OF(parameters); i++) {
		const struct parameter *parameter = &parameters[i];

		/* A QEMU has none of ours: it is told of where it was set */
		if (!strncmp(parameter->name, "x-wherry-", 9) && !value_of(settings, parameter))
			continue;
		if (parameter->words)
			qmp_add_text(all, parameter->name,
				     word(parameter, value_of(settings, parameter)));
		else if (parameter->text)
			qmp_add_text(all, parameter->name, text_of(settings, parameter));
		else if (parameter->flag)
			qmp_add_flag(all, parameter->name, parameter->value);
		else
			qmp_add_number(all, parameter->name, value_of(settings, parameter));
	}
	return all;
}

/* {"capability": ..., "state": ...}, no more and no less */
static int read_row(struct json_object *row, size_t i, const char **name, bool *state,
		    struct wh_err *err)
{
	struct json_object *flag;

	if (!json_object_is_type(row, json_type_object))
		return qmp_fail(err, -EINVAL,
				"Invalid parameter type for 'capabilities[%zu]', expected: object",
				i);
	*name = qmp_member(row, "capability");
	if (!*name)
		return qmp_fail(err, -EINVAL,
				"Parameter 'capabilities[%zu].capability' expects a name", i);
	if (!json_object_object_get_ex(row, "state", &flag))
		return qmp_fail(err, -EINVAL, "Parameter 'capabilities[%zu].state' is missing", i);
	if (!json_object_is_type(flag, json_type_boolean))
		return qmp_fail(
			err, -EINVAL,
			"Invalid parameter type for 'capabilities[%zu].state', expected: boolean",
			i);
	if (json_object_object_length(row) != 2)
		return qmp_fail(err, -EINVAL,
				"Parameter 'capabilities[%zu]' has unexpected members", i);
	*state = json_object_get_boolean(flag);
	return 0;
}

static int set_row(unsigned *on, const char *name, bool state, struct wh_err *err)
{
	for (size_t i = 0; i < COUNT_OF(capabilities); i++) {
		if (strcmp(capabilities[i].name, name) != 0)
			continue;
		if (state && !capabilities[i].bit)
			return qmp_fail(err, -EINVAL, "Capability '%s' is not supported", name);
		*on = state ? *on | capabilities[i].bit : *on & ~capabilities[i].bit;
		return 0;
	}
	return qmp_fail(err, -EINVAL, "Parameter 'capability' does not accept value '%s'", name);
}

int qmp_settings_set_capabilities(struct qmp_settings *settings, struct json_object *array,
				  struct wh_err *err)
{
	unsigned on = settings->on;

	for (size_t i = 0; i < json_object_array_length(array); i++) {
		const char *name = "";
		bool state = false;

		if (read_row(json_object_array_get_idx(array, i), i, &name, &state, err) ||
		    set_row(&on, name, state, err))
			return -EINVAL;
	}
	if ((on & QMP_PREEMPT) && !(on & QMP_POSTCOPY))
		return qmp_fail(err, -EINVAL, "Postcopy preempt requires postcopy-ram");
	if ((on & QMP_MULTIFD) && (on & QMP_POSTCOPY))
		return qmp_fail(err, -EINVAL, "Postcopy is not yet compatible with multifd");
	settings->on = on;
	return 0;
}

static const struct parameter *parameter_named(const char *name)
{
	for (size_t i = 0; i < COUNT_OF(parameters); i++)
		if (!strcmp(parameters[i].name, name))
			return &parameters[i];
	return NULL;
}

/* Of the right type: what it says, as it is told in parameters */
static int check_type(const struct parameter *parameter, struct json_object *value,
		      struct wh_err *err)
{
	bool text = parameter->text || parameter->words;
	enum json_type type = text	      ? json_type_string :
			      parameter->flag ? json_type_boolean :
						json_type_int;

	/* tls-creds and its like: null is as "" */
	if (json_object_is_type(value, type) || (parameter->text && !value))
		return 0;
	return qmp_fail(err, -EINVAL, "Invalid parameter type for '%s', expected: %s",
			parameter->name,
			text		? "string" :
			parameter->flag ? "boolean" :
					  "integer");
}

static int set_word(struct qmp_settings *settings, const struct parameter *parameter,
		    const char *value, struct wh_err *err)
{
	uint64_t place = 0;

	while (*word(parameter, place) && strcmp(word(parameter, place), value) != 0)
		place++;
	if (!*word(parameter, place))
		return qmp_fail(err, -EINVAL, "Parameter '%s': '%s' is not supported",
				parameter->name, value);
	memcpy((char *)settings + parameter->at, &place, sizeof(place));
	return 0;
}

/* It is of the right type */
static int set_parameter(struct qmp_settings *settings, const struct parameter *parameter,
			 struct json_object *value, struct wh_err *err)
{
	uint64_t number;
	bool same;

	if (!parameter->unit) {
		if (parameter->text)
			same = !strcmp(value ? json_object_get_string(value) : "", parameter->text);
		else
			same = json_object_get_int64(value) == (int64_t)parameter->value;
		return same ? 0 :
			      qmp_fail(err, -EINVAL,
				       "Parameter '%s' has no effect and cannot be changed",
				       parameter->name);
	}
	if (parameter->words)
		return set_word(settings, parameter, value ? json_object_get_string(value) : "",
				err);
	number = json_object_get_uint64(value); /* of less than zero it is 0 */
	if (json_object_get_int64(value) < 0 || number < parameter->min || number > parameter->max)
		return qmp_fail(err, -EINVAL,
				"Parameter '%s' expects a number from %" PRIu64 " to %" PRIu64,
				parameter->name, parameter->min, parameter->max);
	number *= parameter->unit;
	memcpy((char *)settings + parameter->at, &number, sizeof(number));
	return 0;
}

/* tls-creds and tls-hostname. Return: 0; 1 it is another one; or -EINVAL and a sentence */
static int set_tls(struct qmp_settings *settings, const struct parameter *parameter,
		   struct json_object *value, struct wh_err *err)
{
	const char *text = value ? json_object_get_string(value) : "";

	if (!strcmp(parameter->name, "tls-creds")) {
		if (text[0] && (strcmp(text, QMP_TLS_ID) != 0 || !settings->tls.dir))
			return qmp_fail(err, -EINVAL, "No TLS credentials with id '%.100s'", text);
		settings->tls_on = text[0];
	} else if (!strcmp(parameter->name, "tls-hostname")) {
		if (strlen(text) >= sizeof(settings->tls_hostname))
			return qmp_fail(err, -EINVAL,
					"Parameter 'tls-hostname' has over 255 bytes");
		memcpy(settings->tls_hostname, text, strlen(text) + 1);
	} else {
		return 1;
	}
	return 0;
}

int qmp_settings_set_parameters(struct qmp_settings *settings, struct json_object *arguments,
				struct wh_err *err)
{
	struct qmp_settings next = *settings;

	json_object_object_foreach(arguments, name, value)
	{
		const struct parameter *parameter = parameter_named(name);
		int ret;

		if (!parameter)
			return qmp_fail(err, -EINVAL, "Parameter '%s' is unexpected", name);
		if (check_type(parameter, value, err))
			return -EINVAL;
		ret = set_tls(&next, parameter, value, err);
		if (ret == 1)
			ret = set_parameter(&next, parameter, value, err);
		if (ret)
			return -EINVAL;
	}
	*settings = next;
	return 0;
}
