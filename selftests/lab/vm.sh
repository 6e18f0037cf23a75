#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The lab itself: a status and a file come back, words arrive as they were, two hosts reach
# each other by RDMA; what ends badly is noticed.
set -u
. selftests/lib/tap.sh

temp=$(mktemp -d) || exit 1
trap 'rm -rf "$temp"' EXIT

selftests/lab/vm -s >"$temp/why" 2>&1
case $? in
0) ;;
122)
	echo "1..0 # SKIP $(tail -n 1 "$temp/why")"
	exit 4
	;;
*)
	sed 's/^/# /' "$temp/why"
	not_ok "the lab is made"
	tap_end
	;;
esac

echo 'content' >"$temp/given"
# shellcheck disable=SC2016 # the VM's own dollars
selftests/lab/vm -n pair -o "$temp/out" -f "$temp/given:in/given" -- sh -c '
	cp in/given /out/back
	printf "%s|" "$@" >/out/words
	(rping -s -a 10.9.1.2 -C 3 & rping -c -a 10.9.1.2 -C 3; wait) && echo reached
	cat /sys/class/infiniband/rxe1/ports/1/hw_counters/rcvd_pkts >/out/packets
	exit 7' - "it's" '$HOME "x"' '' >"$temp/said" 2>&1
try "the status of the command comes back" test $? = 7
try "a file goes in and comes back" cmp "$temp/given" "$temp/out/back"
try "its words are what they were" test "$(cat "$temp/out/words")" = "it's|\$HOME \"x\"||"
try "the ends of the cable reach each other by RDMA" grep reached "$temp/said"
try "and the other device has received it" test "$(cat "$temp/out/packets")" -gt 10

# Tests that go wrong, each in its way, and a kernel that complains
test_in_vm()
{
	{
		echo '#!/bin/sh'
		cat
	} >"$temp/$1"
	chmod +x "$temp/$1"
}
test_in_vm good <<'T'
printf 'ok 1 - one\nok 2 two # SKIP no moon\n1..2'
T
test_in_vm bad <<'T'
echo 1..1; echo 'not ok 1 - one'; exit 1
T
test_in_vm short <<'T'
echo 1..3; echo 'ok 1 - one'
T
test_in_vm killed <<'T'
echo 1..1; echo 'ok 1 - one'; kill -SEGV $$
T
test_in_vm away <<'T'
echo '1..0 # SKIP no sun'; exit 4
T
test_in_vm found <<'T'
echo '==1==ERROR: AddressSanitizer: not one' >/tmp/sanitizer.1; echo 1..1; echo 'ok 1 - one'
T
test_in_vm splat <<'T'
echo 'BUG: not one' >/dev/kmsg; echo 1..1; echo 'ok 1 - one'
T
selftests/lab/run -n none "$temp/good" "$temp/bad" "$temp/short" "$temp/killed" "$temp/away" \
	"$temp/found" "$temp/splat" >"$temp/tap" 2>&1
try "a run with failures fails" test $? = 1
sed 's/^/#   /' "$temp/tap"
while read -r line; do
	try "it says: $(echo "$line" | tr -d "#")" grep -qxF "$line" "$temp/tap"
done <<'T'
ok 1 - good: one
ok 2 - good: two # SKIP no moon
not ok 3 - bad: one
not ok 5 - short: planned 3, saw 1 (exit code 0)
not ok 7 - killed: killed by signal 11
ok 8 - away # SKIP no sun
not ok 10 - found: a sanitizer has found something
not ok 12 - the VM: status 123
1..12
T
try "and shows what a sanitizer said" grep 'AddressSanitizer: not one' "$temp/tap"
try "and shows what the kernel said" grep 'BUG: not one' "$temp/tap"

# A kernel that dies as it boots, the first time or always
cat >"$temp/qemu" <<'T'
#!/bin/sh
echo boot >>"$BOOTS"
[ "$(wc -l <"$BOOTS")" -gt "$BAD" ] && exec qemu-system-x86_64 "$@"
for word; do
	case $word in
	file:*/log) echo 'Oops: int3: 0000 [#1]' >"${word#file:}" ;;
	file:*/status) : >"${word#file:}" ;;
	esac
done
T
chmod +x "$temp/qemu"
for bad in 1 3; do
	rm -f "$temp/boots"
	BOOTS=$temp/boots BAD=$bad LAB_QEMU=$temp/qemu selftests/lab/vm -n none -- \
		sh -c 'exit 9' >"$temp/said" 2>&1
	echo $? >"$temp/status-$bad"
	try "a VM that did not come up is told of" grep 'did not come up: Oops: int3' "$temp/said"
done
try "and begun again" test "$(cat "$temp/status-1")" = 9
try "twice at most" test "$(cat "$temp/status-3")" = 123
try "which is three in all" test "$(wc -l <"$temp/boots")" = 3

begin=$(date +%s)
selftests/lab/vm -n none -t 3 -- sleep 1000 >"$temp/said" 2>&1
try "a VM that does not end is ended" test $? = 124
try "soon" test $(($(date +%s) - begin)) -lt 20
try "with a sentence" grep 'not done after 3 s' "$temp/said"

# That is no failure of the machine's
LAB_QEMU=no-qemu selftests/lab/vm -s >"$temp/said" 2>&1
try "where there is no QEMU there is no lab" test $? = 122
try "and it says so" grep 'no no-qemu here' "$temp/said"
tap_end
