/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Every capability that a QEMU has, switched on at a source, and parameters that change what is
 * on the wire: what comes of it here. RAM is all there, or wherry receive says in its sentence
 * what it cannot do; or the QEMU itself will not.
 * Documentation/qemu-settings.rst is the table of it.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <json-c/json.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"

#define WAIT_MS 60000
#define TEST_SECONDS 150
#define FIRST 0x10000u /* where in RAM the contents are */
#define CONTENTS 0x100000u

FIXTURE(capability)
{
	char dir[64];
	char contents[96];
	char out[96];
	struct qemu qemu;
	struct receiver receiver;
};

/**
 * struct _fixture_variant_capability - One of them, and what it needs beside it
 * @options:	Of wherry receive
 * @sentence:	Of its refusal; NULL: all is well
 * @itself:	QEMU does not even begin, and says this
 * @parameters:	JSON of those that are not as ever; NULL: all are
 */
FIXTURE_VARIANT(capability)
{
	enum qemu_version version;
	const char *capabilities[3];
	const char *options[2];
	const char *sentence;
	const char *itself;
	const char *parameters;
};

/* clang-format off */
#define WORKS(label, ...) \
FIXTURE_VARIANT_ADD(capability, label) { QEMU_10_0, { __VA_ARGS__ }, { NULL }, NULL, NULL, NULL };
#define REFUSED(label, which, words, ...) \
FIXTURE_VARIANT_ADD(capability, label) { which, { __VA_ARGS__ }, { NULL }, words, NULL, NULL };
#define ITSELF(label, words, ...) \
FIXTURE_VARIANT_ADD(capability, label) { QEMU_10_0, { __VA_ARGS__ }, { NULL }, NULL, words, NULL };

WORKS(xbzrle, "xbzrle")
WORKS(rdma_pin_all, "rdma-pin-all")
WORKS(auto_converge, "auto-converge")
WORKS(zero_blocks, "zero-blocks")
WORKS(events, "events")
WORKS(postcopy_ram, "postcopy-ram")
WORKS(release_ram, "postcopy-ram", "release-ram")
WORKS(return_path, "return-path")
WORKS(postcopy_blocktime, "postcopy-ram", "postcopy-blocktime")
WORKS(postcopy_preempt, "postcopy-ram", "postcopy-preempt")
WORKS(late_block_activate, "late-block-activate")
WORKS(validate_uuid, "validate-uuid")
WORKS(multifd, "multifd")
FIXTURE_VARIANT_ADD(capability, switchover_ack)
{
	.version = QEMU_10_0,
	.capabilities = { "return-path", "switchover-ack" },
	.options = { "--switchover-ack" },
};
REFUSED(x_colo, QEMU_10_0, "ENABLE_COLO: the source's capability x-colo is not supported",
	"x-colo")
REFUSED(x_ignore_shared, QEMU_10_0, "capability 'x-ignore-shared', which is not supported",
	"x-ignore-shared")
REFUSED(background_snapshot, QEMU_10_0, "as background-snapshot sends it", "background-snapshot")
REFUSED(dirty_bitmaps, QEMU_10_0, "dirty-bitmap", "dirty-bitmaps")
REFUSED(compress, QEMU_7_2, "COMPRESS_PAGE: capability compress is not supported", "compress")
REFUSED(block, QEMU_7_2, "live state block, only that of ram can be carried", "block")
ITSELF(mapped_ram, "Migration requires seekable transport", "mapped-ram")
ITSELF(mapped_ram_postcopy, "incompatible with postcopy", "mapped-ram", "postcopy-ram")
ITSELF(mapped_ram_xbzrle, "incompatible with xbzrle", "mapped-ram", "xbzrle")
/* Who looks for zero pages: each channel, the main one, nobody */
#define ZEROS(label, who, ...) \
FIXTURE_VARIANT_ADD(capability, zeros_##label) { \
	.version = QEMU_10_0, \
	.capabilities = { __VA_ARGS__ }, \
	.parameters = "{\"zero-page-detection\":\"" who "\"}", \
};
ZEROS(multifd, "multifd", "multifd")
ZEROS(multifd_legacy, "legacy", "multifd")
ZEROS(multifd_none, "none", "multifd")
ZEROS(none, "none", NULL)
#define ZLIB(label, which) \
FIXTURE_VARIANT_ADD(capability, zlib_##label) { \
	.version = which, \
	.capabilities = { "multifd" }, \
	.sentence = "pages compressed by zlib, which is not supported", \
	.parameters = "{\"multifd-compression\":\"zlib\"}", \
};
ZLIB(7_2, QEMU_7_2)
ZLIB(10_0, QEMU_10_0)
/* clang-format on */

FIXTURE_SETUP(capability)
{
	struct wh_err err = { 0 };
	char why[256], loader[160];
	const char *const argv[] = { "-machine", "none", "-m", "4M", "-device", loader, NULL };
	FILE *to;

	self->qemu.qmp = -1;
	if (!qemu_program(variant->version, why, sizeof(why)))
		SKIP(return, "%s", why);
	strcpy(self->dir, "/dev/shm/wherry-capability-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->contents, sizeof(self->contents), "%s/contents", self->dir);
	snprintf(self->out, sizeof(self->out), "%s/out", self->dir);
	to = fopen(self->contents, "w");
	ASSERT_NE(NULL, to);
	for (unsigned i = 0; i < CONTENTS; i++)
		putc(1 + (int)(i / 4096 % 200) + (i % 4096 == 7), to);
	ASSERT_EQ(0, fclose(to));
	snprintf(loader, sizeof(loader), "loader,file=%s,addr=0x%x,force-raw=on", self->contents,
		 FIRST);
	DO(qemu_start_program(&self->qemu, qemu_program(variant->version, why, sizeof(why)), argv,
			      &err));
}

FIXTURE_TEARDOWN(capability)
{
	char command[160];

	(void)variant;
	receiver_end(&self->receiver);
	qemu_end(&self->qemu);
	snprintf(command, sizeof(command), "rm -rf %s", self->dir);
	if (self->dir[0])
		ASSERT_EQ(0, system(command));
}

/* What was loaded, and zeros around it */
static int check(FIXTURE_DATA(capability) *self, struct wh_err *err)
{
	struct image ram = { 0 }, sent = { 0 };
	int ret = receiver_open(&self->receiver, "ram", &ram, err);

	if (!ret)
		ret = image_open(&sent, self->contents, err);
	if (!ret && (ram.length != 4 << 20 || memcmp(ram.at + FIRST, sent.at, CONTENTS) != 0))
		ret = err_set(err, -EILSEQ, "RAM of %llu bytes is not what was loaded",
			      (unsigned long long)ram.length);
	for (uint64_t at = 0; !ret && at < ram.length; at++)
		if (ram.at[at] && at - FIRST >= CONTENTS)
			ret = err_set(err, -EILSEQ, "RAM: a byte at 0x%llx",
				      (unsigned long long)at);
	image_close(&ram);
	image_close(&sent);
	return ret;
}

/* And back into a QEMU that says when it is ready, which we wait for */
static int give_back(FIXTURE_DATA(capability) *self, struct wh_err *err)
{
	static const char *const capabilities[] = { "return-path", "switchover-ack", NULL };
	const char *const machine[] = { "-machine", "none", "-m", "4M", "-incoming", "defer", NULL };
	char program[4096], link[96], why[256];
	const char *const argv[] = { program,  "send",	  "--quiet",
				     "--from", self->out, "--switchover-ack",
				     link,     NULL };
	struct child child = { 0 };
	int ret;

	qemu_end(&self->qemu);
	snprintf(link, sizeof(link), "unix:%s/back", self->dir);
	ret = qemu_start_program(&self->qemu, qemu_program(QEMU_10_0, why, sizeof(why)), machine,
				 err);
	if (!ret)
		ret = qemu_capabilities(&self->qemu, capabilities, err);
	if (!ret)
		ret = qemu_migrate_incoming(&self->qemu, link, err);
	if (!ret)
		ret = built_path(program, sizeof(program), "wherry", err);
	if (!ret)
		ret = child_start(&child, argv, -1, err);
	if (!ret)
		ret = qemu_wait_status(&self->qemu, "completed", WAIT_MS, err);
	if (!ret && child_wait(&child, WAIT_MS, err))
		ret = err_set(err, -EPROTO, "wherry send: %.200s",
			      child_said(&child, why, sizeof(why)));
	child_end(&child);
	return ret;
}

static bool has(const char *const list[], const char *name)
{
	for (; *list; list++)
		if (!strcmp(*list, name))
			return true;
	return false;
}

static bool by_postcopy(const FIXTURE_DATA(capability) *self)
{
	struct json_object *part;

	return json_object_object_get_ex(self->receiver.manifest, "migration", &part) &&
	       json_object_object_get_ex(part, "postcopy", &part) && json_object_get_boolean(part);
}

TEST_F_TIMEOUT(capability, at_a_source, TEST_SECONDS)
{
	bool postcopy = has(variant->capabilities, "postcopy-ram");
	struct wh_err err = { 0 };
	char link[96], said[400];
	int ret;

	snprintf(link, sizeof(link), "unix:%s/in", self->dir);
	DO(receiver_start(&self->receiver, link, self->out, variant->options, &err));
	ret = qemu_capabilities(&self->qemu, variant->capabilities, &err);
	if (!ret && variant->parameters)
		ret = qemu_command(&self->qemu, NULL, &err, "migrate-set-parameters", "%s",
				   variant->parameters);
	/* slowly enough for there to be something to come by postcopy */
	if (!ret && postcopy && !variant->itself)
		DO(qemu_parameter(&self->qemu, "max-bandwidth", 100000, &err));
	if (!ret)
		ret = qemu_migrate(&self->qemu, self->receiver.uri, &err);
	if (variant->itself) {
		ASSERT_GT(0, ret);
		ASSERT_NE(NULL, strstr(err.text, variant->itself))
		{
			TH_LOG("%s", err.text);
		}
		return;
	}
	ASSERT_EQ(0, ret)
	{
		TH_LOG("%s", err.text);
	}
	if (postcopy) {
		DO(qemu_wait_status(&self->qemu, "active", WAIT_MS, &err));
		DO(qemu_command(&self->qemu, NULL, &err, "migrate-start-postcopy", NULL));
	}
	ret = receiver_wait(&self->receiver, WAIT_MS, &err);
	if (variant->sentence) {
		ASSERT_EQ(1, ret);
		child_said(&self->receiver.child, said, sizeof(said));
		ASSERT_NE(NULL, strstr(said, variant->sentence))
		{
			TH_LOG("%s", said);
		}
		return;
	}
	ASSERT_EQ(0, ret)
	{
		TH_LOG("%s", err.text);
	}
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	DO(check(self, &err));
	if (variant->options[0])
		DO(give_back(self, &err));
	EXPECT_EQ(postcopy, by_postcopy(self));
}

TEST_HARNESS_MAIN
