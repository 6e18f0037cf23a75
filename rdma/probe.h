/* SPDX-License-Identifier: MIT */
#ifndef RDMA_PROBE_H
#define RDMA_PROBE_H

#include <stdint.h>

struct ibv_context;

/**
 * enum verbs_part - What an RDMA link is made of, in the order it is looked for
 */
enum verbs_part {
	VERBS_CORE,   /* ib_core: /sys/class/infiniband */
	VERBS_UVERBS, /* ib_uverbs: /dev/infiniband/uverbs* */
	VERBS_CM,     /* rdma_ucm: /dev/infiniband/rdma_cm */
	VERBS_DEVICE, /* one that libibverbs can use */
	VERBS_PART_COUNT
};

/**
 * struct verbs_probe - What there is of RDMA
 * @missing:	The first part that is not there, VERBS_PART_COUNT if all are
 * @code:	Why, a negative errno
 * @devices:	How many libibverbs finds
 * @names:	Theirs, with spaces between; cut where they do not fit
 * @on_demand:	How many of them can do what migrations do with memory that is not pinned
 * @demand:	Of each, which operations it has for that
 */
struct verbs_probe {
	enum verbs_part missing;
	int code;
	unsigned devices;
	char names[128];
	unsigned on_demand;
	char demand[192];
};

/* Looks, and opens each to see that it may be; changes nothing. Any thread. */
void verbs_probe(struct verbs_probe *probe);

/*
 * Operations of a connection for which memory need not be pinned (on-demand paging): of enum
 * ibv_odp_transport_cap_bits. Whoever asks for the operation and whose memory it is are not told apart
 */
uint32_t verbs_on_demand(struct ibv_context *context);

#endif /* RDMA_PROBE_H */
