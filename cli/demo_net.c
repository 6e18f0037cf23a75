/* SPDX-License-Identifier: MIT */
/*
 * Edge: a network of our own, in namespaces of our own, so that it needs no right of the
 * machine's: taps, a bridge they are ports of, and we are the world outside, on the bridge.
 */
#include "cli/demo_protect.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <linux/sockios.h>
#include <net/if.h>
#include <net/if_arp.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <unistd.h>

static int fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
static int fail(struct wh_err *err, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}

static int write_file(const char *path, const char *text, struct wh_err *err)
{
	int fd = open(path, O_WRONLY | O_CLOEXEC);
	int ret = 0;

	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text))
		ret = fail(err, errno ? -errno : -EIO, "%s: %m", path);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int namespaces_enter(struct wh_err *err)
{
	char uid[32], gid[32];

	snprintf(uid, sizeof(uid), "0 %u 1", getuid());
	snprintf(gid, sizeof(gid), "0 %u 1", getgid());
	if (unshare(CLONE_NEWUSER | CLONE_NEWNET) < 0)
		return fail(err, -errno, "a user and a network namespace: %m");
	if (write_file("/proc/self/setgroups", "deny", err) ||
	    write_file("/proc/self/uid_map", uid, err) ||
	    write_file("/proc/self/gid_map", gid, err))
		return err->code;
	return 0;
}

static int request(int fd, unsigned long number, struct ifreq *ifr, const char *what,
		   struct wh_err *err)
{
	return ioctl(fd, number, ifr) < 0 ? fail(err, -errno, "%s of %s: %m", what, ifr->ifr_name) :
					    0;
}

static int set_up(int fd, const char *name, bool up, struct wh_err *err)
{
	struct ifreq ifr = { .ifr_flags = (short)(up ? IFF_UP : 0) };

	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	return request(fd, SIOCSIFFLAGS, &ifr, "setting up", err);
}

/* It stays when nobody has it open */
static int tap_make(const char *name, struct wh_err *err)
{
	struct ifreq ifr = { .ifr_flags = IFF_TAP | IFF_NO_PI };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC);
	int ret;

	if (fd < 0)
		return fail(err, -errno, "/dev/net/tun: %m");
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	ret = request(fd, TUNSETIFF, &ifr, "making", err);
	if (!ret && ioctl(fd, TUNSETPERSIST, 1ul) < 0)
		ret = fail(err, -errno, "keeping of %s: %m", name);
	close(fd);
	return ret;
}

static int bridge_make(int fd, struct wh_err *err)
{
	/* not that of a port, which might change */
	struct ifreq ifr = { .ifr_hwaddr = { ARPHRD_ETHER, { 0x52, 0x54, 0, 0, 0, 1 } } };
	char name[IFNAMSIZ] = DEMO_NET_OUTSIDE;

	if (ioctl(fd, SIOCBRADDBR, name) < 0)
		return fail(err, -errno, "a bridge: %m");
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", name);
	if (request(fd, SIOCSIFHWADDR, &ifr, "the address", err))
		return err->code;
	return set_up(fd, name, true, err);
}

static int port_make(int fd, const char *tap, struct wh_err *err)
{
	struct ifreq ifr = { .ifr_ifindex = 0 };

	if (tap_make(tap, err))
		return err->code;
	ifr.ifr_ifindex = (int)if_nametoindex(tap);
	snprintf(ifr.ifr_name, IFNAMSIZ, "%s", DEMO_NET_OUTSIDE);
	if (request(fd, SIOCBRADDIF, &ifr, "a port", err))
		return err->code;
	return set_up(fd, tap, true, err);
}

int demo_net_open(const char *const *taps, unsigned count, struct wh_err *err)
{
	int fd, ret;

	if (namespaces_enter(err))
		return err->code;
	fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	if (fd < 0)
		return fail(err, -errno, "a socket: %m");
	ret = set_up(fd, "lo", true, err);
	if (!ret)
		ret = bridge_make(fd, err);
	for (unsigned i = 0; i < count && !ret; i++)
		ret = port_make(fd, taps[i], err);
	close(fd);
	return ret;
}

int demo_net_cut(struct wh_err *err)
{
	int fd = socket(AF_INET, SOCK_DGRAM | SOCK_CLOEXEC, 0);
	int ret = set_up(fd, "lo", false, err);

	close(fd);
	return ret;
}
