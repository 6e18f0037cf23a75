# SPDX-License-Identifier: MIT
#
# Calls that are to fail
FAILING := ibv_alloc_pd ibv_create_comp_channel ibv_create_cq ibv_reg_mr rdma_create_event_channel \
	   rdma_create_id rdma_create_qp rdma_bind_addr rdma_listen rdma_migrate_id \
	   rdma_resolve_addr rdma_resolve_route rdma_connect rdma_accept \
	   rdma_get_cm_event ibv_get_cq_event
$(BUILD)/selftests/lab/rdma/failing: private EXTRA_LDFLAGS = $(FAILING:%=-Wl,--wrap=%)

# Where pages are read something goes wrong
$(BUILD)/selftests/lab/rdma/misread: private EXTRA_LDFLAGS = -Wl,--wrap=vlink_read,--wrap=vlend_take,--wrap=vread_next
