/* SPDX-License-Identifier: MIT */
/*
 * What is going on, for programs: JSON, an object a line. And the time.
 *
 * The library's callbacks speak on its threads, and those must not stand still because
 * nobody reads what stdout leads to. So a line waits for nobody: without room for it, it
 * is lost, and each later line says how many were.
 */
#include "console.h"

#include <inttypes.h>
#include <poll.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <time.h>
#include <unistd.h>

#define LINE_BYTES 4096 /* a pipe that is writable takes so much without waiting */

void say(const char *kind, const char *format, ...)
{
	static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
	struct pollfd out = { .fd = STDOUT_FILENO, .events = POLLOUT };
	static uint64_t begin_ms, lost;
	char line[LINE_BYTES];
	va_list args;
	bool fits;
	int n;

	pthread_mutex_lock(&lock);
	begin_ms = begin_ms ? begin_ms : now_ms();
	n = snprintf(line, sizeof(line), "{\"kind\":\"%s\",\"t_ms\":%" PRIu64 ",\"lost\":%" PRIu64,
		     kind, now_ms() - begin_ms, lost);
	va_start(args, format);
	n += vsnprintf(line + n, sizeof(line) - (size_t)n, format, args);
	va_end(args);
	fits = n + 3 <= LINE_BYTES;
	if (fits)
		n += snprintf(line + n, 3, "}\n");
	if (!fits || poll(&out, 1, 0) != 1 || write(STDOUT_FILENO, line, (size_t)n) != n)
		lost++;
	pthread_mutex_unlock(&lock);
}

struct member member(const char *name, const char *text)
{
	struct member m = { "" };
	int n = *text ? snprintf(m.text, sizeof(m.text), ",\"%s\":\"", name) : 0;

	for (; *text && n < (int)sizeof(m.text) - 8; text++) {
		bool plain = *text >= ' ' && *text <= '~' && *text != '"' && *text != '\\';

		n += snprintf(m.text + n, 7, plain ? "%c" : "\\u%04x", (unsigned char)*text);
	}
	if (n)
		snprintf(m.text + n, 2, "\"");
	return m;
}

uint64_t now_ms(void)
{
	struct timespec t;

	clock_gettime(CLOCK_MONOTONIC, &t);
	return (uint64_t)t.tv_sec * 1000 + (uint64_t)t.tv_nsec / 1000000;
}
