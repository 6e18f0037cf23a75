/* SPDX-License-Identifier: MIT */
/*
 * The source engine among strangers. An input is a list of what happens: bytes on the
 * return path, as they are or made into messages; batches sent, slowly or not; time,
 * lost links, other connections, wishes, a VMM that fails. Whatever it is, what the source
 * sends stays a stream that our own decoders take, and the guest stays in one place.
 */
#include "selftests/fuzz/source_again.h"

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
	unsigned kind = 1 + take(in) % (RP_SWITCHOVER_ACK + 1), how = take(in);
	struct rp_msg msg = { .kind = kind > RP_SWITCHOVER_ACK ? RP_WHERRY_HELLO : kind };
	uint8_t buf[RP_MSG_MAX];

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
	case RP_PONG:
		msg.pong.value = how & 1 ? PONG_OURS : how & 2 ? PING_WHO : 1;
		break;
	case RP_WHERRY_HELLO:
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
		do_next(p);
		do_sent(p);
		break;
	case 2:
		do_again(p, in);
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
	p.ops = world_ops;
	p.ops.random = play_random;
	p.w.source->ops = &p.ops;
	source_connected(p.w.source, p.w.now_ns);
	for (unsigned n = 0; in.left && n < 400; n++) {
		do_one(&p, &in);
		check_all(&p);
	}
	world_fini(&p.w);
	return 0;
}
