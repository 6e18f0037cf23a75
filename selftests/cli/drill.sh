#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry drill: a hundred seeds, the same faults for the same seed, and what is printed.
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

hundred()
{
	"$wherry" drill --runs 100 --seed 7 > "$temp/out" 2> "$temp/err" && return 0
	grep -e WRONG "$temp/out"
	cat "$temp/err"
	return 1
}

# Of the last line of the table: runs, those with a fault that happened, none wrong
adds_up()
{
	awk '$1 == "all" && $2 == 100 && $3 > 80 && $4 > 20 && $5 + $6 + $7 == 100 && $8 == 0 { good = 1 }
		END { exit !good }' "$temp/out" && return 0
	tail -n 20 "$temp/out"
	return 1
}

# Every kind happened to somebody, and was recovered from where that can be
all_kinds()
{
	for kind in $("$wherry" drill --list | cut -d' ' -f1); do
		awk -v kind="$kind" '$1 == kind && $3 > 0 { good = 1 } END { exit !good }' "$temp/out" ||
			{ echo "no $kind happened"; tail -n 20 "$temp/out"; return 1; }
	done
}

seed_of()
{
	sed -n "s/^ *$1  \(0x[0-9a-f]*\)  .*/\1/p" "$temp/out"
}

# What was planned is what the line of the run said, but for what was not reached
replayed()
{
	seed=$(seed_of "$1")
	"$wherry" drill --replay "$seed" > "$temp/again" 2>&1 || { cat "$temp/again"; return 1; }
	sed -n "s/^ *$1  0x.* s[^:]*: //p" "$temp/out" | sed 's/ (not reached)//g; s/; /\n/g' > "$temp/told"
	sed -n 's/^  planned: //p' "$temp/again" > "$temp/planned"
	[ -s "$temp/told" ] && diff "$temp/told" "$temp/planned"
}

json()
{
	"$wherry" drill --runs 3 --seed 9 --kinds pause,cut --json > "$temp/json" || return 1
	python3 - "$temp/json" << 'END'
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
runs = [line for line in lines if line["kind"] == "run"]
total = [line for line in lines if line["kind"] == "total" and line["fault"] == "all"]
assert len(runs) == 3 and len(total) == 1, lines
assert total[0]["runs"] == 3 and total[0]["wrong"] == 0, total
for run in runs:
    assert run["result"] in ("completed", "at source", "stopped"), run
    assert int(run["seed"], 0) > 0 and run["ns"] > 0, run
    assert all(fault["kind"] in ("pause", "cut") for fault in run["faults"]), run
END
}

children_of()
{
	grep -l "^PPid:[[:space:]]*$1\$" /proc/[0-9]*/status 2> /dev/null | tr -dc '0-9\n'
}

# In the middle of a run, with both processes there, it ends by that signal, soon
ends_by()
{
	"$wherry" drill --runs 1000 --seed 3 --kinds delay > "$temp/ended" 2>&1 &
	pid=$!
	tries=0
	until [ "$(children_of $pid | wc -l)" -eq 2 ] && [ -s "$temp/ended" ]; do
		tries=$((tries + 1))
		[ "$tries" -lt 1000 ] || { kill -KILL "$pid"; echo "no run"; return 1; }
		sleep 0.01
	done
	children=$(children_of $pid)
	kill -s "$1" "$pid"
	wait "$pid"
	status=$?
	[ "$status" -eq "$((128 + $2))" ] || { echo "status $status"; return 1; }
	grep -q '^all ' "$temp/ended" || { echo "no table"; return 1; }
	for child in $children; do
		! grep -q "wherry drill" "/proc/$child/cmdline" 2> /dev/null ||
			{ echo "$child is left"; return 1; }
	done
	tidy
}

# Nothing stays behind: no process, no socket
tidy()
{
	left=$(find "$temp" -maxdepth 1 -name 'wherry-drill.*')
	[ -z "$left" ] || { echo "$left"; return 1; }
}

try "a hundred seeds, nothing wrong" hundred
try "the table adds up" adds_up
try "every kind of fault happened" all_kinds
try "a replay has the same faults" replayed 1
try "another one" replayed 11
try "as JSON" json
try "nothing stays behind" tidy
try "nor after SIGTERM" ends_by TERM 15
try "nor after SIGHUP" ends_by HUP 1
try "nor after SIGINT" ends_by INT 2
tap_end
