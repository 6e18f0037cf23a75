/* SPDX-License-Identifier: MIT */
#ifndef WIRE_STREAM_H
#define WIRE_STREAM_H

#include "wire/command.h"
#include "wire/ram.h"

#define STREAM_MAGIC UINT32_C(0x5145564D)
#define STREAM_VERSION 3u
#define STREAM_RAM_VERSION 4u

enum section_type {
	SECTION_EOF = 0x00,
	SECTION_START = 0x01,
	SECTION_PART = 0x02,
	SECTION_END = 0x03,
	SECTION_FULL = 0x04,
	SECTION_SUBSECTION = 0x05,
	SECTION_VMDESCRIPTION = 0x06,
	SECTION_CONFIGURATION = 0x07,
	SECTION_COMMAND = 0x08,
	SECTION_FOOTER = 0x7e,
};

/**
 * enum stream_kind - What the decoder of the main channel has found
 *
 * STREAM_DEVICE and STREAM_PACKAGE are bytes carried, not understood: they come
 * in pieces, each where the caller had it, and the pieces in a row are the whole.
 */
enum stream_kind {
	STREAM_HEADER,	   /* number: version */
	STREAM_MACHINE,	   /* name: machine type of the configuration section */
	STREAM_CAPABILITY, /* name: one that must be equal on both sides */
	STREAM_PAGE_BITS,  /* number: 12, others are refused */
	STREAM_UUID,	   /* data: 16 bytes */
	STREAM_COMMAND,	   /* command */
	STREAM_SECTION,	   /* section type, number: id; name for START */
	STREAM_RAM,	   /* ram */
	STREAM_FOOTER,	   /* section: type of the section it ends, number: id */
	STREAM_PACKAGE,	   /* data: next bytes of a package; last */
	STREAM_DEVICE,	   /* data: next bytes of device state, of unknown length */
	STREAM_EOF,	   /* EOF directly behind ram's END: the end of a postcopy stream, or a
			    * precopy without any device; data: the byte itself, what follows
			    * is STREAM_DEVICE */
};

/* Members that a kind does not name keep their old values. */
struct stream_event {
	enum stream_kind kind;
	enum section_type section;
	uint64_t number;
	struct wire_name name;
	struct cmd_msg command;
	struct ram_event ram;
	const uint8_t *data;
	size_t data_length;
	bool last;
};

/**
 * struct stream_in - Decoder of the main channel
 *
 * Bytes in, events out; no I/O, no allocation, no copy of contents. It stops
 * understanding at the first FULL section behind ram's END: from there on all
 * bytes are STREAM_DEVICE, and device_end() (wire/device.h) finds where they stop.
 */
struct stream_in {
	size_t need;	 /* contiguous bytes of the next unit */
	uint64_t offset; /* of the next byte, from the first of the connection */
	struct ram_in ram;
	struct ram_blocks blocks;
	uint32_t ram_id; /* section id of ram, behind the list of its blocks */
	bool mapped_ram; /* the body of ram's START is for wire/mapped_ram.h */
	/* private: */
	uint32_t package_left;
	uint32_t capabilities_left;
	uint8_t step;
	uint8_t section;
	uint8_t subsections;
	bool have_ram;
	bool ram_ended;
	bool ignore_shared;
	bool learn;
	bool file;
};

/* resumed: the connection goes on with a migration; neither header nor configuration */
void stream_in_init(struct stream_in *in, bool resumed);

/*
 * A new connection goes on with this migration: the block list and the section id of
 * ram stay, all that is of the old connection is forgotten.
 */
void stream_in_resume(struct stream_in *in);

/*
 * The same where another decoder has seen what went before, of which this is the list and
 * the section id.
 */
void stream_in_adopt(struct stream_in *in, const struct ram_blocks *blocks, uint32_t ram_id);

/*
 * After stream_in_init(in, true): what went before was not seen, take section id and
 * block names as they come (ram_in_learn()). Only for printing.
 */
void stream_in_learn(struct stream_in *in);

/*
 * After stream_in_init(in, false): it is read from a file, where it begins at @offset. Then
 * there may be mapped-ram: behind STREAM_SECTION of START the body is not for this decoder.
 * Whoever has taken it, into in->blocks, says where in the file it goes on.
 */
void stream_in_file(struct stream_in *in, uint64_t offset);
void stream_in_listed(struct stream_in *in, uint64_t offset);

/**
 * stream_in_next() - Take bytes until there is an event
 * @used:	Bytes taken from the front of @buf; also on 0
 *
 * Pure. Sentences name the offset in the stream and the section. Sections other than
 * ram are refused in front of its END: their bodies have no length, so they can be
 * neither understood nor skipped.
 *
 * Return: 1 and *@event (pointers in it lead into @buf); 0: call again with at
 * least in->need contiguous bytes; -EPROTO with a sentence
 */
int stream_in_next(struct stream_in *in, const uint8_t *buf, size_t length, size_t *used,
		   struct stream_event *event, struct wh_err *err);

/* What the next unit is, as far as it is one of ram's; else RAM_IN_AT_OTHER */
enum ram_in_at stream_in_at(const struct stream_in *in);

/* Puts in front of a sentence at which byte, and in what, the stream is */
void stream_in_where(const struct stream_in *in, struct wh_err *err);

/* in->need never gets larger than this: a buffer of that size is always enough */
#define STREAM_NEED_MAX 65600u

/* Writers; each returns the bytes written. */
#define STREAM_PUT_MAX 320u /* of any of them */
size_t stream_put_header(uint8_t *buf);
size_t stream_put_config(uint8_t *buf, const struct wire_name *machine);
/* Behind the configuration, if it has none but this one */
size_t stream_put_capability(uint8_t *buf, const struct wire_name *capability);
size_t stream_put_start(uint8_t *buf, enum section_type start_or_full, uint32_t id,
			const struct wire_name *name, uint32_t instance, uint32_t version);
size_t stream_put_part(uint8_t *buf, enum section_type part_or_end, uint32_t id);
size_t stream_put_footer(uint8_t *buf, uint32_t id);
size_t stream_put_eof(uint8_t *buf);
size_t stream_put_vmdesc(uint8_t *buf, uint32_t length); /* the JSON follows */

const char *section_name(enum section_type type);

#endif /* WIRE_STREAM_H */
