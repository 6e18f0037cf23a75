/* SPDX-License-Identifier: MIT */
/*
 * A guest that was put away goes on: the time until it says something, by wherry send and by
 * what QEMU has for it itself, a file or a snapshot in a disk's image, which is read before
 * anything runs. All of them restore the same guest, nearly all of whose RAM is something that it
 * does not touch.
 */
#include "base/clock.h"
#include "base/err.h"
#include "selftests/lib/bench.h"
#include "selftests/lib/bench_side.h"
#include "selftests/lib/guest.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <ftw.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#define MIB (UINT64_C(1) << 20)
#define WAIT_MS 120000

/* What it steps before it says something: 64 pages */
static const struct guest_range range = { .first = 0x100000, .end = 0x140000 };

/* Floor: it stands still with all of its memory, and is let go */
enum way {
	WAY_FLOOR,
	WAY_POSTCOPY,
	WAY_PRECOPY,
	WAY_QEMU_7,
	WAY_QEMU_10,
	WAY_LOADVM,
	WAY_COUNT
};

static const char *const sides[WAY_COUNT] = {
	[WAY_FLOOR] = "floor",
	[WAY_POSTCOPY] = "wherry, postcopy",
	[WAY_PRECOPY] = "wherry, precopy",
	[WAY_QEMU_7] = "QEMU 7.2, exec:cat",
	[WAY_QEMU_10] = "QEMU 10.0, file:",
	[WAY_LOADVM] = "QEMU 7.2, loadvm",
};

/**
 * struct parked - The guest, once as wherry receive and twice as QEMU keeps it
 * @disk:	A qcow2 that nothing is in but a snapshot
 * @floor_ms:	What it takes in the QEMU that it comes from
 */
struct parked {
	uint64_t bytes;
	char dir[64];
	char rom[96];
	char serial[96];
	char folder[96];
	char file[96];
	char disk[96];
	double floor_ms;
};

enum begins {
	BEGINS_ANEW,
	BEGINS_INCOMING,
	BEGINS_STOPPED, /* with the disk */
};

static int start_qemu(struct qemu *qemu, const struct parked *parked, enum qemu_version version,
		      enum begins how, char *why, struct wh_err *err)
{
	const char *program = qemu_program(version, why, 160);
	char object[96], size[32], serial[128], disk[192];
	const char *argv[] = { "-machine",
			       "pc-q35-7.2,memory-backend=ram0",
			       "-object",
			       object,
			       "-m",
			       size,
			       "-accel",
			       "tcg,thread=single",
			       "-bios",
			       parked->rom,
			       "-serial",
			       serial,
			       how == BEGINS_ANEW     ? NULL :
			       how == BEGINS_INCOMING ? "-incoming" :
							"-blockdev",
			       how == BEGINS_INCOMING ? "defer" : disk,
			       how == BEGINS_STOPPED ? "-S" : NULL,
			       NULL };

	if (!program)
		return err_set(err, -ENOENT, "%s", why);
	snprintf(size, sizeof(size), "%" PRIu64 "M", parked->bytes / MIB);
	/* The first one's is filled from outside, and easier to be found when it is shared */
	snprintf(object, sizeof(object), "memory-backend-%s,id=ram0,size=%s",
		 how == BEGINS_ANEW ? "memfd,share=on" : "ram", size);
	snprintf(serial, sizeof(serial), "file:%s", parked->serial);
	snprintf(disk, sizeof(disk),
		 "driver=qcow2,node-name=disk,file.driver=file,file.filename=%s", parked->disk);
	return qemu_start_program(qemu, program, argv, err);
}

/* Until there is more on the serial port than there was. Return: ns, 0: nothing comes */
static uint64_t first_character(const char *serial, off_t was)
{
	static const struct timespec some = { .tv_nsec = 100000 };
	uint64_t end = clock_now_ns() + WAIT_MS * NS_PER_MS;
	struct stat st;

	while (stat(serial, &st) || st.st_size <= was) {
		if (clock_now_ns() > end)
			return 0;
		nanosleep(&some, NULL);
	}
	return clock_now_ns();
}

static int since(uint64_t begin_ns, const char *serial, off_t was, double *ms, struct wh_err *err)
{
	uint64_t end_ns = first_character(serial, was);

	if (!end_ns)
		return err_set(err, -ETIMEDOUT, "the guest says nothing");
	*ms = (double)(end_ns - begin_ns) / 1e6;
	return 0;
}

/* RAM above the guest's, which it never looks at */
static int fill(const struct qemu *qemu, uint64_t bytes, struct wh_err *err)
{
	uint64_t from, to, base = 0, piece = 2 * MIB;
	char path[64], line[512], rights[8];
	uint8_t *data = malloc(piece);
	int fd, ret = 0;
	FILE *maps;

	snprintf(path, sizeof(path), "/proc/%d/maps", (int)qemu->child.pid);
	maps = fopen(path, "re");
	while (maps && fgets(line, sizeof(line), maps))
		if (sscanf(line, "%" SCNx64 "-%" SCNx64 " %7s", &from, &to, rights) == 3 &&
		    to - from == bytes && !strcmp(rights, "rw-s"))
			base = from;
	if (maps)
		fclose(maps);
	snprintf(path, sizeof(path), "/proc/%d/mem", (int)qemu->child.pid);
	fd = open(path, O_RDWR | O_CLOEXEC);
	if (!base || fd < 0 || !data)
		ret = err_set(err, -ENXIO, "QEMU's RAM is not to be found");
	else
		bench_fill(data, piece);
	for (uint64_t at = piece; at < bytes && !ret; at += piece)
		if (pwrite(fd, data, piece, (off_t)(base + at)) != (ssize_t)piece)
			ret = err_sys(err, errno, "filling QEMU's RAM");
	if (fd >= 0)
		close(fd);
	free(data);
	return ret;
}

/* What became of the only job that there is */
static int job_error(struct qemu *qemu, struct wh_err *err)
{
	struct json_object *jobs = NULL, *why;
	int ret = qemu_command(qemu, &jobs, err, "query-jobs", NULL);

	if (!ret && json_object_object_get_ex(json_object_array_get_idx(jobs, 0), "error", &why))
		ret = err_set(err, -EREMOTEIO, "%s", json_object_get_string(why));
	json_object_put(jobs);
	return ret;
}

/*
 * A command that is a job, named job, until it is done. QEMU may say that it has begun when it is
 * nearly done.
 */
static int run_job(struct qemu *qemu, const char *command, const char *arguments,
		   struct wh_err *err)
{
	bool concluded = false;
	int ret;

	qemu->answer_ms = WAIT_MS;
	ret = qemu_command(qemu, NULL, err, command, "%s", arguments);
	qemu->answer_ms = 0;
	while (!ret && !concluded) {
		struct json_object *data = NULL, *status;

		ret = qemu_wait_event(qemu, "JOB_STATUS_CHANGE", &data, WAIT_MS, err);
		concluded = !ret && json_object_object_get_ex(data, "status", &status) &&
			    !strcmp(json_object_get_string(status), "concluded");
		json_object_put(data);
	}
	if (!ret)
		ret = job_error(qemu, err);
	return ret ? ret : qemu_command(qemu, NULL, err, "job-dismiss", "{\"id\":\"job\"}");
}

/* savevm and loadvm, as QMP has them */
static int snapshot(struct qemu *qemu, const char *command, struct wh_err *err)
{
	return run_job(qemu, command,
		       "{\"job-id\":\"job\",\"tag\":\"parked\",\"vmstate\":\"disk\","
		       "\"devices\":[\"disk\"]}",
		       err);
}

/* A snapshot, as of a guest that has a disk for it; it runs on */
static int save_snapshot(const struct parked *parked, struct qemu *qemu, struct wh_err *err)
{
	int fd = open(parked->disk, O_CREAT | O_WRONLY | O_CLOEXEC, 0600);
	int ret;

	if (fd < 0)
		return err_sys(err, errno, "%s", parked->disk);
	close(fd);
	ret = qemu_command(qemu, NULL, err, "blockdev-add",
			   "{\"driver\":\"file\",\"node-name\":\"file\",\"filename\":\"%s\"}",
			   parked->disk);
	if (!ret)
		ret = run_job(qemu, "blockdev-create",
			      "{\"job-id\":\"job\",\"options\":{\"driver\":\"qcow2\","
			      "\"file\":\"file\",\"size\":1048576}}",
			      err);
	if (!ret)
		ret = qemu_command(qemu, NULL, err, "blockdev-add",
				   "{\"driver\":\"qcow2\",\"node-name\":\"disk\",\"file\":\"file\"}");
	return ret ? ret : snapshot(qemu, "snapshot-save", err);
}

/* What is read from the serial port afterwards is the floor */
static int go_on(struct parked *parked, struct qemu *qemu, struct wh_err *err)
{
	uint64_t begin_ns;
	struct stat st;
	int ret;

	if (stat(parked->serial, &st))
		return err_sys(err, errno, "%s", parked->serial);
	begin_ns = clock_now_ns();
	ret = qemu_command(qemu, NULL, err, "cont", NULL);
	return ret ? ret : since(begin_ns, parked->serial, st.st_size, &parked->floor_ms, err);
}

static int migrate(struct qemu *qemu, const char *to, struct wh_err *err)
{
	int ret = qemu_migrate(qemu, to, err);

	return ret ? ret : qemu_wait_status(qemu, "completed", WAIT_MS, err);
}

/*
 * As a folder first: what wherry receive has in its memory meanwhile is then there for the
 * others. The guest goes on from there, as it is still here.
 */
static int put_away(struct parked *parked, struct qemu *qemu, struct wh_err *err)
{
	struct receiver receiver = { 0 };
	char to[160], link[128];
	int ret;

	snprintf(to, sizeof(to), "exec:cat >%s", parked->file);
	snprintf(link, sizeof(link), "unix:%s/link", parked->dir);
	ret = qemu_parameter(qemu, "max-bandwidth", UINT64_C(1) << 40, err);
	if (!ret)
		ret = receiver_start(&receiver, link, parked->folder, NULL, err);
	if (!ret)
		ret = migrate(qemu, receiver.uri, err);
	if (!ret)
		ret = receiver_wait(&receiver, WAIT_MS, err);
	receiver_end(&receiver);
	if (!ret)
		ret = go_on(parked, qemu, err);
	if (!ret)
		ret = save_snapshot(parked, qemu, err);
	return ret ? ret : migrate(qemu, to, err);
}

static int park(struct parked *parked, struct wh_err *err)
{
	struct qemu qemu = { .qmp = -1 };
	char why[160];
	int ret;

	strcpy(parked->dir, "/dev/shm/wherry-restore-XXXXXX");
	if (!mkdtemp(parked->dir))
		return err_sys(err, errno, "a folder in /dev/shm");
	snprintf(parked->rom, sizeof(parked->rom), "%s/rom", parked->dir);
	snprintf(parked->serial, sizeof(parked->serial), "%s/serial", parked->dir);
	snprintf(parked->folder, sizeof(parked->folder), "%s/folder", parked->dir);
	snprintf(parked->file, sizeof(parked->file), "%s/file", parked->dir);
	snprintf(parked->disk, sizeof(parked->disk), "%s/disk", parked->dir);
	ret = guest_write_rom(parked->rom, &range, err);
	if (!ret)
		ret = start_qemu(&qemu, parked, QEMU_7_2, BEGINS_ANEW, why, err);
	if (!ret)
		ret = guest_wait(parked->serial, WAIT_MS, err);
	if (!ret)
		ret = fill(&qemu, parked->bytes, err);
	if (!ret)
		ret = put_away(parked, &qemu, err);
	qemu_end(&qemu);
	return ret;
}

static int drop(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

/* @whole_ms: from the command; @link_ms: from the connection, which comes when all is verified */
static int by_wherry(const struct parked *parked, struct qemu *qemu, bool postcopy,
		     double *whole_ms, double *link_ms, struct wh_err *err)
{
	static const char *const capabilities[] = { "postcopy-ram", NULL };
	struct child wherry = { 0 };
	uint64_t begin_ns, link_ns;
	char uri[128], program[PATH_MAX];
	const char *argv[] = { program,
			       "send",
			       "--json",
			       "--from",
			       parked->folder,
			       uri,
			       postcopy ? "--postcopy" : NULL,
			       NULL };
	const char *line;
	int ret;

	snprintf(uri, sizeof(uri), "unix:%s/link", parked->dir);
	ret = built_path(program, sizeof(program), "wherry", err);
	if (!ret && postcopy)
		ret = qemu_capabilities(qemu, capabilities, err);
	if (!ret)
		ret = qemu_migrate_incoming(qemu, uri, err);
	begin_ns = clock_now_ns();
	if (!ret)
		ret = child_start(&wherry, argv, -1, err);
	/* "parked" is the last that it says before it connects */
	if (!ret && child_line(&wherry, &line, WAIT_MS, err) != 1)
		ret = err_set(err, -EPROTO, "wherry send said nothing");
	link_ns = clock_now_ns();
	if (!ret)
		ret = since(begin_ns, parked->serial, 0, whole_ms, err);
	*link_ms = *whole_ms - (double)(link_ns - begin_ns) / 1e6;
	if (!ret && child_wait(&wherry, WAIT_MS, err))
		ret = err_set(err, -EPROTO, "wherry send failed");
	child_end(&wherry);
	return ret ? ret : qemu_wait_status(qemu, "completed", WAIT_MS, err);
}

static int by_qemu(const struct parked *parked, struct qemu *qemu, const char *format, double *ms,
		   struct wh_err *err)
{
	uint64_t begin_ns = clock_now_ns();
	char uri[160];
	int ret;

	snprintf(uri, sizeof(uri), "%s%s", format, parked->file);
	ret = qemu_migrate_incoming(qemu, uri, err);
	return ret ? ret : since(begin_ns, parked->serial, 0, ms, err);
}

static int by_loadvm(const struct parked *parked, struct qemu *qemu, double *ms, struct wh_err *err)
{
	uint64_t begin_ns = clock_now_ns();
	int ret = snapshot(qemu, "snapshot-load", err);

	if (!ret)
		ret = qemu_command(qemu, NULL, err, "cont", NULL);
	return ret ? ret : since(begin_ns, parked->serial, 0, ms, err);
}

static int restore(const struct parked *parked, enum way way, double *whole_ms, double *link_ms,
		   char *why)
{
	struct qemu qemu = { .qmp = -1 };
	struct bench_warm *warm;
	struct wh_err err = { 0 };
	int ret;

	*whole_ms = *link_ms = parked->floor_ms;
	if (way == WAY_FLOOR)
		return 0;
	unlink(parked->serial);
	/* A QEMU that pages may be missing in has none that are huge */
	warm = way == WAY_POSTCOPY ? bench_warm(parked->bytes, 0) : bench_warm(0, parked->bytes);
	ret = start_qemu(&qemu, parked, way == WAY_QEMU_10 ? QEMU_10_0 : QEMU_7_2,
			 way == WAY_LOADVM ? BEGINS_STOPPED : BEGINS_INCOMING, why, &err);
	bench_warm_follow(warm);
	if (!ret && (way == WAY_POSTCOPY || way == WAY_PRECOPY))
		ret = by_wherry(parked, &qemu, way == WAY_POSTCOPY, whole_ms, link_ms, &err);
	else if (!ret && way == WAY_LOADVM)
		ret = by_loadvm(parked, &qemu, whole_ms, &err);
	else if (!ret)
		ret = by_qemu(parked, &qemu, way == WAY_QEMU_10 ? "file:" : "exec:cat ", whole_ms,
			      &err);
	if (way != WAY_POSTCOPY && way != WAY_PRECOPY)
		*link_ms = *whole_ms;
	bench_warm_end(warm);
	qemu_end(&qemu);
	if (ret)
		snprintf(why, 160, "%.150s", err.text);
	return ret;
}

/* What is left of the time when the guest has been put away is for the rounds; @part of it */
static int measure(const struct bench *bench, uint64_t bytes, unsigned part)
{
	struct bench_row whole[WAY_COUNT] = { 0 }, link[WAY_COUNT] = { 0 };
	struct parked parked = { .bytes = bytes };
	struct wh_err err = { 0 };
	double whole_ms, link_ms;
	char variant[32];
	int ret = park(&parked, &err);

	bench_part(1, part);
	for (unsigned round = 0; !ret && bench_again(round); round++)
		for (unsigned way = 0; way < WAY_COUNT; way++) {
			whole[way].side = link[way].side = sides[way];
			if (!bench_wants(bench, sides[way]) ||
			    restore(&parked, way, &whole_ms, &link_ms, whole[way].why))
				continue;
			bench_add(&whole[way], whole_ms);
			bench_add(&link[way], link_ms);
		}
	for (unsigned way = 0; way < WAY_COUNT; way++)
		memcpy(link[way].why, whole[way].why, sizeof(link[way].why));
	snprintf(variant, sizeof(variant), "%.3g GiB", (double)bytes / (double)(1024 * MIB));
	if (ret) {
		fprintf(stderr, "restore: %s: %s\n", variant, err.text);
	} else {
		bench_print(bench, BENCH_RESTORE, variant, whole, WAY_COUNT);
		bench_print(bench, BENCH_RESTORE_LINK, variant, link, WAY_COUNT);
	}
	nftw(parked.dir, drop, 16, FTW_DEPTH | FTW_PHYS);
	return ret;
}

int main(int argc, char **argv)
{
	struct bench bench;
	int ret = 0;

	bench_begin(&bench, "restore", argc, argv);
	if (!bench.sized && bench.bytes > 1024 * MIB)
		ret = measure(&bench, 1024 * MIB, 5);
	return measure(&bench, bench.bytes, 1) || ret ? 1 : 0;
}
