/* SPDX-License-Identifier: MIT */
#include "selftests/lib/receiver.h"

#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <limits.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

#include "base/err.h"

#define LISTEN_MS 20000
#define OPTIONS_MAX 32

int built_path(char *path, size_t size, const char *name, struct wh_err *err)
{
	char self[PATH_MAX];
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *at;

	if (n < 0)
		return err_sys(err, errno, "/proc/self/exe");
	self[n] = '\0';
	at = strstr(self, "/selftests/");
	if (!at || (size_t)snprintf(path, size, "%.*s/%s", (int)(at - self), self, name) >= size)
		return err_set(err, -ENOENT, "%.150s is no test in a folder that was built into",
			       self);
	return 0;
}

int image_open(struct image *image, const char *path, struct wh_err *err)
{
	int fd = open(path, O_RDONLY | O_CLOEXEC);
	struct stat st;
	void *at;

	if (fd < 0 || fstat(fd, &st) < 0) {
		int ret = err_sys(err, errno, "%s", path);

		if (fd >= 0)
			close(fd);
		return ret;
	}
	at = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_SHARED, fd, 0);
	close(fd);
	if (at == MAP_FAILED)
		return err_sys(err, errno, "%s: mmap", path);
	*image = (struct image){ .at = at, .length = (uint64_t)st.st_size };
	return 0;
}

void image_close(struct image *image)
{
	if (image->at)
		munmap((void *)(uintptr_t)image->at, image->length);
	*image = (struct image){ 0 };
}

int image_compare(const struct image *sent, const struct image *got, struct wh_err *err)
{
	uint64_t at = 0;
	uint64_t pages = 0;
	uint64_t first = UINT64_MAX;

	if (sent->length != got->length)
		return err_set(err, -EILSEQ, "0x%llx bytes were sent, 0x%llx are there",
			       (unsigned long long)sent->length, (unsigned long long)got->length);
	for (; at < sent->length; at += 4096) {
		uint64_t length = sent->length - at < 4096 ? sent->length - at : 4096;

		if (!memcmp(sent->at + at, got->at + at, length))
			continue;
		pages++;
		for (uint64_t i = at; first == UINT64_MAX; i++)
			if (sent->at[i] != got->at[i])
				first = i;
	}
	if (!pages)
		return 0;
	return err_set(err, -EILSEQ,
		       "at 0x%llx 0x%02x was sent, 0x%02x is there; %llu pages differ",
		       (unsigned long long)first, sent->at[first], got->at[first],
		       (unsigned long long)pages);
}

static int wait_listening(struct receiver *receiver, struct wh_err *err)
{
	struct json_object *object = NULL, *uri;
	const char *line;
	char text[200];
	int ret;

	ret = child_line(&receiver->child, &line, LISTEN_MS, err);
	if (ret < 0)
		return ret;
	if (ret)
		object = json_tokener_parse(line);
	if (json_object_object_get_ex(object, "uri", &uri)) {
		snprintf(receiver->uri, sizeof(receiver->uri), "%s", json_object_get_string(uri));
		ret = 0;
	} else {
		(void)child_wait(&receiver->child, LISTEN_MS, NULL);
		ret = err_set(err, -ECHILD, "it does not listen: %s",
			      child_said(&receiver->child, text, sizeof(text)));
	}
	json_object_put(object);
	return ret;
}

int receiver_start(struct receiver *receiver, const char *listen, const char *out,
		   const char *const options[], struct wh_err *err)
{
	const char *argv[OPTIONS_MAX] = { "", "receive", listen, "--out", out, "--json" };
	char program[PATH_MAX];
	unsigned n = 6;
	int ret;

	memset(receiver, 0, sizeof(*receiver));
	snprintf(receiver->out, sizeof(receiver->out), "%s", out);
	ret = built_path(program, sizeof(program), "wherry", err);
	if (ret)
		return ret;
	argv[0] = program;
	while (options && *options && n < OPTIONS_MAX - 1)
		argv[n++] = *options++;
	ret = child_start(&receiver->child, argv, -1, err);
	if (ret)
		return ret;
	ret = wait_listening(receiver, err);
	if (ret)
		receiver_end(receiver);
	return ret;
}

int receiver_wait(struct receiver *receiver, int timeout_ms, struct wh_err *err)
{
	char path[sizeof(receiver->out) + 16];
	char text[220];
	int ret = child_wait(&receiver->child, timeout_ms, err);

	snprintf(path, sizeof(path), "%s/manifest.json", receiver->out);
	if (ret == 0) {
		receiver->manifest = json_object_from_file(path);
		if (!receiver->manifest)
			ret = err_set(err, -ENOENT, "%s: %s", path, json_util_get_last_err());
	} else if (ret > 0) {
		err_set(err, -ECHILD, "%s", child_said(&receiver->child, text, sizeof(text)));
	}
	return ret;
}

void receiver_end(struct receiver *receiver)
{
	child_end(&receiver->child);
	json_object_put(receiver->manifest);
	memset(receiver, 0, sizeof(*receiver));
}

uint64_t receiver_figure(const struct receiver *receiver, const char *name)
{
	struct json_object *part;

	if (!json_object_object_get_ex(receiver->manifest, "migration", &part) ||
	    !json_object_object_get_ex(part, name, &part))
		return 0;
	return json_object_get_uint64(part);
}

const char *receiver_machine(const struct receiver *receiver)
{
	struct json_object *part;

	return json_object_object_get_ex(receiver->manifest, "machine", &part) ?
		       json_object_get_string(part) :
		       "";
}

/* NULL if there is none of this name */
static struct json_object *find_block(const struct receiver *receiver, const char *block)
{
	struct json_object *blocks, *name;

	if (!json_object_object_get_ex(receiver->manifest, "blocks", &blocks))
		return NULL;
	for (size_t i = 0; i < json_object_array_length(blocks); i++) {
		struct json_object *each = json_object_array_get_idx(blocks, i);

		if (json_object_object_get_ex(each, "name", &name) &&
		    !strcmp(json_object_get_string(name), block))
			return each;
	}
	return NULL;
}

uint64_t receiver_block_figure(const struct receiver *receiver, const char *block, const char *name)
{
	struct json_object *part;

	return json_object_object_get_ex(find_block(receiver, block), name, &part) ?
		       json_object_get_uint64(part) :
		       0;
}

static int check_digest(const struct image *image, const char *expected, struct wh_err *err)
{
	XXH128_canonical_t canonical;
	char text[33];

	XXH128_canonicalFromHash(&canonical, XXH3_128bits(image->at, image->length));
	for (size_t i = 0; i < sizeof(canonical.digest); i++)
		snprintf(text + 2 * i, 3, "%02x", canonical.digest[i]);
	if (strcmp(text, expected))
		return err_set(err, -EILSEQ, "the manifest says %s, the file is %s", expected,
			       text);
	return 0;
}

int receiver_open(const struct receiver *receiver, const char *block, struct image *image,
		  struct wh_err *err)
{
	struct json_object *object = find_block(receiver, block);
	struct json_object *file, *digest;
	char path[sizeof(receiver->out) + 256];
	int ret;

	if (!json_object_object_get_ex(object, "file", &file) ||
	    !json_object_object_get_ex(object, "xxh3_128", &digest))
		return err_set(err, -ENOENT, "block '%s' is not in the manifest", block);
	snprintf(path, sizeof(path), "%s/%.200s", receiver->out, json_object_get_string(file));
	ret = image_open(image, path, err);
	if (ret)
		return ret;
	ret = check_digest(image, json_object_get_string(digest), err);
	if (ret)
		image_close(image);
	return ret;
}
