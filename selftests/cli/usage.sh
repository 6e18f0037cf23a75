#!/bin/sh
# SPDX-License-Identifier: MIT
#
# How wherry is called: help texts, wrong arguments, where errors go.
set -u
. selftests/lib/tap.sh

wherry=${WH_BUILD:-build}/wherry
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT

# call STATUS ARGUMENT...: its output in $temp/out and $temp/err
call()
{
	want=$1
	shift
	"$wherry" "$@" > "$temp/out" 2> "$temp/err" < /dev/null
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

silent()
{
	[ ! -s "$temp/$1" ] && return 0
	echo "expected nothing on std$1, not:"
	cat "$temp/$1"
	return 1
}

# Help: on stdout, nothing on stderr, no line too long for a terminal
helps()
{
	name=$1
	call 0 "$name" --help && silent err && says out "usage: wherry $name" || return 1
	long=$(awk 'length > 100' "$temp/out")
	[ -z "$long" ] || { echo "too long: $long"; return 1; }
}

main_help()
{
	for word in --help -h help; do
		call 0 $word && silent err && says out "usage: wherry COMMAND" || return 1
		for name in demo drill receive protect qmp top check dump; do
			says out "  $name " || return 1
		done
	done
}

# wrong TEXT ARGUMENT...: refused with a sentence, and where to read more
wrong()
{
	text=$1
	shift
	call 2 "$@" && silent out && says err "$text" && says err "--help"
}

# What could not be written was not done.
full_disk()
{
	"$wherry" "$@" > /dev/full 2> "$temp/err"
	got=$?
	[ "$got" = 1 ] || { echo "exit status $got, not 1"; return 1; }
	says err "standard output: No space left on device"
}

version()
{
	want=$(sed -n 's/^#define WH_VERSION_[MP][A-Z]* \([0-9]*\)$/\1/p' include/wherry/wherry.h |
		paste -sd.)
	call 0 --version && silent err && says out "wherry $want"
}

try "help" main_help
for name in demo drill receive protect qmp top check dump; do
	try "help of $name" helps "$name"
	try "$name with an unknown option" wrong "wherry $name: unrecognized option '--no-such'" \
		"$name" --no-such
done
try "version" version
try "no command" wrong "a command is missing"
try "unknown command" wrong "no command 'frobnicate'" frobnicate
try "nearly a command: letters swapped" wrong "is it 'receive'?" recieve
try "nearly a command: one missing" wrong "is it 'dump'?" dmp
try "nearly a command: one too many" wrong "is it 'demo'?" demoo
try "nearly a command: another one" wrong "is it 'check'?" chack
try "option before the command" wrong "no command '--json'" --json check
try "check takes no argument" wrong "not 'everything'" check everything
try "dump without a file" wrong "it takes one FILE" dump
try "dump of two files" wrong "it takes one FILE" dump one two
try "qmp without a command" wrong "a SOCKET and a COMMAND" qmp socket
try "qmp with half an argument" wrong "not NAME=VALUE" qmp socket stop now
try "qmp with an argument twice" wrong "comes twice" qmp socket stop a=1 a=2
try "qmp with a time that is none" wrong "no number of seconds" qmp --timeout soon socket
try "top without a socket" wrong "it takes one SOCKET" top
try "top in two forms" wrong "exclude each other" top --json --metrics socket
try "top too often" wrong "0.05 to 3600" top --interval 0 socket
try "dump of two channels" wrong "exclude each other" dump --urgent --return-path file
try "drill of no runs" wrong "--runs 0: not 1 to" drill --runs 0
try "drill of many runs" wrong "--runs 1x: not 1 to" drill --runs 1x
try "drill without memory" wrong "--memory 0: not 1 to" drill --memory 0
try "drill with a seed that is none" wrong "seed seven: not a number" drill --seed seven
try "drill with an unknown fault" wrong "there is no 'flood'" drill --kinds cut,flood
try "drill takes no argument" wrong "what is everything?" drill everything
try "help on a full disk" full_disk --help
try "version on a full disk" full_disk --version
try "check on a full disk" full_disk check

tap_end
