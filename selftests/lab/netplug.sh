#!/bin/sh
# SPDX-License-Identifier: MIT
#
# [TEST]...: what needs sch_plug: selftests/lab/netplug/, or these of it. No module is loaded for
# somebody in a user namespace, so they are there before.
set -u

exec selftests/lab/run -n none -t 900 -M ifb,bridge,tun,sch_plug,sch_ingress,act_mirred,cls_matchall,cls_u32 \
	"${@:-lab/netplug}"
