/* SPDX-License-Identifier: GPL-2.0 */
/*
 * What is registered, and how, with a device that has on-demand paging or not, or says that it has.
 */
#include "rdma/memory.h"

#include "rdma/probe.h"
#include "wire/control.h"

#include <errno.h>
#include <infiniband/verbs.h>
#include <stdlib.h>
#include <string.h>

#include "kselftest_harness.h"

#define MIB (UINT64_C(1) << 20)
#define CHUNKS 4u
#define MRS 64u

/* The device: what it says of itself, what it does, and what it was asked for */
static struct device {
	struct verbs_context verbs;
	struct ibv_pd pd;
	uint64_t general;
	uint32_t operations;
	int no_answer; /* to who asks what it has */
	int refuses;   /* memory on demand, with this errno */
	int refuses_pinned;
	unsigned nameless; /* so many keys are 0 first */
	struct ibv_mr mr[MRS];
	bool live[MRS];
	unsigned asked, asked_on_demand, count;
	int access; /* last */
} device;

static int query(struct ibv_context *context, const struct ibv_query_device_ex_input *input,
		 struct ibv_device_attr_ex *attr, size_t bytes)
{
	(void)context, (void)input;
	if (device.no_answer)
		return device.no_answer;
	memset(attr, 0, bytes);
	attr->odp_caps.general_caps = device.general;
	attr->odp_caps.per_transport_caps.rc_odp_caps = device.operations;
	return 0;
}

static struct ibv_mr *reg(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	bool on_demand = access & IBV_ACCESS_ON_DEMAND;
	struct ibv_mr *mr = &device.mr[device.asked];

	device.asked++;
	device.asked_on_demand += on_demand;
	device.access = access;
	errno = on_demand ? device.refuses : device.refuses_pinned;
	if (errno || device.asked > MRS)
		return NULL;
	device.live[mr - device.mr] = true;
	device.count++;
	*mr = (struct ibv_mr){ .context = pd->context, .pd = pd, .addr = addr, .length = length };
	mr->lkey = 0x100 + device.asked;
	if (device.nameless)
		device.nameless--;
	else
		mr->rkey = 0x200 + device.asked;
	return mr;
}

struct ibv_mr *__wrap_ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access);
struct ibv_mr *__wrap_ibv_reg_mr(struct ibv_pd *pd, void *addr, size_t length, int access)
{
	return reg(pd, addr, length, access);
}

struct ibv_mr *__wrap_ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				       unsigned access);
struct ibv_mr *__wrap_ibv_reg_mr_iova2(struct ibv_pd *pd, void *addr, size_t length, uint64_t iova,
				       unsigned access)
{
	return iova == (uintptr_t)addr ? reg(pd, addr, length, (int)access) : NULL;
}

int __wrap_ibv_dereg_mr(struct ibv_mr *mr);
int __wrap_ibv_dereg_mr(struct ibv_mr *mr)
{
	if (!device.live[mr - device.mr])
		return EINVAL;
	device.live[mr - device.mr] = false;
	device.count--;
	return 0;
}

FIXTURE(memory)
{
	struct vmem vmem;
	struct wh_err err;
	uint32_t key;
};

FIXTURE_SETUP(memory)
{
	memset(&device, 0, sizeof(device));
	device.verbs.sz = sizeof(device.verbs);
	device.verbs.query_device_ex = query;
	device.verbs.context.abi_compat = __VERBS_ABI_IS_EXTENDED;
	device.pd.context = &device.verbs.context;
	device.general = IBV_ODP_SUPPORT;
	device.operations = IBV_ODP_SUPPORT_WRITE | IBV_ODP_SUPPORT_READ;
}

FIXTURE_TEARDOWN(memory)
{
	vmem_close(&self->vmem);
	EXPECT_EQ(0, device.count);
}

/* Nobody looks into it */
static int begin(FIXTURE_DATA(memory) *self, bool local, bool lent)
{
	vmem_close(&self->vmem);
	if (vmem_open(&self->vmem, &device.pd, local, 1, &self->err) < 0)
		return -1;
	self->vmem.lent = lent;
	vmem_on_demand(&self->vmem);
	return vmem_add(&self->vmem, (uint8_t *)(64 * MIB), CHUNKS * MIB, &self->err);
}

static int grant(FIXTURE_DATA(memory) *self, uint64_t chunk)
{
	memset(&self->err, 0, sizeof(self->err));
	return vmem_grant(&self->vmem, 0, chunk, &self->key, &self->err);
}

TEST_F(memory, each_use_asks_for_its_operation)
{
	static const struct {
		bool local, lent;
		uint32_t operation;
		int access;
	} uses[] = {
		{ true, false, IBV_ODP_SUPPORT_WRITE, 0 },
		{ false, false, IBV_ODP_SUPPORT_WRITE,
		  IBV_ACCESS_LOCAL_WRITE | IBV_ACCESS_REMOTE_WRITE },
		{ false, true, IBV_ODP_SUPPORT_READ, IBV_ACCESS_REMOTE_READ },
	};

	for (unsigned i = 0; i < 3; i++) {
		device.operations = uses[i].operation;
		ASSERT_EQ(0, begin(self, uses[i].local, uses[i].lent));
		ASSERT_EQ(0, grant(self, 1));
		EXPECT_EQ(uses[i].access | IBV_ACCESS_ON_DEMAND, device.access) TH_LOG("%u", i);
		device.operations = ~uses[i].operation;
		ASSERT_EQ(0, begin(self, uses[i].local, uses[i].lent));
		ASSERT_EQ(0, grant(self, 1));
		EXPECT_EQ(uses[i].access, device.access) TH_LOG("%u, pinned", i);
		EXPECT_EQ(0, self->vmem.refused.code);
	}
}

TEST_F(memory, a_device_without)
{
	for (unsigned i = 0; i < 3; i++) {
		device.general = i == 0 ? 0 : IBV_ODP_SUPPORT;
		device.operations = i == 1 ? 0 : UINT32_MAX;
		device.no_answer = i == 2 ? EIO : 0;
		EXPECT_EQ(0, verbs_on_demand(&device.verbs.context));
		ASSERT_EQ(0, begin(self, false, false));
		self->vmem.max = 2 * MIB;
		EXPECT_EQ(0, grant(self, 0));
		EXPECT_EQ(0, grant(self, 1));
		EXPECT_EQ(-ENOMEM, grant(self, 2));
		EXPECT_EQ(2 * MIB, self->vmem.pinned);
		EXPECT_EQ(0, vmem_revoke(&self->vmem, 0, 0, &self->err));
		EXPECT_EQ(0, grant(self, 2));
	}
	EXPECT_EQ(0, device.asked_on_demand);
}

/* Chunk by chunk, and as a whole */
TEST_F(memory, nothing_is_pinned)
{
	ASSERT_EQ(0, begin(self, false, false));
	self->vmem.max = MIB;
	for (unsigned i = 0; i < CHUNKS; i++)
		EXPECT_EQ(0, grant(self, i)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, vmem_grant_whole(&self->vmem, 0, &self->key, &self->err));
	EXPECT_EQ(0, self->vmem.pinned);
	EXPECT_EQ(2 * CHUNKS * MIB, self->vmem.bytes);
	EXPECT_EQ(0, vmem_revoke(&self->vmem, 0, 3, &self->err));
	EXPECT_EQ(0, self->vmem.pinned);
	EXPECT_EQ((2 * CHUNKS - 1) * MIB, self->vmem.bytes);
	EXPECT_EQ(device.asked, device.asked_on_demand);
}

/* What has gone before stays as it is, and does not count */
TEST_F(memory, refused_in_the_middle)
{
	ASSERT_EQ(0, begin(self, false, false));
	self->vmem.max = MIB;
	EXPECT_EQ(0, grant(self, 0));
	device.refuses = EOPNOTSUPP;
	EXPECT_EQ(0, grant(self, 1)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(-EOPNOTSUPP, self->vmem.refused.code);
	EXPECT_NE(NULL, strstr(self->vmem.refused.text, "memory is pinned"));
	EXPECT_EQ(MIB, self->vmem.pinned);
	EXPECT_EQ(-ENOMEM, grant(self, 2));
	EXPECT_EQ(2, device.asked_on_demand);
	EXPECT_EQ(0, vmem_revoke(&self->vmem, 0, 0, &self->err));
	EXPECT_EQ(-ENOMEM, grant(self, 2));
	EXPECT_EQ(0, vmem_revoke(&self->vmem, 0, 1, &self->err));
	EXPECT_EQ(0, self->vmem.pinned);
	EXPECT_EQ(0, grant(self, 2));
	EXPECT_EQ(2, device.asked_on_demand);
}

/* A control group counts what is registered, pinned or not: some of that is given back, and it goes on */
TEST_F(memory, no_room_for_one_more)
{
	ASSERT_EQ(0, begin(self, false, false));
	EXPECT_EQ(0, grant(self, 0));
	device.refuses = device.refuses_pinned = EAGAIN;
	EXPECT_EQ(-ENOMEM, grant(self, 1));
	EXPECT_EQ(0, self->vmem.refused.code);
	device.refuses = device.refuses_pinned = 0;
	EXPECT_EQ(0, grant(self, 1));
	EXPECT_TRUE(device.access & IBV_ACCESS_ON_DEMAND);
	EXPECT_EQ(0, self->vmem.pinned);
}

TEST_F(memory, a_key_of_0_is_none)
{
	ASSERT_EQ(0, begin(self, false, false));
	device.nameless = 1;
	EXPECT_EQ(0, grant(self, 0));
	EXPECT_NE(0, self->key);
	EXPECT_EQ(2, device.asked_on_demand);
	EXPECT_EQ(1, device.count);
}

TEST_HARNESS_MAIN
