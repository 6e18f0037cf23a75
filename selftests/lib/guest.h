/* SPDX-License-Identifier: MIT */
#ifndef LIB_GUEST_H
#define LIB_GUEST_H

#include <stdbool.h>
#include <stdint.h>
#include <wherry/err.h>

/**
 * struct guest_range - What the guest of selftests/interop/guest.S does
 * @first:	Address of the first page that it steps
 * @end:	Behind the last one
 * @pause:	Turns of an empty loop behind each page
 */
struct guest_range {
	uint32_t first;
	uint32_t end;
	uint32_t pause;
};

/* A firmware for -bios: the guest runs at once */
int guest_write_rom(const char *path, const struct guest_range *range, struct wh_err *err);
/* A disk that QEMU's own firmware boots */
int guest_write_disk(const char *path, const struct guest_range *range, struct wh_err *err);

/**
 * guest_wait() - Until it has been through all its pages a few times
 * @serial:	File that its serial port goes to
 *
 * Return: 0, or -ETIMEDOUT
 */
int guest_wait(const char *serial, int timeout_ms, struct wh_err *err);

/* Has it found a page that it did not leave so? Return: 0 or -EILSEQ */
int guest_check_serial(const char *serial, struct wh_err *err);

/**
 * guest_check() - Can a guest that was never disturbed have left its memory so?
 * @ram:	From address 0 on
 *
 * Return: 0; or -EILSEQ and the first page that cannot be
 */
int guest_check(const uint8_t *ram, const struct guest_range *range, struct wh_err *err);

#endif /* LIB_GUEST_H */
