/* SPDX-License-Identifier: MIT */
#ifndef LIB_REPLAY_H
#define LIB_REPLAY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

#include "selftests/lib/receiver.h"

#define REPLAY_WAIT_MS 30000

/**
 * struct replay - A wherry receive, and a test that plays its source
 * @dir:	Of this test alone
 * @out:	Where the capture goes
 * @socket:	Where it listens
 */
struct replay {
	char dir[64];
	char out[80];
	char socket[80];
	char listen[96];
	struct receiver receiver;
};

int replay_open(struct replay *replay, struct wh_err *err);
void replay_close(struct replay *replay);
/* A folder and all in it */
void replay_drop(const char *path);

int replay_start(struct replay *replay, const char *const options[], struct wh_err *err);

/* Return: a connected socket */
int replay_dial(const struct replay *replay, struct wh_err *err);
/* As much as it takes: it may have heard enough */
void replay_say(int fd, const uint8_t *bytes, size_t length);
/* All that it answers until it closes. Return: of a SHUT at the end its value, else -1 */
int replay_hear_shut(int fd);

/* A recorded stream, selftests/vectors/qemu-7.2/NAME */
int replay_read(const char *name, struct image *image, struct wh_err *err);

/**
 * replay_all() - Start one, give it a whole recorded migration, wait for it
 * @name:	Without suffix
 *
 * Return: 0; -ECONNABORTED if it answers that it failed; otherwise as receiver_wait()
 */
int replay_all(struct replay *replay, const char *name, const char *const options[],
	       struct wh_err *err);

/* It has said one sentence, and this is in it */
int replay_check_sentence(const struct replay *replay, const char *because, struct wh_err *err);
/* The same, exit status 1, and no capture; it is gone afterwards */
int replay_check_refused(struct replay *replay, const char *because, struct wh_err *err);

#endif /* LIB_REPLAY_H */
