#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Where the device has on-demand paging: RAM goes over RDMA between processes that may pin no more than
# their messages. All of it is registered at a time, and nothing has to be given up for that, also not by
# a QEMU, which never does; pinned as a whole, too. Who is told not to use it pins.
set -u
. selftests/lib/lab.sh
. selftests/lib/parked.sh

needs 'on-demand paging'

# A QEMU into ours, which is not root's: chunk by chunk, and 24 MiB of what there is nothing to give back
from_qemu()
{
	receive /tmp/out rdma:$here:4444 || return
	printf '%s\n' 'migrate_set_parameter max-bandwidth 1g' "migrate rdma:$here:4444" 'info migrate' quit |
		qemu /tmp/parked/mem.ram $((mib * 1024)) >/tmp/qemu 2>&1
	wait $receiver && grep 'status: completed' /tmp/qemu && cmp /tmp/parked/mem.ram /tmp/out/mem.ram
}

now "a QEMU is parked" park
limits=pinning_little little=2048
now "both may pin their messages" into_ours
now "all of it was registered at a time" most_is $((mib * 1024)) $((mib * 1024 + 2048))
now "and only messages were pinned" most_pinned_is 64 2048
now "pinned as a whole, as it is called" into_ours --pin-all
now "it was not" most_pinned_is 64 2048
now "under a limit, of what is pinned" into_ours --pin-max 3M
now "nothing else was" most_pinned_is 64 2048
now "from a QEMU" from_qemu
limits=exec
there='--odp off'
now "both are told to pin" into_ours --odp off
now "and do" most_pinned_is 4096 $((mib * 1024 + 2048))
limits=pinning_little little=4096
now "only the source pins nothing" into_ours
now "the destination gives up some for the rest" most_pinned_is 2048 4096
there=''
now "only the destination pins nothing" into_ours --odp off
now "the source gives up some for the rest" most_pinned_is 2048 4096
now "nothing stays registered" unpinned
tap_end
