/* SPDX-License-Identifier: MIT */
#ifndef POSTCOPY_READS_H
#define POSTCOPY_READS_H

/* Pages read from the source by RDMA: for run_read.c, and for run_bridge.c, which accepts */
#include "postcopy/run_dest.h"
#include "rdma/link.h"
#include "rdma/vread.h"

struct reads {
	struct wh_migration *m;
	struct vlink link;
	/* from here on the fault loop's, until that has closed its channels */
	struct op event, receive, send, timer, again;
	struct vread engine;
	struct vread_chunk *chunk; /* of all blocks */
	uint64_t chunks;
	uint64_t asked_ns; /* when keys were asked for that have not come; 0: none */
	bool over;	   /* no page is read any more */
	bool closed;	   /* nothing is left of the connection */
};

/* Bulk thread: the connection is for this. It is taken over, whatever is returned */
int reads_accept(struct wh_migration *m, struct rdma_cm_id *id, const struct control_hello *answer,
		 struct wh_err *err);

#endif /* POSTCOPY_READS_H */
