/* SPDX-License-Identifier: MIT */
#include "wire/ram.h"

#include "base/bytes.h"
#include "base/err.h"

#include <errno.h>
#include <string.h>

#define PAGE UINT64_C(4096)
#define FLAGS (PAGE - 1)
#define PAGE_KINDS (RAM_ZERO | RAM_PAGE | RAM_XBZRLE)

/* A unit each; what comes next depends on what this one says. */
enum step {
	STEP_HEAD,   /* be64 offset and flags */
	STEP_NAME,   /* str8, of the block the page is in */
	STEP_FILL,   /* the byte a zero page is made of */
	STEP_PAGE,   /* contents */
	STEP_XBZRLE, /* encoding byte, be16 length */
	STEP_DELTA,
	STEP_BLOCK_NAME,   /* block list: str8, */
	STEP_BLOCK_LENGTH, /* be64 used_length, */
	STEP_BLOCK_PAGE,   /* and perhaps be64 page size: a look only */
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

static int enter(struct ram_in *in, enum step step, size_t need)
{
	in->step = (uint8_t)step;
	in->need = need;
	return GO_ON;
}

static int got(struct ram_in *in, struct ram_event *event, enum ram_record record)
{
	event->record = record;
	event->block = in->block;
	event->offset = in->offset;
	enter(in, STEP_HEAD, 8);
	return 1;
}

void ram_in_init(struct ram_in *in, bool urgent)
{
	*in = (struct ram_in){ .urgent = urgent };
	enter(in, STEP_HEAD, 8);
}

void ram_in_reconnect(struct ram_in *in)
{
	in->have_block = false;
	enter(in, STEP_HEAD, 8);
}

void ram_in_learn(struct ram_in *in)
{
	in->learn = true;
}

enum ram_in_at ram_in_at(const struct ram_in *in)
{
	if (in->step == STEP_PAGE)
		return RAM_IN_AT_CONTENTS;
	return in->step == STEP_HEAD && in->have_block ? RAM_IN_AT_RECORD : RAM_IN_AT_OTHER;
}

/* 1 a whole str8 is at hand; 0 and in->need: it is not */
static int have_name(struct ram_in *in, const struct input *input)
{
	if (input->left && input->left >= 1u + input->at[0])
		return 1;
	in->need = input->left ? 1u + input->at[0] : 1;
	return 0;
}

static int find_block(const struct ram_blocks *blocks, const uint8_t *text, uint8_t length)
{
	unsigned i;

	for (i = 0; i < blocks->count; i++)
		if (blocks->block[i].name.length == length &&
		    !memcmp(blocks->block[i].name.text, text, length))
			return (int)i;
	return -1;
}

/* Where the contents go is known: check it before they are asked for. */
static int contents(struct ram_in *in, const struct ram_blocks *blocks, struct wh_err *err)
{
	const struct ram_block *block = &blocks->block[in->block];

	/* both are multiples of the page, and no block has less than one */
	if (in->offset > block->used - PAGE)
		return err_set(err, -EPROTO, "page at 0x%llx of block %s, which has 0x%llx bytes",
			       (unsigned long long)in->offset, block->name.text,
			       (unsigned long long)block->used);
	if (in->flags & RAM_ZERO)
		return enter(in, STEP_FILL, 1);
	if (in->flags & RAM_XBZRLE)
		return enter(in, STEP_XBZRLE, 3);
	return enter(in, STEP_PAGE, PAGE);
}

static int refuse_flags(uint64_t head, const char *why, struct wh_err *err)
{
	return err_set(err, -EPROTO, "record 0x%016llx: %s", (unsigned long long)head, why);
}

static int head_page(struct ram_in *in, const struct ram_blocks *blocks, uint64_t head,
		     struct wh_err *err)
{
	in->flags = (uint32_t)(head & FLAGS);
	in->offset = head & ~FLAGS;
	if (in->urgent && in->flags & RAM_XBZRLE)
		return refuse_flags(head, "XBZRLE on the urgent channel", err);
	if (!(in->flags & RAM_CONTINUE))
		return enter(in, STEP_NAME, 1);
	if (!in->have_block)
		return refuse_flags(head, "CONTINUE without a block before it", err);
	return contents(in, blocks, err);
}

static int head_list(struct ram_in *in, struct ram_blocks *blocks, uint64_t head,
		     struct ram_event *event, struct wh_err *err)
{
	if (in->urgent)
		return refuse_flags(head, "block list on the urgent channel", err);
	if (in->have_list)
		return refuse_flags(head, "block list for the second time", err);
	in->have_list = true;
	in->total_left = head & ~FLAGS;
	blocks->count = 0;
	if (!in->total_left)
		return got(in, event, RAM_GOT_BLOCKS);
	return enter(in, STEP_BLOCK_NAME, 1);
}

static int head_other(uint64_t head, struct wh_err *err)
{
	if (head & RAM_FULL)
		return refuse_flags(head, "obsolete flag FULL", err);
	if (head & RAM_HOOK)
		return refuse_flags(head, "flag HOOK with others, or on the urgent channel", err);
	if (head & RAM_COMPRESS_PAGE)
		return refuse_flags(head, "COMPRESS_PAGE: capability compress is not supported",
				    err);
	if (head & (0x400 | 0x800))
		return refuse_flags(head, "unknown flag", err);
	return refuse_flags(head, "flags that do not go together", err);
}

static int step_head(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
		     struct ram_event *event, struct wh_err *err)
{
	uint64_t head;

	if (input->left < 8)
		return MORE;
	head = get_be64(take(input, 8));
	switch (head & FLAGS & ~(uint64_t)RAM_CONTINUE) {
	case RAM_PAGE:
	case RAM_ZERO:
	case RAM_XBZRLE:
		return head_page(in, blocks, head, err);
	default:
		break;
	}
	if (head == RAM_EOS)
		return got(in, event, RAM_GOT_EOS);
	if (head == RAM_MULTIFD_FLUSH && !in->urgent)
		return got(in, event, RAM_GOT_FLUSH);
	if (head == RAM_HOOK && !in->urgent)
		return got(in, event, RAM_GOT_HOOK);
	if ((head & FLAGS) == RAM_MEM_SIZE)
		return head_list(in, blocks, head, event, err);
	return head_other(head, err);
}

/* No list will come: a name that is not known yet is the next block's. */
static int learn_block(struct ram_blocks *blocks, const uint8_t *text, uint8_t length,
		       struct wh_err *err)
{
	struct ram_block *block = &blocks->block[blocks->count];
	int ret;

	if (blocks->count == RAM_BLOCKS_MAX)
		return err_set(err, -EPROTO, "more than %u blocks", RAM_BLOCKS_MAX);
	ret = wire_name_get(&block->name, text, length, err);
	if (ret < 0)
		return ret;
	block->used = ~UINT64_C(0) & ~FLAGS;
	block->page_size = 0;
	return (int)blocks->count++;
}

static int refuse_block(const struct ram_in *in, const uint8_t *text, uint8_t length,
			struct wh_err *err)
{
	struct wire_name name;
	int ret = wire_name_get(&name, text, length, err);

	if (ret < 0)
		return ret;
	return err_set(err, -EPROTO, "page at 0x%llx of unknown block %s",
		       (unsigned long long)in->offset, name.text);
}

static int step_name(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
		     struct ram_event *event, struct wh_err *err)
{
	const uint8_t *text;
	uint8_t length;
	int block;

	(void)event;
	if (!have_name(in, input))
		return MORE;
	length = input->at[0];
	text = take(input, 1u + length) + 1;
	block = find_block(blocks, text, length);
	if (block < 0 && in->learn) {
		block = learn_block(blocks, text, length, err);
		if (block < 0)
			return block;
	}
	if (block < 0)
		return refuse_block(in, text, length, err);
	in->block = (unsigned)block;
	in->have_block = true;
	return contents(in, blocks, err);
}

static int step_fill(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
		     struct ram_event *event, struct wh_err *err)
{
	uint8_t fill;

	(void)blocks;
	if (!input->left)
		return MORE;
	fill = *take(input, 1);
	if (fill)
		return err_set(err, -EPROTO, "ZERO record with fill byte 0x%02x", fill);
	return got(in, event, RAM_GOT_ZERO);
}

static int step_page(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
		     struct ram_event *event, struct wh_err *err)
{
	(void)blocks;
	(void)err;
	if (input->left < PAGE)
		return MORE;
	event->data = take(input, PAGE);
	event->data_length = PAGE;
	return got(in, event, RAM_GOT_PAGE);
}

static int step_xbzrle(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
		       struct ram_event *event, struct wh_err *err)
{
	const uint8_t *at;

	(void)blocks;
	(void)event;
	if (input->left < 3)
		return MORE;
	at = take(input, 3);
	if (at[0] != 1)
		return err_set(err, -EPROTO, "XBZRLE record with encoding %u, expected 1", at[0]);
	if (!get_be16(at + 1) || get_be16(at + 1) > PAGE)
		return err_set(err, -EPROTO, "XBZRLE record of %u bytes, expected 1 to 4096",
			       get_be16(at + 1));
	return enter(in, STEP_DELTA, get_be16(at + 1));
}

static int step_delta(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
		      struct ram_event *event, struct wh_err *err)
{
	(void)blocks;
	(void)err;
	if (input->left < in->need)
		return MORE;
	event->data_length = in->need;
	event->data = take(input, in->need);
	return got(in, event, RAM_GOT_XBZRLE);
}

static int step_block_name(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
			   struct ram_event *event, struct wh_err *err)
{
	const uint8_t *text;
	uint8_t length;
	int ret;

	(void)event;
	if (!have_name(in, input))
		return MORE;
	length = input->at[0];
	text = take(input, 1u + length) + 1;
	if (blocks->count == RAM_BLOCKS_MAX)
		return err_set(err, -EPROTO, "block list has more than %u blocks", RAM_BLOCKS_MAX);
	ret = wire_name_get(&blocks->block[blocks->count].name, text, length, err);
	if (ret < 0)
		return ret;
	if (find_block(blocks, text, length) >= 0)
		return err_set(err, -EPROTO, "block list has %s twice",
			       blocks->block[blocks->count].name.text);
	return enter(in, STEP_BLOCK_LENGTH, 8);
}

/*
 * A length of 0 is refused because at the end of the list nobody could tell whether
 * its line is there; no whole pages, because the total has no room for them.
 */
static int step_block_length(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
			     struct ram_event *event, struct wh_err *err)
{
	struct ram_block *block = &blocks->block[blocks->count];

	(void)event;
	if (input->left < 8)
		return MORE;
	block->used = get_be64(take(input, 8));
	block->page_size = 0;
	if (!block->used || block->used % PAGE)
		return err_set(err, -EPROTO, "block %s has 0x%llx bytes, expected whole pages",
			       block->name.text, (unsigned long long)block->used);
	if (block->used > in->total_left)
		return err_set(err, -EPROTO,
			       "block %s has 0x%llx bytes, of the total 0x%llx are left",
			       block->name.text, (unsigned long long)block->used,
			       (unsigned long long)in->total_left);
	in->total_left -= block->used;
	return enter(in, STEP_BLOCK_PAGE, 8);
}

/*
 * Nothing announces the page size. Behind the length stand either one, or the name
 * of the next block, whose length byte is the top byte and not 0, or the next record,
 * whose low 12 bits are flags and not all 0. All three have 8 bytes or more.
 */
static int step_block_page(struct ram_in *in, struct ram_blocks *blocks, struct input *input,
			   struct ram_event *event, struct wh_err *err)
{
	struct ram_block *block = &blocks->block[blocks->count];
	uint64_t v;

	if (input->left < 8)
		return MORE;
	v = get_be64(input->at);
	if (v && !(v & FLAGS) && !(v >> 56)) {
		take(input, 8);
		if (v & (v - 1) || block->used % v)
			return err_set(err, -EPROTO, "block %s of 0x%llx bytes has pages of 0x%llx",
				       block->name.text, (unsigned long long)block->used,
				       (unsigned long long)v);
		block->page_size = v;
	}
	blocks->count++;
	if (in->total_left)
		return enter(in, STEP_BLOCK_NAME, 1);
	return got(in, event, RAM_GOT_BLOCKS);
}

int ram_in_next(struct ram_in *in, struct ram_blocks *blocks, const uint8_t *buf, size_t length,
		size_t *used, struct ram_event *event, struct wh_err *err)
{
	static int (*const steps[])(struct ram_in * in, struct ram_blocks * blocks,
				    struct input * input, struct ram_event * event,
				    struct wh_err * err) = {
		[STEP_HEAD] = step_head,
		[STEP_NAME] = step_name,
		[STEP_FILL] = step_fill,
		[STEP_PAGE] = step_page,
		[STEP_XBZRLE] = step_xbzrle,
		[STEP_DELTA] = step_delta,
		[STEP_BLOCK_NAME] = step_block_name,
		[STEP_BLOCK_LENGTH] = step_block_length,
		[STEP_BLOCK_PAGE] = step_block_page,
	};
	struct input input = { .at = buf, .left = length };
	size_t left;
	int ret;

	_Static_assert(sizeof(steps) / sizeof(steps[0]) == STEP_COUNT, "a function a step");
	do {
		left = input.left;
		ret = steps[in->step](in, blocks, &input, event, err);
	} while (ret == GO_ON);
	/* a unit that is refused is not taken: the caller's offset is where it begins */
	*used = length - (ret < 0 ? left : input.left);
	return ret;
}
