/* SPDX-License-Identifier: GPL-2.0 */
#ifndef SELFTESTS_CLI_QMP_MONITOR_H
#define SELFTESTS_CLI_QMP_MONITOR_H

/*
 * A monitor in this process, for a VMM that only writes down what it is asked to do.
 */
#include <errno.h>
#include <stdlib.h>
#include <wherry/qmp.h>
#include <wherry/wherry.h>

#include "selftests/cli/qmp_talk.h"

struct monitor {
	struct wh_qmp *qmp;
	char folder[64];
	char path[100];
	bool refuse; /* what it is asked to do */
	unsigned migrates, stops, conts, quits;
	char uri[256];
	struct wh_config config;
	struct wh_tls tls; /* the VMM's; dir NULL: it has none */
	char tls_seen[400];
	unsigned protects;
	char pulse_uri[256];
	struct wh_protect_pace pace; /* max_ns 0: none was given */
};

static inline int monitor_protect(void *opaque, const char *uri, const char *pulse_uri,
				  const struct wh_protect_pace *pace, struct wh_err *err)
{
	struct monitor *m = opaque;

	(void)err;
	m->protects++;
	snprintf(m->uri, sizeof(m->uri), "%s", uri);
	snprintf(m->pulse_uri, sizeof(m->pulse_uri), "%s", pulse_uri ? pulse_uri : "-");
	m->pace = pace ? *pace : (struct wh_protect_pace){ 0 };
	return 0;
}

static inline int monitor_migrate(void *opaque, const char *uri, const struct wh_config *config,
				  struct wh_err *err)
{
	struct monitor *m = opaque;

	if (m->refuse) { /* cut off in the middle of a character, as it may happen */
		snprintf(err->text, sizeof(err->text), "refused: \xc3\xa9\xc3");
		return err->code = -EIO;
	}
	m->migrates++;
	m->config = *config;
	if (config->tls)
		snprintf(m->tls_seen, sizeof(m->tls_seen), "%s %s", config->tls->dir,
			 config->tls->hostname ? config->tls->hostname : "-");
	else
		strcpy(m->tls_seen, "plain");
	snprintf(m->uri, sizeof(m->uri), "%s", uri);
	return 0;
}

static inline int monitor_stop(void *opaque, struct wh_err *err)
{
	struct monitor *m = opaque;

	(void)err;
	m->stops++;
	wh_qmp_set_running(m->qmp, false);
	return 0;
}

static inline int monitor_cont(void *opaque, struct wh_err *err)
{
	struct monitor *m = opaque;

	(void)err;
	m->conts++;
	wh_qmp_set_running(m->qmp, true);
	return 0;
}

static inline void monitor_quit(void *opaque)
{
	struct monitor *m = opaque;

	__atomic_fetch_add(&m->quits, 1, __ATOMIC_RELAXED);
}

/* With m->path; nobody drives it. Return: 0 or a negative errno */
static inline int monitor_open(struct monitor *m, struct wh_err *err)
{
	const struct wh_qmp_callbacks callbacks = {
		.migrate = monitor_migrate,
		.stop = monitor_stop,
		.cont = monitor_cont,
		.quit = monitor_quit,
		.protect = monitor_protect,
	};
	struct wh_qmp_config config;
	struct wh_config defaults;

	wh_config_init(&defaults);
	wh_qmp_config_init(&config);
	config.path = m->path;
	config.callbacks = &callbacks;
	config.opaque = m;
	config.running = true;
	if (m->tls.dir) {
		defaults.tls = &m->tls;
		config.defaults = &defaults;
	}
	return wh_qmp_new(&m->qmp, &config, err);
}

/* In a folder of its own */
static inline int monitor_place(struct monitor *m)
{
	snprintf(m->folder, sizeof(m->folder), "/tmp/wherry-qmp-XXXXXX");
	if (!mkdtemp(m->folder))
		return -errno;
	snprintf(m->path, sizeof(m->path), "%s/monitor", m->folder);
	return 0;
}

/* And driven by its thread */
static inline int monitor_start(struct monitor *m)
{
	struct wh_err err = { 0 };
	int ret = monitor_place(m);

	if (!ret)
		ret = monitor_open(m, &err);
	if (!ret)
		ret = wh_qmp_start(m->qmp, &err);
	if (ret)
		fprintf(stderr, "# monitor: %s\n", err.text);
	return ret;
}

static inline void monitor_end(struct monitor *m)
{
	wh_qmp_free(m->qmp);
	m->qmp = NULL;
	rmdir(m->folder);
}

#endif /* SELFTESTS_CLI_QMP_MONITOR_H */
