/* SPDX-License-Identifier: MIT */
#ifndef NIC_H
#define NIC_H

/*
 * The network card. Frames wait in the tap; one at a time lies in guest memory, where a
 * processor of its own reads and answers it:
 *
 *	in	the next frame is put there, and this is its length; 0: none has come yet
 *	out	the frame there is sent, so many bytes of it
 *
 * The guest answers requests, an Ethernet frame each, numbers as the processor has them:
 *
 *	 0	6, to whom		16	4, the request's number
 *	 6	6, from whom		20	4, the guest's count, this request included
 *	12	2, 88 b5		24	4, the guest's digest of the numbers so far
 *	14	2, 0 1 request, 0 2 reply,	28	4, and the digest that it gave to this number:
 *		0 3 it is here now	32	4, an earlier request's
 *
 * Count and digests are in guest memory alone: whoever has logged the replies can tell
 * whether a guest has the memory that it had when it sent them.
 */
#define NIC_PORT 0x2e8
#define NIC_FRAME_PAGE 1
#define NIC_DATA_PAGE 2	 /* the count, the digest */
#define NIC_TABLE_PAGE 3 /* digests of the last requests */
#define NIC_FRAME (NIC_FRAME_PAGE * 4096)
#define NIC_DATA (NIC_DATA_PAGE * 4096)
#define NIC_TABLE (NIC_TABLE_PAGE * 4096)
#define NIC_TABLE_LAST 1023
#define NIC_FRAME_MAX 2048
#define NIC_FRAME_MIN 36
#define NIC_TYPE_REQUEST 0x0100b588 /* bytes 12 to 15 */
#define NIC_REPLY 2		    /* byte 15 */
#define NIC_HERE 3
#define NIC_MAC_FIRST 0x77005452 /* 52:54:00:77:68:31 */
#define NIC_MAC_LAST 0x3168
#define NIC_FACTOR 1664525 /* digest = digest * factor + number */

#ifndef __ASSEMBLER__
#include <stdbool.h>
#include <stdint.h>
#include <wherry/err.h>

struct vmm;

/* nic.c; nothing of it is called without --nic */
int nic_open(struct vmm *vmm, struct wh_err *err);
/* The guest runs here now: what came for another is dropped, bridges learn where it is, several times */
void nic_here(struct vmm *vmm);
/* End nic_receive(), which waits for a frame or for the guest to be parked */
void nic_kick(struct vmm *vmm);
uint32_t nic_receive(struct vmm *vmm);
void nic_send(struct vmm *vmm, uint32_t length);
/* What the guest's program does, for plain threads; until the guest is parked */
void nic_serve(struct vmm *vmm);
/* The frame was written since the last call: no log of KVM's knows of it */
bool nic_wrote(struct vmm *vmm);
#endif

#endif /* NIC_H */
