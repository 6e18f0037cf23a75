#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Pages that the guest waits for are read from the source's memory: all of them, those that there are
# keys for, or none. In the middle of that it is paused, and brought back. Each guest is looked at
# byte by byte. Who may pin little lends little, or all the same where nothing has to be pinned.
set -u
. selftests/lib/lab.sh

# Its guest is threads: the kernel says what they have written
needs WP_ASYNC

told="/tmp/source /tmp/dest"
limits=''

vmm()
{
	${limits:-exec} "$WH_BUILD/wherry-vmm" --threads --ram 4M --rate 1000 --dead-peer 20000 --bandwidth 2M "$@"
}

# URGENT REQUESTS: what the destination counted in the end matches that; read, and asked for
counted()
{
	grep '"kind":"summary"' /tmp/dest | grep "\"pages_urgent\":$1," | grep "\"requests\":$2,"
}

# Somebody could read: a queue pair more at each end than the stream and the return path have
connections()
{
	rdma resource show qp
	[ "$(rdma resource show qp | grep -c wherry)" = "$1" ]
}

some='[1-9][0-9]*'
now "one that reads" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 2M
now "all of it is there" ends
now "every page was read that was waited for" counted "$some" 0

now "one with keys for a MiB" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 2M --read-max 1M
now "all of that is there" ends
now "some pages were read, others asked for" counted "$some" "$some"

now "one that may read nothing" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 2M --read-max 0
now "there are two connections" connections 4
now "all of that is there, too" ends
now "every page was asked for" counted 0 "$some"

limits=pinning_little little=3072
now "one that may pin little" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 2M
now "all of it is there in spite of that" ends
if has 'on-demand paging'; then
	now "every page was read that was waited for, and nothing pinned" counted "$some" 0
else
	now "what could not be pinned was asked for" counted '[0-9]*' "$some"
fi
limits=''

now "one to be paused" begin_postcopy rdma:$here:4444 --postcopy-bandwidth 512K
now "there are three connections" connections 6
now "it reads" until_says "\"pages_urgent\":$some" /tmp/dest
echo pause >&3
now "the source is paused" until_says '"phase":"postcopy-paused"' /tmp/source
now "the destination is paused" until_says '"phase":"postcopy-paused"' /tmp/dest
now "nothing is lent while it is" soon 20 unpinned
: >/tmp/source
: >/tmp/dest
echo "recover rdma:$here:4445" >&4
now "it listens again" until_says '"kind":"listening".*:4445"' /tmp/dest
echo "resume rdma:$here:4445" >&3
now "all of it is there in the end" ends
now "pages were asked for from there on" counted "$some" "$some"
tap_end
