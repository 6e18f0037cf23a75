/* SPDX-License-Identifier: MIT */
/*
 * Joining: a VMM hands its memory to an agent, and to the next one. What an agent says, and
 * what its death means, is in agent_vmm_link.c.
 */
#include "postcopy/agent_vmm.h"

#include "base/err.h"
#include "postcopy/run.h"
#include "uffd/abi.h"

#include <errno.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <unistd.h>

#define ANSWER_NS (10 * NS_PER_S)

int agent_vmm_new(struct wh_migration *m, struct wh_err *err)
{
	size_t length = strlen(m->config.agent);
	struct agent_vmm *a;

	if (length == 0 || length >= sizeof(a->path))
		return err_set(err, -EINVAL, "config: agent: a path of %zu bytes, not 1 to %zu",
			       length, sizeof(a->path) - 1);
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(err, -ENOMEM, "agent: no memory");
	memcpy(a->path, m->config.agent, length);
	m->config.agent = a->path;
	a->uffd.fd = a->state.fd = a->socket = -1;
	pthread_mutex_init(&a->listen_lock, NULL);
	m->own_bytes += sizeof(*a);
	m->agent = a;
	return 0;
}

int agent_vmm_check_region(struct wh_migration *m, struct wh_err *err)
{
	const struct region *region = &m->region[m->regions];
	struct mapping *mapping = &m->agent->mapping[m->regions];
	int ret;

	if (m->agent->state.words)
		return err_set(err, -EBUSY, "agent: blocks are added before it is handed over");
	ret = mapping_find(mapping, region, err);
	if (ret < 0)
		return ret;
	if (region->fd < 0 || !mapping->shared)
		return err_set(err, -EINVAL,
			       "block '%s': an agent needs a file that is mapped shared",
			       region->name);
	return 0;
}

/*
 * What of a handover is the same for every agent. No huge page may fill holes from here on,
 * as placer_advise() has it.
 */
static int prepare(struct wh_migration *m, struct wh_err *err)
{
	struct agent_vmm *a = m->agent;
	int ret;

	if (a->state.words)
		return 0;
	if (!m->regions)
		return err_set(err, -EINVAL, "agent: there is no block to be handed over");
	ret = uffd_open(&a->uffd, UFFD_FEATURE_THREAD_ID, true, err);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < m->regions; i++)
		if (!a->mapping[i].hugetlb)
			(void)madvise(m->region[i].addr, m->region[i].length, MADV_NOHUGEPAGE);
	ret = agent_state_new(&a->state, m->region, m->regions, err);
	if (ret < 0)
		uffd_close(&a->uffd);
	return ret;
}

static int hand_over(struct wh_migration *m, int socket, struct wh_err *err)
{
	const struct agent_vmm *a = m->agent;
	int fds[AGENT_FDS] = { a->uffd.fd, a->state.fd };
	struct agent_msg msg = {
		.kind = AGENT_HELLO,
		.hello.version = AGENT_VERSION,
		.hello.urgent = m->config.urgent,
		.hello.blocks = m->regions,
		.hello.uffd_offered = a->uffd.offered,
		.hello.connect_timeout_ns = m->config.connect_timeout_ns,
		.hello.dead_peer_ns = m->config.dead_peer_ns,
		.hello.device_state_max = m->config.device_state_max,
	};
	int ret = agent_send(socket, &msg, fds, err);

	for (unsigned i = 0; i < m->regions && ret == 0; i++) {
		const struct region *region = &m->region[i];

		msg = (struct agent_msg){
			.kind = AGENT_BLOCK,
			.block.guest = (uintptr_t)region->addr,
			.block.length = region->length,
			.block.page_size = region->page_size,
			.block.fd_offset = region->fd_offset,
		};
		wire_name_set(&msg.block.name, region->name);
		ret = agent_send(socket, &msg, &region->fd, err);
	}
	return ret;
}

/* Return: 0, it is there and has everything */
static int find_agent(struct wh_migration *m, struct wh_err *err)
{
	struct agent_vmm *a = m->agent;
	sigset_t all, old;
	int socket, ret;

	/* The one before has died: its thread has nothing more to say */
	if (a->running)
		pthread_join(a->thread, NULL);
	a->running = false;
	socket = agent_connect(a->path, err);
	if (socket < 0)
		return socket;
	ret = hand_over(m, socket, err);
	if (ret < 0) {
		close(socket);
		return ret;
	}
	a->socket = socket;
	/* The VMM's signals are for the VMM's threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&a->thread, NULL, agent_vmm_main, m);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret) {
		a->socket = -1;
		close(socket);
		return err_sys(err, ret, "agent: thread");
	}
	a->running = true;
	return 0;
}

static void deadline(struct timespec *until, uint64_t ns)
{
	clock_gettime(CLOCK_REALTIME, until);
	ns += (uint64_t)until->tv_nsec;
	until->tv_sec += (time_t)(ns / NS_PER_S);
	until->tv_nsec = (long)(ns % NS_PER_S);
}

static int have_listen(struct wh_migration *m, const char *uri, struct wh_err *err)
{
	struct agent_vmm *a = m->agent;
	bool first = wh_get_phase(m) == WH_PHASE_SETUP;
	struct agent_msg msg = { .kind = first ? AGENT_LISTEN : AGENT_RECOVER };
	struct timespec until;
	int ret = 0;

	wire_name_set(first ? &msg.listen.uri : &msg.recover.uri, uri);
	deadline(&until, ANSWER_NS);
	pthread_mutex_lock(&m->wait_lock);
	a->answered = false;
	if (a->socket >= 0)
		ret = agent_send(a->socket, &msg, NULL, err);
	while (ret == 0 && !a->answered && a->socket >= 0)
		ret = -pthread_cond_timedwait(&m->wait_cond, &m->wait_lock, &until);
	if (a->answered && a->answer.code) {
		ret = err_set(err, a->answer.code, "%s", a->answer.text);
	} else if (a->answered) {
		snprintf(m->uri, sizeof(m->uri), "%s", a->answer.text);
		ret = 0;
	} else if (a->socket < 0) {
		ret = err_set(err, -ECONNRESET, "agent: it has died");
	} else if (ret == -ETIMEDOUT) {
		err_set(err, ret, "agent: no answer for %u s", (unsigned)(ANSWER_NS / NS_PER_S));
	}
	pthread_mutex_unlock(&m->wait_lock);
	return ret;
}

static int listen_locked(struct wh_migration *m, bool again, const char *uri, struct wh_err *err)
{
	enum wh_phase phase = wh_get_phase(m);
	bool there;
	int ret;

	if (phase != (again ? WH_PHASE_PAUSED : WH_PHASE_SETUP))
		return err_set(err, -EBUSY, "agent: it is %s", wh_phase_name(phase));
	ret = prepare(m, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&m->wait_lock);
	there = m->agent->socket >= 0;
	pthread_mutex_unlock(&m->wait_lock);
	if (there) {
		ret = have_listen(m, uri, err);
		/* Or it was there, and has died: then it is the next one's turn */
		if (ret != -EPIPE && ret != -ECONNRESET)
			return ret;
	}
	ret = find_agent(m, err);
	return ret < 0 ? ret : have_listen(m, uri, err);
}

int agent_vmm_listen(struct wh_migration *m, bool again, const struct uri *uri, const char *text,
		     struct wh_err *err)
{
	struct agent_vmm *a = m->agent;
	int ret;

	if (uri->kind == URI_FD)
		return err_set(err, -EINVAL, "%s: the number is not one of the agent's", text);
	if (strlen(text) > 255)
		return err_set(err, -EINVAL, "agent: the address is longer than 255 bytes");
	/* Who would hear the answer is in the middle of a callback */
	if (run_is_here(m))
		return err_set(err, -EDEADLK, "agent: not in a callback");
	pthread_mutex_lock(&a->listen_lock);
	ret = listen_locked(m, again, text, err);
	pthread_mutex_unlock(&a->listen_lock);
	return ret;
}

int agent_vmm_start(struct wh_migration *m)
{
	pthread_mutex_lock(&m->wait_lock);
	m->started = m->threaded = true;
	pthread_cond_broadcast(&m->wait_cond);
	pthread_mutex_unlock(&m->wait_lock);
	return 0;
}

int agent_vmm_pause(struct wh_migration *m, struct wh_err *err)
{
	struct agent_msg msg = { .kind = AGENT_PAUSE };
	enum wh_phase phase = wh_get_phase(m);
	int ret;

	if (phase != WH_PHASE_POSTCOPY && phase != WH_PHASE_RECOVER)
		return err_set(err, -EBUSY, "pause: it is %s", wh_phase_name(phase));
	pthread_mutex_lock(&m->wait_lock);
	ret = m->agent->socket >= 0 ? agent_send(m->agent->socket, &msg, NULL, err) : 0;
	pthread_mutex_unlock(&m->wait_lock);
	/* it has died, which is a pause too */
	return ret == -EPIPE || ret == -ECONNRESET ? 0 : ret;
}

void agent_vmm_stats(const struct wh_migration *m, struct wh_stats *stats)
{
	const struct agent_vmm *a = m->agent;

	if (a->state.words)
		agent_figures_stats(&a->state, stats);
	/* Until the list of blocks is complete it is not known which of them will come */
	if (a->state.words && agent_state_get(&a->state) == AGENT_STAGE_ARMED)
		stats->pages_left = agent_state_missing(&a->state, m->region);
	else if (!wh_phase_ended(stats->phase))
		stats->pages_left = stats->pages_total;
}

unsigned agent_vmm_waits(const struct wh_migration *m, struct wh_thread_wait *waits, unsigned room)
{
	return m->agent->state.words ? agent_figures_waits(&m->agent->state, waits, room) : 0;
}

void agent_vmm_hist(const struct wh_migration *m, struct hist *hist)
{
	if (m->agent->state.words)
		agent_figures_hist(&m->agent->state, hist);
}

void agent_vmm_free(struct wh_migration *m)
{
	struct agent_vmm *a = m->agent;
	bool missing;

	pthread_mutex_lock(&m->wait_lock);
	a->freeing = true;
	if (a->socket >= 0)
		shutdown(a->socket, SHUT_RDWR);
	pthread_cond_broadcast(&m->wait_cond);
	pthread_mutex_unlock(&m->wait_lock);
	if (a->running)
		pthread_join(a->thread, NULL);
	missing = a->guest_runs && m->phase != WH_PHASE_DONE;
	for (unsigned i = 0; i < m->regions && a->state.words && !missing; i++)
		(void)mapping_restore(&a->mapping[i], &m->region[i], NULL);
	if (a->uffd.fd >= 0 && !missing)
		uffd_close(&a->uffd);
	if (a->state.words)
		agent_state_close(&a->state);
	pthread_mutex_destroy(&a->listen_lock);
	free(a);
}
