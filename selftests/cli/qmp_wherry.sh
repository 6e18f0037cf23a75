#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry qmp and wherry top: two example VMMs with monitors, a migration between them.
set -u
. selftests/lib/tap.sh

build=${WH_BUILD:-build}
wherry=$build/wherry
temp=$(mktemp -d) || exit 1
source=$temp/source.qmp
dest=$temp/dest.qmp
children=

# No command of theirs comes on stdin, and its end is none either
start()
{
	"$build/wherry-vmm" --threads --ram 16M --vcpus 2 --rate 2000 "$@" \
		> "$temp/vmm-$#.log" 2>&1 < /dev/null &
	children="$children $!"
}

end()
{
	for child in $children; do
		kill "$child" 2> /dev/null
		wait "$child"
	done
	rm -rf "$temp"
}
trap end EXIT

# call STATUS COMMAND...: its output in $temp/out and $temp/err
call()
{
	want=$1
	shift
	"$@" > "$temp/out" 2> "$temp/err" < /dev/null
	got=$?
	[ "$got" = "$want" ] && return 0
	echo "exit status $got, not $want, of: $*"
	cat "$temp/out" "$temp/err"
	return 1
}

# says FILE TEXT
says()
{
	grep -qF -e "$2" "$temp/$1" && return 0
	echo "expected '$2' in:"
	cat "$temp/$1"
	return 1
}

# answers STATUS TEXT ARGUMENT...: of wherry qmp, TEXT on stdout or with an error on stderr
answers()
{
	status=$1
	text=$2
	shift 2
	call "$status" "$wherry" qmp "$@" || return 1
	if [ "$status" = 0 ]; then says out "$text"; else says err "$text"; fi
}

# Until it has the status, at most 20 s
until_status()
{
	for _ in $(seq 1000); do
		"$wherry" qmp "$1" query-migrate 2> /dev/null | grep -q "\"status\": *\"$2\"" && return 0
		sleep 0.02
	done
	"$wherry" qmp "$1" query-migrate
	return 1
}

await()
{
	for _ in $(seq 1000); do
		[ -S "$1" ] && return 0
		sleep 0.02
	done
	return 1
}

start --qmp "$source"
start --qmp "$dest" --listen defer
try "monitors are there" await "$source"
try "both of them" await "$dest"

try "an answer" answers 0 '"running"' "$source" query-status
try "an error: its class and sentence" answers 1 "nonsense: CommandNotFound: The command" \
	"$source" nonsense
try "a number as a number" answers 0 "{" "$source" migrate-set-parameters downtime-limit=123
try "it is set" answers 0 '"downtime-limit": 123' "$source" query-migrate-parameters
try "a string as a string" answers 1 "Invalid parameter type for 'downtime-limit'" \
	"$source" migrate-set-parameters 'downtime-limit="123"'
try "a flag as a flag" answers 1 "Cannot resume" "$source" migrate uri=unix:/x resume=true
try "a flag is no string" answers 1 "Invalid parameter type for 'resume'" \
	"$source" migrate uri=unix:/x 'resume="true"'
try "JSON as JSON" answers 0 "{" "$source" migrate-set-capabilities \
	'capabilities=[{"capability":"events","state":true}]'
try "members of members" answers 1 "Invalid parameter type for 'uri'" "$source" migrate uri.a.b=1
try "JSON that is none" call 2 "$wherry" qmp "$source" migrate 'uri={"a":'
try "nobody there" answers 1 "No such file or directory" "$temp/nothing" query-status
try "a path that is too long" answers 1 "at most 107 bytes" \
	"/$(printf '%0200d' 0)" query-status

try "events until the time is up" call 3 "$wherry" qmp --events --timeout 0.2 "$source"
try "events until it has failed" call 1 "$wherry" qmp --events --timeout 20 "$source" \
	migrate uri=unix:/no/such/folder/socket
try "with its status" says out '"status":"failed"'

# The line that is asked for, once
lines_are_json()
{
	call 0 "$wherry" top --json --count 2 --interval 0.05 "$1" || return 1
	[ "$(wc -l < "$temp/out")" = 2 ] && [ "$(grep -c '^{.*}$' "$temp/out")" = 2 ]
}
try "top as JSON" lines_are_json "$source"

# A migration that takes as long as it is looked at
slow='max-bandwidth=1048576 max-postcopy-bandwidth=4096'
# shellcheck disable=SC2086 # words
try "slow" answers 0 "{" "$source" migrate-set-parameters $slow
try "the destination listens" answers 0 "{" "$dest" migrate-incoming "uri=unix:$temp/wire"
try "the migration begins" answers 0 "{" "$source" migrate "uri=unix:$temp/wire"
try "it is active" until_status "$source" active
try "its guest is not stopped on the way" answers 1 "being moved" "$source" stop
try "nor told to go on" answers 1 "being moved" "$source" cont
try "and over to postcopy" answers 0 "{" "$source" migrate-start-postcopy
try "it is" until_status "$dest" postcopy-active
try "top in lines" call 0 "$wherry" top --count 2 --interval 0.05 "$dest"
try "with a head" says out "STATUS"
try "and what is going on" says out "postcopy-active"

# What OpenMetrics asks of a text: families one after the other, each with its type before
# its samples, a unit that is the end of its name, counters that end in _total, and an end
metrics_are_right()
{
	call 0 "$wherry" top --metrics "$1" || return 1
	wrong=$(awk '
		function bad(why) { print NR ": " why ": " $0 }
		ended { bad("behind the end") }
		$0 == "# EOF" { ended = 1; next }
		$1 == "#" && $2 == "TYPE" {
			if (($3) in seen) bad("a family twice")
			seen[$3] = 1; family = $3; type = $4; samples = 0
			if (type !~ /^(gauge|counter|histogram|stateset)$/) bad("no such type")
			if (family !~ /^[a-z_:][a-z0-9_:]*$/) bad("no name")
			next
		}
		$1 == "#" && ($2 == "UNIT" || $2 == "HELP") {
			if ($3 != family) bad("of another family")
			if (samples) bad("behind its samples")
			if ($2 == "UNIT" && substr(family, length(family) - length($4)) != "_" $4)
				bad("a unit that is not in the name")
			if ($2 == "HELP") helped[family] = 1
			next
		}
		/^#/ || /^$/ { bad("what is it"); next }
		{
			name = $1; sub(/\{.*/, "", name); samples++
			wanted = family
			if (type == "counter") wanted = family "_total"
			if (type == "histogram") {
				if (name != family "_bucket" && name != family "_sum" &&
				    name != family "_count") bad("of whom")
			} else if (name != wanted) bad("of whom")
			if (NF != 2 || $2 !~ /^[0-9]+(\.[0-9]+)?$/) bad("no value")
			if ($1 ~ /\{/ && $1 !~ /\{[a-z_]+="[^"]*"(,[a-z_]+="[^"]*")*\}$/) bad("labels")
			if (($1) in sample) bad("a sample twice")
			sample[$1] = 1
			if (!(family in helped)) bad("without help")
		}
		END { if (!ended) print "no end" }' "$temp/out")
	[ -z "$wrong" ] && return 0
	echo "$wrong"
	return 1
}
try "metrics of the destination" metrics_are_right "$dest"
try "its status" says out 'wherry_status{wherry_status="postcopy-active"} 1'
try "latencies of faults" says out 'wherry_fault_latency_seconds_bucket{le="+Inf"} '
try "of each processor" says out 'vcpu="1"'
try "metrics of the source" metrics_are_right "$source"
try "bytes that were sent" says out 'wherry_sent_bytes_total '

# A view, as on a terminal
view()
{
	script -qec "$wherry top --count 1 $1" /dev/null > "$temp/out" < /dev/null || return 1
	says out "latency p99" && says out "vCPU 0" && says out "recoveries" && says out "  below "
}
if command -v script > /dev/null; then
	try "top on a terminal" view "$dest"
else
	skip "top on a terminal" "no script(1)"
fi

# Without its other end: paused, and its monitor there
# shellcheck disable=SC2086 # words
set -- $children
kill -9 "$1"
try "the link is gone" until_status "$dest" postcopy-paused
try "its processors wait, it does not" answers 1 "being moved" "$dest" stop
try "metrics when it is paused" metrics_are_right "$dest"

# Of a migration that stands still: a reader of others understands the text, and finds in it
# what is in the JSON
read_by_others()
{
	call 0 "$wherry" top --json --count 1 "$1" && mv "$temp/out" "$temp/json" &&
		call 0 "$wherry" top --metrics "$1" || return 1
	/usr/bin/python3 - "$temp/json" "$temp/out" << 'END'
import json, sys
from prometheus_client.openmetrics.parser import text_string_to_metric_families
told = json.load(open(sys.argv[1]))
samples = {}
for family in text_string_to_metric_families(open(sys.argv[2]).read()):
    for sample in family.samples:
        samples[sample.name, tuple(sorted(sample.labels.items()))] = sample.value
stats, latency = told["stats"], "wherry_fault_latency_seconds"
for name, figure in (("wherry_sent_bytes_total", "bytes"), ("wherry_left_pages", "pages_left"),
                     ("wherry_faults_total", "faults"), ("wherry_normal_pages_total", "pages_normal"),
                     ("wherry_recoveries_total", "recoveries"), ("wherry_requests_total", "requests")):
    assert samples[name, ()] == stats[figure], (name, samples[name, ()], stats[figure])
assert samples["wherry_status", (("wherry_status", told["status"]),)] == 1
assert abs(samples[latency + "_sum", ()] - stats["fault_sum_ns"] / 1e9) < 1e-6
assert samples[latency + "_count", ()] == sum(told["latencies"]) > 0
for thread in told["threads"]:
    labels = [("tid", str(thread["tid"]))] + ([("vcpu", str(thread["vcpu"]))] if "vcpu" in thread else [])
    assert samples["wherry_thread_faults_total", tuple(labels)] == thread["faults"], thread
END
}
# Debian's, whatever else is called so
if /usr/bin/python3 -c 'import prometheus_client.openmetrics.parser' 2> /dev/null; then
	try "as others read them" read_by_others "$dest"
else
	skip "as others read them" "no python3-prometheus-client"
fi
try "top goes on" call 0 "$wherry" top --count 1 "$dest"
try "quit" answers 0 "{" "$dest" quit

# What is dead may wait for its parent, which waits for us
gone()
{
	for _ in $(seq 1000); do
		case $(sed 's/.*) //' "/proc/$1/stat" 2> /dev/null) in
		'' | Z*) return 0 ;;
		esac
		sleep 0.02
	done
	return 1
}
try "it is gone" gone "$2"
tap_end
