/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_SOURCE_INTERNAL_H
#define CHECKPOINT_SOURCE_INTERNAL_H

#include "checkpoint/source.h"

/* For source.c, which decides, and source_message.c, which listens */

void cp_source_to(struct cp_source *source, enum cp_source_state to);
/* The one place that stops and resumes the guest */
void cp_source_settle_guest(struct cp_source *source);
/* What could not be done to what is held is tried again */
void cp_source_settle_hold(struct cp_source *source);
void cp_source_end_fenced(struct cp_source *source);
void cp_source_end_released(struct cp_source *source);
void cp_source_say(struct cp_source *source, enum cp_kind kind, uint64_t epoch,
		   const struct cp_msg *msg);
/*
 * What goes in parts from here on, the guest running or, where that is wanted, standing still. Of
 * what was refused, after a while
 */
void cp_source_degrade(struct cp_source *source, const struct wh_err *why, enum cp_parts parts);
/* What is under way was refused */
void cp_source_send_again(struct cp_source *source);
/* In order: nothing is under way */
void cp_source_bye(struct cp_source *source);

static inline bool cp_source_has_ended(const struct cp_source *source)
{
	return cp_source_ended(source->state);
}

#endif /* CHECKPOINT_SOURCE_INTERNAL_H */
