#!/bin/sh
# SPDX-License-Identifier: MIT
#
# All orders of events between the two hosts of a protected guest (checkpoint.pml): nothing is
# seen outside that the survivor does not know, and never two guests. And what is wrong on
# purpose is found, or the rest would say nothing.
set -u
. selftests/lib/tap.sh

if ! command -v spin >/dev/null; then
	echo "1..0 # SKIP no spin"
	exit 4
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
cp selftests/model/checkpoint.pml "$work"
cd "$work" || exit 1

# built FLAGS: a program that looks at all states
built()
{
	rm -f -- *.trail
	# shellcheck disable=SC2086 # words
	spin -a $1 checkpoint.pml && "${CC:-gcc}" -w -O2 -DSAFETY -DCOLLAPSE -o pan pan.c
}

# all LABEL FLAGS: no error and no deadlock, and all of it was looked at
all()
{
	try "$1: builds" built "$2"
	./pan -m100000 >said 2>&1
	if grep -q 'errors: 0$' said && ! grep -qiE 'max search depth too small|out of memory' said
	then
		ok "$1: $(sed -n 's/^ *\([0-9]*\) states, stored.*/\1 states/p' said), no error"
	else
		# shellcheck disable=SC2086
		spin -t -p $2 checkpoint.pml | cat said - | sed 's/^/# /'
		not_ok "$1"
	fi
}

# found LABEL FLAGS: an assertion is violated
found()
{
	try "$1: builds" built "$2"
	./pan -m100000 >said 2>&1
	if grep -q 'assertion violated' said; then
		ok "$1: found"
	else
		sed 's/^/# /' said
		not_ok "$1: not found"
	fi
}

all "somebody decides" ""
all "the destination on its own" "-DOWN"
for wrong in RELEASE_LOST COMMIT_LATE ACK_FIRST ACK_AFTER BYE_UNANSWERED MANAGER_GUESSES \
	NO_GENERATION DEGRADED_RELEASES DEGRADED_ACKED; do
	found "$wrong" "-D$wrong"
done
tap_end
