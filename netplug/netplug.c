/* SPDX-License-Identifier: MIT */
/*
 * Joining: the gate decides, an edge does it.
 */
#include "netplug/netplug.h"

#include "base/clock.h"
#include "base/err.h"
#include "netplug/links.h"
#include "netplug/serve.h"

#include <ctype.h>
#include <errno.h>
#include <inttypes.h>
#include <stddef.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#define LIMIT_BYTES UINT64_C(125000000) /* a second of 1 Gbit/s */
#define LIMIT_PACKETS UINT64_C(65536)
#define ANSWER_NS (NS_PER_S / 2)

void wh_netplug_config_init(struct wh_netplug_config *config)
{
	*config = (struct wh_netplug_config){
		.size = sizeof(*config),
		.edge = WH_NETPLUG_QUEUE,
		.limit_bytes = LIMIT_BYTES,
		.limit_packets = LIMIT_PACKETS,
		.answer_ns = ANSWER_NS,
	};
}

static const struct netplug_ops *ops_of(enum wh_netplug_edge edge)
{
	switch (edge) {
	case WH_NETPLUG_CALLBACK:
		return &callback_ops;
	case WH_NETPLUG_QUEUE:
		return &queue_ops;
	case WH_NETPLUG_PLUG:
		return &plug_ops;
	case WH_NETPLUG_HOLDER:
		return &holder_ops;
	case WH_NETPLUG_EDGE_COUNT:
		break;
	}
	return NULL;
}

static int take_name(struct wh_netplug *plug, const char *name, struct wh_err *err)
{
	size_t length = name ? strlen(name) : 0;

	if (!length || length > NETPLUG_NAME_MAX)
		return err_set(err, -EINVAL, "a name has 1 to %d characters, not %zu",
			       NETPLUG_NAME_MAX, length);
	for (size_t i = 0; i < length; i++)
		if (iscntrl((unsigned char)name[i]))
			return err_set(err, -EINVAL, "the name has a control character");
	memcpy(plug->name, name, length + 1);
	return 0;
}

static int take_nics(struct wh_netplug *plug, const struct wh_netplug_config *config,
		     struct wh_err *err)
{
	if (config->nic_count > WH_NETPLUG_NICS_MAX)
		return err_set(err, -EINVAL, "%u NICs, and %d is the most", config->nic_count,
			       WH_NETPLUG_NICS_MAX);
	for (unsigned i = 0; i < config->nic_count; i++) {
		const char *nic = config->nics[i];

		if (!nic[0] || strlen(nic) >= IFNAMSIZ)
			return err_set(err, -EINVAL, "'%s' is no name of a device", nic);
		for (unsigned other = 0; other < i; other++)
			if (!strcmp(nic, plug->nics[other]))
				return err_set(err, -EINVAL, "%s is named twice", nic);
		memcpy(plug->nics[i], nic, strlen(nic) + 1);
	}
	plug->nic_count = config->nic_count;
	if (!config->bridge)
		return 0;
	if (!config->bridge[0] || strlen(config->bridge) >= IFNAMSIZ)
		return err_set(err, -EINVAL, "'%s' is no name of a bridge", config->bridge);
	memcpy(plug->bridge, config->bridge, strlen(config->bridge) + 1);
	return 0;
}

static int take_config(struct wh_netplug *plug, const struct wh_netplug_config *config,
		       struct wh_err *err)
{
	int ret;

	plug->edge = config->edge;
	if (config->filter)
		plug->filter = *config->filter;
	plug->opaque = config->opaque;
	plug->limit_bytes = config->limit_bytes;
	plug->limit_packets = config->limit_packets;
	plug->answer_ns = config->answer_ns;
	ret = take_name(plug, config->name, err);
	return ret ? ret : take_nics(plug, config, err);
}

/*
 * One at a time has the name: a socket of the network namespace, which the kernel takes back from
 * who dies. Nobody listens there.
 */
static int lock_name(struct wh_netplug *plug, struct wh_err *err)
{
	struct sockaddr_un at = { .sun_family = AF_UNIX };
	int length;

	length =
		snprintf(at.sun_path + 1, sizeof(at.sun_path) - 1, "wherry/netplug/%s", plug->name);
	plug->lock = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (plug->lock < 0)
		return err_sys(err, errno, "socket");
	if (bind(plug->lock, (const struct sockaddr *)&at,
		 (socklen_t)(offsetof(struct sockaddr_un, sun_path) + 1 + (size_t)length)) == 0)
		return 0;
	if (errno == EADDRINUSE)
		return err_set(err, -EBUSY, "another process has the output of '%s'", plug->name);
	return err_sys(err, errno, "bind");
}

/* What a process that has died left under this name says where we begin */
static int look_up(struct wh_netplug *plug, struct wh_err *err)
{
	int ret = lock_name(plug, err);

	if (ret == 0)
		ret = links_open(&plug->netlink, err);
	if (ret == 0)
		ret = marks_find(plug->netlink, plug->name, &plug->marks, err);
	if (ret < 0 || !marks_any(&plug->marks))
		return ret;
	/* It is ended in the way in which it was made */
	plug->edge = plug->marks.edge;
	plug->ops = plug->edge == WH_NETPLUG_PLUG ? &plug_ops : &queue_ops;
	plug->gate.closed_most = plug->ops->closed_most;
	gate_move(&plug->gate, plug->marks.fenced ? WH_NETPLUG_FENCED : WH_NETPLUG_ORPHAN);
	return 0;
}

static int set_up(struct wh_netplug *plug, const struct wh_netplug_config *config,
		  struct wh_err *err)
{
	const struct netplug_ops *ops = ops_of(config->edge);
	int ret;

	plug->fd = plug->lock = -1;
	if (config->size != sizeof(*config))
		return err_set(err, -EINVAL, "struct wh_netplug_config has %zu bytes, not %zu",
			       config->size, sizeof(*config));
	if (!ops)
		return err_set(err, -EINVAL, "there is no edge %d", (int)config->edge);
	plug->ops = ops;
	gate_init(&plug->gate, ops->closed_most);
	ret = take_config(plug, config, err);
	if (ret == 0 && ops->kernel)
		ret = look_up(plug, err);
	/* which may have found another edge's */
	if (ret == 0 && plug->ops->init)
		ret = plug->ops->init(plug, err);
	return ret;
}

int wh_netplug_new(struct wh_netplug **plug, const struct wh_netplug_config *config,
		   struct wh_err *err)
{
	struct wh_netplug *made = calloc(1, sizeof(*made));
	int ret;

	if (!made)
		return err_set(err, -ENOMEM, "no memory");
	ret = set_up(made, config, err);
	if (ret < 0) {
		wh_netplug_free(made);
		return ret;
	}
	*plug = made;
	return 0;
}

void wh_netplug_free(struct wh_netplug *plug)
{
	if (!plug)
		return;
	serve_close(plug->serve);
	if (plug->ops && plug->ops->fini)
		plug->ops->fini(plug);
	links_close(plug->netlink);
	if (plug->lock >= 0)
		close(plug->lock);
	free(plug);
}

/* An edge that does not know what it has done leaves nothing to be relied on */
static int done(struct wh_netplug *plug, int ret)
{
	if (ret == -ENOTRECOVERABLE)
		gate_move(&plug->gate, WH_NETPLUG_BROKEN);
	return ret;
}

int wh_netplug_arm(struct wh_netplug *plug, struct wh_err *err)
{
	int ret = gate_may_arm(&plug->gate, err);

	if (ret < 0)
		return ret;
	if (plug->ops->kernel && !plug->nic_count)
		return err_set(err, -EINVAL, "there is no NIC to hold the output of");
	ret = done(plug, plug->ops->arm(plug, err));
	if (ret == 0)
		gate_armed(&plug->gate);
	return ret;
}

int wh_netplug_turn(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	int ret = gate_may_turn(&plug->gate, epoch, err);

	if (ret == 0)
		ret = done(plug, plug->ops->turn(plug, epoch, err));
	if (ret == 0)
		gate_turned(&plug->gate);
	return ret;
}

int wh_netplug_release(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	struct wh_err why = { 0 };
	int ret = 0;

	switch (gate_may_release(&plug->gate, epoch, &why)) {
	case GATE_YES:
		ret = done(plug, plug->ops->release(plug, epoch, err));
		if (ret == 0)
			gate_released(&plug->gate, epoch);
		return ret;
	case GATE_BEFORE:
		return 0;
	case GATE_NO:
		break;
	}
	return err_set(err, why.code, "%s", why.text);
}

int wh_netplug_fence(struct wh_netplug *plug, struct wh_err *err)
{
	int ret;

	if (plug->gate.state == WH_NETPLUG_FENCED)
		return 0;
	if (plug->gate.state == WH_NETPLUG_IDLE)
		return err_set(err, -EINVAL, "output is not held: there is nothing to fence");
	ret = plug->ops->fence(plug, err);
	if (ret == 0)
		gate_move(&plug->gate, WH_NETPLUG_FENCED);
	return ret;
}

int wh_netplug_disarm(struct wh_netplug *plug, struct wh_err *err)
{
	int ret;

	if (plug->gate.state == WH_NETPLUG_IDLE)
		return 0;
	ret = plug->ops->disarm(plug, err);
	if (ret == 0)
		gate_move(&plug->gate, WH_NETPLUG_IDLE);
	return ret;
}

int wh_netplug_status(struct wh_netplug *plug, struct wh_netplug_status *status, struct wh_err *err)
{
	bool held = plug->gate.state == WH_NETPLUG_HELD;
	int ret = 0;

	*status = (struct wh_netplug_status){
		.state = plug->gate.state,
		.edge = plug->edge,
		.epoch = held ? plug->gate.open : 0,
		.released = plug->gate.released,
	};
	if (plug->ops->count)
		ret = plug->ops->count(plug, status, err);
	/* whoever holds it may have found that it does no more */
	status->state = plug->gate.state;
	if (status->state != WH_NETPLUG_HELD)
		status->epoch = 0;
	return ret;
}

enum wh_netplug_state wh_netplug_get_state(const struct wh_netplug *plug)
{
	return plug->gate.state;
}

int wh_netplug_listen(struct wh_netplug *plug, struct wh_err *err)
{
	if (plug->serve)
		return err_set(err, -EBUSY, "it listens already");
	if (plug->ops == &holder_ops)
		return err_set(err, -EINVAL, "another process holds it, and listens itself");
	return serve_open(plug, err);
}

int wh_netplug_fd(const struct wh_netplug *plug)
{
	return plug->serve ? serve_fd(plug->serve) : plug->fd;
}

int wh_netplug_process(struct wh_netplug *plug, struct wh_err *err)
{
	if (plug->serve)
		return serve_process(plug, err);
	return plug->ops->process ? plug->ops->process(plug, err) : 0;
}
