/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What goes between two real QEMUs, recorded: all of it has to make sense to us, in both
 * directions. With WHERRY_VECTORS=DIR it is kept there (see selftests/vectors/README).
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/guest.h"
#include "selftests/lib/memory.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/tee.h"

#define WAIT_MS 60000
#define TEST_SECONDS 150
#define GUEST_FIRST 0x200000u

FIXTURE(capture)
{
	char dir[64];
	char rom[96];
	char serial[96];
	char serial_argument[104];
	char contents[96]; /* of made-up RAM */
	char loader[160];
	char dest_path[96]; /* of the destination's socket, and its URI */
	char dest_uri[104];
	char tee_path[96];
	char tee_uri[104];
	struct qemu source;
	struct qemu dest;
	struct tee *tee;
	struct huge_pages huge_pages;
};

/**
 * struct _fixture_variant_capture - One recording
 * @name:		Of its files
 * @pages:		The guest's; 0: none runs, pages 16 to 23 are filled with 1 to 8
 * @capabilities:	Of both ends
 * @rounds:		When so many have begun, postcopy is switched to, or else the
 *			downtime limit is lifted; 0: neither
 * @xbzrle_cache:	Bytes, for half of the guest's pages: the others make a round long
 *			enough for the guest to write something in it
 */
FIXTURE_VARIANT(capture)
{
	const char *name;
	const char *machine;
	const char *ram;
	uint32_t pages;
	const char *capabilities[4];
	bool huge;
	bool postcopy;
	bool urgent;
	unsigned rounds;
	unsigned xbzrle_cache;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(capture, none_precopy)
{
	.name = "none-precopy",
	.machine = "none",
	.ram = "4",
};

FIXTURE_VARIANT_ADD(capture, return_path)
{
	.name = "q35-return-path",
	.machine = "pc-q35-7.2",
	.ram = "4",
	.pages = 8,
	.capabilities = { "return-path" },
};

FIXTURE_VARIANT_ADD(capture, postcopy)
{
	.name = "isapc-postcopy",
	.machine = "isapc",
	.ram = "4",
	.pages = 12,
	.capabilities = { "postcopy-ram" },
	.postcopy = true,
	.rounds = 2,
};

FIXTURE_VARIANT_ADD(capture, preempt)
{
	.name = "isapc-preempt",
	.machine = "isapc",
	.ram = "4",
	.pages = 12,
	.capabilities = { "postcopy-ram", "postcopy-preempt" },
	.postcopy = true,
	.urgent = true,
	.rounds = 2,
};

FIXTURE_VARIANT_ADD(capture, xbzrle)
{
	.name = "isapc-xbzrle",
	.machine = "isapc",
	.ram = "4",
	.pages = 8,
	.capabilities = { "return-path", "xbzrle" },
	.rounds = 4,
	.xbzrle_cache = 16384,
};

FIXTURE_VARIANT_ADD(capture, hugetlb)
{
	.name = "isapc-hugetlb",
	.machine = "isapc,memory-backend=huge",
	.ram = "6",
	.pages = 4,
	.capabilities = { "postcopy-ram" },
	.huge = true,
	.postcopy = true,
	.rounds = 2,
};
/* clang-format on */

FIXTURE_SETUP(capture)
{
	struct wh_err err = { 0 };

	strcpy(self->dir, "/tmp/wherry-capture-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->rom, sizeof(self->rom), "%s/rom", self->dir);
	snprintf(self->serial, sizeof(self->serial), "%s/serial", self->dir);
	snprintf(self->serial_argument, sizeof(self->serial_argument), "file:%s", self->serial);
	snprintf(self->contents, sizeof(self->contents), "%s/contents", self->dir);
	snprintf(self->loader, sizeof(self->loader),
		 "loader,file=%s/contents,addr=0x10000,force-raw=on", self->dir);
	snprintf(self->dest_path, sizeof(self->dest_path), "%s/dest", self->dir);
	snprintf(self->dest_uri, sizeof(self->dest_uri), "unix:%s/dest", self->dir);
	snprintf(self->tee_path, sizeof(self->tee_path), "%s/tee", self->dir);
	snprintf(self->tee_uri, sizeof(self->tee_uri), "unix:%s/tee", self->dir);
	if (variant->huge)
		DO(huge_pages_take(&self->huge_pages, 8, &err));
}

static int drop_file(const char *file, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(file);
}

FIXTURE_TEARDOWN(capture)
{
	const struct tee_record *records;

	qemu_end(&self->source);
	qemu_end(&self->dest);
	if (self->tee) {
		tee_stop(self->tee, &records);
		tee_free(self->tee);
	}
	if (variant->huge)
		huge_pages_drop(&self->huge_pages);
	nftw(self->dir, drop_file, 16, FTW_DEPTH | FTW_PHYS);
}

static int write_contents(const char *file, struct wh_err *err)
{
	FILE *to = fopen(file, "w");

	if (!to)
		return err_sys(err, errno, "%s", file);
	for (int page = 1; page <= 8; page++)
		for (unsigned i = 0; i < 4096; i++)
			fputc(page, to);
	return fclose(to) ? err_sys(err, errno, "%s", file) : 0;
}

static int start_one(FIXTURE_DATA(capture) *self, const FIXTURE_VARIANT(capture) * variant,
		     struct qemu *qemu, bool incoming, struct wh_err *err)
{
	const char *argv[24] = { "-M", variant->machine, "-m", variant->ram };
	unsigned n = 4;
	int ret;

	if (variant->pages) {
		argv[n++] = "-accel";
		argv[n++] = "tcg,thread=single";
		argv[n++] = "-bios";
		argv[n++] = self->rom;
		argv[n++] = "-serial";
		argv[n++] = incoming ? "null" : self->serial_argument;
	} else if (!incoming) {
		argv[n++] = "-device";
		argv[n++] = self->loader;
	}
	if (variant->huge) {
		argv[n++] = "-object";
		argv[n++] = "memory-backend-memfd,id=huge,size=6M,hugetlb=on,hugetlbsize=2M";
	}
	if (incoming) {
		argv[n++] = "-incoming";
		argv[n++] = "defer";
	}
	ret = qemu_start(qemu, argv, err);
	return ret ? ret : qemu_capabilities(qemu, variant->capabilities, err);
}

static int start(FIXTURE_DATA(capture) *self, const FIXTURE_VARIANT(capture) * variant,
		 struct wh_err *err)
{
	struct guest_range range = {
		.first = GUEST_FIRST,
		.end = GUEST_FIRST + variant->pages * 4096,
		.pause = 2000,
	};
	int ret = variant->pages ? guest_write_rom(self->rom, &range, err) :
				   write_contents(self->contents, err);

	if (!ret)
		ret = start_one(self, variant, &self->source, false, err);
	if (!ret)
		ret = start_one(self, variant, &self->dest, true, err);
	if (!ret)
		ret = qemu_migrate_incoming(&self->dest, self->dest_uri, err);
	if (!ret)
		ret = tee_start(&self->tee, self->tee_path, self->dest_path, err);
	if (!ret && variant->pages)
		ret = guest_wait(self->serial, WAIT_MS, err);
	return ret;
}

/* Slow enough for a page of four kilobytes to be more than a millisecond's worth */
static int migrate(FIXTURE_DATA(capture) *self, const FIXTURE_VARIANT(capture) * variant,
		   struct wh_err *err)
{
	struct qemu *source = &self->source;
	int ret = 0;

	if (variant->rounds) {
		ret = qemu_parameter(source, "max-bandwidth", 150000, err);
		if (!ret)
			ret = qemu_parameter(source, "downtime-limit", 1, err);
		if (!ret)
			ret = qemu_parameter(source, "max-postcopy-bandwidth", 100000, err);
	}
	if (!ret && variant->xbzrle_cache)
		ret = qemu_parameter(source, "xbzrle-cache-size", variant->xbzrle_cache, err);
	if (!ret)
		ret = qemu_migrate(source, self->tee_uri, err);
	if (!ret && variant->rounds)
		ret = qemu_wait_figure(source, "ram/dirty-sync-count", variant->rounds, WAIT_MS,
				       err);
	if (!ret && variant->postcopy)
		ret = qemu_command(source, NULL, err, "migrate-start-postcopy", NULL);
	else if (!ret && variant->rounds)
		ret = qemu_parameter(source, "downtime-limit", 2000, err);
	if (!ret)
		ret = qemu_wait_status(source, "completed", WAIT_MS, err);
	return ret ? ret : qemu_wait_status(&self->dest, "completed", WAIT_MS, err);
}

static void count_line(void *opaque, const struct wh_dump_message *message)
{
	(void)message;
	++*(unsigned *)opaque;
}

/* Understood from the first byte to the last, however it comes in pieces */
static int understand(enum wh_dump_kind kind, const uint8_t *bytes, size_t length, size_t piece,
		      struct wh_err *err)
{
	unsigned lines = 0;
	struct wh_dump *dump;
	int ret;

	ret = wh_dump_new(&dump, kind, true, count_line, &lines, err);
	if (ret)
		return ret;
	for (size_t at = 0; at < length && !ret; at += piece)
		ret = wh_dump_feed(dump, bytes + at, length - at < piece ? length - at : piece,
				   err);
	if (!ret)
		ret = wh_dump_end(dump, err);
	wh_dump_free(dump);
	if (!ret && length && !lines)
		ret = err_set(err, -EPROTO, "%zu bytes, and nothing to say of them", length);
	return ret;
}

static int keep(const char *name, const char *kind, const uint8_t *bytes, size_t length,
		struct wh_err *err)
{
	const char *dir = getenv("WHERRY_VECTORS");
	char file[256];
	FILE *to;
	bool written;

	if (!dir || !length)
		return 0;
	snprintf(file, sizeof(file), "%s/%s.%s", dir, name, kind);
	to = fopen(file, "w");
	if (!to)
		return err_sys(err, errno, "%s", file);
	written = fwrite(bytes, length, 1, to) == 1;
	if (fclose(to) || !written)
		return err_sys(err, errno, "%s", file);
	return 0;
}

static int look_at(const char *name, const char *kind_name, enum wh_dump_kind kind,
		   const uint8_t *bytes, size_t length, struct wh_err *err)
{
	int ret = understand(kind, bytes, length, length, err);

	if (!ret)
		ret = understand(kind, bytes, length, 1000, err);
	if (ret)
		err_wrap(err, "%s.%s", name, kind_name);
	/* Also what is not understood: that is when it is needed */
	if (keep(name, kind_name, bytes, length, ret ? NULL : err))
		return ret ? ret : err->code;
	return ret;
}

TEST_F_TIMEOUT(capture, is_understood, TEST_SECONDS)
{
	const struct tee_record *record;
	struct tee *tee;
	struct wh_err err = { 0 };
	unsigned connections;

	DO(start(self, variant, &err));
	DO(migrate(self, variant, &err));
	/* Both have closed, so that all of it has gone through */
	qemu_end(&self->source);
	qemu_end(&self->dest);
	tee = self->tee;
	connections = tee_stop(tee, &record);
	EXPECT_EQ(variant->urgent ? 2 : 1, connections);
	self->tee = NULL;

	EXPECT_EQ(0, look_at(variant->name, "stream", WH_DUMP_STREAM, record[0].there,
			     record[0].there_length, &err))
	{
		TH_LOG("%s", err.text);
	}
	EXPECT_EQ(0, look_at(variant->name, "return", WH_DUMP_RETURN_PATH, record[0].back,
			     record[0].back_length, &err))
	{
		TH_LOG("%s", err.text);
	}
	if (variant->capabilities[0]) {
		EXPECT_LE(16, record[0].back_length);
	}
	if (variant->urgent) {
		EXPECT_EQ(0, look_at(variant->name, "urgent", WH_DUMP_URGENT, record[1].there,
				     record[1].there_length, &err))
		{
			TH_LOG("%s", err.text);
		}
		EXPECT_EQ(0, record[1].back_length);
	}
	tee_free(tee);
}

TEST_HARNESS_MAIN
