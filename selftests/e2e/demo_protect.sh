#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry demo --protect: the survivor has forgotten nothing; and it has, as soon as nobody
# holds what the guest sends, which shows that the verdict can be the other one.
set -u
. selftests/lib/tap.sh

wherry=${WH_BUILD:-build}/wherry
unshare -Urn true 2>/dev/null || {
	echo '1..0 # SKIP no user and network namespaces'
	exit 4
}
folder=$(mktemp -d) || exit 1
trap 'rm -rf "$folder"' EXIT
small="--ram 32M --seconds 1"

# ends_with STATUS COMMAND...
ends_with()
{
	wanted=$1
	shift
	"$@" >"$folder/out" 2>"$folder/err"
	status=$?
	[ "$status" -eq "$wanted" ] && return 0
	sed 's/^/# /' "$folder/out" "$folder/err"
	echo "# exit status $status, not $wanted"
	return 1
}

says()
{
	grep -qE -e "$1" "$folder/out" && return 0
	sed 's/^/# /' "$folder/out"
	return 1
}

# number NAME: of the summary
number()
{
	tail -n 1 "$folder/out" | sed -n 's/.*"'"$1"'":\([0-9]*\).*/\1/p'
}

mkdir "$folder/own"
TMPDIR=$folder/own
export TMPDIR
# shellcheck disable=SC2086 # words
try "it survives" ends_with 0 "$wherry" demo --protect $small
try "both say where they are" says 'replica: takeover'
try "the verdict" says 'acknowledged before the kill and missing afterwards: 0$'
try "memory is verified" says 'verified: every byte is right'
# shellcheck disable=SC2086
try "with plain threads" ends_with 0 "$wherry" demo --protect --json --threads $small
try "an object a line" sh -c "! grep -vE '^\\{\"kind\":.*\\}\$' '$folder/out'"
try "the summary" says '"kind":"summary".*"result":"ok".*"missing":0,.*"verified":true'
try "checkpoints" [ "$(number checkpoints)" -ge 10 ]
try "replies before the kill" [ "$(number replies_before)" -ge 100 ]
try "and after it" [ "$(number replies_after)" -ge 250 ]
# shellcheck disable=SC2086
try "nobody holds its output: it fails" ends_with 1 "$wherry" demo --protect --json --hold none $small
try "because of what was forgotten" says '"error":"the survivor has forgotten what was said"'
try "and says how much" [ "$(number missing)" -gt 0 ]
try "memory is right even so" says '"verified":true'
try "usage" ends_with 2 "$wherry" demo --protect --what
try "nothing is left" rmdir "$folder/own"
tap_end
