/* SPDX-License-Identifier: MIT */
/*
 * Edge: a packet socket, for a guest that answers frames of a type of its own.
 */
#include "cli/witness.h"

#include <arpa/inet.h>
#include <errno.h>
#include <linux/if_packet.h>
#include <net/if.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

#define FRAME_BYTES 60
#define TYPE 0x88b5 /* for experiments, as IEEE 802 has it */
#define REQUEST 1
#define REPLY 2

static const uint8_t guest_mac[] = { 0x52, 0x54, 0x00, 0x77, 0x68, 0x31 };

static int fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static int fail(struct wh_err *err, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

int witness_open(struct witness *witness, const char *interface, uint64_t every_ns,
		 struct wh_err *err)
{
	struct sockaddr_ll at = { .sll_family = AF_PACKET, .sll_protocol = htons(TYPE) };
	struct ifreq request = { 0 };

	*witness = (struct witness){ .every_ns = every_ns };
	at.sll_ifindex = (int)if_nametoindex(interface);
	snprintf(request.ifr_name, sizeof(request.ifr_name), "%s", interface);
	witness->fd = socket(AF_PACKET, SOCK_RAW | SOCK_NONBLOCK | SOCK_CLOEXEC, 0);
	if (at.sll_ifindex && witness->fd >= 0 &&
	    !bind(witness->fd, (struct sockaddr *)&at, sizeof(at)) &&
	    ioctl(witness->fd, SIOCGIFHWADDR, &request) >= 0) {
		memcpy(witness->mac, request.ifr_hwaddr.sa_data, sizeof(witness->mac));
		return 0;
	}
	fail(err, -errno, "packet socket on %s: %m", interface);
	witness_close(witness);
	return err->code;
}

void witness_close(struct witness *witness)
{
	if (witness->fd >= 0)
		close(witness->fd);
	free(witness->reply);
	*witness = (struct witness){ .fd = -1 };
}

static void ask(struct witness *witness)
{
	uint8_t frame[FRAME_BYTES] = { 0 };
	uint32_t number = witness->asked + 1;

	memcpy(frame, guest_mac, 6);
	memcpy(frame + 6, witness->mac, 6);
	memcpy(frame + 12, &(uint16_t){ htons(TYPE) }, 2);
	frame[15] = REQUEST;
	memcpy(frame + 16, &number, 4);
	if (witness->replies)
		memcpy(frame + 32, &witness->reply[witness->replies - 1].number, 4);
	/* A number that was not sent was not asked: the next one is the same */
	if (send(witness->fd, frame, sizeof(frame), 0) == sizeof(frame))
		witness->asked = number;
}

static void note(struct witness *witness, const uint8_t *frame, uint64_t now_ns)
{
	struct witness_reply reply = { .at_ns = now_ns };
	size_t room = witness->room ? 2 * witness->room : 4096;
	void *bigger;

	memcpy(&reply.number, frame + 16, 4);
	memcpy(&reply.count, frame + 20, 4);
	memcpy(&reply.digest, frame + 24, 4);
	memcpy(&reply.remembered, frame + 28, 4);
	memcpy(&reply.earlier, frame + 32, 4);
	if (witness->replies == witness->room) {
		bigger = realloc(witness->reply, room * sizeof(reply));
		if (!bigger) {
			witness->lost++;
			return;
		}
		witness->reply = bigger;
		witness->room = room;
	}
	witness->reply[witness->replies++] = reply;
}

uint64_t witness_turn(struct witness *witness, uint64_t now_ns)
{
	uint8_t frame[FRAME_BYTES];

	/* The socket has what we sent only if it was for ourselves, which it never is */
	while (recv(witness->fd, frame, sizeof(frame), 0) == FRAME_BYTES)
		if (frame[15] == REPLY && !memcmp(frame, witness->mac, 6))
			note(witness, frame, now_ns);
	if (now_ns >= witness->due_ns) {
		ask(witness);
		witness->due_ns = now_ns + witness->every_ns;
	}
	return witness->due_ns;
}
