#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A guest that writes is moved over RDMA while it runs, and looked at there byte by byte. Where the
# migration breaks - the other process, the cable, the device, the memory that may be pinned - the
# source says what has happened, soon, its guest goes on, and nothing stays in the kernel.
set -u
. selftests/lib/lab.sh

# Its guest is threads: the kernel says what they have written
needs WP_ASYNC

told="/tmp/source /tmp/dest"
limits='' odp=on # of the destination
back=off
ram=24M
mkfifo /tmp/in

vmm()
{
	${limits:-exec} "$WH_BUILD/wherry-vmm" --threads --ram $ram --rate 300 --dead-peer 2000 --postcopy off \
		--return-path $back "$@"
}

# OPTIONS OF THE SOURCE...: a migration has begun
begin()
{
	: >/tmp/source
	: >/tmp/dest
	vmm --odp $odp --listen rdma:$here:4444 </dev/null >/tmp/dest 2>&1 &
	dest=$!
	limits='' vmm "$@" </tmp/in >/tmp/source 2>&1 &
	source=$!
	exec 3>/tmp/in
	soon 20 listens || return
	echo "migrate rdma:$here:4444" >&3
}

some_registered()
{
	[ "$(rdma resource show mr | grep -c wherry)" -ge 6 ]
}

# It is in the middle: some memory is registered at both ends
begin_slowly()
{
	begin --bandwidth 2M && soon 20 some_registered
}

moved()
{
	begin "$@" || return
	wait $dest || return 1
	wait $source || return 1
	grep -q '"verified":true' /tmp/dest
}

# SENTENCE: the source says so, and its guest runs and writes
goes_on()
{
	until_says '"phase":"failed"' /tmp/source || return
	grep '"phase":"failed"' /tmp/source | grep "$1" || return
	: >/tmp/source
	until_says '"guest":"running"' /tmp/source
}

# The source's process is there yet
left()
{
	soon 20 unpinned && kill -0 $source
}

finish()
{
	now "nothing of it is left, $1" left
	echo quit >&3
	exec 3>&-
	wait $source
	kill -9 $dest 2>/dev/null
	wait $dest 2>/dev/null
}

now "by chunks" moved
now "pinned as a whole" moved --pin-all on
back=on
now "with a return path" moved
now "another migration begins, to be killed" begin_slowly
kill -9 $dest
# The return path ends, or a page that is written finds no memory: whichever is first
now "the destination is killed, with a return path" goes_on 'closed it\|rdma: '
finish "killed with a return path"
back=off

now "another migration begins" begin_slowly
kill -9 $dest
now "the destination is killed" goes_on 'rdma: '
finish "killed"

limits=pinning_little little=1024 odp=off
now "one into a destination that may pin its messages and no MiB" begin
now "it has given up" goes_on 'destination gave up'
now "and says why" until_says 'the limit is 1024 KiB' /tmp/dest
finish "limited"
limits='' odp=on

# Both ends', of whom each registers messages, too
large()
{
	rdma resource show mr
	[ "$(rdma resource show mr | grep wherry | grep -c "mrlen $((4 << 20)) ")" -ge 2 ]
}

cable_loses 0
ram=40M
now "another migration begins, to be cut" begin_slowly
now "its chunks are large, as it has much memory" soon 20 large
ram=24M
cable_loses 100
now "the cable swallows what is sent" goes_on 'acknowledges nothing'
finish "cut"
cable_loses 0

now "another migration begins, to be cancelled" begin_slowly
echo cancel >&3
now "it is cancelled" until_says 'cancelled' /tmp/source
now "the destination hears of it" until_says 'source has given up' /tmp/dest
finish "cancelled"

now "another migration begins, to lose its device" begin_slowly
rdma link delete rxe0 &
delete=$!
now "the device is gone" goes_on 'the device was removed'
finish "deleted"
wait $delete
device_back rxe0
tap_end
