/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Memory that is there when the device touches it: what that is to whoever watches the same memory, as
 * Documentation/rdma.rst has it. Both ends of a connection are in this process.
 */
#include "base/clock.h"
#include "rdma/link.h"
#include "rdma/memory.h"
#include "rdma/probe.h"
#include "selftests/lib/memory.h"
#include "uffd/dirty.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define HERE "10.9.1.2"
#define BYTES (UINT64_C(2) << 20)
#define PAGES (BYTES / TARGET_PAGE)
#define LIMIT_NS (60 * NS_PER_S)

FIXTURE(demand)
{
	struct memory from, to;
	struct vcm listener;
	struct vlink source, dest;
	struct vmem local, remote;
	struct dirty_log log;
	uint64_t map[PAGES / 64];
	struct wh_err err;
};

FIXTURE_VARIANT(demand)
{
	enum memory_kind kind;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(demand, anon)  { .kind = MEMORY_ANON };
FIXTURE_VARIANT_ADD(demand, memfd) { .kind = MEMORY_MEMFD };
/* clang-format on */

/* Of this process, KiB */
static unsigned long pinned(void)
{
	FILE *file = fopen("/proc/self/status", "re");
	unsigned long kib = 0;
	char line[256];

	while (file && fgets(line, sizeof(line), file))
		if (sscanf(line, "VmPin: %lu", &kib) == 1)
			break;
	if (file)
		fclose(file);
	return kib;
}

/* Both ends, in turns */
static int connect_both(FIXTURE_DATA(demand) *self)
{
	struct sockaddr_in at = { .sin_family = AF_INET };
	struct control_hello hello = { .version = CONTROL_VERSION };
	uint64_t until_ns = clock_now_ns() + LIMIT_NS;
	struct rdma_cm_id *id;
	uint32_t port = 0;
	int ret;

	inet_pton(AF_INET, HERE, &at.sin_addr);
	ret = vcm_listen(&self->listener, (struct sockaddr *)&at, &port, &self->err);
	at.sin_port = htons((uint16_t)port);
	if (ret == 0)
		ret = vlink_connect(&self->source, (struct sockaddr *)&at, &hello, 20000, 0,
				    &self->err);
	while (ret >= 0 && clock_now_ns() < until_ns && (!self->source.up || !self->dest.up)) {
		ret = self->dest.id ? vlink_event(&self->dest, &self->err) :
				      vcm_next(&self->listener, &id, &hello, &self->err);
		if (ret > 0 && !self->dest.id)
			ret = vlink_accept(&self->dest, id, &hello, 0, &self->err);
		if (ret >= 0)
			ret = vlink_event(&self->source, &self->err);
	}
	return ret < 0 ? ret : self->source.up && self->dest.up ? 0 : -ETIMEDOUT;
}

static int register_memory(struct vmem *vmem, struct ibv_pd *pd, bool local, struct memory *memory,
			   struct wh_err *err)
{
	int ret = vmem_open(vmem, pd, local, 1, err);

	vmem_on_demand(vmem);
	return ret < 0 ? ret : vmem_add(vmem, memory->region.addr, BYTES, err);
}

FIXTURE_SETUP(demand)
{
	memset(self, 0, sizeof(*self));
	ASSERT_EQ(0, memory_new(&self->from, variant->kind, BYTES, &self->err));
	ASSERT_EQ(0, memory_new(&self->to, variant->kind, BYTES, &self->err));
	memset(self->from.region.addr, 1, BYTES);
	ASSERT_EQ(0, connect_both(self)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, register_memory(&self->local, self->source.pd, true, &self->from, &self->err));
	ASSERT_EQ(0, register_memory(&self->remote, self->dest.pd, false, &self->to, &self->err));
	self->log.pagemap = self->log.uffd.fd = -1;
}

FIXTURE_TEARDOWN(demand)
{
	vlink_disconnect(&self->source);
	vlink_disconnect(&self->dest);
	vmem_close(&self->local);
	vmem_close(&self->remote);
	vlink_close(&self->source);
	vlink_close(&self->dest);
	vcm_close(&self->listener);
	memory_free(&self->from);
	memory_free(&self->to);
}

/* A page, to where it is over there. Return: 0, or why not */
static int write_page(FIXTURE_DATA(demand) *self, uint64_t page)
{
	uint64_t until_ns = clock_now_ns() + LIMIT_NS;
	struct vlink_write out = { .length = TARGET_PAGE, .signal = true };
	unsigned before = self->source.written;
	uint64_t offset = page * TARGET_PAGE;
	uint8_t *at;
	int ret;

	out.from = self->from.region.addr + offset;
	out.to = (uintptr_t)self->to.region.addr + offset;
	ret = vmem_grant(&self->local, 0, offset >> CONTROL_CHUNK_BITS, &out.lkey, &self->err);
	if (ret == 0)
		ret = vmem_grant(&self->remote, 0, offset >> CONTROL_CHUNK_BITS, &out.rkey,
				 &self->err);
	if (ret == 0)
		ret = vlink_write(&self->source, &out, &self->err);
	while (ret >= 0 && self->source.written == before) {
		ret = vlink_room(&self->source, &at, &self->err);
		if (clock_now_ns() > until_ns)
			return -ETIMEDOUT;
	}
	return ret < 0 ? ret : 0;
}

static bool is_equal(FIXTURE_DATA(demand) *self, uint64_t page)
{
	uint64_t offset = page * TARGET_PAGE;

	return !memcmp(self->from.region.addr + offset, self->to.region.addr + offset, TARGET_PAGE);
}

TEST_F(demand, nothing_is_pinned)
{
	unsigned long before = pinned();

	for (uint64_t page = 0; page < PAGES; page += 100) {
		ASSERT_EQ(0, write_page(self, page)) TH_LOG("%s", self->err.text);
		EXPECT_TRUE(is_equal(self, page));
	}
	EXPECT_EQ(2 * BYTES, self->local.bytes + self->remote.bytes);
	EXPECT_EQ(before, pinned());
}

/* Whoever watches the source sees no page written, and what the guest writes is what comes */
TEST_F(demand, reading_is_no_writing)
{
	ASSERT_EQ(0, write_page(self, 3)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, dirty_log_open(&self->log, &self->from.region, 1, &self->err));
	EXPECT_EQ(0, dirty_log_scan(&self->log, 0, self->map, &self->err));
	ASSERT_EQ(0, write_page(self, 3)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, write_page(self, 4)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, dirty_log_scan(&self->log, 0, self->map, &self->err));
	memset(self->from.region.addr + 3 * TARGET_PAGE, 2, TARGET_PAGE);
	ASSERT_EQ(0, write_page(self, 3)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(is_equal(self, 3));
	EXPECT_EQ(1, dirty_log_scan(&self->log, 0, self->map, &self->err));
	EXPECT_EQ(UINT64_C(1) << 3, self->map[0]);
	dirty_log_close(&self->log);
}

TEST_F(demand, what_was_dropped_is_another_page)
{
	int advice = variant->kind == MEMORY_MEMFD ? MADV_REMOVE : MADV_DONTNEED;

	ASSERT_EQ(0, write_page(self, 3)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, madvise(self->to.region.addr, BYTES, advice));
	EXPECT_EQ(0, self->to.region.addr[3 * TARGET_PAGE]);
	ASSERT_EQ(0, madvise(self->to.region.addr, BYTES, advice));
	ASSERT_EQ(0, write_page(self, 3)) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(is_equal(self, 3));
}

/*
 * Whether the kernel has the device wait for it or not, the peer gives up; and the page can be placed as if
 * nothing had been
 */
TEST_F(demand, a_missing_page_stays_missing)
{
	uint8_t *at = self->to.region.addr + 3 * TARGET_PAGE;
	struct uffd uffd;

	ASSERT_EQ(0, uffd_open(&uffd, 0, true, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, uffd_register(&uffd, at, TARGET_PAGE, UFFD_MISSING, NULL, &self->err));
	ASSERT_EQ(0, write_page(self, 2)) TH_LOG("%s", self->err.text);
	EXPECT_GT(0, write_page(self, 3));
	EXPECT_NE(0, self->err.code);
	EXPECT_EQ(PLACED_OK, uffd_copy(&uffd, at, self->from.region.addr, TARGET_PAGE, true, NULL,
				       &self->err));
	uffd_close(&uffd);
}

int main(int argc, char **argv)
{
	struct verbs_probe probe;

	verbs_probe(&probe);
	if (probe.on_demand)
		return test_harness_run(argc, argv);
	printf("1..0 # SKIP no on-demand paging: %s\n", probe.demand);
	return KSFT_SKIP;
}
