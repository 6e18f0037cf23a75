/* SPDX-License-Identifier: MIT */
/*
 * Edge: taps of our own.
 */
#include "netplug/taps.h"

#include "base/err.h"
#include "netplug/links.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>

/* Of what a guest's NIC may have handed over whole; older kernels lack the last two */
static int tap_offloads(int fd)
{
	unsigned all = TUN_F_CSUM | TUN_F_TSO4 | TUN_F_TSO6 | TUN_F_TSO_ECN, more = all;

#ifdef TUN_F_USO4
	more |= TUN_F_USO4 | TUN_F_USO6;
#endif
	if (ioctl(fd, TUNSETOFFLOAD, more) == 0 || ioctl(fd, TUNSETOFFLOAD, all) == 0)
		return 0;
	return -errno;
}

int tap_open(struct nl_sock *netlink, const char *name, const char *alias, int *ifindex,
	     struct wh_err *err)
{
	struct ifreq request = { .ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL };
	int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);
	int header = TAP_HEADER, ret;
	struct link_info info;

	if (fd < 0)
		return err_sys(err, errno, "/dev/net/tun%s",
			       errno == ENOENT || errno == ENODEV ? " (modprobe tun)" : "");
	memcpy(request.ifr_name, name, strlen(name) + 1);
	if (ioctl(fd, TUNSETIFF, &request) < 0) {
		ret = err_sys(err, errno, "make tap %s%s", name,
			      errno == EPERM ? " (it takes CAP_NET_ADMIN)" : "");
		goto out_close;
	}
	ret = ioctl(fd, TUNSETVNETHDRSZ, &header) < 0 ? -errno : tap_offloads(fd);
	if (ret < 0) {
		err_sys(err, ret, "tap %s: headers and large segments", name);
		goto out_close;
	}
	ret = link_get(netlink, name, 0, &info, err);
	if (ret < 0)
		goto out_close;
	*ifindex = info.ifindex;
	ret = link_no_ipv6(netlink, info.ifindex);
	if (ret == 0)
		ret = link_set(netlink, info.ifindex, &(struct link_change){ .alias = alias });
	if (ret == 0)
		return fd;
	err_sys(err, ret, "set up tap %s", name);
out_close:
	close(fd);
	return ret;
}
