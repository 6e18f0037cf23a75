/* SPDX-License-Identifier: MIT */
#ifndef LIB_BENCH_MEASURE_H
#define LIB_BENCH_MEASURE_H

#include <stdbool.h>

/* What is measured. Names, units and aims are in bench_measure.c */
enum bench_measure {
	BENCH_FAULT_IDLE_P50,
	BENCH_FAULT_IDLE_P99,
	BENCH_FAULT_BULK_P50,
	BENCH_FAULT_BULK_P99,
	BENCH_FAULT_BULK_RATE,
	BENCH_SERVICE_P50,
	BENCH_SERVICE_P99,
	BENCH_HANDLER_P50,
	BENCH_HANDLER_P99,
	BENCH_HANDLER_CPU,
	BENCH_PRECOPY_RATE,
	BENCH_PRECOPY_CPU,
	BENCH_POSTCOPY_RATE,
	BENCH_POSTCOPY_CPU,
	BENCH_HUGE_PAGES,
	BENCH_OWN_MEMORY,
	BENCH_READ_RATE,
	BENCH_DIGEST_COST,
	BENCH_TOUCH_TIME,
	BENCH_TOUCH_RATE,
	BENCH_TOUCH_SPEED,
	BENCH_TOUCH_P50,
	BENCH_TOUCH_P99,
	BENCH_SIZE_PRECOPY,
	BENCH_SIZE_POSTCOPY,
	BENCH_FAULTERS,
	BENCH_DIRTY_SYNC,
	BENCH_DIRTY_CPU,
	BENCH_PLACING,
	BENCH_DROPPING,
	BENCH_PLACING_P50,
	BENCH_PLACING_P99,
	BENCH_HOP,
	BENCH_BREAK,
	BENCH_RECOVERY,
	BENCH_BITMAP_RATE,
	BENCH_RESTORE,
	BENCH_RESTORE_LINK,
	BENCH_CP_STOP,
	BENCH_CP_WIRE,
	BENCH_CP_PACK,
	BENCH_CP_ACK,
	BENCH_CP_CPU,
	BENCH_CP_SPEED,
	BENCH_CP_RATE,
	BENCH_CP_HELD_P50,
	BENCH_CP_HELD_P99,
	BENCH_CP_TURN,
	BENCH_CP_RELEASE,
	BENCH_RECEIVE_RATE,
	BENCH_RECEIVE_CPU,
	BENCH_RDMA_RATE,
	BENCH_RDMA_KEYS,
	BENCH_RDMA_MESSAGES,
	BENCH_RDMA_FAULT,
	BENCH_MEASURE_COUNT
};

/**
 * struct bench_traits - What is to be known of a measure
 * @name:	As in the JSON file: "fault-idle-p50"
 * @title:	As above the table
 */
struct bench_traits {
	const char *name;
	const char *title;
	const char *unit;
};

extern const struct bench_traits bench_traits[BENCH_MEASURE_COUNT];

/**
 * struct bench_aim - What a row is to reach
 * @side:	Of this row
 * @of:		@factor is times this row; NULL: in the measure's unit
 * @variant:	Only in variants with these words; NULL: in all
 */
struct bench_aim {
	enum bench_measure measure;
	const char *side;
	const char *of;
	const char *variant;
	bool at_least;
	double factor;
};

/* All of them, the last with side NULL */
extern const struct bench_aim bench_aims[];

#endif /* LIB_BENCH_MEASURE_H */
