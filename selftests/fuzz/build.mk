# SPDX-License-Identifier: MIT
#
# The monitor is not in the library that fuzz targets are linked with
$(BUILD)/obj/selftests/fuzz/qmp.o: private EXTRA_CFLAGS = $(CLI_CFLAGS)
$(BUILD)/selftests/fuzz/qmp: $(QMP_OBJS)
$(BUILD)/selftests/fuzz/qmp: private EXTRA_LIBS = $(QMP_OBJS) $(CLI_LIBS)
