# SPDX-License-Identifier: MIT
#
# A guest of a QEMU that is parked in /tmp/parked, to be sent over RDMA, while the kernel is asked what
# is registered and pinned: behind lab.sh, . selftests/lib/parked.sh
# shellcheck shell=sh

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

# All that is registered, and what our processes have pinned, again and again, and a line between
watch_registered()
{
	while [ -e /tmp/moving ]; do
		rdma resource show mr
		for process in $(pidof wherry); do
			sed -n 's/^VmPin:[^0-9]*\([0-9]*\).*/pinned \1/p' /proc/$process/status 2>/dev/null
		done
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

# FROM TO: the same, of what the process had pinned
most_pinned_is()
{
	most=$(sed -n 's/^pinned //p' /tmp/registered | sort -n | tail -n 1)
	echo "$most KiB pinned, $(grep -c end /tmp/registered) times"
	[ "$most" -ge "$1" ] && [ "$most" -le "$2" ]
}
