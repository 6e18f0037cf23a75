/* SPDX-License-Identifier: MIT */
#ifndef LIB_TEE_H
#define LIB_TEE_H

#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * A thread between the two ends of a migration, over unix sockets: forwards every
 * connection and keeps all that goes through.
 */

#define TEE_CONNECTIONS_MAX 4u

struct tee;

/**
 * struct tee_record - One connection, in the order they came
 * @there:	All bytes from the source to the destination
 * @back:	And the other way
 */
struct tee_record {
	uint8_t *there;
	size_t there_length;
	uint8_t *back;
	size_t back_length;
};

/* Listens at @path when it returns; connects to @to for each connection */
int tee_start(struct tee **made, const char *path, const char *to, struct wh_err *err);

/**
 * tee_stop() - Break what is still open, and say what went through
 *
 * Return: number of connections; the records are valid until tee_free()
 */
unsigned tee_stop(struct tee *tee, const struct tee_record **records);
void tee_free(struct tee *tee);

#endif /* LIB_TEE_H */
