/* SPDX-License-Identifier: MIT */
#include "selftests/lib/replay.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <unistd.h>

#include "base/err.h"

#define VECTORS "selftests/vectors/qemu-7.2/"
#define END_BYTES 19u /* an empty END section of ram, footer, EOF */
#define RP_REQ_PAGES_ID 3
#define RP_LENGTH_MAX 512u

int replay_open(struct replay *replay, struct wh_err *err)
{
	memset(replay, 0, sizeof(*replay));
	strcpy(replay->dir, "/dev/shm/wherry-replay-XXXXXX");
	if (!mkdtemp(replay->dir))
		return err_sys(err, errno, "%s", replay->dir);
	snprintf(replay->out, sizeof(replay->out), "%s/out", replay->dir);
	snprintf(replay->socket, sizeof(replay->socket), "%s/link", replay->dir);
	snprintf(replay->listen, sizeof(replay->listen), "unix:%s", replay->socket);
	return 0;
}

static int drop_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

void replay_drop(const char *path)
{
	nftw(path, drop_one, 16, FTW_DEPTH | FTW_PHYS);
}

void replay_close(struct replay *replay)
{
	receiver_end(&replay->receiver);
	replay_drop(replay->dir);
}

int replay_start(struct replay *replay, const char *const options[], struct wh_err *err)
{
	return receiver_start(&replay->receiver, replay->listen, replay->out, options, err);
}

int replay_dial(const struct replay *replay, struct wh_err *err)
{
	struct sockaddr_un address = { .sun_family = AF_UNIX };
	int fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	int ret;

	snprintf(address.sun_path, sizeof(address.sun_path), "%s", replay->socket);
	if (fd >= 0 && !connect(fd, (const struct sockaddr *)&address, sizeof(address)))
		return fd;
	ret = err_sys(err, errno, "connect %s", replay->socket);
	if (fd >= 0)
		close(fd);
	return ret;
}

void replay_say(int fd, const uint8_t *bytes, size_t length)
{
	while (length) {
		ssize_t n = send(fd, bytes, length, MSG_NOSIGNAL);

		if (n < 0)
			return;
		bytes += n;
		length -= (size_t)n;
	}
}

int replay_hear_shut(int fd)
{
	uint8_t bytes[65536];
	size_t have = 0;
	ssize_t n;

	while (have < sizeof(bytes) && (n = recv(fd, bytes + have, sizeof(bytes) - have, 0)) > 0)
		have += (size_t)n;
	if (have < 8 || memcmp(bytes + have - 8, "\0\1\0\4\0\0\0", 7))
		return -1;
	return bytes[have - 1];
}

int replay_read(const char *name, struct image *image, struct wh_err *err)
{
	char path[128];

	snprintf(path, sizeof(path), VECTORS "%s", name);
	return image_open(image, path, err);
}

/* Until it asks for a page: before that nothing may come on the urgent channel */
static int hear_request(int fd, struct wh_err *err)
{
	uint8_t message[4 + RP_LENGTH_MAX];

	for (;;) {
		size_t length;

		if (recv(fd, message, 4, MSG_WAITALL) != 4)
			return err_set(err, -EPROTO, "it never asks for a page");
		length = (size_t)message[2] << 8 | message[3];
		if (length > RP_LENGTH_MAX ||
		    recv(fd, message + 4, length, MSG_WAITALL) != (ssize_t)length)
			return err_set(err, -EPROTO, "a message of %zu bytes", length);
		if (message[1] == RP_REQ_PAGES_ID)
			return 0;
	}
}

static int play(struct replay *replay, const struct image *stream, const struct image *urgent,
		int fd, int urgent_fd, struct wh_err *err)
{
	size_t tail = urgent->at ? END_BYTES : 0;
	int ret;

	replay_say(fd, stream->at, stream->length - tail);
	if (urgent->at) {
		/* Behind the end it would not ask any more */
		ret = hear_request(fd, err);
		if (ret)
			return ret;
		replay_say(urgent_fd, urgent->at, urgent->length);
		replay_say(fd, stream->at + stream->length - tail, tail);
	}
	ret = replay_hear_shut(fd);
	if (ret > 0)
		return err_set(err, -ECONNABORTED, "it says SHUT %d", ret);
	return receiver_wait(&replay->receiver, REPLAY_WAIT_MS, err);
}

static int connect_and_play(struct replay *replay, const struct image *stream,
			    const struct image *urgent, struct wh_err *err)
{
	int fd = replay_dial(replay, err);
	int urgent_fd = -1;
	int ret = fd;

	if (ret >= 0 && urgent->at)
		ret = urgent_fd = replay_dial(replay, err);
	if (ret >= 0)
		ret = play(replay, stream, urgent, fd, urgent_fd, err);
	if (fd >= 0)
		close(fd);
	if (urgent_fd >= 0)
		close(urgent_fd);
	return ret;
}

int replay_all(struct replay *replay, const char *name, const char *const options[],
	       struct wh_err *err)
{
	struct image stream = { 0 }, urgent = { 0 };
	char file[64];
	int ret;

	snprintf(file, sizeof(file), "%s.stream", name);
	ret = replay_read(file, &stream, err);
	if (ret)
		return ret;
	snprintf(file, sizeof(file), "%s.urgent", name);
	(void)replay_read(file, &urgent, NULL); /* most have none */
	ret = replay_start(replay, options, err);
	if (!ret)
		ret = connect_and_play(replay, &stream, &urgent, err);
	image_close(&stream);
	image_close(&urgent);
	return ret;
}

int replay_check_sentence(const struct replay *replay, const char *because, struct wh_err *err)
{
	char text[1024];

	child_said(&replay->receiver.child, text, sizeof(text));
	if (strncmp(text, "wherry receive: ", 16) || strchr(text, '\n'))
		return err_set(err, -EPROTO, "more or less than one sentence: %.180s", text);
	if (!strstr(text, because))
		return err_set(err, -EPROTO, "not a word of '%s': %.180s", because, text);
	return 0;
}

int replay_check_refused(struct replay *replay, const char *because, struct wh_err *err)
{
	int ret = receiver_wait(&replay->receiver, REPLAY_WAIT_MS, err);
	char path[128];

	if (ret < 0)
		return ret;
	if (ret != 1)
		return err_set(err, -EPROTO, "exit status %d, not 1", ret);
	ret = replay_check_sentence(replay, because, err);
	snprintf(path, sizeof(path), "%s/manifest.json", replay->out);
	if (!ret && !access(path, F_OK))
		ret = err_set(err, -EEXIST, "there is a manifest");
	receiver_end(&replay->receiver);
	return ret;
}
