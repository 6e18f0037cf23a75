/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_DEST_INTERNAL_H
#define CHECKPOINT_DEST_INTERNAL_H

#include "checkpoint/dest.h"

/* For dest.c, which decides, and dest_message.c, which listens */

void cp_dest_to(struct cp_dest *dest, enum cp_dest_state to);
/* A link that does not take it is noticed by whoever reads from it, too */
int cp_dest_say(struct cp_dest *dest, enum cp_kind kind, uint64_t epoch, const struct cp_msg *msg,
		struct wh_err *err);
/* What is on its way is dropped */
void cp_dest_forget(struct cp_dest *dest);
/* Nothing to run from, or not to be run: an end */
void cp_dest_end(struct cp_dest *dest);
/* NACK: the checkpoint on its way cannot be had, and the rest of it is passed over */
int cp_dest_refuse(struct cp_dest *dest, const struct wh_err *why, struct wh_err *err);

#endif /* CHECKPOINT_DEST_INTERNAL_H */
