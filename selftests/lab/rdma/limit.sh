#!/bin/sh
# SPDX-License-Identifier: MIT
#
# RAM without a page of zeros goes over RDMA between two processes that may pin a sixth of it, or of which
# one is told not to register more, and into a QEMU: what was written to least lately is given up for
# the rest. It is there byte for byte, and the kernel was asked all the time what is registered. With
# LAB_ALL it is a fiftieth, too.
set -u
. selftests/lib/lab.sh

told="/tmp/send /tmp/receive /tmp/qemu"
limits=exec
there='' # options of the destination
mib=24

# OUT URI OPTIONS...: a wherry receive that listens
receive()
{
	out=$1 uri=$2
	shift 2
	rm -rf "$out" /tmp/receive
	$limits "$WH_BUILD/wherry" receive --out "$out" --verify=off --timeout 30 "$uri" "$@" \
		>/tmp/receive 2>&1 &
	receiver=$!
	until_says listening /tmp/receive
}

# A QEMU's, whose RAM is then written
park()
{
	rm -f /tmp/zeros
	truncate -s ${mib}M /tmp/zeros
	receive /tmp/parked unix:/tmp/park.sock || return
	printf 'migrate unix:/tmp/park.sock\nquit\n' | qemu /tmp/zeros $((mib * 1024)) >/tmp/qemu 2>&1
	wait $receiver || return
	dd if=/dev/urandom of=/tmp/parked/mem.ram bs=1M count=$mib 2>/dev/null
}

# All that is registered, again and again, and a line between
watch_registered()
{
	while [ -e /tmp/moving ]; do
		rdma resource show mr
		echo end
		sleep 0.1
	done >/tmp/registered
}

# OPTIONS...
send()
{
	: >/tmp/moving
	watch_registered &
	watch=$!
	( $limits "$WH_BUILD/wherry" send --from /tmp/parked --verify=off --timeout 30 \
		rdma:$here:4444 "$@" ) >/tmp/send 2>&1
	ret=$?
	rm /tmp/moving
	wait $watch
	return $ret
}

# OPTIONS OF THE SOURCE...
into_ours()
{
	# shellcheck disable=SC2086 # words
	receive /tmp/out rdma:$here:4444 $there && send "$@" && wait $receiver &&
		cmp /tmp/parked/mem.ram /tmp/out/mem.ram
}

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

# FROM TO: the most KiB that one process had registered at a time, of both ends the one with more
most_is()
{
	most=$(sed -n 's/.* mrlen \([0-9]*\) .* pid \([0-9]*\) .*/\2 \1/p; /^end/p' /tmp/registered |
		awk '$1 == "end" { split("", kib); next }
			{ kib[$1] += $2 / 1024; if (kib[$1] > most) most = kib[$1] }
			END { print int(most) }')
	echo "$most KiB, $(grep -c end /tmp/registered) times"
	[ "$most" -ge "$1" ] && [ "$most" -le "$2" ]
}

now "a QEMU is parked" park
limits=pinning_little little=4096
now "both may pin 4 MiB" into_ours
now "and have" most_is 2048 4096
limits=exec
# Messages have less than 2 MiB
now "the source is to register 3 MiB, the destination is a QEMU" into_qemu --pin-max 3M
now "and so have both" most_is 2048 $((3072 + 2048))
there='--pin-max 3M'
now "the destination is to register 3 MiB, and does not agree to pin all" into_ours --pin-all
now "it has" most_is 2048 $((3072 + 2048))

if [ -n "${LAB_ALL-}" ]; then
	mib=200 limits=pinning_little there=''
	now "one of 200 MiB is parked" park
	now "both may pin 4 MiB of that" into_ours
	now "and do, and no more" most_is 2048 4096
	limits=exec there='--pin-max 40M'
	now "both may register 40 MiB of it, in large chunks" into_ours --pin-max 40M
	now "and do, in chunks of 4 MiB" grep -q "mrlen $((4 << 20)) " /tmp/registered
	now "as many as ten" most_is $((30 * 1024)) $((40 * 1024 + 2048))
fi
tap_end
