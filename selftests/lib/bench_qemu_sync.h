/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_QEMU_SYNC_H
#define LIB_BENCH_QEMU_SYNC_H

#include <stdint.h>
#include <wherry/err.h>

/**
 * bench_qemu_sync() - How long QEMU takes to read its log of writes once
 * @bytes:	of RAM
 * @every:	such page is written before it is read; 0: none
 * @ms:		from its trace points migration_bitmap_sync_start to _end
 *
 * A QEMU of its own each time: one that has been moved cannot be moved again. What is
 * written is written by the qtest protocol, since there is no guest; so the log is the one that
 * QEMU keeps itself, as with TCG, and no ioctl of KVM is in the figure.
 *
 * Return: 0, or a negative errno with a sentence
 */
int bench_qemu_sync(uint64_t bytes, unsigned every, double *ms, struct wh_err *err);

#endif /* LIB_BENCH_QEMU_SYNC_H */
