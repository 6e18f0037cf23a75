/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: a QEMU as a process.
 */
#include "cli/drill_qemu.h"

#include "cli/qmpcall.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <signal.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

#define MONITORS 2u
#define ARGUMENTS_MAX 32u

/* Only what may be called after fork() */
static void __attribute__((noreturn))
exec_qemu(const char *const argv[], const int *keep, int said, pid_t parent)
{
	int null = open("/dev/null", O_RDWR);

	prctl(PR_SET_PDEATHSIG, SIGKILL);
	if (getppid() != parent || dup2(null, STDIN_FILENO) < 0 || dup2(said, STDOUT_FILENO) < 0 ||
	    dup2(said, STDERR_FILENO) < 0)
		_exit(126);
	for (unsigned i = 0; i < MONITORS; i++)
		(void)fcntl(keep[i], F_SETFD, 0);
	execvp(argv[0], (char *const *)(uintptr_t)argv);
	dprintf(STDERR_FILENO, "%s: %s", argv[0], strerrordesc_np(errno));
	_exit(127);
}

int drill_qemu_start(struct drill_qemu *qemu, const char *binary, const char *const options[])
{
	const char *argv[ARGUMENTS_MAX] = {
		binary, "-nodefaults", "-display", "none", "-M", "none"
	};
	char chardev[MONITORS][64], mon[MONITORS][64];
	int pair[MONITORS][2];
	pid_t parent = getpid();
	unsigned n = 6;

	*qemu = (struct drill_qemu){ .monitor = { -1, -1 } };
	qemu->said = memfd_create("said", MFD_CLOEXEC);
	if (qemu->said < 0 || fcntl(qemu->said, F_SETFL, O_APPEND) < 0)
		return -errno;
	for (unsigned i = 0; i < MONITORS; i++) {
		if (socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, pair[i]) < 0)
			return -errno;
		snprintf(chardev[i], sizeof(chardev[i]), "socket,id=c%u,fd=%d", i, pair[i][1]);
		snprintf(mon[i], sizeof(mon[i]), "chardev=c%u,mode=control", i);
		argv[n++] = "-chardev";
		argv[n++] = chardev[i];
		argv[n++] = "-mon";
		argv[n++] = mon[i];
		qemu->monitor[i] = pair[i][0];
	}
	while (*options && n < ARGUMENTS_MAX - 1)
		argv[n++] = *options++;
	qemu->pid = fork();
	if (!qemu->pid)
		exec_qemu(argv, (int[]){ pair[0][1], pair[1][1] }, qemu->said, parent);
	for (unsigned i = 0; i < MONITORS; i++)
		close(pair[i][1]);
	return qemu->pid < 0 ? -errno : 0;
}

int drill_qemu_end(struct drill_qemu *qemu)
{
	int status = 0;

	if (qemu->pid <= 0)
		return 0;
	/* its monitor may have closed a moment before the rest of it */
	for (unsigned i = 0; i < 100 && waitpid(qemu->pid, &status, WNOHANG) == 0; i++) {
		if (i == 50)
			kill(qemu->pid, SIGKILL);
		usleep(2000);
	}
	qemu->pid = 0;
	return status;
}

void drill_qemu_said(const struct drill_qemu *qemu, char *text, size_t room)
{
	struct stat st = { 0 };
	ssize_t n = 0;

	if (!room)
		return;
	if (qemu->said > 0 && fstat(qemu->said, &st) == 0) {
		off_t most = (off_t)room - 1;

		n = pread(qemu->said, text, room - 1, st.st_size > most ? st.st_size - most : 0);
	}
	text[n > 0 ? n : 0] = '\0';
	while (n > 0 && text[n - 1] == '\n')
		text[--n] = '\0';
	for (char *c = text; *c; c++) /* it goes to a terminal */
		if ((unsigned char)*c < ' ' || *c == 127)
			*c = *c == '\n' ? '|' : '?';
}

int drill_qemu_major(const char *binary, struct wh_err *err)
{
	static const char *const options[] = { NULL };
	struct json_object *version = NULL, *part;
	struct drill_qemu qemu;
	struct qmpcall call;
	int ret = drill_qemu_start(&qemu, binary, options);

	err->code = ret;
	snprintf(err->text, sizeof(err->text), "%s", ret < 0 ? strerrordesc_np(-ret) : "");
	if (!ret)
		ret = qmpcall_attach(&call, qemu.monitor[0], false, err);
	if (!ret) {
		ret = qmpcall_execute(&call, "query-version", NULL, &version, err);
		if (!ret && json_object_object_get_ex(version, "qemu", &part) &&
		    json_object_object_get_ex(part, "major", &part))
			ret = json_object_get_int(part);
		json_object_put(version);
		qmpcall_close(&call);
	} else {
		drill_qemu_said(&qemu, err->text, sizeof(err->text));
	}
	if (qemu.pid > 0)
		kill(qemu.pid, SIGKILL);
	(void)drill_qemu_end(&qemu);
	if (qemu.monitor[1] >= 0)
		close(qemu.monitor[1]);
	if (qemu.said >= 0)
		close(qemu.said);
	return ret;
}
