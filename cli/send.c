/* SPDX-License-Identifier: MIT */
/*
 * wherry send: a parked VM into a waiting QEMU, or another destination.
 *
 * Nothing runs here, so nothing is written meanwhile, and one pass is all there is. By
 * postcopy the guest runs at once and its pages come as it touches them; the folder stays what
 * it is, so whatever becomes of the other end, this copy can be sent again, as long as the guest
 * did not run there.
 */
#include "cli/cli.h"
#include "cli/send.h"

#include <errno.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define TURN_NS 100000000ll /* between two looks at signals and progress */
#define RETRY_NS 500000000ull
#define SHOW_NS 400000000ull
#define NS_PER_S 1000000000ull

static volatile sig_atomic_t interrupted;

static void on_signal(int number)
{
	(void)number;
	interrupted = 1;
}

/* Pages are read when they are sent: a disk may fail by then, or a file have become shorter */
static void on_bus_error(int number)
{
	static const char text[] =
		"wherry send: pages that are to be sent cannot be read any more\n";
	ssize_t ignored = write(STDERR_FILENO, text, sizeof(text) - 1);

	(void)ignored;
	(void)number;
	_exit(1);
}

static bool is_interrupted(void *opaque)
{
	(void)opaque;
	return interrupted;
}

/* A line of text, or an object with the figures of the migration */
static void say(const struct send *send, const char *kind, const char *text)
{
	uint64_t ns = receive_now_ns() - send->begin_ns;
	json_object *object;
	struct wh_stats stats;
	char figures[2048];

	if (!send->json) {
		if (!send->quiet)
			fprintf(stderr, "%6.2f s  %s\n", (double)ns / (double)NS_PER_S, text);
		return;
	}
	object = json_object_new_object();
	json_object_object_add(object, "kind", json_object_new_string(kind));
	json_object_object_add(object, "t_ms", json_object_new_uint64(ns / 1000000));
	json_object_object_add(object, "text", json_object_new_string(text));
	if (send->migration) {
		wh_get_stats(send->migration, &stats);
		wh_stats_json(&stats, figures, sizeof(figures));
		json_object_object_add(object, "migration", json_tokener_parse(figures));
	}
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
							    JSON_C_TO_STRING_NOSLASHESCAPE));
	fflush(stdout);
	json_object_put(object);
}

static void on_event(void *opaque, const struct wh_event *event)
{
	struct send *send = opaque;
	struct wh_err err = { 0 };
	char text[320];

	if (event->kind != WH_EVENT_PHASE)
		return;
	if (event->phase == WH_PHASE_POSTCOPY)
		__atomic_store_n(&send->switched, true, __ATOMIC_RELAXED);
	if (event->phase == WH_PHASE_PRECOPY && send->postcopy)
		wh_start_postcopy(send->migration, &err);
	snprintf(text, sizeof(text), "%s%s%.280s", wh_phase_name(event->phase),
		 event->err ? ": " : "", event->err ? event->err->text : "");
	say(send, "phase", text);
}

static void on_log(void *opaque, enum wh_log_level level, const char *line)
{
	if (level <= WH_LOG_WARNING)
		say(opaque, "note", line);
}

/* Nobody writes: the first pass has everything. */
static int on_dirty_sync(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			 struct wh_err *err)
{
	(void)opaque;
	(void)block;
	(void)map;
	(void)pages;
	(void)err;
	return 0;
}

static int on_device_save(void *opaque, void **data, size_t *length, struct wh_err *err)
{
	const struct send *send = opaque;

	*length = send->parked.device_length;
	*data = malloc(*length ? *length : 1);
	if (!*data)
		return receive_fail(err, -ENOMEM, "no memory for device state");
	memcpy(*data, send->parked.device, *length);
	return 0;
}

const struct wh_callbacks send_callbacks = {
	.event = on_event,
	.log = on_log,
	.dirty_sync = on_dirty_sync,
	.device_save = on_device_save,
};

static void show_progress(struct send *send)
{
	uint64_t now = receive_now_ns();
	struct wh_stats stats;
	char text[160];

	if (now < send->shown_ns + SHOW_NS)
		return;
	send->shown_ns = now;
	wh_get_stats(send->migration, &stats);
	snprintf(text, sizeof(text),
		 "%-16s %5" PRIu64 " MiB  %5" PRIu64 " MB/s  %7" PRIu64 " pages left  %6" PRIu64
		 " requests",
		 wh_phase_name(stats.phase), stats.bytes >> 20, stats.bandwidth / 1000000,
		 stats.pages_left, stats.requests);
	say(send, "progress", text);
}

/* The guest over there has what it has, and the rest is here: until it can be reached again */
static bool try_again(struct send *send)
{
	uint64_t now = receive_now_ns();
	struct wh_err err = { 0 };

	if (wh_get_phase(send->migration) != WH_PHASE_PAUSED)
		return false;
	if (!send->broken_ns)
		send->broken_ns = now;
	if (now - send->broken_ns >= send->recover_ns)
		return false;
	nanosleep(&(struct timespec){ .tv_nsec = RETRY_NS }, NULL);
	wh_resume(send->migration, send->uri, &err); /* not yet; the event says why */
	return true;
}

int send_step(struct send *send, struct wh_err *err)
{
	int ret = wh_wait(send->migration, TURN_NS, err);

	if (ret == -EAGAIN) {
		if (wh_get_phase(send->migration) == WH_PHASE_POSTCOPY)
			send->broken_ns = 0;
		show_progress(send);
		return 1;
	}
	return ret && try_again(send) ? 1 : ret;
}

/* Return: 0 all of it is there, or a negative errno and the sentence */
static int wait_for_it(struct send *send, struct wh_err *err)
{
	int ret;

	while ((ret = send_step(send, err)) == 1)
		if (interrupted)
			return receive_fail(err, -EINTR, "interrupted%s",
					    send->postcopy ? ", the guest may miss pages" : "");
	return ret;
}

int send_start(struct send *send, struct wh_config *config, struct wh_err *err)
{
	const struct parked *parked = &send->parked;
	int ret;

	config->device_format = parked->device_format;
	ret = wh_new(&send->migration, WH_SOURCE, config, err);
	for (unsigned i = 0; i < parked->blocks && !ret; i++) {
		const struct wh_block block = {
			.name = parked->block[i].name,
			.addr = parked->block[i].at,
			.length = parked->block[i].length,
			.page_size = parked->block[i].page_size,
			.fd = -1,
		};

		ret = wh_add_block(send->migration, &block, err);
	}
	if (!ret)
		ret = wh_connect(send->migration, send->uri, err);
	return ret ? ret : wh_start(send->migration, err);
}

/* A QEMU whose pages are others goes away, and says why on its own standard error only */
static void add_hint(const struct send *send, struct wh_err *err)
{
	bool gone = err->code == -ECONNRESET || err->code == -EPIPE || err->code == -ECONNABORTED;

	if (send->postcopy && gone && !__atomic_load_n(&send->switched, __ATOMIC_RELAXED))
		receive_fail(err, err->code,
			     "%.300s; a QEMU does so if its RAM has other host pages than are "
			     "announced (--page-size)",
			     err->text);
}

static int run(struct send *send, struct wh_config *config, struct wh_err *err)
{
	char text[160];
	int ret;

	ret = parked_open(&send->parked, send->from, err);
	if (send->parked.in_file)
		send->verify = false;
	for (unsigned i = 0; i < send->page_sizes && !ret; i++)
		ret = parked_page_size(&send->parked, send->page_size[i].block,
				       send->page_size[i].bytes, err);
	if (!ret && send->verify)
		ret = parked_verify(&send->parked, err);
	if (ret)
		return ret;
	snprintf(text, sizeof(text), "%u blocks of %" PRIu64 " MiB, %zu bytes of device state%s",
		 send->parked.blocks, send->parked.bytes >> 20, send->parked.device_length,
		 send->verify ? ", as they were received" : "");
	say(send, "parked", text);
	if (!config->machine)
		config->machine = send->parked.machine;
	if (wh_is_file(send->uri))
		return send_file(send, config->machine, is_interrupted, err);
	ret = send_start(send, config, err);
	if (!ret)
		ret = wait_for_it(send, err);
	if (ret)
		add_hint(send, err);
	return ret;
}

void send_summary(const struct send *send, int ret)
{
	struct wh_stats stats = { 0 };
	char text[200];

	if (ret && !send->json)
		return;
	if (send->migration)
		wh_get_stats(send->migration, &stats);
	else if (send->written)
		stats = *send->written;
	snprintf(text, sizeof(text),
		 "%s %s in %.2f s: %" PRIu64 " pages, %" PRIu64 " zero, %" PRIu64
		 " requests; %.1f MiB",
		 ret ? "failed" : "sent",
		 wh_is_file(send->uri) ? "to a file" :
		 send->postcopy	       ? "by postcopy" :
					 "by precopy",
		 (double)stats.now_ns / (double)NS_PER_S, stats.pages_normal, stats.pages_zero,
		 stats.requests, (double)stats.bytes / (1 << 20));
	say(send, "summary", text);
}

int cmd_send(int argc, char **argv)
{
	static struct send send;
	struct sigaction action = { .sa_handler = on_signal };
	struct wh_err err = { 0 };
	struct wh_config config;
	int ret;

	send = (struct send){ .parked.fd = -1, .verify = true, .begin_ns = receive_now_ns() };
	wh_config_init(&config);
	config.callbacks = &send_callbacks;
	config.opaque = &send;
	config.urgent = WH_URGENT_OFF;
	config.return_path = false;
	config.machine = NULL;
	ret = send_options(&send, &config, argc, argv);
	if (ret)
		return ret < 0 ? 0 : ret;
	sigaction(SIGINT, &action, NULL);
	sigaction(SIGTERM, &action, NULL);
	signal(SIGPIPE, SIG_IGN);
	signal(SIGBUS, on_bus_error);
	ret = run(&send, &config, &err);
	if (ret)
		fprintf(stderr, "wherry send: %s\n", err.text);
	send_summary(&send, ret);
	wh_free(send.migration);
	parked_close(&send.parked);
	return ret ? 1 : 0;
}
