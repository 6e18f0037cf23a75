/* SPDX-License-Identifier: MIT */
/* Edge: memory that is registered once and as a whole. */
#include "rdma/pin.h"

#include "base/err.h"

#include <errno.h>
#include <infiniband/verbs.h>

int vpin(struct ibv_pd *pd, uint8_t *at, size_t bytes, bool theirs, struct ibv_mr **mr,
	 uint32_t *key, struct wh_err *err)
{
	*mr = ibv_reg_mr(pd, at, bytes,
			 theirs ? IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE : 0);
	if (!*mr)
		return err_sys(err, errno, "rdma: pinning %zu KiB (ulimit -l)", bytes >> 10);
	*key = theirs ? (*mr)->rkey : (*mr)->lkey;
	return 0;
}

void vunpin(struct ibv_mr *mr)
{
	if (mr)
		ibv_dereg_mr(mr);
}
