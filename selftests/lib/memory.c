/* SPDX-License-Identifier: MIT */
#include "selftests/lib/memory.h"

#include "base/err.h"

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <unistd.h>

#define HUGE_BYTES (UINT64_C(2) << 20)

const struct memory_traits memory_traits[MEMORY_KIND_COUNT] = {
	[MEMORY_ANON] = { .name = "anon", .page_size = TARGET_PAGE },
	[MEMORY_THP] = { .name = "thp", .page_size = TARGET_PAGE },
	[MEMORY_MEMFD] = { .name = "memfd", .page_size = TARGET_PAGE, .fd = true, .shared = true },
	[MEMORY_MEMFD_PRIVATE] = { .name = "memfd-private", .page_size = TARGET_PAGE, .fd = true },
	[MEMORY_HUGETLB] = { .name = "hugetlb",
			     .page_size = HUGE_BYTES,
			     .fd = true,
			     .shared = true },
	[MEMORY_HUGETLB_PRIVATE] = { .name = "hugetlb-private", .page_size = HUGE_BYTES },
};

#define POOL "/sys/kernel/mm/hugepages/hugepages-2048kB/"
static const char pool_path[] = POOL "nr_hugepages";

static long pool_read(const char *path)
{
	FILE *file = fopen(path, "re");
	char text[32] = "";

	if (!file)
		return -errno;
	if (!fgets(text, sizeof(text), file))
		text[0] = '\0';
	fclose(file);
	return strtol(text, NULL, 10);
}

/*
 * Pages that were taken away while they were in use are surplus until they are free; they
 * go by themselves.
 */
static long pool_size(void)
{
	long surplus = pool_read(POOL "surplus_hugepages");

	return pool_read(pool_path) - (surplus > 0 ? surplus : 0);
}

/*
 * Other tests run at the same time and do the same: the pool's size is only ever
 * changed by a difference, by one at a time.
 *
 * Return: by how much it was changed
 */
static long pool_change(long pages)
{
	int fd = open(pool_path, O_RDWR | O_CLOEXEC);
	long before, after;
	char text[32];

	if (fd < 0)
		return -errno;
	flock(fd, LOCK_EX);
	before = pool_size();
	snprintf(text, sizeof(text), "%ld", before + pages < 0 ? 0 : before + pages);
	if (pwrite(fd, text, strlen(text), 0) < 0)
		after = -errno;
	else
		after = pool_size() - before;
	close(fd); /* and unlocked */
	return after;
}

/*
 * The keeper: adds them, says how many there are, and takes them away when nobody holds
 * the other end of its pipe any more. It has a session of its own, so that what ends the
 * test does not end it.
 */
static void keep(int hold, int report, long pages)
{
	ssize_t told;
	char nothing;
	long added;

	setsid();
	signal(SIGPIPE, SIG_IGN);
	added = pool_change(pages);
	/* Should nobody be left to read it, the next read ends at once */
	told = write(report, &added, sizeof(added));
	(void)told;
	dup2(hold, 0);
	close_range(1, ~0U, 0);
	while (read(0, &nothing, 1) < 0 && errno == EINTR)
		;
	if (added > 0)
		pool_change(-added);
	_exit(0);
}

int huge_pages_take(struct huge_pages *huge_pages, unsigned count, struct wh_err *err)
{
	int hold[2], report[2];
	long added = -EIO;

	*huge_pages = (struct huge_pages){ .hold = -1, .keeper = -1 };
	if (pipe2(hold, O_CLOEXEC) < 0 || pipe2(report, O_CLOEXEC) < 0)
		return err_sys(err, errno, "huge pages: pipe");
	huge_pages->hold = hold[1];
	huge_pages->keeper = fork();
	if (huge_pages->keeper == 0) {
		close(hold[1]);
		close(report[0]);
		keep(hold[0], report[1], count);
	}
	close(hold[0]);
	close(report[1]);
	while (read(report[0], &added, sizeof(added)) < 0 && errno == EINTR)
		;
	close(report[0]);
	if (added == (long)count)
		return 0;
	huge_pages_drop(huge_pages);
	if (added < 0)
		return err_sys(err, (int)added, "%s", pool_path);
	return err_set(err, -ENOMEM, "%s: %ld pages more instead of %u", pool_path, added, count);
}

void huge_pages_drop(struct huge_pages *huge_pages)
{
	if (huge_pages->hold >= 0)
		close(huge_pages->hold);
	if (huge_pages->keeper > 0)
		waitpid(huge_pages->keeper, NULL, 0);
	*huge_pages = (struct huge_pages){ .hold = -1, .keeper = -1 };
}

static int map(struct memory *memory, struct wh_err *err)
{
	bool huge = memory_traits[memory->kind].page_size == HUGE_BYTES;
	bool shared = memory_traits[memory->kind].shared;
	struct region *region = &memory->region;
	int flags = MAP_FIXED | (shared ? MAP_SHARED : MAP_PRIVATE);
	uint64_t around = region->length + 3 * HUGE_BYTES;
	uint8_t *room;

	if (memory_traits[memory->kind].fd) {
		region->fd = memfd_create(region->name, MFD_CLOEXEC | (huge ? MFD_HUGETLB : 0));
		if (region->fd < 0 || ftruncate(region->fd, (off_t)region->length) < 0)
			return err_sys(err, errno, "memory '%s': memfd", region->name);
	} else {
		flags |= MAP_ANONYMOUS | (huge ? MAP_HUGETLB : 0);
	}
	room = mmap(NULL, around, PROT_NONE, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
	if (room == MAP_FAILED)
		return err_sys(err, errno, "memory '%s': room", region->name);
	/* At least one huge page of nothing on each side */
	room += HUGE_BYTES + (-(uintptr_t)room & (HUGE_BYTES - 1));
	region->addr = mmap(room, region->length, PROT_READ | PROT_WRITE, flags, region->fd, 0);
	if (region->addr == MAP_FAILED) {
		region->addr = NULL;
		return err_sys(err, errno, "memory '%s': %" PRIu64 " bytes", region->name,
			       region->length);
	}
	if (memory->kind == MEMORY_THP && madvise(region->addr, region->length, MADV_HUGEPAGE) < 0)
		return err_sys(err, errno, "memory '%s': MADV_HUGEPAGE", region->name);
	return 0;
}

int memory_new(struct memory *memory, enum memory_kind kind, uint64_t length, struct wh_err *err)
{
	uint64_t page = memory_traits[kind].page_size;
	int ret = 0;

	*memory = (struct memory){
		.kind = kind,
		.region = { .length = length, .page_size = page, .fd = -1 },
		.huge_pages = { .hold = -1, .keeper = -1 },
	};
	snprintf(memory->region.name, sizeof(memory->region.name), "%s", memory_traits[kind].name);
	if (page == HUGE_BYTES)
		ret = huge_pages_take(&memory->huge_pages, (unsigned)(length / page), err);
	if (ret == 0)
		ret = map(memory, err);
	if (ret < 0)
		memory_free(memory);
	return ret;
}

/* The address space around it stays taken: nothing else comes to lie where it was */
void memory_free(struct memory *memory)
{
	if (memory->region.addr)
		munmap(memory->region.addr, memory->region.length);
	if (memory->region.fd >= 0)
		close(memory->region.fd);
	memory->region.addr = NULL;
	memory->region.fd = -1;
	huge_pages_drop(&memory->huge_pages);
}

uint64_t memory_mapped(const void *at, uint64_t length)
{
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	uint64_t first = (uintptr_t)at / 4096, end = first + length / 4096;
	uint64_t entry[512], count = 0;
	ssize_t got = 0;

	for (; first < end; first += (uint64_t)got / 8) {
		uint64_t most = end - first < 512 ? end - first : 512;

		got = pread(fd, entry, most * 8, (off_t)(first * 8));
		if (got < 8)
			abort();
		for (uint64_t i = 0; i < (uint64_t)got / 8; i++)
			count += entry[i] >> 63;
	}
	close(fd);
	return count;
}
