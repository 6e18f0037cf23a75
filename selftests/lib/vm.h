/* SPDX-License-Identifier: MIT */
#ifndef LIB_VM_H
#define LIB_VM_H

#include "selftests/lib/guest.h"
#include "selftests/lib/qemu.h"

#define VM_RAM_BYTES (UINT64_C(32) << 20)
#define VM_BLOCKS_MAX 2

enum vm_board {
	VM_I440FX,
	VM_Q35,
	VM_BOARD_COUNT
};

enum vm_memory {
	VM_ANON,    /* private anonymous */
	VM_MEMFD,   /* shared */
	VM_HUGETLB, /* a shared memfd of 2 MiB pages, which are to be there */
	VM_TWO,	    /* private anonymous of 20 MiB, then a shared memfd of 12 MiB */
	VM_MEMORY_COUNT
};

struct vm_kind {
	enum qemu_version version;
	enum vm_board board;
	enum vm_memory memory;
};

/**
 * struct vm - A whole machine in a QEMU, with the guest of interop/guest.S as its firmware
 * @serial:	File that its serial port goes to
 *
 * Its machine type is the newest of its version: what is on the wire goes by that.
 */
struct vm {
	struct vm_kind kind;
	char serial[96];
	struct qemu qemu;
};

/* RAM, by the blocks that it is on the wire; they lie one behind the other in the guest */
struct vm_block {
	const char *name;
	uint64_t length;
};

/* Return: how many there are */
unsigned vm_blocks(enum vm_memory memory, struct vm_block block[VM_BLOCKS_MAX]);

/**
 * vm_start() - Start one
 * @rom:	From guest_write_rom()
 * @incoming:	Wait for migrate-incoming; else the guest runs, guest_wait() says when
 * @more:	Arguments of QEMU's, NULL at the end; may be NULL
 */
int vm_start(struct vm *vm, const struct vm_kind *kind, const char *rom, const char *serial,
	     bool incoming, const char *const more[], struct wh_err *err);

/* All of its RAM as it is, whatever memory that is; it had better be stopped */
int vm_ram(const struct vm *vm, uint8_t ram[VM_RAM_BYTES], struct wh_err *err);

/* Into its first block of RAM, from outside: before it is migrated, or nobody knows of it */
int vm_put(const struct vm *vm, uint64_t at, const void *bytes, size_t length, struct wh_err *err);

/* Also after a vm_start() that failed */
void vm_end(struct vm *vm);

#endif /* LIB_VM_H */
