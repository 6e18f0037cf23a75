/* SPDX-License-Identifier: MIT */
#ifndef INTEROP_RUNS_H
#define INTEROP_RUNS_H

/*
 * The table runs.def as data: what its words mean to QEMU and to wherry, and whether all of it
 * is there that has to be.
 */
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <string.h>

#include "selftests/lib/qemu.h"
#include "selftests/lib/vm.h"

/* What is not built yet is no run, and no pair is asked for it */
#define WHERE_plain(...) __VA_ARGS__
#define WHERE_xbzrle(...) __VA_ARGS__
#define WHERE_multifd(...) __VA_ARGS__
#define WHERE_zstd(...) __VA_ARGS__
#define WHERE_tls(...) __VA_ARGS__

enum run_factor {
	run_qemu,
	run_board,
	run_role,
	run_mode,
	run_wire,
	run_memory,
	RUN_FACTORS
};

/* The words of each factor, in the order of these */
enum {
	run_7_2 = QEMU_7_2,
	run_10_0 = QEMU_10_0,

	run_i440fx = VM_I440FX,
	run_q35 = VM_Q35,

	run_source = 0,
	run_destination,
	run_relay,

	run_precopy = 0,
	run_postcopy,
	run_preempt,

	run_plain = 0,
	run_xbzrle,
	run_multifd,
	run_zstd,
	run_tls,

	run_anon = VM_ANON,
	run_memfd = VM_MEMFD,
	run_hugetlb = VM_HUGETLB,
	run_two = VM_TWO,

	run_rest = 0,
	run_check,
};

#define RUN_VALUES 5
static const char *const run_words[RUN_FACTORS][RUN_VALUES] = {
	[run_qemu] = { "7.2", "10.0" },
	[run_board] = { "i440fx", "q35" },
	[run_role] = { "source", "destination", "relay" },
	[run_mode] = { "precopy", "postcopy", "preempt" },
	[run_wire] = { "plain", "xbzrle", "multifd", "zstd", "tls" },
	[run_memory] = { "anon", "memfd", "hugetlb", "two" },
};

static const bool run_wire_built[RUN_VALUES] = {
	WHERE_plain([run_plain] = true, ) WHERE_xbzrle([run_xbzrle] = true, )
		WHERE_multifd([run_multifd] = true, ) WHERE_zstd([run_zstd] = true, )
			WHERE_tls([run_tls] = true, )
};

/* A line of the table */
struct run {
	union {
		struct {
			unsigned qemu;
			unsigned board;
			unsigned role;
			unsigned mode;
			unsigned wire;
			unsigned memory;
		};
		unsigned value[RUN_FACTORS];
	};
	const char *name;
	bool check;
};

#define RUN_OF(q, b, r, m, w, mem, when)                                                \
	{                                                                               \
		.qemu = run_##q, .board = run_##b, .role = run_##r, .mode = run_##m,    \
		.wire = run_##w, .memory = run_##mem, .check = run_##when == run_check, \
		.name = "qemu_" #q "_" #b "_" #r "_" #m "_" #w "_" #mem,                \
	}

#define RUN(q, b, r, m, w, mem, when) WHERE_##w(RUN_OF(q, b, r, m, w, mem, when), )
#define REFUSED(...)
static const struct run runs[] = {
#include "selftests/interop/runs.def"
};
#undef RUN
#undef REFUSED
#define RUNS_MAX (sizeof(runs) / sizeof(runs[0]))

/* What two QEMUs do not do with each other */
struct refused {
	struct run run; /* of it: qemu, mode and wire */
	const char *sentence;
};

#define RUN(...)
#define REFUSED(q, m, w, text) { RUN_OF(q, q35, relay, m, w, anon, check), text },
static const struct refused refused[] = {
#include "selftests/interop/runs.def"
};
#undef RUN
#undef REFUSED
#define REFUSED_COUNT (sizeof(refused) / sizeof(refused[0]))

/* To be switched on in QEMU, NULL at the end */
static inline void run_capabilities(const struct run *run, const char *capabilities[4])
{
	unsigned n = 0;

	capabilities[n++] = run->mode == run_precopy ? "return-path" : "postcopy-ram";
	if (run->mode == run_preempt)
		capabilities[n++] = "postcopy-preempt";
	if (run->wire == run_xbzrle)
		capabilities[n++] = "xbzrle";
	if (run->wire == run_multifd || run->wire == run_zstd)
		capabilities[n++] = "multifd";
	capabilities[n] = NULL;
}

/* Beside those, of QEMU at either end */
static inline int run_parameters(const struct run *run, struct qemu *qemu, struct wh_err *err)
{
	if (run->wire == run_multifd)
		return qemu_parameter(qemu, "multifd-channels", 2, err);
	if (run->wire == run_zstd)
		return qemu_command(qemu, NULL, err, "migrate-set-parameters",
				    "{\"multifd-channels\":4,\"multifd-compression\":\"zstd\"}");
	if (run->wire == run_tls)
		return qemu_command(qemu, NULL, err, "migrate-set-parameters",
				    "{\"tls-creds\":\"tls0\",\"tls-hostname\":\"localhost\"}");
	return 0;
}

/* Certificates on the one board, a shared key on the other */
static inline const char *run_credentials(const struct run *run)
{
	return run->board == run_i440fx ? "x509" : "psk";
}

/* Of wherry send and relay, at most 8; slow enough for pages to be asked for. Return: the next */
static inline unsigned run_options(const struct run *run, const char *argv[], unsigned n, bool send)
{
	const char *const words[] = {
		run->mode == run_precopy ? "--return-path=on" : "--postcopy",
		send && run->mode != run_precopy ? "--bandwidth=16M" : NULL,
		run->mode != run_preempt ? NULL :
		run->qemu == QEMU_7_2	 ? "--urgent=start" :
					   "--urgent=switch",
		run->wire == run_multifd ? "--multifd=2" : NULL,
		run->wire == run_zstd ? "--multifd=4" : NULL,
		run->wire == run_zstd ? "--multifd-compression=zstd" : NULL,
	};

	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++)
		if (words[i])
			argv[n++] = words[i];
	return n;
}

static inline bool run_is(const struct run *run, unsigned qemu, unsigned mode, unsigned wire)
{
	return run->qemu == qemu && run->mode == mode && run->wire == wire;
}

/* Of mode and wire: by each QEMU */
static inline bool pair_refused(unsigned mode, unsigned wire)
{
	unsigned count = 0;

	for (unsigned qemu = 0; qemu < QEMU_VERSION_COUNT; qemu++)
		for (unsigned i = 0; i < REFUSED_COUNT; i++)
			count += run_is(&refused[i].run, qemu, mode, wire);
	return count == QEMU_VERSION_COUNT;
}

static inline bool value_counts(enum run_factor factor, unsigned value)
{
	return run_words[factor][value] && (factor != run_wire || run_wire_built[value]);
}

static inline bool pair_missing(enum run_factor first, unsigned one, enum run_factor second,
				unsigned other)
{
	if (!value_counts(first, one) || !value_counts(second, other) ||
	    (first == run_mode && second == run_wire && pair_refused(one, other)))
		return false;
	for (unsigned i = 0; i < RUNS_MAX; i++)
		if (runs[i].check && runs[i].value[first] == one && runs[i].value[second] == other)
			return false;
	return true;
}

static inline unsigned missing_of(enum run_factor first, enum run_factor second, FILE *to)
{
	unsigned missing = 0;

	for (unsigned i = 0; i < RUN_VALUES * RUN_VALUES; i++) {
		unsigned one = i / RUN_VALUES, other = i % RUN_VALUES;

		if (!pair_missing(first, one, second, other))
			continue;
		fprintf(to, " %s with %s;", run_words[first][one], run_words[second][other]);
		missing++;
	}
	return missing;
}

static inline bool run_refused(const struct run *run)
{
	for (unsigned i = 0; i < REFUSED_COUNT; i++)
		if (run_is(&refused[i].run, run->qemu, run->mode, run->wire))
			return true;
	return false;
}

static inline bool run_missing(const struct run *run)
{
	if (run_refused(run) || !run_wire_built[run->wire])
		return false;
	for (unsigned i = 0; i < RUNS_MAX; i++)
		if (run_is(&runs[i], run->qemu, run->mode, run->wire) && runs[i].role == run->role)
			return false;
	return true;
}

/* What an end has to do goes by these four */
static inline unsigned missing_fours(FILE *to)
{
	unsigned missing = 0;

	for (unsigned i = 0; i < 3 * 3 * RUN_VALUES * QEMU_VERSION_COUNT; i++) {
		const struct run run = {
			.role = i % 3,
			.mode = i / 3 % 3,
			.wire = i / 9 % RUN_VALUES,
			.qemu = i / 9 / RUN_VALUES,
		};

		if (!run_missing(&run))
			continue;
		fprintf(to, " %s as %s by %s and %s;", run_words[run_qemu][run.qemu],
			run_words[run_role][run.role], run_words[run_mode][run.mode],
			run_words[run_wire][run.wire]);
		missing++;
	}
	return missing;
}

/* What should be in the table and is not. Return: how many, and which */
static inline unsigned runs_missing(char *text, size_t size)
{
	FILE *to = fmemopen(text, size, "w");
	unsigned missing;

	if (!to)
		return 1;
	missing = missing_fours(to);
	for (enum run_factor first = 0; first < RUN_FACTORS; first++)
		for (enum run_factor second = first + 1; second < RUN_FACTORS; second++)
			missing += missing_of(first, second, to);
	fclose(to);
	return missing;
}

/* For the harness: all but those of make check. Return: the next */
static inline unsigned runs_left_out(const char *argv[], unsigned n)
{
	for (unsigned i = 0; i < RUNS_MAX; i++) {
		if (runs[i].check)
			continue;
		argv[n++] = "-V";
		argv[n++] = runs[i].name;
	}
	return n;
}

#endif /* INTEROP_RUNS_H */
