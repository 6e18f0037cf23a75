/* SPDX-License-Identifier: MIT */
#include "selftests/lib/vm.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"

#define ARGV_MAX 40
#define MIB (UINT64_C(1) << 20)

unsigned vm_blocks(enum vm_memory memory, struct vm_block block[VM_BLOCKS_MAX])
{
	uint64_t first = memory == VM_TWO ? 20 * MIB : VM_RAM_BYTES;

	block[0] = (struct vm_block){ .name = "ram0", .length = first };
	block[1] = (struct vm_block){ .name = "ram1", .length = VM_RAM_BYTES - first };
	return memory == VM_TWO ? 2 : 1;
}

/* Return: how many arguments there are then */
static unsigned add_ram(const char *argv[], unsigned n, enum vm_memory memory)
{
	static const char *const object[VM_MEMORY_COUNT] = {
		[VM_ANON] = "memory-backend-ram,id=ram0,size=32M",
		[VM_MEMFD] = "memory-backend-memfd,id=ram0,size=32M,share=on",
		[VM_HUGETLB] =
			"memory-backend-memfd,id=ram0,size=32M,share=on,hugetlb=on,hugetlbsize=2M",
		[VM_TWO] = "memory-backend-ram,id=ram0,size=20M",
	};

	argv[n++] = "-m";
	argv[n++] = "32";
	argv[n++] = "-object";
	argv[n++] = object[memory];
	if (memory != VM_TWO)
		return n;
	argv[n++] = "-object";
	argv[n++] = "memory-backend-memfd,id=ram1,size=12M,share=on";
	argv[n++] = "-numa";
	argv[n++] = "node,memdev=ram0";
	argv[n++] = "-numa";
	argv[n++] = "node,memdev=ram1";
	return n;
}

int vm_start(struct vm *vm, const struct vm_kind *kind, const char *rom, const char *serial,
	     bool incoming, const char *const more[], struct wh_err *err)
{
	static const char *const boards[VM_BOARD_COUNT] = {
		[VM_I440FX] = "i440fx",
		[VM_Q35] = "q35",
	};
	const char *argv[ARGV_MAX] = { "-accel", "tcg,thread=single", "-bios", rom };
	char why[160], machine[64], file[104];
	unsigned n = 4;

	vm->kind = *kind;
	snprintf(vm->serial, sizeof(vm->serial), "%s", serial);
	snprintf(machine, sizeof(machine), "pc-%s-%s%s", boards[kind->board],
		 qemu_version_name(kind->version),
		 kind->memory == VM_TWO ? "" : ",memory-backend=ram0");
	snprintf(file, sizeof(file), "file:%s", serial);
	argv[n++] = "-machine";
	argv[n++] = machine;
	argv[n++] = "-serial";
	argv[n++] = file;
	n = add_ram(argv, n, kind->memory);
	if (incoming) {
		argv[n++] = "-incoming";
		argv[n++] = "defer";
	}
	while (more && *more && n < ARGV_MAX - 1)
		argv[n++] = *more++;
	if (!qemu_program(kind->version, why, sizeof(why)))
		return err_set(err, -ENOENT, "%s", why);
	return qemu_start_program(&vm->qemu, qemu_program(kind->version, why, sizeof(why)), argv,
				  err);
}

/* The one mapping of just this length; RAM has one, with inaccessible neighbours */
static int find_block(const struct vm *vm, uint64_t length, uint64_t *at, struct wh_err *err)
{
	char path[64], line[512], rights[8];
	uint64_t from, to;
	unsigned found = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)vm->qemu.child.pid);
	maps = fopen(path, "re");
	if (!maps)
		return err_sys(err, errno, "%s", path);
	while (fgets(line, sizeof(line), maps)) {
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &from, &to, rights) != 3 ||
		    to - from != length || strncmp(rights, "rw", 2))
			continue;
		*at = from;
		found++;
	}
	fclose(maps);
	if (found == 1)
		return 0;
	return err_set(err, -ENOENT, "QEMU has %u mappings of %" PRIu64 " MiB", found,
		       length / MIB);
}

static int open_memory(const struct vm *vm, struct wh_err *err)
{
	char path[64];
	int fd;

	snprintf(path, sizeof(path), "/proc/%d/mem", (int)vm->qemu.child.pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	return fd < 0 ? err_sys(err, errno, "%s", path) : fd;
}

int vm_ram(const struct vm *vm, uint8_t ram[VM_RAM_BYTES], struct wh_err *err)
{
	struct vm_block block[VM_BLOCKS_MAX];
	unsigned blocks = vm_blocks(vm->kind.memory, block);
	int fd = open_memory(vm, err);
	int ret = fd < 0 ? fd : 0;

	for (unsigned i = 0; i < blocks && !ret; i++) {
		uint64_t at = 0;

		ret = find_block(vm, block[i].length, &at, err);
		if (!ret && pread(fd, ram, block[i].length, (off_t)at) != (ssize_t)block[i].length)
			ret = err_set(err, -EIO, "not all of block %s is to be read",
				      block[i].name);
		ram += block[i].length;
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

int vm_put(const struct vm *vm, uint64_t at, const void *bytes, size_t length, struct wh_err *err)
{
	struct vm_block block[VM_BLOCKS_MAX];
	uint64_t base = 0;
	int ret, fd;

	(void)vm_blocks(vm->kind.memory, block);
	ret = find_block(vm, block[0].length, &base, err);
	if (ret)
		return ret;
	fd = open_memory(vm, err);
	if (fd < 0)
		return fd;
	if (pwrite(fd, bytes, length, (off_t)(base + at)) != (ssize_t)length)
		ret = err_set(err, -EIO, "not all of it could be put into QEMU's RAM");
	close(fd);
	return ret;
}

void vm_end(struct vm *vm)
{
	qemu_end(&vm->qemu);
}
