/* SPDX-License-Identifier: MIT */
/*
 * A stream over RDMA whose other end is a stranger. An input is a list of what happens: memory is lent,
 * something is said or written, a message comes as it is, some of it is read. Nothing is read or to be
 * written outside of what was lent, and nothing is given back that was not taken.
 */
#include "rdma/vflow.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define ROOM 4u
#define AREA 300u

#define check(what)                                                                          \
	do {                                                                                 \
		if (!(what)) {                                                               \
			fprintf(stderr, "%s:%d: not true: %s\n", __FILE__, __LINE__, #what); \
			abort();                                                             \
		}                                                                            \
	} while (0)

enum happens {
	LEND,
	SAY,
	WRITE,
	HEAR,
	READ,
	HAPPENS_COUNT
};

struct play {
	struct vflow flow;
	uint8_t *area; /* so many bytes, so that one too many is seen */
	uint8_t *message;
	uint64_t lies; /* announced, and not read */
};

static void say(struct play *play)
{
	uint8_t buf[PARCEL_HEADER_MAX];

	if (vflow_may_send(&play->flow) || vflow_owes(&play->flow))
		check(vflow_put(&play->flow, buf, 0, 0) == parcel_header(PARCEL_STREAM));
	check(!vflow_owes(&play->flow));
}

static void write_some(struct play *play, uint64_t most)
{
	uint64_t to = 0, space = vflow_space(&play->flow, &to);

	check(!space ||
	      (to >= play->flow.address && to - play->flow.address <= play->flow.area - space));
	vflow_wrote(&play->flow, space < most ? space : most);
}

/* Return: the stranger is one whom one listens to further */
static bool hear(struct play *play, const uint8_t *bytes, size_t length)
{
	struct wh_err err = { 0 };
	int ret;

	free(play->message);
	play->message = malloc(length ? length : 1);
	memcpy(play->message, bytes, length);
	ret = vflow_get(&play->flow, play->message, length, &err);
	check(ret == 0 || ret == -EPROTO);
	check(!ret == !err.text[0]);
	if (ret == 0)
		play->lies += play->flow.in_area;
	check(play->lies <= (play->area ? AREA : 0) || ret < 0);
	return ret == 0;
}

static void read_some(struct play *play, size_t most)
{
	uint64_t left = vflow_left(&play->flow), written = play->flow.in_area;
	uint8_t *to = malloc(most ? most : 1);
	size_t got = vflow_take(&play->flow, to, most);

	check(got == (left < most ? left : most));
	check(vflow_left(&play->flow) == left - got);
	play->lies -= written - play->flow.in_area;
	if (vflow_reading(&play->flow) && !vflow_left(&play->flow))
		vflow_gone(&play->flow);
	free(to);
}

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length);

int LLVMFuzzerTestOneInput(const uint8_t *bytes, size_t length)
{
	const uint8_t *end = bytes + length;
	uint8_t buf[PARCEL_HEADER_MAX];
	struct play play = { .area = NULL };
	bool up = true;

	vflow_init(&play.flow, ROOM);
	while (up && end - bytes >= 2) {
		enum happens what = (enum happens)(bytes[0] % HAPPENS_COUNT);
		size_t size = bytes[1];

		bytes += 2;
		switch (what) {
		case LEND:
			if (play.area || !vflow_may_send(&play.flow))
				break;
			play.area = calloc(1, AREA);
			(void)vflow_lend(&play.flow, buf, play.area, AREA, 1);
			break;
		case SAY:
			say(&play);
			break;
		case WRITE:
			write_some(&play, size);
			break;
		case HEAR:
			if (size > (size_t)(end - bytes))
				size = (size_t)(end - bytes);
			if (!vflow_reading(&play.flow))
				up = hear(&play, bytes, size);
			bytes += size;
			break;
		case READ:
			read_some(&play, size);
			break;
		case HAPPENS_COUNT:
			break;
		}
	}
	free(play.message);
	free(play.area);
	return 0;
}
