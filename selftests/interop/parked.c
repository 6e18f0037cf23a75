/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A running VM out of one QEMU, kept, and put into another: wherry receive, then wherry send.
 * The guest goes on where it was. It looks at each page before it steps it, says what it finds
 * on its serial port, and counts its passes there; so do the pages themselves.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <limits.h>
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

FIXTURE(parked)
{
	char dir[64];
	char rom[96];
	char out[96];
	char serial[2][96]; /* of the source, of the destination */
	char ram[2][96];
	struct guest_range range;
	struct qemu source;
	struct qemu dest;
	struct receiver receiver;
	struct child sender;
};

/**
 * struct _fixture_variant_parked - One way there and back
 * @taken:	Capabilities of the QEMU that it is taken out of; postcopy-ram: by postcopy
 * @given:	Of the one that it is put into
 * @options:	Of wherry send
 * @asked:	Pages are waited for on the way back
 * @damaged:	For a while, before
 */
FIXTURE_VARIANT(parked)
{
	const char *machine;
	const char *taken[3];
	const char *given[3];
	const char *options[6];
	bool asked;
	bool damaged;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(parked, q35_precopy)
{
	.machine = "pc-q35-7.2",
	.taken = { "return-path" },
	.damaged = true,
};

FIXTURE_VARIANT_ADD(parked, i440fx_return_path)
{
	.machine = "pc-i440fx-7.2",
	.given = { "return-path" },
	.options = { "--return-path", "on" },
};

FIXTURE_VARIANT_ADD(parked, q35_postcopy)
{
	.machine = "pc-q35-7.2",
	.taken = { "postcopy-ram" },
	.given = { "postcopy-ram" },
	.options = { "--postcopy", "--bandwidth", "16M" },
	.asked = true,
};

FIXTURE_VARIANT_ADD(parked, i440fx_postcopy)
{
	.machine = "pc-i440fx-7.2",
	.given = { "postcopy-ram" },
	.options = { "--postcopy", "--bandwidth", "16M" },
	.asked = true,
};

FIXTURE_VARIANT_ADD(parked, q35_preempt)
{
	.machine = "pc-q35-7.2",
	.given = { "postcopy-ram", "postcopy-preempt" },
	.options = { "--postcopy", "--urgent", "start", "--bandwidth", "16M" },
	.asked = true,
};
/* clang-format on */

static int drop_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

FIXTURE_SETUP(parked)
{
	struct wh_err err = { 0 };

	(void)variant;
	self->source.qmp = self->dest.qmp = -1;
	strcpy(self->dir, "/dev/shm/wherry-parked-XXXXXX");
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

FIXTURE_TEARDOWN(parked)
{
	(void)variant;
	child_end(&self->sender);
	qemu_end(&self->source);
	qemu_end(&self->dest);
	receiver_end(&self->receiver);
	nftw(self->dir, drop_file, 16, FTW_DEPTH | FTW_PHYS);
}

/* Source and destination are started alike; @which is also where their files are */
static int start_qemu(const FIXTURE_DATA(parked) *self, const char *machine, unsigned which,
		      struct qemu *qemu, const char *const capabilities[], struct wh_err *err)
{
	char object[192], machine_arg[96], serial[128];
	const char *const argv[] = { "-machine",
				     machine_arg,
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
				     NULL };
	int ret;

	snprintf(machine_arg, sizeof(machine_arg), "%s,memory-backend=ram0", machine);
	snprintf(object, sizeof(object),
		 "memory-backend-file,id=ram0,size=64M,mem-path=%s,share=on", self->ram[which]);
	snprintf(serial, sizeof(serial), "file:%s", self->serial[which]);
	ret = qemu_start(qemu, argv, err);
	return ret ? ret : qemu_capabilities(qemu, capabilities, err);
}

/* Out of the first QEMU, which is gone afterwards */
static int park(FIXTURE_DATA(parked) *self, const FIXTURE_VARIANT(parked) * variant,
		struct wh_err *err)
{
	bool postcopy = variant->taken[0] && !strcmp(variant->taken[0], "postcopy-ram");
	char link[96];
	int ret;

	snprintf(link, sizeof(link), "unix:%s/in", self->dir);
	ret = receiver_start(&self->receiver, link, self->out, NULL, err);
	if (!ret)
		ret = start_qemu(self, variant->machine, 0, &self->source, variant->taken, err);
	if (!ret)
		ret = guest_wait(self->serial[0], WAIT_MS, err);
	if (!ret)
		ret = qemu_parameter(&self->source, "max-bandwidth",
				     postcopy ? 32 * MIB : 4096 * MIB, err);
	if (!ret)
		ret = qemu_migrate(&self->source, self->receiver.uri, err);
	if (!ret && postcopy)
		ret = qemu_wait_status(&self->source, "active", WAIT_MS, err);
	if (!ret && postcopy)
		ret = qemu_command(&self->source, NULL, err, "migrate-start-postcopy", NULL);
	if (!ret)
		ret = qemu_wait_status(&self->source, "completed", WAIT_MS, err);
	if (!ret)
		ret = receiver_wait(&self->receiver, WAIT_MS, err);
	qemu_end(&self->source);
	return ret;
}

static int start_sender(FIXTURE_DATA(parked) *self, const char *uri, const char *const options[],
			struct wh_err *err)
{
	const char *argv[16] = { "", "send", "--json", "--from", self->out, uri };
	char program[PATH_MAX];
	unsigned n = 6;
	int ret = built_path(program, sizeof(program), "wherry", err);

	argv[0] = program;
	while (options && *options && n < 15)
		argv[n++] = *options++;
	return ret ? ret : child_start(&self->sender, argv, -1, err);
}

static long dots(const char *serial)
{
	struct stat st;

	return stat(serial, &st) ? -1 : (long)st.st_size;
}

/*
 * At both ends together it has said as many passes as its pages have seen; one that is complete
 * and not yet said may be missing.
 */
static int check_passes(const FIXTURE_DATA(parked) *self, const uint8_t *ram, struct wh_err *err)
{
	uint8_t said = (uint8_t)(dots(self->serial[0]) + dots(self->serial[1]));
	uint8_t last = ram[self->range.end - PAGE];

	if (last == said || last == (uint8_t)(said + 1))
		return 0;
	return err_set(err, -EILSEQ, "its pages have seen %u passes, it has said %u (modulo 256)",
		       last, said);
}

static int check_guest(FIXTURE_DATA(parked) *self, struct wh_err *err)
{
	struct image ram = { 0 };
	int ret = guest_wait(self->serial[1], WAIT_MS, err);

	if (!ret)
		ret = qemu_command(&self->dest, NULL, err, "stop", NULL);
	if (!ret)
		ret = guest_check_serial(self->serial[1], err);
	if (!ret)
		ret = image_open(&ram, self->ram[1], err);
	if (!ret)
		ret = guest_check(ram.at, &self->range, err);
	if (!ret)
		ret = check_passes(self, ram.at, err);
	image_close(&ram);
	return ret;
}

/* Changes one byte of a file in the folder */
static int damage(FIXTURE_DATA(parked) *self, const char *file, off_t at, struct wh_err *err)
{
	char path[128];
	uint8_t byte;
	int fd, ret = 0;

	snprintf(path, sizeof(path), "%s/%s", self->out, file);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (fd < 0 || pread(fd, &byte, 1, at) != 1)
		ret = err_sys(err, errno, "%s", path);
	byte ^= 0x10;
	if (!ret && pwrite(fd, &byte, 1, at) != 1)
		ret = err_sys(err, errno, "%s", path);
	if (fd >= 0)
		close(fd);
	return ret;
}

static int refused(FIXTURE_DATA(parked) *self, const char *const options[], const char *sentence,
		   struct wh_err *err)
{
	char uri[96], said[400];
	int ret;

	snprintf(uri, sizeof(uri), "unix:%s/nobody", self->dir);
	ret = start_sender(self, uri, options, err);
	if (ret)
		return ret;
	ret = child_wait(&self->sender, WAIT_MS, err);
	child_said(&self->sender, said, sizeof(said));
	child_end(&self->sender);
	if (ret == 1 && strstr(said, sentence))
		return 0;
	return err_set(err, -EPROTO, "status %d and not '%s': %.150s", ret, sentence, said);
}

/* Nobody is there to be connected to: what is wrong with the folder is said first. */
static int check_damage(FIXTURE_DATA(parked) *self, struct wh_err *err)
{
	static const char *const trusting[] = { "--verify=off", "--timeout", "1", NULL };
	static const struct {
		const char *file;
		off_t at;
		const char *sentence;
	} damages[] = {
		{ "ram0.ram", 0x2345678, "block 'ram0' is not what was received, page 0x2345000" },
		{ "pc.bios.ram", 0xfff, "block 'pc.bios' is not what was received, page 0x0" },
		{ "device-state.bin", 100, "device state is not what was received" },
		{ "manifest.json", 0, "manifest.json" },
	};
	int ret = 0;

	for (unsigned i = 0; i < sizeof(damages) / sizeof(damages[0]) && !ret; i++) {
		ret = damage(self, damages[i].file, damages[i].at, err);
		if (!ret)
			ret = refused(self, NULL, damages[i].sentence, err);
		if (!ret && !i)
			ret = refused(self, trusting, "nobody", err);
		if (!ret) /* and back */
			ret = damage(self, damages[i].file, damages[i].at, err);
	}
	return ret;
}

TEST_F_TIMEOUT(parked, goes_on, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	char uri[96], said[200];
	const char *line;
	unsigned long long requests = 0;

	DO(park(self, variant, &err));
	if (variant->damaged)
		DO(check_damage(self, &err));
	DO(start_qemu(self, variant->machine, 1, &self->dest, variant->given, &err));
	snprintf(uri, sizeof(uri), "unix:%s/back", self->dir);
	DO(qemu_migrate_incoming(&self->dest, uri, &err));
	DO(start_sender(self, uri, variant->options, &err));
	/* The last line is the summary */
	while (child_line(&self->sender, &line, WAIT_MS, &err) == 1) {
		const char *at = strstr(line, "\"requests\":");

		requests = at ? strtoull(at + 11, NULL, 10) : 0;
	}
	EXPECT_EQ(0, child_wait(&self->sender, WAIT_MS, &err))
	{
		TH_LOG("%s", child_said(&self->sender, said, sizeof(said)));
	}
	DO(qemu_wait_status(&self->dest, "completed", WAIT_MS, &err));
	DO(check_guest(self, &err));
	if (variant->asked) {
		EXPECT_LT(0, requests);
	} else {
		EXPECT_EQ(0, requests);
	}
}

TEST_HARNESS_MAIN
