# SPDX-License-Identifier: MIT
#
# The monitor is not in the library that tests are linked with
QMP_TESTS := $(filter $(BUILD)/selftests/cli/qmp%,$(TESTS))
$(QMP_TESTS): $(QMP_OBJS)
$(QMP_TESTS): private EXTRA_LIBS = $(QMP_OBJS)
# Starts two monitors of ours
$(BUILD)/selftests/cli/qmp_qemu: | $(VMM)
# A plan and a guest, without the rest of the command
DRILL_TESTS := $(filter $(BUILD)/selftests/cli/drill%,$(TESTS))
DRILL_TEST_OBJS := $(BUILD)/obj/cli/drill_plan.o $(BUILD)/obj/cli/drill_guest.o
$(DRILL_TESTS): $(DRILL_TEST_OBJS)
$(DRILL_TESTS): private EXTRA_LIBS = $(DRILL_TEST_OBJS)
# Figures in each of their forms
METRICS_TEST_OBJS := $(QMP_OBJS) $(addprefix $(BUILD)/obj/cli/,metrics.o top_show.o qmpcall.o)
$(BUILD)/selftests/cli/metrics: $(METRICS_TEST_OBJS)
$(BUILD)/selftests/cli/metrics: private EXTRA_LIBS = $(METRICS_TEST_OBJS)
# A log of replies
$(BUILD)/selftests/cli/witness: $(BUILD)/obj/cli/witness_judge.o
$(BUILD)/selftests/cli/witness: private EXTRA_LIBS = $(BUILD)/obj/cli/witness_judge.o
