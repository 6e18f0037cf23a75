/* SPDX-License-Identifier: MIT */
#include "selftests/lib/netrig.h"

#include "base/bytes.h"
#include "base/clock.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/wait.h>
#include <unistd.h>

#define FRAME_BYTES 114
#define MOMENT_MS 30
#define SEEN_MS 2000
#define ETHER 14

static bool write_file(const char *path, const char *text)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	bool whole = fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text);

	if (fd >= 0)
		close(fd);
	return whole;
}

static const char *enter(void)
{
	char uid[32], gid[32];

	snprintf(uid, sizeof(uid), "0 %u 1", getuid());
	snprintf(gid, sizeof(gid), "0 %u 1", getgid());
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return "no user and network namespaces";
	if (!write_file("/proc/self/setgroups", "deny") || !write_file("/proc/self/uid_map", uid) ||
	    !write_file("/proc/self/gid_map", gid))
		return "the user namespace gets no ids";
	return NULL;
}

static int tap_make(const char *name)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	snprintf(request.ifr_name, IFNAMSIZ, "%s", name);
	if (fd >= 0 && ioctl(fd, TUNSETIFF, &request) < 0) {
		close(fd);
		return -1;
	}
	return fd;
}

int netrig_run(const char *format, ...)
{
	char line[512];
	va_list args;
	int status;

	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	status = system(line);
	return WIFEXITED(status) ? WEXITSTATUS(status) : 255;
}

/* One process for all of it: in a lab, starting one takes as long as everything else */
static bool ports_set_up(unsigned nics)
{
	FILE *ip = popen("ip -batch -", "w");

	if (!ip)
		return false;
	fprintf(ip,
		"link add br0 type bridge mcast_snooping 0\nlink set br0 addrgenmode none up\n");
	for (unsigned i = 0; i <= nics; i++) {
		char name[16];

		snprintf(name, sizeof(name), i < nics ? "tap%u" : "out", i);
		fprintf(ip, "link set %s addrgenmode none txqueuelen 20000\n", name);
		fprintf(ip, "link set %s master br0 up\n", name);
	}
	return pclose(ip) == 0;
}

const char *netrig_open(struct netrig *rig, unsigned nics)
{
	const char *missing = enter();
	char name[16];

	*rig = (struct netrig){ .nics = nics };
	if (missing)
		return missing;
	for (unsigned i = 0; i <= nics; i++) {
		int *fd = i < nics ? &rig->taps[i] : &rig->outside;

		snprintf(name, sizeof(name), i < nics ? "tap%u" : "out", i);
		*fd = tap_make(name);
		if (*fd < 0)
			return "no tap";
	}
	return ports_set_up(nics) ? NULL : "no bridge, or no ip (iproute2)";
}

static uint16_t ip_checksum(const uint8_t *head)
{
	uint32_t sum = 0;

	for (unsigned i = 0; i < 20; i += 2)
		sum += get_be16(head + i);
	sum = (sum & 0xffff) + (sum >> 16);
	return (uint16_t) ~((sum & 0xffff) + (sum >> 16));
}

/* What a bridge looks at has to be right, or it drops the frame */
static void frame_fill(uint8_t *frame, enum netrig_kind kind)
{
	static const uint16_t types[NETRIG_KIND_COUNT] = { 0x0800, 0x0806, 0x86dd,
							   0x8100, 0x88b5, 0x88b5 };
	uint8_t *body = frame + ETHER;

	put_be16(frame + 12, types[kind]);
	switch (kind) {
	case NETRIG_IPV4:
		body[0] = 0x45;
		put_be16(body + 2, FRAME_BYTES - ETHER);
		body[8] = 64;
		body[9] = 253;
		memcpy(body + 12, (uint8_t[]){ 192, 0, 2, 1, 192, 0, 2, 2 }, 8);
		put_be16(body + 10, ip_checksum(body));
		break;
	case NETRIG_ARP:
		memcpy(body, (uint8_t[]){ 0, 1, 8, 0, 6, 4, 0, 1 }, 8);
		break;
	case NETRIG_IPV6:
		body[0] = 0x60;
		put_be16(body + 4, FRAME_BYTES - ETHER - 40);
		body[6] = 59;
		body[7] = 64;
		memcpy(body + 8, (uint8_t[]){ 0x20, 1, 0xd, 0xb8 }, 4);
		memcpy(body + 24, (uint8_t[]){ 0x20, 1, 0xd, 0xb8 }, 4);
		break;
	case NETRIG_VLAN:
		put_be16(body, 7);
		put_be16(body + 2, 0x88b5);
		break;
	case NETRIG_OTHER:
	case NETRIG_RUNT:
	case NETRIG_KIND_COUNT:
		break;
	}
}

int netrig_send(struct netrig *rig, unsigned nic, unsigned epoch, unsigned number,
		enum netrig_kind kind)
{
	uint8_t frame[FRAME_BYTES] = { 0x02, 0xff, 0xff, 0xff, 0xff, 0xfe, 0x02 };
	size_t length = kind == NETRIG_RUNT ? ETHER : sizeof(frame);

	frame[7] = 0xa0;
	frame[8] = (uint8_t)nic;
	frame[9] = (uint8_t)epoch;
	put_be16(frame + 10, (uint16_t)number);
	frame_fill(frame, kind);
	return write(rig->taps[nic], frame, length) == (ssize_t)length ? 0 : -errno;
}

/* A broadcast */
int netrig_send_in(struct netrig *rig, unsigned number)
{
	uint8_t frame[FRAME_BYTES] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0x02, 0xb0 };

	put_be16(frame + 10, (uint16_t)number);
	frame_fill(frame, NETRIG_OTHER);
	return write(rig->outside, frame, sizeof(frame)) == (ssize_t)sizeof(frame) ? 0 : -errno;
}

/* Return: a frame's length; 0 after @wait_ms */
static size_t frame_read(int fd, uint8_t *frame, size_t room, int wait_ms)
{
	struct pollfd ready = { .fd = fd, .events = POLLIN };
	ssize_t n = read(fd, frame, room);

	if (n < 0 && errno == EAGAIN && wait_ms > 0 && poll(&ready, 1, wait_ms) == 1)
		n = read(fd, frame, room);
	return n > 0 ? (size_t)n : 0;
}

bool netrig_hears(struct netrig *rig, unsigned nic, unsigned number, int wait_ms)
{
	uint64_t deadline = clock_now_ns() + (uint64_t)wait_ms * NS_PER_MS;
	uint8_t frame[2048];
	unsigned count = 0;

	do {
		size_t length = frame_read(rig->taps[nic], frame, sizeof(frame), 10);

		count += length == FRAME_BYTES && frame[6] == 0x02 && frame[7] == 0xb0 &&
			 get_be16(frame + 10) == number;
	} while (clock_now_ns() < deadline && !count);
	/* once, and not again by another way */
	while (frame_read(rig->taps[nic], frame, sizeof(frame), MOMENT_MS))
		count += frame[7] == 0xb0 && get_be16(frame + 10) == number;
	return count == 1;
}

size_t netrig_seen(struct netrig *rig, struct netrig_mark *marks, size_t room, size_t expected)
{
	uint64_t deadline = clock_now_ns() + SEEN_MS * NS_PER_MS;
	uint8_t frame[2048];
	size_t count = 0;

	while (count < room && clock_now_ns() < deadline) {
		int wait_ms = count < expected ? SEEN_MS : MOMENT_MS;
		size_t length = frame_read(rig->outside, frame, sizeof(frame), wait_ms);

		if (!length)
			break;
		if (length < ETHER || frame[6] != 0x02 || frame[7] != 0xa0)
			continue;
		marks[count++] = (struct netrig_mark){ .nic = frame[8],
						       .epoch = frame[9],
						       .number = get_be16(frame + 10) };
	}
	return count;
}

/* Without numbers that the kernel draws anew for each device, and those that belong to nobody */
char *netrig_state(void)
{
	static const char command[] =
		"ip -o link | sed 's/^[0-9]*: //; s/brd .*ff//; s/qdisc [a-z_0-9]*//; "
		"s/qlen [0-9]*//; s/state [A-Z]*//'; tc qdisc; "
		"printf 'filter show dev tap%d ingress\nfilter show dev tap%d\n' 0 0 1 1 | "
		"tc -force -batch - 2>/dev/null";
	FILE *pipe = popen(command, "r");
	size_t length = 0, room = 1 << 16;
	char *text = calloc(1, room);

	while (pipe && text && length < room - 1) {
		size_t n = fread(text + length, 1, room - 1 - length, pipe);

		if (!n)
			break;
		length += n;
	}
	if (pipe)
		pclose(pipe);
	return text;
}
