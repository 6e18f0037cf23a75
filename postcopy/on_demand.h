/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_ON_DEMAND_H
#define POSTCOPY_ON_DEMAND_H

#include "postcopy/run.h"
#include "rdma/memory.h"

/* Memory registered for RDMA, at either end: is it to be pinned? Once if that changes, it is told */

static inline void on_demand_begin(const struct wh_migration *m, struct vmem *vmem)
{
	if (m->config.rdma_odp)
		vmem_on_demand(vmem);
}

static inline void on_demand_look(struct wh_migration *m, struct vmem *vmem)
{
	if (vmem->refused.code)
		run_log(m, WH_LOG_WARNING, "%s", vmem->refused.text);
	vmem->refused.code = 0;
}

#endif /* POSTCOPY_ON_DEMAND_H */
