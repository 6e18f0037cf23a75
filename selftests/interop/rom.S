/* SPDX-License-Identifier: MIT */
/*
 * The boot sector as a firmware of 64 KiB: nothing in front of it runs, so that the
 * guest is there in a millisecond, and what QEMU has to send of it is next to nothing.
 */
	.text
	.code16
	.globl	_start
	.org	0xfc00
sector:
	.incbin	GUEST

copy:
	cld
	xorw	%ax, %ax
	movw	%ax, %es
	movw	$0x7c00, %di
	movw	$sector, %si
	movw	$256, %cx
	rep movsw %cs:(%si), %es:(%di)
	ljmp	$0, $0x7c00

	.org	0xfff0			/* where a processor starts */
_start:
	jmp	copy
	.org	0x10000

	.section .note.GNU-stack, "", @progbits
