/* SPDX-License-Identifier: MIT */
/*
 * The source engine among strangers. An input is a list of what happens: bytes on the
 * return path, as they are or made into messages; batches sent, slowly or not; time,
 * lost links, wishes, a VMM that fails. Whatever it is, what the source sends stays a
 * stream that our own decoders take, and the guest stays in one place.
 */
#include "selftests/postcopy/source_world.h"

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                             \
		}                                                                            \
	} while (0)

struct input {
	const uint8_t *at;
	size_t left;
};

struct play {
	struct world w;
	bool sending;
	bool urgent_sending;
	bool deaf; /* source_input() has refused something, and why */
	struct wh_err refusal;
	uint8_t held[4 * RP_MSG_MAX]; /* bytes of the return path not taken yet */
	size_t have;
	bool committed; /* the destination may have started */
	bool promised;	/* it will be cancelled */
};

static const struct world_block blocks[] = {
	{ "pc.ram", 12, 4096 },
	{ "huge", 8, 16384 },
};

static unsigned take(struct input *in)
{
	if (!in->left)
		return 0;
	in->left--;
	return *in->at++;
}

static uint64_t take_number(struct input *in, unsigned bytes)
{
	uint64_t number = 0;

	while (bytes--)
		number = number << 8 | take(in);
	return number;
}

/* Every piece of a batch lies where it may. */
static void check_batch(const struct play *p, const struct batch *batch)
{
	const struct world *w = &p->w;

	check(batch->count && batch->count <= BATCH_IOV && batch->arena_used <= BATCH_ARENA);
	for (unsigned i = 0; i < batch->count; i++) {
		const uint8_t *at = batch->iov[i].iov_base;
		size_t length = batch->iov[i].iov_len;
		bool known = at >= batch->arena && at + length <= batch->arena + batch->arena_used;

		known |= at == w->device && length == w->device_bytes;
		for (unsigned b = 0; b < w->blocks; b++)
			known |= at >= w->region[b].addr && length == TARGET_PAGE &&
				 at + length <= w->region[b].addr + w->region[b].length;
		check(known);
	}
}

static void check_all(struct play *p)
{
	struct world *w = &p->w;
	enum source_phase phase = source_get_phase(w->source);

	check(phase == w->phase);
	check(!w->model.strange && !w->model.interleaved);
	check(source_pages_left(w->source) <= 20);
	check(w->resumes <= w->pauses);
	check(!p->committed || (phase != SOURCE_CANCELLED && phase < SOURCE_PHASE_COUNT));
	check(!p->promised || phase <= SOURCE_SWITCHOVER || phase == SOURCE_CANCELLED ||
	      (phase == SOURCE_FAILED && w->resume_ret));
	switch (phase) {
	case SOURCE_SETUP:
	case SOURCE_PRECOPY:
	case SOURCE_CANCELLED:
		check(!w->paused);
		break;
	case SOURCE_FAILED:
		check(!w->paused || w->resume_ret);
		check(w->reason.code < 0 && w->reason.text[0]);
		break;
	case SOURCE_HANDOVER:
	case SOURCE_POSTCOPY:
	case SOURCE_ENDING:
	case SOURCE_RECOVER:
	case SOURCE_DONE:
		check(w->paused && !w->resumes);
		break;
	case SOURCE_PAUSED:
	case SOURCE_UNKNOWN:
		check(w->paused && !w->resumes);
		check(w->reason.code < 0 && w->reason.text[0]);
		break;
	case SOURCE_SWITCHOVER:
	case SOURCE_PHASE_COUNT:
		break;
	}
	if (w->model.package_over)
		check(world_came(w, true) <= 1);
}

static void do_next(struct play *p)
{
	struct world *w = &p->w;
	int todo;

	w->err = (struct wh_err){ 0 };
	todo = world_ask(w);
	if (todo < 0)
		check(w->err.code == todo && w->err.text[0]);
	if (todo != SOURCE_SEND)
		return;
	check(!p->sending);
	p->sending = true;
	p->committed |= w->phase == SOURCE_HANDOVER || w->phase == SOURCE_POSTCOPY;
	check_batch(p, w->batch);
}

static void do_sent(struct play *p)
{
	struct world *w = &p->w;

	if (!p->sending || source_over(w->phase))
		return;
	p->sending = false;
	world_deliver(w);
}

static void do_urgent(struct play *p)
{
	struct world *w = &p->w;

	if (p->urgent_sending) {
		p->urgent_sending = false;
		world_carry(w, CHANNEL_URGENT, w->urgent);
		source_urgent_sent(w->source, w->urgent->bytes, w->now_ns);
		return;
	}
	p->urgent_sending = source_urgent(w->source, w->now_ns, w->urgent);
	if (p->urgent_sending)
		check_batch(p, w->urgent);
}

/* More bytes behind those that were not taken */
static void hear(struct play *p, const uint8_t *bytes, size_t length)
{
	struct world *w = &p->w;
	size_t used;

	if (p->deaf)
		return;
	if (length > sizeof(p->held) - p->have)
		length = sizeof(p->held) - p->have;
	if (length)
		memcpy(p->held + p->have, bytes, length);
	p->have += length;
	w->err = (struct wh_err){ 0 };
	if (world_input(w, p->held, p->have, &used) < 0) {
		check(w->err.code < 0 && w->err.text[0]);
		p->deaf = true;
		p->refusal = w->err;
		return;
	}
	check(used <= p->have);
	p->have -= used;
	memmove(p->held, p->held + used, p->have);
	/* what is not taken is less than a message, or the queue is full */
	check(p->have < RP_MSG_MAX || !source_queue_empty(w->source));
}

static void do_raw(struct play *p, struct input *in)
{
	size_t length = take(in);

	if (length > in->left)
		length = in->left;
	hear(p, in->at, length);
	in->at += length;
	in->left -= length;
}

static void do_message(struct play *p, struct input *in)
{
	struct rp_msg msg = { .kind = 1 + take(in) % (RP_SWITCHOVER_ACK + 1) };
	uint8_t buf[RP_MSG_MAX];
	unsigned how = take(in);

	switch (msg.kind) {
	case RP_SHUT:
		msg.shut.value = how & 1;
		break;
	case RP_REQ_PAGES_ID:
		msg.req_pages_id.start = how & 1 ? take_number(in, 8) : take(in) % 12 * 4096;
		msg.req_pages_id.length =
			(uint32_t)(how & 2 ? take_number(in, 4) : take(in) % 8 * 4096);
		wire_name_set(&msg.req_pages_id.block, blocks[how >> 2 & 1].name);
		break;
	case RP_REQ_PAGES:
		msg.req_pages.start = take(in) % 12 * 4096;
		msg.req_pages.length = take(in) % 8 * 4096;
		break;
	case RP_RECV_BITMAP:
		wire_name_set(&msg.recv_bitmap.block, "pc.ram");
		break;
	case RP_WHERRY_HELLO: /* the number behind the last of QEMU's */
		msg.kind = RP_WHERRY_HELLO;
		break;
	case RP_PONG:
	case RP_RESUME_ACK:
	case RP_SWITCHOVER_ACK:
	case RP_COUNT:
		break;
	}
	hear(p, buf, rp_put(buf, &msg));
}

static void do_vmm(struct play *p, unsigned how)
{
	struct world *w = &p->w;

	switch (how % 6) {
	case 0:
		w->pause_ret = -EIO;
		break;
	case 1:
		w->device_ret = -EIO;
		break;
	case 2:
		w->sync_ret = -EIO;
		break;
	case 3:
		w->resume_ret = -EIO;
		break;
	case 4:
		w->open_ret = -EIO;
		break;
	default:
		if (!w->paused)
			world_write(w, how >> 7, how / 6 % 8, (uint8_t)how);
		break;
	}
}

static void do_one(struct play *p, struct input *in)
{
	struct world *w = &p->w;
	unsigned what = take(in);

	switch (what % 16) {
	case 0:
	case 1:
	case 2:
		do_next(p);
		do_sent(p);
		break;
	case 3:
		do_next(p);
		break;
	case 4:
		do_sent(p);
		break;
	case 5:
	case 6:
		do_urgent(p);
		break;
	case 7:
		do_raw(p, in);
		break;
	case 8:
	case 9:
	case 10:
		do_message(p, in);
		break;
	case 11:
		w->now_ns += (uint64_t)1 << take(in) % 36;
		break;
	case 12:
		source_want_postcopy(w->source);
		break;
	case 13:
		do_vmm(p, take(in));
		break;
	case 14:
		if (w->phase != SOURCE_SETUP)
			source_urgent_opened(w->source, what & 16 ? 0 : -ECONNREFUSED);
		break;
	default:
		if (what & 16) {
			source_link_lost(w->source, what & 32, p->deaf ? &p->refusal : NULL,
					 w->now_ns);
		} else if (what & 32) {
			p->promised = !source_want_cancel(w->source) || p->promised;
			check(!p->promised || !p->committed);
		}
		break;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	static const uint64_t downtimes[] = { 1, WORLD_S };
	struct input in = { data, size };
	unsigned how = take(&in);
	struct source_config config = {
		.postcopy = how & 1,
		.return_path = how & 2,
		.urgent = (how >> 2 & 3) % 3,
		.downtime_ns = downtimes[how >> 4 & 1],
		.bandwidth = how & 32 ? 100000 : 0,
		.postcopy_bandwidth = how & 64 ? 100000 : 0,
		.dead_peer_ns = how & 128 ? WORLD_S : 0,
	};
	struct play p = { 0 };

	world_init(&p.w, &config, blocks, 2);
	world_scribble(&p.w);
	source_connected(p.w.source, p.w.now_ns);
	for (unsigned n = 0; in.left && n < 400; n++) {
		do_one(&p, &in);
		check_all(&p);
	}
	world_fini(&p.w);
	return 0;
}
