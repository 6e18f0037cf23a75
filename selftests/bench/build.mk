# SPDX-License-Identifier: MIT

$(BUILD)/selftests/bench/plot: private EXTRA_LIBS = -lm

# The library's trace points, with the time beside each
$(BUILD)/selftests/bench/hops: private EXTRA_LDFLAGS = -Wl,--wrap=trace_record

BENCH_EXTRA += qemu-10

# Messages and registrations, to be counted
ifneq ($(RDMA),0)
$(BUILD)/selftests/bench/rdma: private EXTRA_LDFLAGS = -Wl,--wrap=vlink_send,--wrap=vlink_received \
						       -Wl,--wrap=vmem_grant,--wrap=vmem_grant_whole
endif
