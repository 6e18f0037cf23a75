/* SPDX-License-Identifier: MIT */
#ifndef SELFTESTS_LIB_CERTS_H
#define SELFTESTS_LIB_CERTS_H

#include <stdbool.h>

/* Folders of TLS credentials, made anew: nobody keeps keys in a tree */
struct certs {
	const char *host;    /* of the server's certificate; NULL: localhost and 127.0.0.1 */
	const char *ca_of;   /* a folder whose CA signs; NULL: one of its own */
	bool server_expired; /* yesterday */
	bool client_expired;
};

/*
 * @dir, which is there: ca-cert.pem, ca-key.pem, {server,client}-{cert,key}.pem, and keys.psk
 * with a key of its own for the user qemu. Return: did that work?
 */
bool certs_make(const char *dir, const struct certs *certs);

#endif /* SELFTESTS_LIB_CERTS_H */
