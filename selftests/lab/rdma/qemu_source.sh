#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A real QEMU sends its memory over RDMA, and wherry receive has it byte for byte: registered
# by chunks and pinned as a whole; zeros, text and noise; a block that is not of whole chunks.
set -u
. selftests/lib/lab.sh

patience="timeout 50"
size=$((33 * 1024 + 8)) # KiB
ram=/tmp/ram
pin_max=''
dd if=/dev/zero of=$ram bs=1k count=0 seek=$size 2>/dev/null
dd if=/dev/urandom of=$ram bs=1M seek=3 count=6 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=$ram bs=4k seek=4000 count=1 conv=notrunc 2>/dev/null
dd if=/dev/urandom of=$ram bs=4k seek=$((size / 4 - 1)) count=1 conv=notrunc 2>/dev/null

# OPTIONS OF THE MIGRATION...: both ends, until they have ended
migrate()
{
	rm -rf /tmp/out
	# shellcheck disable=SC2086 # words
	"$WH_BUILD/wherry" receive --out /tmp/out --timeout 20 $pin_max rdma:$here:4444 >/tmp/receive 2>&1 &
	receiver=$!
	until_says listening /tmp/receive || { cat /tmp/receive; return 1; }
	{
		for line; do
			echo "$line"
		done
		echo 'migrate_set_parameter max-bandwidth 1g'
		echo "migrate rdma:$here:4444"
		echo 'info migrate'
		echo quit
	} | qemu $ram $size >/tmp/qemu 2>&1
	grep -q "status: completed" /tmp/qemu || kill $receiver 2>/dev/null
	wait $receiver
	received=$?
	[ $received = 0 ] && grep -q 'status: completed' /tmp/qemu && return
	tail -n 30 /tmp/qemu /tmp/receive
	return 1
}

pinned()
{
	rdma resource show mr | wc -l
}

try "by chunks" migrate
try "the memory is the same" cmp $ram /tmp/out/mem.ram
try "nothing stays registered" test "$(pinned)" = 0
try "pinned as a whole" migrate 'migrate_set_capability rdma-pin-all on'
try "the memory is the same again" cmp $ram /tmp/out/mem.ram
try "nothing stays registered again" test "$(pinned)" = 0

try "with its postcopy-ram on, which has a return path" migrate 'migrate_set_capability postcopy-ram on'
try "the memory is the same once more" cmp $ram /tmp/out/mem.ram

pin_max='--pin-max 4M --odp off'
migrate >/tmp/said 2>&1
try "it cannot give up what it has registered, and is refused" \
	grep 'beside 4096 KiB: the limit is 4096 KiB' /tmp/receive

"$WH_BUILD/wherry" receive --out /tmp/out3 rdma:10.9.9.9:4444 >/tmp/receive 2>&1
try "an address of no RDMA device is told" grep 'no RDMA device has this address' /tmp/receive
tap_end
