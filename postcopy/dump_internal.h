/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_DUMP_INTERNAL_H
#define POSTCOPY_DUMP_INTERNAL_H

#include "wire/device.h"
#include "wire/mapped_ram.h"
#include "wire/mc.h"
#include "wire/multifd.h"
#include "wire/return_path.h"
#include "wire/stream.h"

#include <stdbool.h>
#include <wherry/dump.h>

/* The state of a dump, for dump*.c, which take bytes, and dump_text.c, which makes messages */

struct bytes {
	uint8_t *at;
	size_t length;
	size_t room;
};

/* Neighbouring pages of one kind that are one line */
struct run {
	uint64_t offset; /* of the first one in the stream */
	uint64_t start;
	uint64_t pages; /* 0: there is none */
	unsigned block;
	enum ram_record record;
};

struct wh_dump {
	enum wh_dump_kind kind;
	bool pages;
	void (*message)(void *opaque, const struct wh_dump_message *message);
	void *opaque;
	struct bytes buffer;  /* not taken yet */
	uint64_t offset;      /* of its first byte */
	uint64_t begin;	      /* of the message that is being taken */
	struct wh_err failed; /* said again by every later call */
	struct run run;

	struct stream_in stream; /* its list serves the urgent channel too */
	struct ram_in urgent;
	bool begun;

	struct bytes kept;    /* package, or device state to the end of the connection */
	uint64_t kept_offset; /* of its first byte */
	struct device_scan scan;
	bool described; /* device state and description are complete */

	bool bitmap; /* of the return path: a bitmap follows */

	uint32_t contents; /* of a packet of multifd: so many bytes are still to come */

	struct mc_in mc;

	bool mapping;	 /* the list of blocks of a mapped-ram file */
	bool inside;	 /* behind a line of it, of: */
	uint64_t region; /* the next byte of the file */
	struct mapped_in mapped;
	struct mapped_block block;
};

/* dump.c: more bytes that belong together */
int dump_keep(struct bytes *bytes, const uint8_t *more, size_t length, struct wh_err *err);

/* dump_mapped.c: instead of the decoder of the stream, as long as dump->mapping */
void dump_mapped_begin(struct wh_dump *dump);
int dump_mapped_take(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		     struct wh_err *err);

/* dump_multifd.c */
int dump_multifd_take(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		      struct wh_err *err);

/* dump_mc.c */
int dump_mc_take(struct wh_dump *dump, const uint8_t *at, size_t left, size_t *used,
		 struct wh_err *err);

#define DUMP_FIELDS_MAX 8u
#define DUMP_LINE_MAX 1024u

/* A message in the making */
struct dump_message {
	const char *kind;
	unsigned fields;
	struct wh_dump_field field[DUMP_FIELDS_MAX];
};

void dump_number(struct dump_message *message, const char *name, enum wh_dump_form form,
		 uint64_t number);
void dump_text(struct dump_message *message, const char *name, const char *text);
/* As text, with its end */
void dump_uuid(char text[37], const uint8_t uuid[16]);
/* With the line that shows it */
void dump_say(struct wh_dump *dump, uint64_t offset, const struct dump_message *message,
	      const char *format, ...) __attribute__((format(printf, 4, 5)));
/* One without fields; the line is its kind */
void dump_say_kind(struct wh_dump *dump, uint64_t offset, const char *kind);
void dump_run_end(struct wh_dump *dump);
void dump_say_ram(struct wh_dump *dump, const struct ram_event *event);
void dump_say_event(struct wh_dump *dump, const struct stream_event *event);
void dump_say_message(struct wh_dump *dump, const struct rp_msg *msg);
void dump_say_state(struct wh_dump *dump, uint64_t offset, const char *indent, const uint8_t *state,
		    size_t length);
void dump_say_description(struct wh_dump *dump, uint64_t offset, uint64_t bytes);
void dump_say_bitmap(struct wh_dump *dump, uint64_t bytes, uint64_t pages);
void dump_say_break(struct wh_dump *dump, uint64_t end);
void dump_say_package(struct wh_dump *dump, const struct package *package);

#endif /* POSTCOPY_DUMP_INTERNAL_H */
