#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Guests that lose their machine, their replica, the link between them, or the process that holds
# their output, at moments by chance: whoever goes on remembers every reply that was seen outside,
# nobody else is heard, and every byte of its memory is what it is to be.
# PROTECT_DRILLS=500 for more of them, PROTECT_SEED=N for those of another run.
set -u
. selftests/lib/tap.sh

wherry=${WH_BUILD:-build}/wherry
unshare -Urn true 2>/dev/null || {
	echo '1..0 # SKIP no user and network namespaces'
	exit 4
}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM

# drill KIND NUMBER: how it ended, in words if it did not go well
drill()
{
	# every third one has plain threads as its processors
	[ $(($2 % 3)) -ne 0 ] || set -- "$@" --threads
	# and in every fourth its pages are copied after its stop
	[ $(($2 % 4)) -ne 0 ] || set -- "$@" --copy-on-write
	kind=$1
	seed=$((first + $2))
	shift 2
	"$wherry" demo --protect --json --ram 16M --rate 4000 --interval 20 --seconds 0 \
		--kill "$kind" --seed "$seed" "$@" >"$folder/out" 2>&1 &&
		tail -n 1 "$folder/out" | grep -q '"result":"ok".*"missing":0,.*"verified":true' &&
		return 0
	sed 's/^/# /' "$folder/out"
	return 1
}

first=${PROTECT_SEED:-$(od -An -N3 -tu4 /dev/urandom | tr -d ' ')}
echo "# PROTECT_SEED=$first"
n=0
while [ "$n" -lt "${PROTECT_DRILLS:-50}" ]; do
	n=$((n + 1))
	case $((n % 7)) in
	0 | 2) kind=link ;;
	1 | 4) kind=source ;;
	3 | 6) kind=agent ;;
	*) kind=destination ;;
	esac
	try "drill $n: $kind" drill "$kind" "$n"
done
tap_end
