#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A guest that writes is moved by postcopy over RDMA, and looked at there byte by byte; broken off it
# is brought back over RDMA, over TCP, or from TCP over RDMA; where the link or the device goes, too.
set -u
. selftests/lib/lab.sh

# Its guest is threads: the kernel says what they have written
needs WP_ASYNC

told="/tmp/source /tmp/dest"
before=0.5

vmm()
{
	exec "$WH_BUILD/wherry-vmm" --threads --ram 6M --rate 200 --dead-peer 3000 --bandwidth 2M "$@"
}

# FILE DESCRIPTOR COMMAND PATTERN: it is said until that is there; the old connection may not be closed yet
insist()
{
	for _ in 1 2 3 4 5 6 7 8 9 10; do
		echo "$3" >&"$2"
		soon 2 grep -q "$4" "$1" && return
	done
	return 1
}

# URI: where it goes on
again()
{
	: >/tmp/source
	: >/tmp/dest
	insist /tmp/dest 4 "recover $1" "\"kind\":\"listening\".*\"uri\":\"$1\"" &&
		insist /tmp/source 3 "resume $1" '"phase":"postcopy-active"' &&
		until_says '"phase":"postcopy-active"' /tmp/dest
}

paused()
{
	until_says '"phase":"postcopy-paused"' /tmp/source && until_says '"phase":"postcopy-paused"' /tmp/dest
}

now "by chunks" begin_postcopy rdma:$here:4444
now "all of it is there" ends
now "pinned as a whole, in a file" begin_postcopy rdma:$here:4444 --pin-all on --memory memfd
now "all of that is there" ends

cable_loses 0
now "one to be paused" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 512K
echo pause >&3
now "it is paused" paused
# Nobody has quit: what is pinned would be pinned in vain
now "nothing stays registered while it is" soon 10 unpinned
now "over RDMA again" again rdma:$here:4445
echo pause >&4
now "it is paused once more" paused
now "over TCP now" again tcp:$here:4446
echo pause >&4
now "it is paused for the third time" paused
now "over RDMA from there" again rdma:$here:4447
now "all of it is there in the end" ends

# Each cut is another chance for whatever has to come in time
now "one that brings itself back" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 512K \
	--auto-recover 60000 --dead-peer 1000
for wait in 0 0.5; do
	: >/tmp/source
	: >/tmp/dest
	cable_loses 100
	now "the cable is cut" paused
	sleep $wait
	cable_loses 0
	now "and it goes on by itself" until_says '"phase":"postcopy-active"' /tmp/dest
	now "nobody has tried without pause" [ "$(grep -vc '"kind":"status"' /tmp/source)" -lt 100 ]
done
now "all of it is there in the end, too" ends

# Its source looks for the other end all the time, and nothing can be sent. A link that goes is known to
# a queue pair some milliseconds before the port knows, on a busy machine more: who has said goodbye in
# between has broken soft-RoCE for good. So this is for a machine that does nothing else.
if [ -n "${LAB_ALL-}" ]; then
	now "one whose link goes" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 512K \
		--auto-recover 60000 --dead-peer 1000
	ip link set v2 down
	now "its link has gone" paused
	now "by hand it goes on without one" again tcp:127.0.0.1:4451
	echo pause >&4
	now "it is paused there" paused
	plug_in v2
	now "over RDMA when the link is back" again rdma:$here:4452
	ip link set v2 down
	now "the link has gone again" paused
	now "the source knows why nobody is called" until_says 'rxe0, which leads there, has no link' /tmp/source
	: >/tmp/dest
	plug_in v2
	now "with the link it goes on by itself" until_says '"phase":"postcopy-active"' /tmp/dest
	now "all of it is there behind two links" ends
fi

now "one whose destination waits" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 1M
echo pause >&3
now "it is paused, too" paused
: >/tmp/dest
now "it waits over RDMA" insist /tmp/dest 4 "recover rdma:$here:4449" '"kind":"listening"'
rdma link delete rxe1 &
delete=$!
now "until its device is gone" until_says '"phase":"postcopy-paused".*the device was removed' /tmp/dest
now "it waits over TCP then" again tcp:$here:4450
now "all of it is there in spite of that" ends
wait $delete
device_back rxe1

now "one that loses its device" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 1M
rdma link delete rxe0 &
delete=$!
now "the device is gone" paused
now "it needs none" again tcp:$here:4448
now "all of it is there without" ends
wait $delete
device_back rxe0
tap_end
