#!/bin/sh
# SPDX-License-Identifier: MIT
#
# RAM without a page of zeros goes over RDMA between two processes that may pin a sixth of it, or of which
# one is told not to register more, and into a QEMU: what was written to least lately is given up for
# the rest. It is there byte for byte, and the kernel was asked all the time what is registered. With
# LAB_ALL it is a fiftieth, too.
set -u
. selftests/lib/lab.sh
. selftests/lib/parked.sh

into_qemu()
{
	mkfifo /tmp/monitor
	qemu /tmp/zeros $((mib * 1024)) -incoming defer </tmp/monitor >/tmp/qemu 2>&1 &
	qemu=$!
	exec 3>/tmp/monitor
	echo "migrate_incoming rdma:$here:4444" >&3
	soon 20 listens && send "$@"
	sent=$?
	echo quit >&3
	exec 3>&-
	wait $qemu
	[ $sent = 0 ] && cmp /tmp/parked/mem.ram /tmp/zeros
}

now "a QEMU is parked" park
# What the device may fetch when it needs it is not pinned
odp='--odp off'
there=$odp
limits=pinning_little little=4096
now "both may pin 4 MiB" into_ours $odp
now "and have" most_is 2048 4096
limits=exec
# Messages have less than 2 MiB
now "the source is to register 3 MiB, the destination is a QEMU" into_qemu --pin-max 3M $odp
now "and so have both" most_is 2048 $((3072 + 2048))
there="--pin-max 3M $odp"
now "the destination is to register 3 MiB, and does not agree to pin all" into_ours --pin-all $odp
now "it has" most_is 2048 $((3072 + 2048))

if [ -n "${LAB_ALL-}" ]; then
	mib=200 limits=pinning_little there=$odp
	now "one of 200 MiB is parked" park
	now "both may pin 4 MiB of that" into_ours $odp
	now "and do, and no more" most_is 2048 4096
	limits=exec there="--pin-max 40M $odp"
	now "both may register 40 MiB of it, in large chunks" into_ours --pin-max 40M $odp
	now "and do, in chunks of 4 MiB" grep -q "mrlen $((4 << 20)) " /tmp/registered
	now "as many as ten" most_is $((30 * 1024)) $((40 * 1024 + 2048))
fi
tap_end
