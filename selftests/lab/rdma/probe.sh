#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry check: what there is of RDMA, and each piece that can be missing.
set -u
. selftests/lib/tap.sh

says()
{
	"$WH_BUILD/wherry" check >/tmp/said 2>&1
	grep -q "$1" /tmp/said && return
	grep -i rdma /tmp/said
	return 1
}

try "both devices are found" says 'rxe0 rxe1\|rxe1 rxe0'
# As the device says itself, of connections
operations()
{
	ibv_devinfo -v -d rxe0 | awk '/rc_odp_caps:/ { on = 1; next } /:/ { on = 0 }
		on && /SUPPORT_(SEND|RECV|WRITE|READ|ATOMIC)$/ {
			sub(/.*SUPPORT_/, ""); sub(/RECV/, "RECEIVE"); all = all " " tolower($0) }
		END { print all == "" ? " none" : all }'
}

try "and what they can do without pinning" says "on-demand paging.* rxe0:$(operations)\(;\|$\)"
mv /dev/infiniband/rdma_cm /dev/infiniband/away
try "without rdma_cm it names the module" says 'modprobe rdma_ucm'
mv /dev/infiniband/away /dev/infiniband/rdma_cm
rdma link delete rxe0
rdma link delete rxe1
try "without a device it says how to get one" says 'rdma link add'
rdma link add rxe0 type rxe netdev v1
rdma link add rxe1 type rxe netdev v2
try "and there again" says 'rxe0 rxe1\|rxe1 rxe0'
tap_end
