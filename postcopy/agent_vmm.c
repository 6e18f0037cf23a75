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

int wh_agent_new(struct wh_agent **agent, const struct wh_config *config, struct wh_err *err)
{
	struct wh_agent *a;
	int ret;

	*agent = NULL;
	ret = run_check_config(config, WH_DEST, err);
	if (ret < 0)
		return ret;
	if (!config->postcopy)
		return err_set(err, -EINVAL, "agent: there is postcopy or nothing");
	/* A removal that was read and not yet marked would be lost with its reader */
	if (config->removes)
		return err_set(err, -EOPNOTSUPP,
			       "agent: removes cannot be followed across a death");
	a = calloc(1, sizeof(*a));
	if (!a)
		return err_set(err, -ENOMEM, "agent: no memory");
	a->config = *config;
	a->cb = *config->callbacks;
	a->uffd.fd = a->state.fd = a->socket = -1;
	pthread_mutex_init(&a->listen_lock, NULL);
	pthread_mutex_init(&a->lock, NULL);
	pthread_cond_init(&a->changed, NULL);
	*agent = a;
	return 0;
}

int wh_agent_add_block(struct wh_agent *agent, const struct wh_block *block, struct wh_err *err)
{
	struct region *region = &agent->region[agent->regions];
	int ret;

	if (agent->state.words)
		return err_set(err, -EBUSY, "agent: blocks are added before it is handed over");
	ret = run_take_region(agent->region, agent->regions, block, err);
	if (ret < 0)
		return ret;
	ret = mapping_find(&agent->mapping[agent->regions], region, err);
	if (ret == 0 && (region->fd < 0 || !agent->mapping[agent->regions].shared))
		ret = err_set(err, -EINVAL,
			      "block '%s': an agent needs a file that is mapped shared",
			      region->name);
	if (ret < 0) {
		if (region->fd >= 0)
			close(region->fd);
		return ret;
	}
	agent->regions++;
	return 0;
}

/*
 * What of a handover is the same for every agent. No huge page may fill holes from here on,
 * as placer_advise() has it.
 */
static int prepare(struct wh_agent *agent, struct wh_err *err)
{
	int ret;

	if (agent->state.words)
		return 0;
	if (!agent->regions)
		return err_set(err, -EINVAL, "agent: there is no block to be handed over");
	ret = uffd_open(&agent->uffd, UFFD_FEATURE_THREAD_ID, true, err);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < agent->regions; i++)
		if (!agent->mapping[i].hugetlb)
			(void)madvise(agent->region[i].addr, agent->region[i].length,
				      MADV_NOHUGEPAGE);
	ret = agent_state_new(&agent->state, agent->region, agent->regions, err);
	if (ret < 0)
		uffd_close(&agent->uffd);
	return ret;
}

static int hand_over(struct wh_agent *agent, int socket, struct wh_err *err)
{
	int fds[AGENT_FDS] = { agent->uffd.fd, agent->state.fd };
	struct agent_msg msg = {
		.kind = AGENT_HELLO,
		.hello.version = AGENT_VERSION,
		.hello.urgent = agent->config.urgent,
		.hello.blocks = agent->regions,
		.hello.uffd_offered = agent->uffd.offered,
		.hello.connect_timeout_ns = agent->config.connect_timeout_ns,
		.hello.dead_peer_ns = agent->config.dead_peer_ns,
		.hello.device_state_max = agent->config.device_state_max,
	};
	int ret = agent_send(socket, &msg, fds, err);

	for (unsigned i = 0; i < agent->regions && ret == 0; i++) {
		const struct region *region = &agent->region[i];

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
static int find_agent(struct wh_agent *agent, const char *path, struct wh_err *err)
{
	sigset_t all, old;
	int socket, ret;

	/* The one before has died: its thread has nothing more to say */
	if (agent->running)
		pthread_join(agent->thread, NULL);
	agent->running = false;
	socket = agent_connect(path, err);
	if (socket < 0)
		return socket;
	ret = hand_over(agent, socket, err);
	if (ret < 0) {
		close(socket);
		return ret;
	}
	agent->socket = socket;
	/* The VMM's signals are for the VMM's threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&agent->thread, NULL, agent_vmm_main, agent);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret) {
		agent->socket = -1;
		close(socket);
		return err_sys(err, ret, "agent: thread");
	}
	agent->running = true;
	return 0;
}

static void deadline(struct timespec *until, uint64_t ns)
{
	clock_gettime(CLOCK_REALTIME, until);
	ns += (uint64_t)until->tv_nsec;
	until->tv_sec += (time_t)(ns / NS_PER_S);
	until->tv_nsec = (long)(ns % NS_PER_S);
}

static int have_listen(struct wh_agent *agent, const char *uri, struct wh_err *err)
{
	bool first = wh_agent_get_phase(agent) == WH_PHASE_SETUP;
	struct agent_msg msg = { .kind = first ? AGENT_LISTEN : AGENT_RECOVER };
	struct timespec until;
	int ret = 0;

	wire_name_set(first ? &msg.listen.uri : &msg.recover.uri, uri);
	deadline(&until, ANSWER_NS);
	pthread_mutex_lock(&agent->lock);
	agent->answered = false;
	if (agent->socket >= 0)
		ret = agent_send(agent->socket, &msg, NULL, err);
	while (ret == 0 && !agent->answered && agent->socket >= 0)
		ret = -pthread_cond_timedwait(&agent->changed, &agent->lock, &until);
	if (agent->answered && agent->answer.code) {
		ret = err_set(err, agent->answer.code, "%s", agent->answer.text);
	} else if (agent->answered) {
		snprintf(agent->uri, sizeof(agent->uri), "%s", agent->answer.text);
		ret = 0;
	} else if (agent->socket < 0) {
		ret = err_set(err, -ECONNRESET, "agent: it has died");
	} else if (ret == -ETIMEDOUT) {
		err_set(err, ret, "agent: no answer for %u s", (unsigned)(ANSWER_NS / NS_PER_S));
	}
	pthread_mutex_unlock(&agent->lock);
	return ret;
}

static int listen_locked(struct wh_agent *agent, const char *path, const char *uri,
			 struct wh_err *err)
{
	enum wh_phase phase = wh_agent_get_phase(agent);
	bool there;
	int ret;

	if (phase != WH_PHASE_SETUP && phase != WH_PHASE_PAUSED)
		return err_set(err, -EBUSY, "agent: it is %s", wh_phase_name(phase));
	if (!uri || !uri[0] || strlen(uri) > 255)
		return err_set(err, -EINVAL, "agent: an address of 1 to 255 bytes is expected");
	ret = prepare(agent, err);
	if (ret < 0)
		return ret;
	pthread_mutex_lock(&agent->lock);
	there = agent->socket >= 0;
	pthread_mutex_unlock(&agent->lock);
	if (there) {
		ret = have_listen(agent, uri, err);
		/* Or it was there, and has died: then it is the next one's turn */
		if (ret != -EPIPE && ret != -ECONNRESET)
			return ret;
	}
	ret = find_agent(agent, path, err);
	return ret < 0 ? ret : have_listen(agent, uri, err);
}

int wh_agent_listen(struct wh_agent *agent, const char *path, const char *uri, struct wh_err *err)
{
	int ret;

	pthread_mutex_lock(&agent->listen_lock);
	ret = listen_locked(agent, path, uri, err);
	pthread_mutex_unlock(&agent->listen_lock);
	return ret;
}

const char *wh_agent_listen_uri(const struct wh_agent *agent)
{
	return agent->uri;
}

int wh_agent_pause(struct wh_agent *agent, struct wh_err *err)
{
	struct agent_msg msg = { .kind = AGENT_PAUSE };
	enum wh_phase phase = wh_agent_get_phase(agent);
	int ret;

	if (phase != WH_PHASE_POSTCOPY && phase != WH_PHASE_RECOVER)
		return err_set(err, -EBUSY, "pause: it is %s", wh_phase_name(phase));
	pthread_mutex_lock(&agent->lock);
	ret = agent->socket >= 0 ? agent_send(agent->socket, &msg, NULL, err) : 0;
	pthread_mutex_unlock(&agent->lock);
	return ret;
}

int wh_agent_device_loaded(struct wh_agent *agent, int result)
{
	agent_vmm_loaded(agent, result, NULL);
	return 0;
}

enum wh_phase wh_agent_get_phase(const struct wh_agent *agent)
{
	return __atomic_load_n(&agent->phase, __ATOMIC_ACQUIRE);
}

uint64_t wh_agent_pages_left(const struct wh_agent *agent)
{
	uint64_t pages = 0;

	if (agent->state.words && agent_state_get(&agent->state) == AGENT_STAGE_ARMED)
		return agent_state_missing(&agent->state, agent->region);
	if (wh_phase_ended(wh_agent_get_phase(agent)))
		return 0;
	for (unsigned i = 0; i < agent->regions; i++)
		pages += agent->region[i].length / TARGET_PAGE;
	return pages;
}

int wh_agent_wait(struct wh_agent *agent, int64_t timeout_ns, struct wh_err *err)
{
	struct timespec until;
	int ret = 0;

	deadline(&until, timeout_ns < 0 ? 0 : (uint64_t)timeout_ns);
	pthread_mutex_lock(&agent->lock);
	while (!wh_phase_ended(agent->phase) && !agent->settled && ret == 0)
		ret = timeout_ns < 0 ?
			      pthread_cond_wait(&agent->changed, &agent->lock) :
			      pthread_cond_timedwait(&agent->changed, &agent->lock, &until);
	if (!wh_phase_ended(agent->phase) && !agent->settled)
		ret = err_set(err, -EAGAIN, "wait: it goes on");
	else if (agent->result.code)
		ret = err_set(err, agent->result.code, "%s", agent->result.text);
	else
		ret = 0;
	pthread_mutex_unlock(&agent->lock);
	return ret;
}

void wh_agent_free(struct wh_agent *agent)
{
	bool missing;

	if (!agent)
		return;
	pthread_mutex_lock(&agent->lock);
	agent->freeing = true;
	if (agent->socket >= 0)
		shutdown(agent->socket, SHUT_RDWR);
	pthread_mutex_unlock(&agent->lock);
	if (agent->running)
		pthread_join(agent->thread, NULL);
	missing = agent->started && agent->phase != WH_PHASE_DONE;
	for (unsigned i = 0; i < agent->regions; i++) {
		if (agent->state.words && !missing)
			(void)mapping_restore(&agent->mapping[i], &agent->region[i], NULL);
		close(agent->region[i].fd);
	}
	if (agent->uffd.fd >= 0 && !missing)
		uffd_close(&agent->uffd);
	if (agent->state.words)
		agent_state_close(&agent->state);
	pthread_cond_destroy(&agent->changed);
	pthread_mutex_destroy(&agent->lock);
	pthread_mutex_destroy(&agent->listen_lock);
	free(agent);
}
