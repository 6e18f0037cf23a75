/* SPDX-License-Identifier: MIT */
/* Edge: getting a userfaultfd, and what it watches. */
#include "uffd/abi.h"
#include "uffd/uffd.h"

#include "base/err.h"

#include <assert.h>
#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>
#include <sys/capability.h>
#include <sys/syscall.h>
#include <unistd.h>

/* uffd_register() hands enum uffd_mode through as it is */
static_assert(UFFD_MISSING == UFFDIO_REGISTER_MODE_MISSING, "mode");
static_assert(UFFD_WP == UFFDIO_REGISTER_MODE_WP, "mode");
static_assert(UFFD_MINOR == UFFDIO_REGISTER_MODE_MINOR, "mode");

static const char device_path[] = "/dev/userfaultfd";
static const char sysctl_path[] = "/proc/sys/vm/unprivileged_userfaultfd";

/* A descriptor that does not block: only such a one can be polled. */
#define OPEN_FLAGS (O_CLOEXEC | O_NONBLOCK)

static int open_device(void)
{
	int device = open(device_path, O_RDWR | O_CLOEXEC);
	int fd, code;

	if (device < 0)
		return -errno;
	fd = ioctl(device, USERFAULTFD_IOC_NEW, OPEN_FLAGS);
	code = errno;
	close(device);
	return fd < 0 ? -code : fd;
}

static int open_syscall(int flags)
{
	int fd = (int)syscall(SYS_userfaultfd, OPEN_FLAGS | flags);

	return fd < 0 ? -errno : fd;
}

static int open_route(enum uffd_route route)
{
	switch (route) {
	case UFFD_ROUTE_DEVICE:
		return open_device();
	case UFFD_ROUTE_SYSCALL:
		return open_syscall(0);
	case UFFD_ROUTE_USER:
		return open_syscall(UFFD_USER_MODE_ONLY);
	case UFFD_ROUTE_COUNT:
		break;
	}
	return -EINVAL;
}

static bool have_ptrace(void)
{
	cap_flag_value_t value = CAP_CLEAR;
	cap_t caps = cap_get_proc();

	if (!caps)
		return false;
	if (cap_get_flag(caps, CAP_SYS_PTRACE, CAP_EFFECTIVE, &value) < 0)
		value = CAP_CLEAR;
	cap_free(caps);
	return value == CAP_SET;
}

/* vm.unprivileged_userfaultfd; Linux before 5.2 has none, and let everybody */
static bool sysctl_allows(void)
{
	int fd = open(sysctl_path, O_RDONLY | O_CLOEXEC);
	char text = '0';

	if (fd < 0)
		return errno == ENOENT;
	if (read(fd, &text, 1) != 1)
		text = '0';
	close(fd);
	return text != '0';
}

/*
 * Why no route led to a descriptor. A right may be had in three ways; what is said
 * depends on which of them this machine has at all.
 */
static int refused(int device, int call, struct wh_err *err)
{
	if (call == -ENOSYS)
		return err_set(err, -ENOSYS,
			       "userfaultfd: this kernel has none (CONFIG_USERFAULTFD), or a seccomp "
			       "filter hides it");
	if (call != -EPERM)
		return err_sys(err, call, "userfaultfd(2)");
	if (have_ptrace() || sysctl_allows())
		return err_set(err, -EPERM,
			       "userfaultfd(2) is refused though CAP_SYS_PTRACE or "
			       "vm.unprivileged_userfaultfd allows it: a seccomp filter or security "
			       "module stands in the way");
	if (device == -ENOENT)
		return err_set(err, -EPERM,
			       "userfaultfd: CAP_SYS_PTRACE is missing, there is no %s: "
			       "setcap cap_sys_ptrace+ep PROGRAM, or sysctl "
			       "vm.unprivileged_userfaultfd=1",
			       device_path);
	return err_set(err, -EPERM,
		       "userfaultfd: no right to %s (%s), CAP_SYS_PTRACE is missing: "
		       "setfacl -m u:%u:rw %s, or setcap cap_sys_ptrace+ep PROGRAM, or sysctl "
		       "vm.unprivileged_userfaultfd=1",
		       device_path, strerrorname_np(-device), geteuid(), device_path);
}

/* The first route that gives a descriptor */
static int find_route(struct uffd *uffd, bool kernel_faults, struct wh_err *err)
{
	enum uffd_route last = kernel_faults ? UFFD_ROUTE_SYSCALL : UFFD_ROUTE_USER;
	int code[UFFD_ROUTE_COUNT];
	enum uffd_route route;

	for (route = UFFD_ROUTE_DEVICE; route <= last; route++) {
		code[route] = open_route(route);
		if (code[route] >= 0) {
			uffd->route = route;
			uffd->fd = code[route];
			return 0;
		}
	}
	return refused(code[UFFD_ROUTE_DEVICE], code[last], err);
}

static int shake_hands(struct uffd *uffd, struct wh_err *err)
{
	struct uffdio_api api = { .api = UFFD_API, .features = uffd->features };
	int code;

	if (ioctl(uffd->fd, UFFDIO_API, &api) == 0) {
		uffd->offered = api.features;
		return 0;
	}
	code = errno;
	uffd_close(uffd);
	if (code == EPERM && uffd->features & UFFD_FEATURE_EVENT_FORK)
		return err_set(err, -EPERM,
			       "userfaultfd: EVENT_FORK needs CAP_SYS_PTRACE: "
			       "setcap cap_sys_ptrace+ep PROGRAM");
	return err_sys(err, code, "userfaultfd: switching on features %#" PRIx64, uffd->features);
}

int uffd_open(struct uffd *uffd, uint64_t wanted, bool kernel_faults, struct wh_err *err)
{
	int ret;

	*uffd = (struct uffd){ .fd = -1 };
	ret = find_route(uffd, kernel_faults, err);
	if (ret < 0)
		return ret;
	ret = shake_hands(uffd, err);
	if (ret < 0 || !(wanted & uffd->offered))
		return ret;
	/* Hands are shaken once for each descriptor: what asked is of no further use */
	uffd_close(uffd);
	uffd->features = wanted & uffd->offered;
	uffd->fd = open_route(uffd->route);
	if (uffd->fd < 0) {
		ret = uffd->fd;
		uffd->fd = -1;
		return err_sys(err, ret, "userfaultfd by %s", uffd_route_name(uffd->route));
	}
	return shake_hands(uffd, err);
}

void uffd_close(struct uffd *uffd)
{
	if (uffd->fd >= 0)
		close(uffd->fd);
	uffd->fd = -1;
}

const char *uffd_route_name(enum uffd_route route)
{
	static const char *const name[] = {
		[UFFD_ROUTE_DEVICE] = "/dev/userfaultfd",
		[UFFD_ROUTE_SYSCALL] = "userfaultfd(2)",
		[UFFD_ROUTE_USER] = "userfaultfd(2) for user mode only",
	};

	static_assert(sizeof(name) / sizeof(name[0]) == UFFD_ROUTE_COUNT, "a name a route");
	return route < UFFD_ROUTE_COUNT ? name[route] : "none";
}

const char *uffd_feature_name(unsigned bit)
{
	static const char *const name[] = {
		"PAGEFAULT_FLAG_WP",
		"EVENT_FORK",
		"EVENT_REMAP",
		"EVENT_REMOVE",
		"MISSING_HUGETLBFS",
		"MISSING_SHMEM",
		"EVENT_UNMAP",
		"SIGBUS",
		"THREAD_ID",
		"MINOR_HUGETLBFS",
		"MINOR_SHMEM",
		"EXACT_ADDRESS",
		"WP_HUGETLBFS_SHMEM",
		"WP_UNPOPULATED",
		"POISON",
		"WP_ASYNC",
		"MOVE",
	};

	return bit < sizeof(name) / sizeof(name[0]) ? name[bit] : NULL;
}

/* "MISSING+MINOR" */
static void mode_text(unsigned modes, char text[24])
{
	snprintf(text, 24, "%s%s%s", modes & UFFD_MISSING ? "+MISSING" : "",
		 modes & UFFD_WP ? "+WP" : "", modes & UFFD_MINOR ? "+MINOR" : "");
	memmove(text, text + 1, 23);
}

static int not_registered(int code, void *addr, uint64_t length, unsigned modes, struct wh_err *err)
{
	const char *why = NULL;
	char mode[24];

	mode_text(modes, mode);
	if (code == EBUSY)
		why = "another userfaultfd watches a part of it";
	else if (code == EPERM)
		why = "it can not be made writable (a sealed file?)";
	else if (code == EINVAL)
		why = "not mapped, not aligned, or memory of a kind that has no such faults";
	if (!why)
		return err_sys(err, code, "watching %p+%#" PRIx64 " for %s", addr, length, mode);
	return err_set(err, -code, "watching %p+%#" PRIx64 " for %s: %s", addr, length, mode, why);
}

int uffd_register(const struct uffd *uffd, void *addr, uint64_t length, unsigned modes,
		  uint64_t *ioctls, struct wh_err *err)
{
	struct uffdio_register arg = {
		.range = { .start = (uintptr_t)addr, .len = length },
		.mode = modes,
	};

	if (ioctl(uffd->fd, UFFDIO_REGISTER, &arg) < 0)
		return not_registered(errno, addr, length, modes, err);
	if (ioctls)
		*ioctls = arg.ioctls;
	return 0;
}

int uffd_unregister(const struct uffd *uffd, void *addr, uint64_t length, struct wh_err *err)
{
	struct uffdio_range arg = { .start = (uintptr_t)addr, .len = length };

	if (ioctl(uffd->fd, UFFDIO_UNREGISTER, &arg) < 0)
		return err_sys(err, errno, "no longer watching %p+%#" PRIx64, addr, length);
	return uffd_wake(uffd, addr, length, err);
}

int uffd_wake(const struct uffd *uffd, void *at, uint64_t length, struct wh_err *err)
{
	struct uffdio_range arg = { .start = (uintptr_t)at, .len = length };

	if (ioctl(uffd->fd, UFFDIO_WAKE, &arg) < 0)
		return err_sys(err, errno, "waking who waits for %p+%#" PRIx64, at, length);
	return 0;
}
