# SPDX-License-Identifier: MIT

$(BUILD)/selftests/bench/plot: private EXTRA_LIBS = -lm

# The library's trace points, with the time beside each
$(BUILD)/selftests/bench/hops: private EXTRA_LDFLAGS = -Wl,--wrap=trace_record

BENCH_EXTRA += qemu-10
