#!/bin/sh
# SPDX-License-Identifier: MIT
#
# As management does it, by QMP alone: a guest is moved by postcopy over RDMA, paused, and brought
# back over RDMA (migrate-recover, and migrate with resume).
set -u
. selftests/lib/lab.sh

# Its guest is threads: the kernel says what they have written
needs WP_ASYNC

told="/tmp/source /tmp/dest"
mkfifo /tmp/in /tmp/dest_in

# SOCKET COMMAND...
qmp()
{
	"$WH_BUILD/wherry" qmp "$@"
}

# SOCKET STATUS: that is what query-migrate says
status_is()
{
	qmp "$1" query-migrate | grep -q "\"status\": *\"$2\""
}

# SOCKET STATUS: it will be
until_status()
{
	soon 20 status_is "$@" || {
		qmp "$1" query-migrate
		return 1
	}
}

vmm()
{
	exec "$WH_BUILD/wherry-vmm" --threads --ram 6M --rate 200 --dead-peer 3000 "$@"
}

begin()
{
	vmm --listen defer --qmp /tmp/dest.qmp </tmp/dest_in >/tmp/dest 2>&1 &
	dest=$!
	vmm --qmp /tmp/source.qmp </tmp/in >/tmp/source 2>&1 &
	source=$!
	exec 3>/tmp/in 4>/tmp/dest_in
	soon 20 test -S /tmp/dest.qmp && soon 20 test -S /tmp/source.qmp || return
	for end in /tmp/source.qmp /tmp/dest.qmp; do
		qmp $end migrate-set-capabilities \
			'capabilities=[{"capability":"postcopy-ram","state":true},{"capability":"rdma-pin-all","state":true}]' || return
	done
	qmp /tmp/source.qmp migrate-set-parameters max-bandwidth=2097152 max-postcopy-bandwidth=1048576 &&
		qmp /tmp/dest.qmp migrate-incoming uri=rdma:$here:4444 &&
		qmp /tmp/source.qmp migrate uri=rdma:$here:4444 &&
		until_status /tmp/source.qmp active &&
		qmp /tmp/source.qmp migrate-start-postcopy &&
		until_status /tmp/dest.qmp postcopy-active
}

pause()
{
	qmp /tmp/source.qmp migrate-pause &&
		until_status /tmp/source.qmp postcopy-paused &&
		until_status /tmp/dest.qmp postcopy-paused
}

again()
{
	qmp /tmp/dest.qmp migrate-recover uri=rdma:$here:4445 &&
		qmp /tmp/source.qmp migrate uri=rdma:$here:4445 resume=true &&
		until_status /tmp/dest.qmp postcopy-active
}

ends()
{
	until_status /tmp/source.qmp completed && until_status /tmp/dest.qmp completed
}

right()
{
	qmp /tmp/source.qmp quit && wait $source &&
		qmp /tmp/dest.qmp quit && wait $dest && grep '"verified":true' /tmp/dest
}

now "a migration" begin
now "it is paused" pause
now "and brought back" again
now "all of it is there" ends
now "and is right" right
tap_end
