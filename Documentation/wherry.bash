# SPDX-License-Identifier: MIT
#
# bash completion for wherry
# shellcheck shell=bash

_wherry()
{
	local current=${COMP_WORDS[COMP_CWORD]}
	local previous=${COMP_WORDS[COMP_CWORD - 1]}
	local command=${COMP_WORDS[1]-}
	local words=

	COMPREPLY=()
	if [ "$COMP_CWORD" -eq 1 ]; then
		words='demo drill receive send relay agent netplug protect qmp top check dump --help --version'
	else
		case $command:$previous in
		demo:--memory) words='private memfd hugetlb' ;;
		demo:--urgent) words='off switch start' ;;
		demo:--hold) words='queue plug none' ;;
		demo:--kill) words='source destination link agent' ;;
		receive:--memory) words='memfd private' ;;
		receive:--postcopy | receive:--reserve | receive:--urgent | send:--return-path | relay:--return-path | *:--odp) words='on off' ;;
		send:--multifd-compression | relay:--multifd-compression) words='none zstd' ;;
		send:--multifd-sync | relay:--multifd-sync) words='section round' ;;
		send:--urgent | relay:--urgent) words='off switch start' ;;
		receive:--out | send:--from | relay:--out)
			mapfile -t COMPREPLY < <(compgen -d -- "$current")
			return
			;;
		demo:--ram | demo:--vcpus | demo:--rate | demo:--uri | demo:--postcopy-after | \
			demo:--interval | demo:--seconds | demo:--seed | protect:--interval | protect:--pulse-uri | \
			demo:--bandwidth | demo:--postcopy-bandwidth | demo:--fault-spin | \
			relay:--multifd | relay:--multifd-level | send:--multifd | send:--multifd-level | \
			receive:--multifd | *:--tls | relay:--tls-from | relay:--tls-to | relay:--recover | relay:--timeout | send:--bandwidth | send:--machine | send:--page-size | send:--recover | send:--timeout | \
			receive:--device-max | receive:--recover | receive:--timeout | qmp:--timeout | \
			top:--interval | top:--count | drill:--runs | drill:--seed | \
			drill:--replay | drill:--memory)
			return
			;;
		drill:--kinds)
			words='cut reset half-close one-way truncate delay stall stranger corrupt
				bitmap handshake pause cancel stop kill removes no-memory no-space agent'
			;;
		drill:--qemu) words='source dest either' ;;
		drill:--qemu-binary)
			mapfile -t COMPREPLY < <(compgen -c -- "$current")
			return
			;;
		drill:*)
			words='--runs --seed --replay --kinds --memory --qemu --qemu-binary --list --json
				--help'
			;;
		demo:*)
			words='--ram --vcpus --memory --threads --rate --uri --urgent
				--postcopy-after --bandwidth --postcopy-bandwidth --fault-spin
				--own-loop --protect --interval --seconds --kill --seed --hold
				--copy-on-write --json --help'
			;;
		receive:*)
			words='--out --force --reserve --postcopy --urgent --switchover-ack --multifd --touch --memory --hugetlb
				--verify --device-max --pin-max --odp --recover --timeout --tls --json --quiet --help'
			;;
		relay:*)
			words='--out --reserve --postcopy --urgent --return-path --multifd --multifd-compression
				--multifd-level --multifd-sync --recover --timeout --tls --tls-from
				--tls-to --json --quiet --help'
			;;
		send:*)
			words='--from --mapped-ram --force --postcopy --urgent --return-path --switchover-ack --multifd
				--multifd-compression --multifd-level --multifd-sync --pin-all --pin-max --odp --bandwidth --machine
				--page-size --recover --verify --timeout --tls --json --quiet --help'
			;;
		protect:* | qmp:* | top:*)
			words='--events --timeout --help'
			[ "$command" = protect ] && words='--takeover --release --interval --pulse-uri --once --json --help'
			[ "$command" = top ] && words='--json --metrics --interval --count --help'
			if [ "${current#-}" = "$current" ]; then
				mapfile -t COMPREPLY < <(compgen -f -- "$current")
				return
			fi
			;;
		agent:--socket | agent:--qmp)
			mapfile -t COMPREPLY < <(compgen -f -- "$current")
			return
			;;
		netplug:--edge) words='queue plug' ;;
		netplug:*)
			words='--edge --bridge --limit-bytes --limit-packets --foreground --json --help'
			[ "$COMP_CWORD" -eq 2 ] && [ "${current#-}" = "$current" ] &&
				words='arm hold turn release fence disarm status'
			;;
		agent:*) words='--socket --qmp --quiet --help' ;;
		check:*) words='--json --help' ;;
		dump:*)
			words='--urgent --return-path --multifd --mc --pages --offset --json --help'
			if [ "${current#-}" = "$current" ]; then
				mapfile -t COMPREPLY < <(compgen -f -- "$current")
				return
			fi
			;;
		esac
	fi
	mapfile -t COMPREPLY < <(compgen -W "$words" -- "$current")
}
complete -F _wherry wherry
