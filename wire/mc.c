/* SPDX-License-Identifier: MIT */
#include "wire/mc.h"

#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>

/* What QEMU's RDMA says in place of COMMIT */
#define RAM_FLAG_HOOK 0x80u
/* More than ever fit into a machine, and no product of it overflows */
#define SLABS_MAX (UINT64_C(1) << 32)

const char *mc_name(enum mc_kind kind)
{
	switch (kind) {
	case MC_NACK:
		return "NACK";
	case MC_START:
		return "START";
	case MC_COMMIT:
		return "COMMIT";
	case MC_ABORT:
		return "ABORT";
	case MC_ACK:
		return "ACK";
	case MC_END:
		return "END";
	case MC_ANY:
		break;
	}
	return "?";
}

size_t mc_put(uint8_t *buf, const struct mc_msg *msg)
{
	put_be64(buf, (uint64_t)msg->kind);
	if (msg->kind != MC_START)
		return 8;
	put_be64(buf + 8, msg->size);
	put_be64(buf + 16, msg->first_page_slab);
	put_be64(buf + 24, msg->slabs);
	return MC_MSG_MAX;
}

static int check_start(const struct mc_msg *msg, struct wh_err *err)
{
	if (msg->slabs > SLABS_MAX || !msg->first_page_slab || msg->first_page_slab >= msg->slabs)
		return err_set(err, -EPROTO, "START of %llu slabs, pages from slab %llu on",
			       (unsigned long long)msg->slabs,
			       (unsigned long long)msg->first_page_slab);
	if (!msg->size || msg->size > msg->slabs * MC_SLAB_BYTES)
		return err_set(err, -EPROTO, "START of %llu bytes in %llu slabs",
			       (unsigned long long)msg->size, (unsigned long long)msg->slabs);
	return 0;
}

int mc_get(const uint8_t *buf, size_t length, size_t *used, struct mc_msg *msg, struct wh_err *err)
{
	uint64_t number;
	int ret;

	if (length < 8)
		return 0;
	number = get_be64(buf);
	if (number == RAM_FLAG_HOOK)
		return err_set(err, -EPROTO,
			       "a checkpoint by RDMA: what it has is not in this stream");
	if (number < MC_NACK || number >= MC_ANY)
		return err_set(err, -EPROTO, "number %llu, which is no message",
			       (unsigned long long)number);
	*msg = (struct mc_msg){ .kind = (enum mc_kind)number };
	*used = 8;
	if (msg->kind != MC_START)
		return 1;
	if (length < MC_MSG_MAX)
		return 0;
	msg->size = get_be64(buf + 8);
	msg->first_page_slab = get_be64(buf + 16);
	msg->slabs = get_be64(buf + 24);
	*used = MC_MSG_MAX;
	ret = check_start(msg, err);
	return ret < 0 ? ret : 1;
}

size_t mc_put_slab(uint8_t *buf, uint64_t length)
{
	put_be64(buf, length);
	return 8;
}

static int next_message(struct mc_in *in, const uint8_t *buf, size_t length, size_t *used,
			struct mc_event *event, struct wh_err *err)
{
	struct mc_msg *msg = &event->msg;
	int ret = mc_get(buf, length, used, msg, err);

	event->kind = MC_GOT_MESSAGE;
	if (ret != 1)
		return ret;
	if (!in->start.kind == (msg->kind == MC_COMMIT))
		return err_set(err, -EPROTO, "%s %s START", mc_name(msg->kind),
			       in->start.kind ? "behind" : "without");
	if (msg->kind == MC_START) {
		in->start = *msg;
		in->size = msg->size;
		in->slab = 0;
	}
	in->committed = msg->kind == MC_COMMIT;
	return 1;
}

/* The last byte of the last slab, or the length of it if there is none: that was all */
static void end_slab(struct mc_in *in)
{
	if (in->contents || ++in->slab < in->start.slabs)
		return;
	*in = (struct mc_in){ 0 };
}

static int next_slab(struct mc_in *in, const uint8_t *buf, size_t length, size_t *used,
		     struct mc_event *event, struct wh_err *err)
{
	uint64_t rest;

	if (length < 8)
		return 0;
	event->kind = MC_GOT_SLAB;
	event->slab = in->slab;
	event->length = get_be64(buf);
	if (event->length > MC_SLAB_BYTES || event->length > in->size)
		return err_set(err, -EPROTO, "slab %llu of %llu bytes, %llu are to come",
			       (unsigned long long)in->slab, (unsigned long long)event->length,
			       (unsigned long long)in->size);
	rest = in->size - event->length;
	if (rest > (in->start.slabs - in->slab - 1) * MC_SLAB_BYTES)
		return err_set(err, -EPROTO, "slab %llu of %llu bytes leaves %llu for %llu slabs",
			       (unsigned long long)in->slab, (unsigned long long)event->length,
			       (unsigned long long)rest,
			       (unsigned long long)(in->start.slabs - in->slab - 1));
	*used = 8;
	in->size = rest;
	in->contents = event->length;
	end_slab(in);
	return 1;
}

int mc_in_next(struct mc_in *in, const uint8_t *buf, size_t length, size_t *used,
	       struct mc_event *event, struct wh_err *err)
{
	size_t bytes = length;
	int ret;

	*used = 0;
	*event = (struct mc_event){ .kind = MC_GOT_CONTENTS };
	if (!in->contents) {
		size_t taken = 0;

		ret = in->committed ? next_slab(in, buf, length, &taken, event, err) :
				      next_message(in, buf, length, &taken, event, err);
		if (ret == 1)
			*used = taken;
		return ret;
	}
	if (!length)
		return 0;
	if (bytes > in->contents)
		bytes = (size_t)in->contents;
	event->slab = in->slab;
	event->data = buf;
	event->data_length = bytes;
	in->contents -= bytes;
	end_slab(in);
	*used = bytes;
	return 1;
}
