/* SPDX-License-Identifier: MIT */
/*
 * Joining: what a connection of this migration is set to, TLS included, and why one has
 * ended. Whoever dials or listens for it takes run_tuning(), and asks run_why() when a
 * descriptor gives nothing or takes nothing any more.
 */
#include "postcopy/run.h"

#include <errno.h>
#include <stdlib.h>
#include <string.h>
#include <wherry/tls.h>

int run_tls_open(struct wh_migration *m, const struct wh_tls *tls, struct wh_err *err)
{
	return tls_open_as(&m->tls, tls, m->role == WH_DEST, m->config.dead_peer_ns, err);
}

/*
 * Loops are closed and threads gone. The last word of one that has ended well has to leave, as
 * the kernel would see to it; of others nobody waits for it.
 */
void run_tls_close(struct wh_migration *m)
{
	enum wh_phase phase = wh_get_phase(m);

	tls_close(m->tls, phase == WH_PHASE_DONE || (m->role == WH_DEST && wh_phase_ended(phase)));
	m->tls = NULL;
}

struct socket_tuning run_tuning(const struct wh_migration *m)
{
	return (struct socket_tuning){
		.dead_peer_ns = m->config.dead_peer_ns,
		.tls = m->tls,
		.shake_ns = m->config.connect_timeout_ns,
	};
}

int run_why(const struct wh_migration *m, int fd, struct wh_err *err)
{
	return tls_why(m->tls, fd, err);
}

/* ---- wh_tls_parse() ---- */

static int set_text(const char **at, const char *name, const char *value, struct wh_err *err)
{
	if (*at)
		return err_set(err, -EINVAL, "TLS: %s is there twice", name);
	if (!value[0])
		return err_set(err, -EINVAL, "TLS: %s= of nothing", name);
	*at = value;
	return 0;
}

static int set_flag(struct wh_tls *tls, const char *value, struct wh_err *err)
{
	bool no = !strcmp(value, "no") || !strcmp(value, "off");

	if (!no && strcmp(value, "yes") != 0 && strcmp(value, "on") != 0)
		return err_set(err, -EINVAL, "TLS: verify-peer=%.50s: expected yes or no", value);
	tls->unverified = no;
	return 0;
}

static int set_kind(struct wh_tls *tls, const char *word, struct wh_err *err)
{
	static const char prefix[] = "tls-creds-";

	if (!strncmp(word, prefix, sizeof(prefix) - 1))
		word += sizeof(prefix) - 1;
	if (strcmp(word, "x509") != 0 && strcmp(word, "psk") != 0)
		return err_set(err, -EINVAL, "TLS: '%.50s': expected x509, psk, or dir=DIR", word);
	tls->kind = !strcmp(word, "psk") ? WH_TLS_PSK : WH_TLS_X509;
	return 0;
}

static int set_word(struct wh_tls *tls, const char *name, const char *value, struct wh_err *err)
{
	if (!strcmp(name, "dir"))
		return set_text(&tls->dir, name, value, err);
	if (!strcmp(name, "username"))
		return set_text(&tls->username, name, value, err);
	if (!strcmp(name, "hostname") || !strcmp(name, "tls-hostname"))
		return set_text(&tls->hostname, name, value, err);
	if (!strcmp(name, "priority"))
		return set_text(&tls->priority, name, value, err);
	if (!strcmp(name, "verify-peer"))
		return set_flag(tls, value, err);
	return err_set(err, -EINVAL,
		       "TLS: '%.50s': expected dir, verify-peer, username, hostname or priority",
		       name);
}

int wh_tls_parse(struct wh_tls **tls, const char *text, struct wh_err *err)
{
	size_t length = strlen(text) + 1;
	struct wh_tls *made = calloc(1, sizeof(*made) + length);
	char *rest, *word;
	int ret = 0;

	*tls = NULL;
	if (!made)
		return err_set(err, -ENOMEM, "TLS: no memory");
	rest = memcpy(made + 1, text, length);
	for (bool first = true; ret == 0 && (word = strsep(&rest, ",")); first = false) {
		char *value = strchr(word, '=');

		if (!value && first) {
			ret = set_kind(made, word, err);
		} else if (!value) {
			ret = err_set(err, -EINVAL, "TLS: '%.50s': expected NAME=VALUE", word);
		} else {
			*value = '\0';
			ret = set_word(made, word, value + 1, err);
		}
	}
	if (ret == 0 && !made->dir)
		ret = err_set(err, -EINVAL, "TLS: expected dir=DIR, where the credentials are");
	if (ret == 0 && made->username && made->kind != WH_TLS_PSK)
		ret = err_set(err, -EINVAL, "TLS: username= is of psk");
	if (ret < 0)
		free(made);
	else
		*tls = made;
	return ret;
}
