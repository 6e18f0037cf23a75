#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry-vmm --hold plug: the kernel holds what its guest sends. It is fenced by command; and its
# process is killed, of which the plug knows nothing. Then another process has the plug, and is killed.
set -u
. selftests/lib/tap.sh

# Its guest is threads: the kernel says what they have written
needs WP_ASYNC

wherry=$WH_BUILD/wherry
temp=$(mktemp -d) || exit 1
primary=
replica=

end()
{
	exec 3>&-
	for child in $primary $replica; do
		kill -9 "$child" 2>/dev/null
		wait "$child" 2>/dev/null
	done
	primary='' replica=''
	rm -f "$temp"/*
}
trap 'end; rm -rf "$temp"' EXIT

until_true()
{
	n=0
	until "$@"; do
		n=$((n + 1))
		[ "$n" -lt 600 ] || {
			grep -h error "$temp"/*.log | head -5
			return 1
		}
		sleep 0.1
	done
}

# told LOG PATTERN
told()
{
	grep -q -e "$2" "$temp/$1.log" 2>/dev/null
}

# begin OPTION...: both ends, the primary's commands on descriptor 3
begin()
{
	mkfifo "$temp/in"
	"$WH_BUILD/wherry-vmm" --threads --vcpus 1 --ram 16M --rate 500 --lease 60000 \
		--generation "$temp/b.generation" --replica "unix:$temp/link" --nic tap1 \
		</dev/null >"$temp/b.log" 2>&1 &
	replica=$!
	"$WH_BUILD/wherry-vmm" --threads --vcpus 1 --ram 16M --rate 500 --lease 60000 \
		--generation "$temp/a.generation" --nic tap0 --interval 100 "$@" \
		<"$temp/in" >"$temp/a.log" 2>&1 &
	primary=$!
	exec 3>"$temp/in"
	until_true told b '"kind":"listening"' || return 1
	echo "protect unix:$temp/link" >&3
	until_true told a '"state":"run"'
}

# said LABEL: of the command before
said()
{
	try "$1" [ $? = 0 ]
}

device()
{
	ip -br link | grep -o '^wh[0-9a-f]*b0'
}

is_plug()
{
	tc qdisc show dev "$(device)" | grep -q 'qdisc plug 5748: root'
}

is_down()
{
	ip -o link show dev "$(device)" >"$temp/shown" && ! grep -q '[<,]UP[,>]' "$temp/shown"
}

is_up()
{
	ip -o link show dev "$(device)" >"$temp/shown" && grep -q '[<,]UP[,>]' "$temp/shown"
}

some_checkpoints()
{
	grep -q '"checkpoints":\([5-9]\|[1-9][0-9]\)' "$temp/a.log"
}

# state NAME
state()
{
	"$wherry" netplug status "$1" --json 2>/dev/null |
		sed -n 's/.*"state":"\([a-z]*\)".*"edge":"\([a-z]*\)".*/\1 \2/p'
}

ip link add br0 type bridge && ip link set br0 addrgenmode none up
for tap in tap0 tap1; do
	ip tuntap add $tap mode tap && ip link set $tap addrgenmode none && ip link set $tap master br0 up
done
tc qdisc add dev br0 root plug 2>/dev/null || {
	echo '1..0 # SKIP this kernel has no sch_plug'
	exit 4
}
tc qdisc del dev br0 root

begin --hold plug
said "a guest is protected, its output in the kernel's plug"
try "there is a plug of ours" is_plug
try "whose device is up" is_up
until_true some_checkpoints
said "and checkpoint by checkpoint it is let go"
echo fence >&3
until_true told a '"state":"fenced"'
said "it is fenced"
try "the plug's device is down" is_down
try "and the plug is there still" is_plug
echo quit >&3
wait "$primary"
primary=
try "who looks later finds it fenced" [ "$(state tap0)" = 'fenced plug' ]
try "and takes it away" "$wherry" netplug disarm tap0
try "of which nothing is left" [ -z "$(device)" ]
end

begin --hold plug
said "once more"
kill -9 "$primary"
wait "$primary" 2>/dev/null
primary=
try "its process is killed: it holds on" is_plug
try "as an orphan" [ "$(state tap0)" = 'orphan plug' ]
try "it is fenced by hand" "$wherry" netplug fence tap0
try "its device is down" is_down
try "and it is taken away" "$wherry" netplug disarm tap0
try "of which nothing is left either" [ -z "$(device)" ]
end

holder()
{
	"$wherry" netplug status vm1 --json | sed -n 's/.*"holder":\([0-9]*\).*/\1/p'
}

try "a process that is to hold" "$wherry" netplug hold vm1 --edge plug tap0
begin --holder vm1
said "a guest is protected, its output in the plug of another process"
until_true some_checkpoints
said "and checkpoint by checkpoint that lets it go"
kill -9 "$(holder)"
until_true told a '"state":"hold"'
said "it is killed: the guest's process waits for a decision"
try "the kernel holds on" is_plug
try "on a device that is up" is_up
try "the next one" "$wherry" netplug hold vm1 --edge plug tap0
try "finds an orphan" [ "$(state vm1)" = 'orphan plug' ]
echo fence >&3
until_true is_down
said "by which the guest's process fences it"
end
try "and it is taken away" "$wherry" netplug disarm vm1
try "of which nothing is left again" [ -z "$(device)" ]
kill -9 "$(holder)"
tap_end
