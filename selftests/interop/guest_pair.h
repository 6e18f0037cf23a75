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
#include "selftests/lib/receiver.h"
#include "selftests/lib/vm.h"

#define MIB (UINT64_C(1) << 20)
#define WAIT_MS 60000
#define TEST_SECONDS 150
#define GUEST_PAGE 4096u

/**
 * struct guest_pair - Both of them
 * @range:	Of the guest: 16 MiB, over the border of two blocks
 * @sent:	RAM of the first one as it was when the guest had left, and of the second one
 */
struct guest_pair {
	char dir[64];
	char rom[96];
	char out[96]; /* a folder to be made */
	struct guest_range range;
	struct vm vm[2];
	uint8_t *sent;
	uint8_t *got;
};

/**
 * struct guest_leave - How the first one's guest goes
 * @rounds:	Of precopy, and then what ends it; 0: whatever it takes
 * @bandwidth:	Bytes a second, in both phases
 * @cache:	For XBZRLE, 0: none
 * @rounds_ms:	They take no longer than that; 0: than WAIT_MS
 */
struct guest_leave {
	bool postcopy;
	unsigned rounds;
	uint64_t bandwidth;
	uint64_t cache;
	int rounds_ms;
};

static inline int guest_pair_open(struct guest_pair *pair, struct wh_err *err)
{
	pair->vm[0].qemu.qmp = pair->vm[1].qemu.qmp = -1;
	strcpy(pair->dir, "/dev/shm/wherry-pair-XXXXXX");
	if (!mkdtemp(pair->dir))
		return err_sys(err, errno, "a folder in /dev/shm");
	pair->sent = malloc(VM_RAM_BYTES);
	pair->got = malloc(VM_RAM_BYTES);
	if (!pair->sent || !pair->got)
		return err_set(err, -ENOMEM, "no memory");
	pair->range = (struct guest_range){ .first = 0xc00000, .end = 0x1c00000 };
	snprintf(pair->rom, sizeof(pair->rom), "%s/rom", pair->dir);
	snprintf(pair->out, sizeof(pair->out), "%s/out", pair->dir);
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
	vm_end(&pair->vm[0]);
	vm_end(&pair->vm[1]);
	free(pair->sent);
	free(pair->got);
	nftw(pair->dir, guest_pair_drop, 16, FTW_DEPTH | FTW_PHYS);
}

/* 2 MiB that nobody looks at, every other page of them, to be carried along */
static inline int guest_pair_luggage(struct guest_pair *pair, struct wh_err *err)
{
	uint32_t x = 1;

	memset(pair->got, 0, 2 * MIB);
	for (uint64_t at = 0; at < 2 * MIB; at += sizeof(x)) {
		x = x * 1664525 + 1013904223;
		if (at / GUEST_PAGE % 2)
			memcpy(pair->got + at, &x, sizeof(x));
	}
	return vm_put(&pair->vm[0], 2 * MIB, pair->got, 2 * MIB, err);
}

/* The second one waits, the first one's guest runs when it returns */
static inline int guest_pair_start(struct guest_pair *pair, unsigned which,
				   const struct vm_kind *kind, const char *const capabilities[],
				   const char *const more[], struct wh_err *err)
{
	struct vm *vm = &pair->vm[which];
	char serial[96];
	int ret;

	snprintf(serial, sizeof(serial), "%s/serial%u", pair->dir, which);
	ret = vm_start(vm, kind, pair->rom, serial, which, more, err);
	if (!ret)
		ret = qemu_capabilities(&vm->qemu, capabilities, err);
	if (!ret && !which)
		ret = guest_pair_luggage(pair, err);
	return ret || which ? ret : guest_wait(vm->serial, WAIT_MS, err);
}

/* A limit of 1 ms is met by no round while the guest runs; and 0 would end the first one */
static inline int guest_pair_limit(struct qemu *qemu, const struct guest_leave *how,
				   struct wh_err *err)
{
	uint64_t bandwidth = how->bandwidth ? how->bandwidth : 4096 * MIB;
	int ret = qemu_parameter(qemu, "max-bandwidth", bandwidth, err);

	if (!ret && how->postcopy)
		ret = qemu_parameter(qemu, "max-postcopy-bandwidth", bandwidth, err);
	if (!ret && how->rounds)
		ret = qemu_parameter(qemu, "downtime-limit", 1, err);
	if (!ret && how->cache)
		ret = qemu_parameter(qemu, "xbzrle-cache-size", how->cache, err);
	return ret;
}

/* The first QEMU's guest goes to @uri; until the last phase has begun */
static inline int guest_pair_go(struct guest_pair *pair, const char *uri,
				const struct guest_leave *how, struct wh_err *err)
{
	struct qemu *qemu = &pair->vm[0].qemu;
	int ret = guest_pair_limit(qemu, how, err);

	if (!ret)
		ret = qemu_migrate(qemu, uri, err);
	if (!ret && how->rounds)
		ret = qemu_wait_figure(qemu, "ram/dirty-sync-count", how->rounds,
				       how->rounds_ms ? how->rounds_ms : WAIT_MS, err);
	else if (!ret && how->postcopy)
		ret = qemu_wait_status(qemu, "active", WAIT_MS, err);
	if (!ret && how->postcopy)
		ret = qemu_command(qemu, NULL, err, "migrate-start-postcopy", NULL);
	else if (!ret && how->rounds)
		ret = qemu_parameter(qemu, "downtime-limit", 2000, err);
	return ret;
}

/* And until it says that it has gone */
static inline int guest_pair_leave(struct guest_pair *pair, const char *uri,
				   const struct guest_leave *how, struct wh_err *err)
{
	int ret = guest_pair_go(pair, uri, how, err);

	if (!ret)
		ret = qemu_wait_status(&pair->vm[0].qemu, "completed", WAIT_MS, err);
	return ret ? ret : vm_ram(&pair->vm[0], pair->sent, err);
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
static inline int guest_pair_passes(const struct guest_pair *pair, struct wh_err *err)
{
	uint8_t last = pair->got[pair->range.end - GUEST_PAGE], said = 0;
	struct stat st;

	for (unsigned i = 0; i < 2; i++)
		said += stat(pair->vm[i].serial, &st) ? 0 : (uint8_t)st.st_size;
	if (last == said || last == (uint8_t)(said + 1))
		return 0;
	return err_set(err, -EILSEQ, "its pages have seen %u passes, it has said %u (modulo 256)",
		       last, said);
}

/* What the guest does not step is as it was where it came from, every byte of it */
static inline int guest_pair_compare(const struct guest_pair *pair, struct wh_err *err)
{
	for (uint64_t at = 0; at < VM_RAM_BYTES; at++) {
		if (at == pair->range.first)
			at = pair->range.end;
		if (pair->got[at] != pair->sent[at])
			return err_set(err, -EILSEQ, "at 0x%llx is 0x%02x, and 0x%02x was sent",
				       (unsigned long long)at, pair->got[at], pair->sent[at]);
	}
	return 0;
}

/* It runs at the second QEMU, and has lost nothing. It is stopped then */
static inline int guest_pair_check(struct guest_pair *pair, struct wh_err *err)
{
	struct vm *vm = &pair->vm[1];
	int ret = guest_wait(vm->serial, WAIT_MS, err);

	if (!ret)
		ret = qemu_command(&vm->qemu, NULL, err, "stop", NULL);
	if (!ret)
		ret = guest_check_serial(vm->serial, err);
	if (!ret)
		ret = vm_ram(vm, pair->got, err);
	if (!ret)
		ret = guest_check(pair->got, &pair->range, err);
	if (!ret)
		ret = guest_pair_passes(pair, err);
	return ret ? ret : guest_pair_compare(pair, err);
}

#endif /* INTEROP_GUEST_PAIR_H */
