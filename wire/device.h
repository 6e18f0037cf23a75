/* SPDX-License-Identifier: MIT */
#ifndef WIRE_DEVICE_H
#define WIRE_DEVICE_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <wherry/err.h>

/*
 * Device state: opaque, but its edges have to be found.
 */

/**
 * device_end() - Find the end of the device state of a precopy stream
 * @buf:	All bytes behind ram's END section so far
 * @state:	Bytes of device state: the FULL sections, up to the EOF byte
 * @json:	Offset and @json_length of the description behind it
 *
 * Looks for EOF, VMDESCRIPTION, length and a whole JSON object of just that
 * length, with a section footer in front of the EOF byte (or nothing at all).
 *
 * Return: 1 found, 0 not yet, -EPROTO
 */
int device_end(const uint8_t *buf, size_t length, size_t *state, size_t *json, size_t *json_length,
	       struct wh_err *err);

/**
 * struct device_scan - device_end() for bytes that come in pieces
 *
 * All zeros at first. Each byte is looked at about once, however small the pieces.
 */
struct device_scan {
	/* private: */
	size_t at;	 /* everything in front of it was looked at */
	size_t eof;	 /* offset of the EOF byte of the description that is being read */
	uint64_t arrays; /* bit i: the bracket open at depth i is a [ */
	unsigned depth;
	uint8_t state;
};

/* @buf grows from call to call, what was in it stays. As device_end() otherwise */
int device_scan(struct device_scan *scan, const uint8_t *buf, size_t length, size_t *state,
		size_t *json, size_t *json_length, struct wh_err *err);

/*
 * Is it all, without a description: an EOF byte, and in front of it the footer of one of the
 * sections, or nothing? @state: bytes up to the EOF byte
 */
bool device_undescribed(const uint8_t *buf, size_t length, size_t *state);

#define PACKAGE_PINGS_MAX 8u

/**
 * struct package - A package's parts
 * @state:	Offset of the device state, behind LISTEN
 * @state_length: May be 0
 * @ping:	Values to be answered, in order, between loading and RUN
 */
struct package {
	size_t state;
	size_t state_length;
	unsigned pings;
	uint32_t ping[PACKAGE_PINGS_MAX];
};

/* Return: 0, or -EPROTO with a sentence */
int package_get(const uint8_t *buf, size_t length, struct package *package, struct wh_err *err);

/*
 * A device state that is no QEMU's: one FULL section named "wherry/vmm", be32
 * length and the bytes. device_own() tells it from QEMU's sections and returns
 * where the bytes are: 1 ours, 0 not ours, -EPROTO ours and broken.
 */
#define DEVICE_OWN_NAME "wherry/vmm"
#define DEVICE_OWN_FRAME 64u /* bytes device_put_own_*() write at most, each */
size_t device_put_own_head(uint8_t *buf, uint32_t id, uint32_t length);
size_t device_put_own_tail(uint8_t *buf, uint32_t id);
int device_own(const uint8_t *buf, size_t length, size_t *at, size_t *own_length,
	       struct wh_err *err);
/* The description that goes with it; room for 256 bytes. Return: its length */
size_t device_put_own_vmdesc(uint8_t *buf, uint32_t length);

#endif /* WIRE_DEVICE_H */
