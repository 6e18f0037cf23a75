/* SPDX-License-Identifier: MIT */
/*
 * Joining: what an agent says to its VMM, and what its death means.
 *
 * Until the device state is here, all of it, the guest is the source's: a death is a failure.
 * From then on nothing but the agent's own word (AGENT_STAGE_GIVEN_UP, said before the source
 * hears of it) keeps the guest from being started here, so that a death is a pause: the
 * source has handed it out for good, and whoever comes next finds in the shared state what
 * is missing. A guest that was to be started when the agent died is started by us.
 *
 * Precopy that ends without a switch knows no such stage. There the agent tells the source
 * that the guest is taken over, and then us: should it die between the two, the guest runs
 * nowhere. It may not be started on a guess.
 */
#include "postcopy/agent_vmm.h"

#include "base/err.h"

#include <errno.h>
#include <stdlib.h>
#include <unistd.h>

/* Lock held */
static void answer(struct wh_migration *m, enum agent_kind kind, int result)
{
	struct agent_msg msg = { .kind = kind };
	int socket = m->agent->socket;

	if (kind == AGENT_LOADED)
		msg.loaded.result = (uint32_t)result;
	else
		msg.started.result = (uint32_t)result;
	/* If it has gone it needs no answer */
	if (socket >= 0)
		(void)agent_send(socket, &msg, NULL, NULL);
}

/* A phase is told of once; err in front of PAUSED and FAILED, which it is the reason of */
static void moved(struct wh_migration *m, enum wh_phase phase, const struct wh_err *err)
{
	struct wh_event event = { .kind = WH_EVENT_PHASE, .phase = phase, .err = err };

	run_paused(m, phase);
	pthread_mutex_lock(&m->wait_lock);
	if (wh_phase_ended(m->phase)) {
		pthread_mutex_unlock(&m->wait_lock);
		return;
	}
	m->result = err ? *err : (struct wh_err){ 0 };
	m->settled = phase == WH_PHASE_PAUSED;
	__atomic_store_n(&m->phase, phase, __ATOMIC_RELEASE);
	if (wh_phase_ended(phase)) {
		m->end_ns = clock_now_ns();
		__atomic_store_n(&m->ended, true, __ATOMIC_RELEASE);
	}
	pthread_cond_broadcast(&m->wait_cond);
	pthread_mutex_unlock(&m->wait_lock);
	if (m->cb.event)
		m->cb.event(m->config.opaque, &event);
}

/* Once. Return: 0, it runs */
static int start_guest(struct wh_migration *m, struct wh_err *err)
{
	struct agent_vmm *a = m->agent;
	int ret = 0;

	if (a->guest_runs)
		return 0;
	if (m->cb.start)
		ret = m->cb.start(m->config.opaque, err);
	if (ret < 0 && !err->text[0])
		err_sys(err, ret, "starting the guest");
	pthread_mutex_lock(&m->wait_lock);
	a->guest_runs = ret >= 0;
	pthread_mutex_unlock(&m->wait_lock);
	return ret;
}

/* The last page is in, and there is nobody to say so: nothing has to be watched any more */
static void finish(struct wh_migration *m)
{
	struct agent_vmm *a = m->agent;
	struct wh_err err = { 0 };
	int ret = 0;

	for (unsigned i = 0; i < m->regions && ret == 0; i++)
		ret = uffd_unregister(&a->uffd, m->region[i].addr, m->region[i].length, &err);
	moved(m, ret < 0 ? WH_PHASE_PAUSED : WH_PHASE_DONE, ret < 0 ? &err : NULL);
}

/*
 * The agent is not there any more. The guest is ours if its device state is, and nobody has
 * given it up.
 */
static void orphaned(struct wh_migration *m, const struct wh_err *why)
{
	struct agent_vmm *a = m->agent;
	bool armed = agent_state_get(&a->state) == AGENT_STAGE_ARMED;
	struct wh_err err = *why;
	bool failed, orphan, freeing;

	pthread_mutex_lock(&m->wait_lock);
	failed = a->failed || !a->device || !armed;
	a->orphan = orphan = !failed && !a->loaded;
	freeing = a->freeing;
	pthread_mutex_unlock(&m->wait_lock);
	if (freeing || wh_phase_ended(wh_get_phase(m)))
		return;
	if (a->guest_runs && !armed) {
		moved(m, WH_PHASE_DONE, NULL);
	} else if (failed || (!orphan && start_guest(m, &err) < 0)) {
		moved(m, WH_PHASE_FAILED, &err);
	} else if (!orphan && !agent_state_missing(&a->state, m->region)) {
		finish(m);
	} else {
		moved(m, WH_PHASE_PAUSED, &err);
	}
}

void agent_vmm_loaded(struct wh_migration *m, int result, const struct wh_err *why)
{
	struct agent_vmm *a = m->agent;
	struct wh_err err = { 0 };
	bool orphan;

	pthread_mutex_lock(&m->wait_lock);
	a->loaded = result >= 0;
	a->failed = result < 0;
	orphan = a->orphan && !a->freeing;
	a->orphan = false;
	if (!orphan)
		answer(m, AGENT_LOADED, result);
	pthread_mutex_unlock(&m->wait_lock);
	if (!orphan)
		return;
	if (result < 0 && why && why->text[0])
		err = *why;
	else if (result < 0)
		err_sys(&err, result, "loading the device state");
	if (result < 0 || start_guest(m, &err) < 0)
		moved(m, WH_PHASE_FAILED, &err);
}

/* Read, not mapped: whoever has the memfd may change it */
static int read_all(int fd, uint8_t *data, size_t length)
{
	size_t have = 0;

	while (have < length) {
		ssize_t n = pread(fd, data + have, length - have, (off_t)have);

		if (n == 0 || (n < 0 && errno != EINTR))
			return n ? -errno : -ENODATA;
		have += n > 0 ? (size_t)n : 0;
	}
	return 0;
}

static int heard_device(struct wh_migration *m, struct agent_packet *packet, struct wh_err *err)
{
	struct agent_vmm *a = m->agent;
	uint64_t length = packet->msg.device.length;
	uint32_t format = packet->msg.device.format;
	struct wh_err why = { 0 };
	uint8_t *data;
	int ret;

	if (a->device || length > m->config.device_state_max || format > WH_DEVICE_QEMU)
		return err_set(err, -EPROTO, "agent: device state of %llu bytes, format %u%s",
			       (unsigned long long)length, format,
			       a->device ? ", for the second time" : "");
	data = malloc(length ? length : 1);
	if (!data)
		return err_set(err, -ENOMEM, "agent: no memory for %llu bytes of device state",
			       (unsigned long long)length);
	ret = read_all(packet->fd[0], data, length);
	if (ret < 0) {
		free(data);
		return err_sys(err, ret, "agent: device state");
	}
	pthread_mutex_lock(&m->wait_lock);
	a->device = true;
	pthread_mutex_unlock(&m->wait_lock);
	if (m->cb.device_load)
		ret = m->cb.device_load(m->config.opaque, data, length,
					(enum wh_device_format)format, &why);
	free(data);
	if (ret != WH_PENDING)
		agent_vmm_loaded(m, ret, &why);
	return 0;
}

static int heard_start(struct wh_migration *m, struct wh_err *err)
{
	bool loaded;
	int ret;

	pthread_mutex_lock(&m->wait_lock);
	loaded = m->agent->loaded;
	pthread_mutex_unlock(&m->wait_lock);
	if (!loaded)
		return err_set(err, -EPROTO, "agent: START before the device state is loaded");
	ret = start_guest(m, err);
	pthread_mutex_lock(&m->wait_lock);
	answer(m, AGENT_STARTED, ret);
	pthread_mutex_unlock(&m->wait_lock);
	return 0;
}

static int heard_phase(struct wh_migration *m, const struct agent_packet *packet,
		       struct wh_err *err)
{
	const __typeof__(packet->msg.phase) *is = &packet->msg.phase;
	enum wh_phase phase = (enum wh_phase)is->phase;
	bool here = m->agent->guest_runs;
	struct wh_err why = { 0 };

	if (is->phase >= WH_PHASE_COUNT)
		return err_set(err, -EPROTO, "agent: phase %u", is->phase);
	/* The guest is here: neither can it fail any more, nor be there before all of it is */
	if ((phase == WH_PHASE_FAILED && here) || (phase == WH_PHASE_DONE && !here))
		return err_set(err, -EPROTO, "agent: phase '%s', and the guest is %s",
			       wh_phase_name(phase), here ? "here" : "not here");
	if (is->code)
		err_set(&why, (int)is->code < 0 ? (int)is->code : -EIO, "%s", is->text.text);
	moved(m, phase, is->code ? &why : NULL);
	return 0;
}

static void heard_listens(struct wh_migration *m, const struct agent_packet *packet)
{
	int code = (int)packet->msg.listens.result;
	struct agent_vmm *a = m->agent;

	pthread_mutex_lock(&m->wait_lock);
	a->answered = true;
	/* Here, where it is in the order of what the agent says: it may pause, or die, at once */
	if (code >= 0) {
		a->listens = true;
		m->settled = false;
	}
	err_set(&a->answer, code < 0 ? code : 0, "%s", packet->msg.listens.text.text);
	pthread_cond_broadcast(&m->wait_cond);
	pthread_mutex_unlock(&m->wait_lock);
}

static int heard(struct wh_migration *m, struct agent_packet *packet, struct wh_err *err)
{
	enum agent_kind kind = packet->msg.kind;

	if (kind == AGENT_PHASE)
		return heard_phase(m, packet, err);
	if (kind == AGENT_DEVICE)
		return heard_device(m, packet, err);
	if (kind == AGENT_START)
		return heard_start(m, err);
	if (kind == AGENT_LISTENS)
		heard_listens(m, packet);
	else if (kind == AGENT_LOG && m->cb.log)
		m->cb.log(m->config.opaque, (enum wh_log_level)packet->msg.log.level,
			  packet->msg.log.text.text);
	else if (kind != AGENT_LOG)
		return err_set(err, -EPROTO, "agent: %s is not for it to say", agent_name(kind));
	return 0;
}

/* Its callbacks are those of a migration that goes on, also if it was quicker than wh_start() */
static void wait_for_start(struct wh_migration *m)
{
	pthread_mutex_lock(&m->wait_lock);
	while (!m->started && !m->agent->freeing)
		pthread_cond_wait(&m->wait_cond, &m->wait_lock);
	pthread_mutex_unlock(&m->wait_lock);
}

void *agent_vmm_main(void *arg)
{
	struct wh_migration *m = arg;
	struct agent_vmm *a = m->agent;
	struct agent_packet packet;
	struct wh_err err = { 0 };
	int socket = a->socket;
	bool listens;
	int ret = 0;

	pthread_setname_np(pthread_self(), "wherry-agent");
	run_here(m);
	while (ret == 0) {
		ret = agent_receive(socket, &packet, &err);
		if (ret <= 0)
			break;
		if (packet.msg.kind != AGENT_LISTENS)
			wait_for_start(m);
		ret = heard(m, &packet, &err);
		agent_packet_close(&packet);
	}
	if (ret == 0)
		err_set(&err, -ECONNRESET, "the agent has died");
	/* Closed, so that one that talks nonsense ends as well */
	pthread_mutex_lock(&m->wait_lock);
	listens = a->listens;
	a->socket = -1;
	close(socket);
	pthread_cond_broadcast(&m->wait_cond);
	pthread_mutex_unlock(&m->wait_lock);
	/* one that never did is a wh_listen() that fails, and nothing else */
	if (!listens)
		return NULL;
	wait_for_start(m);
	orphaned(m, &err);
	return NULL;
}
