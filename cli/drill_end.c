/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: one end, in its own process. The main thread takes orders, and drives the
 * migration where the plan wants an event loop of the VMM's own.
 */
#include "cli/drill_end.h"
#include "cli/drill_memory.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/memfd.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define NS_PER_MS 1000000ull
#define LOOP_MS 5 /* a turn now and then, as event loops have */

struct end {
	const struct drill_plan *plan;
	enum drill_side side;
	const struct drill_files *files;
	const char *agent;
	int fd;
	struct drill_shared *shared;
	struct wh_migration *migration;
	struct drill_guest guest[DRILL_BLOCKS];
	bool driven; /* by us, and it is not over */
};

static void say(const struct end *end, struct drill_note *note)
{
	note->phase = wh_get_phase(end->migration);
	if (send(end->fd, note, sizeof(*note), MSG_NOSIGNAL) != sizeof(*note))
		_exit(1); /* nobody to tell */
}

static void end_event(void *opaque, const struct wh_event *event)
{
	struct drill_note note = { .what = DRILL_NOTHING };
	struct end *end = opaque;

	if (event->kind != WH_EVENT_PHASE)
		return;
	if (event->err) {
		note.result = event->err->code;
		snprintf(note.text, sizeof(note.text), "%s", event->err->text);
	}
	__atomic_store_n(&end->shared->phase[end->side], event->phase, __ATOMIC_SEQ_CST);
	note.phase = event->phase;
	if (send(end->fd, &note, sizeof(note), MSG_NOSIGNAL) != sizeof(note))
		_exit(1);
}

/* Each end says that it runs before it looks whether the other one does: one sees the other. */
static int end_run(void *opaque, struct wh_err *err)
{
	struct end *end = opaque;

	(void)err;
	__atomic_store_n(&end->shared->runs[end->side], 1, __ATOMIC_SEQ_CST);
	/* of a QEMU one hears a moment later that it has stopped; that it runs it sees itself */
	if (end->plan->qemu == DRILL_SIDES &&
	    __atomic_load_n(&end->shared->runs[!end->side], __ATOMIC_SEQ_CST))
		__atomic_store_n(&end->shared->ran_twice, 1, __ATOMIC_SEQ_CST);
	for (unsigned i = 0; i < end->plan->blocks; i++)
		drill_guest_run(&end->guest[i]);
	return 0;
}

static int end_pause(void *opaque, struct wh_err *err)
{
	struct end *end = opaque;

	(void)err;
	for (unsigned i = 0; i < end->plan->blocks; i++)
		drill_guest_park(&end->guest[i]);
	for (unsigned i = 0; i < end->plan->blocks; i++)
		end->shared->state[i] = end->guest[i].state;
	__atomic_store_n(&end->shared->runs[end->side], 0, __ATOMIC_SEQ_CST);
	return 0;
}

static size_t state_bytes(const struct drill_plan *plan)
{
	return plan->blocks * sizeof(struct drill_guest_state) + plan->device_bytes;
}

static uint8_t device_byte(const struct drill_plan *plan, size_t at)
{
	return (uint8_t)((plan->seed >> (at % 57)) + at * 31);
}

static int end_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	const struct end *end = opaque;
	const struct drill_plan *plan = end->plan;
	size_t bytes = state_bytes(plan), guest = bytes - plan->device_bytes;
	uint8_t *state = malloc(bytes);

	(void)err;
	if (!state)
		return -ENOMEM;
	for (unsigned i = 0; i < plan->blocks; i++)
		memcpy(state + i * sizeof(struct drill_guest_state), &end->guest[i].state,
		       sizeof(struct drill_guest_state));
	for (size_t i = guest; i < bytes; i++)
		state[i] = device_byte(plan, i);
	*data = state;
	*length = bytes;
	return 0;
}

static int end_load(void *opaque, const void *data, size_t length, enum wh_device_format format,
		    struct wh_err *err)
{
	struct end *end = opaque;
	const struct drill_plan *plan = end->plan;
	size_t guest = state_bytes(plan) - plan->device_bytes;
	const uint8_t *state = data;

	(void)err;
	/* what it has of devices is not for us; the guest begins with the file's contents */
	if (plan->qemu == DRILL_SOURCE)
		return format == WH_DEVICE_QEMU ? 0 : -EPROTO;
	if (length != state_bytes(plan) || format != WH_DEVICE_OWN)
		return -EPROTO;
	for (size_t i = guest; i < length; i++)
		if (state[i] != device_byte(plan, i))
			__atomic_fetch_add(&end->shared->wrong[end->side], 1, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < plan->blocks; i++)
		memcpy(&end->guest[i].state, state + i * sizeof(struct drill_guest_state),
		       sizeof(struct drill_guest_state));
	for (unsigned i = 0; i < plan->blocks; i++)
		end->guest[i].began = end->guest[i].state;
	return 0;
}

static int end_memory(struct end *end, unsigned i, struct wh_block *block)
{
	enum drill_memory kind = end->plan->memory[end->side];
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;

	block->length = end->plan->pages[i] * DRILL_PAGE;
	block->page_size = end->files->huge ? DRILL_HUGE : DRILL_PAGE;
	block->fd = end->files->fd[end->side][i];
	if (kind != DRILL_PRIVATE) {
		if (block->fd < 0)
			block->fd = memfd_create("drill", MFD_CLOEXEC);
		if (block->fd < 0 || ftruncate(block->fd, (off_t)block->length) < 0)
			return -errno;
		/* what is to be full must not be reserved */
		flags = MAP_SHARED | (end->plan->no_space ? MAP_NORESERVE : 0);
	}
	block->addr = mmap(NULL, block->length, PROT_READ | PROT_WRITE, flags, block->fd, 0);
	return block->addr == MAP_FAILED ? -errno : 0;
}

static int end_guest(struct end *end, unsigned i, const struct wh_block *block)
{
	const struct drill_plan *plan = end->plan;
	struct drill_guest *guest = &end->guest[i];

	*guest = (struct drill_guest){
		.memory = block->addr,
		.pages = plan->pages[i],
		.page_size = block->page_size,
		.seed = plan->seed + i,
		.removes = plan->removes && end->side == DRILL_DEST,
		.shared_memory = block->fd >= 0,
		.pace_us = plan->pace_us,
		.wrong = &end->shared->wrong[end->side],
		.removed_counts = &end->shared->removed,
	};
	return drill_guest_init(guest);
}

static int end_new(struct end *end, struct wh_err *err)
{
	const struct drill_plan *plan = end->plan;
	const struct wh_callbacks callbacks = {
		.event = end_event,
		.pause = end_pause,
		.resume = end_run,
		.device_save = plan->qemu == DRILL_DEST ? NULL : end_save,
		.device_load = end_load,
		.start = end_run,
	};
	bool source = end->side == DRILL_SOURCE;
	struct wh_config config;
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = end;
	config.machine = plan->qemu == DRILL_DEST ? "none" : config.machine;
	config.postcopy = plan->postcopy;
	config.return_path = true;
	config.urgent = plan->urgent;
	config.removes = plan->removes && !source;
	config.bandwidth = plan->bandwidth;
	config.postcopy_bandwidth = plan->postcopy_bandwidth;
	config.downtime_ns = plan->postcopy ? 1 : 1000 * NS_PER_MS;
	config.postcopy_after_ns =
		plan->postcopy && !plan->by_command ? plan->switch_ms * NS_PER_MS : 0;
	config.connect_timeout_ns = plan->connect_ms * NS_PER_MS;
	config.agent = plan->agent && !source ? end->agent : NULL;
	config.dead_peer_ns = plan->dead_peer_ms * NS_PER_MS;
	ret = wh_new(&end->migration, source ? WH_SOURCE : WH_DEST, &config, err);
	for (unsigned i = 0; i < plan->blocks && ret == 0; i++) {
		char name[16];
		struct wh_block block = { .name = name };

		/* a QEMU has one of that name */
		if (plan->qemu == DRILL_SIDES)
			snprintf(name, sizeof(name), "ram%u", i);
		else
			snprintf(name, sizeof(name), "ram");
		ret = end_memory(end, i, &block);
		if (ret == 0)
			ret = end_guest(end, i, &block);
		if (ret == 0)
			ret = wh_add_block(end->migration, &block, err);
		if (ret == 0 && source)
			drill_guest_fill(&end->guest[i]);
	}
	return ret;
}

static int end_start(struct end *end, struct wh_err *err)
{
	if (!end->plan->own_loop[end->side])
		return wh_start(end->migration, err);
	end->driven = true;
	return wh_process(end->migration, err) < 0 ? err->code : 0;
}

static int64_t end_verify(struct end *end, char *text, size_t room)
{
	int64_t wrong = 0;

	for (unsigned i = 0; i < end->plan->blocks; i++)
		drill_guest_park(&end->guest[i]);
	for (unsigned i = 0; i < end->plan->blocks; i++) {
		uint64_t first, bad = drill_guest_verify(&end->guest[i], &first);

		if (bad && !wrong) {
			int n = snprintf(text, room, "block %u, ", i);

			drill_guest_explain(&end->guest[i], first, text + n, room - (size_t)n);
		}
		wrong += (int64_t)bad;
	}
	return wrong;
}

static void end_do(struct end *end, const struct drill_order *order)
{
	struct drill_note note = { .what = order->what };
	struct wh_migration *m = end->migration;
	struct wh_err err = { 0 };

	switch (order->what) {
	case DRILL_LISTEN:
		note.result = wh_listen(m, order->uri, &err);
		if (note.result == 0)
			note.result = end_start(end, &err);
		break;
	case DRILL_CONNECT:
		end_run(end, NULL);
		note.result = wh_connect(m, order->uri, &err);
		if (note.result == 0)
			note.result = end_start(end, &err);
		break;
	case DRILL_SWITCH:
		note.result = wh_start_postcopy(m, &err);
		break;
	case DRILL_DO_PAUSE:
		note.result = wh_pause(m, &err);
		break;
	case DRILL_DO_CANCEL:
		note.result = wh_cancel(m, &err);
		break;
	case DRILL_RECOVER:
		note.result = wh_recover(m, order->uri, &err);
		break;
	case DRILL_RESUME:
		note.result = wh_resume(m, order->uri, &err);
		break;
	case DRILL_VERIFY:
		note.result = end_verify(end, err.text, sizeof(err.text));
		break;
	case DRILL_QUIT:
		wh_get_stats(m, &note.stats);
		wh_free(m);
		/* its guest may wait for pages for ever, and is not waited for */
		_exit(0);
	case DRILL_GONE:
	case DRILL_NOTHING:
		break;
	}
	snprintf(note.text, sizeof(note.text), "%s", err.text);
	if ((order->what == DRILL_LISTEN || order->what == DRILL_RECOVER) && note.result == 0)
		snprintf(note.text, sizeof(note.text), "%s", wh_listen_uri(m));
	wh_get_stats(m, &note.stats);
	say(end, &note);
}

void drill_end_main(const struct drill_plan *plan, enum drill_side side,
		    const struct drill_files *files, const char *agent, struct drill_shared *shared,
		    int fd)
{
	static struct end end;
	struct drill_note ready = { .what = DRILL_NOTHING };
	struct drill_order order;
	struct wh_err err = { 0 };

	for (unsigned i = 0; i < plan->faults && side == DRILL_DEST; i++)
		if (plan->fault[i].kind == DRILL_NO_MEMORY) {
			/* without it nothing fails, and the fault has not happened */
			(void)drill_memory_guard(&shared->place_error, &shared->place_refused);
			break;
		}
	if (plan->no_space && side == DRILL_DEST)
		drill_guest_waits_for_room();
	end = (struct end){
		.plan = plan,
		.side = side,
		.files = files,
		.agent = agent,
		.fd = fd,
		.shared = shared,
	};
	ready.result = end_new(&end, &err);
	if (ready.result < 0 || (plan->own_loop[side] && wh_fd(end.migration) < 0)) {
		fprintf(stderr, "wherry drill: %s: %s\n", side == DRILL_DEST ? "dest" : "source",
			*err.text ? err.text : strerrordesc_np((int)-ready.result));
		_exit(1);
	}
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = fd, .events = POLLIN },
			{ .fd = end.driven ? wh_fd(end.migration) : -1, .events = POLLIN },
		};

		(void)poll(fds, 2, end.driven ? LOOP_MS : -1);
		if (fds[0].revents) {
			if (recv(fd, &order, sizeof(order), 0) != sizeof(order))
				_exit(1); /* the operator is gone */
			end_do(&end, &order);
		}
		/* also without anything to read: it is not over until it says so */
		if (end.driven && wh_process(end.migration, &err) != 1)
			end.driven = false;
	}
}
