# SPDX-License-Identifier: MIT
#
# A device that is not there
$(BUILD)/selftests/rdma/memory: private EXTRA_LDFLAGS = \
	-Wl,--wrap=ibv_reg_mr,--wrap=ibv_reg_mr_iova2,--wrap=ibv_dereg_mr
