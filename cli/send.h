/* SPDX-License-Identifier: MIT */
#ifndef CLI_SEND_H
#define CLI_SEND_H

#include "cli/parked.h"

/*
 * The source of a guest that runs nowhere: of wherry send, and of wherry relay.
 */

#define SEND_PAGE_SIZES 16u

/**
 * struct send - One run of the command
 *
 * Callbacks run on a thread of the library, the main thread waits and shows.
 *
 * @switched:	It came to postcopy
 * @page_size:	Of the destination's blocks, where the parked VM says something else
 */
struct send {
	struct parked parked;
	struct wh_migration *migration;
	const char *from;
	const char *uri;
	bool postcopy;
	bool verify;
	bool mapped_ram; /* into a file */
	bool force;	 /* one that is there */
	bool json;
	bool quiet;
	bool switched;
	struct {
		const char *block;
		uint64_t bytes;
	} page_size[SEND_PAGE_SIZES];
	unsigned page_sizes;
	const struct wh_stats *written; /* to a file, once that is done */
	uint64_t recover_ns;
	uint64_t begin_ns;
	uint64_t shown_ns;
	uint64_t broken_ns; /* since when it is paused, 0: it is not */
};

/* send_options.c. Return: 0, -1 help was asked for and is there, or EXIT_USAGE */
int send_options(struct send *send, struct wh_config *config, int argc, char **argv);

/* The opaque is the struct send. Callbacks of its migration */
extern const struct wh_callbacks send_callbacks;

/* Returns 0 or EXIT_USAGE */
int send_urgent(const char *name, const char *text, enum wh_urgent *urgent);

/* --multifd, --multifd-compression, --multifd-level and --multifd-sync, in this order */
enum send_multifd {
	SEND_MULTIFD,
	SEND_MULTIFD_METHOD,
	SEND_MULTIFD_LEVEL,
	SEND_MULTIFD_SYNC,
};

int send_multifd(const char *name, enum send_multifd option, const char *text,
		 struct wh_config *config);

/* Connects: of send.parked blocks, machine and device state count. Return: 0 or a negative errno */
int send_start(struct send *send, struct wh_config *config, struct wh_err *err);
/* A turn of 100 ms at most. Return: 1 it goes on, 0 all of it is there, or a negative errno */
int send_step(struct send *send, struct wh_err *err);
/* send_file.c: URI is a file */
int send_file(struct send *send, const char *machine, bool (*stop)(void *opaque),
	      struct wh_err *err);
void send_summary(const struct send *send, int ret);

#endif /* CLI_SEND_H */
