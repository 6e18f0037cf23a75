/* SPDX-License-Identifier: MIT */
/*
 * Edge: memory that is registered with a ring.
 *
 * IORING_OP_WRITE_FIXED and not IORING_OP_SEND_ZC, which could do without the copy into the socket:
 * wherever the two ends are on one machine the kernel makes that copy all the same, later,
 * and half as much goes through. A unix socket has no such operation at all.
 */
#include "ring/fixed.h"

#include "base/err.h"
#include "ring/op.h"

#include <sys/resource.h>

#define LENGTH_MAX 0x7ffff000u /* of one write, as everywhere in Linux */

int loop_fixed_open(struct loop *loop, unsigned count, struct wh_err *err)
{
	int ret = io_uring_register_buffers_sparse(&loop->ring, count);

	if (ret == -EINVAL)
		return err_set(err, ret,
			       "io_uring: registered memory: the kernel wants all of it at once "
			       "(Linux 5.19 does not)");
	if (ret < 0)
		return err_sys(err, ret, "io_uring: a table of %u pieces of memory", count);
	return 0;
}

int loop_fixed_set(struct loop *loop, unsigned slot, void *at, size_t length, struct wh_err *err)
{
	const struct iovec piece = { .iov_base = at, .iov_len = at ? length : 0 };
	const __u64 tag = 0;
	struct rlimit limit = { 0 };
	int ret = io_uring_register_buffers_update_tag(&loop->ring, slot, &piece, &tag, 1);

	if (ret == 1)
		return 0;
	/* cannot fail: the resource exists and the pointer is good */
	getrlimit(RLIMIT_MEMLOCK, &limit);
	if (ret == -ENOMEM)
		return err_set(err, ret,
			       "io_uring: no room to register %zu KiB of memory; RLIMIT_MEMLOCK is "
			       "%llu KiB (ulimit -l)",
			       length >> 10, (unsigned long long)limit.rlim_cur >> 10);
	return err_sys(err, ret < 0 ? ret : -EIO, "io_uring: register %zu KiB of memory",
		       length >> 10);
}

void loop_write_fixed(struct loop *loop, struct op *op, int fd, const void *buf, size_t length,
		      unsigned slot)
{
	struct io_uring_sqe *sqe = op_begin(loop, op);

	if (!sqe)
		return;
	/* a stream has no position but 0 */
	io_uring_prep_write_fixed(sqe, fd, buf, length < LENGTH_MAX ? (unsigned)length : LENGTH_MAX,
				  0, (int)slot);
	io_uring_sqe_set_data(sqe, op);
}
