#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Three migrations over RDMA between the same ends at once: one is killed, and two arrive.
set -u
. selftests/lib/lab.sh

# Its guest is threads: the kernel says what they have written
needs WP_ASYNC

told="/tmp/source1 /tmp/source2 /tmp/source3 /tmp/dest1 /tmp/dest2 /tmp/dest3"

vmm()
{
	exec "$WH_BUILD/wherry-vmm" --threads --ram 24M --rate 300 --dead-peer 5000 --postcopy off \
		--return-path off "$@"
}

# NUMBER OPTIONS OF THE SOURCE...: one of several
one_of()
{
	n=$1
	shift
	mkfifo /tmp/in$n
	vmm --listen rdma:$here:446$n </dev/null >/tmp/dest$n 2>&1 &
	eval "dest$n=$!"
	vmm --bandwidth 4M "$@" </tmp/in$n >/tmp/source$n 2>&1 &
	eval "source$n=$!"
}

# Both ends of each
connected()
{
	[ "$(rdma resource show qp | grep -c wherry)" -ge 6 ]
}

three()
{
	for n in 1 2 3; do
		until_says '"kind":"listening"' /tmp/dest$n || return
	done
	for n in 5 6 7; do
		echo "migrate rdma:$here:446$((n - 4))" >&$n
	done
	soon 20 connected
}

two_arrive()
{
	wait $dest1 && wait $dest2 && wait $source1 && wait $source2 &&
		grep -q '"verified":true' /tmp/dest1 && grep -q '"verified":true' /tmp/dest2
}

third_goes_on()
{
	until_says '"phase":"failed"' /tmp/source3 && : >/tmp/source3 &&
		until_says '"guest":"running"' /tmp/source3
}

one_of 1
one_of 2 --pin-all on
one_of 3
exec 5>/tmp/in1 6>/tmp/in2 7>/tmp/in3
now "three at once" three
kill -9 $dest3
now "one is killed, and two arrive" two_arrive
now "the third runs where it was" third_goes_on
# Its process is there yet, and has nothing to do with that any more
now "nothing of them is left" soon 20 unpinned
echo quit >&7
exec 5>&- 6>&- 7>&-
wait $source3
tap_end
