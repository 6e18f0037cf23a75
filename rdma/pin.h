/* SPDX-License-Identifier: MIT */
#ifndef RDMA_PIN_H
#define RDMA_PIN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

struct ibv_mr;
struct ibv_pd;

/**
 * vpin() - Register memory as a whole
 * @theirs:	The peer may write into it; otherwise it is only read, by this machine's device
 * @mr:		For vunpin()
 * @key:	The peer's, or ours
 *
 * Return: 0, or a negative errno and a sentence
 */
int vpin(struct ibv_pd *pd, uint8_t *at, size_t bytes, bool theirs, struct ibv_mr **mr,
	 uint32_t *key, struct wh_err *err);
/* NULL is fine */
void vunpin(struct ibv_mr *mr);

#endif /* RDMA_PIN_H */
