/* SPDX-License-Identifier: MIT */
/*
 * Edge: the resolver, and socket addresses of every family as one kind of thing.
 */
#include "ring/address.h"

#include "base/err.h"

#include <arpa/inet.h>
#include <errno.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <string.h>
#include <sys/un.h>

#include <linux/vm_sockets.h>

static struct sockaddr_in *address_v4(struct address *address)
{
	return (struct sockaddr_in *)(void *)&address->at;
}

static struct sockaddr_in6 *address_v6(struct address *address)
{
	return (struct sockaddr_in6 *)(void *)&address->at;
}

static struct sockaddr_vm *address_vm(struct address *address)
{
	return (struct sockaddr_vm *)(void *)&address->at;
}

uint32_t address_port(const struct address *address)
{
	struct address copy = *address;

	switch (address->at.ss_family) {
	case AF_INET:
		return ntohs(address_v4(&copy)->sin_port);
	case AF_INET6:
		return ntohs(address_v6(&copy)->sin6_port);
	case AF_VSOCK:
		return address_vm(&copy)->svm_port;
	default:
		return 0;
	}
}

void address_set_port(struct address *address, uint32_t port)
{
	switch (address->at.ss_family) {
	case AF_INET:
		address_v4(address)->sin_port = htons((uint16_t)port);
		break;
	case AF_INET6:
		address_v6(address)->sin6_port = htons((uint16_t)port);
		break;
	case AF_VSOCK:
		address_vm(address)->svm_port = port;
		break;
	default:
		break;
	}
}

void address_format(const struct address *address, char text[ADDRESS_TEXT])
{
	struct address copy = *address;

	switch (address->at.ss_family) {
	case AF_INET:
		inet_ntop(AF_INET, &address_v4(&copy)->sin_addr, text, ADDRESS_TEXT);
		break;
	case AF_INET6:
		inet_ntop(AF_INET6, &address_v6(&copy)->sin6_addr, text, ADDRESS_TEXT);
		break;
	case AF_VSOCK:
		snprintf(text, ADDRESS_TEXT, "context %u", address_vm(&copy)->svm_cid);
		break;
	case AF_UNIX:
		snprintf(text, ADDRESS_TEXT, "%s",
			 ((const struct sockaddr_un *)(const void *)&copy.at)->sun_path);
		break;
	default:
		snprintf(text, ADDRESS_TEXT, "family %d", address->at.ss_family);
		break;
	}
}

static void address_unix(struct address *address, const char *path)
{
	struct sockaddr_un name = { .sun_family = AF_UNIX };

	/* uri_parse() has checked the length; both arrays end in a 0 */
	memcpy(name.sun_path, path, strnlen(path, sizeof(name.sun_path) - 1));
	memcpy(&address->at, &name, sizeof(name));
	address->length = sizeof(name);
}

static void address_vsock(struct address *address, uint32_t cid, uint32_t port)
{
	struct sockaddr_vm name = {
		.svm_family = AF_VSOCK,
		.svm_cid = cid,
		.svm_port = port,
	};

	memcpy(&address->at, &name, sizeof(name));
	address->length = sizeof(name);
}

/* The two wildcards; they do not overlap, since listeners set IPV6_V6ONLY. */
static int address_every(struct address *addresses, unsigned room)
{
	struct sockaddr_in6 v6 = { .sin6_family = AF_INET6, .sin6_addr = IN6ADDR_ANY_INIT };
	struct sockaddr_in v4 = { .sin_family = AF_INET, .sin_addr.s_addr = INADDR_ANY };

	if (room > 0) {
		memcpy(&addresses[0].at, &v6, sizeof(v6));
		addresses[0].length = sizeof(v6);
	}
	if (room > 1) {
		memcpy(&addresses[1].at, &v4, sizeof(v4));
		addresses[1].length = sizeof(v4);
	}
	return 2;
}

static int address_unresolved(int code, const char *host, struct wh_err *err)
{
	switch (code) {
	case EAI_SYSTEM:
		return err_sys(err, errno, "resolve host '%s'", host);
	case EAI_MEMORY:
		return err_set(err, -ENOMEM, "resolve host '%s': no memory", host);
	case EAI_AGAIN:
		return err_set(err, -EAGAIN, "resolve host '%s': the name server did not answer",
			       host);
	default:
		return err_set(err, -ENOENT, "resolve host '%s': %s", host, gai_strerror(code));
	}
}

/* /etc/hosts may well name one address twice */
static bool address_known(const struct address *addresses, int count, const struct addrinfo *info)
{
	for (int i = 0; i < count; i++)
		if (addresses[i].length == info->ai_addrlen &&
		    memcmp(&addresses[i].at, info->ai_addr, info->ai_addrlen) == 0)
			return true;
	return false;
}

static int address_names(const char *host, struct address *addresses, unsigned room,
			 struct wh_err *err)
{
	const struct addrinfo hints = { .ai_family = AF_UNSPEC, .ai_socktype = SOCK_STREAM };
	struct addrinfo *list;
	int count = 0;
	int code;

	code = getaddrinfo(host, NULL, &hints, &list);
	if (code != 0)
		return address_unresolved(code, host, err);
	for (struct addrinfo *info = list; info && (unsigned)count < room; info = info->ai_next) {
		if (info->ai_addrlen > sizeof(addresses[count].at) ||
		    address_known(addresses, count, info))
			continue;
		memcpy(&addresses[count].at, info->ai_addr, info->ai_addrlen);
		addresses[count].length = info->ai_addrlen;
		count++;
	}
	freeaddrinfo(list);
	if (count == 0)
		return err_set(err, -ENOENT, "resolve host '%s': it has no address", host);
	return count;
}

int address_resolve(const struct uri *uri, bool listening, struct address *addresses, unsigned room,
		    struct wh_err *err)
{
	int count = 1;

	memset(addresses, 0, room * sizeof(*addresses));
	switch (uri->kind) {
	case URI_UNIX:
		address_unix(&addresses[0], uri->path);
		return 1;
	case URI_VSOCK:
		if (!listening && uri->port == 0)
			return err_set(err, -EINVAL, "vsock:%u:0: port 0 is only for listening",
				       uri->cid);
		address_vsock(&addresses[0], uri->cid, uri->port ? uri->port : VMADDR_PORT_ANY);
		return 1;
	case URI_TCP:
	case URI_RDMA:
		break;
	case URI_FD:
	case URI_KIND_COUNT:
		return err_set(err, -EINVAL, "address of kind %d has no name to resolve",
			       uri->kind);
	}
	if (!listening && !uri->host[0])
		return err_set(err, -EINVAL, "tcp::%u: expected a host to connect to", uri->port);
	if (!listening && uri->port == 0)
		return err_set(err, -EINVAL, "tcp:%.200s:0: port 0 is only for listening",
			       uri->host);
	count = uri->host[0] ? address_names(uri->host, addresses, room, err) :
			       address_every(addresses, room);
	for (unsigned i = 0; i < room && (int)i < count; i++)
		address_set_port(&addresses[i], uri->port);
	return count;
}
