#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry send over RDMA: what it sends is there byte for byte, in wherry receive and in a real QEMU;
# registered by chunks and pinned as a whole; zeros and noise; a block that is not of whole chunks.
set -u
. selftests/lib/lab.sh

patience="timeout 50"
size=$((33 * 1024 + 8)) # KiB
ram=/tmp/ram
capability=''
dd if=/dev/zero of=$ram bs=1k count=0 seek=$size 2>/dev/null
dd if=/dev/urandom of=$ram bs=1M seek=3 count=6 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=$ram bs=4k seek=4000 count=1 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=$ram bs=4k seek=$((size / 4 - 1)) count=1 conv=notrunc 2>/dev/null

# OUT URI: a wherry receive that listens
receive()
{
	rm -rf "$1"
	: >/tmp/receive
	"$WH_BUILD/wherry" receive --out "$1" --timeout 20 "$2" >/tmp/receive 2>&1 &
	receiver=$!
	until_says listening /tmp/receive || { cat /tmp/receive; return 1; }
}

# What a QEMU has is kept in a folder
park()
{
	receive /tmp/parked unix:/tmp/park.sock || return
	printf 'migrate unix:/tmp/park.sock\nquit\n' | qemu $ram $size >/tmp/qemu 2>&1
	wait $receiver || { cat /tmp/receive /tmp/qemu; return 1; }
	cmp $ram /tmp/parked/mem.ram
}

# WHERE TO OPTIONS...: into wherry receive, which listens there
into_ours()
{
	where=$1 to=$2
	shift 2
	receive /tmp/out "rdma:$where:4444" || return
	"$WH_BUILD/wherry" send --from /tmp/parked "rdma:$to:4444" "$@" >/tmp/send 2>&1 &&
		wait $receiver && cmp $ram /tmp/out/mem.ram && return
	kill $receiver 2>/dev/null
	wait $receiver
	tail -n 20 /tmp/send /tmp/receive
	return 1
}

# OPTIONS...: into a real QEMU, whose memory is a file
into_qemu()
{
	rm -f /tmp/into /tmp/monitor
	truncate -s ${size}K /tmp/into
	mkfifo /tmp/monitor
	qemu /tmp/into $size -incoming defer </tmp/monitor >/tmp/qemu 2>&1 &
	qemu=$!
	exec 3>/tmp/monitor
	# without it it takes no second connection
	[ -z "$capability" ] || echo "migrate_set_capability $capability on" >&3
	echo "migrate_incoming rdma:$here:4444" >&3
	soon 20 listens
	"$WH_BUILD/wherry" send --from /tmp/parked "rdma:$here:4444" "$@" >/tmp/send 2>&1
	sent=$?
	echo 'info status' >&3
	echo quit >&3
	exec 3>&-
	wait $qemu
	[ $sent = 0 ] && grep -q 'VM status: paused (prelaunch)' /tmp/qemu && cmp $ram /tmp/into && return
	tail -n 20 /tmp/send /tmp/qemu
	return 1
}

pinned()
{
	[ "$(rdma resource show mr | wc -l)" = 0 ] && [ "$(rdma resource show qp | grep -c -e wherry -e qemu)" = 0 ]
}

# SENTENCE OPTIONS...: it is refused before anything is connected
refused()
{
	sentence=$1
	shift
	! "$WH_BUILD/wherry" send --from /tmp/parked "$@" >/tmp/send 2>&1 && grep "$sentence" /tmp/send && return
	cat /tmp/send
	return 1
}

try "a QEMU is parked" park
try "by chunks, into wherry receive" into_ours $here $here
try "pinned as a whole" into_ours $here $here --pin-all
try "with a return path" into_ours $here $here --return-path on
try "nothing stays registered" pinned
try "slowly" into_ours $here $here --bandwidth 12M
try "by chunks, into a QEMU" into_qemu
try "pinned as a whole, into a QEMU" into_qemu --pin-all
capability=postcopy-ram
try "with a return path, into a QEMU" into_qemu --return-path on
capability=''
try "nothing stays registered again" pinned
try "all at once, and some at a time" refused 'rdma_pin_all, and rdma_pin_max' rdma:$here:4445 \
	--pin-all --pin-max 4M
try "nobody listens" refused 'refused: nobody listens' rdma:$here:4445
try "an address of no RDMA device" refused 'rdma: the way there: No such device' rdma:127.0.0.1:4444
try "who listens at every address" into_ours 0.0.0.0 $here
ip -6 addr add fd09::1/128 dev v1 nodad
try "IPv6" into_ours '[fd09::1]' '[fd09::1]'
mkdir -p /etc
echo 'hosts: files' >/etc/nsswitch.conf
echo 'multi on' >/etc/host.conf
printf '127.0.0.1 two\n%s two\n' $here >/etc/hosts
try "a name with two addresses, of which one is of no use" into_ours $here two
try "and to listen there" into_ours two $here
tap_end
