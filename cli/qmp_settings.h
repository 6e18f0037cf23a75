/* SPDX-License-Identifier: MIT */
#ifndef CLI_QMP_SETTINGS_H
#define CLI_QMP_SETTINGS_H

#include <stdbool.h>
#include <wherry/migration.h>
#include <wherry/tls.h>

struct json_object;

/* QEMU's capabilities, those that can be switched on here, as bits */
enum qmp_capability {
	QMP_EVENTS = 1 << 0,
	QMP_POSTCOPY = 1 << 1,
	QMP_RETURN_PATH = 1 << 2,
	QMP_BLOCKTIME = 1 << 3,
	QMP_PREEMPT = 1 << 4,
	QMP_MULTIFD = 1 << 5,
	QMP_SWITCHOVER_ACK = 1 << 6,
	QMP_PIN_ALL = 1 << 7,
};

/**
 * struct qmp_settings - What clients have set
 * @on:		enum qmp_capability
 * @config:	The VMM's defaults and the parameters; capabilities and TLS are not in it
 * @channels:	Of multifd, if that is on
 * @method:	Of their pages: enum wh_multifd_method
 * @level:	Of zstd
 * @tls:	The VMM's credentials, QMP_TLS_ID; @tls.dir is NULL if it has none
 * @tls_on:	tls-creds names them
 * @tls_hostname: "": the URI's
 */
struct qmp_settings {
	unsigned on;
	struct wh_config config;
	uint64_t channels;
	uint64_t method;
	uint64_t level;
	struct wh_tls tls;
	bool tls_on;
	char tls_hostname[256];
};

/* What tls-creds calls the VMM's credentials: there is one lot of them */
#define QMP_TLS_ID "tls0"

void qmp_settings_init(struct qmp_settings *settings, const struct wh_config *defaults);

/* What the next migration is to be like. Valid as long as @settings */
struct wh_config qmp_settings_config(struct qmp_settings *settings);

/* Are the parameters of both the same? */
bool qmp_settings_alike(const struct qmp_settings *a, const struct qmp_settings *b);

/* For query-migrate-capabilities and query-migrate-parameters */
struct json_object *qmp_settings_capabilities(const struct qmp_settings *settings);
struct json_object *qmp_settings_parameters(const struct qmp_settings *settings);

/*
 * The same to be set: the array of migrate-set-capabilities, the arguments of
 * migrate-set-parameters. All of it, or nothing. Return: 0, or -EINVAL and a sentence
 */
int qmp_settings_set_capabilities(struct qmp_settings *settings, struct json_object *array,
				  struct wh_err *err);
int qmp_settings_set_parameters(struct qmp_settings *settings, struct json_object *arguments,
				struct wh_err *err);

#endif /* CLI_QMP_SETTINGS_H */
