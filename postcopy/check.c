/* SPDX-License-Identifier: MIT */
/*
 * Joining: what this machine can do, tried with the edges that would use it.
 */
#include <wherry/check.h>

#include "base/err.h"
#include "netplug/probe.h"
#include "ring/loop.h"
#include "ring/setup.h"
#include "uffd/abi.h"
#include "uffd/uffd.h"
#ifndef WH_NO_RDMA
#include "rdma/probe.h"
#endif

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include <linux/kvm.h>

#define HUGE_BYTES (2u << 20)
#define HUGE_SHIFT 21
#define TEXT_BYTES 300
#define LINE_BYTES 100

struct check {
	void (*item)(void *opaque, const struct wh_check_item *item);
	void *opaque;
	const char *area;
	int missing; /* of what is needed */
};

enum need {
	USEFUL,
	NEEDED,
};

static const char kernel_new[] = "apt-get install -t bookworm-backports linux-image-amd64";

static void tell(struct check *check, const char *name, enum need need, bool present,
		 const char *detail, const char *remedy)
{
	const struct wh_check_item item = {
		.area = check->area,
		.name = name,
		.present = present,
		.needed = need == NEEDED,
		.detail = detail,
		.remedy = present ? "" : remedy,
	};

	check->missing += item.needed && !present;
	check->item(check->opaque, &item);
}

/* "what: why", or why alone */
static const char *reason(char text[TEXT_BYTES], const char *what, int code)
{
	struct wh_err err;

	err_sys(&err, code, "%s", what);
	snprintf(text, TEXT_BYTES, "%s", err.text);
	return text;
}

/* First line of a file of /proc or /sys, "" if it cannot be read */
static void file_line(const char *path, char text[LINE_BYTES])
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	ssize_t n = fd < 0 ? 0 : read(fd, text, LINE_BYTES - 1);

	text[n > 0 ? n : 0] = '\0';
	text[strcspn(text, "\n")] = '\0';
	if (fd >= 0)
		close(fd);
}

/* By bit. Each is used where the kernel has it, and something slower where not. */
static const struct {
	const char *use;
	const char *since;
} feature_uses[] = {
	[0] = { "write-protect faults", "5.7" },
	[1] = { "told of fork", "4.11" },
	[2] = { "told of mremap", "4.11" },
	[3] = { "told of dropped memory (balloon)", "4.11" },
	[4] = { "hugetlb memory", "4.11" },
	[5] = { "memfd memory", "4.11" },
	[6] = { "told of munmap", "4.11" },
	[7] = { "SIGBUS instead of messages", "4.14" },
	[8] = { "which thread waits", "4.14" },
	[9] = { "placing hugetlb memory without a copy", "5.13" },
	[10] = { "placing memfd memory without a copy", "5.14" },
	[11] = { "addresses within the page", "5.18" },
	[12] = { "write-protect of memfd and hugetlb memory", "5.19" },
	[13] = { "write-protect of empty memory", "6.4" },
	[14] = { "pages that are lost raise SIGBUS", "6.6" },
	[15] = { "dirty pages without messages", "6.7" },
	[16] = { "moving pages instead of copying", "6.8" },
};

static void check_features(struct check *check, uint64_t offered)
{
	for (unsigned bit = 0; bit < sizeof(feature_uses) / sizeof(feature_uses[0]); bit++) {
		const char *name = uffd_feature_name(bit);
		char detail[TEXT_BYTES];

		if (!name)
			break;
		snprintf(detail, sizeof(detail), "%s (Linux %s)", feature_uses[bit].use,
			 feature_uses[bit].since);
		tell(check, name, USEFUL, offered >> bit & 1, detail, kernel_new);
	}
}

/* Walks one page of our own, which changes nothing. */
static int scan_page(void)
{
	static const char page[1];
	uint64_t size = (uint64_t)sysconf(_SC_PAGESIZE);
	uint64_t start = (uintptr_t)page & ~(size - 1);
	struct page_region region;
	struct pm_scan_arg arg = {
		.size = sizeof(arg),
		.start = start,
		.end = start + size,
		.vec = (uintptr_t)&region,
		.vec_len = 1,
		.category_mask = PAGE_IS_PRESENT,
		.return_mask = PAGE_IS_PRESENT,
	};
	int fd = open("/proc/self/pagemap", O_RDONLY | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return -errno;
	ret = ioctl(fd, PAGEMAP_SCAN, &arg) < 0 ? -errno : 0;
	close(fd);
	return ret;
}

static void check_pagemap(struct check *check)
{
	char detail[TEXT_BYTES];
	int code = scan_page();

	tell(check, "PAGEMAP_SCAN", USEFUL, code == 0,
	     code == 0	     ? "dirty pages are read and protected in one call" :
	     code == -ENOTTY ? "this kernel has none (Linux 6.7)" :
			       reason(detail, "/proc/self/pagemap", code),
	     code == -ENOTTY ? kernel_new : "");
}

static void check_uffd(struct check *check)
{
	struct wh_err err = { 0 };
	char detail[TEXT_BYTES];
	struct uffd uffd;
	int ret;

	check->area = "userfaultfd";
	ret = uffd_open(&uffd, 0, true, &err);
	if (ret == 0) {
		snprintf(detail, sizeof(detail), "by %s", uffd_route_name(uffd.route));
		tell(check, "descriptor", NEEDED, true, detail, "");
	} else {
		tell(check, "descriptor", NEEDED, false, err.text,
		     ret == -EPERM  ? "sysctl vm.unprivileged_userfaultfd=1" :
		     ret == -ENOSYS ? kernel_new :
				      "");
		/* The kernel's features can be asked for all the same. */
		ret = uffd_open(&uffd, 0, false, NULL);
	}
	if (ret == 0) {
		check_features(check, uffd.offered);
		uffd_close(&uffd);
	}
	check_pagemap(check);
}

static const char *ring_remedy(int code)
{
	if (code == -EPERM && setup_disabled())
		return "sysctl kernel.io_uring_disabled=0";
	if (code == -ENOMEM)
		return "ulimit -l unlimited";
	return code == -ENOSYS || code == -EINVAL || code == -EOPNOTSUPP ? kernel_new : "";
}

static void check_ring(struct check *check)
{
	struct loop_caps caps = { 0 };
	struct wh_err err = { 0 };
	struct loop *loop;
	int ret;

	check->area = "io_uring";
	ret = loop_open(&loop, 64, &err);
	if (ret == 0)
		loop_get_caps(loop, &caps);
	tell(check, "ring", NEEDED, ret == 0,
	     ret == 0 ? "set up, with every operation that is used" : err.text, ring_remedy(ret));
	loop_close(loop);
	tell(check, "SINGLE_ISSUER", USEFUL, caps.single_issuer,
	     ret == 0 ? "cheaper: one thread submits (Linux 6.0)" : "not known without a ring",
	     ret == 0 ? kernel_new : "");
	tell(check, "DEFER_TASKRUN", USEFUL, caps.defer_taskrun,
	     ret == 0 ? "cheaper: no interruption between steps (Linux 6.1)" :
			"not known without a ring",
	     ret == 0 ? kernel_new : "");
}

/* Reserves a page for a moment; it is not touched. */
static void check_hugetlb(struct check *check)
{
	static const char free_path[] = "/sys/kernel/mm/hugepages/hugepages-2048kB/free_hugepages";
	char pages[LINE_BYTES], detail[TEXT_BYTES];
	void *memory;

	if (access(free_path, F_OK) < 0) {
		tell(check, "hugetlb 2M", USEFUL, false,
		     "this kernel has no huge pages of 2 MiB (CONFIG_HUGETLBFS)", "");
		return;
	}
	file_line(free_path, pages);
	memory = mmap(NULL, HUGE_BYTES, PROT_READ | PROT_WRITE,
		      MAP_PRIVATE | MAP_ANONYMOUS | MAP_HUGETLB | HUGE_SHIFT << MAP_HUGE_SHIFT, -1,
		      0);
	if (memory == MAP_FAILED) {
		reason(detail, "a page of 2 MiB", errno);
	} else {
		munmap(memory, HUGE_BYTES);
		snprintf(detail, sizeof(detail), "%s pages of 2 MiB are free", pages);
	}
	tell(check, "hugetlb 2M", USEFUL, memory != MAP_FAILED, detail,
	     "sysctl vm.nr_hugepages=64");
}

/* The word in brackets is what is set. */
static void check_thp(struct check *check, const char *name, const char *path, const char *off,
		      const char *remedy)
{
	char line[LINE_BYTES], detail[TEXT_BYTES];
	char *word;

	file_line(path, line);
	word = strchr(line, '[');
	if (!word) {
		tell(check, name, USEFUL, false,
		     "this kernel has none (CONFIG_TRANSPARENT_HUGEPAGE)", "");
		return;
	}
	word++;
	word[strcspn(word, "]")] = '\0';
	snprintf(detail, sizeof(detail), "%s is '%s'", path, word);
	tell(check, name, USEFUL, strcmp(word, off) != 0 && strcmp(word, "deny") != 0, detail,
	     remedy);
}

static void check_memfd(struct check *check)
{
	char detail[TEXT_BYTES] = "memory with a descriptor";
	int fd = memfd_create("wherry-check", MFD_CLOEXEC);
	bool present = fd >= 0 && ftruncate(fd, HUGE_BYTES) == 0;

	if (!present)
		reason(detail, "memfd_create(2)", errno);
	if (fd >= 0)
		close(fd);
	tell(check, "memfd", USEFUL, present, detail, "");
}

static void check_memory(struct check *check)
{
	check->area = "memory";
	check_memfd(check);
	check_hugetlb(check);
	check_thp(check, "THP", "/sys/kernel/mm/transparent_hugepage/enabled", "never",
		  "echo madvise > /sys/kernel/mm/transparent_hugepage/enabled");
	check_thp(check, "THP of memfd", "/sys/kernel/mm/transparent_hugepage/shmem_enabled",
		  "never", "echo advise > /sys/kernel/mm/transparent_hugepage/shmem_enabled");
}

static const char *kvm_remedy(int code)
{
	switch (-code) {
	case ENOENT:
	case ENODEV:
		return "modprobe kvm_intel || modprobe kvm_amd";
	case EACCES:
		return "usermod -aG kvm $USER";
	default:
		return "";
	}
}

static void check_kvm(struct check *check)
{
	int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	int code = fd < 0 ? -errno : 0;
	char detail[TEXT_BYTES];
	int version, vm;

	check->area = "kvm";
	if (fd < 0) {
		tell(check, "device", USEFUL, false, reason(detail, "/dev/kvm", code),
		     kvm_remedy(code));
		return;
	}
	version = ioctl(fd, KVM_GET_API_VERSION, 0);
	snprintf(detail, sizeof(detail), "/dev/kvm, version %d of its API%s", version,
		 version == KVM_API_VERSION ? "" : ", not 12");
	tell(check, "device", USEFUL, version == KVM_API_VERSION, detail, "");
	vm = ioctl(fd, KVM_CREATE_VM, 0);
	if (vm < 0)
		reason(detail, "KVM_CREATE_VM", errno);
	tell(check, "virtual machine", USEFUL, vm >= 0, vm >= 0 ? "can be made" : detail, "");
	if (vm >= 0)
		close(vm);
	close(fd);
}

#ifndef WH_NO_RDMA
static const struct {
	const char *what;
	const char *remedy;
} verbs_parts[] = {
	[VERBS_CORE] = { "/sys/class/infiniband: the kernel's RDMA core", "modprobe ib_core" },
	[VERBS_UVERBS] = { "/dev/infiniband/uverbs*: verbs for programs",
			   "modprobe ib_uverbs; modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0" },
	[VERBS_CM] = { "/dev/infiniband/rdma_cm: connections", "modprobe rdma_ucm" },
	[VERBS_DEVICE] = { "a device of libibverbs",
			   "modprobe rdma_rxe; rdma link add rxe0 type rxe netdev eth0" },
};
static_assert(sizeof(verbs_parts) / sizeof(verbs_parts[0]) == VERBS_PART_COUNT, "a row a part");

static void check_rdma(struct check *check)
{
	struct verbs_probe probe;
	char detail[TEXT_BYTES];

	check->area = "rdma";
	verbs_probe(&probe);
	if (probe.missing == VERBS_PART_COUNT) {
		snprintf(detail, sizeof(detail), "%u: %s", probe.devices, probe.names);
		tell(check, "device", USEFUL, true, detail, "");
		tell(check, "on-demand paging", USEFUL, probe.on_demand, probe.demand, "");
		return;
	}
	tell(check, "device", USEFUL, false,
	     reason(detail, verbs_parts[probe.missing].what, probe.code),
	     verbs_parts[probe.missing].remedy);
}
#else
static void check_rdma(struct check *check)
{
	check->area = "rdma";
	tell(check, "device", USEFUL, false, "the library was built without RDMA (RDMA=0)",
	     "apt-get install libibverbs-dev librdmacm-dev && make");
}
#endif

static const struct {
	const char *what;
	const char *remedy;
} plug_parts[] = {
	[PLUG_NAMESPACE] = { "a network namespace to try it in",
			     "sysctl kernel.unprivileged_userns_clone=1" },
	[PLUG_NETLINK] = { "rtnetlink in a namespace of its own", "" },
	[PLUG_QDISC] = { "the queueing discipline 'plug'", "modprobe sch_plug" },
	[PLUG_HOLDS] = { "a packet that was to wait for its release", "" },
};
static_assert(sizeof(plug_parts) / sizeof(plug_parts[0]) == PLUG_PART_COUNT, "a row a part");

static void check_plug(struct check *check)
{
	struct plug_probe probe;
	char detail[TEXT_BYTES];

	check->area = "netplug";
	plug_probe(&probe);
	if (probe.missing == PLUG_PART_COUNT)
		tell(check, "sch_plug", USEFUL, true, "holds packets, and lets them go", "");
	else
		tell(check, "sch_plug", USEFUL, false,
		     reason(detail, plug_parts[probe.missing].what, probe.code),
		     plug_parts[probe.missing].remedy);
}

int wh_check(void (*item)(void *opaque, const struct wh_check_item *item), void *opaque)
{
	struct check check = { .item = item, .opaque = opaque };

	check_uffd(&check);
	check_ring(&check);
	check_memory(&check);
	check_kvm(&check);
	check_rdma(&check);
	check_plug(&check);
	return check.missing;
}
