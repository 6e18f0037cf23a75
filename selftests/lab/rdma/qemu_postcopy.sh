#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Postcopy over RDMA with a real QEMU at either end: what one has sent is kept, and another one has it,
# byte for byte.
set -u
. selftests/lib/lab.sh

patience="timeout 100"
told="/tmp/receive /tmp/send /tmp/qemu"
size=$((3 * 1024 + 8)) # KiB
ram=/tmp/ram
dd if=/dev/zero of=$ram bs=1k count=0 seek=$size 2>/dev/null
dd if=/dev/urandom of=$ram bs=1M seek=1 count=1 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=$ram bs=4k seek=$((size / 4 - 1)) count=1 conv=notrunc 2>/dev/null
mkfifo /tmp/monitor

# FILE OPTIONS...: one that waits for commands on 5
begin_qemu()
{
	file=$1
	shift
	qemu "$file" $size "$@" </tmp/monitor >/tmp/qemu 2>&1 &
	qemu=$!
	exec 5>/tmp/monitor
	echo 'migrate_set_capability postcopy-ram on' >&5
}

qemu_quits()
{
	echo quit >&5
	exec 5>&-
	wait $qemu
	status=$?
	echo "status $status"
	return $status
}

receive()
{
	rm -rf /tmp/out
	"$WH_BUILD/wherry" receive --out /tmp/out --timeout 60 "$1" >/tmp/receive 2>&1 &
	receiver=$!
	soon 20 grep -q listening /tmp/receive
}

from_qemu()
{
	receive rdma:$here:4444 || return
	begin_qemu $ram
	echo 'migrate_set_parameter max-bandwidth 256k' >&5
	echo "migrate -d rdma:$here:4444" >&5
	soon 20 grep -q ' precopy ' /tmp/receive || return
	echo 'migrate_start_postcopy' >&5
	wait $receiver && soon 20 qemu_says 'status: completed' && cmp $ram /tmp/out/mem.ram &&
		grep 'received by postcopy' /tmp/receive
}

# PATTERN: it says so when it is asked
qemu_says()
{
	echo 'info migrate' >&5
	sleep 0.2
	grep -q "$1" /tmp/qemu
}

into_qemu()
{
	truncate -s ${size}K /tmp/into
	begin_qemu /tmp/into -incoming defer
	echo "migrate_incoming rdma:$here:4444" >&5
	soon 20 listens || return
	"$WH_BUILD/wherry" send --from /tmp/out --postcopy rdma:$here:4444 >/tmp/send 2>&1 || return
	grep 'sent by postcopy' /tmp/send && soon 20 cmp $ram /tmp/into
}

now "from a QEMU" from_qemu
now "it quits" qemu_quits
now "and into one" into_qemu
now "that is there yet, and quits, too" qemu_quits
tap_end
