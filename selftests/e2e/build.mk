# SPDX-License-Identifier: MIT
#
# e2e/machine tests the example VMM's own parts: all of it but its main()

E2E_VMM_OBJS := $(filter-out $(BUILD)/obj/examples/vmm/main.o,$(VMM_OBJS)) $(QMP_OBJS)

$(BUILD)/selftests/e2e/machine: $(E2E_VMM_OBJS)
$(BUILD)/selftests/e2e/machine: private EXTRA_LIBS = $(E2E_VMM_OBJS)
