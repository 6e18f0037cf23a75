# SPDX-License-Identifier: MIT
#
# e2e/machine tests the example VMM without who operates it

E2E_VMM_OBJS := $(filter $(BUILD)/obj/examples/vmm/%,$(VMM_OBJS))

$(BUILD)/selftests/e2e/machine: $(E2E_VMM_OBJS)
$(BUILD)/selftests/e2e/machine: private EXTRA_LIBS = $(E2E_VMM_OBJS)
