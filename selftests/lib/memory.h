/* SPDX-License-Identifier: MIT */
#ifndef LIB_MEMORY_H
#define LIB_MEMORY_H

#include "base/region.h"

#include <stdbool.h>
#include <sys/types.h>
#include <wherry/err.h>

/* The kinds of memory a guest may have, for tests that are to hold on all of them */
enum memory_kind {
	MEMORY_ANON,		/* private anonymous, small pages */
	MEMORY_THP,		/* the same with MADV_HUGEPAGE */
	MEMORY_MEMFD,		/* memfd, shared */
	MEMORY_MEMFD_PRIVATE,	/* memfd, MAP_PRIVATE */
	MEMORY_HUGETLB,		/* memfd of 2 MiB pages, shared */
	MEMORY_HUGETLB_PRIVATE, /* private anonymous of 2 MiB pages */
	MEMORY_KIND_COUNT
};

/**
 * struct memory_traits - What is true of a kind
 * @name:	"anon", "hugetlb", ...
 * @page_size:	Bytes
 * @fd:		There is a file, region.fd is its descriptor
 * @shared:	MAP_SHARED
 */
struct memory_traits {
	const char *name;
	uint64_t page_size;
	bool fd;
	bool shared;
};

extern const struct memory_traits memory_traits[MEMORY_KIND_COUNT];

/* Huge pages added to the system's pool, and who takes them away again */
struct huge_pages {
	int hold; /* open as long as they are needed */
	pid_t keeper;
};

/**
 * struct memory - One piece, with inaccessible neighbours, aligned to 2 MiB
 * @region:	Named after its kind; of nothing but holes at first
 */
struct memory {
	enum memory_kind kind;
	struct region region;
	struct huge_pages huge_pages;
};

/**
 * memory_new() - Map some
 * @length:	Multiple of the kind's page size
 *
 * Adds as many pages to vm.nr_hugepages as it needs, if any.
 *
 * Return: 0; -EACCES if huge pages are not ours to add; or a negative errno; with a
 * sentence
 */
int memory_new(struct memory *memory, enum memory_kind kind, uint64_t length, struct wh_err *err);
/* Other mappings of its file are to be gone by then, or others' huge pages are taken away */
void memory_free(struct memory *memory);

/* Pages of 4 KiB that are in this process's page table; nothing is touched */
uint64_t memory_mapped(const void *at, uint64_t length);

/**
 * huge_pages_take() - Add to the pool of 2 MiB pages
 *
 * They are taken away again by huge_pages_drop(), or when this process and those it
 * has forked have ended, however they do.
 */
int huge_pages_take(struct huge_pages *huge_pages, unsigned count, struct wh_err *err);
void huge_pages_drop(struct huge_pages *huge_pages);

#endif /* LIB_MEMORY_H */
