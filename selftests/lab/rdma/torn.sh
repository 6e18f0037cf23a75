#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A migration of a real QEMU over RDMA that breaks: its process, the cable, the device, the
# memory that may be pinned. wherry receive says what has happened, soon, and nothing of it
# stays in the kernel; the QEMU hears of it and goes on. The last test of the folder: an interface
# stays down.
set -u
. selftests/lib/tap.sh

ram=/tmp/ram
here=10.9.1.2
mkfifo /tmp/monitor
dd if=/dev/urandom of=$ram bs=1M count=16 2>/dev/null
limits=''

# As try, in this shell: what is started is its child
now()
{
	label=$1
	shift
	if "$@" >/tmp/said 2>&1; then
		ok "$label"
	else
		sed 's/^/# /' /tmp/said
		not_ok "$label"
	fi
}

until_says()
{
	i=0
	until grep -q "$1" "$2"; do
		i=$((i + 1))
		[ $i -lt 150 ] || return 1
		sleep 0.1
	done
}

# root may pin what it likes, unless it may not
pinning_little()
{
	ulimit -l 2048
	exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock "$@"
}

# Slow enough to break in the middle
begin()
{
	rm -rf /tmp/out
	: >/tmp/receive
	: >/tmp/qemu
	$limits "$WH_BUILD/wherry" receive --out /tmp/out --timeout 4 rdma:$here:4444 >/tmp/receive 2>&1 &
	receiver=$!
	until_says listening /tmp/receive || return
	qemu-system-x86_64 -machine none,memory-backend=mem -accel tcg -m 16 -S -nodefaults \
		-object memory-backend-file,id=mem,size=16M,mem-path=$ram,share=on \
		-display none -monitor stdio </tmp/monitor >/tmp/qemu 2>&1 &
	source=$!
	exec 3>/tmp/monitor
	echo "migrate_set_parameter max-bandwidth ${1:-1m}" >&3
	echo "migrate -d rdma:$here:4444" >&3
	i=0
	while [ "$(rdma resource show mr | grep -c wherry)" -lt 3 ] && [ -z "${limits}" ]; do
		i=$((i + 1))
		[ $i -lt 100 ] || return 1
		sleep 0.1
	done
}

# SENTENCE: it fails with that, within ten seconds
fails()
{
	i=0
	while kill -0 $receiver 2>/dev/null; do
		i=$((i + 1))
		[ $i -lt 100 ] || { echo 'it is still there'; kill -9 $receiver; return 1; }
		sleep 0.1
	done
	wait $receiver
	# a sanitizer's own status is 1 as well
	[ $? = 1 ] && grep -q "$1" /tmp/receive && ! grep -q -e Sanitizer -e 'runtime error' /tmp/receive &&
		return
	cat /tmp/receive
	return 1
}

left()
{
	! rdma resource show mr | grep wherry && ! rdma resource show qp | grep wherry
}

goes_on()
{
	i=0
	until echo 'info migrate' >&3 && grep -q 'status: failed' /tmp/qemu; do
		i=$((i + 1))
		[ $i -lt 100 ] || { tail -n 20 /tmp/qemu; return 1; }
		sleep 0.1
	done
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
now "nothing of it is left" left
finish

now "another one begins" begin
kill -9 $receiver
wait $receiver 2>/dev/null
now "the receiver is killed, and QEMU goes on" goes_on
now "nothing of it is left again" left
finish

limits=pinning_little
now "one that may pin 2 MiB begins" begin 1g
now "it says what the limit is" fails 'the limit is 2048 KiB'
now "and QEMU goes on" goes_on
now "nothing of it is left a third time" left
finish
limits=''

now "another one begins" begin
tc qdisc add dev v1 root netem loss 100%
tc qdisc add dev v2 root netem loss 100%
now "the cable swallows what is sent" fails 'acknowledges nothing'
now "nothing of it is left either" left
finish
tc qdisc del dev v1 root
tc qdisc del dev v2 root

now "the last one begins" begin
ip link set v2 down
now "the interface goes down" fails 'rdma: '
now "nothing of it is left at last" left
finish
tap_end
