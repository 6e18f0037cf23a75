#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry drill with a real QEMU at one end.
set -u
. selftests/lib/tap.sh

wherry=${WH_BUILD:-build}/wherry
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
export TMPDIR="$temp"

if ! "$wherry" check > "$temp/check" 2>&1; then
	skip "drills" "$(grep -m 1 -e missing -e 'not there' "$temp/check" || echo 'wherry check fails')"
	tap_end
fi
if ! command -v qemu-system-x86_64 > /dev/null; then
	skip "drills" "qemu-system-x86_64 is not installed"
	tap_end
fi

# drills NAME OPTION...: nothing wrong
drills()
{
	name=$1
	shift
	"$wherry" drill --memory 8 "$@" > "$temp/$name" 2> "$temp/err" && return 0
	grep -A 1 -e WRONG "$temp/$name"
	cat "$temp/err"
	return 1
}

# adds_up NAME RUNS: of the last line of the table, and that some went all the way
adds_up()
{
	awk -v runs="$2" '$1 == "all" && $2 == runs && $3 > 0 && $5 > 0 && $9 == 0 &&
		$5 + $6 + $7 + $8 == runs { good = 1 } END { exit !good }' "$temp/$1" && return 0
	cat "$temp/$1"
	return 1
}

# A cut that both hear is recovered from, from both ends and with every byte right
recovers()
{
	drills "cut-$1" --qemu "$1" --kinds delay,removes,cut --runs 6 --seed "$2" || return 1
	awk '$1 == "all" && $4 > 0 && $9 == 0 { good = 1 } END { exit !good }' "$temp/cut-$1" && return 0
	cat "$temp/cut-$1"
	return 1
}

no_such_binary()
{
	"$wherry" drill --qemu source --qemu-binary /nonexistent/qemu > "$temp/none" 2>&1
	[ $? -eq 1 ] && grep -q '^wherry drill: /nonexistent/qemu: .*No such file' "$temp/none" &&
		[ "$(wc -l < "$temp/none")" -eq 1 ]
}

# No socket, no file of contents, no QEMU that we have started
tidy()
{
	left=$(find "$temp" -maxdepth 1 -name 'wherry-drill.*')
	[ -z "$left" ] || { echo "$left"; return 1; }
	! grep -sql "$temp" /proc/[0-9]*/cmdline
}

try "ten seeds with a QEMU at either end" drills ten --qemu either --runs 10 --seed 4
try "the table adds up" adds_up ten 10
try "a QEMU that is the source is recovered" recovers source 1
try "a QEMU that is the destination is recovered" recovers dest 1
try "a QEMU that is not there is named" no_such_binary
try "nothing stays behind" tidy
tap_end
