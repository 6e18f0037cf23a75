/* SPDX-License-Identifier: MIT */
#ifndef VMM_H
#define VMM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
#include <wherry/qmp.h>
#include <wherry/wherry.h>

/*
 * The guest: its processors step one byte of every page of their shares, in order, for
 * ever. A consistent copy of its memory therefore shows at most one edge in each
 * share, and the edge is where the processor is.
 *
 *	page 0			the program
 *	pages 1 to 15		zero
 *	shares			one for each processor, same length; byte 0 of a page is
 *				stepped, the others are made from the page's number
 *	the tail, an eighth	zero
 */
#define PAGE_BYTES 4096u
#define SHARES_FIRST 16u
#define CPUS_MAX 16u
#define RAM_BYTES_MIN (1u << 20)
#define STATE_HEADER_BYTES 96

extern const uint8_t vmm_program[], vmm_program_end[]; /* program.S */

/* Where a processor is: it has stepped its share @passes times, then @pages pages */
struct place {
	uint64_t passes;
	uint64_t pages;
};

struct cpu {
	struct vmm *vmm;
	unsigned index;
	uint64_t first;	    /* page of its share */
	struct place place; /* while it is parked */
	pthread_t thread;
	pid_t tid; /* atomic; of the last time it ran */
	int fd;	   /* KVM */
	struct kvm_run *run;
};

/* What runs the guest: KVM, or plain threads. All but @run may be NULL */
struct cpus_ops {
	const char *name;
	size_t state_bytes; /* of a processor, in the device state */
	int (*open)(struct vmm *vmm, struct wh_err *err);
	int (*run)(struct cpu *cpu, struct wh_err *err); /* until vmm.pausing */
	int (*get)(struct cpu *cpu, void *state, struct wh_err *err);
	int (*set)(struct cpu *cpu, const void *state, struct wh_err *err);
	int (*dirty_start)(void *opaque, struct wh_err *err);
	int (*dirty_sync)(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			  struct wh_err *err);
	void (*dirty_stop)(void *opaque);
};
extern const struct cpus_ops *const kvm_cpus; /* NULL: the program is not for this machine */
extern const struct cpus_ops thread_cpus;

enum memory_kind {
	MEMORY_PRIVATE,
	MEMORY_MEMFD,
	MEMORY_HUGETLB,
};

struct vmm {
	/* The command line */
	const char *listen; /* a destination; NULL: a source */
	enum memory_kind memory;
	uint64_t ram_bytes;
	unsigned cpus;
	bool threads;
	uint64_t rate; /* pages a second, each processor; 0: as fast as it can */
	const char *serial;
	const char *qmp;
	bool own_loop;
	struct wh_config config;

	/* The guest */
	const struct cpus_ops *ops;
	struct wh_block ram;
	struct cpu cpu[CPUS_MAX];
	uint64_t share_pages;
	int serial_fd;	       /* -1: nobody listens */
	uint64_t serial_chars; /* atomic */
	bool pausing;	       /* atomic */
	int vm_fd;	       /* KVM */
	uint64_t *log;

	/* Its migration, the last one */
	struct wh_migration *migration;
	bool migrating;
	bool loading; /* a thread was made, see migrate.c */
	bool loaded;  /* atomic: the loader has looked, and ends */
	pthread_t loader;
	struct wh_qmp *monitor; /* NULL: none was asked for */
	bool quitting;
	int wake_fd; /* an eventfd: the main thread has to look at it */
};

static inline uint8_t *ram_page(const struct vmm *vmm, uint64_t page)
{
	return (uint8_t *)vmm->ram.addr + page * PAGE_BYTES;
}

/* options.c: ends the process if they are wrong */
void options_read(struct vmm *vmm, int argc, char **argv);

/* memory.c */
int ram_open(struct vmm *vmm, struct wh_err *err);
/* What the guest finds when it starts. Touches every page that is not zero. */
void ram_fill(const struct vmm *vmm);
/* Page 0, or every byte while the guest is parked: -EILSEQ and the first wrong one */
int ram_verify_program(const struct vmm *vmm, struct wh_err *err);
int ram_verify(const struct vmm *vmm, struct wh_err *err);

/* guest.c: parked from guest_open() on. Callbacks of the library, the opaque is the vmm */
int guest_open(struct vmm *vmm, struct wh_err *err);
int guest_run(void *opaque, struct wh_err *err);
int guest_park(void *opaque, struct wh_err *err);
int guest_save(void *opaque, void **data, size_t *length, struct wh_err *err);
int guest_load(struct vmm *vmm, const void *data, size_t length, struct wh_err *err);
/* For what runs it */
bool guest_pausing(const struct vmm *vmm);
void guest_serial(struct vmm *vmm, char c);
/* How many pages to step until the next call; waits for the time of the rate */
uint32_t guest_pace(const struct vmm *vmm);

/* migrate.c */
int vmm_migrate(struct vmm *vmm, const char *uri, struct wh_err *err);

/* monitor.c: nothing without --qmp */
int monitor_open(struct vmm *vmm, struct wh_err *err);
/* It is to tell of vmm.migration from here on */
void monitor_set(const struct vmm *vmm);

/* say.c: a line of JSON on stdout; @format adds members, each with a comma before it */
void say(const char *kind, const char *format, ...) __attribute__((format(printf, 2, 3)));
void say_phase(enum wh_phase phase, const char *error);
void say_log(void *opaque, enum wh_log_level level, const char *text);
struct member {
	char text[1024];
} member(const char *name, const char *text); /* of any text; nothing if there is none */
int fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
uint64_t now_ms(void);

#endif /* VMM_H */
