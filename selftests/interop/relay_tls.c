/* SPDX-License-Identifier: GPL-2.0 */
/*
 * wherry relay between two QEMUs that do not have the same credentials, or of which one has none:
 * --tls-from and --tls-to. Memory is compared; and a side whose credentials are wrong.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <ftw.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/certs.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"

#define MIB (UINT64_C(1) << 20)
#define RAM_BYTES (32 * MIB)
#define FULL_BYTES (16 * MIB) /* the rest is zero */
#define WAIT_MS 60000
#define TEST_SECONDS 150

enum {
	FROM,
	TO
};

FIXTURE(relay)
{
	char dir[64];
	char uri[2][96];
	char file[96];
	char out[96];
	char creds[2][96]; /* of a side; each has a CA and a key of its own */
	uint8_t *ram;
	struct qemu qemu[2];
	struct child relay;
};

/**
 * struct _fixture_variant_relay - Who speaks what
 * @kind:	Of a side: x509 or psk, NULL: it speaks plainly
 * @both:	The relay is told by --tls what FROM speaks, and that TO does not
 * @wrong:	The side whose credentials are not those that the relay has for it
 */
FIXTURE_VARIANT(relay)
{
	enum qemu_version version[2];
	const char *kind[2];
	bool both;
	bool wrong[2];
};

/* clang-format off */
FIXTURE_VARIANT_ADD(relay, x509_to_plain) { .kind = { "x509" }, .both = true };
FIXTURE_VARIANT_ADD(relay, plain_to_psk) { .kind = { NULL, "psk" } };
FIXTURE_VARIANT_ADD(relay, psk_to_x509) { .version = { [TO] = QEMU_10_0 }, .kind = { "psk", "x509" } };
FIXTURE_VARIANT_ADD(relay, x509_to_wrong) { .kind = { "x509", "x509" }, .wrong = { [TO] = true } };
FIXTURE_VARIANT_ADD(relay, wrong_to_x509) { .kind = { "x509", "x509" }, .wrong = { [FROM] = true } };
/* clang-format on */

/* Not two words alike, where there is anything */
static int fill(FIXTURE_DATA(relay) *self, struct wh_err *err)
{
	FILE *file = fopen(self->file, "we");
	uint64_t x = 1;
	bool good;

	self->ram = calloc(1, RAM_BYTES);
	if (!self->ram || !file)
		return err_set(err, -EIO, "no memory, or no %s", self->file);
	for (uint64_t i = 0; i < FULL_BYTES; i += sizeof(x)) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		memcpy(self->ram + i, &x, sizeof(x));
	}
	good = fwrite(self->ram, 1, FULL_BYTES, file) == FULL_BYTES;
	return fclose(file) == 0 && good ? 0 : err_set(err, -EIO, "%s", self->file);
}

FIXTURE_SETUP(relay)
{
	struct wh_err err = { 0 };
	char why[128];

	memset(self, 0, sizeof(*self));
	for (int side = FROM; side <= TO; side++)
		if (!qemu_program(variant->version[side], why, sizeof(why)))
			SKIP(return, "%s", why);
	strcpy(self->dir, "/dev/shm/wherry-relay-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->file, sizeof(self->file), "%s/file", self->dir);
	snprintf(self->out, sizeof(self->out), "%s/out", self->dir);
	for (int side = FROM; side <= TO; side++) {
		snprintf(self->uri[side], sizeof(self->uri[side]), "unix:%s/%d", self->dir, side);
		snprintf(self->creds[side], sizeof(self->creds[side]), "%s/creds%d", self->dir,
			 side);
		ASSERT_EQ(0, mkdir(self->creds[side], 0700));
		ASSERT_TRUE(certs_make(self->creds[side], NULL));
	}
	DO(fill(self, &err));
}

static int drop_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

FIXTURE_TEARDOWN(relay)
{
	(void)variant;
	child_end(&self->relay);
	qemu_end(&self->qemu[FROM]);
	qemu_end(&self->qemu[TO]);
	free(self->ram);
	nftw(self->dir, drop_file, 16, FTW_DEPTH | FTW_PHYS);
}

static int new_qemu(FIXTURE_DATA(relay) *self, const FIXTURE_VARIANT(relay) * variant, int side,
		    struct wh_err *err)
{
	const char *kind = variant->kind[side];
	char object[256], loader[160], why[128];
	const char *argv[] = {
		"-M",	 "none", "-m", "32", side == TO ? "-incoming" : "-device",
		"defer", NULL,	 NULL, NULL,
	};
	int ret;

	snprintf(object, sizeof(object), "tls-creds-%s,id=tls0,dir=%s,endpoint=%s",
		 kind ? kind : "", self->creds[side], side == TO ? "server" : "client");
	snprintf(loader, sizeof(loader), "loader,file=%s,addr=0x0,force-raw=on", self->file);
	if (side == FROM)
		argv[5] = loader;
	if (kind) {
		argv[6] = "-object";
		argv[7] = object;
	}
	ret = qemu_start_program(&self->qemu[side],
				 qemu_program(variant->version[side], why, sizeof(why)), argv, err);
	return ret || !kind ?
		       ret :
		       qemu_command(&self->qemu[side], NULL, err, "migrate-set-parameters",
				    "{\"tls-creds\":\"tls0\",\"tls-hostname\":\"localhost\"}");
}

/* What the relay is to know of a side; its own folder, if it is the right one */
static void words(FIXTURE_DATA(relay) *self, const FIXTURE_VARIANT(relay) * variant, int side,
		  bool wrong, char text[160])
{
	const char *name = side == TO ? "tls-to" : variant->both ? "tls" : "tls-from";

	if (variant->kind[side])
		snprintf(text, 160, "--%s=%s,dir=%s,hostname=localhost", name, variant->kind[side],
			 self->creds[wrong ? !side : side]);
	else
		snprintf(text, 160, "--%s=off", name);
}

static int start_relay(FIXTURE_DATA(relay) *self, const FIXTURE_VARIANT(relay) * variant,
		       struct wh_err *err)
{
	char program[200], from[160], to[160];
	const char *argv[] = { program,	 "relay", self->uri[FROM], self->uri[TO],
			       "--json", "--out", self->out,	   to,
			       from,	 NULL };
	const char *line = "";
	int ret;

	words(self, variant, FROM, variant->wrong[FROM], from);
	words(self, variant, TO, variant->wrong[TO], to);
	if (!variant->kind[FROM]) /* it is so without a word */
		argv[8] = NULL;
	else if (variant->both) { /* what is of both comes first */
		argv[7] = from;
		argv[8] = to;
	}
	ret = built_path(program, sizeof(program), "wherry", err);
	if (!ret)
		ret = child_start(&self->relay, argv, -1, err);
	while (!ret && !strstr(line, "\"listening\""))
		ret = child_line(&self->relay, &line, WAIT_MS, err) == 1 ? 0 : -ECHILD;
	return ret;
}

/* QEMU's RAM at TO is what was loaded at FROM. */
static int compare(FIXTURE_DATA(relay) *self, struct wh_err *err)
{
	const struct image sent = { .at = self->ram, .length = RAM_BYTES };
	struct image got;
	int ret;

	ret = qemu_command(&self->qemu[TO], NULL, err, "pmemsave",
			   "{\"val\":0,\"size\":%llu,\"filename\":\"%s\"}",
			   (unsigned long long)RAM_BYTES, self->file);
	if (!ret)
		ret = image_open(&got, self->file, err);
	if (ret)
		return ret;
	ret = image_compare(&sent, &got, err);
	image_close(&got);
	return ret;
}

/* What TO refused is in the folder, and goes there when it is sent with what TO knows. */
static int send_again(FIXTURE_DATA(relay) *self, const FIXTURE_VARIANT(relay) * variant,
		      struct wh_err *err)
{
	char program[200], tls[160];
	const char *argv[] = { program, "send", "--quiet",     "--from", self->out,
			       "--tls", NULL,	self->uri[TO], NULL };
	struct child send = { 0 };
	int ret;

	words(self, variant, TO, false, tls);
	argv[6] = strchr(tls, '=') + 1;
	ret = built_path(program, sizeof(program), "wherry", err);
	if (!ret)
		ret = child_start(&send, argv, -1, err);
	if (!ret)
		ret = child_wait(&send, WAIT_MS, err);
	child_end(&send);
	return ret;
}

TEST_F_TIMEOUT(relay, moves, TEST_SECONDS)
{
	const char *wanted = variant->wrong[FROM] ? "failed" : "completed";
	struct wh_err err = { 0 };
	char said[800], status[32];

	DO(new_qemu(self, variant, TO, &err));
	DO(qemu_migrate_incoming(&self->qemu[TO], self->uri[TO], &err));
	DO(start_relay(self, variant, &err));
	DO(new_qemu(self, variant, FROM, &err));
	DO(qemu_migrate(&self->qemu[FROM], self->uri[FROM], &err));
	DO(qemu_wait_status(&self->qemu[FROM], wanted, WAIT_MS, &err));
	if (variant->wrong[FROM]) { /* a stranger: it waits for the right one */
		EXPECT_EQ(-ETIMEDOUT, child_wait(&self->relay, 200, &err));
		DO(qemu_status(&self->qemu[TO], status, &err));
		EXPECT_STRNE("completed", status);
		return;
	}
	EXPECT_EQ(variant->wrong[TO], child_wait(&self->relay, WAIT_MS, &err));
	child_said(&self->relay, said, sizeof(said));
	if (variant->wrong[TO]) {
		EXPECT_NE(NULL, strstr(said, "TLS: ")) TH_LOG("%s", said);
		EXPECT_NE(NULL, strstr(said, "the guest is in")) TH_LOG("%s", said);
		DO(send_again(self, variant, &err));
	}
	DO(qemu_wait_status(&self->qemu[TO], "completed", WAIT_MS, &err));
	DO(compare(self, &err));
}

TEST_HARNESS_MAIN
