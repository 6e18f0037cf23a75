#!/bin/sh
# SPDX-License-Identifier: MIT
#
# wherry protect, and the commands behind it: two example VMMs with monitors, one the replica of
# the other.
set -u
. selftests/lib/tap.sh

build=${WH_BUILD:-build}
wherry=$build/wherry
temp=$(mktemp -d) || exit 1
a=$temp/a.qmp
b=$temp/b.qmp
primary=
replica=
watcher=
moved=

# Commands of theirs come by QMP
start()
{
	log=$1
	shift
	"$build/wherry-vmm" --ram 16M --vcpus 2 --rate 2000 --lease 5000 "$@" \
		>"$temp/$log" 2>&1 </dev/null &
}

start_primary()
{
	start a.log --qmp "$a" --generation "$temp/a.generation" "$@"
	primary=$!
}

start_replica()
{
	start b.log --qmp "$b" --generation "$temp/b.generation" --replica "unix:$temp/b.link" "$@"
	replica=$!
}

end()
{
	for child in $primary $replica $watcher $moved; do
		kill -9 "$child" 2>/dev/null
		wait "$child" 2>/dev/null
	done
	primary='' replica='' watcher='' moved=''
	rm -f "$temp"/*.link "$temp"/*.qmp "$temp"/*.generation "$temp/lines"
}
# "try" runs its command in a shell of its own: what starts or reaps a process is not for it.
# said LABEL: of the command before
said()
{
	try "$1" [ $? = 0 ]
}
trap 'end; rm -rf "$temp"' EXIT

until_true()
{
	n=0
	until "$@"; do
		n=$((n + 1))
		[ "$n" -lt 600 ] || return 1
		sleep 0.05
	done
}

# tells SOCKET PATTERN: query-checkpoint
tells()
{
	"$wherry" qmp "$1" query-checkpoint >"$temp/told" 2>&1
	grep -qE -e "$2" "$temp/told"
}

# says TEXT COMMAND...: it fails, with that text
refused()
{
	text=$1
	shift
	if "$@" >"$temp/out" 2>&1; then
		echo "# it was not refused: $*"
		return 1
	fi
	grep -qF -e "$text" "$temp/out" && return 0
	sed 's/^/# /' "$temp/out"
	return 1
}

listens()
{
	"$wherry" qmp "$1" query-status >/dev/null 2>&1
}

told_events()
{
	"$wherry" qmp "$1" query-migrate-capabilities | tr -d ' \n' |
		grep -qE '"capability":"events","state":true|"state":true,"capability":"events"'
}

both()
{
	start_replica "$@"
	start_primary "$@"
	until_true listens "$a" && until_true listens "$b"
}

once()
{
	"$wherry" protect --once --interval 20 "$a" "$b" >"$temp/once" 2>&1 && return 0
	sed 's/^/# /' "$temp/once" "$temp/a.log" "$temp/b.log"
	return 1
}

protected()
{
	both "$@" && once
}

# watch OPTION...: in the background
watch()
{
	rm -f "$temp/watch"
	timeout 30 "$wherry" protect "$@" "$a" "$b" >"$temp/watch" 2>&1 &
	watcher=$!
	until_true test -s "$temp/watch"
}

watched()
{
	wait "$watcher"
	status=$?
	watcher=
	[ "$status" -eq "$1" ] && grep -qF -e "$2" "$temp/watch" && return 0
	sed 's/^/# /' "$temp/watch"
	echo "# exit status $status, not $1"
	return 1
}

quit()
{
	"$wherry" qmp "$1" quit >/dev/null 2>&1
}

# Refusals, before anything is protected
both
said "two VMMs"
try "nothing is protected yet" tells "$a" '"state": ?"none"'
try "the replica says where" tells "$b" '"address": ?"unix:'
try "a stop of nothing" refused "No guest is protected here" "$wherry" qmp "$a" checkpoint-stop
try "a takeover at the source" refused "No guest of elsewhere" "$wherry" qmp "$a" checkpoint-takeover
try "a delay of 0" refused "from 1 to 10000" "$wherry" qmp "$a" migrate-set-mc-delay value=0
try "a delay below 0" refused "from 1 to 10000" "$wherry" qmp "$a" migrate-set-mc-delay value=-5
try "a start without a place" refused "'uri' is missing" "$wherry" qmp "$a" checkpoint-start
try "a start at the replica" refused "" "$wherry" qmp "$b" checkpoint-start "uri=unix:$temp/c"
try "a descriptor" refused "valid migration protocol" "$wherry" qmp "$a" checkpoint-start uri=fd:3
try "the other way round" refused "is a replica itself" "$wherry" protect "$b" "$a"
try "without a replica" refused "does not wait to be a replica" "$wherry" protect "$a" "$a"
end

# In order
both
"$wherry" qmp --events --timeout 60 "$a" >"$temp/told_of" 2>&1 &
teller=$!
try "somebody listens" until_true told_events "$a"
try "it is protected" once
try "each change is told" until_true sh -c "grep -q '\"state\": *\"sync\"' '$temp/told_of' &&
	grep -q '\"state\": *\"run\"' '$temp/told_of'"
try "and so is each checkpoint" until_true sh -c \
	"[ \"\$(grep -c '\"state\": *\"stop\"' '$temp/told_of')\" -gt 5 ]"
kill "$teller"
wait "$teller"
try "but not that the guest stops" sh -c "! grep -q STOP '$temp/told_of'"
try "and says so" grep -qF "the guest is protected" "$temp/once"
try "its interval" tells "$a" '"interval_ns": ?20000000'
try "a second one is refused" refused "There's a protection in progress" \
	"$wherry" qmp "$a" checkpoint-start "uri=unix:$temp/c"
try "so is a migration" refused "checkpoint-stop first" "$wherry" qmp "$a" migrate "uri=unix:$temp/c"
try "so is stop" refused "is protected" "$wherry" qmp "$a" stop
try "figures in lines" sh -c "'$wherry' top --count 2 '$a' | grep -q '^STATE  *EPOCH'"
try "figures for who collects them" sh -c \
	"'$wherry' top --metrics '$a' | grep -q '^wherry_protect_checkpoints_total [1-9]'"
watch
try "stopped in order" "$wherry" qmp "$a" checkpoint-stop
watched 0 "without protection"
said "and so it ends"
try "the replica has forgotten it" until_true tells "$b" '"state": ?"fenced"'
try "the guest runs" sh -c "'$wherry' qmp '$a' query-status | grep -qE '\"running\": ?true'"
start c.log --listen "unix:$temp/c.link"
moved=$!
until_true test -S "$temp/c.link"
try "and is migrated away" "$wherry" qmp "$a" migrate "uri=unix:$temp/c.link"
wait "$moved"
try "every byte is right there" [ $? = 0 ]
moved=
end

# Lines of stdin instead of QMP
start_replica
mkfifo "$temp/lines"
"$build/wherry-vmm" --ram 16M --vcpus 2 --rate 2000 --qmp "$a" --generation "$temp/a.generation" \
	>"$temp/a.log" 2>&1 <"$temp/lines" &
primary=$!
exec 3>"$temp/lines"
until_true listens "$a" && until_true listens "$b" && once
said "protected, and told what to do by lines"
echo "migrate unix:$temp/c.link" >&3
try "a migration is refused" until_true grep -qF "the guest is protected" "$temp/a.log"
try "which changes nothing" tells "$a" '"state": ?"(run|stop|stage|send|wait-ack)"'
echo unprotect >&3
try "it is ended in order" until_true tells "$a" '"state": ?"released"'
try "and so it is there" until_true tells "$b" '"state": ?"fenced"'
exec 3>&-
end

# With a key that both have, and one that only one of them has
printf 'qemu:%s\n' 00112233445566778899aabbccddeeff >"$temp/keys.psk"
chmod 600 "$temp/keys.psk"
protected --tls "psk,dir=$temp"
said "with TLS"
end
start_replica --tls "psk,dir=$temp"
start_primary
until_true listens "$a" && until_true listens "$b"
try "one that speaks no TLS is no source" refused "wherry protect" \
	"$wherry" protect --once "$a" "$b"
try "nothing has come" tells "$b" '"state": ?"setup"'
end

# The primary dies
protected
said "protected, and it dies"
watch --takeover
kill -9 "$primary"
wait "$primary" 2>/dev/null
primary=
watched 0 "runs at the replica"
said "the replica takes over"
try "and tells so" tells "$b" '"state": ?"takeover"'
try "the guest runs there" sh -c "'$wherry' qmp '$b' query-status | grep -qE '\"running\": ?true'"
quit "$b"
wait "$replica"
try "every byte is right" [ $? = 0 ]
replica=
end

# The replica dies
protected
said "protected, and the replica dies"
kill -9 "$replica"
wait "$replica" 2>/dev/null
replica=
try "the source waits for a decision" until_true tells "$a" '"state": ?"hold"'
try "without which it is not stopped" refused "" "$wherry" qmp "$a" checkpoint-stop
try "and stays so" tells "$a" '"state": ?"hold"'
try "it is to go on alone" "$wherry" qmp "$a" checkpoint-stop force=true
try "which it does" until_true tells "$a" '"state": ?"released"'
end

protected
said "protected, and somebody was told what to do then"
watch --release
kill -9 "$replica"
wait "$replica" 2>/dev/null
replica=
watched 0 "without protection"
said "it goes on alone"
end

# The primary's network card is of a namespace of its own
if unshare -rn ip tuntap add mode tap name wh0 2>/dev/null; then
	start_replica
	unshare -rn sh -c 'ip tuntap add mode tap name wh0; exec "$@"' sh \
		"$build/wherry-vmm" --ram 16M --vcpus 2 --rate 2000 --nic wh0 --hold none \
		--qmp "$a" --generation "$temp/a.generation" >"$temp/a.log" 2>&1 </dev/null &
	primary=$!
	until_true listens "$a" && until_true listens "$b"
	said "a guest with a network card, a replica without"
	try "it is not protected" refused "" "$wherry" protect --once "$a" "$b"
	try "and it is said why" tells "$a" '"reason": ?".*a network card there and none here: --nic'
	end
else
	skip "a replica without a network card" "there are no taps to be had here"
fi

# It writes more than a checkpoint has room for when they come seldom
protected --rate 200 --checkpoint-max 1M --too-much degrade
said "protected, and little fits into one"
"$wherry" qmp --events --timeout 60 "$a" >"$temp/told_of" 2>&1 &
teller=$!
try "somebody listens" until_true told_events "$a"
"$wherry" qmp "$a" migrate-set-mc-delay value=10000 >"$temp/out" 2>&1
try "too much is written" until_true grep -q '"state": *"degraded".*there is room for' "$temp/told_of"
"$wherry" qmp "$a" migrate-set-mc-delay value=20 >"$temp/out" 2>&1
try "it is protected again" until_true grep -q '"state": *"run", *"from": *"degraded"' "$temp/told_of"
try "and stays so" until_true tells "$a" '"degraded": ?false'
try "nobody was lost by that" tells "$b" '"state": ?"(ready|receiving|complete)"'
kill "$teller"
wait "$teller" 2>/dev/null
kill -9 "$primary"
wait "$primary" 2>/dev/null
primary=
try "its machine dies" until_true tells "$b" '"state": ?"suspect"'
try "the replica takes over" "$wherry" qmp "$b" checkpoint-takeover
try "it does" until_true tells "$b" '"state": ?"takeover"'
quit "$b"
wait "$replica"
try "every byte is right" [ $? = 0 ]
replica=
end

# The source gives up the guest
protected
said "protected, and given up"
try "abandon at the source" "$wherry" qmp "$a" checkpoint-abandon
try "its guest stands still" until_true tells "$a" '"state": ?"fenced"'
try "and cannot be started again" refused "protected, or not here" "$wherry" qmp "$a" cont
try "the replica takes over even so" "$wherry" qmp "$b" checkpoint-takeover
try "it does" until_true tells "$b" '"state": ?"takeover"'
end
tap_end
