/* SPDX-License-Identifier: GPL-2.0 */
#ifndef INTEROP_GUEST_PAIR_H
#define INTEROP_GUEST_PAIR_H

/*
 * Two QEMUs of the same machine, a guest that is moved from the first one to the second, and
 * what can be said of it then. It looks at each page before it steps it, says on its serial port
 * what it finds, and counts its passes there; so do the pages themselves.
 */
#include <errno.h>
#include <ftw.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "selftests/lib/guest.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"

#define MIB (UINT64_C(1) << 20)
#define WAIT_MS 60000
#define TEST_SECONDS 150
#define GUEST_PAGE 4096u

struct guest_pair {
	const char *machine;
	char dir[64];
	char rom[96];
	char out[96]; /* a folder to be made */
	char serial[2][96];
	char ram[2][96];
	struct guest_range range;
	struct qemu qemu[2];
};

static inline int guest_pair_open(struct guest_pair *pair, const char *machine, struct wh_err *err)
{
	pair->machine = machine;
	pair->qemu[0].qmp = pair->qemu[1].qmp = -1;
	strcpy(pair->dir, "/dev/shm/wherry-pair-XXXXXX");
	if (!mkdtemp(pair->dir))
		return err_sys(err, errno, "a folder in /dev/shm");
	pair->range = (struct guest_range){ .first = 0x2000000, .end = 0x3000000 };
	snprintf(pair->rom, sizeof(pair->rom), "%s/rom", pair->dir);
	snprintf(pair->out, sizeof(pair->out), "%s/out", pair->dir);
	for (unsigned i = 0; i < 2; i++) {
		snprintf(pair->serial[i], sizeof(pair->serial[i]), "%s/serial%u", pair->dir, i);
		snprintf(pair->ram[i], sizeof(pair->ram[i]), "%s/ram%u", pair->dir, i);
	}
	return guest_write_rom(pair->rom, &pair->range, err);
}

static inline int guest_pair_drop(const char *path, const struct stat *st, int type,
				  struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

static inline void guest_pair_close(struct guest_pair *pair)
{
	qemu_end(&pair->qemu[0]);
	qemu_end(&pair->qemu[1]);
	nftw(pair->dir, guest_pair_drop, 16, FTW_DEPTH | FTW_PHYS);
}

/* Both alike; the second one waits, the first one's guest runs when it returns */
static inline int guest_pair_start(struct guest_pair *pair, unsigned which,
				   const char *const capabilities[], struct wh_err *err)
{
	char object[192], machine[96], serial[128];
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
				     pair->rom,
				     which ? "-incoming" : NULL,
				     "defer",
				     NULL };
	int ret;

	snprintf(machine, sizeof(machine), "%s,memory-backend=ram0", pair->machine);
	snprintf(object, sizeof(object),
		 "memory-backend-file,id=ram0,size=64M,mem-path=%s,share=on", pair->ram[which]);
	snprintf(serial, sizeof(serial), "file:%s", pair->serial[which]);
	ret = qemu_start(&pair->qemu[which], argv, err);
	if (!ret)
		ret = qemu_capabilities(&pair->qemu[which], capabilities, err);
	return ret || which ? ret : guest_wait(pair->serial[0], WAIT_MS, err);
}

/* The first QEMU's guest goes to @uri, by postcopy if it has the capability; it is gone then */
static inline int guest_pair_leave(struct guest_pair *pair, const char *uri,
				   const char *const capabilities[], struct wh_err *err)
{
	bool postcopy = capabilities[0] && !strcmp(capabilities[0], "postcopy-ram");
	struct qemu *qemu = &pair->qemu[0];
	int ret;

	ret = qemu_parameter(qemu, "max-bandwidth", postcopy ? 32 * MIB : 4096 * MIB, err);
	if (!ret)
		ret = qemu_migrate(qemu, uri, err);
	if (!ret && postcopy)
		ret = qemu_wait_status(qemu, "active", WAIT_MS, err);
	if (!ret && postcopy)
		ret = qemu_command(qemu, NULL, err, "migrate-start-postcopy", NULL);
	if (!ret)
		ret = qemu_wait_status(qemu, "completed", WAIT_MS, err);
	qemu_end(qemu);
	return ret;
}

/* "wherry ..." of the folder that was built into; @argv[0] is filled in */
static inline int guest_pair_command(struct child *child, const char *argv[], struct wh_err *err)
{
	static char program[PATH_MAX];
	int ret = built_path(program, sizeof(program), "wherry", err);

	argv[0] = program;
	return ret ? ret : child_start(child, argv, -1, err);
}

/* With --json: until it says that it listens */
static inline int guest_pair_listens(struct child *child, struct wh_err *err)
{
	const char *line = "";
	int ret;

	do {
		ret = child_line(child, &line, WAIT_MS, err);
	} while (ret == 1 && !strstr(line, "\"listening\""));
	return ret == 1 ? 0 : ret ? ret : err_set(err, -ECHILD, "it does not listen");
}

/*
 * At both ends together it has said as many passes as its pages have seen; one that is complete
 * and not yet said may be missing.
 */
static inline int guest_pair_passes(const struct guest_pair *pair, const uint8_t *ram,
				    struct wh_err *err)
{
	uint8_t last = ram[pair->range.end - GUEST_PAGE], said = 0;
	struct stat st;

	for (unsigned i = 0; i < 2; i++)
		said += stat(pair->serial[i], &st) ? 0 : (uint8_t)st.st_size;
	if (last == said || last == (uint8_t)(said + 1))
		return 0;
	return err_set(err, -EILSEQ, "its pages have seen %u passes, it has said %u (modulo 256)",
		       last, said);
}

/* It runs at the second QEMU, and has lost nothing. It is stopped then */
static inline int guest_pair_check(struct guest_pair *pair, struct wh_err *err)
{
	struct image ram = { 0 };
	int ret = guest_wait(pair->serial[1], WAIT_MS, err);

	if (!ret)
		ret = qemu_command(&pair->qemu[1], NULL, err, "stop", NULL);
	if (!ret)
		ret = guest_check_serial(pair->serial[1], err);
	if (!ret)
		ret = image_open(&ram, pair->ram[1], err);
	if (!ret)
		ret = guest_check(ram.at, &pair->range, err);
	if (!ret)
		ret = guest_pair_passes(pair, ram.at, err);
	image_close(&ram);
	return ret;
}

#endif /* INTEROP_GUEST_PAIR_H */
