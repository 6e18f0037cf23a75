#!/bin/sh
# SPDX-License-Identifier: MIT
#
# rdma.sh [NAME...]: what needs RDMA, between the ends of a cable: selftests/lab/rdma/, or some of it
set -u

if "${WH_BUILD:-build}/wherry" check | grep -q 'built without RDMA'; then
	echo '1..0 # SKIP built without RDMA'
	exit 4
fi
# A real QEMU, and the accelerator that it loads
qemu=$(command -v qemu-system-x86_64)
exec selftests/lab/run -n pair -t 900 -m 2048 -f "$qemu:$qemu" \
	$(for file in /usr/lib/*/qemu/accel-tcg-x86_64.so; do
		[ -e "$file" ] && echo "-f $file:$file"
	done) "${@:-lab/rdma}"
