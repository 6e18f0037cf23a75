/* SPDX-License-Identifier: MIT */
#ifndef UFFD_DIRTY_H
#define UFFD_DIRTY_H

#include "uffd/uffd.h"

/*
 * Which pages were written: WP_ASYNC and PAGEMAP_SCAN (Linux 6.7). No messages,
 * no handler; every first write to a page after a scan costs one fault in the
 * kernel. Sees writes through this process's page tables (vCPUs, threads, the
 * kernel on their behalf), not those of devices or other processes. Nor does it
 * see that a page of a file is dropped (balloon, MADV_REMOVE): whoever dropped it
 * does not rely on what it holds.
 */
struct dirty_log {
	struct uffd uffd;
	int pagemap;
	const struct region *regions;
	unsigned count;
};

/**
 * dirty_log_open() - Start watching: what is written from here on is in the first scan
 * @regions:	Must stay until dirty_log_close(); nobody else may watch them
 *
 * No right is needed. A block may be of several mappings; its pages are protected at
 * their own size, so that with huge pages all of one is written.
 *
 * Return: 0; -EOPNOTSUPP before Linux 6.7; or a negative errno; with a sentence
 */
int dirty_log_open(struct dirty_log *log, const struct region *regions, unsigned count,
		   struct wh_err *err);
/**
 * dirty_log_scan() - Add the pages written since the last scan, and protect them again
 * @map:	Of 4096-byte pages; bits are set, none is cleared
 *
 * Get-and-clear is one step in the kernel: no write is lost between the two.
 *
 * Return: number of bits set that were not set before, or a negative errno
 */
int64_t dirty_log_scan(struct dirty_log *log, unsigned region, uint64_t *map, struct wh_err *err);
/* Nothing is watched any more; whatever was not scanned is lost */
void dirty_log_close(struct dirty_log *log);

#endif /* UFFD_DIRTY_H */
