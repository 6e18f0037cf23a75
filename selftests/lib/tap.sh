# SPDX-License-Identifier: MIT
#
# TAP for shell scripts: . selftests/lib/tap.sh, then try, ok, not_ok, skip; tap_end last.
# shellcheck shell=sh

tap_count=0
tap_failed=0

ok()
{
	tap_count=$((tap_count + 1))
	echo "ok $tap_count - $*"
}

not_ok()
{
	tap_count=$((tap_count + 1))
	tap_failed=1
	echo "not ok $tap_count - $*"
}

# skip LABEL REASON
skip()
{
	tap_count=$((tap_count + 1))
	echo "ok $tap_count - $1 # SKIP $2"
}

# try LABEL COMMAND...: ok if it exits with 0, else its output as comments
try()
{
	tap_label=$1
	shift
	if tap_output=$("$@" 2>&1); then
		ok "$tap_label"
	else
		echo "$tap_output" | sed 's/^/# /'
		not_ok "$tap_label"
	fi
}

# empty LABEL TEXT: ok if there is no text; it is the list of what is wrong
empty()
{
	if [ -z "$2" ]; then
		ok "$1"
	else
		echo "$2" | sed 's/^/# /'
		not_ok "$1"
	fi
}

# NAME: wherry check has it; the row that says so, or why not, is in tap_row
has()
{
	tap_row=$("${WH_BUILD:-build}/wherry" check | grep "^  [a-zA-Z]*  *$1 ")
	[ "${tap_row#  ok }" != "$tap_row" ]
}

# NAME: else all is skipped, by a script that has not begun
needs()
{
	has "$1" && return
	# shellcheck disable=SC2086 # without the blanks of a table
	echo "1..0 # SKIP" $tap_row
	exit 4
}

tap_end()
{
	echo "1..$tap_count"
	exit "$tap_failed"
}

# make, as if started by hand: without what a make around it has put into the environment
plain_make()
{
	env -u MAKEFLAGS -u MFLAGS -u MAKELEVEL -u MAKEOVERRIDES make -s --no-print-directory "$@"
}

# Value of a variable of the Makefile
made()
{
	plain_make "print-$1"
}
