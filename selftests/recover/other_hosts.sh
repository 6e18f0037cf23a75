#!/bin/sh
# SPDX-License-Identifier: MIT
#
# Bitmaps between hosts of another byte order and another word size: each encodes what it
# has, each decodes what any other has encoded, and all of them draw the same conclusions.
set -u
. selftests/lib/tap.sh

work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
sources="selftests/recover/hosts/exchange.c wire/bitmap.c base/bits.c base/walk.c base/err.c
	base/siphash.c recover/*.c"
seed=7

# build NAME COMPILER [OPTION...]: with the warnings of all that handles bytes
build()
{
	name=$1
	shift
	# shellcheck disable=SC2086 # words
	"$@" -std=gnu11 -O2 -Wall -Wextra -Wshadow -Wconversion -Wno-sign-conversion -Werror \
		-D_GNU_SOURCE -I. -Iinclude -o "$work/$name" $sources
}

# on NAME ARGUMENT...: the program of this host, on whatever runs it
on()
{
	name=$1
	shift
	case $name in
	native) "$work/native" "$@" ;;
	*) "qemu-$name" "$work/$name" "$@" ;;
	esac
}

# makes FILE COMMAND...
makes()
{
	file=$1
	shift
	"$@" >"$work/$file"
}

# taken FILE BY FROM: BY decodes and inverts what FROM has encoded
taken()
{
	on "$2" take "$seed" <"$work/$3.put" >"$work/$1"
}

try "native: builds" build native "${CC:-gcc}"
hosts=native
# Name as QEMU's, what it must be like, compiler
while read -r name bits order compiler; do
	if ! command -v "$compiler" >/dev/null; then
		skip "$name" "no $compiler"
		continue
	fi
	if ! command -v "qemu-$name" >/dev/null; then
		skip "$name" "no qemu-$name"
		continue
	fi
	try "$name: builds" build "$name" "$compiler" -static
	try "$name: $bits bits, $order end first" test "$(on "$name" host)" = "$bits $order"
	hosts="$hosts $name"
done <<LIST
s390x 64 big s390x-linux-gnu-gcc
arm 32 little arm-linux-gnueabihf-gcc
LIST

for host in $hosts; do
	for what in put plan refuse; do
		try "$host: $what" makes "$host.$what" on "$host" "$what" "$seed"
		try "$host: $what: as here" cmp "$work/native.$what" "$work/$host.$what"
	done
done
for from in $hosts; do
	for by in $hosts; do
		try "$from to $by: taken and inverted" taken "$from-$by" "$by" "$from"
		try "$from to $by: the same is left to send" cmp "$work/native-native" \
			"$work/$from-$by"
	done
done
# A comparison of nothing would go well
try "drawn: both kinds of answers, both parts of the plan" sh -c "
	grep -c ' 1 \$' '$work/native.refuse' && grep -c -- ' -71 bitmap' '$work/native.refuse' &&
	grep -c '^asked' '$work/native.plan' && grep -c '^rest' '$work/native.plan'"
try "another seed is another exchange" sh -c \
	"! '$work/native' take 8 <'$work/native.put' >/dev/null 2>'$work/said' &&
	grep -q 'is not what was drawn' '$work/said'"
tap_end
