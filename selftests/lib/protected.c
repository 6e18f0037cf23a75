/* SPDX-License-Identifier: MIT */
#include "selftests/lib/protected.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define WAIT_US 25000000u

static int fails(struct wh_err *err, const char *what)
{
	if (err) {
		err->code = -EBUSY;
		snprintf(err->text, sizeof(err->text), "%s", what);
	}
	return -EBUSY;
}

static int on_pause(void *opaque, struct wh_err *err)
{
	struct protected *pair = opaque;

	if (__atomic_load_n(&pair->fails, __ATOMIC_RELAXED)) {
		__atomic_fetch_sub(&pair->fails, 1, __ATOMIC_RELAXED);
		return fails(err, "the guest does not want to");
	}
	speaker_park(&pair->guest);
	return 0;
}

static int on_resume(void *opaque, struct wh_err *err)
{
	struct protected *pair = opaque;

	(void)err;
	speaker_run(&pair->guest);
	return 0;
}

static int on_device_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	struct protected *pair = opaque;
	uint64_t *step = malloc(sizeof(*step));

	if (!step)
		return fails(err, "no memory");
	*step = speaker_step(&pair->guest);
	*data = step;
	*length = sizeof(*step);
	return 0;
}

static int on_device_check(void *opaque, const void *data, size_t length, struct wh_err *err)
{
	struct protected *pair = opaque;

	usleep(1000 * __atomic_load_n(&pair->check_ms, __ATOMIC_RELAXED));
	return data && length == sizeof(uint64_t) ? 0 : fails(err, "no device state");
}

static int on_run(void *opaque, const void *data, size_t length, struct wh_err *err)
{
	struct protected *pair = opaque;

	(void)err;
	if (length != sizeof(uint64_t) || memcmp(data, pair->replica.memory, length) != 0)
		__atomic_store_n(&pair->mismatch, true, __ATOMIC_RELAXED);
	__atomic_store_n(&pair->ran, true, __ATOMIC_RELEASE);
	return 0;
}

static void on_source_event(void *opaque, const struct wh_protect_event *event)
{
	struct protected *pair = opaque;

	__atomic_fetch_or(&pair->states[PROTECTED_SOURCE], UINT64_C(1) << event->to,
			  __ATOMIC_RELAXED);
}

static void on_dest_event(void *opaque, const struct wh_protect_event *event)
{
	struct protected *pair = opaque;

	__atomic_fetch_or(&pair->states[PROTECTED_DEST], UINT64_C(1) << event->to,
			  __ATOMIC_RELAXED);
}

/* PROTECT_LOG=1 shows what they say */
static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	(void)opaque;
	(void)level;
	if (getenv("PROTECT_LOG"))
		printf("# %s\n", line);
}

void protected_init(struct protected *pair, uint64_t pages, struct speaker_world *world)
{
	*pair = (struct protected){
		.source_calls = {
			.event = on_source_event,
			.log = on_log,
			.pause = on_pause,
			.resume = on_resume,
			.device_save = on_device_save,
		},
		.dest_calls = {
			.event = on_dest_event,
			.log = on_log,
			.device_check = on_device_check,
			.run = on_run,
		},
	};
	pair->world = world ? world : &pair->own;
	snprintf(pair->folder, sizeof(pair->folder), "/tmp/protected-XXXXXX");
	if (!mkdtemp(pair->folder))
		abort();
	snprintf(pair->uri, sizeof(pair->uri), "unix:%s/socket", pair->folder);
	for (unsigned i = 0; i < 2; i++)
		snprintf(pair->generation[i], sizeof(pair->generation[i]), "%s/generation-%u",
			 pair->folder, i);
	speaker_init(&pair->guest, pages, pair->world);
	speaker_init(&pair->replica, pages, pair->world);
	wh_protect_config_init(&pair->source_config);
	pair->source_config.opaque = pair;
	pair->source_config.pace.min_ns = pair->source_config.pace.max_ns = 5000000;
	pair->source_config.contents_max = UINT64_C(32) << 20;
	pair->source_config.device_max = 4096;
	pair->dest_config = pair->source_config;
	pair->source_config.generation_file = pair->generation[PROTECTED_SOURCE];
	pair->dest_config.generation_file = pair->generation[PROTECTED_DEST];
	pair->source_config.callbacks = &pair->source_calls;
	pair->dest_config.callbacks = &pair->dest_calls;
}

static int add_block(struct wh_protect *protect, const struct speaker *speaker, struct wh_err *err)
{
	const struct wh_block block = {
		.name = "ram",
		.addr = speaker->memory,
		.length = speaker->pages * 4096,
		.page_size = 4096,
		.fd = -1,
	};

	return wh_protect_add_block(protect, &block, err);
}

int protected_prepare_dest(struct protected *pair, struct wh_err *err)
{
	int ret = wh_protect_new(&pair->dest, WH_DEST, &pair->dest_config, err);

	if (ret == 0)
		ret = add_block(pair->dest, &pair->replica, err);
	if (ret == 0)
		ret = wh_protect_listen(pair->dest, pair->uri, pair->pulse_at, err);
	return ret;
}

int protected_start_dest(struct protected *pair, struct wh_err *err)
{
	int ret = protected_prepare_dest(pair, err);

	return ret == 0 ? wh_protect_start(pair->dest, err) : ret;
}

int protected_start_source(struct protected *pair, struct wh_err *err)
{
	struct wh_netplug_config plug;
	int ret;

	wh_netplug_config_init(&plug);
	plug.name = pair->folder;
	if (pair->holder_ns) {
		plug.edge = WH_NETPLUG_HOLDER;
		plug.answer_ns = pair->holder_ns;
	} else {
		plug.edge = WH_NETPLUG_CALLBACK;
		plug.filter = &speaker_filter;
		plug.opaque = &pair->guest;
	}
	ret = wh_netplug_new(&pair->plug, &plug, err);
	if (ret < 0)
		return ret;
	pair->source_config.plug = pair->plug;
	speaker_run(&pair->guest);
	ret = wh_protect_new(&pair->source, WH_SOURCE, &pair->source_config, err);
	if (ret == 0)
		ret = add_block(pair->source, &pair->guest, err);
	if (ret == 0)
		ret = wh_protect_connect(pair->source, pair->to ? pair->to : pair->uri,
					 pair->pulse_to, err);
	return ret == 0 ? wh_protect_start(pair->source, err) : ret;
}

int protected_start(struct protected *pair, struct wh_err *err)
{
	int ret = protected_start_dest(pair, err);

	return ret == 0 ? protected_start_source(pair, err) : ret;
}

void protected_fini(struct protected *pair)
{
	wh_protect_free(pair->source);
	wh_protect_free(pair->dest);
	wh_netplug_free(pair->plug);
	speaker_fini(&pair->guest);
	speaker_fini(&pair->replica);
	for (unsigned i = 0; i < 2; i++)
		unlink(pair->generation[i]);
	/* of a destination that was killed */
	unlink(pair->uri + strlen("unix:"));
	rmdir(pair->folder);
}

enum wh_protect_state protected_state(struct wh_protect *protect)
{
	struct wh_protect_status status;

	wh_protect_get_status(protect, &status);
	return status.state;
}

bool protected_comes_to(struct wh_protect *protect, enum wh_protect_state state)
{
	for (unsigned us = 0; us < WAIT_US; us += 1000) {
		if (protected_state(protect) == state)
			return true;
		usleep(1000);
	}
	printf("# it is in %s\n", wh_protect_state_name(protected_state(protect)));
	return false;
}

bool protected_goes_on(struct wh_protect *protect, uint64_t checkpoints)
{
	struct wh_protect_status status;
	uint64_t begin;

	wh_protect_get_status(protect, &status);
	begin = status.checkpoints;
	for (unsigned us = 0; us < WAIT_US; us += 1000) {
		wh_protect_get_status(protect, &status);
		if (status.checkpoints - begin >= checkpoints)
			return true;
		usleep(1000);
	}
	printf("# it is in %s, %llu checkpoints: %s\n", wh_protect_state_name(status.state),
	       (unsigned long long)status.checkpoints, status.err.text);
	return false;
}
