/* SPDX-License-Identifier: MIT */
/*
 * Edge: librdmacm. Its calls return -1 and errno, and its events come on a descriptor.
 */
#include "rdma/link.h"

#include "base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <rdma/rdma_cma.h>
#include <string.h>
#include <unistd.h>

#define BACKLOG 5
/* As QEMU: reads of the destination's memory are possible, those of the source's are not */
#define READS 2u
#define READER_MSG 4096u /* where pages are read messages are short */
#define RETRIES 7u
#define CONNECT_RETRIES 5u
/* The connection manager's unit of time, 4.096 us << N, and how often it tries */
#define ACK_UNIT_NS UINT64_C(4096)
#define ACK_MOST 31u

/*
 * A port without a link. Soft-RoCE does not get over a message of the connection manager that it
 * cannot send: the port's queue pair for these stays broken until the device is made anew. One is
 * sent to connect, and one with a connection's end, of which nobody would hear. So nobody is called
 * where there is no link, and the ids of connections are kept until there is one again, or the
 * process ends.
 */
#define LATE_MAX 64u

static pthread_mutex_t late_lock = PTHREAD_MUTEX_INITIALIZER;
static struct vcm late[LATE_MAX];

static bool has_link(struct rdma_cm_id *id)
{
	struct ibv_port_attr attr;

	return !id->verbs || ibv_query_port(id->verbs, id->port_num, &attr) != 0 ||
	       attr.state != IBV_PORT_DOWN;
}

/* Return: its id and its channel are kept, or there is no room for that */
static bool put_off(struct vlink *link)
{
	bool kept = false;

	pthread_mutex_lock(&late_lock);
	for (unsigned i = 0; i < LATE_MAX && !kept; i++) {
		if (late[i].id)
			continue;
		late[i] = (struct vcm){ link->channel, link->id };
		kept = true;
	}
	pthread_mutex_unlock(&late_lock);
	return kept;
}

/* In front of whatever is begun: what was put off, where there is a link again */
static void catch_up(void)
{
	pthread_mutex_lock(&late_lock);
	for (unsigned i = 0; i < LATE_MAX; i++)
		if (late[i].id && has_link(late[i].id))
			vcm_close(&late[i]);
	pthread_mutex_unlock(&late_lock);
}

static int open_channel(struct rdma_event_channel **channel, struct wh_err *err)
{
	int flags;

	catch_up();
	*channel = rdma_create_event_channel();
	if (!*channel)
		return err_sys(err, errno, "rdma: /dev/infiniband/rdma_cm (modprobe rdma_ucm)");
	flags = fcntl((*channel)->fd, F_GETFL);
	if (flags < 0 || fcntl((*channel)->fd, F_SETFL, flags | O_NONBLOCK) < 0 ||
	    fcntl((*channel)->fd, F_SETFD, FD_CLOEXEC) < 0)
		return err_sys(err, errno, "rdma: events");
	return 0;
}

static size_t address_bytes(const struct sockaddr *at)
{
	return at->sa_family == AF_INET6 ? sizeof(struct sockaddr_in6) : sizeof(struct sockaddr_in);
}

int vcm_listen(struct vcm *vcm, const struct sockaddr *at, uint32_t *port, struct wh_err *err)
{
	struct sockaddr_storage copy = { 0 };
	int on = 1;
	int ret;

	memcpy(&copy, at, address_bytes(at));
	*vcm = (struct vcm){ 0 };
	ret = open_channel(&vcm->channel, err);
	if (ret < 0)
		goto out_close;
	if (rdma_create_id(vcm->channel, &vcm->id, NULL, RDMA_PS_TCP) < 0) {
		ret = err_sys(err, errno, "rdma: an id");
		goto out_close;
	}
	(void)rdma_set_option(vcm->id, RDMA_OPTION_ID, RDMA_OPTION_ID_REUSEADDR, &on, sizeof(on));
	(void)rdma_set_option(vcm->id, RDMA_OPTION_ID, RDMA_OPTION_ID_AFONLY, &on, sizeof(on));
	if (rdma_bind_addr(vcm->id, (struct sockaddr *)&copy) < 0) {
		ret = errno == ENODEV || errno == EADDRNOTAVAIL ?
			      err_set(err, -ENODEV,
				      "rdma: no RDMA device has this address (rdma link shows "
				      "which there are)") :
			      err_sys(err, errno, "rdma: bind");
		goto out_close;
	}
	if (rdma_listen(vcm->id, BACKLOG) < 0) {
		ret = err_sys(err, errno, "rdma: listen");
		goto out_close;
	}
	*port = ntohs(rdma_get_src_port(vcm->id));
	return 0;

out_close:
	vcm_close(vcm);
	return ret;
}

int vcm_fd(const struct vcm *vcm)
{
	return vcm->channel->fd;
}

void vcm_close(struct vcm *vcm)
{
	if (vcm->id)
		rdma_destroy_id(vcm->id);
	if (vcm->channel)
		rdma_destroy_event_channel(vcm->channel);
	*vcm = (struct vcm){ 0 };
}

void vcm_reject(struct rdma_cm_id *id)
{
	(void)rdma_reject(id, NULL, 0);
	rdma_destroy_id(id);
}

void vcm_peer(struct rdma_cm_id *id, struct sockaddr_storage *peer)
{
	const struct sockaddr *at = rdma_get_peer_addr(id);

	*peer = (struct sockaddr_storage){ 0 };
	memcpy(peer, at, address_bytes(at));
}

/* Its port is another one */
bool vcm_is_peer(struct rdma_cm_id *id, const struct sockaddr_storage *peer)
{
	const struct sockaddr *at = rdma_get_peer_addr(id);

	if (at->sa_family != peer->ss_family)
		return false;
	if (at->sa_family == AF_INET6)
		return !memcmp(&((const struct sockaddr_in6 *)at)->sin6_addr,
			       &((const struct sockaddr_in6 *)peer)->sin6_addr,
			       sizeof(struct in6_addr));
	return ((const struct sockaddr_in *)at)->sin_addr.s_addr ==
	       ((const struct sockaddr_in *)peer)->sin_addr.s_addr;
}

/* An event is acknowledged once, and what it holds is not looked at afterwards */
static int next_event(struct rdma_event_channel *channel, struct rdma_cm_event **event,
		      struct wh_err *err)
{
	if (rdma_get_cm_event(channel, event) == 0)
		return 1;
	if (errno == EAGAIN || errno == EINTR)
		return 0;
	return err_sys(err, errno, "rdma: events");
}

int vcm_next(struct vcm *vcm, struct rdma_cm_id **id, struct control_hello *hello,
	     struct wh_err *err)
{
	struct rdma_cm_event *event;
	int ret = next_event(vcm->channel, &event, err);

	if (ret <= 0)
		return ret;
	*id = event->id;
	if (event->event != RDMA_CM_EVENT_CONNECT_REQUEST) {
		/* of one who has gone before he was accepted there is nothing to be said */
		ret = event->event == RDMA_CM_EVENT_DEVICE_REMOVAL ?
			      err_set(err, -ENODEV, "rdma: the device was removed") :
			      0;
		rdma_ack_cm_event(event);
		return ret;
	}
	ret = control_get_hello(event->param.conn.private_data, event->param.conn.private_data_len,
				hello, err);
	rdma_ack_cm_event(event);
	if (ret == 0)
		return 1;
	vcm_reject(*id);
	return ret;
}

static void set_timeout(struct rdma_cm_id *id, uint64_t dead_peer_ns)
{
	uint8_t bits = 0;

	while (bits < ACK_MOST && (ACK_UNIT_NS << (bits + 1)) * (RETRIES + 1) <= dead_peer_ns)
		bits++;
	/* what is older than Linux 5.2 keeps its two seconds */
	if (bits)
		(void)rdma_set_option(id, RDMA_OPTION_ID, RDMA_OPTION_ID_ACK_TIMEOUT, &bits,
				      sizeof(bits));
}

int vlink_accept(struct vlink *link, struct rdma_cm_id *id, const struct control_hello *hello,
		 uint64_t dead_peer_ns, struct wh_err *err)
{
	uint8_t bytes[CONTROL_HELLO_MAX];
	/* Whoever accepts sets how often the other one knocks where no room is */
	struct rdma_conn_param param = {
		.private_data = bytes,
		.responder_resources = READS,
		.rnr_retry_count = RETRIES,
	};
	int ret;

	*link = (struct vlink){ .id = id, .room = { 1, CONTROL_MSG_MAX, 0 } };
	if (hello->flags & CONTROL_READER) {
		link->room =
			(struct vlink_room){ 1, READER_MSG, (size_t)VLINK_READS * VLINK_READ_MAX };
		param.initiator_depth = RDMA_MAX_INIT_DEPTH;
	}
	if (hello->flags & CONTROL_CHECKPOINT)
		link->room = (struct vlink_room){ VLINK_SENDS, VLINK_SEND_MAX, 0 };
	param.private_data_len = (uint8_t)control_put_hello(bytes, hello);
	ret = open_channel(&link->channel, err);
	if (ret == 0 && rdma_migrate_id(id, link->channel) < 0)
		ret = err_sys(err, errno, "rdma: an id of its own");
	if (ret == 0)
		ret = vlink_open(link, err);
	/* in front of whatever could come */
	for (unsigned i = 0; i < link->room.receives && ret == 0; i++)
		ret = vlink_receive(link, err);
	if (ret == 0)
		set_timeout(id, dead_peer_ns);
	link->told = true;
	if (ret == 0 && rdma_accept(id, &param) < 0)
		ret = err_sys(err, errno, "rdma: accept");
	if (ret < 0) {
		(void)rdma_reject(id, NULL, 0);
		vlink_close(link);
	}
	return ret;
}

int vlink_connect(struct vlink *link, const struct sockaddr *at, const struct control_hello *hello,
		  int timeout_ms, uint64_t dead_peer_ns, struct wh_err *err)
{
	struct sockaddr_storage copy = { 0 };
	int ret;

	memcpy(&copy, at, address_bytes(at));
	*link = (struct vlink){
		.room = { VLINK_SENDS, VLINK_SEND_MAX, 0 },
		.dead_peer_ns = dead_peer_ns,
		.timeout_ms = timeout_ms,
		.hello = *hello,
		.calling = true,
	};
	ret = open_channel(&link->channel, err);
	if (ret < 0)
		return ret;
	if (rdma_create_id(link->channel, &link->id, NULL, RDMA_PS_TCP) < 0)
		return err_sys(err, errno, "rdma: an id");
	if (rdma_resolve_addr(link->id, NULL, (struct sockaddr *)&copy, timeout_ms) < 0)
		return err_sys(err, errno, "rdma: which device leads there");
	return 0;
}

static int go_way(struct vlink *link, struct wh_err *err)
{
	if (!has_link(link->id))
		return err_set(err, -ENETDOWN,
			       "rdma: %s, which leads there, has no link (rdma link)",
			       ibv_get_device_name(link->id->verbs->device));
	if (rdma_resolve_route(link->id, link->timeout_ms) < 0)
		return err_sys(err, errno, "rdma: the way there");
	return 1;
}

/* Whatever the peer says first, there is room for it before he can */
static int call_up(struct vlink *link, struct wh_err *err)
{
	uint8_t bytes[CONTROL_HELLO_MAX];
	struct rdma_conn_param param = {
		.private_data = bytes,
		.initiator_depth = READS,
		.retry_count = CONNECT_RETRIES,
		.rnr_retry_count = RETRIES,
	};
	int ret = vlink_open(link, err);

	for (unsigned i = 0; i < link->room.receives && ret == 0; i++)
		ret = vlink_receive(link, err);
	if (ret < 0)
		return ret;
	set_timeout(link->id, link->dead_peer_ns);
	param.private_data_len = (uint8_t)control_put_hello(bytes, &link->hello);
	if (link->hello.flags & CONTROL_READER)
		param.responder_resources = RDMA_MAX_RESP_RES;
	link->told = true;
	if (rdma_connect(link->id, &param) < 0)
		return err_sys(err, errno, "rdma: connect");
	return 1;
}

int vlink_event_fd(const struct vlink *link)
{
	return link->channel->fd;
}

/* Connecting, and there is nothing of that any more */
static int not_up(enum rdma_cm_event_type type, int status, struct wh_err *err)
{
	if (type == RDMA_CM_EVENT_ADDR_ERROR)
		return err_set(err, -ENODEV, "rdma: no RDMA device leads to this address (%d)",
			       status);
	if (type == RDMA_CM_EVENT_ROUTE_ERROR || type == RDMA_CM_EVENT_UNREACHABLE)
		return err_set(err, status == -ETIMEDOUT ? -ETIMEDOUT : -EHOSTUNREACH,
			       "rdma: nobody answers (%d)", status);
	if (type == RDMA_CM_EVENT_REJECTED)
		return err_set(err, -ECONNREFUSED,
			       "rdma: refused: nobody listens, or not for one like this");
	return 0;
}

/* What the answer says, which QEMU does not look at, is only which wishes were granted */
static int established(struct vlink *link, const struct rdma_conn_param *param, struct wh_err *err)
{
	struct control_hello answer;
	int ret;

	link->up = true;
	if (!link->calling)
		return 1;
	ret = control_get_hello(param->private_data, param->private_data_len, &answer, err);
	if (ret < 0)
		return ret;
	link->hello.flags &= answer.flags;
	link->hello.ticket = answer.ticket;
	return 1;
}

int vlink_event(struct vlink *link, struct wh_err *err)
{
	struct rdma_cm_event *event;
	enum rdma_cm_event_type type;
	int ret = next_event(link->channel, &event, err);
	int status;

	if (ret <= 0)
		return ret;
	type = event->event;
	status = event->status;
	if (type == RDMA_CM_EVENT_ESTABLISHED)
		ret = established(link, &event->param.conn, err);
	rdma_ack_cm_event(event);
	if (type == RDMA_CM_EVENT_ESTABLISHED)
		return ret;
	if (type == RDMA_CM_EVENT_ADDR_RESOLVED)
		return go_way(link, err);
	if (type == RDMA_CM_EVENT_ROUTE_RESOLVED)
		return call_up(link, err);
	if (type == RDMA_CM_EVENT_ADDR_CHANGE)
		return err_set(err, -ENOTCONN, "rdma: the address has moved to another device");
	if (type == RDMA_CM_EVENT_DEVICE_REMOVAL)
		return err_set(err, -ENODEV, "rdma: the device was removed");
	if (type == RDMA_CM_EVENT_DISCONNECTED || type == RDMA_CM_EVENT_TIMEWAIT_EXIT)
		return err_set(err, -ENOTCONN, "rdma: the peer has disconnected");
	ret = not_up(type, status, err);
	return ret ? ret : err_set(err, -ENOTCONN, "rdma: %s (%d)", rdma_event_str(type), status);
}

/* The queue pair goes before the memory it could write into */
void vlink_disconnect(struct vlink *link)
{
	if (!link->id)
		return;
	/* one that broke may know before the port does that there is no link: its id is closed later */
	if (link->up && !link->broken && has_link(link->id))
		(void)rdma_disconnect(link->id);
	if (link->id->qp)
		rdma_destroy_qp(link->id);
}

void vlink_close(struct vlink *link)
{
	vlink_release(link);
	if (!link->told || has_link(link->id) || !put_off(link))
		vcm_close(&(struct vcm){ link->channel, link->id });
	*link = (struct vlink){ 0 };
}
