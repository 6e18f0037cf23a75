/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_MEMORY_H
#define CLI_DRILL_MEMORY_H

#include <stdint.h>

/**
 * drill_memory_guard() - From here on pages may fail to be placed
 * @error:	Atomic; as long as it is an errno this is what placing fails with
 * @refused:	Atomic, counts
 *
 * For this thread and those that it makes from now on; once in a process, for good.
 *
 * Return: 0 or a negative errno, and nothing will fail
 */
int drill_memory_guard(const uint32_t *error, uint32_t *refused);

#endif /* CLI_DRILL_MEMORY_H */
