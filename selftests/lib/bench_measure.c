/* SPDX-License-Identifier: MIT */
/*
 * Benchmarks: what is measured, and what is aimed at.
 */
#include "selftests/lib/bench_measure.h"

#include <assert.h>
#include <stddef.h>

const struct bench_traits bench_traits[] = {
	[BENCH_FAULT_IDLE_P50] = { "fault-idle-p50", "remote fault, nothing else under way, p50",
				   "us" },
	[BENCH_FAULT_IDLE_P99] = { "fault-idle-p99", "remote fault, nothing else under way, p99",
				   "us" },
	[BENCH_FAULT_BULK_P50] = { "fault-bulk-p50", "remote fault, bulk saturated, p50", "us" },
	[BENCH_FAULT_BULK_P99] = { "fault-bulk-p99", "remote fault, bulk saturated, p99", "us" },
	[BENCH_FAULT_BULK_RATE] = { "fault-bulk-rate", "bulk, alone and while pages fault",
				    "GB/s" },
	[BENCH_SERVICE_P50] = { "service-p50", "request to page handed over at the source, p50",
				"us" },
	[BENCH_SERVICE_P99] = { "service-p99", "request to page handed over at the source, p99",
				"us" },
	[BENCH_HANDLER_P50] = { "handler-p50", "remote fault by place of the handler, p50", "us" },
	[BENCH_HANDLER_P99] = { "handler-p99", "remote fault by place of the handler, p99", "us" },
	[BENCH_HANDLER_CPU] = { "handler-cpu", "processor time of the destination, a fault", "us" },
	[BENCH_PRECOPY_RATE] = { "precopy-rate", "all of the RAM by precopy", "GB/s" },
	[BENCH_PRECOPY_CPU] = { "precopy-cpu", "processor time by precopy, both ends", "s/GiB" },
	[BENCH_POSTCOPY_RATE] = { "postcopy-rate", "all of the RAM by postcopy", "GB/s" },
	[BENCH_POSTCOPY_CPU] = { "postcopy-cpu", "processor time by postcopy, both ends", "s/GiB" },
	[BENCH_HUGE_PAGES] = { "huge-pages", "RAM in huge pages at the end", "MiB" },
	[BENCH_OWN_MEMORY] = { "own-memory", "own memory of the destination", "MiB" },
	[BENCH_READ_RATE] = { "read-rate", "going through memory", "GB/s" },
	[BENCH_DIGEST_COST] = { "digest-cost", "one GiB through XXH3 and over a stream", "s/GiB" },
	[BENCH_TOUCH_TIME] = { "touch-time", "all pages touched at random while they stream", "s" },
	[BENCH_TOUCH_RATE] = { "touch-rate", "bulk while pages are touched at random", "GB/s" },
	[BENCH_TOUCH_SPEED] = { "touch-speed", "pages touched at random, streaming and idle",
				"1000/s" },
	[BENCH_TOUCH_P50] = { "touch-p50", "touch that waited, while pages stream, p50", "us" },
	[BENCH_TOUCH_P99] = { "touch-p99", "touch that waited, while pages stream, p99", "us" },
	[BENCH_SIZE_PRECOPY] = { "size-precopy", "cost of a page by precopy", "ns" },
	[BENCH_SIZE_POSTCOPY] = { "size-postcopy", "cost of a page by postcopy", "ns" },
	[BENCH_FAULTERS] = { "faulters", "remote faults of many threads", "1000/s" },
	[BENCH_DIRTY_SYNC] = { "dirty-sync", "reading the log of writes", "ms" },
	[BENCH_DIRTY_CPU] = { "dirty-cpu", "processor time of reading the log of writes", "ms" },
	[BENCH_PLACING] = { "placing", "from a buffer into guest memory", "GB/s" },
	[BENCH_DROPPING] = { "dropping", "dropping what was received, to have it again", "GB/s" },
	[BENCH_PLACING_P50] = { "placing-p50", "fault answered in the same process, p50", "us" },
	[BENCH_PLACING_P99] = { "placing-p99", "fault answered in the same process, p99", "us" },
	[BENCH_HOP] = { "hop", "a hop of the way of a page", "us" },
	[BENCH_BREAK] = { "break", "from a cut until both ends are paused", "ms" },
	[BENCH_RECOVERY] = { "recovery", "from recover and resume until a page that is waited for",
			     "ms" },
	[BENCH_BITMAP_RATE] = { "bitmap-rate", "received bitmap, to the wire and from it", "GB/s" },
	[BENCH_RESTORE] = { "restore", "from the command until a parked guest says something",
			    "ms" },
	[BENCH_RESTORE_LINK] = { "restore-link",
				 "from the connection until a parked guest says something", "ms" },
	[BENCH_CP_STOP] = { "checkpoint-stop", "a guest's stop for a checkpoint", "ms" },
	[BENCH_CP_WIRE] = { "checkpoint-wire", "a checkpoint on the wire", "MiB" },
	[BENCH_CP_PACK] = { "checkpoint-pack", "packing a checkpoint while the guest runs", "ms" },
	[BENCH_CP_ACK] = { "checkpoint-ack", "from the end of a stop until it is acknowledged",
			   "ms" },
	[BENCH_CP_CPU] = { "checkpoint-cpu", "processor time of both machines for checkpoints",
			   "s/GiB" },
	[BENCH_CP_SPEED] = { "checkpoint-speed", "a guest, protected and not", "1000/s" },
	[BENCH_CP_RATE] = { "checkpoint-rate", "checkpoints a second", "1/s" },
	[BENCH_CP_HELD_P50] = { "held-p50", "a packet that is held, p50", "ms" },
	[BENCH_CP_HELD_P99] = { "held-p99", "a packet that is held, p99", "ms" },
	[BENCH_CP_TURN] = { "turn", "closing an epoch", "us" },
	[BENCH_CP_RELEASE] = { "release", "letting an epoch go", "us" },
	[BENCH_RECEIVE_RATE] = { "receive-rate", "all of the RAM by multifd out of QEMU 7.2",
				 "GB/s" },
	[BENCH_RECEIVE_CPU] = { "receive-cpu",
				"processor time of the destination, by multifd out of QEMU 7.2",
				"s/GiB" },
	[BENCH_RDMA_RATE] = { "rdma-rate", "all of the RAM by precopy over RDMA", "GB/s" },
	[BENCH_RDMA_KEYS] = { "rdma-keys", "registrations at the destination", "1/GiB" },
	[BENCH_RDMA_MESSAGES] = { "rdma-messages", "messages over RDMA, of both ends", "1/GiB" },
	[BENCH_RDMA_FAULT] = { "rdma-fault", "fetch of a page that a thread waits for, p50", "us" },
};

static_assert(sizeof(bench_traits) / sizeof(bench_traits[0]) == BENCH_MEASURE_COUNT,
	      "one line a measure");

/* clang-format off */
const struct bench_aim bench_aims[] = {
	/* A page that a guest waits for */
	{ BENCH_FAULT_IDLE_P50, "wherry", "floor", NULL, false, 1.15 },
	{ BENCH_FAULT_IDLE_P99, "wherry", "floor", NULL, false, 1.3 },
	{ BENCH_FAULT_BULK_P99, "wherry", "wherry, idle", NULL, false, 2 },
	{ BENCH_FAULT_BULK_P50, "wherry", "QEMU 7.2, preempt", NULL, false, 0.25 },
	{ BENCH_FAULT_BULK_P99, "wherry", "QEMU 7.2, preempt", NULL, false, 0.25 },
	{ BENCH_FAULT_BULK_RATE, "wherry", "wherry, alone", NULL, true, 0.8 },
	{ BENCH_SERVICE_P50, "wherry", "wherry, idle", NULL, false, 1.3 },
	{ BENCH_SERVICE_P99, "wherry", "wherry, idle", NULL, false, 1.3 },

	/* All of the RAM */
	{ BENCH_PRECOPY_RATE, "wherry", "floor", NULL, true, 0.8 },
	{ BENCH_PRECOPY_RATE, "wherry", "QEMU 7.2", NULL, true, 1.3 },
	{ BENCH_PRECOPY_CPU, "wherry", "QEMU 7.2", NULL, false, 1 },
	{ BENCH_POSTCOPY_RATE, "wherry", "floor", NULL, true, 0.8 },
	{ BENCH_POSTCOPY_RATE, "wherry", "QEMU 7.2", NULL, true, 2.5 },
	{ BENCH_POSTCOPY_CPU, "wherry", "QEMU 7.2", NULL, false, 1 },
	{ BENCH_OWN_MEMORY, "wherry", "16 MiB + 3 bits a page", NULL, false, 1 },

	/* A guest that touches everything at once */
	{ BENCH_TOUCH_TIME, "wherry", NULL, "1 GiB", false, 1.5 },
	{ BENCH_TOUCH_SPEED, "wherry", "wherry, idle", "8 touchers", true, 0.7 },

	/* What the processor does with bytes */
	{ BENCH_READ_RATE, "zero_page()", "floor", "zeros", true, 0.9 },
	{ BENCH_READ_RATE, "bits_next_set()", "floor", "nothing set", true, 0.9 },
	{ BENCH_READ_RATE, "bits_next_clear()", "floor", "all set", true, 0.9 },
	{ BENCH_READ_RATE, "bits_count()", "floor", "4 TiB, counted", true, 0.9 },
	{ BENCH_READ_RATE, "inversion", "floor", "inversion", true, 0.9 },
	{ BENCH_READ_RATE, "xbzrle_get()", "floor", "XBZRLE", true, 0.9 },
	{ BENCH_READ_RATE, "XXH3", "floor", "digest", true, 0.9 },
	{ BENCH_DIGEST_COST, "XXH3, added to a read", "wherry, precopy", NULL, false, 0.1 },

	/* A link that broke */
	{ BENCH_RECOVERY, "wherry", "5 ms + 3 round trips", NULL, false, 1 },
	{ BENCH_BITMAP_RATE, "bitmap_put()", "floor", NULL, true, 0.5 },
	{ BENCH_BITMAP_RATE, "inversion", "floor", NULL, true, 0.5 },

	/* A guest that was put away */
	{ BENCH_RESTORE_LINK, "wherry, postcopy", NULL, NULL, false, 150 },

	/* A guest that is protected */
	{ BENCH_CP_STOP, "wherry", "floor", NULL, false, 1.25 },
	{ BENCH_CP_STOP, "wherry", NULL, "5 MiB dirty, single pages, of 1 GiB", false, 1 },
	{ BENCH_CP_STOP, "wherry", NULL, "64 MiB dirty, single pages, of 1 GiB", false, 6 },
	{ BENCH_CP_RATE, "wherry", NULL, NULL, true, 39.5 },
	{ BENCH_CP_RATE, "wherry, as often as it can", NULL, NULL, true, 40 },
	{ BENCH_CP_HELD_P50, "wherry", "floor", NULL, false, 1.25 },
	{ BENCH_CP_HELD_P99, "wherry", "floor", NULL, false, 1.25 },

	/* A QEMU that sends by multifd */
	{ BENCH_RECEIVE_CPU, "wherry", "QEMU 7.2", "warm", false, 1 },

	/* Over RDMA */
	{ BENCH_RDMA_RATE, "wherry", "floor", "pinned as a whole", true, 0.9 },
	{ BENCH_RDMA_RATE, "wherry", "floor", "by chunks", true, 0.8 },
	{ BENCH_RDMA_RATE, "wherry", "QEMU 7.2", "by chunks", true, 1.5 },
	{ BENCH_RDMA_FAULT, "wherry", "floor", NULL, false, 1.5 },
	{ BENCH_RDMA_FAULT, "wherry", "floor, a fault", NULL, false, 1.5 },

	{ 0 },
};
/* clang-format on */
