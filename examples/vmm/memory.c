/* SPDX-License-Identifier: MIT */
/*
 * The guest's memory: made, filled, and proved right.
 */
#include "machine.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif
#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))

int ram_open(struct vmm *vmm, struct wh_err *err)
{
	bool huge = vmm->config.memory == MEMORY_HUGETLB;
	int flags = MAP_PRIVATE | MAP_ANONYMOUS;
	int fd = -1;
	void *at;

	if (vmm->config.memory != MEMORY_PRIVATE) {
		flags = MAP_SHARED;
		fd = memfd_create("wherry-vmm",
				  MFD_CLOEXEC | (huge ? MFD_HUGETLB | MFD_HUGE_2MB : 0));
		if (fd < 0 || ftruncate(fd, (off_t)vmm->config.ram_bytes) < 0)
			return fail(err, -errno, "memfd of %" PRIu64 " bytes: %m",
				    vmm->config.ram_bytes);
	}
	at = mmap(NULL, vmm->config.ram_bytes, PROT_READ | PROT_WRITE, flags, fd, 0);
	if (at == MAP_FAILED)
		return fail(err, -errno, "RAM of %" PRIu64 " MiB: %m%s",
			    vmm->config.ram_bytes >> 20,
			    huge ? " (see sysctl vm.nr_hugepages)" : "");
	vmm->ram = (struct wh_block){
		.name = "ram",
		.addr = at,
		.length = vmm->config.ram_bytes,
		.page_size = huge ? 2u << 20 : PAGE_BYTES,
		.fd = fd,
	};
	return 0;
}

/*
 * What a page contains, with the processors where they are: all that memory is made and
 * proved by. Words of a page differ from each other and from those of any other page.
 * Return: false if all of it is zero
 */
static bool page_expect(const struct vmm *vmm, uint64_t page, uint64_t *words)
{
	uint64_t cpu = (page - SHARES_FIRST) / vmm->share_pages;
	const struct cpu *at;

	memset(words, 0, PAGE_BYTES);
	if (!page)
		memcpy(words, vmm_program, (size_t)(vmm_program_end - vmm_program));
	if (page < SHARES_FIRST || cpu >= vmm->config.cpus)
		return !page;
	for (uint64_t i = 0; i < PAGE_WORDS; i++) {
		words[i] = (page * PAGE_WORDS + i + 1) * 0x9e3779b97f4a7c15ull;
		words[i] ^= words[i] >> 29;
	}
	at = &vmm->cpu[cpu];
	*(uint8_t *)words = (uint8_t)(at->state.passes + (page - at->first < at->state.pages));
	return true;
}

void ram_fill(const struct vmm *vmm)
{
	uint64_t words[PAGE_WORDS];

	for (uint64_t page = 0; page < vmm->ram.length / PAGE_BYTES; page++)
		if (page_expect(vmm, page, words))
			memcpy(ram_page(vmm, page), words, PAGE_BYTES);
}

int ram_verify_page(const struct vmm *vmm, uint64_t page, struct wh_err *err)
{
	static const uint8_t zero[PAGE_BYTES];
	const uint8_t *at = ram_page(vmm, page);
	uint64_t words[PAGE_WORDS];
	const uint8_t *wanted = (const uint8_t *)words;
	unsigned i = 0;

	if (vmm->config.nic && page >= NIC_FRAME_PAGE && page <= NIC_TABLE_PAGE)
		return 0; /* those who ask it can tell */
	page_expect(vmm, page, words);
	if (!memcmp(at, wanted, PAGE_BYTES))
		return 0;
	while (at[i] == wanted[i])
		i++;
	return fail(err, -EILSEQ,
		    "first bad address 0x%" PRIx64 ": page %" PRIu64
		    " byte %u is 0x%02x, should be 0x%02x%s",
		    page * PAGE_BYTES + i, page, i, at[i], wanted[i],
		    memcmp(at, zero, PAGE_BYTES) ? "" : " (all of the page is zero)");
}

int ram_verify(const struct vmm *vmm, struct wh_err *err)
{
	int ret = 0;

	for (uint64_t page = 0; page < vmm->ram.length / PAGE_BYTES && !ret; page++)
		ret = ram_verify_page(vmm, page, err);
	return ret;
}
