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
	.section .rodata
	.globl	vmm_program, vmm_program_end
	.hidden	vmm_program, vmm_program_end
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
vmm_program_end:
	.section .note.GNU-stack, "", %progbits
