/* SPDX-License-Identifier: MIT */
/*
 * wherry receive --force: the capture that is there. Its manifest is what makes it one, and names
 * its files; so the new one's files have other names, its manifest comes in the place of the old
 * one by rename, and only then do the old files go. Whenever that ends, one of the two is whole.
 */
#include "cli/receive.h"

#include <errno.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

#define MANIFEST_MAX (4 << 20)

/* File number @at of what it lists, "" where there is no name of one; NULL behind the last */
static const char *name_at(json_object *manifest, size_t at)
{
	const char *member = at % 2 ? "file" : "pages";
	json_object *part = NULL, *name;
	size_t block = (at - 1) / 2;

	if (!at) {
		json_object_object_get_ex(manifest, "device_state", &part);
		member = "file";
	} else if (!json_object_object_get_ex(manifest, "blocks", &part) ||
		   !json_object_is_type(part, json_type_array) ||
		   block >= json_object_array_length(part)) {
		return NULL;
	} else {
		part = json_object_array_get_idx(part, block);
	}
	if (!json_object_object_get_ex(part, member, &name) ||
	    !json_object_is_type(name, json_type_string) ||
	    strchr(json_object_get_string(name), '/') ||
	    !strcmp(json_object_get_string(name), MANIFEST_NAME))
		return "";
	return json_object_get_string(name);
}

void receive_old_open(struct receive_out *out)
{
	int fd = openat(out->fd, MANIFEST_NAME, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	struct stat st;

	out->replaces = true;
	if (fd < 0)
		return;
	if (fstat(fd, &st) == 0 && S_ISREG(st.st_mode) && st.st_size <= MANIFEST_MAX)
		out->old = json_object_from_fd(fd);
	close(fd);
}

bool receive_old_has(const struct receive_out *out, const char *file)
{
	const char *name;

	for (size_t i = 0; out->old && (name = name_at(out->old, i)); i++)
		if (!strcmp(name, file))
			return true;
	return false;
}

void receive_old_drop(struct receive_out *out)
{
	const char *name;

	for (size_t i = 0; out->old && (name = name_at(out->old, i)); i++)
		if (*name)
			unlinkat(out->fd, name, 0);
}
