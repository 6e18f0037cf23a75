/* SPDX-License-Identifier: MIT */
/*
 * Destination: a new connection after a break. Bitmaps say what is in place, then all
 * that threads wait for is asked for again; nothing else of the old connection counts.
 *
 *	PAUSED		The guest goes on, faults are written down in `asked`, pages that
 *			it removes are marked. What lay in runs is dropped, so that arrived
 *			is received by host page, and may come again.
 *	RECOVER		Both ends prove that they are those of this migration, if it has an id
 *			(recover/identity.h). The source asks for the bitmap of each block. A page removed behind
 *			that is sent in vain, and skipped when it is to be placed.
 *	RUNNING		From RESUME_ACK on. It is said in front of the move, or a request
 *			of the fault thread, which looks at the phase, could overtake it.
 *
 * Where the engine itself has died it is the same for another one (dest_adopt()), which has
 * nothing but the received bits and struct dest_past: all else is of a connection, or comes
 * again when whoever waits is woken.
 *
 * The walk over `asked` is the fault thread's, as all requests are: what it finds in
 * RUNNING behind the walk it asks for at once, what is in front is found by the walk.
 */
#include "postcopy/dest_engine.h"

#include "base/bits.h"
#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

/* Host pages one by one: what a QEMU's source is used to */
#define ANNOUNCE_PAGES 1u

void dest_parked(struct dest *dest)
{
	struct dest_channel *c = &dest->channel[CHANNEL_URGENT];

	dest_drop(dest, CHANNEL_URGENT);
	__atomic_store_n(&dest->reading, false, __ATOMIC_RELEASE);
	c->row = 0;
	c->proven = false;
	__atomic_store_n(&c->open, false, __ATOMIC_RELEASE);
	__atomic_store_n(&c->eos, false, __ATOMIC_RELEASE);
}

/*
 * The bits of a large host page of ours are not set in one go: who died in the middle has
 * marked a part of it, which cannot be placed by itself. As if he had died in front of that.
 */
static void forget_parts(struct dest_block *block)
{
	uint64_t pages = block->used / TARGET_PAGE;
	uint64_t each = block->region->page_size / TARGET_PAGE;

	for (uint64_t first = 0; each > 1 && first < pages; first += each)
		if (bits_range_count(block->received, first, each) < each)
			bits_range_clear(block->received, first, each);
}

/*
 * A host page that is there in part comes again, all of it; what of it is there stays. Return:
 * how many pages are missing
 */
static uint64_t find_arrived(struct dest_block *block)
{
	uint64_t pages = block->used / TARGET_PAGE, each = block->page_size / TARGET_PAGE;

	forget_parts(block);
	for (uint64_t first = 0; first < pages; first += each)
		if (bits_range_count(block->received, first, each) == each)
			bits_set(block->arrived, first);
	return pages - bits_count(block->received, pages);
}

int dest_adopt(struct dest *dest, const struct dest_past *past, struct wh_err *err)
{
	uint64_t missing = 0;
	struct wh_err died;
	int ret;

	stream_in_adopt(&dest->stream, &past->blocks, past->ram_id);
	dest->identity = (struct identity){ .id = past->id, .known = past->has_id };
	ret = dest_block_list(dest, err);
	if (ret < 0)
		return ret;
	for (unsigned i = 0; i < dest->blocks; i++)
		missing += find_arrived(&dest->block[i]);
	__atomic_store_n(&dest->counters.pages_missing, missing, __ATOMIC_RELEASE);
	ret = dest->ops->arm(dest->ctx, err);
	if (ret < 0)
		return dest_because(err, ret, "arming");
	/* What was read of their faults nobody knows any more */
	for (unsigned i = 0; i < dest->blocks; i++) {
		ret = dest->ops->wake(dest->ctx, i, 0, dest->block[i].region->length, err);
		if (ret < 0)
			return dest_because(err, ret, "waking");
	}
	dest->committed = true;
	err_set(&died, -EOWNERDEAD, "whoever had the migration before has died");
	dest_move(dest, DEST_PAUSED, &died);
	return 0;
}

void dest_reconnected(struct dest *dest)
{
	struct dest_channel *c = &dest->channel[CHANNEL_MAIN];

	stream_in_resume(&dest->stream);
	dest_multifd_forget(dest);
	ram_in_init(&dest->channel[CHANNEL_URGENT].urgent, true);
	c->row = 0;
	__atomic_store_n(&c->open, true, __ATOMIC_RELEASE);
	/* nobody opens it a second time */
	dest->return_path = true;
	dest->ended = false;
	dest->last_asked = -1;
	dest->hurry = false;
	dest->fault_failed = false;
	memset(dest->bitmaps_said, 0, sizeof(dest->bitmaps_said));
	for (unsigned i = 0; i < dest->blocks; i++) {
		const struct dest_block *b = &dest->block[i];

		dest->plan_block[i] = (struct plan_block){
			.asked = b->asked,
			.received = b->received,
			.pages = b->used / TARGET_PAGE,
			.group = b->page_size / TARGET_PAGE,
		};
	}
	plan_init(&dest->plan, dest->plan_block, dest->blocks, ANNOUNCE_PAGES);
	identity_renew(&dest->identity);
	dest->resumes = true;
	dest_move(dest, DEST_RECOVER, NULL);
}

unsigned dest_find_block(const struct dest *dest, const struct wire_name *name)
{
	unsigned at;

	for (at = 0; at < dest->blocks; at++) {
		const struct wire_name *is = &dest->stream.blocks.block[at].name;

		if (is->length == name->length && !memcmp(is->text, name->text, is->length))
			break;
	}
	return at;
}

int dest_take_id(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err)
{
	if (dest->identity.known)
		return err_set(err, -EPROTO, "WHERRY_ID for the second time");
	if (!dest->ops->random)
		return err_set(err, -EPROTO, "WHERRY_ID, and nobody here has said whose it is");
	dest->identity.id.high = msg->wherry_id.high;
	dest->identity.id.low = msg->wherry_id.low;
	dest->identity.known = true;
	return 0;
}

int dest_hello(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err)
{
	struct identity *identity = &dest->identity;
	struct rp_msg hello = { .kind = RP_WHERRY_HELLO };
	int ret;

	if (!identity->known)
		return err_set(err, -EPROTO, "WHERRY_HELLO, and this migration has no id");
	if (identity->said)
		return err_set(err, -EPROTO, "WHERRY_HELLO for the second time");
	ret = dest->ops->random(dest->ctx, &identity->dest, err);
	if (ret < 0)
		return dest_because(err, ret, "a random number");
	identity->source.high = msg->wherry_hello.high;
	identity->source.low = msg->wherry_hello.low;
	identity->said = true;
	hello.wherry_hello.high = identity->dest.high;
	hello.wherry_hello.low = identity->dest.low;
	hello.wherry_hello.proof = identity_proof(identity, IDENTITY_DEST);
	return dest_send(dest, &hello, err);
}

int dest_proof(struct dest *dest, const struct cmd_msg *msg, struct wh_err *err)
{
	struct identity *identity = &dest->identity;

	if (!identity->said)
		return err_set(err, -EPROTO, "WHERRY_PROOF in front of WHERRY_HELLO");
	if (msg->wherry_proof.proof != identity_proof(identity, IDENTITY_SOURCE))
		return err_set(err, -EPROTO, "it is not the source of this migration: wrong id");
	/* Behind the numbers: who is on the urgent channel and sees it finds them */
	__atomic_store_n(&identity->proven, true, __ATOMIC_RELEASE);
	return 0;
}

/* Nothing is told, and nothing begun, before the other end has proved who it is. */
static int check_proven(const struct dest *dest, const char *what, struct wh_err *err)
{
	if (!dest->identity.known || dest->identity.proven)
		return 0;
	return err_set(err, -EPROTO,
		       "%s, by one who has not proved to be the source of this migration", what);
}

bool dest_urgent_proves(const struct dest *dest)
{
	return dest->resumes && dest->identity.known;
}

bool dest_urgent_proof_is(const struct dest *dest, const uint8_t proof[8])
{
	return __atomic_load_n(&dest->identity.proven, __ATOMIC_ACQUIRE) &&
	       get_be64(proof) == identity_proof(&dest->identity, IDENTITY_URGENT);
}

bool dest_urgent_unproven(const struct dest *dest)
{
	return dest_urgent_proves(dest) && !dest->channel[CHANNEL_URGENT].proven;
}

int dest_urgent_proof(struct dest *dest, const uint8_t *buf, size_t length, size_t *used,
		      struct wh_err *err)
{
	if (length < DEST_PROOF_BYTES)
		return 0;
	if (!dest_urgent_proof_is(dest, buf))
		return err_set(err, -EPROTO, "it is not that of this migration: wrong id");
	dest->channel[CHANNEL_URGENT].proven = true;
	*used = DEST_PROOF_BYTES;
	return 1;
}

int dest_say_bitmap(struct dest *dest, const struct wire_name *name, struct wh_err *err)
{
	unsigned at = dest_find_block(dest, name);
	struct rp_msg msg = { .kind = RP_RECV_BITMAP };
	uint8_t buf[RP_MSG_MAX];
	int ret;

	ret = check_proven(dest, "bitmap", err);
	if (ret < 0)
		return ret;
	if (at == dest->blocks)
		return err_set(err, -EPROTO, "bitmap of unknown block '%s'", name->text);
	/* each is memory of ours until it is sent */
	if (bits_test_set(dest->bitmaps_said, at))
		return err_set(err, -EPROTO, "bitmap of block '%s' for the second time",
			       name->text);
	msg.recv_bitmap.block = *name;
	ret = dest->ops->send_bitmap(dest->ctx, buf, rp_put(buf, &msg), at, err);
	return ret < 0 ? dest_because(err, ret, "bitmap") : 0;
}

int dest_resume(struct dest *dest, struct wh_err *err)
{
	struct rp_msg ack = { .kind = RP_RESUME_ACK, .resume_ack.value = 1 };
	uint64_t said = bits_count(dest->bitmaps_said, RAM_BLOCKS_MAX);
	int ret;

	ret = check_proven(dest, "POSTCOPY_RESUME", err);
	if (ret < 0)
		return ret;
	if (said < dest->blocks)
		return err_set(err, -EPROTO, "POSTCOPY_RESUME behind %u bitmaps of %u",
			       (unsigned)said, dest->blocks);
	ret = dest_send(dest, &ack, err);
	if (ret < 0)
		return ret;
	dest_move(dest, DEST_RUNNING, NULL);
	dest->ops->resumed(dest->ctx);
	return 0;
}

bool dest_to_announce(const struct dest *dest, unsigned block, uint64_t first_page)
{
	const struct plan *plan = &dest->plan;

	if (plan->part != PLAN_ASKED || block < plan->at_block)
		return false;
	return block > plan->at_block || first_page >= plan->at_page;
}

int dest_announce(struct dest *dest, unsigned max, struct wh_err *err)
{
	struct wh_err own = { 0 };
	struct plan_run run;
	int ret;

	err = err ? err : &own;
	err->code = 0;
	err->text[0] = '\0';
	for (unsigned i = 0; dest->plan.part == PLAN_ASKED; i++) {
		enum dest_phase phase = dest_get_phase(dest);

		if (phase != DEST_RUNNING && phase != DEST_ENDING)
			return 0;
		if (i == max)
			return 1;
		if (plan_next(&dest->plan, &run) != PLAN_ASKED)
			break;
		ret = dest_request(dest, run.block, run.page * TARGET_PAGE, err);
		if (ret < 0)
			return dest_fail_later(dest, err);
	}
	/* the rest is the source's own affair */
	dest->plan.part = PLAN_END;
	return 0;
}
