# SPDX-License-Identifier: MIT
#
# e2e/machine and e2e/nic test the example VMM without who operates it

E2E_VMM_OBJS := $(filter $(BUILD)/obj/examples/vmm/%,$(VMM_OBJS))
E2E_WITNESS_OBJS := $(addprefix $(BUILD)/obj/cli/,witness.o witness_judge.o)

$(BUILD)/selftests/e2e/machine: $(E2E_VMM_OBJS)
$(BUILD)/selftests/e2e/machine: private EXTRA_LIBS = $(E2E_VMM_OBJS)
$(BUILD)/selftests/e2e/nic: $(E2E_VMM_OBJS) $(E2E_WITNESS_OBJS)
$(BUILD)/selftests/e2e/nic: private EXTRA_LIBS = $(E2E_VMM_OBJS) $(E2E_WITNESS_OBJS)
$(BUILD)/selftests/e2e/nic_move: $(E2E_WITNESS_OBJS) | $(VMM)
$(BUILD)/selftests/e2e/nic_move: private EXTRA_LIBS = $(E2E_WITNESS_OBJS)
