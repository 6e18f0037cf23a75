/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest of three blocks that is put into a file, and what is loaded of it again.
 */
#ifndef SELFTESTS_POSTCOPY_FILE_WORLD_H
#define SELFTESTS_POSTCOPY_FILE_WORLD_H

#include "base/bytes.h"
#include "postcopy/file.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "kselftest_harness.h"

#define PAGE 4096u
#define MIB ((uint64_t)1 << 20)
#define BLOCKS 3u
/* Of a mapped-ram file of machine "pc": offsets of what the list says of the first block */
#define LIST 0x4fu
#define FIRST (LIST + 8 + 1 + 3)
#define HEADER (FIRST + 8)

static const char *const names[BLOCKS] = { "ram", "/rom@etc/acpi/tables", "vga.vram" };
static const uint64_t lengths[BLOCKS] = { 3 * MIB, 5 * PAGE, 65 * PAGE };

FIXTURE(file)
{
	char folder[64];
	char path[96];
	char uri[128];
	uint8_t *memory[BLOCKS];
	uint8_t *loaded[BLOCKS];
	struct wh_block block[BLOCKS];
	struct wh_file_save save;
	struct wh_file_load load;
	unsigned made;
	bool map;
	unsigned stops; /* so many looks from now it says yes, 0: never */
	struct wh_err err;
};

FIXTURE_SETUP(file)
{
	memset(self, 0, sizeof(*self));
	snprintf(self->folder, sizeof(self->folder), "/dev/shm/wherry-file-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->folder));
	snprintf(self->path, sizeof(self->path), "%s/vm", self->folder);
	snprintf(self->uri, sizeof(self->uri), "file:%s", self->path);
	for (unsigned i = 0; i < BLOCKS; i++) {
		self->memory[i] = mmap(NULL, lengths[i], PROT_READ | PROT_WRITE,
				       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
		/* most pages are zero, the first and the last are not */
		for (uint64_t at = 0; at < lengths[i]; at += PAGE)
			if (at % (7 * PAGE) == 0 || at + PAGE == lengths[i])
				put_be64(self->memory[i] + at + 8 * i, at + i + 1);
		self->block[i] = (struct wh_block){
			.name = names[i],
			.addr = self->memory[i],
			.length = lengths[i],
		};
	}
	self->save = (struct wh_file_save){
		.opaque = self,
		.block = self->block,
		.blocks = BLOCKS,
		.machine = "pc",
		.device = "state",
		.device_length = 5,
		.device_format = WH_DEVICE_OWN,
	};
}

FIXTURE_TEARDOWN(file)
{
	char command[128];

	for (unsigned i = 0; i < BLOCKS; i++) {
		munmap(self->memory[i], lengths[i]);
		if (self->loaded[i])
			munmap(self->loaded[i], lengths[i]);
	}
	free(self->load.device);
	snprintf(command, sizeof(command), "rm -rf %s", self->folder);
	ASSERT_EQ(0, system(command));
}

static int on_block(void *opaque, const char *name, uint64_t length, uint64_t page_size,
		    struct wh_block *block, struct wh_err *err)
{
	FIXTURE_DATA(file) *self = opaque;
	unsigned i = self->made++;

	if (i == BLOCKS || strcmp(name, names[i]) || length != lengths[i] || page_size != PAGE) {
		err->code = -EINVAL;
		snprintf(err->text, sizeof(err->text), "block %u is %s of %llu", i, name,
			 (unsigned long long)length);
		return -EINVAL;
	}
	/* nothing behind its end may be written to */
	self->loaded[i] = mmap(NULL, length + PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	mprotect(self->loaded[i] + length, PAGE, PROT_NONE);
	*block = (struct wh_block){ .addr = self->loaded[i], .length = length, .fd = -1 };
	return 0;
}

static bool on_stop(void *opaque)
{
	FIXTURE_DATA(file) *self = opaque;

	return self->stops && !--self->stops;
}

static int load(FIXTURE_DATA(file) *self)
{
	for (unsigned i = 0; i < BLOCKS; i++) {
		if (self->loaded[i])
			munmap(self->loaded[i], lengths[i] + PAGE);
		self->loaded[i] = NULL;
	}
	free(self->load.device);
	memset(&self->err, 0, sizeof(self->err));
	self->made = 0;
	self->load = (struct wh_file_load){
		.opaque = self,
		.block = on_block,
		.stop = on_stop,
		.map = self->map,
	};
	return wh_file_load(self->uri, &self->load, &self->err);
}

static bool same(const FIXTURE_DATA(file) *self)
{
	for (unsigned i = 0; i < BLOCKS; i++)
		if (!self->loaded[i] || memcmp(self->loaded[i], self->memory[i], lengths[i]) != 0)
			return false;
	return self->load.device_length == 5 && !memcmp(self->load.device, "state", 5) &&
	       self->load.device_format == WH_DEVICE_OWN && !strcmp(self->load.machine, "pc");
}

#define SAVED()                                                        \
	ASSERT_EQ(0, wh_file_save(self->uri, &self->save, &self->err)) \
	{                                                              \
		TH_LOG("%s", self->err.text);                          \
	}
#define LOADED()                                      \
	do {                                          \
		ASSERT_EQ(0, load(self))              \
		{                                     \
			TH_LOG("%s", self->err.text); \
		}                                     \
		ASSERT_TRUE(same(self));              \
	} while (0)
#define REFUSED(number, sentence)                                   \
	do {                                                        \
		ASSERT_EQ(number, load(self))                       \
		{                                                   \
			TH_LOG("%s: %s", sentence, self->err.text); \
		}                                                   \
		ASSERT_EQ(number, self->err.code);                  \
		ASSERT_NE(NULL, strstr(self->err.text, sentence))   \
		{                                                   \
			TH_LOG("%s: %s", sentence, self->err.text); \
		}                                                   \
	} while (0)

#endif
