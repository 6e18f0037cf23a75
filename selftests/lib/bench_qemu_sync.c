/* SPDX-License-Identifier: MIT */
#include "selftests/lib/bench_qemu_sync.h"

#include <errno.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/lib/qemu.h"

#define PAGE_BYTES 4096
#define FROM (1u << 20) /* below are the holes of a PC */
#define SLOW 65536	/* bytes a second: the first pass is not over before all is written */
#define LINE 40		/* bytes of a command, at most */
#define BATCH 64	/* commands before their answers are read */
#define SYNC 2		/* the first one only finds everything to be sent */

struct sync {
	struct qemu qemu;
	char folder[40]; /* of the two below */
	char trace[64];
	char qtest[64];
	int fd; /* qtest, -1 */
};

static int start(struct sync *sync, uint64_t bytes, struct wh_err *err)
{
	const char *const caps[] = { "events", NULL };
	struct sockaddr_un addr = { .sun_family = AF_UNIX };
	char size[32], qtest[96];
	const char *const argv[] = { "-machine",
				     "pc",
				     "-S",
				     "-accel",
				     "tcg",
				     "-m",
				     size,
				     "-qtest",
				     qtest,
				     "-qtest-log",
				     "none",
				     "-msg",
				     "timestamp=on",
				     "-D",
				     sync->trace,
				     "-trace",
				     "migration_bitmap_sync*",
				     NULL };
	int ret;

	snprintf(size, sizeof(size), "%" PRIu64 "M", bytes >> 20);
	snprintf(qtest, sizeof(qtest), "unix:%s,server=on,wait=off", sync->qtest);
	ret = qemu_start(&sync->qemu, argv, err);
	if (!ret)
		ret = qemu_capabilities(&sync->qemu, caps, err);
	/* Not as soon as the rest can be sent in that time: pages of the rest are not counted */
	if (!ret)
		ret = qemu_parameter(&sync->qemu, "downtime-limit", 1, err);
	if (ret)
		return ret;
	snprintf(addr.sun_path, sizeof(addr.sun_path), "%s", sync->qtest);
	sync->fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (sync->fd < 0 || connect(sync->fd, (struct sockaddr *)&addr, sizeof(addr)) < 0)
		return err_sys(err, errno, "qtest socket of QEMU");
	return 0;
}

/* Commands, and an answer to each: "OK" and a newline */
static int talk(struct sync *sync, const char *text, size_t length, unsigned answers,
		struct wh_err *err)
{
	char input[256];

	while (length) {
		ssize_t n = send(sync->fd, text, length, MSG_NOSIGNAL);

		if (n < 0)
			return err_sys(err, errno, "qtest");
		text += n;
		length -= (size_t)n;
	}
	while (answers) {
		ssize_t n = read(sync->fd, input, sizeof(input));

		if (n <= 0)
			return err_set(err, -ECONNRESET, "qtest: QEMU is gone");
		for (ssize_t i = 0; i < n; i++)
			answers -= input[i] == '\n' && answers;
	}
	return 0;
}

static int write_pages(struct sync *sync, uint64_t bytes, unsigned every, struct wh_err *err)
{
	char text[BATCH * LINE];
	unsigned count = 0;
	size_t length = 0;
	int ret = 0;

	for (uint64_t at = FROM; every && at < bytes && !ret; at += (uint64_t)every * PAGE_BYTES) {
		length += (size_t)snprintf(text + length, LINE, "writeb 0x%" PRIx64 " 0x1\n", at);
		if (++count < BATCH)
			continue;
		ret = talk(sync, text, length, count, err);
		length = 0;
		count = 0;
	}
	return ret ? ret : talk(sync, text, length, count, err);
}

static int wait_pass(struct sync *sync, int pass, struct wh_err *err)
{
	struct json_object *data, *part;
	int now = 0, ret = 0;

	while (!ret && now < pass) {
		data = NULL;
		ret = qemu_wait_event(&sync->qemu, "MIGRATION_PASS", &data, 120000, err);
		if (!ret && json_object_object_get_ex(data, "pass", &part))
			now = json_object_get_int(part);
		json_object_put(data);
	}
	return ret;
}

/* Lines: PID@SECONDS:NAME, and at the end how many pages were found */
static int read_trace(struct sync *sync, uint64_t pages, double *ms, struct wh_err *err)
{
	FILE *file = fopen(sync->trace, "re");
	double at, begin = 0, end = 0;
	unsigned count = 0;
	uint64_t found = 0;
	char line[256];

	while (file && count < SYNC && fgets(line, sizeof(line), file)) {
		const char *what = strchr(line, ':');

		if (!what || sscanf(line, "%*d@%lf", &at) != 1)
			continue;
		if (!strncmp(what, ":migration_bitmap_sync_start", 28))
			begin = at;
		else if (sscanf(what, ":migration_bitmap_sync_end dirty_pages %" SCNu64, &found))
			end = ++count == SYNC ? at : 0;
	}
	if (file)
		fclose(file);
	if (!end)
		return err_set(err, -ENODATA,
			       "this QEMU has no migration_bitmap_sync_* in its log");
	if (found < pages)
		return err_set(err, -ENODATA, "QEMU found %" PRIu64 " pages written, not %" PRIu64,
			       found, pages);
	*ms = (end - begin) * 1e3;
	return 0;
}

static int measure(struct sync *sync, uint64_t bytes, unsigned every, double *ms,
		   struct wh_err *err)
{
	uint64_t pages = every ? (bytes - FROM) / PAGE_BYTES / every : 0;
	int ret = start(sync, bytes, err);

	if (!ret)
		ret = qemu_parameter(&sync->qemu, "max-bandwidth", SLOW, err);
	if (!ret)
		ret = qemu_migrate(&sync->qemu, "exec:cat >/dev/null", err);
	if (!ret)
		ret = wait_pass(sync, 1, err);
	if (!ret)
		ret = write_pages(sync, bytes, every, err);
	if (!ret)
		ret = qemu_parameter(&sync->qemu, "max-bandwidth", UINT64_C(1) << 40, err);
	if (!ret)
		ret = wait_pass(sync, SYNC, err);
	return ret ? ret : read_trace(sync, pages, ms, err);
}

int bench_qemu_sync(uint64_t bytes, unsigned every, double *ms, struct wh_err *err)
{
	struct sync sync = { .folder = "/tmp/wherry-bench-sync-XXXXXX", .fd = -1 };
	int ret;

	if (!mkdtemp(sync.folder))
		return err_sys(err, errno, "folder in /tmp");
	snprintf(sync.trace, sizeof(sync.trace), "%s/trace", sync.folder);
	snprintf(sync.qtest, sizeof(sync.qtest), "%s/qtest", sync.folder);
	ret = measure(&sync, bytes, every, ms, err);
	if (sync.fd >= 0)
		close(sync.fd);
	qemu_end(&sync.qemu);
	unlink(sync.trace);
	unlink(sync.qtest);
	rmdir(sync.folder);
	return ret;
}
