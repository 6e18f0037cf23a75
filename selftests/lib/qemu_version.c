/* SPDX-License-Identifier: MIT */
#include "selftests/lib/qemu.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

/* Tests and figures are run in the top folder */
#define TEN "build/qemu-10/bin/" QEMU_PROGRAM
#define TEN_WHY "build/qemu-10.why"

const char *qemu_version_name(enum qemu_version version)
{
	static const char *const names[QEMU_VERSION_COUNT] = {
		[QEMU_7_2] = "7.2",
		[QEMU_10_0] = "10.0",
	};

	return names[version];
}

const char *qemu_program(enum qemu_version version, char *why, size_t size)
{
	FILE *file;

	if (version == QEMU_7_2)
		return QEMU_PROGRAM;
	if (!access(TEN, X_OK))
		return TEN;
	snprintf(why, size, "QEMU 10.0 was not brought (make qemu-10)");
	file = fopen(TEN_WHY, "re");
	if (!file)
		return NULL;
	if (fgets(why, (int)size, file))
		why[strcspn(why, "\n")] = '\0';
	fclose(file);
	return NULL;
}
