/* SPDX-License-Identifier: MIT */
/*
 * What the destination says: may it come now, is it right, what follows.
 */
#include "checkpoint/source_internal.h"

#include "base/err.h"

#include <errno.h>

/*
 * The interval is from one stop to the next, whatever the stop and the answer take of it. What was
 * late was late once: the next one is due as if it had been in time, unless a whole interval
 * was missed. But a guest runs for as long as it stood still, whatever the interval.
 */
static uint64_t next_stop(struct cp_source *source)
{
	uint64_t stop_ns = source->figures.stop_ns, due_ns = source->stop_due_ns;
	uint64_t interval_ns =
		cp_pace_next(&source->pace, source->ran_ns, stop_ns, source->figures.ack_ns);
	uint64_t least_ns = source->resumed_ns + stop_ns;

	if (source->stopped_ns - due_ns >= interval_ns)
		due_ns = source->stopped_ns;
	due_ns += interval_ns;
	source->idle_ns = source->pace.idle_ns - interval_ns;
	return due_ns > least_ns ? due_ns : least_ns;
}

static void acknowledged(struct cp_source *source)
{
	source->figures.checkpoints++;
	source->figures.ack_ns = source->now_ns - source->resumed_ns;
	source->figures.acked_at_ns = source->now_ns;
	source->release_due = source->epoch++;
	source->closed = source->degraded = false;
	cp_source_to(source, CP_SOURCE_RUN);
	cp_source_settle_hold(source);
	source->stop_due_ns = source->full ? source->now_ns : next_stop(source);
	if (source->leave)
		cp_source_bye(source);
}

static int check_message(const struct cp_source *source, const struct cp_header *header,
			 struct wh_err *err)
{
	const char *name = cp_name(header->kind);
	bool notice = header->kind == CP_TAKEOVER_NOTICE;

	if (notice ? header->generation <= source->set.generation :
		     header->generation != source->set.generation)
		return err_set(err, -EPROTO, "checkpoint: %s of generation %llu, in %llu", name,
			       (unsigned long long)header->generation,
			       (unsigned long long)source->set.generation);
	if (!cp_source_accepts(source->state, header->kind) ||
	    (header->kind == CP_NACK && source->committed && !source->degraded &&
	     (source->state == CP_SOURCE_STOP || source->state == CP_SOURCE_STAGE)))
		return err_set(err, -EPROTO, "checkpoint: %s while in %s", name,
			       cp_source_state_name(source->state));
	if ((header->kind == CP_ACK || header->kind == CP_NACK) && header->epoch != source->epoch)
		return err_set(err, -EPROTO, "checkpoint: %s of epoch %llu, not %llu", name,
			       (unsigned long long)header->epoch,
			       (unsigned long long)source->epoch);
	return 0;
}

/* By name what this end may not hear at all, so that the compiler sees a kind forgotten */
static void hear(struct cp_source *source, const struct cp_header *header, const struct cp_msg *msg)
{
	switch (header->kind) {
	case CP_READY:
		source->answer_due_ns = UINT64_MAX;
		source->set.features &= msg->ready.features;
		source->ops->sync(source->world, CP_PARTS_ALL);
		break;
	case CP_ACK:
		acknowledged(source);
		break;
	case CP_NACK:
		if (source->state == CP_SOURCE_LEAVING)
			break;
		err_set(&source->why, -EREMOTEIO, "%s", msg->nack.reason.text);
		/* what is being done now comes to its end first */
		if (source->state == CP_SOURCE_WAIT_ACK || source->state == CP_SOURCE_DEGRADED)
			cp_source_send_again(source);
		else if (source->state == CP_SOURCE_SEND || source->degraded)
			source->refused = true;
		else
			cp_source_lost(source, &source->why, source->now_ns);
		break;
	case CP_BYE_ACK:
		cp_source_end_released(source);
		break;
	case CP_TAKEOVER_NOTICE:
		if (!cp_source_has_ended(source)) {
			err_set(&source->why, -ESTALE, "the guest runs at the other side");
			cp_source_end_fenced(source);
		}
		break;
	case CP_HEARTBEAT:
	case CP_HELLO:
	case CP_BLOCK:
	case CP_BEGIN:
	case CP_META:
	case CP_PAGES:
	case CP_DEVICE:
	case CP_COMMIT:
	case CP_DEGRADE:
	case CP_BYE:
	case CP_KIND_COUNT:
		break;
	}
}

int cp_source_message(struct cp_source *source, const struct cp_header *header,
		      const struct cp_msg *msg, uint64_t now_ns, struct wh_err *err)
{
	int ret = check_message(source, header, err);

	if (ret < 0)
		return ret;
	source->now_ns = source->heard_ns = now_ns;
	hear(source, header, msg);
	return 0;
}
