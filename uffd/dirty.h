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
	bool waits; /* dirty_log_open_waiting() */
	bool still; /* for its user to set: see there */
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
 * dirty_log_open_waiting() - The same, and whoever writes to a page first waits until he is let
 *
 * Somebody has to read log->uffd (uffd_read()) and answer each fault with dirty_log_let(), on a
 * thread that writes to none of these pages. It takes the right to see the kernel's faults, since a
 * vCPU's are. What one process does to memory that it shares with another is seen in its own only.
 *
 * To protect pages one by one takes longer than to copy them. While nobody writes and nobody is let
 * (log->still) it may be done with those between them, which is half of the time or less.
 *
 * Return: 0; -EOPNOTSUPP before Linux 6.7; or a negative errno; with a sentence
 */
int dirty_log_open_waiting(struct dirty_log *log, const struct region *regions, unsigned count,
			   struct wh_err *err);
/**
 * dirty_log_scan() - Add the pages written since the last scan, and protect them again
 * @map:	Of 4096-byte pages; bits are set, none is cleared
 *
 * Get-and-clear is one step in the kernel: no write is lost between the two. Where writers wait it
 * is two, and what is written between them is what the scan has told of.
 *
 * Return: number of bits set that were not set before, or a negative errno
 */
int64_t dirty_log_scan(struct dirty_log *log, unsigned region, uint64_t *map, struct wh_err *err);
/**
 * dirty_log_let() - Whoever waits to write there may, and the next scan has these pages
 * @at, @length: Whole pages of the host, of one region
 *
 * Any thread. With another one in dirty_log_scan() they may be waited for at once again.
 */
int dirty_log_let(struct dirty_log *log, void *at, uint64_t length, struct wh_err *err);
/* Nothing is watched any more, nobody waits; whatever was not scanned is lost */
void dirty_log_close(struct dirty_log *log);

#endif /* UFFD_DIRTY_H */
