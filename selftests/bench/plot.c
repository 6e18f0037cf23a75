/* SPDX-License-Identifier: MIT */
/*
 * What the benchmarks wrote, as pictures: plot BENCH.JSON FOLDER makes an SVG of each plot
 * and variant that has a curve, and says which aims were missed.
 */
#include <errno.h>
#include <json-c/json.h>
#include <math.h>
#include <stdbool.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define CURVES 512
#define WIDTH 760
#define HEIGHT 420
#define LEFT 70
#define RIGHT 230
#define TOP 40
#define BOTTOM 50

static const struct plot {
	const char *name;
	const char *title;
	const char *x;
	const char *y;
	bool log_x;
} plots[] = {
	{ "latency", "Remote fault", "us", "part of all faults", true },
	{ "rate", "Pages coming in", "ms from the first", "GB/s", false },
	{ "size", "Cost of a page by size of the RAM", "GiB", "ns a page", true },
	{ "faulters", "Remote faults of many threads", "threads", "1000 faults a second", true },
};

static struct json_object *curves[CURVES];
static unsigned count;

static const char *text(struct json_object *object, const char *name)
{
	struct json_object *part;

	return json_object_object_get_ex(object, name, &part) ? json_object_get_string(part) : "";
}

static bool same(struct json_object *a, struct json_object *b)
{
	return !strcmp(text(a, "plot"), text(b, "plot")) &&
	       !strcmp(text(a, "variant"), text(b, "variant"));
}

static double coordinate(struct json_object *curve, size_t i, size_t axis)
{
	struct json_object *points = NULL;

	json_object_object_get_ex(curve, "points", &points);
	return json_object_get_double(
		json_object_array_get_idx(json_object_array_get_idx(points, i), axis));
}

static size_t points_of(struct json_object *curve)
{
	struct json_object *points = NULL;

	return json_object_object_get_ex(curve, "points", &points) ?
		       json_object_array_length(points) :
		       0;
}

/* From here to there on paper */
struct axes {
	const struct plot *plot;
	double low_x;
	double high_x;
	double high_y;
};

static double at_x(const struct axes *axes, double x)
{
	double part = axes->plot->log_x ? log(x / axes->low_x) / log(axes->high_x / axes->low_x) :
					  (x - axes->low_x) / (axes->high_x - axes->low_x);

	return LEFT + part * (WIDTH - LEFT - RIGHT);
}

static double at_y(const struct axes *axes, double y)
{
	return HEIGHT - BOTTOM - y / axes->high_y * (HEIGHT - TOP - BOTTOM);
}

/* Curves that end far outside would press the others into a corner: their tails are cut */
static void range(struct axes *axes, struct json_object *first)
{
	*axes = (struct axes){ .plot = axes->plot, .low_x = INFINITY };
	for (unsigned i = 0; i < count; i++) {
		size_t points = points_of(curves[i]);

		if (!same(curves[i], first))
			continue;
		for (size_t at = 0; at < points; at++) {
			double x = coordinate(curves[i], at, 0), y = coordinate(curves[i], at, 1);

			axes->low_x = fmin(axes->low_x, x);
			axes->high_x = fmax(axes->high_x, x);
			axes->high_y = fmax(axes->high_y, y);
		}
	}
	if (!axes->plot->log_x)
		axes->low_x = 0;
	else if (axes->low_x <= 0)
		axes->low_x = 0.1;
	if (axes->high_x <= axes->low_x)
		axes->high_x = axes->low_x * 2 + 1;
	if (axes->high_y <= 0)
		axes->high_y = 1;
	if (strcmp(axes->plot->name, "latency") != 0)
		axes->high_y *= 1.1;
}

static void tick_x(FILE *file, const struct axes *axes, double x)
{
	fprintf(file,
		"<line x1='%.1f' x2='%.1f' y1='%d' y2='%d' stroke='#ddd'/>"
		"<text x='%.1f' y='%d' text-anchor='middle'>%.4g</text>\n",
		at_x(axes, x), at_x(axes, x), TOP, HEIGHT - BOTTOM, at_x(axes, x),
		HEIGHT - BOTTOM + 18, x);
}

/* A step of 1, 2 or 5 times a power of ten, for about five of them */
static double step_of(double high)
{
	double power = pow(10, floor(log10(high / 5)));
	double part = high / 5 / power;

	return power * (part < 2 ? 1 : part < 5 ? 2 : 5);
}

static void draw_axes(FILE *file, const struct axes *axes)
{
	const struct plot *plot = axes->plot;
	double power, step = step_of(axes->high_y);

	for (double y = 0; y <= axes->high_y * 1.0001; y += step)
		fprintf(file,
			"<line x1='%d' x2='%d' y1='%.1f' y2='%.1f' stroke='#ddd'/>"
			"<text x='%d' y='%.1f' text-anchor='end'>%.4g</text>\n",
			LEFT, WIDTH - RIGHT, at_y(axes, y), at_y(axes, y), LEFT - 8,
			at_y(axes, y) + 4, y);
	if (plot->log_x) {
		double base = axes->high_x / axes->low_x > 100 ? 10 : 2;

		power = pow(base, ceil(log(axes->low_x) / log(base) - 1e-9));
		for (double x = power; x <= axes->high_x * 1.0001; x *= base)
			tick_x(file, axes, x);
	} else {
		step = step_of(axes->high_x);
		for (double x = 0; x <= axes->high_x; x += step)
			tick_x(file, axes, x);
	}
	fprintf(file,
		"<text x='%d' y='%d' text-anchor='middle'>%s</text>"
		"<text transform='translate(18,%d) rotate(-90)' text-anchor='middle'>%s</text>\n",
		(LEFT + WIDTH - RIGHT) / 2, HEIGHT - 12, plot->x, (TOP + HEIGHT - BOTTOM) / 2,
		plot->y);
}

static void draw_curve(FILE *file, const struct axes *axes, struct json_object *curve,
		       unsigned number)
{
	static const char *const colours[] = { "#666666", "#c0392b", "#2471a3", "#1e8449",
					       "#d68910", "#7d3c98", "#17a589", "#5d4037" };
	const char *colour = colours[number % (sizeof(colours) / sizeof(colours[0]))];
	size_t points = points_of(curve);

	fprintf(file, "<polyline fill='none' stroke='%s' stroke-width='1.5' points='", colour);
	for (size_t i = 0; i < points; i++)
		fprintf(file, "%.1f,%.1f ", at_x(axes, coordinate(curve, i, 0)),
			at_y(axes, coordinate(curve, i, 1)));
	fprintf(file, "'/>\n");
	fprintf(file,
		"<line x1='%d' x2='%d' y1='%u' y2='%u' stroke='%s' stroke-width='3'/>"
		"<text x='%d' y='%u'>%s</text>\n",
		WIDTH - RIGHT + 14, WIDTH - RIGHT + 34, TOP + 8 + number * 20,
		TOP + 8 + number * 20, colour, WIDTH - RIGHT + 40, TOP + 12 + number * 20,
		text(curve, "side"));
}

/* "TCP, idle" -> "latency-tcp-idle.svg" */
static void file_name(char *path, size_t size, const char *folder, struct json_object *curve)
{
	size_t from = (size_t)snprintf(path, size, "%s/", folder);
	char *to = path + from;

	snprintf(to, size - from, "%s-%s.svg", text(curve, "plot"), text(curve, "variant"));
	for (char *at = to; *at; at++) {
		bool plain = (*at >= 'a' && *at <= 'z') || (*at >= '0' && *at <= '9') || *at == '.';

		if (*at >= 'A' && *at <= 'Z')
			*at = (char)(*at - 'A' + 'a');
		else if (!plain)
			*at = '-';
	}
	/* One dash for several */
	for (char *at = to; *at;) {
		if (at[0] == '-' && at[1] == '-')
			memmove(at, at + 1, strlen(at));
		else
			at++;
	}
}

static int draw(const char *folder, const struct plot *plot, struct json_object *first)
{
	struct axes axes = { .plot = plot };
	unsigned number = 0;
	char path[512];
	FILE *file;

	file_name(path, sizeof(path), folder, first);
	file = fopen(path, "we");
	if (!file) {
		fprintf(stderr, "plot: %s: %s\n", path, strerrordesc_np(errno));
		return -1;
	}
	range(&axes, first);
	fprintf(file,
		"<svg xmlns='http://www.w3.org/2000/svg' width='%d' height='%d' "
		"font-family='sans-serif' font-size='12'>\n"
		"<rect width='100%%' height='100%%' fill='white'/>\n"
		"<text x='%d' y='24' font-size='15'>%s, %s</text>\n",
		WIDTH, HEIGHT, LEFT, plot->title, text(first, "variant"));
	draw_axes(file, &axes);
	for (unsigned i = 0; i < count; i++)
		if (same(curves[i], first))
			draw_curve(file, &axes, curves[i], number++);
	fprintf(file, "</svg>\n");
	if (fclose(file) != 0)
		return -1;
	printf("  %s\n", path);
	return 0;
}

static int draw_all(const char *folder)
{
	int ret = 0;

	for (unsigned i = 0; i < count; i++) {
		bool drawn = false;

		for (unsigned j = 0; j < i; j++)
			drawn |= same(curves[i], curves[j]);
		for (size_t p = 0; !drawn && p < sizeof(plots) / sizeof(plots[0]); p++)
			if (!strcmp(plots[p].name, text(curves[i], "plot")))
				ret |= draw(folder, &plots[p], curves[i]);
	}
	return ret;
}

static void judge(struct json_object *aim, unsigned judged[2])
{
	bool met = !strcmp(text(aim, "met"), "true");
	const char *floors = text(aim, "floors");

	judged[met]++;
	if (!met)
		printf("  missed: %s, %s: %s is %s, not at %s %s %s%s%s%s\n", text(aim, "measure"),
		       text(aim, "variant"), text(aim, "side"), text(aim, "value"), text(aim, "at"),
		       text(aim, "factor"),
		       text(aim, "of")[0] ? text(aim, "of") : text(aim, "unit"),
		       floors[0] ? " (the floor: " : "", floors, floors[0] ? ")" : "");
}

int main(int argc, char **argv)
{
	unsigned judged[2] = { 0 };
	char *line = NULL;
	size_t size = 0;
	FILE *file;

	if (argc != 3) {
		fprintf(stderr, "usage: %s BENCH.JSON FOLDER\n", argv[0]);
		return 2;
	}
	file = fopen(argv[1], "re");
	if (!file) {
		fprintf(stderr, "plot: %s: %s\n", argv[1], strerrordesc_np(errno));
		return 1;
	}
	mkdir(argv[2], 0777);
	printf("\nAims\n");
	while (getline(&line, &size, file) > 0) {
		struct json_object *object = json_tokener_parse(line);

		if (object && !strcmp(text(object, "kind"), "curve") && count < CURVES)
			curves[count++] = json_object_get(object);
		else if (object && !strcmp(text(object, "kind"), "aim"))
			judge(object, judged);
		json_object_put(object);
	}
	printf("  %u met, %u missed\n\nPlots\n", judged[1], judged[0]);
	free(line);
	fclose(file);
	return draw_all(argv[2]) < 0;
}
