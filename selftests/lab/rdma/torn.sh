#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A migration of a real QEMU over RDMA that breaks: its process, the cable, the device, the
# memory that may be pinned. wherry receive says what has happened, soon, and nothing of it
# stays in the kernel; the QEMU hears of it and goes on. The last test of the folder: an interface
# stays down.
set -u
. selftests/lib/lab.sh

ram=/tmp/ram
told="/tmp/receive /tmp/qemu"
mkfifo /tmp/monitor
dd if=/dev/urandom of=$ram bs=1M count=16 2>/dev/null
limits='' odp=on

# Who may not is not waited for
some_registered()
{
	[ -n "$limits" ] || [ "$(rdma resource show mr | grep -c wherry)" -ge 3 ]
}

# Slow enough to break in the middle
begin()
{
	rm -rf /tmp/out
	: >/tmp/receive
	: >/tmp/qemu
	$limits "$WH_BUILD/wherry" receive --out /tmp/out --timeout 4 --odp $odp rdma:$here:4444 >/tmp/receive 2>&1 &
	receiver=$!
	until_says listening /tmp/receive || return
	qemu $ram 16384 </tmp/monitor >/tmp/qemu 2>&1 &
	source=$!
	exec 3>/tmp/monitor
	echo "migrate_set_parameter max-bandwidth ${1:-1m}" >&3
	echo "migrate -d rdma:$here:4444" >&3
	soon 20 some_registered
}

gone()
{
	! kill -0 $receiver 2>/dev/null
}

# SENTENCE: it fails with that, within ten seconds
fails()
{
	soon 10 gone || { echo 'it is still there'; kill -9 $receiver; return 1; }
	wait $receiver
	[ $? = 1 ] && grep -q "$1" /tmp/receive && return
	cat /tmp/receive
	return 1
}

has_failed()
{
	echo 'info migrate' >&3
	grep -q 'status: failed' /tmp/qemu
}

goes_on()
{
	soon 20 has_failed
}

finish()
{
	exec 3>&-
	kill -9 $source 2>/dev/null
	wait $source 2>/dev/null
}

now "a migration begins" begin
kill -9 $source
now "the source is killed" fails 'the source closed'
now "nothing of it is left" soon 20 unpinned
finish

now "another one begins" begin
kill -9 $receiver
wait $receiver 2>/dev/null
now "the receiver is killed, and QEMU goes on" goes_on
now "nothing of it is left again" soon 20 unpinned
finish

limits=pinning_little odp=off
now "one that may pin 2 MiB begins" begin 1g
now "it says what the limit is" fails 'the limit is 2048 KiB'
now "and QEMU goes on" goes_on
now "nothing of it is left a third time" soon 20 unpinned
finish
limits='' odp=on

cable_loses 0
now "another one begins" begin
cable_loses 100
now "the cable swallows what is sent" fails 'acknowledges nothing'
now "nothing of it is left either" soon 20 unpinned
finish
cable_loses 0

now "the last one begins" begin
ip link set v2 down
now "the interface goes down" fails 'rdma: '
now "nothing of it is left at last" soon 20 unpinned
finish
tap_end
