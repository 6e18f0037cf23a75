/* SPDX-License-Identifier: MIT */
#ifndef VMM_H
#define VMM_H

#include <pthread.h>
#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <sys/types.h>
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
#define SHARES_FIRST 16ull
#define CPUS_MAX 16u
#define RAM_BYTES_MIN (1ull << 20)

enum memory_kind {
	MEMORY_PRIVATE,
	MEMORY_MEMFD,
	MEMORY_HUGETLB,
	MEMORY_COUNT
};

struct ram {
	uint8_t *at;
	uint64_t bytes;
	uint64_t page_bytes; /* of the host pages behind it */
	int fd;
};

/* Where a processor is: it has stepped its share @passes times, then @pages pages */
struct place {
	uint64_t passes;
	uint64_t pages;
};

struct guest;
struct kvm_run;

struct cpu {
	struct guest *guest;
	unsigned index;
	pthread_t thread;
	bool created;
	bool parked; /* under guest.lock */
	pid_t tid;
	uint64_t first; /* page of its share */
	uint64_t pages;
	uint64_t next_ns; /* when its next steps are due, with a rate */

	struct place place; /* plain threads: where it is, its own while it runs */

	int fd; /* KVM */
	struct kvm_run *run;
};

struct state;

/**
 * struct cpus_ops - What runs the guest: KVM, or plain threads
 * @name:	Said in the output
 * @number:	In the device state
 * @open:	Make the machine and its processors; @guest->ram is there
 * @run:	On the processor's thread: run it until guest.pausing is set
 * @kick:	Make @run look at guest.pausing, also while it sleeps; or (false) let it
 *		sleep again. Any thread, with guest.lock
 * @state:	Put into or take from the device state, while it is parked
 * @where:	Where it is, while it is parked
 * @log:	Begin or end to log writes; NULL: it cannot, the library has to
 * @log_take:	OR the pages written since the last call into @map
 */
struct cpus_ops {
	const char *name;
	uint32_t number;
	int (*open)(struct guest *guest, struct wh_err *err);
	void (*run)(struct cpu *cpu);
	void (*kick)(struct cpu *cpu, bool on);
	int (*state)(struct cpu *cpu, struct state *state, struct wh_err *err);
	int (*where)(struct cpu *cpu, struct place *place, struct wh_err *err);
	int (*log)(struct guest *guest, bool on, struct wh_err *err);
	int (*log_take)(struct guest *guest, uint64_t *map, size_t pages, struct wh_err *err);
};

/* NULL where this machine's processors are not those of the program */
extern const struct cpus_ops *const kvm_cpus;
extern const struct cpus_ops thread_cpus;

struct guest {
	const struct cpus_ops *ops;
	struct ram ram;
	struct cpu cpu[CPUS_MAX];
	unsigned cpus;
	uint64_t rate; /* pages a second, each processor; 0: as fast as it can */
	int serial_fd;
	int broken_fd;	       /* an eventfd: a processor cannot go on */
	uint64_t serial_chars; /* atomic */

	pthread_mutex_t lock;
	pthread_cond_t changed;
	bool pausing;	      /* atomic; written under lock */
	struct wh_err broken; /* under lock */

	int vm_fd;
	uint64_t *log;
};

/* Not exported by the library, on purpose: everybody has his own */
int fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));
uint64_t now_ns(void);

/* memory.c */
int ram_open(struct ram *ram, enum memory_kind kind, uint64_t bytes, struct wh_err *err);
const char *memory_name(enum memory_kind kind);
/* What the guest finds when it starts. Touches every page that is not quiet. */
void ram_fill(const struct guest *guest);
/*
 * Every byte of RAM against where the processors are. The guest is parked. Says the
 * first address that is wrong; -EILSEQ
 */
int ram_verify(struct guest *guest, struct wh_err *err);

/* guest.c: parked from guest_open() on, each processor at the beginning of its share */
int guest_open(struct guest *guest, struct wh_err *err);
void guest_run(struct guest *guest);
/* When it returns no processor writes any more. */
void guest_park(struct guest *guest);
bool guest_parked(struct guest *guest);
/* A processor cannot go on; on its thread, which then waits to be parked. */
void guest_broke(struct cpu *cpu, const char *format, ...) __attribute__((format(printf, 2, 3)));
void guest_serial(struct guest *guest, char c);
/* How many pages to step until the next call; waits for the time of the rate */
uint32_t guest_pace(struct cpu *cpu);

/* state.c */
int state_save(struct guest *guest, void **data, size_t *length, struct wh_err *err);
int state_load(struct guest *guest, const void *data, size_t length, struct wh_err *err);
/* One value, into the state or out of it; a state that is too short is noted */
void state_value(struct state *state, void *value, size_t bytes);
bool state_loading(const struct state *state);
#define STATE(state, field) state_value(state, &(field), sizeof(field))

/* program.S */
extern const uint8_t vmm_program[], vmm_program_stepped[], vmm_program_rewind[];
extern const uint8_t vmm_program_end[];
#define PROGRAM_AT 0u /* physical address */
#define SERIAL_PORT 0x3f8
#define PACE_PORT 0x3e8

/* options.c */
enum side {
	SIDE_SOURCE,
	SIDE_DEST,
};

struct options {
	enum side side;
	const char *uri;
	uint64_t ram_bytes;
	unsigned cpus;
	enum memory_kind memory;
	bool threads;
	uint64_t rate;
	const char *serial;
	bool json;
	bool own_loop;
	bool load_elsewhere;
	struct wh_config config;
	uint64_t migrate_after_ns;
	int64_t postcopy_at_ns;	    /* by wh_start_postcopy(), so long after the beginning; -1 */
	uint64_t postcopy_at_round; /* the same when so many have ended; 0: not */
	int64_t cancel_at_ns;
	int64_t hold_ns; /* -1: until a signal */
	uint64_t run_after_ns;
};

/* Return: 0; or the exit status plus one: the process has nothing more to do */
int options_read(struct options *options, int argc, char **argv);

/* report.c: lines on stdout, for people or (--json) for programs */
struct report {
	bool json;
	enum side side;
	uint64_t begin_ns;
	uint64_t plain_ns; /* last plain status line */
};

struct verdict {
	int code; /* 0, or what the exit status says */
	struct wh_err err;
	bool verified;
	double verify_ms;
};

void report_open(struct report *report, const struct options *options);
void report_guest(struct report *report, const struct guest *guest, const char *what);
void report_listening(struct report *report, const char *uri);
void report_phase(struct report *report, enum wh_phase phase, const char *error);
void report_round(struct report *report, uint64_t round);
void report_log(struct report *report, enum wh_log_level level, const char *text);
void report_status(struct report *report, struct guest *guest,
		   const struct wh_migration *migration);
void report_summary(struct report *report, struct guest *guest,
		    const struct wh_migration *migration, const struct verdict *verdict);

/* migrate.c */
#define NOTES_MAX 64

struct note {
	struct wh_event event;
	enum wh_log_level level;
	bool log;
	char text[WH_ERR_TEXT];
};

/**
 * struct mover - The guest's migration
 * @notes_fd:	Readable when there are notes
 *
 * The library's callbacks come on its threads; what they have to say waits here for
 * the main thread, since stdout may be a pipe that nobody reads.
 */
struct mover {
	const struct options *options;
	struct guest *guest;
	struct wh_migration *migration;
	int notes_fd;
	pthread_mutex_t lock;
	struct note note[NOTES_MAX];
	unsigned notes_first;
	unsigned notes;
	bool loading; /* atomic: a thread of its own loads device state */
	void *state;  /* a copy for it */
	size_t state_bytes;
};

int mover_open(struct mover *mover, const struct options *options, struct guest *guest,
	       struct wh_err *err);
/* The migration as the options say; listening, or about to connect */
int mover_begin(struct mover *mover, struct wh_err *err);
bool mover_note(struct mover *mover, struct note *note);
void mover_end(struct mover *mover);

#endif /* VMM_H */
