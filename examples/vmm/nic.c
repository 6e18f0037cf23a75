/* SPDX-License-Identifier: MIT */
/*
 * The network card, between a tap and a page of guest memory. It has no thread and no state
 * of its own: its work is done by the processor that accesses it, and is done when that is
 * parked.
 */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <poll.h>
#include <stdio.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/ioctl.h>
#include <time.h>
#include <unistd.h>

#define ETHER_BYTES 14
#define WAITING_MAX 4096 /* more frames than a tap keeps */
#define HERE_AGAIN 4	 /* times, after 50 ms, 150, 250 and 350: as QEMU does */
#define HERE_FIRST_MS 50
#define HERE_STEP_MS 100

int nic_open(struct vmm *vmm, struct wh_err *err)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI };

	if (strlen(vmm->config.nic) >= IFNAMSIZ)
		return fail(err, -EINVAL, "'%s' is no name of a tap", vmm->config.nic);
	strncpy(request.ifr_name, vmm->config.nic, IFNAMSIZ - 1);
	vmm->nic_kick_fd = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	vmm->nic_fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	if (vmm->nic_kick_fd < 0 || vmm->nic_fd < 0 || ioctl(vmm->nic_fd, TUNSETIFF, &request) < 0)
		return fail(err, -errno, "network card: tap %s: %m", vmm->config.nic);
	return 0;
}

static int64_t now_ms(void)
{
	struct timespec now;

	clock_gettime(CLOCK_MONOTONIC, &now);
	return (int64_t)now.tv_sec * 1000 + now.tv_nsec / 1000000;
}

static void say_here(struct vmm *vmm)
{
	const uint32_t mac = NIC_MAC_FIRST;
	uint8_t frame[60] = { 0xff, 0xff, 0xff, 0xff, 0xff, 0xff };

	memcpy(frame + 6, &mac, 4);
	memcpy(frame + 10, &(uint16_t){ NIC_MAC_LAST }, 2);
	memcpy(frame + 12, &(uint32_t){ NIC_TYPE_REQUEST }, 4);
	frame[15] = NIC_HERE;
	if (write(vmm->nic_fd, frame, sizeof(frame)) < 0)
		return; /* as if the wire had lost it */
}

void nic_here(struct vmm *vmm)
{
	uint8_t dropped[ETHER_BYTES];

	for (unsigned i = 0; i < WAITING_MAX; i++)
		if (read(vmm->nic_fd, dropped, sizeof(dropped)) < 0)
			break;
	say_here(vmm);
	vmm->nic_here_wait_ms = HERE_FIRST_MS;
	vmm->nic_here_ms = now_ms() + HERE_FIRST_MS;
	vmm->nic_here_again = HERE_AGAIN;
}

/*
 * A frame that the guest had sent elsewhere may come out late, and then a bridge looks for it there:
 * for good, if it speaks only when it is spoken to. Return: milliseconds until it is due, -1: never
 */
static int here_again(struct vmm *vmm)
{
	int64_t left_ms;

	if (!vmm->nic_here_again)
		return -1;
	left_ms = vmm->nic_here_ms - now_ms();
	if (left_ms > 0)
		return (int)left_ms;
	say_here(vmm);
	vmm->nic_here_wait_ms += HERE_STEP_MS;
	vmm->nic_here_ms += vmm->nic_here_wait_ms;
	return --vmm->nic_here_again ? (int)vmm->nic_here_wait_ms : -1;
}

void nic_kick(struct vmm *vmm)
{
	eventfd_write(vmm->nic_kick_fd, 1);
}

uint32_t nic_receive(struct vmm *vmm)
{
	struct pollfd fds[] = {
		{ .fd = vmm->nic_fd, .events = POLLIN },
		{ .fd = vmm->nic_kick_fd, .events = POLLIN },
	};
	eventfd_t kicks;
	ssize_t n;

	while (guest_running(vmm)) {
		int wait_ms = here_again(vmm);

		n = read(vmm->nic_fd, ram_page(vmm, NIC_FRAME_PAGE), NIC_FRAME_MAX);
		if (n > 0) {
			/* After the write: who sees it there copies the frame, or is told again */
			__atomic_store_n(&vmm->nic_wrote, true, __ATOMIC_SEQ_CST);
			return (uint32_t)n;
		}
		if (poll(fds, 2, wait_ms) > 0 && fds[0].revents & (POLLERR | POLLHUP | POLLNVAL))
			fds[0].fd = -1; /* the tap is gone: nothing will come */
		if (fds[1].revents)
			eventfd_read(vmm->nic_kick_fd, &kicks);
	}
	return 0;
}

/* The length is the guest's, which may be anything. */
void nic_send(struct vmm *vmm, uint32_t length)
{
	if (length < ETHER_BYTES || length > NIC_FRAME_MAX)
		return;
	if (write(vmm->nic_fd, ram_page(vmm, NIC_FRAME_PAGE), length) < 0)
		return; /* nor does a card know what becomes of it */
}

bool nic_wrote(struct vmm *vmm)
{
	return __atomic_exchange_n(&vmm->nic_wrote, false, __ATOMIC_SEQ_CST);
}

void nic_serve(struct vmm *vmm)
{
	uint8_t *frame = ram_page(vmm, NIC_FRAME_PAGE);
	uint32_t *table = (uint32_t *)ram_page(vmm, NIC_TABLE_PAGE);
	uint32_t data[2], length, type, number, earlier;

	while (guest_running(vmm)) {
		length = nic_receive(vmm);
		memcpy(&type, frame + 12, 4);
		if (length < NIC_FRAME_MIN || type != NIC_TYPE_REQUEST)
			continue;
		memcpy(frame, frame + 6, 6);
		memcpy(frame + 6, &(uint32_t){ NIC_MAC_FIRST }, 4);
		memcpy(frame + 10, &(uint16_t){ NIC_MAC_LAST }, 2);
		frame[15] = NIC_REPLY;
		memcpy(&number, frame + 16, 4);
		memcpy(data, ram_page(vmm, NIC_DATA_PAGE), sizeof(data));
		data[0]++;
		data[1] = data[1] * NIC_FACTOR + number;
		memcpy(ram_page(vmm, NIC_DATA_PAGE), data, sizeof(data));
		memcpy(frame + 20, data, sizeof(data));
		memcpy(&earlier, frame + 32, 4);
		memcpy(frame + 28, &table[earlier & NIC_TABLE_LAST], 4);
		table[number & NIC_TABLE_LAST] = data[1];
		nic_send(vmm, length);
	}
}
