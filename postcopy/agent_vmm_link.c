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
static void answer(struct wh_agent *agent, enum agent_kind kind, int result)
{
	struct agent_msg msg = { .kind = kind };

	if (kind == AGENT_LOADED)
		msg.loaded.result = (uint32_t)result;
	else
		msg.started.result = (uint32_t)result;
	/* If it has gone it needs no answer */
	if (agent->socket >= 0)
		(void)agent_send(agent->socket, &msg, NULL, NULL);
}

/* A phase is told of once; err in front of PAUSED and FAILED, which it is the reason of */
static void moved(struct wh_agent *agent, enum wh_phase phase, const struct wh_err *err)
{
	struct wh_event event = { .kind = WH_EVENT_PHASE, .phase = phase, .err = err };

	pthread_mutex_lock(&agent->lock);
	if (wh_phase_ended(agent->phase)) {
		pthread_mutex_unlock(&agent->lock);
		return;
	}
	agent->result = err ? *err : (struct wh_err){ 0 };
	agent->settled = phase == WH_PHASE_PAUSED;
	__atomic_store_n(&agent->phase, phase, __ATOMIC_RELEASE);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
	if (agent->cb.event)
		agent->cb.event(agent->config.opaque, &event);
}

/* Once. Return: 0, it runs */
static int start_guest(struct wh_agent *agent, struct wh_err *err)
{
	int ret = 0;

	if (agent->started)
		return 0;
	if (agent->cb.start)
		ret = agent->cb.start(agent->config.opaque, err);
	if (ret < 0 && !err->text[0])
		err_sys(err, ret, "starting the guest");
	pthread_mutex_lock(&agent->lock);
	agent->started = ret >= 0;
	pthread_mutex_unlock(&agent->lock);
	return ret;
}

/* The last page is in, and there is nobody to say so: nothing has to be watched any more */
static void finish(struct wh_agent *agent)
{
	struct wh_err err = { 0 };
	int ret = 0;

	for (unsigned i = 0; i < agent->regions && ret == 0; i++)
		ret = uffd_unregister(&agent->uffd, agent->region[i].addr, agent->region[i].length,
				      &err);
	moved(agent, ret < 0 ? WH_PHASE_PAUSED : WH_PHASE_DONE, ret < 0 ? &err : NULL);
}

/*
 * The agent is not there any more. The guest is ours if its device state is, and nobody has
 * given it up.
 */
static void orphaned(struct wh_agent *agent, const struct wh_err *why)
{
	bool armed = agent_state_get(&agent->state) == AGENT_STAGE_ARMED;
	struct wh_err err = *why;
	bool failed, orphan, freeing;

	pthread_mutex_lock(&agent->lock);
	failed = agent->failed || !agent->device || !armed;
	agent->orphan = orphan = !failed && !agent->loaded;
	freeing = agent->freeing;
	pthread_mutex_unlock(&agent->lock);
	if (freeing || wh_phase_ended(wh_agent_get_phase(agent)))
		return;
	if (agent->started && !armed) {
		moved(agent, WH_PHASE_DONE, NULL);
	} else if (failed || (!orphan && start_guest(agent, &err) < 0)) {
		moved(agent, WH_PHASE_FAILED, &err);
	} else if (!orphan && !agent_state_missing(&agent->state, agent->region)) {
		finish(agent);
	} else {
		moved(agent, WH_PHASE_PAUSED, &err);
	}
}

void agent_vmm_loaded(struct wh_agent *agent, int result, const struct wh_err *why)
{
	struct wh_err err = { 0 };
	bool orphan;

	pthread_mutex_lock(&agent->lock);
	agent->loaded = result >= 0;
	agent->failed = result < 0;
	orphan = agent->orphan && !agent->freeing;
	agent->orphan = false;
	if (!orphan)
		answer(agent, AGENT_LOADED, result);
	pthread_mutex_unlock(&agent->lock);
	if (!orphan)
		return;
	if (result < 0 && why && why->text[0])
		err = *why;
	else if (result < 0)
		err_sys(&err, result, "loading the device state");
	if (result < 0 || start_guest(agent, &err) < 0)
		moved(agent, WH_PHASE_FAILED, &err);
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

static int heard_device(struct wh_agent *agent, struct agent_packet *packet, struct wh_err *err)
{
	uint64_t length = packet->msg.device.length;
	uint32_t format = packet->msg.device.format;
	struct wh_err why = { 0 };
	uint8_t *data;
	int ret;

	if (agent->device || length > agent->config.device_state_max || format > WH_DEVICE_QEMU)
		return err_set(err, -EPROTO, "agent: device state of %llu bytes, format %u%s",
			       (unsigned long long)length, format,
			       agent->device ? ", for the second time" : "");
	data = malloc(length ? length : 1);
	if (!data)
		return err_set(err, -ENOMEM, "agent: no memory for %llu bytes of device state",
			       (unsigned long long)length);
	ret = read_all(packet->fd[0], data, length);
	if (ret < 0) {
		free(data);
		return err_sys(err, ret, "agent: device state");
	}
	pthread_mutex_lock(&agent->lock);
	agent->device = true;
	pthread_mutex_unlock(&agent->lock);
	if (agent->cb.device_load)
		ret = agent->cb.device_load(agent->config.opaque, data, length,
					    (enum wh_device_format)format, &why);
	free(data);
	if (ret != WH_PENDING)
		agent_vmm_loaded(agent, ret, &why);
	return 0;
}

static int heard_start(struct wh_agent *agent, struct wh_err *err)
{
	bool loaded;
	int ret;

	pthread_mutex_lock(&agent->lock);
	loaded = agent->loaded;
	pthread_mutex_unlock(&agent->lock);
	if (!loaded)
		return err_set(err, -EPROTO, "agent: START before the device state is loaded");
	ret = start_guest(agent, err);
	pthread_mutex_lock(&agent->lock);
	answer(agent, AGENT_STARTED, ret);
	pthread_mutex_unlock(&agent->lock);
	return 0;
}

static int heard_phase(struct wh_agent *agent, const struct agent_packet *packet,
		       struct wh_err *err)
{
	const __typeof__(packet->msg.phase) *is = &packet->msg.phase;
	enum wh_phase phase = (enum wh_phase)is->phase;
	struct wh_err why = { 0 };

	if (is->phase >= WH_PHASE_COUNT)
		return err_set(err, -EPROTO, "agent: phase %u", is->phase);
	/* The guest is here: neither can it fail any more, nor be there before all of it is */
	if ((phase == WH_PHASE_FAILED && agent->started) ||
	    (phase == WH_PHASE_DONE && !agent->started))
		return err_set(err, -EPROTO, "agent: phase '%s', and the guest is %s",
			       wh_phase_name(phase), agent->started ? "here" : "not here");
	if (is->code)
		err_set(&why, (int)is->code < 0 ? (int)is->code : -EIO, "%s", is->text.text);
	moved(agent, phase, is->code ? &why : NULL);
	return 0;
}

static void heard_listens(struct wh_agent *agent, const struct agent_packet *packet)
{
	int code = (int)packet->msg.listens.result;

	pthread_mutex_lock(&agent->lock);
	agent->answered = true;
	/* Here, where it is in the order of what the agent says: it may pause, or die, at once */
	if (code >= 0)
		agent->settled = false;
	err_set(&agent->answer, code < 0 ? code : 0, "%s", packet->msg.listens.text.text);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
}

static int heard(struct wh_agent *agent, struct agent_packet *packet, struct wh_err *err)
{
	enum agent_kind kind = packet->msg.kind;

	if (kind == AGENT_PHASE)
		return heard_phase(agent, packet, err);
	if (kind == AGENT_DEVICE)
		return heard_device(agent, packet, err);
	if (kind == AGENT_START)
		return heard_start(agent, err);
	if (kind == AGENT_LISTENS)
		heard_listens(agent, packet);
	else if (kind == AGENT_LOG && agent->cb.log)
		agent->cb.log(agent->config.opaque, (enum wh_log_level)packet->msg.log.level,
			      packet->msg.log.text.text);
	else if (kind != AGENT_LOG)
		return err_set(err, -EPROTO, "agent: %s is not for it to say", agent_name(kind));
	return 0;
}

void *agent_vmm_main(void *arg)
{
	struct wh_agent *agent = arg;
	struct agent_packet packet;
	struct wh_err err = { 0 };
	int socket = agent->socket;
	int ret = 0;

	pthread_setname_np(pthread_self(), "wherry-agent");
	while (ret == 0) {
		ret = agent_receive(socket, &packet, &err);
		if (ret <= 0)
			break;
		ret = heard(agent, &packet, &err);
		agent_packet_close(&packet);
	}
	if (ret == 0)
		err_set(&err, -ECONNRESET, "the agent has died");
	/* Closed, so that one that talks nonsense ends as well */
	pthread_mutex_lock(&agent->lock);
	agent->socket = -1;
	close(socket);
	pthread_mutex_unlock(&agent->lock);
	orphaned(agent, &err);
	pthread_mutex_lock(&agent->lock);
	pthread_cond_broadcast(&agent->changed);
	pthread_mutex_unlock(&agent->lock);
	return NULL;
}
