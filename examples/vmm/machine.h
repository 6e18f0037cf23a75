/* SPDX-License-Identifier: MIT */
#ifndef MACHINE_H
#define MACHINE_H

#include "nic.h"
#include "vmm.h"

#include <linux/kvm.h>
#include <pthread.h>
#include <stddef.h>
#include <sys/types.h>

/*
 * The guest: its processors step one byte of every page of their shares, in order, for
 * ever. A consistent copy of its memory therefore shows at most one edge in each
 * share, and the edge is where the processor is.
 *
 *	page 0			the program
 *	pages 1 to 15		zero; with a network card, 1 to 3 are its (nic.h)
 *	shares			one for each processor, same length; byte 0 of a page is
 *				stepped, the others are made from the page's number
 *	the tail, an eighth	zero
 */
#define SHARES_FIRST 16u
#define STATE_HEADER_BYTES 96

/* program.S */
extern const uint8_t vmm_program[], vmm_program_stepped[], vmm_program_rewind[];
extern const uint8_t vmm_program_nic[], vmm_program_end[];

/*
 * Where a processor is: it has stepped its share @passes times, then @pages pages. On KVM
 * its registers say so. This guest has no other state: no FPU, no interrupts, no MSRs.
 */
struct cpu_state {
	uint64_t passes;
	uint64_t pages;
#if defined(__x86_64__)
	struct kvm_regs regs;
	struct kvm_sregs sregs;
#endif
};

/* The device state. Not taken apart: only the same kind of machine takes it */
struct guest_state {
	char header[STATE_HEADER_BYTES];    /* what has to be alike at both ends, in words */
	struct cpu_state cpu[CPUS_MAX + 1]; /* only as many as there are */
};

struct cpu {
	struct vmm *vmm;
	unsigned index;
	uint64_t first;		/* page of its share */
	struct cpu_state state; /* while it is parked */
	pthread_t thread;
	pid_t tid; /* atomic; of the last time it ran */
	int fd;	   /* KVM */
	struct kvm_run *run;
};

/* What runs the guest: KVM, or plain threads. All but @run may be NULL */
struct cpus_ops {
	const char *name;
	int (*open)(struct vmm *vmm, struct wh_err *err);
	int (*run)(struct cpu *cpu, struct wh_err *err); /* until it is no longer guest_running() */
	/* Of a stranger: -EPROTO and a sentence if it is not one of this guest's */
	int (*set_state)(struct cpu *cpu, struct wh_err *err);
	int (*dirty_start)(void *opaque, struct wh_err *err);
	int (*dirty_sync)(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			  struct wh_err *err);
	void (*dirty_stop)(void *opaque);
};
extern const struct cpus_ops *const kvm_cpus; /* NULL: the program is not for this machine */
extern const struct cpus_ops thread_cpus;

struct vmm {
	struct vmm_config config;

	/* The guest */
	const struct cpus_ops *ops;
	struct wh_block ram;
	struct cpu cpu[CPUS_MAX + 1];
	unsigned cpus; /* those with a share; behind them the network's, if there is a card */
	uint64_t share_pages;
	int serial_fd;	       /* -1: nobody listens */
	uint64_t serial_chars; /* atomic */
	bool running;	       /* atomic; else it is parked, or to be */
	int vm_fd;	       /* KVM */
	uint64_t *log;
	int nic_fd, nic_kick_fd;
	bool nic_wrote; /* atomic, see nic_wrote() */
	bool nic_is_here;
	unsigned nic_here_again; /* it is said so often again, by the processor of the card, ... */
	int64_t nic_here_ms;	 /* ... next then */
	int64_t nic_here_wait_ms;

	/* Its migration, the last one, see migrate.c */
	struct wh_migration *migration;
	bool loading; /* a thread was made */
	bool loaded;  /* atomic: it has looked, and ends */
	pthread_t loader;
};

/* No share is its: it answers the network */
static inline bool cpu_is_nic(const struct cpu *cpu)
{
	return cpu->index == cpu->vmm->config.cpus;
}

static inline uint8_t *ram_page(const struct vmm *vmm, uint64_t page)
{
	return (uint8_t *)vmm->ram.addr + page * PAGE_BYTES;
}

/* memory.c */
int ram_open(struct vmm *vmm, struct wh_err *err);
/* What the guest finds when it starts. Touches every page that is not zero. */
void ram_fill(const struct vmm *vmm);
/* As ram_verify() */
int ram_verify_page(const struct vmm *vmm, uint64_t page, struct wh_err *err);

/* guest.c: parked from guest_open() on */
int guest_open(struct vmm *vmm, struct wh_err *err);
int guest_save(void *opaque, void **data, size_t *length, struct wh_err *err);
int guest_load(struct vmm *vmm, const void *data, size_t length, struct wh_err *err);
/* The processors alone, nobody is told: of a guest that is parked, and of one that runs */
int cpus_run(struct vmm *vmm, struct wh_err *err);
void cpus_park(struct vmm *vmm);
/* For what runs it */
bool guest_running(const struct vmm *vmm);
void guest_serial(struct vmm *vmm, char c);
/* How many pages to step until the next call; waits for the time of the rate */
uint32_t guest_pace(const struct vmm *vmm);

#endif /* MACHINE_H */
