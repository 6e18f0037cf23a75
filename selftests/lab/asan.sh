#!/bin/sh
# SPDX-License-Identifier: MIT
#
# The ends of RDMA among strangers, in the lab, built with the sanitizers: a part of what make
# check-lab-asan runs.
set -u

build=build-asan
if ! [ -x $build/selftests/lab/rdma/hostile ]; then
	echo "1..0 # SKIP there is no $build/selftests/lab/rdma/hostile: make check T=lab/asan makes it"
	exit 4
fi
WH_BUILD=$build exec selftests/lab/rdma.sh lab/rdma/hostile lab/rdma/hostile_dest
