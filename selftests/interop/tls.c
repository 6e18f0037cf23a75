/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A real QEMU at the other end of connections that speak TLS: both roles, certificates and a
 * shared key, precopy without a return path, postcopy on one channel and on two, broken and
 * recovered. Memory is compared. And peers that one of the two refuses.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <ftw.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/stat.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "base/clock.h"
#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/certs.h"
#include "selftests/lib/proxy.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"

#define MIB (UINT64_C(1) << 20)
#define RAM_BYTES (32 * MIB)
#define FULL_BYTES (16 * MIB) /* the rest is zero */
#define WAIT_MS 30000
#define TEST_SECONDS 150

FIXTURE(tls)
{
	char dir[64];
	char file[96];
	char creds[2][96]; /* what both have; another CA's and another key */
	uint8_t *ram;
	struct wh_migration *migration;
	struct proxy *proxy;
	struct qemu qemu;
	struct receiver receiver;
	char out[96];
	char refused[WH_ERR_TEXT + 64]; /* our last warning */
};

FIXTURE_VARIANT(tls)
{
	enum qemu_version version;
	enum wh_tls_kind kind;
	enum wh_urgent urgent;
	bool precopy;
	unsigned multifd;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(tls, x509_7_2) { .kind = WH_TLS_X509 };
FIXTURE_VARIANT_ADD(tls, x509_preempt_7_2) { .urgent = WH_URGENT_AT_START };
FIXTURE_VARIANT_ADD(tls, x509_precopy_7_2) { .precopy = true };
FIXTURE_VARIANT_ADD(tls, psk_preempt_7_2) { .kind = WH_TLS_PSK, .urgent = WH_URGENT_AT_START };
FIXTURE_VARIANT_ADD(tls, x509_preempt_10_0) { .version = QEMU_10_0, .urgent = WH_URGENT_AT_SWITCH };
FIXTURE_VARIANT_ADD(tls, psk_10_0) { .version = QEMU_10_0, .kind = WH_TLS_PSK };
FIXTURE_VARIANT_ADD(tls, psk_precopy_10_0) { .version = QEMU_10_0, .kind = WH_TLS_PSK, .precopy = true };
FIXTURE_VARIANT_ADD(tls, x509_multifd_7_2) { .precopy = true, .multifd = 3 };
FIXTURE_VARIANT_ADD(tls, psk_multifd_10_0) { .version = QEMU_10_0, .kind = WH_TLS_PSK, .precopy = true, .multifd = 2 };
/* clang-format on */

static int nothing(void *opaque, struct wh_err *err)
{
	(void)opaque;
	(void)err;
	return 0;
}

static int load_device(void *opaque, const void *data, size_t length, enum wh_device_format format,
		       struct wh_err *err)
{
	(void)opaque;
	(void)data;
	(void)length;
	(void)err;
	return format == WH_DEVICE_QEMU ? 0 : -EPROTO;
}

static void note(void *opaque, enum wh_log_level level, const char *line)
{
	FIXTURE_DATA(tls) *self = opaque;

	if (level <= WH_LOG_WARNING)
		snprintf(self->refused, sizeof(self->refused), "%s", line);
}

static const struct wh_callbacks callbacks = {
	.pause = nothing,
	.resume = nothing,
	.device_load = load_device,
	.start = nothing,
	.log = note,
};

static int drop_file(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	(void)st;
	(void)type;
	(void)ftw;
	return remove(path);
}

FIXTURE_SETUP(tls)
{
	char why[128];

	memset(self, 0, sizeof(*self));
	if (!qemu_program(variant->version, why, sizeof(why)))
		SKIP(return, "%s", why);
	self->ram =
		mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->ram);
	strcpy(self->dir, "/dev/shm/wherry-tls-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->file, sizeof(self->file), "%s/file", self->dir);
	snprintf(self->out, sizeof(self->out), "%s/out", self->dir);
	for (int i = 0; i < 2; i++) {
		snprintf(self->creds[i], sizeof(self->creds[i]), "%s/creds%d", self->dir, i);
		ASSERT_EQ(0, mkdir(self->creds[i], 0700));
		ASSERT_TRUE(certs_make(self->creds[i], NULL));
	}
}

FIXTURE_TEARDOWN(tls)
{
	(void)variant;
	proxy_end(self->proxy);
	wh_free(self->migration);
	qemu_end(&self->qemu);
	receiver_end(&self->receiver);
	nftw(self->dir, drop_file, 16, FTW_DEPTH | FTW_PHYS);
}

/* Not two words alike, where there is anything */
static void fill(uint8_t *at)
{
	uint64_t x = 1;

	for (uint64_t i = 0; i < FULL_BYTES; i += sizeof(x)) {
		x = x * 6364136223846793005u + 1442695040888963407u;
		memcpy(at + i, &x, sizeof(x));
	}
}

static int new_end(FIXTURE_DATA(tls) *self, const FIXTURE_VARIANT(tls) * variant, enum wh_role role,
		   unsigned creds, struct wh_err *err)
{
	const struct wh_block block = {
		.name = "ram",
		.addr = self->ram,
		.length = RAM_BYTES,
		.page_size = 4096,
		.fd = -1,
	};
	const struct wh_tls tls = { .kind = variant->kind, .dir = self->creds[creds] };
	struct wh_config config;
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = self;
	config.machine = "none";
	config.urgent = variant->urgent;
	config.postcopy = !variant->precopy;
	config.return_path = !variant->precopy;
	if (!variant->precopy) {
		config.downtime_ns = 1;
		config.bandwidth = 16 * MIB; /* who is there is asked before the switch */
		config.postcopy_bandwidth = 8 * MIB;
	}
	config.multifd = variant->multifd;
	if (role == WH_SOURCE && variant->version == QEMU_7_2)
		config.multifd_marks = WH_MULTIFD_BY_SECTION;
	config.tls = &tls;
	ret = wh_new(&self->migration, role, &config, err);
	return ret ? ret : wh_add_block(self->migration, &block, err);
}

/* A QEMU that has the first credentials, and uses them in migrations */
static int new_qemu(FIXTURE_DATA(tls) *self, const FIXTURE_VARIANT(tls) * variant, bool server,
		    struct wh_err *err)
{
	static const char *const none[] = { NULL };
	static const char *const one[] = { "postcopy-ram", NULL };
	static const char *const many[] = { "multifd", NULL };
	static const char *const two[] = { "postcopy-ram", "postcopy-preempt", NULL };
	char object[256], loader[160];
	const char *const argv[] = { "-M",
				     "none",
				     "-m",
				     "32",
				     "-object",
				     object,
				     server ? "-incoming" : "-device",
				     server ? "defer" : loader,
				     NULL };
	char why[128];
	int ret;

	snprintf(object, sizeof(object), "tls-creds-%s,id=tls0,dir=%s,endpoint=%s",
		 variant->kind == WH_TLS_PSK ? "psk" : "x509", self->creds[0],
		 server ? "server" : "client");
	snprintf(loader, sizeof(loader), "loader,file=%s,addr=0x0,force-raw=on", self->file);
	ret = qemu_start_program(&self->qemu, qemu_program(variant->version, why, sizeof(why)),
				 argv, err);
	if (!ret)
		ret = qemu_capabilities(&self->qemu,
					variant->multifd ? many :
					variant->precopy ? none :
					variant->urgent	 ? two :
							   one,
					err);
	if (!ret && variant->multifd)
		ret = qemu_parameter(&self->qemu, "multifd-channels", variant->multifd, err);
	return ret ? ret :
		     qemu_command(&self->qemu, NULL, err, "migrate-set-parameters",
				  "{\"tls-creds\":\"tls0\"}");
}

static int wait_phase(FIXTURE_DATA(tls) *self, enum wh_phase phase, struct wh_err *err)
{
	uint64_t end = clock_now_ns() + (uint64_t)WAIT_MS * NS_PER_MS;

	while (wh_get_phase(self->migration) != phase) {
		if (clock_now_ns() > end)
			return err_set(err, -ETIMEDOUT, "still %s, not %s",
				       wh_phase_name(wh_get_phase(self->migration)),
				       wh_phase_name(phase));
		usleep(1000);
	}
	return 0;
}

static int wait_end(FIXTURE_DATA(tls) *self, struct wh_err *err)
{
	return wh_wait(self->migration, (int64_t)WAIT_MS * (int64_t)NS_PER_MS, err);
}

/* Both ends have seen that the link is gone, and let go of it. */
static int wait_paused(FIXTURE_DATA(tls) *self, struct wh_err *err)
{
	int ret = wait_phase(self, WH_PHASE_PAUSED, err);

	if (ret == 0 && wait_end(self, err) == -EAGAIN)
		ret = -ETIMEDOUT;
	return ret ? ret : qemu_wait_status(&self->qemu, "postcopy-paused", WAIT_MS, err);
}

static int new_proxy(FIXTURE_DATA(tls) *self, const char *to, uint64_t cut_at, struct wh_err *err)
{
	proxy_end(self->proxy);
	self->proxy = proxy_start(to, &(struct proxy_script){ .cut_at = cut_at });
	return self->proxy ? 0 : err_set(err, -EIO, "no proxy to %s", to);
}

/* Somewhere that a QEMU can be told to listen */
static void free_port(char uri[64])
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	bind(fd, (struct sockaddr *)&at, sizeof(at));
	getsockname(fd, (struct sockaddr *)&at, &length);
	close(fd);
	snprintf(uri, 64, "tcp:127.0.0.1:%u", ntohs(at.sin_port));
}

/* QEMU's RAM and ours are one */
static int compare(FIXTURE_DATA(tls) *self, struct wh_err *err)
{
	const struct image here = { .at = self->ram, .length = RAM_BYTES };
	struct image there;
	int ret;

	ret = qemu_command(&self->qemu, NULL, err, "pmemsave",
			   "{\"val\":0,\"size\":%llu,\"filename\":\"%s\"}",
			   (unsigned long long)RAM_BYTES, self->file);
	if (ret == 0)
		ret = image_open(&there, self->file, err);
	if (ret)
		return ret;
	ret = image_compare(&here, &there, err);
	image_close(&there);
	return ret;
}

static int start_source(FIXTURE_DATA(tls) *self, const FIXTURE_VARIANT(tls) * variant,
			struct wh_err *err)
{
	char uri[64];
	int ret;

	fill(self->ram);
	free_port(uri);
	ret = new_qemu(self, variant, true, err);
	if (!ret)
		ret = qemu_migrate_incoming(&self->qemu, uri, err);
	if (!ret)
		ret = new_proxy(self, uri, variant->precopy ? 0 : 2 * MIB, err);
	if (!ret)
		ret = new_end(self, variant, WH_SOURCE, 0, err);
	if (!ret)
		ret = wh_connect(self->migration, proxy_uri(self->proxy), err);
	if (!ret)
		ret = wh_start(self->migration, err);
	return ret || variant->precopy ? ret : wh_start_postcopy(self->migration, err);
}

static int start_dest(FIXTURE_DATA(tls) *self, const FIXTURE_VARIANT(tls) * variant,
		      struct wh_err *err)
{
	FILE *file = fopen(self->file, "we");
	int ret;

	fill(self->ram);
	if (!file || fwrite(self->ram, 1, FULL_BYTES, file) != FULL_BYTES || fclose(file))
		return err_set(err, -EIO, "%s", self->file);
	memset(self->ram, 0, RAM_BYTES);
	ret = new_qemu(self, variant, false, err);
	if (!ret && !variant->precopy)
		ret = qemu_parameter(&self->qemu, "max-bandwidth", 4 * MIB, err);
	if (!ret && !variant->precopy)
		ret = qemu_parameter(&self->qemu, "max-postcopy-bandwidth", 8 * MIB, err);
	if (!ret)
		ret = new_end(self, variant, WH_DEST, 0, err);
	if (!ret)
		ret = wh_listen(self->migration, "tcp:127.0.0.1:0", err);
	return ret ? ret : wh_start(self->migration, err);
}

/* QEMU's RAM is ours, and has not to be waited for */
static int compare_image(FIXTURE_DATA(tls) *self, const struct image *image, struct wh_err *err)
{
	if (image->length != RAM_BYTES)
		return err_set(err, -EILSEQ, "%llu bytes", (unsigned long long)image->length);
	memcpy(self->ram, image->at, RAM_BYTES);
	return compare(self, err);
}

/* The option of wherry receive and of wherry send: out of one QEMU, into the next one */
static void by_command(struct __test_metadata *_metadata, FIXTURE_DATA(tls) *self,
		       const FIXTURE_VARIANT(tls) * variant)
{
	char words[128], send[512], wherry[200], uri[64];
	const char *const options[] = { "--tls", words, NULL };
	struct wh_err err = { 0 };
	struct image image;

	snprintf(words, sizeof(words), "%s,dir=%s", variant->kind == WH_TLS_PSK ? "psk" : "x509",
		 self->creds[0]);
	DO(start_dest(self, variant, &err));
	DO(receiver_start(&self->receiver, "tcp:127.0.0.1:0", self->out, options, &err));
	DO(qemu_migrate(&self->qemu, self->receiver.uri, &err));
	DO(receiver_wait(&self->receiver, WAIT_MS, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	DO(receiver_open(&self->receiver, "ram", &image, &err));
	DO(compare_image(self, &image, &err));
	image_close(&image);

	qemu_end(&self->qemu);
	free_port(uri);
	DO(new_qemu(self, variant, true, &err));
	DO(qemu_migrate_incoming(&self->qemu, uri, &err));
	DO(built_path(wherry, sizeof(wherry), "wherry", &err));
	snprintf(send, sizeof(send), "%s send --quiet --from %s --tls %s %s", wherry, self->out,
		 words, uri);
	EXPECT_EQ(0, system(send));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	DO(compare(self, &err));
}

/* It has the wrong credentials, then the right ones */
static void qemu_is_refused(struct __test_metadata *_metadata, FIXTURE_DATA(tls) *self,
			    const FIXTURE_VARIANT(tls) * variant)
{
	struct wh_err err = { 0 };

	DO(start_dest(self, variant, &err));
	wh_free(self->migration);
	self->migration = NULL;
	DO(new_end(self, variant, WH_DEST, 1, &err));
	DO(wh_listen(self->migration, "tcp:127.0.0.1:0", &err));
	DO(wh_start(self->migration, &err));
	DO(qemu_migrate(&self->qemu, wh_listen_uri(self->migration), &err));
	DO(qemu_wait_status(&self->qemu, "failed", WAIT_MS, &err));
	for (int i = 0; i < 1000 && !self->refused[0]; i++)
		usleep(1000);
	TH_LOG("%s", self->refused);
	EXPECT_NE(NULL, strstr(self->refused, "a connection was refused: TLS"));
	EXPECT_EQ(WH_PHASE_SETUP, wh_get_phase(self->migration));

	/* plainly */
	self->refused[0] = '\0';
	DO(qemu_command(&self->qemu, NULL, &err, "migrate-set-parameters", "{\"tls-creds\":\"\"}"));
	DO(qemu_migrate(&self->qemu, wh_listen_uri(self->migration), &err));
	for (int i = 0; i < 5000 && !self->refused[0]; i++)
		usleep(1000);
	TH_LOG("%s", self->refused);
	EXPECT_NE(NULL, strstr(self->refused, "does not speak TLS"));
	EXPECT_EQ(WH_PHASE_SETUP, wh_get_phase(self->migration));
}

/* It refuses us: the sentence, and the guest goes on here */
static void qemu_refuses(struct __test_metadata *_metadata, FIXTURE_DATA(tls) *self,
			 const FIXTURE_VARIANT(tls) * variant)
{
	struct wh_err err = { 0 };
	char uri[64];

	free_port(uri);
	DO(new_qemu(self, variant, true, &err));
	DO(qemu_migrate_incoming(&self->qemu, uri, &err));
	DO(new_end(self, variant, WH_SOURCE, 1, &err));
	DO(wh_connect(self->migration, uri, &err));
	DO(wh_start(self->migration, &err));
	EXPECT_GT(0, wait_end(self, &err));
	EXPECT_NE(NULL, strstr(err.text, "TLS: "));
	TH_LOG("%s", err.text);
	EXPECT_EQ(WH_PHASE_FAILED, wh_get_phase(self->migration));
}

/* For another pair */
static void both_gone(FIXTURE_DATA(tls) *self)
{
	proxy_end(self->proxy);
	self->proxy = NULL;
	wh_free(self->migration);
	self->migration = NULL;
	qemu_end(&self->qemu);
}

TEST_F_TIMEOUT(tls, qemu_is_the_destination, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	struct wh_stats stats;
	char uri[64];

	DO(start_source(self, variant, &err));
	if (!variant->precopy) {
		DO(wait_paused(self, &err));
		free_port(uri);
		DO(qemu_command(&self->qemu, NULL, &err, "migrate-recover", "{\"uri\":\"%s\"}",
				uri));
		DO(new_proxy(self, uri, 0, &err));
		DO(wh_resume(self->migration, proxy_uri(self->proxy), &err));
		DO(wait_phase(self, WH_PHASE_POSTCOPY, &err));
	} else {
		DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	}
	/* What is missing it takes for this in its own order: each is asked for */
	DO(compare(self, &err));
	DO(wait_end(self, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	wh_get_stats(self->migration, &stats);
	EXPECT_EQ(!variant->precopy, stats.recoveries);
	if (variant->urgent)
		EXPECT_LT(0, stats.pages_urgent);
	if (variant->precopy && !variant->multifd) {
		both_gone(self);
		qemu_refuses(_metadata, self, variant);
	}
}

TEST_F_TIMEOUT(tls, qemu_is_the_source, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	struct wh_stats stats;

	DO(start_dest(self, variant, &err));
	DO(new_proxy(self, wh_listen_uri(self->migration), variant->precopy ? 0 : 2 * MIB, &err));
	DO(qemu_migrate(&self->qemu, proxy_uri(self->proxy), &err));
	if (!variant->precopy) {
		DO(qemu_command(&self->qemu, NULL, &err, "migrate-start-postcopy", NULL));
		DO(wait_paused(self, &err));
		DO(wh_recover(self->migration, "tcp:127.0.0.1:0", &err));
		DO(new_proxy(self, wh_listen_uri(self->migration), 0, &err));
		DO(qemu_command(&self->qemu, NULL, &err, "migrate",
				"{\"uri\":\"%s\",\"resume\":true}", proxy_uri(self->proxy)));
	}
	DO(wait_phase(self, WH_PHASE_DONE, &err));
	DO(wait_end(self, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	wh_get_stats(self->migration, &stats);
	EXPECT_EQ(!variant->precopy, stats.recoveries);
	DO(compare(self, &err));
	if (variant->precopy && !variant->multifd) {
		both_gone(self);
		by_command(_metadata, self, variant);
		both_gone(self);
		qemu_is_refused(_metadata, self, variant);
	}
}

TEST_HARNESS_MAIN
