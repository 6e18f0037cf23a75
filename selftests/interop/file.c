/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A running VM that a QEMU migrates to a file: all its RAM is in what we read of it, and another
 * QEMU takes it from us, out of the file itself, out of a folder made of it, or out of a file of
 * ours. The guest goes on where it was.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/guest.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"

#define MIB (UINT64_C(1) << 20)
#define WAIT_MS 60000
#define TEST_SECONDS 150
#define PAGE 4096u

FIXTURE(file)
{
	char dir[64];
	char rom[96];
	char out[96];
	char serial[2][96];
	char ram[2][96];
	struct guest_range range;
	struct qemu qemu[2];
	struct child child;
	struct receiver receiver;
};

/**
 * struct _fixture_variant_file - One way into a file, and out of one
 * @capabilities: Of the QEMU that writes, and, but for multifd, of the one that reads
 * @written:	How it does; %s is the folder
 * @read:	How we call that
 * @folder:	By way of one, else the file itself is sent
 * @to:		Where wherry send writes or connects to
 * @incoming:	How the second QEMU calls that
 * @options:	Of wherry send
 */
FIXTURE_VARIANT(file)
{
	enum qemu_version version;
	const char *machine;
	const char *capabilities[3];
	const char *written;
	const char *read;
	bool folder;
	const char *to;
	const char *incoming;
	const char *given[3];
	const char *options[3];
};

/* clang-format off */
FIXTURE_VARIANT_ADD(file, qemu_7_2)
{
	.version = QEMU_7_2,
	.machine = "pc-q35-7.2",
	.written = "exec:cat>%s/vm",
	.read = "file:%s/vm",
	.folder = true,
	.to = "file:%s/again",
	.incoming = "exec:cat %s/again",
};

FIXTURE_VARIANT_ADD(file, qemu_7_2_file_sent_postcopy)
{
	.version = QEMU_7_2,
	.machine = "pc-i440fx-7.2",
	.written = "exec:cat>%s/vm",
	.read = "file:%s/vm",
	.to = "unix:%s/link",
	.incoming = "unix:%s/link",
	.given = { "postcopy-ram" },
	.options = { "--postcopy" },
};

FIXTURE_VARIANT_ADD(file, qemu_10)
{
	.version = QEMU_10_0,
	.machine = "pc-q35-10.0",
	.written = "file:%s/vm",
	.read = "file:%s/vm",
	.folder = true,
	.to = "file:%s/again",
	.incoming = "file:%s/again",
};

FIXTURE_VARIANT_ADD(file, mapped_ram)
{
	.version = QEMU_10_0,
	.machine = "pc-q35-10.0",
	.capabilities = { "mapped-ram" },
	.written = "file:%s/vm",
	.read = "file:%s/vm",
	.folder = true,
	.to = "file:%s/again",
	.incoming = "file:%s/again",
	.given = { "mapped-ram" },
	.options = { "--mapped-ram" },
};

FIXTURE_VARIANT_ADD(file, mapped_ram_offset)
{
	.version = QEMU_10_0,
	.machine = "pc-i440fx-10.0",
	.capabilities = { "mapped-ram" },
	.written = "file:%s/vm,offset=0x12345",
	.read = "file:%s/vm,offset=0x12345",
	.folder = true,
	.to = "file:%s/again,offset=4K",
	.incoming = "file:%s/again,offset=0x1000",
	.given = { "mapped-ram" },
	.options = { "--mapped-ram" },
};

FIXTURE_VARIANT_ADD(file, mapped_ram_multifd)
{
	.version = QEMU_10_0,
	.machine = "pc-q35-10.0",
	.capabilities = { "mapped-ram", "multifd" },
	.written = "file:%s/vm",
	.read = "file:%s/vm",
	.to = "file:%s/again",
	.incoming = "file:%s/again",
	.given = { "mapped-ram", "multifd" },
	.options = { "--mapped-ram" },
};

FIXTURE_VARIANT_ADD(file, mapped_ram_sent)
{
	.version = QEMU_10_0,
	.machine = "pc-q35-10.0",
	.capabilities = { "mapped-ram" },
	.written = "file:%s/vm",
	.read = "file:%s/vm",
	.to = "unix:%s/link",
	.incoming = "unix:%s/link",
};
/* clang-format on */

FIXTURE_SETUP(file)
{
	struct wh_err err = { 0 };
	char why[256];

	self->qemu[0].qmp = self->qemu[1].qmp = -1;
	if (!qemu_program(variant->version, why, sizeof(why)))
		SKIP(return, "%s", why);
	strcpy(self->dir, "/dev/shm/wherry-file-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	self->range = (struct guest_range){ .first = 0x2000000, .end = 0x3000000 };
	snprintf(self->rom, sizeof(self->rom), "%s/rom", self->dir);
	snprintf(self->out, sizeof(self->out), "%s/out", self->dir);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(self->serial[i], sizeof(self->serial[i]), "%s/serial%u", self->dir, i);
		snprintf(self->ram[i], sizeof(self->ram[i]), "%s/ram%u", self->dir, i);
	}
	DO(guest_write_rom(self->rom, &self->range, &err));
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

FIXTURE_TEARDOWN(file)
{
	(void)variant;
	child_end(&self->child);
	receiver_end(&self->receiver);
	qemu_end(&self->qemu[0]);
	qemu_end(&self->qemu[1]);
	if (self->dir[0])
		nftw(self->dir, drop, 16, FTW_DEPTH | FTW_PHYS);
}

/* The second one waits, and does not run the guest by itself */
static int start(FIXTURE_DATA(file) *self, const FIXTURE_VARIANT(file) * variant, unsigned which,
		 struct wh_err *err)
{
	char object[192], machine[96], serial[128], why[256];
	const char *const argv[] = { "-machine",
				     machine,
				     "-object",
				     object,
				     "-m",
				     "64",
				     "-accel",
				     "tcg,thread=single",
				     "-serial",
				     serial,
				     "-bios",
				     self->rom,
				     which ? "-incoming" : NULL,
				     "defer",
				     "-S",
				     NULL };
	int ret;

	snprintf(machine, sizeof(machine), "%s,memory-backend=ram0", variant->machine);
	snprintf(object, sizeof(object),
		 "memory-backend-file,id=ram0,size=64M,mem-path=%s,share=on", self->ram[which]);
	snprintf(serial, sizeof(serial), "file:%s", self->serial[which]);
	ret = qemu_start_program(&self->qemu[which],
				 qemu_program(variant->version, why, sizeof(why)), argv, err);
	if (!ret)
		ret = qemu_capabilities(&self->qemu[which],
					which ? variant->given : variant->capabilities, err);
	return ret || which ? ret : guest_wait(self->serial[0], WAIT_MS, err);
}

static void in_folder(const FIXTURE_DATA(file) *self, const char *pattern, char text[192])
{
	const char *at = strstr(pattern, "%s");

	snprintf(text, 192, "%.*s%s%s", (int)(at - pattern), pattern, self->dir, at + 2);
}

/* "wherry ..." until it is done */
static int wherry(FIXTURE_DATA(file) *self, const char *argv[], struct wh_err *err)
{
	static char program[4096];
	char said[300];
	int ret = built_path(program, sizeof(program), "wherry", err);

	argv[0] = program;
	if (!ret)
		ret = child_start(&self->child, argv, -1, err);
	if (ret)
		return ret;
	ret = child_wait(&self->child, WAIT_MS, err);
	if (ret > 0)
		ret = err_set(err, -EPROTO, "wherry %s: %.200s", argv[1],
			      child_said(&self->child, said, sizeof(said)));
	child_end(&self->child);
	return ret;
}

/* Message by message it is understood to its end. */
static int dumped(FIXTURE_DATA(file) *self, const char *uri, struct wh_err *err)
{
	char path[192], offset[32] = "0";
	const char *argv[] = { "", "dump", "--json", "--offset", offset, path, NULL };
	char *comma;

	/* file:PATH,offset=N */
	snprintf(path, sizeof(path), "%s", uri + strlen("file:"));
	comma = strchr(path, ',');
	if (comma) {
		*comma = '\0';
		snprintf(offset, sizeof(offset), "%llu",
			 strtoull(comma + strlen(",offset="), NULL, 0));
	} else {
		argv[3] = path;
		argv[4] = NULL;
	}
	return wherry(self, argv, err);
}

/* A folder is made of it: all RAM is in there */
static int taken(FIXTURE_DATA(file) *self, const char *uri, struct wh_err *err)
{
	struct image sent = { 0 }, got = { 0 };
	const char *argv[] = { "", "receive", uri, "--out", self->out, "--quiet", NULL };
	char path[128];
	int ret = wherry(self, argv, err);

	snprintf(path, sizeof(path), "%s/ram0.ram", self->out);
	if (!ret)
		ret = image_open(&sent, self->ram[0], err);
	if (!ret)
		ret = image_open(&got, path, err);
	if (!ret)
		ret = image_compare(&sent, &got, err);
	image_close(&sent);
	image_close(&got);
	return ret;
}

/* Out of the folder, or of the first file, to where the second QEMU takes it */
static int send(FIXTURE_DATA(file) *self, const FIXTURE_VARIANT(file) * variant, const char *from,
		struct wh_err *err)
{
	const char *argv[12] = { "", "send", "--quiet", "--from",
				 variant->folder ? self->out : from };
	char to[192];
	unsigned n = 5;

	in_folder(self, variant->to, to);
	argv[n++] = to;
	for (unsigned i = 0; variant->options[i]; i++)
		argv[n++] = variant->options[i];
	return wherry(self, argv, err);
}

static int compare(FIXTURE_DATA(file) *self, struct wh_err *err)
{
	struct image sent = { 0 }, got = { 0 };
	int ret = image_open(&sent, self->ram[0], err);

	if (!ret)
		ret = image_open(&got, self->ram[1], err);
	if (!ret)
		ret = image_compare(&sent, &got, err);
	image_close(&sent);
	image_close(&got);
	return ret;
}

/* It has said as many passes as its pages have seen, at both ends together. */
static int passes(const FIXTURE_DATA(file) *self, const uint8_t *ram, struct wh_err *err)
{
	uint8_t last = ram[self->range.end - PAGE], said = 0;
	struct stat st;

	for (unsigned i = 0; i < 2; i++)
		said += stat(self->serial[i], &st) ? 0 : (uint8_t)st.st_size;
	if (last == said || last == (uint8_t)(said + 1))
		return 0;
	return err_set(err, -EILSEQ, "its pages have seen %u passes, it has said %u (modulo 256)",
		       last, said);
}

static int goes_on(FIXTURE_DATA(file) *self, struct wh_err *err)
{
	struct image ram = { 0 };
	int ret = qemu_command(&self->qemu[1], NULL, err, "cont", NULL);

	if (!ret)
		ret = guest_wait(self->serial[1], WAIT_MS, err);
	if (!ret)
		ret = qemu_command(&self->qemu[1], NULL, err, "stop", NULL);
	if (!ret)
		ret = guest_check_serial(self->serial[1], err);
	if (!ret)
		ret = image_open(&ram, self->ram[1], err);
	if (!ret)
		ret = guest_check(ram.at, &self->range, err);
	if (!ret)
		ret = passes(self, ram.at, err);
	image_close(&ram);
	return ret;
}

TEST_F_TIMEOUT(file, there_and_back, TEST_SECONDS)
{
	bool to_file = !strncmp(variant->to, "file:", 5);
	struct wh_err err = { 0 };
	char text[192], read[192];

	DO(start(self, variant, 0, &err));
	in_folder(self, variant->written, text);
	DO(qemu_parameter(&self->qemu[0], "max-bandwidth", 4096 * MIB, &err));
	DO(qemu_migrate(&self->qemu[0], text, &err));
	DO(qemu_wait_status(&self->qemu[0], "completed", WAIT_MS, &err));
	qemu_end(&self->qemu[0]);
	in_folder(self, variant->read, read);
	DO(dumped(self, read, &err));
	DO(taken(self, read, &err));

	DO(start(self, variant, 1, &err));
	in_folder(self, variant->incoming, text);
	if (to_file)
		DO(send(self, variant, read, &err));
	DO(qemu_migrate_incoming(&self->qemu[1], text, &err));
	if (!to_file)
		DO(send(self, variant, read, &err));
	DO(qemu_wait_status(&self->qemu[1], "completed", WAIT_MS, &err));
	DO(compare(self, &err));
	DO(goes_on(self, &err));
}

TEST_HARNESS_MAIN
