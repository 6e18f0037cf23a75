/* SPDX-License-Identifier: MIT */
#ifndef CLI_METRICS_H
#define CLI_METRICS_H

#include <stdio.h>

struct json_object;

/**
 * metrics_print() - Figures of a migration as OpenMetrics text
 * @info:	What x-wherry-stats returns; what is not in it is left out
 */
void metrics_print(FILE *out, struct json_object *info);

#endif /* CLI_METRICS_H */
