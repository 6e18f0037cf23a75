/* SPDX-License-Identifier: MIT */
#include "wire/stream.h"

#include "base/bytes.h"
#include "base/err.h"
#include "wire/mapped_ram.h"

#include <errno.h>
#include <string.h>

#define TARGET_PAGE_BITS 12u
#define CAPABILITIES_MAX 64u
#define UUID_BYTES 16u

#define TLS_HANDSHAKE 0x1603u /* a record's type, and its version's first byte */

/* A unit each, but for STEP_RAM, which is a decoder of its own. */
enum step {
	STEP_HEADER,	 /* magic and version */
	STEP_CONFIG,	 /* the configuration section, if there is one */
	STEP_SUBSECTION, /* of it: type, name, version; or something else */
	STEP_PAGE_BITS,
	STEP_CAPABILITIES, /* how many */
	STEP_CAPABILITY,
	STEP_UUID,
	STEP_SECTION, /* a command, or the header of a section */
	STEP_RAM,
	STEP_FOOTER,
	STEP_PACKAGE,
	STEP_DEVICE, /* everything, to the end of the connection */
	STEP_COUNT
};

/* What a step returns besides 1 and a negative errno */
#define GO_ON 2
#define MORE 0

/* Bytes at hand, not taken yet */
struct input {
	const uint8_t *at;
	size_t left;
};

static const uint8_t *take(struct input *input, size_t length)
{
	const uint8_t *at = input->at;

	input->at += length;
	input->left -= length;
	return at;
}

static int enter(struct stream_in *in, enum step step, size_t need)
{
	in->step = (uint8_t)step;
	in->need = need;
	return GO_ON;
}

static int more(struct stream_in *in, size_t need)
{
	in->need = need;
	return MORE;
}

static int found(struct stream_in *in, struct stream_event *event, enum stream_kind kind,
		 enum step next, size_t need)
{
	event->kind = kind;
	enter(in, next, need);
	return 1;
}

/* Header and configuration */

static int step_header(struct stream_in *in, struct input *input, struct stream_event *event,
		       struct wh_err *err)
{
	const uint8_t *at;

	if (input->left < 8)
		return MORE;
	at = input->at;
	if (get_be32(at) != STREAM_MAGIC)
		return err_set(err, -EPROTO, "magic 0x%08x, expected 0x%08x%s", get_be32(at),
			       STREAM_MAGIC,
			       get_be16(at) == TLS_HANDSHAKE ? " (it begins as TLS does)" : "");
	if (get_be32(at + 4) != STREAM_VERSION)
		return err_set(err, -EPROTO, "version %u, expected %u", get_be32(at + 4),
			       STREAM_VERSION);
	take(input, 8);
	event->number = STREAM_VERSION;
	return found(in, event, STREAM_HEADER, STEP_CONFIG, 1);
}

static int step_config(struct stream_in *in, struct input *input, struct stream_event *event,
		       struct wh_err *err)
{
	uint32_t length;
	int ret;

	if (input->left && input->at[0] != SECTION_CONFIGURATION)
		return enter(in, STEP_SECTION, 1);
	if (input->left < 5)
		return more(in, input->left ? 5 : 1);
	length = get_be32(input->at + 1);
	if (!length || length > 255)
		return err_set(err, -EPROTO, "machine type of %u bytes, expected 1 to 255", length);
	if (input->left < 5 + length)
		return more(in, 5 + length);
	ret = wire_name_get(&event->name, input->at + 5, (uint8_t)length, err);
	if (ret < 0)
		return ret;
	take(input, 5 + length);
	return found(in, event, STREAM_MACHINE, STEP_SUBSECTION, 1);
}

/* Of every name the terminator is compared too: our copies of names have one. */
static const struct {
	const char *name;
	size_t size;
	enum step step;
	size_t need;
} subsections[] = {
#define SUBSECTION(name, step, need)           \
	{                                      \
		name, sizeof(name), step, need \
	}
	SUBSECTION("configuration/target-page-bits", STEP_PAGE_BITS, 4),
	SUBSECTION("configuration/capabilities", STEP_CAPABILITIES, 4),
	SUBSECTION("configuration/uuid", STEP_UUID, UUID_BYTES),
#undef SUBSECTION
};

#define SUBSECTIONS (sizeof(subsections) / sizeof(subsections[0]))

static int begin_subsection(struct stream_in *in, const struct wire_name *name, uint32_t version,
			    struct wh_err *err)
{
	unsigned i;

	for (i = 0; i < SUBSECTIONS; i++)
		if (name->length + 1u == subsections[i].size &&
		    !memcmp(name->text, subsections[i].name, subsections[i].size))
			break;
	if (i == SUBSECTIONS)
		return err_set(err, -EPROTO, "unknown subsection %s of the configuration",
			       name->text);
	if (in->subsections & 1u << i)
		return err_set(err, -EPROTO, "subsection %s for the second time", name->text);
	if (version != 1)
		return err_set(err, -EPROTO, "subsection %s of version %u, expected 1", name->text,
			       version);
	in->subsections |= (uint8_t)(1u << i);
	return enter(in, subsections[i].step, subsections[i].need);
}

/* Only a look at the next byte tells whether there is another one. */
static int step_subsection(struct stream_in *in, struct input *input, struct stream_event *event,
			   struct wh_err *err)
{
	struct wire_name name;
	const uint8_t *at;
	size_t length;
	int ret;

	(void)event;
	if (input->left && input->at[0] != SECTION_SUBSECTION)
		return enter(in, STEP_SECTION, 1);
	if (input->left < 2)
		return more(in, input->left ? 2 : 1);
	length = 2u + input->at[1] + 4u;
	if (input->left < length)
		return more(in, length);
	at = input->at;
	ret = wire_name_get(&name, at + 2, at[1], err);
	if (ret < 0)
		return ret;
	take(input, length);
	return begin_subsection(in, &name, get_be32(at + length - 4), err);
}

static int step_page_bits(struct stream_in *in, struct input *input, struct stream_event *event,
			  struct wh_err *err)
{
	if (input->left < 4)
		return MORE;
	event->number = get_be32(input->at);
	if (event->number != TARGET_PAGE_BITS)
		return err_set(err, -EPROTO, "target pages of %u bits, expected %u",
			       (unsigned)event->number, TARGET_PAGE_BITS);
	take(input, 4);
	return found(in, event, STREAM_PAGE_BITS, STEP_SUBSECTION, 1);
}

static int step_capabilities(struct stream_in *in, struct input *input, struct stream_event *event,
			     struct wh_err *err)
{
	(void)event;
	if (input->left < 4)
		return MORE;
	in->capabilities_left = get_be32(input->at);
	if (in->capabilities_left > CAPABILITIES_MAX)
		return err_set(err, -EPROTO, "list of %u capabilities, expected at most %u",
			       in->capabilities_left, CAPABILITIES_MAX);
	take(input, 4);
	return enter(in, in->capabilities_left ? STEP_CAPABILITY : STEP_SUBSECTION, 1);
}

static int step_capability(struct stream_in *in, struct input *input, struct stream_event *event,
			   struct wh_err *err)
{
	static const char ignore_shared[] = "x-ignore-shared";
	const uint8_t *at = input->at;
	size_t length;
	int ret;

	if (!input->left)
		return more(in, 1);
	length = 1u + at[0];
	if (input->left < length)
		return more(in, length);
	ret = wire_name_get(&event->name, at + 1, at[0], err);
	if (ret < 0)
		return ret;
	take(input, length);
	if (!memcmp(event->name.text, ignore_shared, sizeof(ignore_shared)))
		in->ignore_shared = true;
	if (!memcmp(event->name.text, MAPPED_RAM_CAPABILITY, sizeof(MAPPED_RAM_CAPABILITY)))
		in->mapped_ram = true;
	if (in->mapped_ram && !in->file)
		return err_set(err, -EPROTO,
			       "capability " MAPPED_RAM_CAPABILITY ", which is for files only");
	in->capabilities_left--;
	return found(in, event, STREAM_CAPABILITY,
		     in->capabilities_left ? STEP_CAPABILITY : STEP_SUBSECTION, 1);
}

static int step_uuid(struct stream_in *in, struct input *input, struct stream_event *event,
		     struct wh_err *err)
{
	(void)err;
	if (input->left < UUID_BYTES)
		return MORE;
	event->data = take(input, UUID_BYTES);
	event->data_length = UUID_BYTES;
	return found(in, event, STREAM_UUID, STEP_SUBSECTION, 1);
}

/* Commands and sections */

static int take_command(struct stream_in *in, struct input *input, struct stream_event *event,
			struct wh_err *err)
{
	size_t used;
	int ret = cmd_get(input->at, input->left, &used, &event->command, err);

	if (ret < 0)
		return ret;
	if (!ret)
		return more(in, used);
	if (event->command.kind != CMD_PACKAGED) {
		take(input, used);
		return found(in, event, STREAM_COMMAND, STEP_SECTION, 1);
	}
	in->package_left = event->command.packaged.length;
	if (!in->package_left)
		return err_set(err, -EPROTO, "package of 0 bytes");
	take(input, used);
	return found(in, event, STREAM_COMMAND, STEP_PACKAGE, 1);
}

static int check_start(const struct stream_in *in, const struct stream_event *event,
		       uint32_t instance, uint32_t version, struct wh_err *err)
{
	if (event->section == SECTION_FULL)
		return err_set(err, -EPROTO,
			       "device state %s in front of the end of ram, as background-snapshot "
			       "sends it, which is not supported",
			       event->name.text);
	if (memcmp(event->name.text, "ram", sizeof("ram")))
		return err_set(err, -EPROTO, "live state %s, only that of ram can be carried",
			       event->name.text);
	if (in->have_ram)
		return err_set(err, -EPROTO, "ram for the second time");
	if (instance)
		return err_set(err, -EPROTO, "ram instance %u, expected 0", instance);
	if (version != STREAM_RAM_VERSION)
		return err_set(err, -EPROTO, "ram of version %u, expected %u", version,
			       STREAM_RAM_VERSION);
	if (in->ignore_shared)
		return err_set(err, -EPROTO,
			       "block list in the form of x-ignore-shared, which is not supported");
	return 0;
}

static int take_start(struct stream_in *in, struct input *input, struct stream_event *event,
		      struct wh_err *err)
{
	const uint8_t *at = input->at;
	size_t length;
	int ret;

	if (input->left < 6)
		return more(in, 6);
	length = 6u + at[5] + 8u;
	if (input->left < length)
		return more(in, length);
	ret = wire_name_get(&event->name, at + 6, at[5], err);
	if (ret < 0)
		return ret;
	event->section = (enum section_type)at[0];
	event->number = get_be32(at + 1);
	ret = check_start(in, event, get_be32(at + length - 8), get_be32(at + length - 4), err);
	if (ret < 0)
		return ret;
	take(input, length);
	in->have_ram = true;
	in->ram_id = (uint32_t)event->number;
	in->section = SECTION_START;
	return found(in, event, STREAM_SECTION, STEP_RAM, in->ram.need);
}

static int take_part(struct stream_in *in, struct input *input, struct stream_event *event,
		     struct wh_err *err)
{
	const uint8_t *at = input->at;

	if (input->left < 5)
		return more(in, 5);
	event->section = (enum section_type)at[0];
	event->number = get_be32(at + 1);
	if (in->learn && !in->have_ram) {
		in->have_ram = true;
		in->ram_id = (uint32_t)event->number;
	}
	if (!in->have_ram || event->number != in->ram_id)
		return err_set(err, -EPROTO, "section %s of id %u, which was not started",
			       section_name(event->section), (unsigned)event->number);
	if (in->ram_ended)
		return err_set(err, -EPROTO, "section %s of ram, id %u, behind its END",
			       section_name(event->section), (unsigned)event->number);
	take(input, 5);
	in->section = at[0];
	return found(in, event, STREAM_SECTION, STEP_RAM, in->ram.need);
}

static int take_eof(struct stream_in *in, struct input *input, struct stream_event *event,
		    struct wh_err *err)
{
	if (!in->ram_ended)
		return err_set(err, -EPROTO, "EOF in front of the end of ram");
	event->section = SECTION_EOF;
	event->data = take(input, 1);
	event->data_length = 1;
	return found(in, event, STREAM_EOF, STEP_DEVICE, 1);
}

static int step_section(struct stream_in *in, struct input *input, struct stream_event *event,
			struct wh_err *err)
{
	if (!input->left)
		return more(in, 1);
	switch (input->at[0]) {
	case SECTION_COMMAND:
		return take_command(in, input, event, err);
	case SECTION_PART:
	case SECTION_END:
		return take_part(in, input, event, err);
	case SECTION_START:
		return take_start(in, input, event, err);
	case SECTION_FULL:
		if (in->ram_ended)
			return enter(in, STEP_DEVICE, 1);
		return take_start(in, input, event, err);
	case SECTION_EOF:
		return take_eof(in, input, event, err);
	case SECTION_SUBSECTION:
	case SECTION_VMDESCRIPTION:
	case SECTION_CONFIGURATION:
	case SECTION_FOOTER:
		return err_set(err, -EPROTO, "section type %s out of place",
			       section_name((enum section_type)input->at[0]));
	default:
		return err_set(err, -EPROTO, "unknown section type 0x%02x", input->at[0]);
	}
}

static int step_ram(struct stream_in *in, struct input *input, struct stream_event *event,
		    struct wh_err *err)
{
	size_t used;
	int ret;

	ret = ram_in_next(&in->ram, &in->blocks, input->at, input->left, &used, &event->ram, err);
	take(input, used);
	if (ret < 0)
		return ret;
	if (!ret)
		return more(in, in->ram.need);
	if (event->ram.record != RAM_GOT_EOS)
		return found(in, event, STREAM_RAM, STEP_RAM, in->ram.need);
	if (in->section == SECTION_START && !in->ram.have_list)
		return err_set(err, -EPROTO, "START of ram ends without a block list");
	return found(in, event, STREAM_RAM, STEP_FOOTER, 5);
}

static int step_footer(struct stream_in *in, struct input *input, struct stream_event *event,
		       struct wh_err *err)
{
	const uint8_t *at;

	if (input->left < 5)
		return MORE;
	at = input->at;
	if (at[0] != SECTION_FOOTER)
		return err_set(err, -EPROTO, "byte 0x%02x, expected the footer of section %u",
			       at[0], in->ram_id);
	if (get_be32(at + 1) != in->ram_id)
		return err_set(err, -EPROTO, "footer of section %u, expected %u", get_be32(at + 1),
			       in->ram_id);
	take(input, 5);
	if (in->section == SECTION_END)
		in->ram_ended = true;
	event->section = (enum section_type)in->section;
	event->number = in->ram_id;
	return found(in, event, STREAM_FOOTER, STEP_SECTION, 1);
}

static int step_package(struct stream_in *in, struct input *input, struct stream_event *event,
			struct wh_err *err)
{
	size_t length = input->left < in->package_left ? input->left : in->package_left;

	(void)err;
	if (!length)
		return MORE;
	in->package_left -= (uint32_t)length;
	event->data = take(input, length);
	event->data_length = length;
	event->last = !in->package_left;
	return found(in, event, STREAM_PACKAGE, event->last ? STEP_SECTION : STEP_PACKAGE, 1);
}

static int step_device(struct stream_in *in, struct input *input, struct stream_event *event,
		       struct wh_err *err)
{
	size_t length = input->left;

	(void)err;
	if (!length)
		return MORE;
	event->data = take(input, length);
	event->data_length = length;
	return found(in, event, STREAM_DEVICE, STEP_DEVICE, 1);
}

/* Function of each step, and how a sentence calls the place it failed at */
static const struct {
	int (*take)(struct stream_in *in, struct input *input, struct stream_event *event,
		    struct wh_err *err);
	const char *where;
} steps[] = {
	[STEP_HEADER] = { step_header, "header" },
	[STEP_CONFIG] = { step_config, "configuration" },
	[STEP_SUBSECTION] = { step_subsection, "configuration" },
	[STEP_PAGE_BITS] = { step_page_bits, "configuration" },
	[STEP_CAPABILITIES] = { step_capabilities, "configuration" },
	[STEP_CAPABILITY] = { step_capability, "configuration" },
	[STEP_UUID] = { step_uuid, "configuration" },
	[STEP_SECTION] = { step_section, "between sections" },
	[STEP_RAM] = { step_ram, NULL },
	[STEP_FOOTER] = { step_footer, NULL },
	[STEP_PACKAGE] = { step_package, "package" },
	[STEP_DEVICE] = { step_device, "device state" },
};

_Static_assert(sizeof(steps) / sizeof(steps[0]) == STEP_COUNT, "a function a step");

enum ram_in_at stream_in_at(const struct stream_in *in)
{
	return in->step == STEP_RAM ? ram_in_at(&in->ram) : RAM_IN_AT_OTHER;
}

void stream_in_where(const struct stream_in *in, struct wh_err *err)
{
	unsigned long long offset = in->offset;

	if (steps[in->step].where)
		err_wrap(err, "stream at %llu, %s", offset, steps[in->step].where);
	else
		err_wrap(err, "stream at %llu, %s of ram", offset,
			 section_name((enum section_type)in->section));
}

void stream_in_init(struct stream_in *in, bool resumed)
{
	memset(in, 0, sizeof(*in));
	ram_in_init(&in->ram, false);
	if (resumed)
		enter(in, STEP_SECTION, 1);
	else
		enter(in, STEP_HEADER, 8);
}

void stream_in_resume(struct stream_in *in)
{
	in->offset = 0;
	/* the source cannot know that END has arrived, and says it again */
	in->ram_ended = false;
	ram_in_reconnect(&in->ram);
	enter(in, STEP_SECTION, 1);
}

void stream_in_adopt(struct stream_in *in, const struct ram_blocks *blocks, uint32_t ram_id)
{
	stream_in_init(in, true);
	in->blocks = *blocks;
	in->ram.have_list = true;
	in->have_ram = true;
	in->ram_id = ram_id;
}

void stream_in_file(struct stream_in *in, uint64_t offset)
{
	in->file = true;
	in->offset = offset;
}

void stream_in_listed(struct stream_in *in, uint64_t offset)
{
	in->ram.have_list = true;
	in->offset = offset;
}

void stream_in_learn(struct stream_in *in)
{
	in->learn = true;
	ram_in_learn(&in->ram);
}

_Static_assert(CMD_HEADER + UINT16_MAX <= STREAM_NEED_MAX, "the largest unit is a command");

int stream_in_next(struct stream_in *in, const uint8_t *buf, size_t length, size_t *used,
		   struct stream_event *event, struct wh_err *err)
{
	struct input input = { .at = buf, .left = length };
	int ret;

	do {
		const uint8_t *from = input.at;

		ret = steps[in->step].take(in, &input, event, err);
		in->offset += (uint64_t)(input.at - from);
		if (ret < 0)
			stream_in_where(in, err);
	} while (ret == GO_ON);
	*used = length - input.left;
	return ret;
}
