/* SPDX-License-Identifier: MIT */
/*
 * Device state: a header, then each processor. Little-endian, without gaps:
 *
 *	8 bytes "wherryvm", u32 version, u32 cpus_ops.number, u64 RAM bytes, u32 processors
 *
 * One walk over the fields both writes and reads them, so that the two cannot differ.
 * What is loaded comes from a stranger: every field is checked before it is used.
 */
#include "vmm.h"

#include <errno.h>
#include <inttypes.h>
#include <stdlib.h>
#include <string.h>

#define STATE_VERSION 1u
#define STATE_ROOM 65536u /* far more than CPUS_MAX processors have */

struct state {
	uint8_t *out;
	const uint8_t *in;
	size_t left;
	bool loading;
	bool too_short;
};

bool state_loading(const struct state *state)
{
	return state->loading;
}

void state_value(struct state *state, void *value, size_t bytes)
{
	if (bytes > state->left) {
		state->too_short = true;
		return;
	}
	state->left -= bytes;
	if (state->loading) {
		memcpy(value, state->in, bytes);
		state->in += bytes;
	} else {
		memcpy(state->out, value, bytes);
		state->out += bytes;
	}
}

_Static_assert(__BYTE_ORDER__ == __ORDER_LITTLE_ENDIAN__, "values are taken as they lie");

static int state_header(struct guest *guest, struct state *state, struct wh_err *err)
{
	char magic[8] = { 'w', 'h', 'e', 'r', 'r', 'y', 'v', 'm' };
	uint32_t version = STATE_VERSION;
	uint32_t number = guest->ops->number;
	uint64_t bytes = guest->ram.bytes;
	uint32_t cpus = guest->cpus;

	STATE(state, magic);
	STATE(state, version);
	STATE(state, number);
	STATE(state, bytes);
	STATE(state, cpus);
	if (state->too_short)
		return fail(err, -EPROTO, "device state: too short for its header");
	if (memcmp(magic, "wherryvm", sizeof(magic)))
		return fail(err, -EPROTO, "device state: not of this VMM");
	if (version != STATE_VERSION)
		return fail(err, -EPROTO, "device state: version %u, not %u", version,
			    STATE_VERSION);
	if (number != guest->ops->number)
		return fail(err, -EPROTO, "device state: processors of kind %u, here are %s (%u)",
			    number, guest->ops->name, guest->ops->number);
	if (bytes != guest->ram.bytes)
		return fail(err, -EPROTO, "device state: RAM of %" PRIu64 " bytes, here %" PRIu64,
			    bytes, guest->ram.bytes);
	if (cpus != guest->cpus)
		return fail(err, -EPROTO, "device state: %u vCPUs, here %u", cpus, guest->cpus);
	return 0;
}

static int state_walk(struct guest *guest, struct state *state, struct wh_err *err)
{
	int ret = state_header(guest, state, err);

	for (unsigned i = 0; i < guest->cpus && !ret; i++) {
		ret = guest->ops->state(&guest->cpu[i], state, err);
		if (!ret && state->too_short)
			ret = fail(err, -EPROTO, "device state: ends within vCPU %u", i);
	}
	return ret;
}

int state_save(struct guest *guest, void **data, size_t *length, struct wh_err *err)
{
	struct state state = { .left = STATE_ROOM };
	int ret;

	*data = malloc(STATE_ROOM);
	if (!*data)
		return fail(err, -ENOMEM, "no memory for device state");
	state.out = *data;
	ret = state_walk(guest, &state, err);
	*length = STATE_ROOM - state.left;
	if (ret)
		free(*data);
	return ret;
}

int state_load(struct guest *guest, const void *data, size_t length, struct wh_err *err)
{
	struct state state = { .in = data, .left = length, .loading = true };
	int ret = state_walk(guest, &state, err);

	if (!ret && state.left)
		return fail(err, -EPROTO, "device state: %zu bytes too many", state.left);
	return ret;
}
