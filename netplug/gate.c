/* SPDX-License-Identifier: MIT */
#include "netplug/gate.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <inttypes.h>

#define COUNT_OF(table) (sizeof(table) / sizeof((table)[0]))
#define TO(state) (UINT32_C(1) << WH_NETPLUG_##state)

/* clang-format off */
static const uint32_t state_next[] = {
	[WH_NETPLUG_IDLE]   = TO(HELD) | TO(ORPHAN) | TO(FENCED) | TO(BROKEN),
	/* ORPHAN: who drives it, or who holds it for us, has died */
	[WH_NETPLUG_HELD]   = TO(IDLE) | TO(BROKEN) | TO(ORPHAN) | TO(FENCED),
	/* never back to HELD: the dead one's epochs are not known, so nothing can be released by
	 * its acknowledgement. Only somebody who knows where the guest is leads out of these */
	[WH_NETPLUG_BROKEN] = TO(IDLE) | TO(FENCED),
	[WH_NETPLUG_ORPHAN] = TO(IDLE) | TO(FENCED),
	/* by way of a guest that has let go of its NICs */
	[WH_NETPLUG_FENCED] = TO(IDLE),
};
static_assert(COUNT_OF(state_next) == WH_NETPLUG_STATE_COUNT, "a row for each state");

static const char *const state_names[] = {
	[WH_NETPLUG_IDLE]   = "idle",
	[WH_NETPLUG_HELD]   = "held",
	[WH_NETPLUG_BROKEN] = "broken",
	[WH_NETPLUG_ORPHAN] = "orphan",
	[WH_NETPLUG_FENCED] = "fenced",
};
static_assert(COUNT_OF(state_names) == WH_NETPLUG_STATE_COUNT, "a name for each state");

static const char *const edge_names[] = {
	[WH_NETPLUG_CALLBACK] = "callback",
	[WH_NETPLUG_QUEUE]    = "queue",
	[WH_NETPLUG_PLUG]     = "plug",
	[WH_NETPLUG_HOLDER]   = "holder",
};
static_assert(COUNT_OF(edge_names) == WH_NETPLUG_EDGE_COUNT, "a name for each edge");
/* clang-format on */

const char *wh_netplug_state_name(enum wh_netplug_state state)
{
	return (unsigned)state < COUNT_OF(state_names) ? state_names[state] : "?";
}

const char *wh_netplug_edge_name(enum wh_netplug_edge edge)
{
	return (unsigned)edge < COUNT_OF(edge_names) ? edge_names[edge] : "?";
}

void gate_init(struct gate *gate, uint64_t closed_most)
{
	*gate = (struct gate){ .closed_most = closed_most };
}

void gate_move(struct gate *gate, enum wh_netplug_state state)
{
	assert(state_next[gate->state] & UINT32_C(1) << state);
	gate->state = state;
}

int gate_may_arm(const struct gate *gate, struct wh_err *err)
{
	switch (gate->state) {
	case WH_NETPLUG_IDLE:
		return 0;
	case WH_NETPLUG_HELD:
		return err_set(err, -EBUSY, "output is held already");
	case WH_NETPLUG_BROKEN:
	case WH_NETPLUG_ORPHAN:
	case WH_NETPLUG_FENCED:
	case WH_NETPLUG_STATE_COUNT:
		break;
	}
	return err_set(err, -EBUSY,
		       "output is %s: it is to be fenced (the other side has the guest) or disarmed "
		       "(this one has it) first",
		       wh_netplug_state_name(gate->state));
}

static int not_held(const struct gate *gate, struct wh_err *err)
{
	return err_set(err, gate->state == WH_NETPLUG_IDLE ? -EINVAL : -EIO,
		       "output is not held but %s", wh_netplug_state_name(gate->state));
}

int gate_may_turn(const struct gate *gate, uint64_t epoch, struct wh_err *err)
{
	if (gate->state != WH_NETPLUG_HELD)
		return not_held(gate, err);
	if (epoch != gate->open)
		return err_set(err, -EINVAL,
			       "epoch %" PRIu64 " cannot be closed: %" PRIu64 " is open", epoch,
			       gate->open);
	if (gate->open == UINT64_MAX)
		return err_set(err, -EOVERFLOW, "there is no epoch behind %" PRIu64, epoch);
	if (gate->closed_most && gate->open - 1 - gate->released >= gate->closed_most)
		return err_set(err, -EBUSY,
			       "epoch %" PRIu64 " cannot be closed: %" PRIu64
			       " waits for its release, and one at a time is all that can wait",
			       epoch, gate->released + 1);
	return 0;
}

enum gate_answer gate_may_release(const struct gate *gate, uint64_t epoch, struct wh_err *err)
{
	if (gate->state != WH_NETPLUG_HELD) {
		not_held(gate, err);
		return GATE_NO;
	}
	if (epoch >= gate->open || !epoch) {
		err_set(err, -EINVAL,
			"epoch %" PRIu64 " cannot be released: %" PRIu64 " is the last closed one",
			epoch, gate->open - 1);
		return GATE_NO;
	}
	return epoch <= gate->released ? GATE_BEFORE : GATE_YES;
}

void gate_armed(struct gate *gate)
{
	gate_move(gate, WH_NETPLUG_HELD);
	gate->open = 1;
	gate->released = 0;
}

void gate_turned(struct gate *gate)
{
	gate->open++;
}

void gate_released(struct gate *gate, uint64_t epoch)
{
	assert(epoch < gate->open && epoch > gate->released);
	gate->released = epoch;
}
