/* SPDX-License-Identifier: MIT */
/*
 * What the guest's processors run: flat 32-bit protected mode, no paging, no stack.
 *
 *	ebx	first address of the share	edi	page to step next
 *	ecx	behind the share		ebp	passes done
 *	esi	steps until the pacer is asked again
 *
 * All state is in registers. A page is stepped by one instruction, so that wherever
 * a processor is stopped, its registers say exactly which pages it has stepped:
 * those before edi, and that at edi too when it stands at vmm_program_stepped. At
 * vmm_program_rewind the pass is counted, but edi is still behind the share.
 */
#include "nic.h"

	.section .rodata
	.globl	vmm_program, vmm_program_nic, vmm_program_end
	.hidden	vmm_program, vmm_program_nic, vmm_program_end
vmm_program:
#if defined(__x86_64__)
	.globl	vmm_program_stepped, vmm_program_rewind
	.hidden	vmm_program_stepped, vmm_program_rewind
	.code32
	subl	$1, %esi
	jb	3f
	incb	(%edi)
vmm_program_stepped:
	addl	$4096, %edi
	cmpl	%ecx, %edi
	jb	vmm_program
	incl	%ebp
vmm_program_rewind:
	movl	%ebx, %edi
	movl	%ebp, %eax		/* a digit a pass */
	andl	$7, %eax
	addl	$'0', %eax
	movl	$0x3f8, %edx
	outb	%al, %dx
	jmp	vmm_program
3:	movl	$0x3e8, %edx		/* the pacer answers when it is time */
	inl	%dx, %eax
	movl	%eax, %esi
	jmp	vmm_program
#endif
/* What answers the network (nic.h); a processor of its own, which needs nothing at its start */
vmm_program_nic:
#if defined(__x86_64__)
	movl	$NIC_PORT, %edx
	inl	%dx, %eax
	movl	%eax, %ecx
	movl	$NIC_FRAME, %edi
	cmpl	$NIC_FRAME_MIN, %ecx
	jb	vmm_program_nic
	cmpl	$NIC_TYPE_REQUEST, 12(%edi)
	jne	vmm_program_nic
	movl	6(%edi), %eax		/* to whom it came from, from here */
	movl	%eax, (%edi)
	movw	10(%edi), %ax
	movw	%ax, 4(%edi)
	movl	$NIC_MAC_FIRST, 6(%edi)
	movw	$NIC_MAC_LAST, 10(%edi)
	movb	$NIC_REPLY, 15(%edi)
	movl	$NIC_DATA, %esi
	incl	(%esi)
	imull	$NIC_FACTOR, 4(%esi), %eax
	addl	16(%edi), %eax
	movl	%eax, 4(%esi)
	movl	%eax, 24(%edi)
	movl	32(%edi), %ebx		/* what it remembers of an earlier one */
	andl	$NIC_TABLE_LAST, %ebx
	movl	NIC_TABLE(,%ebx,4), %ebx
	movl	%ebx, 28(%edi)
	movl	16(%edi), %ebx
	andl	$NIC_TABLE_LAST, %ebx
	movl	%eax, NIC_TABLE(,%ebx,4)
	movl	(%esi), %eax
	movl	%eax, 20(%edi)
	movl	$NIC_PORT, %edx
	movl	%ecx, %eax
	outl	%eax, %dx
	jmp	vmm_program_nic
#endif
vmm_program_end:
	.section .note.GNU-stack, "", %progbits
