/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_CHECK_H
#define WHERRY_CHECK_H

#include <stdbool.h>

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/**
 * struct wh_check_item - One thing this machine has or has not
 * @area:	"userfaultfd", "io_uring", "memory", "kvm", "rdma", "netplug"
 * @name:	"descriptor", "WP_ASYNC", "hugetlb 2M", ...
 * @present:	It was tried, and works
 * @needed:	Nothing migrates without it
 * @detail:	What was found: a route, a number, an error
 * @remedy:	The command that gives it; "" if it is there or none does
 */
struct wh_check_item {
	const char *area;
	const char *name;
	bool present;
	bool needed;
	const char *detail;
	const char *remedy;
};

/**
 * wh_check() - Try what this machine can do
 * @item:	Called for each, in order; strings are valid until it returns
 *
 * Changes nothing on the machine.
 *
 * Return: number of needed things that are missing
 */
int wh_check(void (*item)(void *opaque, const struct wh_check_item *item), void *opaque);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_CHECK_H */
