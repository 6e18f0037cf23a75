/* SPDX-License-Identifier: MIT */
/*
 * Joining: the agent. A migration of another process's guest, whose callbacks are messages
 * to that process. One thread of ours reads what the VMM says; the migration has its own.
 */
#include "postcopy/run_dest.h"

#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wherry/agent.h>

#define END_NS ((int64_t)(10 * NS_PER_S))
#define FIGURES_MS 100 /* how old what the VMM sees of them may be */

struct serve {
	int socket;
	int ended; /* eventfd: the migration is over, or the VMM cannot be told of it */
	struct wh_agent_hooks hooks;
	void *opaque;

	struct wh_migration *m;
	struct handover handover;
	unsigned blocks; /* that HELLO announced */
	bool prepared;	 /* all of them are there */
	bool going;	 /* wh_start() was called */
	struct agent_figures before;

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool answered; /* STARTED has come, @lock */
	bool gone;     /* the VMM, @lock */
	int result;
};

static int say(struct serve *serve, const struct agent_msg *msg, int fd, struct wh_err *err)
{
	return agent_send(serve->socket, msg, &fd, err);
}

static void show_figures(struct serve *serve)
{
	struct wh_stats stats;

	wh_get_stats(serve->m, &stats);
	pthread_mutex_lock(&serve->lock);
	agent_figures_put(&serve->handover.state, &serve->before, &serve->m->dest->engine,
			  stats.own_bytes);
	pthread_mutex_unlock(&serve->lock);
}

/* Callbacks, on the migration's threads */

static void serve_event(void *opaque, const struct wh_event *event)
{
	struct agent_msg msg = { .kind = AGENT_PHASE, .phase.phase = event->phase };
	struct serve *serve = opaque;
	uint64_t one = 1;

	/* Taken up from one that has died: the pause it is in is not news */
	if (event->kind != WH_EVENT_PHASE || !serve->going)
		return;
	if (serve->hooks.event)
		serve->hooks.event(serve->opaque, event);
	msg.phase.code = event->err ? (uint32_t)event->err->code : 0;
	agent_text(&msg.phase.text, event->err ? event->err->text : "");
	show_figures(serve);
	/* one that cannot be told has gone, which is seen where it is read */
	(void)say(serve, &msg, -1, NULL);
	if (wh_phase_ended(event->phase) && write(serve->ended, &one, sizeof(one)) < 0)
		abort();
}

static void serve_log(void *opaque, enum wh_log_level level, const char *line)
{
	struct agent_msg msg = { .kind = AGENT_LOG, .log.level = level };
	struct serve *serve = opaque;

	agent_text(&msg.log.text, line);
	(void)say(serve, &msg, -1, NULL);
	if (serve->hooks.log)
		serve->hooks.log(serve->opaque, level, line);
}

static int write_all(int fd, const uint8_t *data, size_t length)
{
	while (length) {
		ssize_t n = write(fd, data, length);

		if (n < 0 && errno != EINTR)
			return -errno;
		data += n > 0 ? n : 0;
		length -= n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int serve_device(void *opaque, const void *data, size_t length, enum wh_device_format format,
			struct wh_err *err)
{
	struct agent_msg msg = { .kind = AGENT_DEVICE };
	int fd = memfd_create("wherry-device", MFD_CLOEXEC);
	int ret;

	if (fd < 0)
		return err_sys(err, errno, "agent: memfd for device state");
	msg.device.format = format;
	msg.device.length = length;
	ret = write_all(fd, data, length);
	if (ret < 0)
		err_sys(err, ret, "agent: %zu bytes of device state", length);
	else
		ret = say(opaque, &msg, fd, err);
	close(fd);
	return ret < 0 ? ret : WH_PENDING;
}

static int serve_start(void *opaque, struct wh_err *err)
{
	struct agent_msg msg = { .kind = AGENT_START };
	struct serve *serve = opaque;
	int ret;

	pthread_mutex_lock(&serve->lock);
	serve->answered = false;
	pthread_mutex_unlock(&serve->lock);
	ret = say(serve, &msg, -1, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&serve->lock);
	while (!serve->answered && !serve->gone)
		pthread_cond_wait(&serve->changed, &serve->lock);
	ret = serve->answered ? serve->result : -ECONNRESET;
	pthread_mutex_unlock(&serve->lock);
	return ret < 0 ? err_sys(err, ret, "agent: the VMM starts the guest") : 0;
}

/* What the VMM says */

static int out_of_turn(const struct agent_packet *packet, struct wh_err *err)
{
	return err_set(err, -EPROTO, "agent: %s out of turn", agent_name(packet->msg.kind));
}

static int heard_hello(struct serve *serve, struct agent_packet *packet, struct wh_err *err)
{
	const struct wh_callbacks callbacks = {
		.event = serve_event,
		.log = serve_log,
		.device_load = serve_device,
		.start = serve_start,
	};
	const __typeof__(packet->msg.hello) *hello = &packet->msg.hello;
	struct wh_config config;

	if (serve->m)
		return out_of_turn(packet, err);
	if (hello->version != AGENT_VERSION)
		return err_set(err, -EPROTO, "agent: the VMM speaks version %u, not %u",
			       hello->version, AGENT_VERSION);
	if (!hello->blocks || hello->blocks > RAM_BLOCKS_MAX || hello->urgent > WH_URGENT_AT_START)
		return err_set(err, -EPROTO, "agent: HELLO of %u blocks, urgent %u", hello->blocks,
			       hello->urgent);
	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = serve;
	config.urgent = (enum wh_urgent)hello->urgent;
	config.connect_timeout_ns = hello->connect_timeout_ns;
	config.dead_peer_ns = hello->dead_peer_ns;
	config.device_state_max = hello->device_state_max;
	serve->blocks = hello->blocks;
	serve->handover.uffd = (struct uffd){ .fd = packet->fd[0], .offered = hello->uffd_offered };
	serve->handover.state.fd = packet->fd[1];
	packet->fd[0] = packet->fd[1] = -1;
	return wh_new(&serve->m, WH_DEST, &config, err);
}

/* Ours, where it is written before the switch: nobody watches it here */
static int map_block(const struct agent_packet *packet, struct wh_block *block, struct wh_err *err)
{
	const __typeof__(packet->msg.block) *is = &packet->msg.block;
	struct stat stat;
	uint64_t end;

	if (fstat(packet->fd[0], &stat) < 0)
		return err_sys(err, errno, "block '%s'", is->name.text);
	if (__builtin_add_overflow(is->fd_offset, is->length, &end) ||
	    end > (uint64_t)stat.st_size || is->page_size < TARGET_PAGE ||
	    is->fd_offset % TARGET_PAGE || is->guest % is->page_size || !is->guest)
		return err_set(err, -EPROTO, "block '%s': %llu bytes at %llu of a file of %llu",
			       is->name.text, (unsigned long long)is->length,
			       (unsigned long long)is->fd_offset, (unsigned long long)stat.st_size);
	*block = (struct wh_block){
		.name = is->name.text,
		.length = is->length,
		.page_size = is->page_size,
		.fd = packet->fd[0],
		.fd_offset = is->fd_offset,
	};
	block->addr = mmap(NULL, is->length, PROT_READ | PROT_WRITE, MAP_SHARED | MAP_NORESERVE,
			   packet->fd[0], (off_t)is->fd_offset);
	if (block->addr == MAP_FAILED)
		return err_sys(err, errno, "block '%s': mapping it", is->name.text);
	return 0;
}

static int heard_block(struct serve *serve, struct agent_packet *packet, struct wh_err *err)
{
	struct wh_block block = { 0 };
	int ret, fd;

	if (!serve->m || serve->m->regions == serve->blocks)
		return out_of_turn(packet, err);
	ret = map_block(packet, &block, err);
	if (ret < 0)
		return ret;
	ret = wh_add_block(serve->m, &block, err);
	if (ret < 0) {
		munmap(block.addr, block.length);
		return ret;
	}
	serve->m->region[serve->m->regions - 1].guest =
		(uint8_t *)(uintptr_t)packet->msg.block.guest;
	if (serve->m->regions < serve->blocks)
		return 0;
	fd = serve->handover.state.fd;
	ret = agent_state_open(&serve->handover.state, fd, serve->m->region, serve->blocks, err);
	if (ret < 0) {
		serve->handover.state.fd = fd;
		return ret;
	}
	agent_figures_take(&serve->handover.state, &serve->before);
	serve->m->handover = &serve->handover;
	serve->prepared = true;
	return 0;
}

/* Whoever looks on is told of it as it is, before it is driven */
static void introduce(struct serve *serve, bool adopted)
{
	const struct wh_event paused = { .kind = WH_EVENT_PHASE, .phase = WH_PHASE_PAUSED };

	if (serve->hooks.migration)
		serve->hooks.migration(serve->opaque, serve->m);
	if (adopted && serve->hooks.event)
		serve->hooks.event(serve->opaque, &paused);
}

static int go(struct serve *serve, bool adopt, const char *text, struct wh_err *err)
{
	struct uri uri;
	int ret;

	if (serve->going)
		return wh_recover(serve->m, text, err);
	if (!adopt)
		ret = wh_listen(serve->m, text, err);
	else
		ret = uri_parse(&uri, text, err);
	if (adopt && ret == 0) {
		ret = dest_side_adopt(serve->m, &uri, err);
		serve->m->set_up = true;
	}
	if (ret < 0)
		return ret;
	introduce(serve, adopt);
	serve->going = true;
	return wh_start(serve->m, err);
}

static int heard_listen(struct serve *serve, const struct agent_packet *packet, struct wh_err *err)
{
	struct agent_msg msg = { .kind = AGENT_LISTENS };
	bool adopt = packet->msg.kind == AGENT_RECOVER;
	struct wh_err why = { 0 };
	int ret;

	if (!serve->prepared || (serve->going && !adopt))
		return out_of_turn(packet, err);
	ret = go(serve, adopt, adopt ? packet->msg.recover.uri.text : packet->msg.listen.uri.text,
		 &why);
	msg.listens.result = (uint32_t)ret;
	agent_text(&msg.listens.text, ret < 0 ? why.text : wh_listen_uri(serve->m));
	if (ret < 0 && !serve->going) {
		(void)say(serve, &msg, -1, NULL);
		*err = why;
		return ret;
	}
	return say(serve, &msg, -1, err);
}

static int heard_started(struct serve *serve, const struct agent_packet *packet)
{
	pthread_mutex_lock(&serve->lock);
	serve->answered = true;
	serve->result = (int)packet->msg.started.result;
	pthread_cond_broadcast(&serve->changed);
	pthread_mutex_unlock(&serve->lock);
	return 0;
}

static int heard(struct serve *serve, struct agent_packet *packet, struct wh_err *err)
{
	enum agent_kind kind = packet->msg.kind;

	if (kind == AGENT_HELLO)
		return heard_hello(serve, packet, err);
	if (kind == AGENT_BLOCK)
		return heard_block(serve, packet, err);
	if (kind == AGENT_LISTEN || kind == AGENT_RECOVER)
		return heard_listen(serve, packet, err);
	if (!serve->going)
		return out_of_turn(packet, err);
	if (kind == AGENT_STARTED)
		return heard_started(serve, packet);
	if (kind == AGENT_LOADED)
		return wh_device_loaded(serve->m, (int)packet->msg.loaded.result);
	if (kind == AGENT_PAUSE)
		(void)wh_pause(serve->m, NULL); /* too late for that: nothing has changed */
	else
		return out_of_turn(packet, err);
	return 0;
}

/* Return: 0 the migration has ended, as wh_wait() says; or what has broken the link */
static int serve_on(struct serve *serve, struct wh_err *err)
{
	struct pollfd fds[2] = {
		{ .fd = serve->socket, .events = POLLIN },
		{ .fd = serve->ended, .events = POLLIN },
	};

	for (;;) {
		struct agent_packet packet;
		int ret;

		if (poll(fds, 2, serve->going ? FIGURES_MS : -1) < 0 && errno != EINTR)
			return err_sys(err, errno, "agent: poll");
		if (serve->going)
			show_figures(serve);
		if (fds[1].revents)
			return 0;
		if (!fds[0].revents)
			continue;
		ret = agent_receive(serve->socket, &packet, err);
		if (ret == 0)
			return err_set(err, -ECONNRESET, "agent: the VMM has gone");
		if (ret < 0)
			return ret;
		ret = heard(serve, &packet, err);
		agent_packet_close(&packet);
		if (ret < 0)
			return ret;
	}
}

/* Threads of the migration wait for nothing any more, and end */
static void serve_end(struct serve *serve)
{
	struct region regions[RAM_BLOCKS_MAX];
	unsigned count = serve->m ? serve->m->regions : 0;

	pthread_mutex_lock(&serve->lock);
	serve->gone = true;
	pthread_cond_broadcast(&serve->changed);
	pthread_mutex_unlock(&serve->lock);
	if (count)
		memcpy(regions, serve->m->region, count * sizeof(regions[0]));
	if (serve->m && serve->hooks.migration)
		serve->hooks.migration(serve->opaque, NULL);
	wh_free(serve->m);
	for (unsigned i = 0; i < count; i++)
		munmap(regions[i].addr, regions[i].length);
	if (serve->handover.uffd.fd >= 0)
		close(serve->handover.uffd.fd);
	if (serve->prepared)
		agent_state_close(&serve->handover.state);
	else if (serve->handover.state.fd >= 0)
		close(serve->handover.state.fd);
	close(serve->ended);
}

int wh_agent_serve(int fd, const struct wh_agent_hooks *hooks, void *opaque, struct wh_err *err)
{
	struct serve serve = {
		.socket = fd,
		.hooks = hooks ? *hooks : (struct wh_agent_hooks){ 0 },
		.opaque = opaque,
		.ended = eventfd(0, EFD_CLOEXEC),
		.lock = PTHREAD_MUTEX_INITIALIZER,
		.changed = PTHREAD_COND_INITIALIZER,
		.handover = { .uffd.fd = -1, .state.fd = -1 },
	};
	int ret;

	if (serve.ended < 0)
		return err_sys(err, errno, "agent: eventfd");
	ret = serve_on(&serve, err);
	if (ret == 0)
		ret = wh_wait(serve.m, END_NS, err);
	serve_end(&serve);
	return ret;
}
