/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A real QEMU moves its guest to wherry receive, in ways that the table of runs (runs.def) has
 * not. Afterwards QEMU says "completed", is stopped, and its memory is, byte for byte, what
 * lies in the capture.
 *
 * RAM of the source is a file or a memfd mapped shared, so that it is compared without
 * asking QEMU for it; with -M none, and for the ROM blocks, QMP pmemsave says what it is.
 * The /rom@ blocks are at no address: of those only the digest is checked.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <ftw.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/guest.h"
#include "selftests/lib/memory.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"

#define MIB (UINT64_C(1) << 20)
#define WAIT_MS 60000
#define TEST_SECONDS 150
#define ROM_BYTES 65536u
#define ARGS_MAX 48

enum machine {
	MACHINE_ROM,  /* q35, the guest is its firmware */
	MACHINE_DISK, /* q35, its own firmware boots the guest */
	MACHINE_NONE, /* no processor, made-up RAM */
};

enum ram {
	RAM_FILE, /* 64 MiB */
	RAM_HUGE, /* a memfd of 16 MiB in pages of 2 MiB */
};

FIXTURE(move)
{
	char dir[64];
	char serial[96];
	char text[16][160]; /* of arguments */
	unsigned texts;
	const char *arg[ARGS_MAX];
	unsigned args;
	struct guest_range range;
	uint64_t ram_bytes;
	struct image sent;
	struct qemu qemu;
	struct receiver receiver;
	struct huge_pages huge_pages;
};

/**
 * struct _fixture_variant_move - One way to move
 * @capabilities:	Of the source
 * @options:		Of wherry receive
 * @tcp:		Else over a unix socket
 * @stopped:		The guest does not run any more, nothing is sent twice
 * @postcopy:		Switched to when @rounds have begun
 * @bandwidth:		Bytes a second, in both phases
 * @rounds:		Then the downtime limit is lifted, in precopy
 */
FIXTURE_VARIANT(move)
{
	enum machine machine;
	enum ram ram;
	const char *capabilities[4];
	const char *options[5];
	bool tcp;
	bool stopped;
	bool postcopy;
	bool faults;
	bool urgent;
	unsigned channels; /* of multifd */
	uint64_t bandwidth;
	unsigned rounds;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(move, made_up_ram)
{
	.machine = MACHINE_NONE,
};

FIXTURE_VARIANT_ADD(move, made_up_ram_return_path)
{
	.machine = MACHINE_NONE,
	.capabilities = { "return-path" },
	.tcp = true,
};

FIXTURE_VARIANT_ADD(move, made_up_ram_postcopy)
{
	.machine = MACHINE_NONE,
	.capabilities = { "postcopy-ram" },
	.options = { "--touch=2" },
	.stopped = true,
	.postcopy = true,
	.faults = true,
	.bandwidth = 8 * MIB,
};

FIXTURE_VARIANT_ADD(move, disk_precopy)
{
	.machine = MACHINE_DISK,
};

FIXTURE_VARIANT_ADD(move, precopy_advised)
{
	.capabilities = { "postcopy-ram" },
	.bandwidth = 64 * MIB,
	.rounds = 3,
};

FIXTURE_VARIANT_ADD(move, postcopy_untouched)
{
	.capabilities = { "postcopy-ram" },
	.postcopy = true,
	.rounds = 2,
	.bandwidth = 32 * MIB,
};

FIXTURE_VARIANT_ADD(move, postcopy_first_round)
{
	.capabilities = { "postcopy-ram" },
	.options = { "--touch=2" },
	.stopped = true,
	.postcopy = true,
	.faults = true,
	.bandwidth = 8 * MIB,
};

FIXTURE_VARIANT_ADD(move, preempt_tcp)
{
	.capabilities = { "postcopy-ram", "postcopy-preempt" },
	.options = { "--touch=4", "--memory", "private" },
	.postcopy = true,
	.faults = true,
	.urgent = true,
	.rounds = 2,
	.bandwidth = 32 * MIB,
	.tcp = true,
};

FIXTURE_VARIANT_ADD(move, preempt_precopy)
{
	.capabilities = { "postcopy-ram", "postcopy-preempt" },
	.bandwidth = 64 * MIB,
	.rounds = 3,
};

FIXTURE_VARIANT_ADD(move, multifd_hugetlb)
{
	.ram = RAM_HUGE,
	.capabilities = { "multifd", "return-path" },
	.channels = 16,
	.bandwidth = 64 * MIB,
	.rounds = 3,
};

/* Only 7.2 takes both: what is left at the switch comes on the main channel */
FIXTURE_VARIANT_ADD(move, multifd_postcopy)
{
	.capabilities = { "multifd", "postcopy-ram" },
	.options = { "--touch=2" },
	.channels = 2,
	.postcopy = true,
	.faults = true,
	.rounds = 2,
	.bandwidth = 32 * MIB,
};

/* Huge pages at the source, small ones here, in units of the huge ones */
FIXTURE_VARIANT_ADD(move, hugetlb_to_private)
{
	.ram = RAM_HUGE,
	.capabilities = { "postcopy-ram" },
	.options = { "--touch=2", "--memory", "private" },
	.postcopy = true,
	.faults = true,
	.rounds = 2,
	.bandwidth = 32 * MIB,
};
/* clang-format on */

__attribute__((format(printf, 2, 3))) static const char *text(FIXTURE_DATA(move) *self,
							      const char *format, ...)
{
	char *at = self->text[self->texts++];
	va_list args;

	va_start(args, format);
	vsnprintf(at, sizeof(self->text[0]), format, args);
	va_end(args);
	return at;
}

static void add(FIXTURE_DATA(move) *self, const char *name, const char *value)
{
	self->arg[self->args++] = name;
	self->arg[self->args++] = value;
}

static void add_ram(FIXTURE_DATA(move) *self, enum ram ram)
{
	self->ram_bytes = (ram == RAM_HUGE ? 16 : 64) * MIB;
	add(self, "-m", ram == RAM_HUGE ? "16" : "64");
	if (ram == RAM_HUGE)
		add(self, "-object",
		    "memory-backend-memfd,id=ram0,size=16M,hugetlb=on,hugetlbsize=2M,share=on");
	else
		add(self, "-object",
		    text(self, "memory-backend-file,id=ram0,size=64M,mem-path=%s/ram0,share=on",
			 self->dir));
}

/* Half of it random, with zero pages in between */
static int write_contents(const char *path, struct wh_err *err)
{
	FILE *file = fopen(path, "w");
	uint32_t x = 1;

	if (!file)
		return err_sys(err, errno, "%s", path);
	for (unsigned page = 0; page < 8192; page++) {
		uint32_t word[1024] = { 0 };

		for (unsigned i = 0; page % 2 && i < 1024; i++)
			word[i] = x = x * 1664525 + 1013904223;
		fwrite(word, sizeof(word), 1, file);
	}
	if (fclose(file))
		return err_sys(err, errno, "%s", path);
	return 0;
}

static int add_machine(FIXTURE_DATA(move) *self, const FIXTURE_VARIANT(move) * variant,
		       struct wh_err *err)
{
	const char *guest = text(self, "%s/guest", self->dir);

	if (variant->machine == MACHINE_NONE) {
		add(self, "-M", "none");
		add(self, "-m", "64");
		add(self, "-device",
		    text(self, "loader,file=%s,addr=0x100000,force-raw=on", guest));
		self->ram_bytes = 64 * MIB;
		return write_contents(guest, err);
	}
	add_ram(self, variant->ram);
	add(self, "-M", "pc-q35-7.2,memory-backend=ram0");
	add(self, "-accel", "tcg,thread=single");
	add(self, "-serial", text(self, "file:%s", self->serial));
	if (variant->machine == MACHINE_DISK) {
		add(self, "-drive", text(self, "if=ide,format=raw,file=%s", guest));
		return guest_write_disk(guest, &self->range, err);
	}
	add(self, "-bios", guest);
	return guest_write_rom(guest, &self->range, err);
}

static void choose_range(FIXTURE_DATA(move) *self, const FIXTURE_VARIANT(move) * variant)
{
	self->range = (struct guest_range){ .first = 0x2800000, .end = 0x3800000 };
	if (variant->ram == RAM_HUGE)
		self->range = (struct guest_range){ .first = 0x400000, .end = 0xc00000 };
}

static int drop_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

FIXTURE_SETUP(move)
{
	struct wh_err err = { 0 };

	self->qemu.qmp = -1;
	strcpy(self->dir, "/dev/shm/wherry-move-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	if (variant->ram == RAM_HUGE)
		DO(huge_pages_take(&self->huge_pages, 2 * 16 / 2, &err));
	snprintf(self->serial, sizeof(self->serial), "%s/serial", self->dir);
	choose_range(self, variant);
	DO(add_machine(self, variant, &err));
}

FIXTURE_TEARDOWN(move)
{
	qemu_end(&self->qemu);
	receiver_end(&self->receiver);
	image_close(&self->sent);
	if (variant->ram == RAM_HUGE)
		huge_pages_drop(&self->huge_pages);
	nftw(self->dir, drop_file, 16, FTW_DEPTH | FTW_PHYS);
}

/* A memfd of QEMU's, by its length, which no other one has */
static int open_memfd(const struct qemu *qemu, uint64_t length, struct image *image,
		      struct wh_err *err)
{
	for (unsigned fd = 0; fd < 256; fd++) {
		char path[64], target[64] = "";
		struct stat st;

		snprintf(path, sizeof(path), "/proc/%d/fd/%u", (int)qemu->child.pid, fd);
		if (readlink(path, target, sizeof(target) - 1) > 0 &&
		    !strncmp(target, "/memfd:memory-backend", 21) && !stat(path, &st) &&
		    (uint64_t)st.st_size == length)
			return image_open(image, path, err);
	}
	return err_set(err, -ENOENT, "QEMU has no memfd of %llu bytes", (unsigned long long)length);
}

static int open_sent(FIXTURE_DATA(move) *self, enum ram ram, struct wh_err *err)
{
	char path[96];

	snprintf(path, sizeof(path), "%s/ram0", self->dir);
	return ram == RAM_HUGE ? open_memfd(&self->qemu, 16 * MIB, &self->sent, err) :
				 image_open(&self->sent, path, err);
}

static int start(FIXTURE_DATA(move) *self, const FIXTURE_VARIANT(move) * variant,
		 struct wh_err *err)
{
	const char *out = text(self, "%s/out", self->dir);
	const char *listen =
		variant->tcp ? "tcp:127.0.0.1:0" : text(self, "unix:%s/link", self->dir);
	int ret;

	ret = receiver_start(&self->receiver, listen, out, variant->options, err);
	if (!ret)
		ret = qemu_start(&self->qemu, self->arg, err);
	if (!ret && variant->machine != MACHINE_NONE)
		ret = guest_wait(self->serial, WAIT_MS, err);
	if (!ret && variant->machine != MACHINE_NONE && variant->stopped)
		ret = qemu_command(&self->qemu, NULL, err, "stop", NULL);
	if (!ret)
		ret = qemu_capabilities(&self->qemu, variant->capabilities, err);
	return ret;
}

/* A limit of 1 ms is met by no round while the guest runs; and 0 would end the first one */
static int migrate(FIXTURE_DATA(move) *self, const FIXTURE_VARIANT(move) * variant,
		   struct wh_err *err)
{
	uint64_t bandwidth = variant->bandwidth ? variant->bandwidth : 10000 * MIB;
	struct qemu *qemu = &self->qemu;
	int ret;

	ret = qemu_parameter(qemu, "max-bandwidth", bandwidth, err);
	if (!ret && variant->postcopy)
		ret = qemu_parameter(qemu, "max-postcopy-bandwidth", bandwidth, err);
	if (!ret && variant->rounds)
		ret = qemu_parameter(qemu, "downtime-limit", 1, err);
	if (!ret && variant->channels)
		ret = qemu_parameter(qemu, "multifd-channels", variant->channels, err);
	if (!ret)
		ret = qemu_migrate(qemu, self->receiver.uri, err);
	if (!ret && variant->rounds)
		ret = qemu_wait_figure(qemu, "ram/dirty-sync-count", variant->rounds, WAIT_MS, err);
	if (!ret && variant->postcopy && !variant->rounds)
		ret = qemu_wait_status(qemu, "active", WAIT_MS, err);
	if (!ret && variant->postcopy)
		ret = qemu_command(qemu, NULL, err, "migrate-start-postcopy", NULL);
	else if (!ret && variant->rounds)
		ret = qemu_parameter(qemu, "downtime-limit", 2000, err);
	return ret;
}

/* All that has an address in the guest: what QEMU says lies there */
static int compare_saved(FIXTURE_DATA(move) *self, const char *block, uint64_t address,
			 uint64_t length, struct wh_err *err)
{
	struct image saved = { 0 }, got = { 0 };
	char path[96];
	int ret;

	snprintf(path, sizeof(path), "%s/saved", self->dir);
	ret = qemu_command(&self->qemu, NULL, err, "pmemsave",
			   "{\"val\":%llu,\"size\":%llu,\"filename\":\"%s\"}",
			   (unsigned long long)address, (unsigned long long)length, path);
	if (!ret)
		ret = image_open(&saved, path, err);
	if (!ret)
		ret = receiver_open(&self->receiver, block, &got, err);
	if (!ret)
		ret = image_compare(&saved, &got, err);
	if (ret)
		err_wrap(err, "block '%s'", block);
	image_close(&saved);
	image_close(&got);
	return ret;
}

/* Both with the memory of the stopped source and with what the guest can have left */
static int compare_ram(FIXTURE_DATA(move) *self, struct wh_err *err)
{
	struct image got = { 0 };
	int ret = receiver_open(&self->receiver, "ram0", &got, err);

	if (ret)
		return ret;
	ret = image_compare(&self->sent, &got, err);
	if (!ret)
		ret = guest_check(got.at, &self->range, err);
	image_close(&got);
	return ret;
}

static int compare(FIXTURE_DATA(move) *self, const FIXTURE_VARIANT(move) * variant,
		   struct wh_err *err)
{
	static const char *const rest[] = { "/rom@etc/acpi/tables", "/rom@etc/table-loader",
					    "/rom@etc/acpi/rsdp" };
	uint64_t bios = variant->machine == MACHINE_DISK ? 0x40000 : ROM_BYTES;
	int ret;

	if (variant->machine == MACHINE_NONE)
		return compare_saved(self, "ram", 0, self->ram_bytes, err);
	ret = compare_ram(self, err);
	if (!ret)
		ret = compare_saved(self, "pc.bios", (UINT64_C(1) << 32) - bios, bios, err);
	if (!ret && variant->machine == MACHINE_ROM) /* nobody has mapped RAM over it */
		ret = compare_saved(self, "pc.rom", 0xc0000, 0x20000, err);
	for (unsigned i = 0; i < sizeof(rest) / sizeof(rest[0]) && !ret; i++) {
		struct image got;

		ret = receiver_open(&self->receiver, rest[i], &got, err);
		if (!ret)
			image_close(&got);
	}
	return ret ? ret : guest_check_serial(self->serial, err);
}

TEST_F_TIMEOUT(move, arrives, TEST_SECONDS)
{
	struct wh_err err = { 0 };

	DO(start(self, variant, &err));
	if (variant->machine != MACHINE_NONE)
		DO(open_sent(self, variant->ram, &err));
	DO(migrate(self, variant, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	DO(receiver_wait(&self->receiver, WAIT_MS, &err));
	DO(compare(self, variant, &err));

	EXPECT_EQ(variant->postcopy, receiver_figure(&self->receiver, "postcopy"));
	if (variant->faults) {
		EXPECT_LT(0, receiver_figure(&self->receiver, "faults"));
		EXPECT_LT(0, receiver_figure(&self->receiver, "requests"));
		EXPECT_LT(0, receiver_figure(&self->receiver, "pages_touched"));
	} else {
		EXPECT_EQ(0, receiver_figure(&self->receiver, "faults"));
	}
	if (variant->urgent) {
		EXPECT_LT(0, receiver_figure(&self->receiver, "pages_urgent"));
	}
	if (variant->ram == RAM_HUGE && variant->postcopy) {
		EXPECT_EQ(2 * MIB, receiver_block_figure(&self->receiver, "ram0", "page_size"));
	}
}

TEST_HARNESS_MAIN
