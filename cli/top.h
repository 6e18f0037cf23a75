/* SPDX-License-Identifier: MIT */
#ifndef CLI_TOP_H
#define CLI_TOP_H

#include <stdbool.h>
#include <stdio.h>

struct json_object;

/*
 * What x-wherry-stats returns, for people: a view that begins where the last one did, or a
 * line, with a head above the first one.
 */
void top_view(FILE *out, struct json_object *info);
void top_line(FILE *out, struct json_object *info, bool with_head);

/* The same made of QEMU's query-migrate, as far as it goes; for json_object_put() */
struct json_object *top_of_qemu(struct json_object *info);

#endif /* CLI_TOP_H */
