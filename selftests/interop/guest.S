/* SPDX-License-Identifier: MIT */
/*
 * A guest for QEMU: one boot sector. It fills the pages of a range, then steps the
 * first byte of each of them, in order, for ever, and looks at every page before it
 * steps it. To the serial port goes a '.' for each pass, and an 'E' for a page that
 * is not what this guest left there.
 *
 * A page holds, from its first byte on: the passes done, 3 zeros, its own address in 4
 * bytes, then a sequence that its address starts. So no page is zero, no two are
 * the same, and of a consistent copy the first bytes show at most one edge.
 *
 *	edi	page			ebx	passes done
 *	esi	pattern, pause		ecx	counts the words of a page
 *
 * Flat protected mode, no interrupts, no stack: whatever runs it has registers and
 * memory only, and it never leaves this sector.
 *
 * invlpg: under TCG, QEMU 7.2 logs a write only if the page's entry in its own TLB was
 * made after the last dirty sync, and the sync does not drop those entries. A page that
 * stays in the TLB is sent once and what is written later is lost: without this
 * instruction every page of the range differs, between two such QEMUs too; with it none
 * does. That the store itself, not a load before it, makes the entry leaves no window.
 */
	.text
	.code16
	.globl	_start
_start:
	cli
	cld
	xorw	%ax, %ax
	movw	%ax, %ds
	inb	$0x92, %al		/* address line 20 */
	orb	$2, %al
	outb	%al, $0x92
	lgdt	gdt_pointer
	movl	%cr0, %eax
	orl	$1, %eax
	movl	%eax, %cr0
	ljmp	$8, $protected

	.code32
protected:
	movw	$16, %ax
	movw	%ax, %ds
	movw	%ax, %es

	movl	first, %edi
fill_page:
	movl	%edi, %eax
	movl	$0, (%edi)
	movl	%edi, 4(%edi)
	addl	$8, %edi
	movl	$1022, %ecx
fill_word:
	imull	$1664525, %eax, %eax
	addl	$1013904223, %eax
	stosl
	loop	fill_word
	cmpl	end, %edi
	jb	fill_page

	xorl	%ebx, %ebx
pass:
	movl	first, %edi
page:
	cmpb	%bl, (%edi)
	jne	bad
	cmpl	%edi, 4(%edi)
	je	step
bad:
	movb	$'E', %al
	movw	$0x3f8, %dx
	outb	%al, %dx
step:
	leal	1(%ebx), %eax
	invlpg	(%edi)
	movb	%al, (%edi)
	movl	pause, %esi
1:	subl	$1, %esi
	jae	1b
	addl	$4096, %edi
	cmpl	end, %edi
	jb	page

	incl	%ebx
	movb	$'.', %al
	movw	$0x3f8, %dx
	outb	%al, %dx
	jmp	pass

	.balign	8
gdt:
	.quad	0
	.quad	0x00cf9a000000ffff	/* code and data of 4 GiB from 0 on */
	.quad	0x00cf92000000ffff
gdt_pointer:
	.word	. - gdt - 1
	.long	gdt

	/* Set in a copy of this sector by who starts it: addresses, and turns of a loop */
	.org	496
first:	.long	0x100000
end:	.long	0x200000
pause:	.long	0
	.org	510
	.word	0xaa55

	.section .note.GNU-stack, "", @progbits
