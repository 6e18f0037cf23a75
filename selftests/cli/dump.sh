#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry dump: recorded streams, whole and broken.
set -u
. selftests/lib/tap.sh

wherry=${WH_BUILD:-build}/wherry
vectors=selftests/vectors/qemu-7.2
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT

# dump STATUS ARGUMENT...: its output in $temp/out and $temp/err
dump()
{
	want=$1
	shift
	"$wherry" dump "$@" > "$temp/out" 2> "$temp/err"
	got=$?
	[ "$got" = "$want" ] && return 0
	echo "exit status $got, not $want, of: dump $*"
	tail -n 5 "$temp/out"
	cat "$temp/err"
	return 1
}

silent()
{
	[ ! -s "$temp/$1" ] && return 0
	echo "expected nothing on std$1, not:"
	cat "$temp/$1"
	return 1
}

# A line begins with the hexadecimal offset of its first byte; offsets do not go back.
lines_are_good()
{
	awk -v size="$1" '
		function number(hex,    i, n) {
			for (i = 1; i <= length(hex); i++)
				n = n * 16 + index("0123456789abcdef", substr(hex, i, 1)) - 1
			return n
		}
		!/^ *[0-9a-f]+  ./ { print "no offset: " $0; bad = 1; exit 1 }
		number($1) < last || number($1) > size { print "offset: " $0; bad = 1; exit 1 }
		{ last = number($1) }
		END { if (!bad && !NR) print "no lines"; exit bad || !NR }' "$temp/out"
}

# whole FILE OPTION...
whole()
{
	file=$1
	shift
	dump 0 "$@" "$file" && silent err && lines_are_good "$(wc -c < "$file")"
}

# The same through a pipe, in pieces
piped()
{
	dump 0 "$vectors/isapc-postcopy.stream" && cp "$temp/out" "$temp/file" || return 1
	dd if="$vectors/isapc-postcopy.stream" bs=1000 2> /dev/null |
		"$wherry" dump - > "$temp/out" 2> "$temp/err" || { cat "$temp/err"; return 1; }
	cmp "$temp/file" "$temp/out"
}

# --pages: more lines, and the same messages between them
pages()
{
	dump 0 "$vectors/isapc-postcopy.stream" && few=$(wc -l < "$temp/out") &&
		dump 0 --pages "$vectors/isapc-postcopy.stream" && many=$(wc -l < "$temp/out") || return 1
	[ "$many" -gt $((few * 2)) ] || { echo "$few lines, $many with --pages"; return 1; }
}

# What is in it: the blocks of its RAM, commands of a postcopy, the packaged device state
content()
{
	dump 0 "$vectors/isapc-postcopy.stream" || return 1
	for word in "$@"; do
		grep -qi -e "$word" "$temp/out" || { echo "no '$word'"; head -n 40 "$temp/out"; return 1; }
	done
}

# Broken off: what there was is printed, then the sentence with its place
broken()
{
	head -c 100000 "$vectors/isapc-postcopy.stream" > "$temp/cut"
	dump 1 "$temp/cut" && lines_are_good 100000 || return 1
	grep -q "^wherry dump: $temp/cut: .*[0-9]" "$temp/err" || { cat "$temp/err"; return 1; }
	[ "$(wc -l < "$temp/err")" = 1 ] || { cat "$temp/err"; return 1; }
}

# A channel of multifd: byte by byte the same, a page for each that a packet names; cut it is not whole
channel()
{
	dump 0 --multifd "$1" && cp "$temp/out" "$temp/file" || return 1
	dd if="$1" bs=7 2> /dev/null | "$wherry" dump --multifd - > "$temp/out" || return 1
	cmp "$temp/file" "$temp/out" || return 1
	named=$(sed -n 's/.*: \([0-9]*\) pages, \([0-9]*\) zero;.*/\1 + \2/p' "$temp/file" | paste -sd+ -)
	dump 0 --multifd --pages "$1" || return 1
	[ "$(grep -c '    ram 0x' "$temp/out")" = "$(($named))" ] || { cat "$temp/out"; return 1; }
	for length in 1 63 65 1407 1409 3000; do
		head -c $length "$1" > "$temp/cut"
		dump 1 --multifd "$temp/cut" || return 1
	done
	dump 1 --multifd "$vectors/isapc-postcopy.stream" && grep -q 'multifd hello begins with' "$temp/err"
}

nonsense()
{
	printf 'no migration at all, really' > "$temp/text"
	dump 1 "$temp/text" && silent out && [ -s "$temp/err" ] || return 1
	: > "$temp/empty"
	dump 1 "$temp/empty" && [ -s "$temp/err" ]
}

# The other channels are not taken for it
other_channel()
{
	dump 1 --urgent "$vectors/isapc-postcopy.stream" && dump 1 --return-path "$vectors/isapc-postcopy.stream"
}

no_file()
{
	dump 1 "$temp/no-such" && silent out && grep -q "$temp/no-such: No such file" "$temp/err" &&
		dump 1 "$temp" && grep -q "read at offset 0: Is a directory" "$temp/err"
}

for file in "$vectors"/*.stream; do
	try "whole: ${file##*/}" whole "$file"
	try "whole, each page: ${file##*/}" whole "$file" --pages
done
for file in "$vectors"/*.return; do
	try "whole: ${file##*/}" whole "$file" --return-path
done
for file in "$vectors"/*.urgent; do
	try "whole: ${file##*/}" whole "$file" --urgent
done
for file in selftests/fuzz/seeds/multifd/*; do
	try "whole: channel ${file##*/}" whole "$file" --multifd
	try "channel ${file##*/}, in pieces and broken off" channel "$file"
done
try "whole: micro-checkpoints" whole selftests/fuzz/seeds/mc/no-pages --mc
try "through a pipe" piped
try "pages" pages
try "content" content pc.ram postcopy packaged
try "broken off" broken
try "nonsense" nonsense
try "another channel" other_channel
try "no file" no_file

tap_end
