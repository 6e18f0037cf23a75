#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry netplug, by hand, in namespaces of our own: a guest's tap that is a port of a bridge, and
# the world outside at the other end of a veth.
set -u
. selftests/lib/tap.sh

wherry=$WH_BUILD/wherry
if [ "${1-}" != inside ]; then
	unshare -Urn true 2>/dev/null || {
		echo '1..0 # SKIP no user and network namespaces'
		exit 4
	}
	exec unshare -Urn "$0" inside
fi

temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
ip link add br0 type bridge && ip link set br0 addrgenmode none up
ip tuntap add tap0 mode tap && ip link set tap0 addrgenmode none && ip link set tap0 master br0 up

field()
{
	"$wherry" netplug status vm1 --json | sed -n 's/.*"'"$1"'":"\{0,1\}\([^",}]*\).*/\1/p'
}

# is NAME VALUE: of the status
is()
{
	try "$1 is $2" [ "$(field "$1")" = "$2" ]
}

says()
{
	text=$1
	shift
	! "$@" >"$temp/out" 2>&1 && grep -qF -e "$text" "$temp/out" || {
		cat "$temp/out"
		return 1
	}
}

try "nothing is held" says "output is not held" "$wherry" netplug turn vm1 1
is state idle
try "a NIC that is not there" says "there is no device tap7" "$wherry" netplug arm vm1 tap0 tap7
is state idle
try "it is held" "$wherry" netplug arm vm1 tap0
is state held
is epoch 1
is edge queue
try "the name is taken" says "another process has the output of 'vm1'" "$wherry" netplug arm vm1 tap0
try "an epoch that is not open" says "1 is open" "$wherry" netplug turn vm1 2
try "turn" "$wherry" netplug turn vm1 1
is epoch 2
try "an epoch that is not closed" says "cannot be released" "$wherry" netplug release vm1 2
try "release" "$wherry" netplug release vm1 1
is released 1
pid=$(field holder)
try "it has given up all but CAP_NET_ADMIN" \
	grep -q '^CapEff:.*0000000000001000$' "/proc/$pid/status"
try "kill -9" kill -9 "$pid"
while kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$pid/status"; do sleep 0.01; done
is state orphan
is holder 0
try "it is not armed over an orphan" says "is orphan" "$wherry" netplug arm vm1 tap0
try "nor released" says "is not held but orphan" "$wherry" netplug release vm1 1
try "fence" "$wherry" netplug fence vm1
try "disarm" "$wherry" netplug disarm vm1
is state idle
try "the tap is its bridge's again" sh -c 'ip link show tap0 | grep -q "master br0"'
try "and has no hook" sh -c '! tc qdisc show dev tap0 | grep -q ingress'
try "again" "$wherry" netplug arm vm1 tap0
try "disarm ends it" "$wherry" netplug disarm vm1
is holder 0
is state idle
try "one that waits for a VMM" "$wherry" netplug hold vm1 tap0
is state idle
pid=$(field holder)
try "is a process" kill -0 "$pid"
try "nothing is held yet" says "output is not held" "$wherry" netplug turn vm1 1
try "one for each name" says "another process has the output of 'vm1'" "$wherry" netplug hold vm1 tap0
try "what is not held can be disarmed" "$wherry" netplug disarm vm1
is holder "$pid"
kill -9 "$pid"
while kill -0 "$pid" 2>/dev/null && ! grep -q '^State:.Z' "/proc/$pid/status"; do sleep 0.01; done
is holder 0
is state idle
"$wherry" netplug >/dev/null 2>&1
try "usage" [ $? = 2 ]
try "no right, a sentence" says "CAP_NET_ADMIN is missing" setpriv --bounding-set=-net_admin \
	--inh-caps=-net_admin "$wherry" netplug status vm1
tap_end
