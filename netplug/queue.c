/* SPDX-License-Identifier: MIT */
/*
 * Edge: packets wait in this process, on their way from a tap to another of our own.
 *
 *	out:  NIC --its hook--> hold --read--> queue --write--> inject --> bridge
 *	in:   bridge --> inject --its hook--> NIC, by the kernel alone
 *
 * The injecting tap is the bridge's port in the NIC's place. If the process dies both taps are
 * gone, with what waited; the NIC's filter then sends to nobody, and the guest is cut off.
 */
#include "netplug/netplug.h"

#include "base/clock.h"
#include "base/err.h"
#include "netplug/hold.h"
#include "netplug/links.h"
#include "netplug/qdiscs.h"
#include "netplug/taps.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>
#include <sys/epoll.h>
#include <sys/mman.h>
#include <unistd.h>

/* At its default of 1000 a tap loses packets between two looks of ours */
#define HOLD_QUEUE 32767 /* newer kernels take no more */
#define BATCH 1024	 /* packets of a NIC, before the others have their turn */
#define DISARM_NS (NS_PER_S * 5)
#define LOOK_US 200

struct queue_nic {
	int hold_fd;
	int inject_fd;
	int hold;
	int inject;
};

struct queue {
	struct hold hold;
	void *ring;
	size_t ring_size;
	struct queue_nic nics[WH_NETPLUG_NICS_MAX];
	uint64_t may_leave; /* the last epoch that may */
	uint64_t sent;
	uint64_t dropped;
	bool waits; /* a tap takes no more for now */
};

static int queue_init(struct wh_netplug *plug, struct wh_err *err)
{
	struct queue *queue = calloc(1, sizeof(*queue));

	if (!queue)
		return err_set(err, -ENOMEM, "no memory");
	for (unsigned i = 0; i < WH_NETPLUG_NICS_MAX; i++)
		queue->nics[i].hold_fd = queue->nics[i].inject_fd = -1;
	plug->own = queue;
	plug->fd = epoll_create1(EPOLL_CLOEXEC);
	return plug->fd < 0 ? err_sys(err, errno, "epoll_create1") : 0;
}

/* The taps go with their descriptors, and the ring with what waited */
static void queue_close(struct wh_netplug *plug)
{
	struct queue *queue = plug->own;

	for (unsigned i = 0; i < WH_NETPLUG_NICS_MAX; i++) {
		struct queue_nic *nic = &queue->nics[i];

		if (nic->inject_fd >= 0)
			close(nic->inject_fd);
		if (nic->hold_fd >= 0)
			close(nic->hold_fd);
		nic->hold_fd = nic->inject_fd = -1;
	}
	if (queue->ring)
		munmap(queue->ring, queue->ring_size);
	queue->ring = NULL;
	queue->waits = false;
}

static void queue_fini(struct wh_netplug *plug)
{
	if (!plug->own)
		return;
	queue_close(plug);
	if (plug->fd >= 0)
		close(plug->fd);
	free(plug->own);
}

/* Pages that no packet has touched yet cost nothing */
static int ring_make(struct wh_netplug *plug, struct wh_err *err)
{
	struct queue *queue = plug->own;

	queue->ring_size = hold_size(plug->limit_bytes, plug->limit_packets);
	if (!queue->ring_size || !plug->limit_bytes || !plug->limit_packets)
		return err_set(err, -EINVAL, "the limits of the queue make no sense");
	queue->ring = mmap(NULL, queue->ring_size, PROT_READ | PROT_WRITE,
			   MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (queue->ring == MAP_FAILED) {
		queue->ring = NULL;
		return err_sys(err, errno, "%zu bytes for the queue", queue->ring_size);
	}
	hold_init(&queue->hold, queue->ring, plug->limit_bytes, plug->limit_packets);
	return 0;
}

/* Where the NIC's packets are to come out */
static int find_bridge(struct wh_netplug *plug, struct mark_filter *mark, struct wh_err *err)
{
	const char *nic = mark->nic.name;
	struct link_info bridge;
	int ret;

	if (!mark->nic.master && !plug->bridge[0])
		return err_set(err, -EINVAL,
			       "%s is no port of a bridge, and none is named where its packets "
			       "are to come out",
			       nic);
	ret = mark->nic.master ? link_get(plug->netlink, NULL, mark->nic.master, &bridge, err) :
				 link_get(plug->netlink, plug->bridge, 0, &bridge, err);
	if (ret < 0)
		return ret;
	if (strcmp(bridge.kind, "bridge") != 0)
		return err_set(err, -EINVAL, "%s: %s is no bridge", nic, bridge.name);
	if (bridge.filters_vlans)
		return err_set(err, -EOPNOTSUPP,
			       "%s: bridge %s filters VLANs, and the port's would be lost: use "
			       "the plug",
			       nic, bridge.name);
	mark->bridge = mark->nic.master;
	return bridge.ifindex;
}

static int make_taps(struct wh_netplug *plug, unsigned i, const struct mark_filter *mark,
		     struct wh_err *err)
{
	struct queue_nic *nic = &((struct queue *)plug->own)->nics[i];
	char name[IFNAMSIZ], alias[LINK_ALIAS_MAX];
	struct link_change hold = { .up = true, .mtu = mark->nic.mtu, .queue = HOLD_QUEUE };
	/* the NIC's address: the bridge, which takes its own from its ports, keeps it */
	struct link_change inject = { .mtu = mark->nic.mtu, .address = mark->nic.address };
	static const uint8_t unmarked[FILTER_COOKIE];
	int ret;

	mark_alias(alias, plug->name);
	mark_device_name(name, plug->name, MARK_HOLD, i);
	nic->hold_fd = tap_open(plug->netlink, name, alias, &nic->hold, err);
	if (nic->hold_fd < 0)
		return nic->hold_fd;
	mark_device_name(name, plug->name, MARK_INJECT, i);
	nic->inject_fd = tap_open(plug->netlink, name, alias, &nic->inject, err);
	if (nic->inject_fd < 0)
		return nic->inject_fd;
	ret = link_set(plug->netlink, nic->hold, &hold);
	if (ret == 0)
		ret = link_set(plug->netlink, nic->inject, &inject);
	if (ret == 0)
		ret = hook_make(plug->netlink, nic->inject, "clsact");
	if (ret == 0)
		ret = filter_add(plug->netlink, nic->inject, FILTER_OUT, mark->nic.ifindex,
				 unmarked);
	return ret < 0 ? err_sys(err, ret, "set up the taps of %s", mark->nic.name) : 0;
}

static int watch(struct wh_netplug *plug, unsigned i, struct wh_err *err)
{
	const struct queue_nic *nic = &((struct queue *)plug->own)->nics[i];
	struct epoll_event hold = { .events = EPOLLIN };

	if (epoll_ctl(plug->fd, EPOLL_CTL_ADD, nic->hold_fd, &hold) < 0)
		return err_sys(err, errno, "epoll_ctl");
	return 0;
}

/*
 * From the filter on the guest is silent; what comes in reaches it until its port is taken, and
 * again when the other one is up. Never both: it would hear everything twice.
 */
static int lead(struct wh_netplug *plug, unsigned i, const struct mark_filter *mark, int bridge,
		struct wh_err *err)
{
	const struct queue_nic *nic = &((struct queue *)plug->own)->nics[i];
	int ret;

	ret = mark_redirect(plug->netlink, plug->name, &plug->marks, mark, nic->hold, err);
	if (ret < 0)
		return ret;
	ret = link_set(plug->netlink, nic->inject,
		       &(struct link_change){ .set_master = true, .master = bridge });
	if (ret == 0 && mark->bridge)
		ret = link_set(plug->netlink, mark->nic.ifindex,
			       &(struct link_change){ .set_master = true });
	if (ret == 0)
		ret = link_set(plug->netlink, nic->inject, &(struct link_change){ .up = true });
	return ret < 0 ? err_sys(err, ret, "%s: change the bridge's port", mark->nic.name) : 0;
}

static int queue_arm(struct wh_netplug *plug, struct wh_err *err)
{
	struct mark_filter hooks[WH_NETPLUG_NICS_MAX];
	struct queue *queue = plug->own;
	int bridges[WH_NETPLUG_NICS_MAX];
	unsigned hooked = 0;
	int ret;

	queue->may_leave = queue->sent = queue->dropped = 0;
	plug->marks = (struct marks){ .edge = WH_NETPLUG_QUEUE };
	ret = ring_make(plug, err);
	/* Whatever can be refused is refused before the first packet is held */
	while (ret == 0 && hooked < plug->nic_count) {
		ret = mark_hook(plug->netlink, plug->nics[hooked], &hooks[hooked], err);
		if (ret < 0)
			break;
		bridges[hooked] = ret = find_bridge(plug, &hooks[hooked], err);
		hooked++;
		if (ret > 0)
			ret = make_taps(plug, hooked - 1, &hooks[hooked - 1], err);
	}
	for (unsigned i = 0; ret == 0 && i < plug->nic_count; i++) {
		ret = lead(plug, i, &hooks[i], bridges[i], err);
		if (ret == 0)
			ret = watch(plug, i, err);
	}
	if (ret == 0)
		return 0;
	queue_close(plug);
	if (marks_clear(plug->netlink, &plug->marks, NULL) < 0)
		return -ENOTRECOVERABLE;
	while (hooked--)
		mark_unhook(plug->netlink, &hooks[hooked]);
	return ret;
}

/* Return: packets that were read, at most BATCH; or a negative errno */
static int take_some(struct wh_netplug *plug, unsigned i, uint64_t epoch)
{
	struct queue *queue = plug->own;
	struct hold_packet packet = { .epoch = epoch, .nic = i };
	int count = 0;
	ssize_t n;

	while (count < BATCH) {
		n = read(queue->nics[i].hold_fd, hold_room(&queue->hold), HOLD_PACKET_MAX);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return errno == EAGAIN ? count : -errno;
		count++;
		if (n <= TAP_HEADER)
			continue;
		packet.length = (uint32_t)n;
		packet.counted = (uint32_t)n - TAP_HEADER;
		if (!hold_add(&queue->hold, &packet))
			queue->dropped++;
	}
	return count;
}

/* Until all of them are empty: behind a barrier nothing of this epoch may be left */
static int take_all(struct wh_netplug *plug, bool once, struct wh_err *err)
{
	int ret;

	for (unsigned i = 0; i < plug->nic_count; i++) {
		do {
			ret = take_some(plug, i, plug->gate.open);
		} while (ret == BATCH && !once);
		if (ret < 0)
			return err_sys(err, ret, "%s: read what is held", plug->nics[i]);
	}
	return 0;
}

static void watch_room(struct wh_netplug *plug, unsigned i, bool wanted)
{
	struct queue *queue = plug->own;
	struct epoll_event room = { .events = EPOLLOUT };

	if (queue->waits == wanted)
		return;
	queue->waits = wanted;
	epoll_ctl(plug->fd, wanted ? EPOLL_CTL_ADD : EPOLL_CTL_DEL, queue->nics[i].inject_fd,
		  &room);
}

/* What the tap refuses is lost, as on a wire: the guest's peers ask again */
static void send_some(struct wh_netplug *plug)
{
	struct queue *queue = plug->own;
	struct hold_packet packet;
	const void *bytes;
	ssize_t n;

	while (hold_first(&queue->hold, &packet, &bytes) && packet.epoch <= queue->may_leave) {
		do {
			n = write(queue->nics[packet.nic].inject_fd, bytes, packet.length);
		} while (n < 0 && errno == EINTR);
		if (n < 0 && errno == EAGAIN) {
			watch_room(plug, packet.nic, true);
			return;
		}
		if (n < 0)
			queue->dropped++;
		else
			queue->sent++;
		watch_room(plug, packet.nic, false);
		hold_drop_first(&queue->hold);
	}
}

static int queue_process(struct wh_netplug *plug, struct wh_err *err)
{
	if (plug->gate.state != WH_NETPLUG_HELD)
		return 0;
	send_some(plug);
	return take_all(plug, true, err);
}

static int queue_turn(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	(void)epoch;
	return take_all(plug, false, err);
}

static int queue_release(struct wh_netplug *plug, uint64_t epoch, struct wh_err *err)
{
	struct queue *queue = plug->own;

	(void)err;
	queue->may_leave = epoch;
	send_some(plug);
	return 0;
}

/* The filter stays, and what it sends to is down, or gone with the one who has died */
static int queue_fence(struct wh_netplug *plug, struct wh_err *err)
{
	struct queue *queue = plug->own;
	int ret;

	if (!queue->ring)
		return 0;
	hold_drop_all(&queue->hold);
	queue->may_leave = 0;
	for (unsigned i = 0; i < plug->nic_count; i++) {
		ret = link_set(plug->netlink, queue->nics[i].hold,
			       &(struct link_change){ .down = true });
		if (ret < 0 && ret != -ENODEV)
			return err_sys(err, ret, "%s: set its tap down", plug->nics[i]);
	}
	return 0;
}

/* All that waits goes */
static int send_all(struct wh_netplug *plug, struct wh_err *err)
{
	uint64_t deadline = clock_now_ns() + DISARM_NS;
	struct queue *queue = plug->own;
	int ret = take_all(plug, false, err);

	if (ret < 0)
		return ret;
	queue->may_leave = UINT64_MAX;
	send_some(plug);
	while (queue->hold.packets && clock_now_ns() < deadline) {
		usleep(LOOK_US);
		send_some(plug);
	}
	queue->may_leave = plug->gate.released;
	if (!queue->hold.packets)
		return 0;
	return err_set(err, -ETIMEDOUT, "%" PRIu64 " packets do not leave", queue->hold.packets);
}

static int queue_disarm(struct wh_netplug *plug, struct wh_err *err)
{
	struct queue *queue = plug->own;
	int ret = 0;

	if (plug->gate.state == WH_NETPLUG_FENCED)
		ret = marks_idle(plug->netlink, &plug->marks, err);
	else if (queue->ring)
		ret = send_all(plug, err);
	if (ret < 0)
		return ret;
	queue_close(plug);
	return marks_clear(plug->netlink, &plug->marks, err);
}

static int queue_count(struct wh_netplug *plug, struct wh_netplug_status *status,
		       struct wh_err *err)
{
	const struct queue *queue = plug->own;
	struct link_info info;

	(void)err;
	if (!queue->ring)
		return 0;
	status->held_packets = queue->hold.packets;
	status->held_bytes = queue->hold.bytes;
	status->sent = queue->sent;
	status->dropped = queue->dropped;
	for (unsigned i = 0; i < plug->nic_count; i++)
		if (link_get(plug->netlink, NULL, queue->nics[i].hold, &info, NULL) == 0)
			status->dropped += info.tx_dropped;
	return 0;
}

static bool queue_waits(const struct wh_netplug *plug)
{
	const struct queue *queue = plug->own;

	return queue->hold.packets;
}

const struct netplug_ops queue_ops = {
	.kernel = true,
	.init = queue_init,
	.fini = queue_fini,
	.arm = queue_arm,
	.turn = queue_turn,
	.release = queue_release,
	.fence = queue_fence,
	.disarm = queue_disarm,
	.count = queue_count,
	.process = queue_process,
	.waits = queue_waits,
};
