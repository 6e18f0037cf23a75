/* SPDX-License-Identifier: MIT */
/*
 * What a VMM does for its migration: the callbacks, and setting one up.
 */
#include "vmm.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <unistd.h>

static void note_put(struct mover *mover, const struct note *note)
{
	pthread_mutex_lock(&mover->lock);
	/* Of too many the oldest goes; the phase is asked for anyway when it matters */
	if (mover->notes == NOTES_MAX) {
		mover->notes_first = (mover->notes_first + 1) % NOTES_MAX;
		mover->notes--;
	}
	mover->note[(mover->notes_first + mover->notes++) % NOTES_MAX] = *note;
	pthread_mutex_unlock(&mover->lock);
	eventfd_write(mover->notes_fd, 1);
}

bool mover_note(struct mover *mover, struct note *note)
{
	bool any;

	pthread_mutex_lock(&mover->lock);
	any = mover->notes > 0;
	if (any) {
		*note = mover->note[mover->notes_first];
		mover->notes_first = (mover->notes_first + 1) % NOTES_MAX;
		mover->notes--;
	}
	pthread_mutex_unlock(&mover->lock);
	return any;
}

static void on_event(void *opaque, const struct wh_event *event)
{
	struct note note = { .event = *event };

	if (event->err && event->err->code)
		snprintf(note.text, sizeof(note.text), "%s", event->err->text);
	note.event.err = NULL; /* valid only now */
	note_put(opaque, &note);
}

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	struct note note = { .log = true, .level = level };

	snprintf(note.text, sizeof(note.text), "%s", line);
	note_put(opaque, &note);
}

static int on_pause(void *opaque, struct wh_err *err)
{
	struct mover *mover = opaque;

	(void)err;
	guest_park(mover->guest);
	return 0;
}

static int on_resume(void *opaque, struct wh_err *err)
{
	struct mover *mover = opaque;

	(void)err;
	guest_run(mover->guest);
	return 0;
}

static int on_device_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	struct mover *mover = opaque;

	return state_save(mover->guest, data, length, err);
}

static int on_dirty_start(void *opaque, struct wh_err *err)
{
	struct mover *mover = opaque;

	return mover->guest->ops->log(mover->guest, true, err);
}

static int on_dirty_sync(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			 struct wh_err *err)
{
	struct mover *mover = opaque;

	(void)block; /* there is only one */
	return mover->guest->ops->log_take(mover->guest, map, pages, err);
}

static void on_dirty_stop(void *opaque)
{
	struct mover *mover = opaque;

	mover->guest->ops->log(mover->guest, false, NULL);
}

/*
 * A device with something in guest memory: reading it may wait for the page, so it is
 * not for the thread that fetches pages.
 */
static void *load_main(void *arg)
{
	struct mover *mover = arg;
	struct wh_err err = { 0 };
	int ret = state_load(mover->guest, mover->state, mover->state_bytes, &err);

#if defined(__x86_64__)
	if (!ret && memcmp(mover->guest->ram.at + PROGRAM_AT, vmm_program,
			   (size_t)(vmm_program_end - vmm_program)))
		ret = fail(&err, -EPROTO, "the program in guest memory is not the one that runs");
#endif
	if (ret)
		on_log(mover, WH_LOG_ERROR, err.text);
	wh_device_loaded(mover->migration, ret);
	__atomic_store_n(&mover->loading, false, __ATOMIC_RELEASE);
	return NULL;
}

static int on_device_load(void *opaque, const void *data, size_t length,
			  enum wh_device_format format, struct wh_err *err)
{
	struct mover *mover = opaque;
	pthread_t loader;
	int ret;

	if (format != WH_DEVICE_OWN)
		return fail(err, -EPROTO, "device state of another VMM");
	if (!mover->options->load_elsewhere)
		return state_load(mover->guest, data, length, err);
	mover->state = malloc(length ? length : 1);
	if (!mover->state)
		return fail(err, -ENOMEM, "no memory for %zu bytes of device state", length);
	memcpy(mover->state, data, length);
	mover->state_bytes = length;
	mover->loading = true;
	ret = -pthread_create(&loader, NULL, load_main, mover);
	if (ret)
		return fail(err, ret, "no thread to load device state");
	pthread_detach(loader);
	return WH_PENDING;
}

static int on_start(void *opaque, struct wh_err *err)
{
	struct mover *mover = opaque;

	(void)err;
	guest_run(mover->guest);
	return 0;
}

int mover_open(struct mover *mover, const struct options *options, struct guest *guest,
	       struct wh_err *err)
{
	*mover = (struct mover){ .options = options, .guest = guest };
	pthread_mutex_init(&mover->lock, NULL);
	mover->notes_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	if (mover->notes_fd < 0)
		return fail(err, -errno, "eventfd: %m");
	return 0;
}

int mover_begin(struct mover *mover, struct wh_err *err)
{
	const struct options *options = mover->options;
	struct guest *guest = mover->guest;
	struct wh_callbacks callbacks = {
		.event = on_event,
		.log = on_log,
		.pause = on_pause,
		.resume = on_resume,
		.device_save = on_device_save,
		.device_load = on_device_load,
		.start = on_start,
	};
	struct wh_block block = {
		.name = "ram",
		.addr = guest->ram.at,
		.length = guest->ram.bytes,
		.page_size = guest->ram.page_bytes,
		.fd = guest->ram.fd,
	};
	struct wh_config config = options->config;
	enum wh_role role = options->side == SIDE_SOURCE ? WH_SOURCE : WH_DEST;
	int ret;

	if (guest->ops->log_take) {
		callbacks.dirty_start = on_dirty_start;
		callbacks.dirty_sync = on_dirty_sync;
		callbacks.dirty_stop = on_dirty_stop;
	}
	config.callbacks = &callbacks;
	config.opaque = mover;
	ret = wh_new(&mover->migration, role, &config, err);
	if (ret)
		return ret;
	ret = wh_add_block(mover->migration, &block, err);
	if (!ret)
		ret = role == WH_SOURCE ? wh_connect(mover->migration, options->uri, err) :
					  wh_listen(mover->migration, options->uri, err);
	if (!ret && !options->own_loop)
		ret = wh_start(mover->migration, err);
	return ret;
}

void mover_end(struct mover *mover)
{
	/* The loader may wait for a page that never comes, and then still uses this. */
	if (mover->migration && !__atomic_load_n(&mover->loading, __ATOMIC_ACQUIRE))
		wh_free(mover->migration);
	mover->migration = NULL;
}
