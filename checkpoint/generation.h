/* SPDX-License-Identifier: MIT */
#ifndef CHECKPOINT_GENERATION_H
#define CHECKPOINT_GENERATION_H

#include <stdint.h>
#include <wherry/err.h>

/*
 * The number of the last session, or of the last takeover, in a file that outlives us: what tells
 * a source that has lost its guest from the one that has it. A line of text, in decimal.
 */

/* Return: 0 and *@generation, 0 if there is no file yet; or a negative errno and a sentence */
int generation_read(const char *path, uint64_t *generation, struct wh_err *err);

/**
 * generation_write() - Make it lasting
 *
 * Whenever the power goes there is the old number or the new one, and once 0 is returned it is the
 * new one.
 *
 * Return: 0, or a negative errno and a sentence; which of the two it is, is not known then
 */
int generation_write(const char *path, uint64_t generation, struct wh_err *err);

#endif /* CHECKPOINT_GENERATION_H */
