/* SPDX-License-Identifier: MIT */
/*
 * Joining: RDMA at the source, connecting and the end. Each address has its share of the time; the
 * sentence of the one that failed last is told. With a return path there are two connections, one
 * behind the other, to one address.
 */
#include "postcopy/run_source.h"

#ifdef WH_NO_RDMA
#include <errno.h>

int ferry_connect(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	(void)m, (void)uri;
	return err_set(err, -EOPNOTSUPP, "rdma: the library was built without RDMA (RDMA=0)");
}

void ferry_turn(struct wh_migration *m)
{
	(void)m;
}

void ferry_send(struct wh_migration *m)
{
	(void)m;
}

void ferry_beside_open(struct wh_migration *m)
{
	(void)m;
}

bool ferry_beside_page(struct wh_migration *m, unsigned block, uint64_t page)
{
	(void)m, (void)block, (void)page;
	return false;
}

bool ferry_beside_close(struct wh_migration *m)
{
	(void)m;
	return false;
}

bool ferry_close(struct wh_migration *m)
{
	(void)m;
	return false;
}

void ferry_free(struct wh_migration *m)
{
	(void)m;
}
#else
#include "postcopy/ferry.h"
#include "postcopy/on_demand.h"

#include <assert.h>
#include <errno.h>
#include <poll.h>
#include <stdlib.h>
#include <unistd.h>

static_assert((int)WH_HINT_NONE == VSOURCE_PLAIN && (int)WH_HINT_HOT == VSOURCE_HOT &&
		      (int)WH_HINT_COLD == VSOURCE_COLD && CONTROL_CHUNK_BITS == 20,
	      "hints are as they were given");

/* Who has no room for a message when it comes is asked again after 655 ms */
#define FLUSH_NS (1500 * NS_PER_MS)

static void polled(struct op *op, int result)
{
	(void)op, (void)result; /* ferry_turn() looks at everything */
}

void ferry_watch(struct ferry *ferry, struct op *op, int fd, short events)
{
	if (!op_busy(op))
		loop_poll(ferry->m->bulk, op, fd, events);
}

static bool cancel(struct ferry *ferry, struct op *op)
{
	if (op_busy(op))
		loop_cancel(ferry->m->bulk, op);
	return op_busy(op);
}

/* ---- Connecting ---------------------------------------------------------------------- */

static int failed(struct ferry *ferry, struct wh_err *err)
{
	char address[ADDRESS_TEXT], uri[URI_TEXT];

	address_format(&ferry->address[ferry->next - 1], address);
	uri_format(&ferry->uri, uri, sizeof(uri));
	return err_wrap(err, "connect to %.100s (%s, address %u of %u)", uri, address, ferry->next,
			ferry->addresses);
}

/* How large what a key is of may be: neither all that there is nor all that can be registered */
static uint32_t chunk_flags(const struct wh_migration *m)
{
	uint64_t room = vmem_room(m->config.rdma_pin_max), bytes = 0;

	for (unsigned i = 0; i < m->regions; i++)
		bytes += m->region[i].length;
	return control_chunk_flags(bytes < room ? bytes : room);
}

/* One connection to the address that it is at; @flags: what it is for, 0: for more than this one */
static int dial(struct ferry *ferry, struct vlink *link, uint32_t flags, struct wh_err *err)
{
	const struct wh_config *config = &ferry->m->config;
	const struct address *address = &ferry->address[ferry->next - 1];
	const struct control_hello *answer = &ferry->link.hello;
	struct control_hello hello = { CONTROL_VERSION,
				       CONTROL_SEVERAL | CONTROL_NO_ROOM | CONTROL_TICKET | flags,
				       { 0 } };
	uint64_t now_ns = clock_now_ns(), left_ms = 0;

	hello.flags |= chunk_flags(ferry->m);
	if (config->rdma_pin_all)
		hello.flags |= CONTROL_PIN_ALL;
	if (ferry_read_offered(ferry))
		hello.flags |= CONTROL_READS;
	/* behind the first one: as that was answered */
	if (link != &ferry->link) {
		hello.ticket = answer->ticket;
		hello.flags &= ~CONTROL_TICKET | answer->flags;
	}
	if (ferry->attempt_ns > now_ns)
		left_ms = (ferry->attempt_ns - now_ns) / NS_PER_MS;
	if (left_ms >= INT32_MAX)
		left_ms = INT32_MAX - 1;
	return vlink_connect(link, (const struct sockaddr *)&address->at, &hello, (int)left_ms + 1,
			     config->dead_peer_ns, err);
}

/* Begin with the next address that can be begun with. Return: 0, or the last one's error */
static int attempt(struct ferry *ferry, struct wh_err *err)
{
	int ret = err->code;

	while (ferry->next < ferry->addresses) {
		uint64_t now_ns = clock_now_ns(), share_ns = 0;

		if (ferry->deadline_ns > now_ns)
			share_ns = (ferry->deadline_ns - now_ns) / (ferry->addresses - ferry->next);
		ferry->attempt_ns = now_ns + share_ns;
		ferry->next++;
		*err = (struct wh_err){ 0 };
		ret = dial(ferry, &ferry->link, 0, err);
		if (ret == 0)
			return 0;
		vlink_close(&ferry->link);
		failed(ferry, err);
	}
	return ret;
}

static int refused(const struct wh_migration *m, struct wh_err *err)
{
	if (m->tls)
		return err_set(err, -EOPNOTSUPP, "rdma: there is no TLS over it");
	if (m->config.multifd)
		return err_set(err, -EOPNOTSUPP, "rdma: multifd's connections are sockets");
	return 0;
}

int ferry_connect(struct wh_migration *m, const struct uri *uri, struct wh_err *err)
{
	uint64_t now_ns = clock_now_ns(), timeout_ns = m->config.connect_timeout_ns;
	struct wh_err failure = { 0 };
	struct ferry *ferry;
	int ret = refused(m, err);

	if (ret < 0)
		return ret;
	ferry = calloc(1, sizeof(*ferry));
	if (!ferry)
		return err_set(err, -ENOMEM, "rdma: no memory");
	m->source->ferry = ferry;
	__atomic_fetch_add(&m->own_bytes, sizeof(*ferry), __ATOMIC_RELAXED);
	ferry->m = m;
	ferry->uri = *uri;
	ferry->has_back = m->config.return_path;
	ferry->reply_fd = -1;
	ferry->event.done = ferry->receive.done = ferry->send.done = ferry->timer.done = polled;
	ferry->back_event.done = ferry->back_receive.done = ferry->back_send.done = polled;
	ferry->room.done = polled;
	ferry->read_event.done = ferry->read_receive.done = ferry->read_send.done = polled;
	ferry->deadline_ns = timeout_ns > UINT64_MAX - now_ns ? UINT64_MAX : now_ns + timeout_ns;
	ret = address_resolve(uri, false, ferry->address, ADDRESSES_MAX, &failure);
	if (ret >= 0) {
		ferry->addresses = (unsigned)ret;
		ret = attempt(ferry, &failure);
	}
	/* whoever resumes may do so in the turn behind which the loop sleeps */
	if (ret == 0)
		loop_wake(m->bulk);
	else
		ferry_free(m);
	if (ret < 0 && err)
		*err = failure;
	return ret;
}

/* What is written beside the stream */
static int begin_beside(struct ferry *ferry, struct wh_err *err)
{
	struct wh_migration *m = ferry->m;
	uint64_t chunks = 1; /* one too many: for an analyser that cannot know there is a block */
	struct vsource_chunk *chunk;
	int ret;

	ret = vmem_open(&ferry->memory, ferry->link.pd, true, m->regions, err);
	if (ret < 0)
		return ret;
	ferry->memory.bits = ferry->engine.bits;
	on_demand_begin(m, &ferry->memory);
	for (unsigned i = 0; i < m->regions; i++)
		chunks += vsource_chunks(&ferry->engine, m->region[i].length);
	chunk = ferry->chunk = calloc(chunks, sizeof(*chunk));
	if (!chunk)
		return err_set(err, -ENOMEM, "rdma: no memory for %llu chunks",
			       (unsigned long long)chunks);
	ferry->chunks = chunks;
	__atomic_fetch_add(&m->own_bytes, chunks * sizeof(*chunk), __ATOMIC_RELAXED);
	for (unsigned i = 0; i < m->regions; i++) {
		const struct region *region = &m->region[i];

		ret = vmem_add(&ferry->memory, region->addr, region->length, err);
		if (ret < 0)
			return ret;
		vsource_add_block(&ferry->engine, region->addr, region->length, chunk);
		ferry->engine.block[i].hint = m->hint[i];
		chunk += vsource_chunks(&ferry->engine, region->length);
		ferry->bytes += region->length;
	}
	return 0;
}

int ferry_begin(struct ferry *ferry, struct wh_err *err)
{
	int ret = 0;

	vsource_init(&ferry->engine, ferry->link.hello.flags, VLINK_WRITES);
	vsource_limit(&ferry->engine, ferry->m->config.rdma_pin_max);
	/* in a recovery all of it is on the stream */
	if (wh_get_phase(ferry->m) != WH_PHASE_PAUSED)
		ret = begin_beside(ferry, err);
	if (ret < 0)
		return ret;
	ferry->since_ns = ferry->probed_ns = clock_now_ns();
	if (ferry->has_back)
		ret = ferry_back_begin(ferry, err);
	if (ret == 0 && ferry->read.up)
		ret = ferry_read_begin(ferry, err);
	ferry->begun = ret == 0;
	return ret;
}

static int look_at_clock(const struct ferry *ferry, struct wh_err *err)
{
	if (clock_now_ns() >= ferry->attempt_ns)
		return err_set(err, -ETIMEDOUT, "rdma: no answer in time");
	run_tick(ferry->m, ferry->attempt_ns);
	return 0;
}

/* One that is behind others. Return: as look_at_attempt() */
static int look_at_next(struct ferry *ferry, struct vlink *link, uint32_t flags, const char *what,
			struct wh_err *err)
{
	int ret = 0;

	if (!link->channel)
		ret = dial(ferry, link, flags, err);
	while (ret >= 0 && (ret = vlink_event(link, err)) > 0 && !link->up)
		;
	return ret < 0 ? err_wrap(err, "%s connection", what) : link->up;
}

/* Return: 0 it is under way, 1 it is up, or a negative errno: nothing comes of this address */
static int look_at_attempt(struct ferry *ferry, struct wh_err *err)
{
	int ret;

	while ((ret = vlink_event(&ferry->link, err)) > 0 && !ferry->link.up)
		;
	if (ret >= 0)
		ret = ferry->link.up;
	if (ret > 0 && ferry->has_back)
		ret = look_at_next(ferry, &ferry->back, 0, "the return path's", err);
	if (ret > 0 && ferry->link.hello.flags & CONTROL_READS)
		ret = look_at_next(ferry, &ferry->read, CONTROL_READER, "the reads'", err);
	return ret ? ret : look_at_clock(ferry, err);
}

/* Return: 0 another address is under way, or will be, or a negative errno: there is none left */
static int next_attempt(struct ferry *ferry)
{
	bool busy = cancel(ferry, &ferry->event);

	busy |= cancel(ferry, &ferry->back_event);
	busy |= cancel(ferry, &ferry->read_event);
	if (busy)
		return 0;
	vlink_close(&ferry->read);
	vlink_close(&ferry->back);
	vlink_close(&ferry->link);
	failed(ferry, &ferry->failure);
	return attempt(ferry, &ferry->failure);
}

void ferry_dial_turn(struct ferry *ferry)
{
	struct wh_migration *m = ferry->m;
	int ret = 0;

	if (!ferry->failure.code)
		ret = look_at_attempt(ferry, &ferry->failure);
	if (ret > 0) {
		ret = ferry_begin(ferry, &ferry->failure);
		if (ret == 0)
			source_side_up(m);
	} else if (ferry->failure.code) {
		ret = next_attempt(ferry);
	}
	if (ret || ferry->begun)
		loop_wake(m->bulk);
	if (ret < 0) {
		ferry->lost = true;
		source_side_not_up(m, CHANNEL_MAIN, &ferry->failure);
	} else if (!ferry->failure.code && !ferry->begun) {
		ferry_watch(ferry, &ferry->event, vlink_event_fd(&ferry->link), POLLIN);
		if (ferry->back.channel)
			ferry_watch(ferry, &ferry->back_event, vlink_event_fd(&ferry->back),
				    POLLIN);
		if (ferry->read.channel)
			ferry_watch(ferry, &ferry->read_event, vlink_event_fd(&ferry->read),
				    POLLIN);
	}
}

/* ---- The end ----------------------------------------------------------------------------- */

/* He hears that it was no orderly end, if he can be told. Return: he is being told */
static bool say_error(struct ferry *ferry)
{
	struct wh_err err = { 0 };
	uint8_t *at;

	if (ferry->gone || ferry->broken_ns || !ferry->link.up ||
	    wh_get_phase(ferry->m) == WH_PHASE_DONE || vlink_room(&ferry->link, &at, &err) <= 0)
		return false;
	return vlink_send(&ferry->link, control_put(at, CONTROL_ERROR, 1, 0), &err) == 0;
}

/*
 * Behind his last word he hangs up, and is not to find it done: a QEMU 7.2 that has come by postcopy
 * takes that for more of the stream, and dies. Return: he has not yet
 */
static bool awaits_farewell(struct ferry *ferry)
{
	uint64_t limit_ns = ferry->m->config.dead_peer_ns;
	struct wh_err err = { 0 };
	int ret;

	if (!ferry->has_back || !ferry->begun || ferry->gone || ferry->broken_ns ||
	    wh_get_phase(ferry->m) != WH_PHASE_DONE)
		return false;
	if (!ferry->delivered_ns)
		ferry->delivered_ns = clock_now_ns();
	if (!limit_ns)
		limit_ns = GOODBYE_NS;
	while ((ret = vlink_event(&ferry->link, &err)) > 0)
		;
	ferry->gone = ret < 0;
	if (ferry->gone || clock_now_ns() - ferry->delivered_ns >= limit_ns)
		return false;
	ferry_watch(ferry, &ferry->event, vlink_event_fd(&ferry->link), POLLIN);
	if (!op_busy(&ferry->timer))
		loop_timer(ferry->m->bulk, &ferry->timer, ferry->delivered_ns + limit_ns);
	return true;
}

/* The queue pair goes before the memory it reads */
static void take_down(struct ferry *ferry)
{
	vlink_disconnect(&ferry->link);
	vmem_close(&ferry->memory);
	vlink_close(&ferry->link);
	vlink_disconnect(&ferry->back);
	vlink_close(&ferry->back);
	ferry_read_end(ferry);
	if (ferry->reply_fd >= 0)
		close(ferry->reply_fd);
	ferry->reply_fd = -1;
}

bool ferry_close(struct wh_migration *m)
{
	struct ferry *ferry = m->source->ferry;
	struct wh_err err = { 0 };
	uint8_t *at;
	bool busy;

	if (!ferry || ferry->closed)
		return false;
	if (!ferry->closing) {
		ferry->closing = true;
		if (say_error(ferry))
			ferry->flush_ns = clock_now_ns() + FLUSH_NS;
	}
	if (clock_now_ns() < ferry->flush_ns && vlink_room(&ferry->link, &at, &err) >= 0 &&
	    ferry->link.messages) {
		ferry_watch(ferry, &ferry->send, vlink_send_fd(&ferry->link), POLLIN);
		if (!op_busy(&ferry->timer))
			loop_timer(m->bulk, &ferry->timer, ferry->flush_ns);
		return true;
	}
	if (awaits_farewell(ferry))
		return true;
	busy = cancel(ferry, &ferry->event);
	busy |= cancel(ferry, &ferry->receive);
	busy |= cancel(ferry, &ferry->send);
	busy |= cancel(ferry, &ferry->timer);
	busy |= cancel(ferry, &ferry->back_event);
	busy |= cancel(ferry, &ferry->back_receive);
	busy |= cancel(ferry, &ferry->back_send);
	busy |= cancel(ferry, &ferry->room);
	busy |= cancel(ferry, &ferry->read_event);
	busy |= cancel(ferry, &ferry->read_receive);
	busy |= cancel(ferry, &ferry->read_send);
	if (!busy)
		take_down(ferry);
	ferry->closed = !busy;
	return busy;
}

void ferry_free(struct wh_migration *m)
{
	struct ferry *ferry = m->source->ferry;

	if (!ferry)
		return;
	take_down(ferry);
	__atomic_fetch_sub(&m->own_bytes, sizeof(*ferry) + ferry->chunks * sizeof(*ferry->chunk),
			   __ATOMIC_RELAXED);
	free(ferry->chunk);
	free(ferry);
	m->source->ferry = NULL;
}
#endif
