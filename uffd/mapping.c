/* SPDX-License-Identifier: MIT */
/* Edge: /proc/self/smaps, and advice about huge pages. */
#include "uffd/mapping.h"

#include "base/err.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/sysmacros.h>

/* One mapping of the list: the line with its addresses, and what follows of interest */
struct vma {
	uint64_t start;
	uint64_t end;
	uint64_t offset;
	uint64_t page_size;
	unsigned long inode;
	dev_t dev;
	struct mapping kind;
};

/* A number at @text that ends in @end; where it goes on, or NULL */
static const char *take(const char *text, int base, char end, uint64_t *number)
{
	char *after;

	if (!text)
		return NULL;
	*number = strtoull(text, &after, base);
	return after > text && *after == end ? after + 1 : NULL;
}

/* "7f0000000000-7f0000200000 rw-s 00000000 00:01 1234   /memfd:name (deleted)" */
static bool vma_head(const char *line, struct vma *vma)
{
	uint64_t major, minor;
	const char *mode;

	*vma = (struct vma){ .kind.advice = -1 };
	line = take(line, 16, '-', &vma->start);
	mode = take(line, 16, ' ', &vma->end);
	if (!mode || strnlen(mode, 5) < 5)
		return false;
	line = take(mode + 5, 16, ' ', &vma->offset);
	line = take(line, 16, ':', &major);
	line = take(line, 16, ' ', &minor);
	if (!line)
		return false;
	vma->dev = makedev((unsigned)major, (unsigned)minor);
	vma->inode = strtoul(line, NULL, 10);
	vma->kind.shared = mode[3] == 's';
	vma->kind.file = vma->inode != 0;
	return true;
}

/* True for the line that ends the description of a mapping */
static bool vma_detail(const char *line, struct vma *vma)
{
	static const char size[] = "KernelPageSize:";
	static const char flags[] = "VmFlags:";

	if (strncmp(line, size, sizeof(size) - 1) == 0)
		vma->page_size = strtoull(line + sizeof(size) - 1, NULL, 10) * 1024;
	if (strncmp(line, flags, sizeof(flags) - 1) != 0)
		return false;
	vma->kind.hugetlb = strstr(line, " ht") != NULL;
	if (strstr(line, " hg"))
		vma->kind.advice = MADV_HUGEPAGE;
	if (strstr(line, " nh"))
		vma->kind.advice = MADV_NOHUGEPAGE;
	return true;
}

static int vma_check_file(const struct vma *vma, const struct region *region, struct wh_err *err)
{
	uint64_t expected = region->fd_offset + (vma->start - (uintptr_t)region->addr);
	struct stat stat;

	if (region->fd < 0)
		return 0;
	if (fstat(region->fd, &stat) < 0)
		return err_sys(err, errno, "block '%s': descriptor %d", region->name, region->fd);
	if (stat.st_ino != vma->inode || stat.st_dev != vma->dev)
		return err_set(err, -EINVAL,
			       "block '%s': descriptor %d is of inode %lu, but inode %lu is mapped "
			       "at %#" PRIx64,
			       region->name, region->fd, (unsigned long)stat.st_ino, vma->inode,
			       vma->start);
	if (vma->offset != expected)
		return err_set(err, -EINVAL,
			       "block '%s': offset %#" PRIx64 " of its file is mapped at %#" PRIx64
			       ", not %#" PRIx64,
			       region->name, vma->offset, vma->start, expected);
	return 0;
}

/* Make the mapping begin where the block does; it may begin before */
static void vma_cut(struct vma *vma, const struct region *region)
{
	uint64_t addr = (uintptr_t)region->addr;

	if (vma->start < addr) {
		vma->offset += addr - vma->start;
		vma->start = addr;
	}
}

static int vma_check(const struct vma *vma, const struct region *region,
		     const struct mapping *mapping, bool first, struct wh_err *err)
{
	if (vma->page_size != region->page_size)
		return err_set(err, -EINVAL,
			       "block '%s': has pages of %" PRIu64 " bytes at %#" PRIx64
			       ", not %" PRIu64,
			       region->name, vma->page_size, vma->start, region->page_size);
	if (!first && (vma->kind.shared != mapping->shared || vma->kind.file != mapping->file))
		return err_set(err, -EINVAL,
			       "block '%s': is of two kinds of memory, from %#" PRIx64
			       " on of another than before",
			       region->name, vma->start);
	return vma_check_file(vma, region, err);
}

static int search(FILE *smaps, struct mapping *mapping, const struct region *region,
		  struct wh_err *err)
{
	uint64_t at = (uintptr_t)region->addr, end = at + region->length;
	struct vma vma = { 0 };
	bool inside = false;
	size_t room = 0;
	char *line = NULL;
	int ret = 0;

	while (at < end && ret == 0 && getline(&line, &room, smaps) >= 0) {
		struct vma head;

		if (vma_head(line, &head)) {
			vma = head;
			inside = vma.end > at;
			if (vma.start > at)
				break;
			vma_cut(&vma, region);
		} else if (inside && vma_detail(line, &vma)) {
			bool first = at == (uintptr_t)region->addr;

			ret = vma_check(&vma, region, mapping, first, err);
			if (first)
				*mapping = vma.kind;
			at = vma.end;
			inside = false;
		}
	}
	free(line);
	if (ret < 0)
		return ret;
	if (at < end)
		return err_set(err, -EFAULT,
			       "block '%s': nothing is mapped at %#" PRIx64 ", %" PRIu64
			       " bytes before its end",
			       region->name, at, end - at);
	return 0;
}

/* A line with all settings there are, "always [madvise] never"; false: no huge pages */
static bool read_setting(bool file, char line[128])
{
	FILE *setting = fopen(file ? "/sys/kernel/mm/transparent_hugepage/shmem_enabled" :
				     "/sys/kernel/mm/transparent_hugepage/enabled",
			      "re");
	bool good;

	if (!setting)
		return false;
	good = fgets(line, 128, setting) != NULL;
	fclose(setting);
	return good;
}

/* Does the system make huge pages of memory for which nobody asked? */
static bool huge_by_itself(const char *line)
{
	return strstr(line, "[always]") || strstr(line, "[within_size]") || strstr(line, "[force]");
}

/*
 * "never" is an order for private memory. For files it is what systems come with, and
 * MADV_COLLAPSE does not mind; the order is "deny".
 */
static void find_huge(struct mapping *mapping)
{
	bool asked = mapping->advice == MADV_HUGEPAGE;
	char line[128];

	/* Neither does the kernel make huge ones of a private mapping's copies */
	if (mapping->hugetlb || mapping->advice == MADV_NOHUGEPAGE ||
	    mapping->file != mapping->shared || !read_setting(mapping->file, line))
		return;
	mapping->huge = huge_by_itself(line) ||
			(asked && !strstr(line, mapping->file ? "[deny]" : "[never]"));
	mapping->huge_by_touch = huge_by_itself(line) ||
				 (asked && strstr(line, mapping->file ? "[advise]" : "[madvise]"));
}

int mapping_find(struct mapping *mapping, const struct region *region, struct wh_err *err)
{
	FILE *smaps = fopen("/proc/self/smaps", "re");
	int ret;

	if (!smaps)
		return err_sys(err, errno, "block '%s': /proc/self/smaps", region->name);
	ret = search(smaps, mapping, region, err);
	fclose(smaps);
	if (ret == 0)
		find_huge(mapping);
	return ret;
}

int mapping_restore(const struct mapping *mapping, const struct region *region, struct wh_err *err)
{
	int advice = mapping->advice;
	char line[128];

	if (mapping->hugetlb || advice == MADV_NOHUGEPAGE)
		return 0;
	if (advice < 0 && (!read_setting(mapping->file, line) || !huge_by_itself(line)))
		return 0;
	if (madvise(region->addr, region->length, MADV_HUGEPAGE) < 0)
		return err_sys(err, errno, "block '%s': madvise(MADV_HUGEPAGE)", region->name);
	return 0;
}

int mapping_populate(const struct region *region, uint8_t *begin, uint64_t offset, uint64_t length,
		     struct wh_err *err)
{
	int ret;

	do {
		ret = madvise(begin + offset, length, MADV_POPULATE_WRITE);
	} while (ret < 0 && errno == EINTR);
	if (ret == 0)
		return 0;
	if (errno == EINVAL)
		return err_set(err, -EOPNOTSUPP,
			       "block '%s': no pages ahead: this kernel has no "
			       "MADV_POPULATE_WRITE (Linux 5.14)",
			       region->name);
	/* What would be SIGBUS to who touched it: the file may not grow, no huge page is left */
	if (errno == EFAULT)
		return err_set(err, -ENOSPC,
			       "block '%s': no pages ahead from %#" PRIx64
			       " on: its file has no room for more",
			       region->name, offset);
	return err_sys(err, errno, "block '%s': no pages ahead from %#" PRIx64 " on", region->name,
		       offset);
}
