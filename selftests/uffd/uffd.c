/* SPDX-License-Identifier: GPL-2.0 */
#include "selftests/lib/memory.h"
#include "selftests/uffd/toucher.h"
#include "uffd/abi.h"
#include "uffd/uffd.h"

#include <errno.h>
#include <fcntl.h>
#include <grp.h>
#include <linux/filter.h>
#include <linux/seccomp.h>
#include <sched.h>
#include <stddef.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/mount.h>
#include <sys/prctl.h>
#include <sys/resource.h>

#include "kselftest_harness.h"

#define PAGES 8
#define NOBODY 65534

static bool sysctl_is_zero(void)
{
	FILE *sysctl = fopen("/proc/sys/vm/unprivileged_userfaultfd", "re");
	int value = -1;

	if (sysctl && fscanf(sysctl, "%d", &value) != 1)
		value = -1;
	if (sysctl)
		fclose(sysctl);
	return value == 0;
}

/* No capability, no device; for the test's own process, which ends with it */
static bool become_nobody(void)
{
	if (geteuid() != 0)
		return true;
	return setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
	       setresuid(NOBODY, NOBODY, NOBODY) == 0;
}

/* In a mount namespace of the test's own: @over in place of @path */
static bool hide(const char *over, const char *type, const char *path)
{
	return unshare(CLONE_NEWNS) == 0 &&
	       mount("none", "/", NULL, MS_REC | MS_PRIVATE, NULL) == 0 &&
	       mount(over, path, type, type ? 0 : MS_BIND, NULL) == 0;
}

static bool refuse_syscall(unsigned code)
{
	struct sock_filter filter[] = {
		BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
		BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, SYS_userfaultfd, 0, 1),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | code),
		BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW),
	};
	struct sock_fprog program = { .len = sizeof(filter) / sizeof(filter[0]), .filter = filter };

	return prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0 &&
	       prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &program) == 0;
}

TEST(the_device_comes_first)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	if (access("/dev/userfaultfd", R_OK | W_OK) < 0)
		SKIP(return, "/dev/userfaultfd: %s", strerror(errno));
	ASSERT_EQ(0, uffd_open(&uffd, UFFD_FEATURE_THREAD_ID, true, &err))
	TH_LOG("%s", err.text);
	ASSERT_EQ(UFFD_ROUTE_DEVICE, uffd.route);
	ASSERT_EQ(UFFD_FEATURE_THREAD_ID, uffd.features);
	ASSERT_NE(0, uffd.offered & UFFD_FEATURE_MISSING_SHMEM);
	ASSERT_EQ(O_NONBLOCK, fcntl(uffd.fd, F_GETFL) & O_NONBLOCK);
	ASSERT_EQ(FD_CLOEXEC, fcntl(uffd.fd, F_GETFD));
	uffd_close(&uffd);
	ASSERT_EQ(-1, uffd.fd);
}

/* The kernel would refuse them all for one that it does not know */
TEST(features_that_are_not_offered_are_left_out)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	ASSERT_EQ(0, uffd_open(&uffd, UINT64_C(1) << 60 | UFFD_FEATURE_THREAD_ID, false, &err))
	TH_LOG("%s", err.text);
	ASSERT_EQ(UFFD_FEATURE_THREAD_ID, uffd.features);
	ASSERT_EQ(0, uffd.offered >> 60);
	uffd_close(&uffd);
	ASSERT_EQ(0, uffd_open(&uffd, UINT64_C(1) << 60, false, &err));
	ASSERT_EQ(0, uffd.features);
	ASSERT_NE(0, uffd.offered);
	uffd_close(&uffd);
}

TEST(the_system_call_comes_next)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	if (geteuid() != 0)
		SKIP(return, "hiding /dev/userfaultfd takes root");
	ASSERT_TRUE(hide("/dev/null", NULL, "/dev/userfaultfd"));
	ASSERT_EQ(0, uffd_open(&uffd, 0, true, &err))
	TH_LOG("%s", err.text);
	ASSERT_EQ(UFFD_ROUTE_SYSCALL, uffd.route);
	uffd_close(&uffd);
}

TEST(user_mode_is_the_last_resort)
{
	uint8_t *page =
		mmap(NULL, TARGET_PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	struct wh_err err = { 0 };
	struct uffd uffd;
	int zero;

	if (!sysctl_is_zero())
		SKIP(return, "vm.unprivileged_userfaultfd is not 0");
	ASSERT_TRUE(become_nobody());
	ASSERT_EQ(0, uffd_open(&uffd, 0, false, &err))
	TH_LOG("%s", err.text);
	ASSERT_EQ(UFFD_ROUTE_USER, uffd.route);
	/* Why it cannot serve a VM: the kernel's own access does not wait, it fails. */
	ASSERT_NE(MAP_FAILED, page);
	ASSERT_EQ(0, uffd_register(&uffd, page, TARGET_PAGE, UFFD_MISSING, NULL, &err));
	zero = open("/dev/zero", O_RDONLY);
	ASSERT_EQ(-1, read(zero, page, 1));
	ASSERT_EQ(EFAULT, errno);
	uffd_close(&uffd);
}

TEST(a_missing_right_is_named)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	if (!sysctl_is_zero())
		SKIP(return, "vm.unprivileged_userfaultfd is not 0");
	ASSERT_TRUE(become_nobody());
	ASSERT_EQ(-EPERM, uffd_open(&uffd, 0, true, &err));
	ASSERT_EQ(-EPERM, err.code);
	ASSERT_EQ(-1, uffd.fd);
	ASSERT_NE(NULL, strstr(err.text, "setfacl -m u:65534:rw /dev/userfaultfd"))
	TH_LOG("%s", err.text);
	ASSERT_NE(NULL, strstr(err.text, "(EACCES)"));
	ASSERT_NE(NULL, strstr(err.text, "setcap cap_sys_ptrace+ep"));
	ASSERT_NE(NULL, strstr(err.text, "sysctl vm.unprivileged_userfaultfd=1"));
	/* In whole: nothing had to be cut off */
	ASSERT_EQ(NULL, strstr(err.text, "..."));
	ASSERT_EQ(-EPERM, uffd_open(&uffd, 0, true, NULL));
}

TEST(a_missing_device_is_not_recommended)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	if (geteuid() != 0)
		SKIP(return, "hiding /dev takes root");
	if (!sysctl_is_zero())
		SKIP(return, "vm.unprivileged_userfaultfd is not 0");
	ASSERT_TRUE(hide("tmpfs", "tmpfs", "/dev"));
	ASSERT_TRUE(become_nobody());
	ASSERT_EQ(-EPERM, uffd_open(&uffd, 0, true, &err));
	ASSERT_NE(NULL, strstr(err.text, "there is no /dev/userfaultfd"))
	TH_LOG("%s", err.text);
	ASSERT_EQ(NULL, strstr(err.text, "setfacl"));
	ASSERT_NE(NULL, strstr(err.text, "sysctl vm.unprivileged_userfaultfd=1"));
}

TEST(a_filter_is_blamed_where_the_right_is_there)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	if (geteuid() != 0)
		SKIP(return, "hiding /dev/userfaultfd takes root");
	ASSERT_TRUE(hide("/dev/null", NULL, "/dev/userfaultfd"));
	ASSERT_TRUE(refuse_syscall(EPERM));
	ASSERT_EQ(-EPERM, uffd_open(&uffd, 0, false, &err));
	ASSERT_NE(NULL, strstr(err.text, "seccomp"))
	TH_LOG("%s", err.text);
}

TEST(a_kernel_without_is_named)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	if (geteuid() != 0)
		SKIP(return, "hiding /dev/userfaultfd takes root");
	ASSERT_TRUE(hide("/dev/null", NULL, "/dev/userfaultfd"));
	ASSERT_TRUE(refuse_syscall(ENOSYS));
	ASSERT_EQ(-ENOSYS, uffd_open(&uffd, 0, false, &err));
	ASSERT_NE(NULL, strstr(err.text, "CONFIG_USERFAULTFD"))
	TH_LOG("%s", err.text);
}

TEST(no_descriptor_left)
{
	struct rlimit none = { .rlim_cur = 3, .rlim_max = 3 };
	struct wh_err err = { 0 };
	struct uffd uffd;

	ASSERT_EQ(0, setrlimit(RLIMIT_NOFILE, &none));
	ASSERT_EQ(-EMFILE, uffd_open(&uffd, 0, false, &err));
	ASSERT_NE(NULL, strstr(err.text, "Too many open files"))
	TH_LOG("%s", err.text);
}

TEST(fork_events_need_a_capability)
{
	struct wh_err err = { 0 };
	struct uffd uffd;

	if (!sysctl_is_zero())
		SKIP(return, "vm.unprivileged_userfaultfd is not 0");
	ASSERT_TRUE(become_nobody());
	ASSERT_EQ(-EPERM, uffd_open(&uffd, UFFD_FEATURE_EVENT_FORK, false, &err));
	ASSERT_NE(NULL, strstr(err.text, "EVENT_FORK needs CAP_SYS_PTRACE"))
	TH_LOG("%s", err.text);
	ASSERT_EQ(-1, uffd.fd);
}

TEST(names)
{
	ASSERT_STREQ("PAGEFAULT_FLAG_WP", uffd_feature_name(0));
	ASSERT_STREQ("THREAD_ID", uffd_feature_name(8));
	ASSERT_EQ(UFFD_FEATURE_THREAD_ID, 1 << 8);
	ASSERT_STREQ("WP_ASYNC", uffd_feature_name(15));
	ASSERT_EQ(UFFD_FEATURE_WP_ASYNC, 1 << 15);
	ASSERT_STREQ("MOVE", uffd_feature_name(16));
	ASSERT_EQ(NULL, uffd_feature_name(17));
	ASSERT_STREQ("/dev/userfaultfd", uffd_route_name(UFFD_ROUTE_DEVICE));
	ASSERT_STREQ("userfaultfd(2) for user mode only", uffd_route_name(UFFD_ROUTE_USER));
}

FIXTURE(watch)
{
	struct memory memory;
	struct uffd uffd;
	struct wh_err err;
	uint8_t *at;
	uint64_t length;
};

FIXTURE_VARIANT(watch)
{
	enum memory_kind kind;
	uint64_t ioctls; /* for MISSING, at least, and none of the others of these */
	bool minor;
};

#define OFFER(name) (UINT64_C(1) << _UFFDIO_##name)
#define OFFERS (OFFER(WAKE) | OFFER(COPY) | OFFER(ZEROPAGE))

/* clang-format off */
FIXTURE_VARIANT_ADD(watch, anon)    { .kind = MEMORY_ANON, .ioctls = OFFERS };
FIXTURE_VARIANT_ADD(watch, thp)     { .kind = MEMORY_THP, .ioctls = OFFERS };
FIXTURE_VARIANT_ADD(watch, memfd)   { .kind = MEMORY_MEMFD, .ioctls = OFFERS, .minor = true };
FIXTURE_VARIANT_ADD(watch, private) {
	.kind = MEMORY_MEMFD_PRIVATE, .ioctls = OFFERS, .minor = true };
FIXTURE_VARIANT_ADD(watch, hugetlb) {
	.kind = MEMORY_HUGETLB, .ioctls = OFFER(WAKE) | OFFER(COPY), .minor = true };
FIXTURE_VARIANT_ADD(watch, hugetlb_private) {
	.kind = MEMORY_HUGETLB_PRIVATE, .ioctls = OFFER(WAKE) | OFFER(COPY), .minor = true };
/* clang-format on */

FIXTURE_SETUP(watch)
{
	int ret;

	memset(&self->err, 0, sizeof(self->err));
	ret = memory_new(&self->memory, variant->kind,
			 PAGES * memory_traits[variant->kind].page_size, &self->err);
	if (ret == -EACCES)
		SKIP(return, "%s", self->err.text);
	ASSERT_EQ(0, ret)
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, uffd_open(&self->uffd, UFFD_FEATURE_WP_HUGETLBFS_SHMEM, false, &self->err))
	TH_LOG("%s", self->err.text);
	self->at = self->memory.region.addr;
	self->length = self->memory.region.length;
}

FIXTURE_TEARDOWN(watch)
{
	uffd_close(&self->uffd);
	memory_free(&self->memory);
}

TEST_F(watch, answers_with_what_may_be_done)
{
	uint64_t ioctls = 0;

	ASSERT_EQ(0, uffd_register(&self->uffd, self->at, self->length, UFFD_MISSING, &ioctls,
				   &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(variant->ioctls, ioctls & OFFERS);
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, self->length, &self->err));
	if (variant->minor) {
		ASSERT_EQ(0, uffd_register(&self->uffd, self->at, self->length,
					   UFFD_MISSING | UFFD_MINOR, &ioctls, &self->err))
		TH_LOG("%s", self->err.text);
		ASSERT_EQ(OFFER(CONTINUE), ioctls & OFFER(CONTINUE));
	} else {
		ASSERT_EQ(-EINVAL, uffd_register(&self->uffd, self->at, self->length,
						 UFFD_MISSING | UFFD_MINOR, &ioctls, &self->err));
		ASSERT_NE(NULL, strstr(self->err.text, "for MISSING+MINOR: "))
		TH_LOG("%s", self->err.text);
	}
}

TEST_F(watch, one_watcher_only)
{
	struct uffd other;

	ASSERT_EQ(0, uffd_open(&other, 0, false, &self->err));
	ASSERT_EQ(0, uffd_register(&other, self->at, self->length, UFFD_MISSING, NULL, &self->err));
	ASSERT_EQ(-EBUSY, uffd_register(&self->uffd, self->at, self->length, UFFD_MISSING, NULL,
					&self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "another userfaultfd watches"))
	TH_LOG("%s", self->err.text);
	uffd_close(&other);
}

TEST_F(watch, not_aligned_not_mapped)
{
	ASSERT_EQ(-EINVAL, uffd_register(&self->uffd, self->at + 1, TARGET_PAGE, UFFD_MISSING, NULL,
					 &self->err));
	ASSERT_EQ(-EINVAL, uffd_register(&self->uffd, self->at, 0, UFFD_MISSING, NULL, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "not aligned"))
	TH_LOG("%s", self->err.text);
}

/* The kernel wakes those of MISSING only; the others would sleep for ever */
TEST_F(watch, unregister_wakes_everybody)
{
	uint64_t page = self->memory.region.page_size;
	struct toucher toucher[3] = { { 0 }, { .write = true, .value = 9 }, { 0 } };
	static const unsigned mode[3] = { UFFD_MISSING, UFFD_WP, UFFD_MINOR };
	struct uffdio_writeprotect protect = {
		.range = { (uintptr_t)self->at + page, page },
		.mode = UFFDIO_WRITEPROTECT_MODE_WP,
	};
	int i, count = memory_traits[variant->kind].shared ? 3 : 2;
	struct uffd_event events[3];
	uint8_t *alias;

	if (~self->uffd.features & UFFD_FEATURE_WP_HUGETLBFS_SHMEM)
		SKIP(return, "no WP_HUGETLBFS_SHMEM");
	self->at[page] = 3;
	if (count == 3) {
		alias = mmap(NULL, self->length, PROT_READ | PROT_WRITE, MAP_SHARED,
			     self->memory.region.fd, 0);
		ASSERT_NE(MAP_FAILED, alias);
		alias[2 * page] = 7;
		ASSERT_EQ(0, munmap(alias, self->length));
	}
	for (i = 0; i < count; i++) {
		ASSERT_EQ(0, uffd_register(&self->uffd, self->at + i * page, page, mode[i], NULL,
					   &self->err))
		TH_LOG("%s", self->err.text);
	}
	ASSERT_EQ(0, ioctl(self->uffd.fd, UFFDIO_WRITEPROTECT, &protect));
	for (i = 0; i < count; i++)
		ASSERT_TRUE(toucher_start(&toucher[i], self->at + i * page));
	ASSERT_EQ(count, read_events(&self->uffd, events, count));
	ASSERT_EQ(count, waiting(&self->uffd));
	ASSERT_EQ(0, uffd_unregister(&self->uffd, self->at, 3 * page, &self->err))
	TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, toucher_end(&toucher[0]));
	toucher_end(&toucher[1]);
	ASSERT_EQ(9, self->at[page]);
	if (count == 3)
		ASSERT_EQ(7, toucher_end(&toucher[2]));
}

TEST(a_sealed_file_is_refused)
{
	int fd = memfd_create("sealed", MFD_ALLOW_SEALING | MFD_CLOEXEC);
	struct wh_err err = { 0 };
	struct uffd uffd;
	void *at;

	ASSERT_EQ(0, ftruncate(fd, TARGET_PAGE));
	ASSERT_EQ(0, fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE));
	at = mmap(NULL, TARGET_PAGE, PROT_READ, MAP_SHARED, fd, 0);
	ASSERT_NE(MAP_FAILED, at);
	ASSERT_EQ(0, uffd_open(&uffd, 0, false, &err));
	ASSERT_EQ(-EPERM, uffd_register(&uffd, at, TARGET_PAGE, UFFD_MISSING, NULL, &err));
	ASSERT_NE(NULL, strstr(err.text, "sealed"))
	TH_LOG("%s", err.text);
	uffd_close(&uffd);
}

TEST_HARNESS_MAIN
