/* SPDX-License-Identifier: MIT */
#include "selftests/lib/bench.h"

#include <errno.h>
#include <getopt.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static void usage(const char *program)
{
	fprintf(stderr,
		"usage: %s [--quick] [--json FILE] [--only SIDE]... [--link unix|tcp]\n"
		"  [--load idle|bulk] [--cores any|one] [--memory anon|small|memfd|hugetlb]\n"
		"  [--phase precopy|postcopy] [--size MiB] [--rounds N] [--seconds N]\n"
		"usage: %s [--quick] --plan\n",
		program, program);
	exit(2);
}

void bench_begin(struct bench *bench, const char *program, int argc, char **argv)
{
	static const struct option options[] = {
		{ "quick", no_argument, NULL, 'q' },
		{ "json", required_argument, NULL, 'j' },
		{ "only", required_argument, NULL, 'o' },
		{ "link", required_argument, NULL, 'l' },
		{ "load", required_argument, NULL, 'd' },
		{ "cores", required_argument, NULL, 'c' },
		{ "memory", required_argument, NULL, 'm' },
		{ "phase", required_argument, NULL, 'p' },
		{ "size", required_argument, NULL, 's' },
		{ "rounds", required_argument, NULL, 'r' },
		{ "seconds", required_argument, NULL, 't' },
		{ "plan", no_argument, NULL, 'n' },
		{ 0 },
	};
	bool plan = false;
	int option;

	*bench = (struct bench){ .program = program };
	while ((option = getopt_long(argc, argv, "", options, NULL)) >= 0) {
		if (option == 'q')
			bench->quick = true;
		else if (option == 'j')
			bench->json = optarg;
		else if (option == 'o' && bench->onlys < BENCH_ROWS)
			bench->only[bench->onlys++] = optarg;
		else if (option == 'l')
			bench->link = optarg;
		else if (option == 'd')
			bench->load = optarg;
		else if (option == 'c')
			bench->cores = optarg;
		else if (option == 'm')
			bench->memory = optarg;
		else if (option == 'p')
			bench->phase = optarg;
		else if (option == 's')
			bench->bytes = strtoull(optarg, NULL, 10) << 20;
		else if (option == 'r')
			bench->rounds = (unsigned)strtoul(optarg, NULL, 10);
		else if (option == 't')
			bench->seconds = (unsigned)strtoul(optarg, NULL, 10);
		else if (option == 'n')
			plan = true;
		else
			usage(argv[0]);
	}
	/* Touchers shuffle a power of two of pages */
	if (optind < argc || bench->rounds > BENCH_SAMPLES || bench->bytes & (bench->bytes - 1))
		usage(argv[0]);
	if (plan) {
		bench_plan_print(bench->quick);
		exit(0);
	}
	setvbuf(stdout, NULL, _IOLBF, 0);
	bench_machine(bench);
	bench_plan_begin(bench);
}

bool bench_chosen(const char *option, const char *value)
{
	return !option || !strcmp(option, value);
}

bool bench_wants(const struct bench *bench, const char *side)
{
	for (unsigned i = 0; i < bench->onlys; i++)
		if (!strcmp(bench->only[i], side))
			return true;
	return !bench->onlys;
}

void bench_add(struct bench_row *row, double value)
{
	if (row->count < BENCH_SAMPLES)
		row->sample[row->count++] = value;
}

static int ascending(const void *a, const void *b)
{
	double x = *(const double *)a, y = *(const double *)b;

	return (x > y) - (x < y);
}

double bench_quantile(double *values, size_t count, double quantile)
{
	size_t at = (size_t)((double)count * quantile);

	if (!count)
		return 0;
	qsort(values, count, sizeof(*values), ascending);
	return values[at < count ? at : count - 1];
}

static double row_quantile(const struct bench_row *row, double quantile)
{
	double sorted[BENCH_SAMPLES];

	memcpy(sorted, row->sample, row->count * sizeof(*sorted));
	return bench_quantile(sorted, row->count, quantile);
}

double bench_median(const struct bench_row *row)
{
	double low = row_quantile(row, 0.5 - 0.5 / BENCH_SAMPLES);

	return row->count % 2 ? row_quantile(row, 0.5) : (low + row_quantile(row, 0.5)) / 2;
}

double bench_ratio(const struct bench_row *row, const struct bench_row *of)
{
	struct bench_row ratios = { .count = 0 };

	if (row->count != of->count)
		return bench_median(of) > 0 ? bench_median(row) / bench_median(of) : 0;
	for (unsigned i = 0; i < row->count; i++)
		if (of->sample[i] > 0)
			bench_add(&ratios, row->sample[i] / of->sample[i]);
	return ratios.count ? bench_median(&ratios) : 0;
}

static FILE *json_open(const struct bench *bench)
{
	FILE *file = fopen(bench->json, "ae");

	if (file)
		return file;
	fprintf(stderr, "%s: %s\n", bench->json, strerrordesc_np(errno));
	exit(1);
}

/* With what it stands between; sentences of others may have anything in them */
static void json_string(FILE *file, const char *name, const char *text)
{
	fprintf(file, ",\"%s\":\"", name);
	for (; *text; text++) {
		if (*text == '"' || *text == '\\')
			fputc('\\', file);
		fputc((unsigned char)*text < ' ' ? ' ' : *text, file);
	}
	fputc('"', file);
}

static void json_head(FILE *file, const struct bench *bench, const char *kind,
		      enum bench_measure measure, const char *variant)
{
	fprintf(file,
		"{\"kind\":\"%s\",\"program\":\"%s\",\"measure\":\"%s\",\"variant\":\"%s\","
		"\"unit\":\"%s\"",
		kind, bench->program, bench_traits[measure].name, variant,
		bench_traits[measure].unit);
}

void bench_record(const struct bench *bench, enum bench_measure measure, const char *variant,
		  const struct bench_row *row, double ratio)
{
	FILE *file;

	if (!bench->json)
		return;
	file = json_open(bench);
	json_head(file, bench, "row", measure, variant);
	fprintf(file, ",\"side\":\"%s\",\"samples\":%u", row->side, row->count);
	if (!row->count)
		json_string(file, "why", row->why);
	else
		fprintf(file,
			",\"median\":%.6g,\"low\":%.6g,\"quarter\":%.6g,\"three_quarters\":%.6g,"
			"\"high\":%.6g,\"of_floor\":%.4g",
			bench_median(row), row_quantile(row, 0), row_quantile(row, 0.25),
			row_quantile(row, 0.75), row_quantile(row, 1), ratio);
	fprintf(file, "}\n");
	fclose(file);
}

static const struct bench_row *row_named(const struct bench_row *rows, unsigned count,
					 const char *side)
{
	for (unsigned i = 0; i < count; i++)
		if (!strcmp(rows[i].side, side) && rows[i].count)
			return &rows[i];
	return NULL;
}

/* What an aim is about, of these rows. False: one of them was not measured */
static bool aim_value(const struct bench_row *rows, unsigned count, const char *side,
		      const char *of, double *value)
{
	const struct bench_row *row = row_named(rows, count, side);
	const struct bench_row *other = of ? row_named(rows, count, of) : NULL;

	if (!row || (of && (!other || bench_median(other) <= 0)))
		return false;
	*value = other ? bench_ratio(row, other) : bench_median(row);
	return true;
}

/*
 * What bare calls make of the same aim: where they miss it by as much, it is not the library that
 * does. Not of an aim whose measure they are
 */
static bool aim_of_floor(const struct bench_aim *aim, const struct bench_row *rows, unsigned count,
			 double *value)
{
	static const char ours[] = "wherry", floors[] = "floor";
	const char *of = aim->of;
	char name[64];

	if (strcmp(aim->side, ours) != 0 || (of && !strncmp(of, floors, strlen(floors))))
		return false;
	if (of && !strncmp(of, ours, strlen(ours))) {
		snprintf(name, sizeof(name), "%s%s", floors, of + strlen(ours));
		of = name;
	}
	return aim_value(rows, count, floors, of, value);
}

/* An aim that cannot be judged is not missed, and not met either */
static void print_aim(const struct bench *bench, const struct bench_aim *aim, const char *variant,
		      const struct bench_row *rows, unsigned count)
{
	const char *of = aim->of ? aim->of : bench_traits[aim->measure].unit;
	const char *at = aim->at_least ? "least" : "most";
	double value, floors;
	FILE *file;
	bool met;

	if (!aim_value(rows, count, aim->side, aim->of, &value)) {
		if (!bench->onlys)
			printf("  aim: %s at %s %.4g %s%s: not judged, %s was not measured\n",
			       aim->side, at, aim->factor, aim->of ? "of " : "", of,
			       row_named(rows, count, aim->side) ? of : aim->side);
		return;
	}
	met = aim->at_least ? value >= aim->factor : value <= aim->factor;
	printf("  aim: %s at %s %.4g %s%s: %.3g, %s", aim->side, at, aim->factor,
	       aim->of ? "of " : "", of, value, met ? "ok" : "MISSED");
	if (!aim_of_floor(aim, rows, count, &floors))
		floors = -1;
	else if (!met)
		printf(" (the floor: %.3g)", floors);
	printf("\n");
	if (!bench->json)
		return;
	file = json_open(bench);
	json_head(file, bench, "aim", aim->measure, variant);
	fprintf(file, ",\"side\":\"%s\",\"at\":\"%s\",\"factor\":%.4g,\"of\":\"%s\",\"value\":%.4g",
		aim->side, at, aim->factor, aim->of ? aim->of : "", value);
	if (floors >= 0)
		fprintf(file, ",\"floors\":%.4g", floors);
	fprintf(file, ",\"met\":%s}\n", met ? "true" : "false");
	fclose(file);
}

void bench_print(const struct bench *bench, enum bench_measure measure, const char *variant,
		 const struct bench_row *rows, unsigned count)
{
	const char *unit = bench_traits[measure].unit;

	printf("\n%s%s%s\n", bench_traits[measure].title, variant[0] ? ", " : "", variant);
	printf("  %-28s %10s %-9s %23s %10s %3s\n", "", "median", "", "low .. high", "of floor",
	       "n");
	for (unsigned i = 0; i < count; i++) {
		const struct bench_row *row = &rows[i];
		double median, ratio = 0;

		if (!bench_wants(bench, row->side) && !row->count)
			continue;
		if (!row->count) {
			printf("  %-28s not measured: %s\n", row->side,
			       row->why[0] ? row->why : "see above");
		} else {
			median = bench_median(row);
			ratio = rows[0].count ? bench_ratio(row, &rows[0]) : 0;
			printf("  %-28s %10.4g %-9s %10.4g .. %-9.4g %9.2fx %3u\n", row->side,
			       median, unit, row_quantile(row, 0), row_quantile(row, 1), ratio,
			       row->count);
		}
		bench_record(bench, measure, variant, row, ratio);
	}
	bench_say_rounds();
	for (const struct bench_aim *aim = bench_aims; aim->side; aim++)
		if (aim->measure == measure && (!aim->variant || strstr(variant, aim->variant)))
			print_aim(bench, aim, variant, rows, count);
}

void bench_curve(const struct bench *bench, const char *plot, const char *variant, const char *side,
		 const double (*points)[2], size_t count)
{
	FILE *file;

	if (!bench->json || !count)
		return;
	file = json_open(bench);
	fprintf(file,
		"{\"kind\":\"curve\",\"program\":\"%s\",\"plot\":\"%s\",\"variant\":\"%s\","
		"\"side\":\"%s\",\"points\":[",
		bench->program, plot, variant, side);
	for (size_t i = 0; i < count; i++)
		fprintf(file, "%s[%.6g,%.6g]", i ? "," : "", points[i][0], points[i][1]);
	fprintf(file, "]}\n");
	fclose(file);
}
