# SPDX-License-Identifier: MIT
#
# For scripts that migrate over RDMA in the lab: . selftests/lib/lab.sh
# shellcheck shell=sh

. selftests/lib/tap.sh

# The other end of the cable
here=10.9.1.2
# What somebody said, for who wonders why a test has failed
told=''
# Who has ended hears no more
trap '' PIPE

# LABEL COMMAND...: as try, in this shell: what is started is its child
now()
{
	label=$1
	shift
	if "$@" >/tmp/said 2>&1; then
		ok "$label"
	else
		{
			cat /tmp/said
			[ -z "$told" ] || cut -c 1-400 $told | grep -v '"kind":"status"' | tail -n 60
		} | tr -d '\033' | sed 's/^/# /'
		not_ok "$label"
	fi
}

# SECONDS COMMAND...: it is so, sooner or later
soon()
{
	i=0
	limit=$((10 * $1 * ${WH_SLOW:-1}))
	shift
	until "$@"; do
		i=$((i + 1))
		[ $i -lt $limit ] || return 1
		sleep 0.1
	done
}

# PATTERN FILE: it will be there
until_says()
{
	soon 20 grep -q "$1" "$2"
}

# Somebody waits for a connection over RDMA
listens()
{
	rdma resource show cm_id | grep -q LISTEN
}

# URI OPTIONS...: a migration has begun between two of vmm(), which takes the options and is the
# script's. They are told more by 3, the source, and 4
begin()
{
	uri=$1
	shift
	rm -f /tmp/in /tmp/dest_in
	mkfifo /tmp/in /tmp/dest_in
	: >/tmp/source
	: >/tmp/dest
	vmm --listen "$uri" "$@" </tmp/dest_in >/tmp/dest 2>&1 &
	dest=$!
	vmm "$@" </tmp/in >/tmp/source 2>&1 &
	source=$!
	exec 3>/tmp/in 4>/tmp/dest_in
	until_says '"kind":"listening"' /tmp/dest || return
	echo "migrate $uri" >&3
	until_says '"phase":"active"' /tmp/dest
}

# URI OPTIONS...: and the guest runs there; $before: for so many seconds it did not
begin_postcopy()
{
	begin "$@" || return
	sleep "${before:-0}"
	echo postcopy >&3
	until_says '"phase":"postcopy-active"' /tmp/dest
}

# Both are done, and every byte is right
ends()
{
	wait $dest || return 1
	wait $source || return 1
	exec 3>&- 4>&-
	grep '"verified":true' /tmp/dest && grep '"phase":"completed"' /tmp/source
}

# But for a QEMU's nothing stays in the kernel; else it is shown. What a thread has left behind that has
# ended has no name there
unpinned()
{
	! rdma resource show mr | grep -v 'comm qemu' &&
		! rdma resource show qp | grep -v 'type GSI\|comm qemu'
}

# COMMAND...: in the place of this shell. root may pin what it likes, unless it may not: $little KiB
little=2048
pinning_little()
{
	ulimit -l $little
	exec setpriv --bounding-set=-ipc_lock --inh-caps=-ipc_lock "$@"
}

# FILE KIB OPTIONS...: in the place of this shell, a stopped QEMU with this memory, and a monitor.
# Behind a timeout it is not what a kill -9 ends
qemu()
{
	file=$1 kib=$2
	shift 2
	exec ${patience-} qemu-system-x86_64 -machine none,memory-backend=mem -accel tcg -m "${kib}k" \
		-object "memory-backend-file,id=mem,size=${kib}k,mem-path=$file,share=on" \
		-S -nodefaults -display none -monitor stdio "$@"
}

# DEVICE: rxe0 or rxe1, after rdma link delete, which waits for the process: librdmacm lets go of a
# device when that ends
device_back()
{
	rdma link add "$1" type rxe netdev "v$((${1#rxe} + 1))"
	# Its address comes a little later
	soon 20 sh -c "cat /sys/class/infiniband/$1/ports/1/gids/* 2>/dev/null | grep -q :ffff:"
}

# PERCENT: of what is sent over the cable, either way, so much is lost. With 0 first, in
# front of connecting: while a qdisc takes the place of another a packet can fail to be sent, behind
# which soft-RoCE connects no more
cable_loses()
{
	for end in v1 v2; do
		if tc qdisc show dev $end | grep -q netem; then
			tc qdisc change dev $end root netem limit 1000 loss "$1%"
		else
			tc qdisc add dev $end root netem limit 1000 loss "$1%"
		fi
	done
}

# v1 or v2: up again. Its route and its neighbour (selftests/lab/init) went with the link; who answers
# without them cannot send that, behind which soft-RoCE connects no more. Behind cable_loses
plug_in()
{
	i=${1#v}
	other=$((3 - i))
	cable_loses 100
	ip link set "$1" up
	ip route replace 10.9.1.$other/32 dev "$1" src "10.9.1.$i" table "10$i"
	ip neigh replace 10.9.1.$other lladdr "$(cat /sys/class/net/v$other/address)" dev "$1" \
		nud permanent
	cable_loses 0
}
