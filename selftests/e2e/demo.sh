#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry demo: what it shows, how it ends, and that it leaves nothing behind.
set -u
. selftests/lib/tap.sh

wherry=${WH_BUILD:-build}/wherry
folder=$(mktemp -d) || exit 1
demo_pid=
trap '[ -z "$demo_pid" ] || kill -KILL "$demo_pid" 2>/dev/null; rm -rf "$folder"' EXIT
trap 'exit 1' INT TERM
small="--ram 64M --bandwidth 100M --postcopy-bandwidth 15M --postcopy-after 1500"

# matches LABEL PATTERN FILE: ok if a line of the file matches
matches()
{
	try "$1" grep -qE "$2" "$3"
}

# ends_with LABEL STATUS COMMAND...
ends_with()
{
	label=$1
	wanted=$2
	shift 2
	"$@" >"$folder/out" 2>"$folder/err"
	status=$?
	if [ "$status" -eq "$wanted" ]; then
		ok "$label"
	else
		sed 's/^/# /' "$folder/out" "$folder/err"
		echo "# exit status $status, not $wanted"
		not_ok "$label"
	fi
}

# until COMMAND...: it succeeds within 10 s
until_true()
{
	n=0
	until "$@"; do
		n=$((n + 1))
		[ "$n" -lt 200 ] || return 1
		sleep 0.05
	done
}

gone()
{
	for pid in $1; do
		[ ! -d "/proc/$pid" ] || grep -q '^State:.*Z' "/proc/$pid/status" || return 1
	done
}

# In the background, with both children there and in precopy: demo_pid, children
start()
{
	: >"$folder/out"
	"$wherry" demo --ram 64M --bandwidth 10M --postcopy-after 60000 "$@" >"$folder/out" 2>&1 &
	demo_pid=$!
	until_true grep -q 'source: active' "$folder/out"
	children=$(cat "/proc/$demo_pid/task/$demo_pid/children")
}

# child dest|source: its process
child()
{
	for pid in $children; do
		case $(tr '\0' ' ' <"/proc/$pid/cmdline") in
		*" --listen "*) [ "$1" != dest ] || echo "$pid" ;;
		*) [ "$1" != source ] || echo "$pid" ;;
		esac
	done
}

# What kills it, in $1; afterwards it has failed and nobody is left
killed()
{
	try "$1: two children" [ "$(echo "$children" | wc -w)" -eq 2 ]
	wait "$demo_pid"
	status=$?
	demo_pid=
	try "$1: exit status is not 0" [ "$status" -ne 0 ]
	try "$1: no child is left" until_true gone "$children"
}

# A round takes longer than the time after which postcopy is wanted
# shellcheck disable=SC2086 # words
ends_with "plain: ends well" 0 "$wherry" demo $small --bandwidth 40M
for round in 1 2; do
	matches "plain: precopy, round $round" \
		"^ +[0-9.]+ s  precopy .* MB/s  round $round  dirty .* pages left" "$folder/out"
	matches "plain: round $round ends" "source: round $round: .* pages dirty" "$folder/out"
done
matches "plain: dirty rate" '^ +[0-9.]+ s  precopy .* dirty [1-9][0-9]* pages/s' "$folder/out"
matches "plain: postcopy" '^ +[0-9.]+ s  postcopy .* faults' "$folder/out"
try "plain: no rounds in postcopy" sh -c "! grep -q ' s  postcopy .*round' '$folder/out'"
matches "plain: phases of both ends" 'destination: postcopy-active' "$folder/out"
matches "plain: total time" '^  total time +[0-9.]+ s$' "$folder/out"
matches "plain: downtime" '^  downtime +[0-9.]+ ms$' "$folder/out"
matches "plain: pages by kind" '^  pages .* normal, [0-9]+ zero; [0-9]+ of them urgent' "$folder/out"
matches "plain: faults and their latency" '^  faults +[1-9].* p50 .* p99 .* max' "$folder/out"
matches "plain: each vCPU" '^  vCPU 1 +stood still [0-9.]+ ms' "$folder/out"
matches "plain: bytes" '^  on the wire +[0-9.]+ MiB there, [0-9.]+ KiB back' "$folder/out"
matches "plain: verified" 'verified: every byte of 16384 pages is right' "$folder/out"
try "plain: lines are not written over" sh -c "! grep -q '$(printf '\r')' '$folder/out'"

# shellcheck disable=SC2086 # words
ends_with "json: ends well" 0 "$wherry" demo --json --threads $small
try "json: an object a line" sh -c "! grep -vE '^\\{\"kind\":.*\\}\$' '$folder/out'"
matches "json: progress in precopy" '"kind":"progress".*"phase":"precopy".*"round":1' "$folder/out"
matches "json: progress in postcopy" '"kind":"progress".*"phase":"postcopy"' "$folder/out"
tail -n 1 "$folder/out" >"$folder/last"
matches "json: summary at the end" '"kind":"summary".*"result":"ok".*"verified":true' "$folder/last"
matches "json: plain threads are said" 'plain threads' "$folder/out"

ends_with "terminal: ends well" 0 script -qec "$wherry demo $small" /dev/null
matches "terminal: a live line" "$(printf '\r')precopy .*$(printf '\r')" "$folder/out"

ends_with "unix, precopy only" 0 "$wherry" demo --ram 64M --rate 5000 --postcopy-after 0 \
	--uri "unix:$folder/socket"
ends_with "--help" 0 "$wherry" demo --help
matches "--help: usage" '^usage: wherry demo' "$folder/out"
ends_with "unknown option" 2 "$wherry" demo --nonsense
ends_with "wrong value" 2 "$wherry" demo --ram banana
ends_with "wrong time" 2 "$wherry" demo --postcopy-after soon
matches "wrong time: said" '^wherry demo: --postcopy-after soon: 1 to ' "$folder/err"
ends_with "too many words" 2 "$wherry" demo now
ends_with "address that is none" 1 "$wherry" demo --ram 64M --uri tcp:nowhere

start
kill -INT "$demo_pid"
killed "SIGINT"
start
kill -TERM "$demo_pid"
killed "SIGTERM"
start
kill -KILL "$demo_pid"
killed "SIGKILL"
start
kill -KILL "$(child dest)"
killed "destination killed"
matches "destination killed: said" '^  FAILED +..' "$folder/out"

# A byte that the guest did not write, in memory that is sent last
start --memory memfd --postcopy-after 1000
for fd in /proc/"$(child source)"/fd/*; do
	case $(readlink "$fd") in
	*wherry-vmm*) memory=$fd ;;
	esac
done
printf '!' | dd of="$memory" bs=1 seek=$((64 * 1048576 - 5)) conv=notrunc 2>"$folder/err"
killed "wrong byte"
matches "wrong byte: its address" 'FAILED +first bad address 0x3fffffb:' "$folder/out"
tap_end
