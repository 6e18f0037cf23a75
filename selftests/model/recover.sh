#!/bin/sh
# SPDX-License-Identifier: MIT
#
# All orders of events of pause and recovery (recover.pml): nothing gets stuck, no page is
# marked and absent, the guest never runs at both ends, and every run comes to an end that
# there may be. And what is wrong on purpose is found, or the rest would say nothing.
set -u
. selftests/lib/tap.sh

if ! command -v spin >/dev/null; then
	echo "1..0 # SKIP no spin"
	exit 4
fi
work=$(mktemp -d) || exit 1
trap 'rm -rf "$work"' EXIT
# spin looks for what it found beside the model
cp selftests/model/recover.pml "$work"
cd "$work" || exit 1

# built FLAGS KIND: a program that looks at all states
built()
{
	rm -f -- *.trail
	# shellcheck disable=SC2086 # words
	spin -a $1 recover.pml && "${CC:-gcc}" -w $2 -o pan pan.c
}

# all LABEL FLAGS KIND OPTIONS: no error, and all of it was looked at
all()
{
	try "$1: builds" built "$2" "$3"
	# shellcheck disable=SC2086
	./pan -m10000 $4 >said 2>&1
	if grep -q 'errors: 0$' said && ! grep -qiE 'max search depth too small|out of memory' said
	then
		ok "$1: $(sed -n 's/^ *\([0-9]*\) states, stored.*/\1 states/p' said), no error"
	else
		# what happened, in order
		# shellcheck disable=SC2086
		spin -t -p $2 recover.pml | cat said - | sed 's/^/# /'
		not_ok "$1"
	fi
}

# found LABEL FLAGS WHERE: an assertion is violated, in this process
found()
{
	try "$1: builds" built "-DURGENT=NONE $2" '-O0 -DSAFETY'
	./pan -m10000 >said 2>&1
	# shellcheck disable=SC2086
	if grep -q 'assertion violated' said && spin -t -p -DURGENT=NONE $2 recover.pml >trail &&
		grep 'assert(' trail | tail -n 1 | grep -q "($3:"; then
		ok "$1: found"
	else
		sed 's/^/# /' said
		tail -n 20 trail | sed 's/^/# /'
		not_ok "$1: not found, or elsewhere"
	fi
}

for urgent in NONE AT_START AT_SWITCH; do
	all "urgent channel $urgent" "-DURGENT=$urgent" "-O2 -DSAFETY" ''
done
all "three breaks" "-DURGENT=NONE -DBREAKS=3" '-O2 -DSAFETY' ''
# No cycle of states at all: nothing can go on for ever
all "every run ends" "-DURGENT=NONE -DBREAKS=1" '-O2 -DNP -DNOREDUCE' -l

found "marked before placed" -DMARK_FIRST never_both
found "a dropped run keeps its arrived bits" -DKEEP_ARRIVED judge
found "what was sent counts as come" -DKEEP_DIRTY judge
found "requests before RESUME_ACK" -DACK_LATE source_thread
found "a fault looks at the phase first" -DLOOK_FIRST never_both
found "the fault thread is not waited for" -DNO_PARK source_thread
found "the source's guest is resumed" -DRESUME_GUEST never_both
for end in before package_lost done last_word_lost given_up recovered_twice; do
	found "there is a way to the end '$end'" "-DNOT_AN_END=$end" judge
done
tap_end
