/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_WIRE_VECTOR_H
#define SELFTESTS_WIRE_VECTOR_H

#include <ctype.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/*
 * Golden vectors, selftests/vectors/NAME.hex:
 *
 *	= name		a vector begins
 *	00 1f		bytes
 *	00*4096		one byte so many times
 *	"pc.ram"	the characters, without a terminator
 *	> text		a line that wherry dump prints of it, see selftests/postcopy/dump.c
 *	! text		its last words, if it is refused
 *	# comment	to the end of the line
 *
 * selftests/vectors/make-seeds knows the format too.
 */
#define VECTORS_MAX 64u
#define VECTOR_BYTES 65536u

struct vector {
	char name[64];
	size_t length;
	uint8_t bytes[VECTOR_BYTES];
	char expect[8192];
};

static inline void vector_broken(const char *path, unsigned line, const char *what)
{
	printf("Bail out! %s:%u: %s\n", path, line, what);
	exit(1);
}

/* A token at *at: its bytes are appended. Return: false if there is none */
static inline int vector_token(struct vector *v, const char **at)
{
	unsigned long byte, times = 1;
	char *end;

	if (**at == '"') {
		for ((*at)++; **at && **at != '"'; (*at)++)
			v->bytes[v->length++] = (uint8_t) * *at;
		return *(*at)++ == '"';
	}
	byte = strtoul(*at, &end, 16);
	if (end != *at + 2)
		return 0;
	if (*end == '*')
		times = strtoul(end + 1, &end, 10);
	*at = end;
	if (v->length + times > VECTOR_BYTES - 256)
		return 0;
	memset(v->bytes + v->length, (int)byte, times);
	v->length += times;
	return 1;
}

/* Return: the vectors of a file, for free(), and how many; a mistake in it ends the test */
static inline struct vector *vectors_load(const char *name, unsigned *count)
{
	struct vector *all = calloc(VECTORS_MAX, sizeof(*all)), *v = NULL;
	char path[128], text[512];
	unsigned line = 0;
	const char *at;
	FILE *file;

	snprintf(path, sizeof(path), "selftests/vectors/%s.hex", name);
	file = fopen(path, "r");
	if (!file || !all)
		vector_broken(path, 0, "cannot be read");
	*count = 0;
	while (fgets(text, sizeof(text), file)) {
		line++;
		if (!strncmp(text, "= ", 2)) {
			if (*count == VECTORS_MAX)
				vector_broken(path, line, "too many vectors");
			v = &all[(*count)++];
			sscanf(text, "= %63s", v->name);
			continue;
		}
		if ((!strncmp(text, "> ", 2) || !strncmp(text, "! ", 2)) && v) {
			strncat(v->expect, text + (*text == '>' ? 2 : 0),
				sizeof(v->expect) - strlen(v->expect) - 1);
			continue;
		}
		for (at = text;;) {
			while (isspace((unsigned char)*at))
				at++;
			if (!*at || *at == '#')
				break;
			if (!v || !vector_token(v, &at))
				vector_broken(path, line, "no byte");
		}
	}
	fclose(file);
	return all;
}

#endif /* SELFTESTS_WIRE_VECTOR_H */
