#!/bin/sh
# SPDX-License-Identifier: MIT
#
# What needs RDMA, between the ends of a cable: selftests/lab/rdma/
set -u

if "${WH_BUILD:-build}/wherry" check | grep -q 'built without RDMA'; then
	echo '1..0 # SKIP built without RDMA'
	exit 4
fi
exec selftests/lab/run -n pair lab/rdma
