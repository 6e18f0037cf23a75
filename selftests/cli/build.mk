# SPDX-License-Identifier: MIT
#
# The monitor is not in the library that tests are linked with
QMP_TESTS := $(filter $(BUILD)/selftests/cli/qmp%,$(TESTS))
$(QMP_TESTS): $(QMP_OBJS)
$(QMP_TESTS): private EXTRA_LIBS = $(QMP_OBJS)
# Starts two monitors of ours
$(BUILD)/selftests/cli/qmp_qemu: | $(VMM)
