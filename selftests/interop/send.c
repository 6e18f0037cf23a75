/* SPDX-License-Identifier: GPL-2.0 */
/*
 * The other way round: this library is the source, a real QEMU the destination. Without
 * a machine QEMU takes any RAM and no device state; what it has then is what pmemsave
 * writes, and pmemsave while pages are missing makes it ask for them.
 */
#include "kselftest_harness.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include <wherry/wherry.h>

#include "base/clock.h"
#include "base/err.h"
#include "selftests/interop/do.h"
#include "selftests/lib/qemu.h"
#include "selftests/lib/receiver.h"
#include "selftests/lib/workload.h"

#define MIB (UINT64_C(1) << 20)
#define RAM_BYTES (64 * MIB)
#define STEPPED_BYTES (32 * MIB) /* the rest stays zero */
#define WAIT_MS 60000
#define TEST_SECONDS 150

FIXTURE(send)
{
	char dir[64];
	char saved[96];
	char uri[128];
	uint8_t *ram;
	struct workload workload;
	struct wh_migration *migration;
	struct qemu qemu;
};

/**
 * struct _fixture_variant_send - One way
 * @capabilities:	Of QEMU
 * @rounds:		Of precopy, before postcopy
 */
FIXTURE_VARIANT(send)
{
	const char *capabilities[4];
	bool return_path;
	bool postcopy;
	enum wh_urgent urgent;
	unsigned rounds;
	unsigned channels; /* of multifd */
	bool zstd;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(send, precopy)
{
	.urgent = WH_URGENT_OFF,
};

FIXTURE_VARIANT_ADD(send, precopy_return_path)
{
	.capabilities = { "return-path" },
	.return_path = true,
	.urgent = WH_URGENT_OFF,
};

FIXTURE_VARIANT_ADD(send, postcopy)
{
	.capabilities = { "postcopy-ram" },
	.postcopy = true,
	.urgent = WH_URGENT_OFF,
	.rounds = 1,
};

FIXTURE_VARIANT_ADD(send, postcopy_at_once)
{
	.capabilities = { "postcopy-ram" },
	.postcopy = true,
	.urgent = WH_URGENT_OFF,
};

FIXTURE_VARIANT_ADD(send, preempt)
{
	.capabilities = { "postcopy-ram", "postcopy-preempt" },
	.postcopy = true,
	.urgent = WH_URGENT_AT_START,
	.rounds = 1,
};

FIXTURE_VARIANT_ADD(send, multifd)
{
	.capabilities = { "multifd", "return-path" },
	.return_path = true,
	.channels = 2,
};

FIXTURE_VARIANT_ADD(send, multifd_four)
{
	.capabilities = { "multifd" },
	.channels = 4,
};

FIXTURE_VARIANT_ADD(send, multifd_zstd)
{
	.capabilities = { "multifd", "return-path" },
	.return_path = true,
	.channels = 4,
	.zstd = true,
};
/* clang-format on */

static int pause_guest(void *opaque, struct wh_err *err)
{
	FIXTURE_DATA(send) *self = opaque;

	(void)err;
	workload_park(&self->workload);
	return 0;
}

static int resume_guest(void *opaque, struct wh_err *err)
{
	FIXTURE_DATA(send) *self = opaque;

	(void)err;
	workload_run(&self->workload);
	return 0;
}

static const struct wh_callbacks callbacks = {
	.pause = pause_guest,
	.resume = resume_guest,
};

FIXTURE_SETUP(send)
{
	(void)variant;
	self->ram =
		mmap(NULL, RAM_BYTES, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	ASSERT_NE(MAP_FAILED, self->ram);
	strcpy(self->dir, "/dev/shm/wherry-send-XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->dir));
	snprintf(self->saved, sizeof(self->saved), "%s/saved", self->dir);
	snprintf(self->uri, sizeof(self->uri), "unix:%s/link", self->dir);
	workload_init(&self->workload, self->ram, STEPPED_BYTES / 4096, 1);
	workload_fill(&self->workload);
	workload_run(&self->workload);
}

FIXTURE_TEARDOWN(send)
{
	char path[96];

	(void)variant;
	wh_free(self->migration);
	workload_fini(&self->workload);
	qemu_end(&self->qemu);
	munmap(self->ram, RAM_BYTES);
	snprintf(path, sizeof(path), "%s/link", self->dir);
	unlink(path);
	unlink(self->saved);
	rmdir(self->dir);
}

static int start_qemu(FIXTURE_DATA(send) *self, const FIXTURE_VARIANT(send) * variant,
		      struct wh_err *err)
{
	static const char *const argv[] = { "-M", "none", "-m", "64", "-incoming", "defer", NULL };
	int ret = qemu_start(&self->qemu, argv, err);

	if (!ret)
		ret = qemu_capabilities(&self->qemu, variant->capabilities, err);
	if (!ret && variant->channels)
		ret = qemu_parameter(&self->qemu, "multifd-channels", variant->channels, err);
	if (!ret && variant->zstd)
		ret = qemu_command(&self->qemu, NULL, err, "migrate-set-parameters",
				   "{\"multifd-compression\":\"zstd\"}");
	return ret ? ret : qemu_migrate_incoming(&self->qemu, self->uri, err);
}

static int start(FIXTURE_DATA(send) *self, const FIXTURE_VARIANT(send) * variant,
		 struct wh_err *err)
{
	const struct wh_block block = {
		.name = "ram",
		.addr = self->ram,
		.length = RAM_BYTES,
		.page_size = 4096,
		.fd = -1,
	};
	struct wh_config config;
	int ret;

	wh_config_init(&config);
	config.callbacks = &callbacks;
	config.opaque = self;
	config.machine = "none";
	config.postcopy = variant->postcopy;
	config.return_path = variant->return_path;
	config.urgent = variant->urgent;
	config.multifd = variant->channels;
	config.multifd_method = variant->zstd ? WH_MULTIFD_ZSTD : WH_MULTIFD_PLAIN;
	/* machine type "none" does not say that it is 7.2 */
	config.multifd_marks = WH_MULTIFD_BY_SECTION;
	if (variant->postcopy) {
		config.downtime_ns = 1;
		config.bandwidth = 256 * MIB;
		config.postcopy_bandwidth = 32 * MIB;
	}
	ret = wh_new(&self->migration, WH_SOURCE, &config, err);
	if (!ret)
		ret = wh_add_block(self->migration, &block, err);
	if (!ret)
		ret = wh_connect(self->migration, self->uri, err);
	return ret ? ret : wh_start(self->migration, err);
}

static int wait_phase(FIXTURE_DATA(send) *self, enum wh_phase phase, unsigned rounds,
		      struct wh_err *err)
{
	static const struct timespec ms = { .tv_nsec = (long)NS_PER_MS };
	uint64_t end = clock_now_ns() + (uint64_t)WAIT_MS * NS_PER_MS;
	struct wh_stats stats;

	for (;;) {
		wh_get_stats(self->migration, &stats);
		if (stats.phase == phase && stats.rounds >= rounds)
			return 0;
		if (wh_phase_ended(stats.phase))
			return wh_wait(self->migration, -1, err) ?
				       err->code :
				       err_set(err, -EPROTO, "it has ended already");
		if (clock_now_ns() > end)
			return err_set(err, -ETIMEDOUT, "still %s after %d ms",
				       wh_phase_name(stats.phase), WAIT_MS);
		nanosleep(&ms, NULL);
	}
}

static int save(FIXTURE_DATA(send) *self, struct wh_err *err)
{
	return qemu_command(&self->qemu, NULL, err, "pmemsave",
			    "{\"val\":0,\"size\":%llu,\"filename\":\"%s\"}",
			    (unsigned long long)RAM_BYTES, self->saved);
}

static int compare(FIXTURE_DATA(send) *self, struct wh_err *err)
{
	const struct image sent = { .at = self->ram, .length = RAM_BYTES };
	struct image got;
	int ret = image_open(&got, self->saved, err);

	if (ret)
		return ret;
	ret = image_compare(&sent, &got, err);
	image_close(&got);
	return ret;
}

TEST_F_TIMEOUT(send, arrives, TEST_SECONDS)
{
	struct wh_err err = { 0 };
	struct wh_stats stats;

	DO(start_qemu(self, variant, &err));
	DO(start(self, variant, &err));
	if (variant->postcopy) {
		DO(wait_phase(self, WH_PHASE_PRECOPY, variant->rounds, &err));
		DO(wh_start_postcopy(self->migration, &err));
		DO(wait_phase(self, WH_PHASE_POSTCOPY, 0, &err));
		/* It takes the missing pages for this in its own order: each is asked for */
		DO(save(self, &err));
		DO(compare(self, &err));
	}
	DO(wh_wait(self->migration, (int64_t)WAIT_MS * (int64_t)NS_PER_MS, &err));
	DO(qemu_wait_status(&self->qemu, "completed", WAIT_MS, &err));
	DO(save(self, &err));
	DO(compare(self, &err));

	wh_get_stats(self->migration, &stats);
	EXPECT_EQ(WH_PHASE_DONE, stats.phase);
	if (variant->postcopy) {
		EXPECT_LT(0, stats.requests);
	}
	if (variant->urgent) {
		EXPECT_LT(0, stats.pages_urgent);
	}
	/* A copy of a guest that ran: it stands still here, and its memory says where */
	EXPECT_EQ(0, workload_verify(&self->workload));
}

TEST_HARNESS_MAIN
