/* SPDX-License-Identifier: MIT */
#ifndef CLI_DRILL_FILES_H
#define CLI_DRILL_FILES_H

#include "cli/drill.h"

/**
 * struct drill_files - What memory lies in; -1 where the ends have something of their own
 * @huge:	Huge pages, which the plan wants and the pool has
 * @room:	The destination's file system, if there is one
 * @ballast:	What fills it
 */
struct drill_files {
	bool huge;
	int fd[DRILL_SIDES][DRILL_BLOCKS];
	int room;
	int ballast;
};

/* Before the processes are made: all of it is theirs then, or nothing */
void drill_files_open(struct drill_files *files, const struct drill_plan *plan);
/* All but the ballast */
void drill_files_close(struct drill_files *files);
void drill_files_end(struct drill_files *files);

/* Return: there was room, and is none */
bool drill_files_fill(struct drill_files *files);
void drill_files_empty(struct drill_files *files);

#endif /* CLI_DRILL_FILES_H */
