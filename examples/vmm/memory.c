/* SPDX-License-Identifier: MIT */
/*
 * The guest's memory: made, filled, and proved right.
 */
#include "vmm.h"

#include <errno.h>
#include <inttypes.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#ifndef MFD_HUGE_2MB
#define MFD_HUGE_2MB (21U << 26)
#endif

#define PAGE_WORDS (PAGE_BYTES / sizeof(uint64_t))

static const char *const memory_names[] = {
	[MEMORY_PRIVATE] = "private",
	[MEMORY_MEMFD] = "memfd",
	[MEMORY_HUGETLB] = "hugetlb",
};
_Static_assert(sizeof(memory_names) / sizeof(memory_names[0]) == MEMORY_COUNT,
	       "a name for each kind of memory");

const char *memory_name(enum memory_kind kind)
{
	return memory_names[kind];
}

int ram_open(struct ram *ram, enum memory_kind kind, uint64_t bytes, struct wh_err *err)
{
	unsigned flags = MFD_CLOEXEC;
	void *at;

	*ram = (struct ram){ .bytes = bytes, .page_bytes = PAGE_BYTES, .fd = -1 };
	if (kind == MEMORY_HUGETLB) {
		flags |= MFD_HUGETLB | MFD_HUGE_2MB;
		ram->page_bytes = 2u << 20;
	}
	if (bytes % ram->page_bytes)
		return fail(err, -EINVAL,
			    "RAM of %" PRIu64 " bytes is not made of pages of %" PRIu64, bytes,
			    ram->page_bytes);
	if (kind == MEMORY_PRIVATE) {
		at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	} else {
		ram->fd = memfd_create("wherry-vmm", flags);
		if (ram->fd < 0)
			return fail(err, -errno, "memfd_create: %m");
		if (ftruncate(ram->fd, (off_t)bytes) < 0)
			return fail(err, -errno, "memfd of %" PRIu64 " bytes: %m", bytes);
		at = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, ram->fd, 0);
	}
	if (at == MAP_FAILED)
		return fail(err, -errno, "RAM of %" PRIu64 " MiB, %s: %m%s", bytes >> 20,
			    memory_name(kind),
			    kind == MEMORY_HUGETLB ? " (see sysctl vm.nr_hugepages)" : "");
	ram->at = at;
	return 0;
}

/* Words of a page differ from each other and from those of every other page. */
static uint64_t pattern_word(uint64_t page, uint64_t word)
{
	uint64_t x = (page * PAGE_WORDS + word + 1) * 0x9e3779b97f4a7c15ull;

	return x ^ x >> 29;
}

/* Byte 0 is stepped from 0 on. */
static uint64_t first_word(uint64_t page, uint8_t stepped)
{
	uint64_t word = pattern_word(page, 0);

	memcpy(&word, &stepped, 1);
	return word;
}

static size_t program_bytes(const struct guest *guest)
{
	(void)guest;
#if defined(__x86_64__)
	return (size_t)(vmm_program_end - vmm_program);
#else
	return 0; /* plain threads only */
#endif
}

void ram_fill(const struct guest *guest)
{
	if (program_bytes(guest))
		memcpy(guest->ram.at + PROGRAM_AT, vmm_program, program_bytes(guest));
	for (unsigned i = 0; i < guest->cpus; i++) {
		const struct cpu *cpu = &guest->cpu[i];

		for (uint64_t page = cpu->first; page < cpu->first + cpu->pages; page++) {
			uint8_t *at = guest->ram.at + page * PAGE_BYTES;
			uint64_t word = first_word(page, 0);

			memcpy(at, &word, sizeof(word));
			for (uint64_t w = 1; w < PAGE_WORDS; w++) {
				word = pattern_word(page, w);
				memcpy(at + w * sizeof(word), &word, sizeof(word));
			}
		}
	}
}

static int verify_word(const struct guest *guest, uint64_t address, uint64_t expected,
		       struct wh_err *err)
{
	static const uint8_t zero[PAGE_BYTES];
	const uint8_t *page = guest->ram.at + address / PAGE_BYTES * PAGE_BYTES;
	const uint8_t *at = guest->ram.at + address;
	uint8_t wanted[sizeof(expected)];
	unsigned i = 0;

	if (!memcmp(at, &expected, sizeof(expected)))
		return 0;
	memcpy(wanted, &expected, sizeof(expected));
	while (at[i] == wanted[i])
		i++;
	return fail(err, -EILSEQ,
		    "first bad address 0x%" PRIx64 ": page %" PRIu64 " byte %" PRIu64
		    " is 0x%02x, should be 0x%02x%s",
		    address + i, address / PAGE_BYTES, (address + i) % PAGE_BYTES, at[i], wanted[i],
		    memcmp(page, zero, PAGE_BYTES) ? "" : " (all of the page is zero)");
}

static int verify_zero(const struct guest *guest, uint64_t from, uint64_t to, struct wh_err *err)
{
	int ret = 0;

	for (uint64_t at = from; at < to && !ret; at += sizeof(uint64_t))
		ret = verify_word(guest, at, 0, err);
	return ret;
}

/* The program, and zeros behind it up to the shares. */
static int verify_low(const struct guest *guest, struct wh_err *err)
{
	uint8_t low[PAGE_BYTES] = { 0 };
	int ret = 0;

	if (program_bytes(guest))
		memcpy(low + PROGRAM_AT, vmm_program, program_bytes(guest));
	for (uint64_t at = 0; at < PAGE_BYTES && !ret; at += sizeof(uint64_t)) {
		uint64_t word;

		memcpy(&word, low + at, sizeof(word));
		ret = verify_word(guest, at, word, err);
	}
	return ret ? ret : verify_zero(guest, PAGE_BYTES, SHARES_FIRST * PAGE_BYTES, err);
}

static int verify_page(const struct guest *guest, uint64_t page, uint8_t stepped,
		       struct wh_err *err)
{
	int ret = verify_word(guest, page * PAGE_BYTES, first_word(page, stepped), err);

	for (uint64_t w = 1; w < PAGE_WORDS && !ret; w++)
		ret = verify_word(guest, page * PAGE_BYTES + w * sizeof(uint64_t),
				  pattern_word(page, w), err);
	return ret;
}

static int verify_share(struct cpu *cpu, struct wh_err *err)
{
	struct place place;
	int ret = cpu->guest->ops->where(cpu, &place, err);

	for (uint64_t i = 0; i < cpu->pages && !ret; i++)
		ret = verify_page(cpu->guest, cpu->first + i,
				  (uint8_t)(place.passes + (i < place.pages)), err);
	return ret;
}

int ram_verify(struct guest *guest, struct wh_err *err)
{
	const struct cpu *last = &guest->cpu[guest->cpus - 1];
	int ret = verify_low(guest, err);

	for (unsigned i = 0; i < guest->cpus && !ret; i++)
		ret = verify_share(&guest->cpu[i], err);
	return ret ? ret :
		     verify_zero(guest, (last->first + last->pages) * PAGE_BYTES, guest->ram.bytes,
				 err);
}
