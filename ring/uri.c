/* SPDX-License-Identifier: MIT */
/*
 * Codec: addresses of links as text. Strict, since a mistyped address that is
 * understood some other way connects a guest to the wrong place.
 */
#include "ring/uri.h"

#include "base/err.h"

#include <arpa/inet.h>
#include <assert.h>
#include <errno.h>
#include <limits.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>

#define PORT_MAX 65535u
#define VSOCK_PORT_MAX (UINT32_MAX - 1) /* the last one means "any" to the kernel */

static bool is_digit(char c)
{
	return c >= '0' && c <= '9';
}

/* Decimal digits and nothing else, without leading zeros: one number has one text. */
static bool number_parse(const char *text, uint32_t max, uint32_t *out)
{
	uint64_t value = 0;

	if (!is_digit(text[0]) || (text[0] == '0' && text[1]))
		return false;
	for (; is_digit(*text) && value <= max; text++)
		value = value * 10 + (uint64_t)(*text - '0');
	*out = (uint32_t)value;
	return *text == '\0' && value <= max;
}

static bool is_host_char(char c)
{
	return is_digit(c) || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c == '.' ||
	       c == '-' || c == '_';
}

/* An address of IPv6, perhaps with %scope. */
static bool is_v6(const char *host)
{
	char address[INET6_ADDRSTRLEN];
	size_t length = strcspn(host, "%");
	struct in6_addr parsed;

	if (length >= sizeof(address) || strcmp(host + length, "%") == 0)
		return false;
	memcpy(address, host, length);
	address[length] = '\0';
	return inet_pton(AF_INET6, address, &parsed) == 1;
}

static int tcp_port(struct uri *uri, const char *port, const char *text, struct wh_err *err)
{
	if (!number_parse(port, PORT_MAX, &uri->port))
		return err_set(err, -EINVAL,
			       "address '%.100s': expected a port from 0 to %u, not '%.20s'", text,
			       PORT_MAX, port);
	return 0;
}

/*
 * Things like 10.1 or 0x7f000001 are addresses to the resolver (of 10.0.0.1, 127.0.0.1),
 * and slips of the pen to everybody else.
 */
static bool is_bad_v4(const char *host)
{
	struct in_addr parsed;

	if (inet_pton(AF_INET, host, &parsed) == 1)
		return false;
	return (host[0] && host[strspn(host, "0123456789.")] == '\0') || inet_aton(host, &parsed);
}

/* tcp:[ */
static int v6_parse(struct uri *uri, const char *rest, const char *text, struct wh_err *err)
{
	size_t length = strcspn(rest, "]");

	if (rest[length] != ']' || rest[length + 1] != ':')
		return err_set(err, -EINVAL,
			       "address '%.100s': expected ']:' and a port behind the IPv6 address",
			       text);
	if (length >= sizeof(uri->host))
		return err_set(err, -EINVAL, "address '%.100s': the host has %zu bytes, %zu fit",
			       text, length, sizeof(uri->host) - 1);
	memcpy(uri->host, rest, length);
	if (!is_v6(uri->host))
		return err_set(err, -EINVAL,
			       "address '%.100s': expected an IPv6 address in the brackets", text);
	return tcp_port(uri, rest + length + 2, text, err);
}

static int tcp_parse(struct uri *uri, const char *rest, const char *text, struct wh_err *err)
{
	size_t length;

	if (rest[0] == '[')
		return v6_parse(uri, rest + 1, text, err);
	length = strcspn(rest, ":");
	if (rest[length] != ':')
		return err_set(err, -EINVAL, "address '%.100s': expected %.5sHOST:PORT", text,
			       strncmp(text, "rdma", 4) ? "tcp:" : "rdma:");
	if (strchr(rest + length + 1, ':'))
		return err_set(err, -EINVAL,
			       "address '%.100s': a second ':' in it; an IPv6 address is put in "
			       "brackets, tcp:[::1]:PORT",
			       text);
	if (length >= sizeof(uri->host))
		return err_set(err, -EINVAL, "address '%.100s': the host has %zu bytes, %zu fit",
			       text, length, sizeof(uri->host) - 1);
	for (size_t i = 0; i < length; i++)
		if (!is_host_char(rest[i]))
			return err_set(err, -EINVAL,
				       "address '%.100s': byte 0x%02x cannot be in a host's name",
				       text, (unsigned char)rest[i]);
	memcpy(uri->host, rest, length);
	if (is_bad_v4(uri->host))
		return err_set(err, -EINVAL,
			       "address '%.100s': expected four numbers up to 255 in an IPv4 address",
			       text);
	return tcp_port(uri, rest + length + 1, text, err);
}

static int unix_parse(struct uri *uri, const char *rest, const char *text, struct wh_err *err)
{
	size_t length = strlen(rest);

	if (length == 0)
		return err_set(err, -EINVAL, "address '%.100s': expected unix:PATH", text);
	if (length >= sizeof(uri->path))
		return err_set(err, -EINVAL,
			       "address '%.100s': the path has %zu bytes, a unix socket's has at "
			       "most %zu",
			       text, length, sizeof(uri->path) - 1);
	memcpy(uri->path, rest, length);
	return 0;
}

static int fd_parse(struct uri *uri, const char *rest, const char *text, struct wh_err *err)
{
	uint32_t fd;

	if (!number_parse(rest, INT_MAX, &fd))
		return err_set(err, -EINVAL,
			       "address '%.100s': expected fd:N, N the number of an open socket",
			       text);
	uri->fd = (int)fd;
	return 0;
}

static int vsock_parse(struct uri *uri, const char *rest, const char *text, struct wh_err *err)
{
	size_t length = strcspn(rest, ":");
	char cid[16] = "";

	if (rest[length] != ':')
		return err_set(err, -EINVAL, "address '%.100s': expected vsock:CID:PORT", text);
	if (length < sizeof(cid))
		memcpy(cid, rest, length);
	if (!number_parse(cid, UINT32_MAX, &uri->cid))
		return err_set(err, -EINVAL,
			       "address '%.100s': expected a context id from 0 to %u before the port",
			       text, UINT32_MAX);
	if (!number_parse(rest + length + 1, VSOCK_PORT_MAX, &uri->port))
		return err_set(err, -EINVAL,
			       "address '%.100s': expected a port from 0 to %u, not '%.20s'", text,
			       VSOCK_PORT_MAX, rest + length + 1);
	return 0;
}

static const struct {
	const char *prefix;
	int (*parse)(struct uri *uri, const char *rest, const char *text, struct wh_err *err);
} uri_kinds[] = {
	[URI_TCP] = { "tcp:", tcp_parse },   [URI_UNIX] = { "unix:", unix_parse },
	[URI_FD] = { "fd:", fd_parse },	     [URI_VSOCK] = { "vsock:", vsock_parse },
	[URI_RDMA] = { "rdma:", tcp_parse },
};
static_assert(sizeof(uri_kinds) / sizeof(uri_kinds[0]) == URI_KIND_COUNT, "a row a kind");

int uri_parse(struct uri *uri, const char *text, struct wh_err *err)
{
	for (unsigned kind = 0; kind < URI_KIND_COUNT; kind++) {
		size_t length = strlen(uri_kinds[kind].prefix);

		if (strncmp(text, uri_kinds[kind].prefix, length) != 0)
			continue;
		*uri = (struct uri){ .kind = (enum uri_kind)kind, .fd = -1 };
		return uri_kinds[kind].parse(uri, text + length, text, err);
	}
	return err_set(err, -EINVAL,
		       "address '%.100s': expected tcp:HOST:PORT, tcp:[IPV6]:PORT, unix:PATH, "
		       "vsock:CID:PORT, fd:N or rdma:HOST:PORT",
		       text);
}

void uri_format(const struct uri *uri, char *text, size_t room)
{
	bool brackets = strchr(uri->host, ':') != NULL;

	switch (uri->kind) {
	case URI_TCP:
	case URI_RDMA:
		snprintf(text, room, "%s:%s%s%s:%u", uri->kind == URI_TCP ? "tcp" : "rdma",
			 brackets ? "[" : "", uri->host, brackets ? "]" : "", uri->port);
		return;
	case URI_UNIX:
		snprintf(text, room, "unix:%s", uri->path);
		return;
	case URI_FD:
		snprintf(text, room, "fd:%d", uri->fd);
		return;
	case URI_VSOCK:
		snprintf(text, room, "vsock:%u:%u", uri->cid, uri->port);
		return;
	case URI_KIND_COUNT:
		break;
	}
	snprintf(text, room, "?");
}
