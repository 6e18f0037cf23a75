#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry send: folders that are no parked VM. None comes as far as connecting, and none is taken
# at its word.
set -u
. selftests/lib/tap.sh

wherry=${WH_BUILD:-build}/wherry
temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT
nothing=99aa06d3014798d86001c324468d497f # XXH3-128 of no bytes
page=3ee8dc4f9e7ee49593d76fe148c689ba # and of a page of zeros

block="\"name\":\"ram\",\"file\":\"ram\",\"length\":4096,\"page_size\":4096,\"xxh3_128\":\"$page\""
device="\"file\":\"device\",\"format\":\"qemu\",\"length\":0,\"xxh3_128\":\"$nothing\""

# manifest BLOCKS DEVICE [KIND [VERSION]]
manifest()
{
	printf '{"kind":"%s","version":%s,"machine":"none","blocks":[%s],"device_state":{%s}}\n' \
		"${3:-wherry-capture}" "${4:-1}" "$1" "$2" > "$temp/dir/manifest.json"
}

fresh()
{
	rm -rf "$temp/dir"
	mkdir "$temp/dir"
	head -c 4096 /dev/zero > "$temp/dir/ram"
	: > "$temp/dir/device"
	manifest "{$block}" "$device"
}

# refused SENTENCE [OPTION...]: with status 1 and that in its sentence
refused()
{
	sentence=$1
	shift
	timeout 20 "$wherry" send --from "$temp/dir" "unix:$temp/nobody" --timeout 1 "$@" 2> "$temp/err"
	got=$?
	[ "$got" = 1 ] && grep -qF -- "$sentence" "$temp/err" && return 0
	echo "exit status $got, and not '$sentence':"
	cat "$temp/err"
	return 1
}

# wrong LABEL SENTENCE BLOCKS [DEVICE]
wrong()
{
	fresh
	manifest "$3" "${4:-$device}"
	try "$1" refused "$2"
}

# changed NAME VALUE: the block with another value of a member
changed()
{
	echo "{$block}" | sed "s|\"$1\":[^,}]*|\"$1\":$2|"
}

fresh
try 'a right one gets as far as connecting' refused "$temp/nobody"
rm "$temp/dir/manifest.json"
try 'no manifest' refused 'no parked VM is there'
mkdir "$temp/dir/manifest.json"
try 'a folder for a manifest' refused 'manifest.json'
fresh
: > "$temp/dir/manifest.json"
try 'an empty manifest' refused 'no JSON object'
head -c 5000000 /dev/zero > "$temp/dir/manifest.json"
try 'a manifest of 5 MB' refused 'no JSON object'
fresh
manifest "{$block}" "$device" something-else
try 'another kind' refused "no parked VM's"
manifest "{$block}" "$device" wherry-capture 2
try 'another version' refused 'version is not known'
rm -rf "$temp/dir"
try 'no folder' refused 'No such file'

wrong 'no blocks' 'no list of blocks' ''
wrong 'a block that is a number' 'block without a name' '7'
wrong 'twice the same' 'twice the block' "{$block},{$block}"
wrong 'a file elsewhere' 'no file and digest' "$(changed file '"../ram"')"
wrong 'a hidden file' 'no file and digest' "$(changed file '".ram"')"
wrong 'no digest' 'no file and digest' "$(changed xxh3_128 '"abc"')"
wrong 'an odd page size' 'no page size' "$(changed page_size 4097)"
wrong 'a huge page size' 'no page size' "$(changed page_size 2147483648)"
wrong 'less than a host page' 'no length in host pages' "$(changed page_size 8192)"
wrong 'a negative length' 'no length in host pages' "$(changed length -4096)"
wrong 'a length beyond all' 'no length in host pages' "$(changed length 18446744073709547520)"
wrong 'a length in words' 'no length in host pages' "$(changed length '"4096"')"
wrong 'a file that is too short' 'the manifest says 8192' "$(changed length 8192)"
wrong 'a name of 300 bytes' 'block without a name' \
	"$(changed name "\"$(head -c 300 /dev/zero | tr '\0' x)\"")"
wrong 'no device state' 'device_state is not complete' "{$block}" '"file":"device"'
wrong 'device state of a stranger' 'format of device_state' "{$block}" \
	"$(echo "$device" | sed 's/"qemu"/"xen"/')"
wrong 'device state that is too short' 'the manifest says 100' "{$block}" \
	"$(echo "$device" | sed 's/"length":0/"length":100/')"

# A file that becomes shorter while it is sent: this many bytes a second, so that pages are left
shorter()
{
	fresh
	head -c 16777216 /dev/zero | tr '\0' x > "$temp/dir/ram"
	manifest "$(changed length 16777216)" "$device"
	"$wherry" receive "unix:$temp/link" --out "$temp/out" --quiet 2> /dev/null &
	receiver=$!
	until [ -S "$temp/link" ]; do
		kill -0 $receiver || return 1
		sleep 0.05
	done
	timeout 60 "$wherry" send --from "$temp/dir" --verify=off --bandwidth 1M --json \
		"unix:$temp/link" > "$temp/said" 2> "$temp/err" &
	sender=$!
	until grep -q progress "$temp/said"; do
		kill -0 $sender || return 1
		sleep 0.05
	done
	: > "$temp/dir/ram"
	wait $sender
	got=$?
	wait $receiver
	cat "$temp/err"
	[ "$got" = 1 ] && grep -q 'cannot be read any more' "$temp/err"
}

try 'a file that becomes shorter' shorter

fresh
try 'pages of a block that is not there' refused "no block 'rom'" --postcopy --page-size rom=4096
try 'pages that are no power of two' refused "pages of 3000 bytes, of block 'ram'" \
	--postcopy --page-size ram=3000
try 'pages larger than the block' refused "pages of 2097152 bytes, of block 'ram'" \
	--postcopy --page-size ram=2M
try 'pages as they are' refused "$temp/nobody" --postcopy --page-size ram=4K
fresh
printf x | dd of="$temp/dir/ram" bs=1 seek=100 conv=notrunc status=none
try 'a wrong byte, no page digests' refused 'which page cannot be told'
fresh
ln -sf /dev/zero "$temp/dir/ram"
try 'a link for a file' refused 'ram'

tap_end
