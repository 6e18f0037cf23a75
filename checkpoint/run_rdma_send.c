/* SPDX-License-Identifier: MIT */
/*
 * Joining: sending over RDMA. What lies in a slab and is not small is written into what the other
 * end has lent, from where it lies; the rest goes in messages. A message that is begun is handed
 * over before anything of the other end is waited for, since it has to know of what was written
 * before it can give that back.
 */
#ifndef WH_NO_RDMA
#include "checkpoint/run_rdma.h"
#include "rdma/pin.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define SMALL 512u		     /* what is no longer goes in a message */
#define ANNOUNCE (UINT32_C(1) << 20) /* so that it is taken out while the next is written */
#define QUIET 8u		     /* writes for which one says when they are complete */

/* ---- Slabs ---------------------------------------------------------------------- */

/* The first one that ends behind @at; it may be none */
static struct pier_slab *slab_behind(const struct pier_slabs *slabs, const uint8_t *at)
{
	size_t low = 0, high = slabs->count;

	while (low < high) {
		size_t middle = (low + high) / 2;

		if ((uintptr_t)at - (uintptr_t)slabs->slab[middle].at < SLAB_BYTES ||
		    at < slabs->slab[middle].at)
			high = middle;
		else
			low = middle + 1;
	}
	return slabs->slab + low;
}

/* If there is no memory to note it, it goes in messages */
static void made(void *world, uint8_t *at)
{
	struct pier_slabs *slabs = &((struct wh_protect *)world)->slabs;
	struct pier_slab *place;

	if (slabs->count == slabs->room) {
		size_t room = slabs->room ? 2 * slabs->room : 64;
		void *more = realloc(slabs->slab, room * sizeof(*slabs->slab));

		if (!more)
			return;
		slabs->slab = more;
		slabs->room = room;
	}
	place = slab_behind(slabs, at);
	memmove(place + 1, place, (size_t)(slabs->slab + slabs->count - place) * sizeof(*place));
	*place = (struct pier_slab){ .at = at };
	slabs->count++;
}

static void unmade(void *world, const uint8_t *at)
{
	struct pier_slabs *slabs = &((struct wh_protect *)world)->slabs;
	struct pier_slab *slab;

	if (!slabs->count)
		return;
	slab = slab_behind(slabs, at);
	if (slab == slabs->slab + slabs->count || slab->at != at)
		return;
	vunpin(slab->mr);
	slabs->count--;
	memmove(slab, slab + 1, (size_t)(slabs->slab + slabs->count - slab) * sizeof(*slab));
}

struct slab_watch pier_watch(struct wh_protect *p)
{
	return (struct slab_watch){ .made = made, .unmade = unmade, .world = p };
}

void pier_unpin(struct pier *pier)
{
	struct pier_slabs *slabs = &pier->p->slabs;

	if (slabs->of != pier)
		return;
	for (size_t i = 0; i < slabs->count; i++) {
		vunpin(slabs->slab[i].mr);
		slabs->slab[i] = (struct pier_slab){ .at = slabs->slab[i].at };
	}
	slabs->of = NULL;
}

/* Return: @bytes from here on, or fewer, may be written */
static bool is_pinned(struct pier *pier, const uint8_t *at, size_t *bytes, uint32_t *key)
{
	struct pier_slabs *slabs = &pier->p->slabs;
	struct wh_err err = { 0 };
	struct pier_slab *slab;

	if (!pier->flow.area || *bytes <= SMALL || !slabs->count)
		return false;
	slab = slab_behind(slabs, at);
	if (slab == slabs->slab + slabs->count || at < slab->at || slab->refused)
		return false;
	if (!slab->mr) {
		slabs->of = pier;
		slab->refused = vpin(pier->link.pd, slab->at, SLAB_BYTES, false, &slab->mr,
				     &slab->key, &err) < 0;
		if (slab->refused && !slabs->told)
			protect_log(pier->p, WH_LOG_WARNING,
				    "pages go in messages, which is slower: %s", err.text);
		slabs->told |= slab->refused;
	}
	/* two slabs may touch */
	if (*bytes > SLAB_BYTES - (size_t)(at - slab->at))
		*bytes = SLAB_BYTES - (size_t)(at - slab->at);
	*key = slab->key;
	return !slab->refused;
}

/* ---- Messages and writes -------------------------------------------------------- */

/* Return: 1 there is one to put something into, 0 not now, or a negative errno */
static int begin(struct pier *pier, struct wh_err *err)
{
	uint8_t *at;
	int ret;

	if (pier->message)
		return 1;
	if (!vflow_may_send(&pier->flow))
		return 0;
	ret = vlink_room(&pier->link, &at, err);
	if (ret <= 0)
		return ret;
	pier->message = at;
	pier->bytes = pier->landed = 0;
	return 1;
}

static int finish(struct pier *pier, struct wh_err *err)
{
	uint8_t *message = pier->message;

	if (!message)
		return 0;
	pier->message = NULL;
	/* it says when it is complete, and so are the writes in front of it */
	pier->quiet = 0;
	return vlink_send(&pier->link, vflow_put(&pier->flow, message, pier->bytes, pier->landed),
			  err);
}

static void advance(struct pier *pier, size_t bytes)
{
	pier->total += bytes;
	pier->piece_at += bytes;
	if (pier->piece_at < pier->piece->iov_len)
		return;
	pier->piece_at = 0;
	pier->piece++;
	pier->pieces--;
}

/* Return: as begin() */
static int copy_some(struct pier *pier, const uint8_t *from, size_t length, struct wh_err *err)
{
	size_t header = parcel_header(PARCEL_STREAM), room;
	int ret = 0;

	/* in a message its own bytes come first */
	if (pier->landed)
		ret = finish(pier, err);
	if (ret == 0)
		ret = begin(pier, err);
	if (ret <= 0)
		return ret;
	room = VLINK_SEND_MAX - header - pier->bytes;
	if (length > room)
		length = room;
	memcpy(pier->message + header + pier->bytes, from, length);
	pier->bytes += (uint32_t)length;
	advance(pier, length);
	if (header + pier->bytes == VLINK_SEND_MAX)
		ret = finish(pier, err);
	return ret < 0 ? ret : 1;
}

static int write_some(struct pier *pier, const uint8_t *from, size_t length, uint32_t key,
		      struct wh_err *err)
{
	struct vlink_write write = { .from = from, .lkey = key, .rkey = pier->flow.key };
	uint64_t space = vflow_space(&pier->flow, &write.to);
	int ret;

	if (!space)
		return finish(pier, err);
	if (pier->writes == VLINK_WRITES)
		return 0;
	ret = begin(pier, err);
	if (ret <= 0)
		return ret;
	if (length > space)
		length = (size_t)space;
	if (length > ANNOUNCE - pier->landed)
		length = ANNOUNCE - pier->landed;
	write.length = (uint32_t)length;
	write.signal = ++pier->quiet == QUIET;
	if (write.signal)
		pier->quiet = 0;
	ret = vlink_write(&pier->link, &write, err);
	if (ret < 0)
		return ret;
	pier->writes++;
	vflow_wrote(&pier->flow, length);
	pier->landed += (uint32_t)length;
	advance(pier, length);
	if (pier->landed == ANNOUNCE)
		ret = finish(pier, err);
	return ret < 0 ? ret : 1;
}

static int push_some(struct pier *pier, struct wh_err *err)
{
	const uint8_t *from = (const uint8_t *)pier->piece->iov_base + pier->piece_at;
	size_t length = pier->piece->iov_len - pier->piece_at;
	uint32_t key;

	if (!length) {
		advance(pier, 0);
		return 1;
	}
	return is_pinned(pier, from, &length, &key) ? write_some(pier, from, length, key, err) :
						      copy_some(pier, from, length, err);
}

int pier_push(struct pier *pier, struct wh_err *err)
{
	uint8_t *at;
	int ret = vlink_room(&pier->link, &at, err);

	pier->writes -= pier->link.written;
	pier->link.written = 0;
	while (ret >= 0 && pier->pieces && (ret = push_some(pier, err)) > 0)
		;
	if (ret >= 0 && !pier->pieces)
		ret = finish(pier, err);
	if (ret < 0 || pier->message || !vflow_owes(&pier->flow))
		return ret;
	ret = vlink_room(&pier->link, &at, err);
	return ret > 0 ? vlink_send(&pier->link, vflow_put(&pier->flow, at, 0, 0), err) : ret;
}
#endif
