/* SPDX-License-Identifier: MIT */
/*
 * Joining: how connections of a protection over RDMA come about. Each address of a name has its
 * share of the time. A bit in what the two ends say to each other first tells them from migrations,
 * which are refused, and by which they are.
 */
#include "checkpoint/run_rdma.h"

#include "base/err.h"

#include <errno.h>

#ifdef WH_NO_RDMA

struct pier *pier_dial(struct wh_protect *p, const struct uri *uri, uint64_t timeout_ns,
		       void (*called)(struct pier *pier, struct wh_err *err), void *owner,
		       struct wh_err *err)
{
	(void)p, (void)uri, (void)timeout_ns, (void)called, (void)owner;
	err_set(err, -EOPNOTSUPP, "rdma: the library was built without RDMA (RDMA=0)");
	return NULL;
}

int pier_listen(struct pier_listener *listener, struct wh_protect *p, struct uri *uri,
		struct wh_err *err)
{
	(void)listener, (void)p, (void)uri;
	return err_set(err, -EOPNOTSUPP, "rdma: the library was built without RDMA (RDMA=0)");
}

void pier_listen_end(struct pier_listener *listener)
{
	(void)listener;
}
#else
#include <poll.h>
#include <string.h>

static const struct control_hello ours = { CONTROL_VERSION, CONTROL_CHECKPOINT, { 0 } };

/* ---- Connecting ------------------------------------------------------------------- */

static int failed(struct pier *pier, struct wh_err *err)
{
	char address[ADDRESS_TEXT], uri[URI_TEXT];

	address_format(&pier->address[pier->at_address - 1], address);
	uri_format(&pier->uri, uri, sizeof(uri));
	return err_wrap(err, "connect to %.100s (%s, address %u of %u)", uri, address,
			pier->at_address, pier->addresses);
}

/* Begin with the next address that can be begun with. Return: 0, or the last one's error */
static int attempt(struct pier *pier, struct wh_err *err)
{
	uint64_t dead_peer_ns = pier->p->config.answer_ns;
	int ret = err->code;

	while (pier->at_address < pier->addresses) {
		const struct address *address = &pier->address[pier->at_address];
		uint64_t now_ns = clock_now_ns(), share_ns = 0;

		if (pier->deadline_ns > now_ns)
			share_ns =
				(pier->deadline_ns - now_ns) / (pier->addresses - pier->at_address);
		pier->attempt_ns = now_ns + share_ns;
		pier->at_address++;
		*err = (struct wh_err){ 0 };
		ret = vlink_connect(&pier->link, (const struct sockaddr *)&address->at, &ours,
				    (int)(share_ns / NS_PER_MS) + 1, dead_peer_ns, err);
		if (ret == 0)
			return 0;
		vlink_close(&pier->link);
		failed(pier, err);
	}
	return ret;
}

struct pier *pier_dial(struct wh_protect *p, const struct uri *uri, uint64_t timeout_ns,
		       void (*called)(struct pier *pier, struct wh_err *err), void *owner,
		       struct wh_err *err)
{
	struct pier *pier = pier_new(p, err);
	struct wh_err why = { 0 };
	int ret;

	if (!pier)
		return NULL;
	pier->uri = *uri;
	pier->owner = owner;
	pier->deadline_ns = clock_now_ns() + timeout_ns;
	ret = address_resolve(uri, false, pier->address, ADDRESSES_MAX, &why);
	if (ret >= 0) {
		pier->addresses = (unsigned)ret;
		ret = attempt(pier, &why);
	}
	if (ret < 0) {
		pier_close(pier);
		if (err)
			*err = why;
		return NULL;
	}
	pier->called = called;
	loop_wake(p->loop);
	return pier;
}

/* Return: 1 it is up, 0 it is under way, or a negative errno: nothing comes of this address */
static int look(struct pier *pier, uint64_t now_ns, struct wh_err *err)
{
	int ret;

	while ((ret = vlink_event(&pier->link, err)) > 0 && !pier->link.up)
		;
	if (ret < 0)
		return ret;
	if (pier->link.up && !(pier->link.hello.flags & CONTROL_CHECKPOINT))
		return err_set(err, -EPROTO,
			       "rdma: who listens there takes a migration, and no checkpoints");
	if (!pier->link.up && now_ns >= pier->attempt_ns)
		return err_set(err, -ETIMEDOUT, "rdma: no answer in time");
	return pier->link.up;
}

uint64_t pier_dial_turn(struct pier *pier, uint64_t now_ns)
{
	void (*called)(struct pier * pier, struct wh_err * err) = pier->called;
	struct wh_err *err = &pier->why;
	int ret = err->code;

	if (ret == 0)
		ret = look(pier, now_ns, err);
	if (ret < 0) {
		/* the next one follows when nothing watches this any more */
		if (op_busy(&pier->event)) {
			loop_cancel(pier->p->loop, &pier->event);
			return UINT64_MAX;
		}
		vlink_disconnect(&pier->link);
		vlink_close(&pier->link);
		failed(pier, err);
		ret = attempt(pier, err);
		if (ret == 0)
			*err = (struct wh_err){ 0 };
	}
	if (ret) {
		pier->called = NULL;
		called(pier, ret < 0 ? err : NULL);
		return 0;
	}
	pier_poll(pier, &pier->event, vlink_event_fd(&pier->link));
	return pier->attempt_ns;
}

/* ---- Being connected to ------------------------------------------------------------ */

/* Return: 0, or a negative errno and a sentence: it was refused */
static int take(struct pier_listener *listener, struct rdma_cm_id *id,
		const struct control_hello *hello, struct wh_err *err)
{
	struct wh_protect *p = listener->p;
	struct pier *pier = NULL;
	int ret;

	if (!(hello->flags & CONTROL_CHECKPOINT))
		err_set(err, -EPROTO, "rdma: it is a migration");
	else
		pier = pier_new(p, err);
	if (!pier) {
		vcm_reject(id);
		return -EPROTO;
	}
	ret = vlink_accept(&pier->link, id, &ours, p->config.answer_ns, err);
	if (ret < 0)
		pier_close(pier);
	else
		listener->accepted(listener, pier);
	return ret;
}

static void requested(struct op *op, int result)
{
	struct pier_request *request =
		(struct pier_request *)(void *)((char *)op - offsetof(struct pier_request, op));
	struct pier_listener *listener = request->listener;
	struct wh_protect *p = listener->p;
	struct control_hello hello;
	struct wh_err err = { 0 };
	struct rdma_cm_id *id;
	int ret;

	if (result == -ECANCELED || protect_stops(p))
		return;
	while ((ret = vcm_next(&request->cm, &id, &hello, &err)) != 0) {
		if (ret > 0)
			ret = take(listener, id, &hello, &err);
		else if (ret != -EPROTO)
			break;
		if (ret < 0)
			protect_log_peer(p, "a connection was refused: %s", err.text);
	}
	if (ret == 0)
		loop_poll(p->loop, op, vcm_fd(&request->cm), POLLIN);
	else
		protect_log(p, WH_LOG_ERROR, "nobody can connect any more: %s", err.text);
}

static int listen_at(struct pier_listener *listener, struct uri *uri, struct wh_err *err)
{
	struct address addresses[LISTENERS_MAX];
	char text[ADDRESS_TEXT];
	int count, ret = 0;

	count = address_resolve(uri, true, addresses, LISTENERS_MAX, err);
	/* a name may have addresses of other devices, too */
	for (int i = 0; i < count && i < LISTENERS_MAX; i++) {
		struct pier_request *request = &listener->request[listener->count];

		address_set_port(&addresses[i], uri->port);
		ret = vcm_listen(&request->cm, (const struct sockaddr *)&addresses[i].at,
				 &uri->port, err);
		if (ret < 0) {
			address_format(&addresses[i], text);
			err_wrap(err, "listen at %s", text);
		} else {
			listener->count++;
		}
	}
	if (count < 0)
		return count;
	return listener->count ? 0 : ret;
}

int pier_listen(struct pier_listener *listener, struct wh_protect *p, struct uri *uri,
		struct wh_err *err)
{
	int ret;

	listener->p = p;
	listener->count = 0;
	ret = listen_at(listener, uri, err);
	for (unsigned i = 0; i < listener->count; i++) {
		struct pier_request *request = &listener->request[i];

		request->listener = listener;
		request->op = (struct op){ .done = requested };
		loop_poll(p->loop, &request->op, vcm_fd(&request->cm), POLLIN);
	}
	return ret;
}

void pier_listen_end(struct pier_listener *listener)
{
	for (unsigned i = 0; i < listener->count; i++)
		vcm_close(&listener->request[i].cm);
	listener->count = 0;
}
#endif
