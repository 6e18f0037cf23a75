#!/bin/sh
# SPDX-License-Identifier: MIT
#
# A guest that writes has a replica over RDMA. Its process is killed, and it goes on over there from
# the last checkpoint, and every byte is looked at; the cable is cut, and both ends hold until somebody
# decides; migrations and protections refuse each other; little may be pinned.
set -u
. selftests/lib/lab.sh

# Its guest is threads: the kernel says what they have written
needs WP_ASYNC

told="/tmp/source /tmp/replica"
source_limits='' replica_limits=''
mkfifo /tmp/in /tmp/in2

vmm()
{
	${limits:-exec} "$WH_BUILD/wherry-vmm" --threads --ram 12M --rate 500 "$@"
}

# A guest, and one who waits for it as he is told
start()
{
	: >/tmp/source
	: >/tmp/replica
	rm -f /tmp/a /tmp/b
	limits=$replica_limits vmm "$@" rdma:$here:4444 --generation /tmp/b --lease 1500 </tmp/in2 \
		>/tmp/replica 2>&1 &
	replica=$!
	exec 4>/tmp/in2
	limits=$source_limits vmm --generation /tmp/a --interval 50 --lease 1500 --return-path off \
		--postcopy off </tmp/in >/tmp/source 2>&1 &
	source=$!
	exec 3>/tmp/in
	until_says '"listening"' /tmp/replica && until_says '"running"' /tmp/source
}

begin()
{
	start --replica && echo "protect rdma:$here:4444" >&3
}

# It is protected, and that goes on
protected()
{
	begin && until_says '"checkpoints":[5-9]\|"checkpoints":[1-9][0-9]' /tmp/source &&
		until_says '"checkpoints":[1-9]' /tmp/replica
}

# Slabs are registered at both ends, and both know of no reason why they should not be
registered()
{
	soon 20 sh -c '[ "$(rdma resource show mr | grep wherry | grep -c "mrlen 4194304")" -ge 2 ]' &&
		! grep 'in messages' $told
}

state()
{
	until_says "\"state\":\"$1\",\"from\"" "$2"
}

# While those who are left are there; then they are ended
end()
{
	soon 20 unpinned
	left=$?
	echo quit >&3
	echo quit >&4
	exec 3>&- 4>&-
	wait $source
	wait $replica
	return $left
}

takes_over()
{
	echo takeover >&4
	state takeover /tmp/replica
}

now "protected over RDMA" protected
now "slabs are registered" registered
kill -9 $source
now "the replica misses it" state suspect /tmp/replica
now "and goes on" takes_over
now "nothing of it is left" end
now "and every byte is right" grep '"verified":true' /tmp/replica

replica_limits=pinning_little
now "a replica that may pin little" protected
now "says so" until_says 'pages come in messages.*ulimit' /tmp/replica
echo unprotect >&3
now "its protection is ended" state released /tmp/source
now "the replica knows" state fenced /tmp/replica
now "nothing of it is left, ended" end
replica_limits=''

# While one takes the place of another a packet can fail to be sent, which is another reason to end
tc qdisc add dev v1 root netem limit 1000
tc qdisc add dev v2 root netem limit 1000
now "another one, to be cut" protected
tc qdisc change dev v1 root netem loss 100%
tc qdisc change dev v2 root netem loss 100%
now "the source holds" state hold /tmp/source
now "the replica waits for a decision" state suspect /tmp/replica
echo takeover >&4
now "it takes over" state takeover /tmp/replica
tc qdisc del dev v1 root
tc qdisc del dev v2 root
now "the source hears of it, and stops" state fenced /tmp/source
now "nothing of it is left, cut" end

source_limits=pinning_little
now "a source that may pin little" protected
now "says so" until_says 'pages go in messages.*ulimit' /tmp/source
kill -9 $replica
now "its replica is killed: it holds" state hold /tmp/source
now "nothing of it is left, killed" end
source_limits=''

migration_refused()
{
	start --replica || return
	echo "migrate rdma:$here:4444" >&3
	until_says 'refused: nobody listens, or not for one like this' /tmp/source &&
		until_says 'refused: rdma: it is a migration' /tmp/replica || return
	echo "protect rdma:$here:4444" >&3
	until_says '"checkpoints":[1-9]' /tmp/replica
}

protection_refused()
{
	start --postcopy off --return-path off --listen || return
	echo "protect rdma:$here:4444" >&3
	state released /tmp/source &&
		until_says 'refused: nobody listens, or not for one like this' /tmp/source &&
		until_says 'refused: rdma: it wants to bring checkpoints' /tmp/replica || return
	echo "migrate rdma:$here:4444" >&3
	wait $source && wait $replica
}

now "a replica takes no migration, and waits on" migration_refused
echo unprotect >&3
now "nothing of it is left, refused" end
now "and who waits for one no checkpoints" protection_refused
tap_end
