/* SPDX-License-Identifier: MIT */
#ifndef VMM_H
#define VMM_H

#include <stdbool.h>
#include <stdint.h>
#include <wherry/protect.h>
#include <wherry/wherry.h>

/*
 * The VMM as those see it who operate it (examples/console): a guest, and what a migration
 * of it needs. It knows nothing of them but the callbacks of struct vmm_config.
 */
#define PAGE_BYTES 4096u
#define CPUS_MAX 16u
#define RAM_BYTES_MIN (1u << 20)

struct vmm;

enum memory_kind {
	MEMORY_PRIVATE,
	MEMORY_MEMFD,
	MEMORY_HUGETLB,
};

/**
 * struct vmm_config - What guest it is, and who is told of it
 * @incoming:	It comes from elsewhere; else it starts here
 * @threads:	Plain threads are its processors, whether there is a /dev/kvm or not
 * @rate:	Pages a second that each processor writes; 0: as fast as it can
 * @serial:	File for what it prints; NULL: nobody listens
 * @nic:	Tap for its network card, see nic.h; NULL: it has none
 *
 * @event:	Of the library: any thread, for a quick note
 * @protect_event: The same, of a protection
 * @log:	The same. Its first argument is not @opaque
 * @running:	The guest runs from now on, or does not; any thread. May be NULL
 */
struct vmm_config {
	bool incoming;
	enum memory_kind memory;
	uint64_t ram_bytes;
	unsigned cpus;
	bool threads;
	uint64_t rate;
	const char *serial;
	const char *nic;

	void *opaque;
	void (*event)(void *opaque, const struct wh_event *event);
	void (*protect_event)(void *opaque, const struct wh_protect_event *event);
	void (*log)(void *unused, enum wh_log_level level, const char *text);
	void (*running)(void *opaque, bool running);
};

struct vmm_status {
	const char *cpus_by;
	bool running;
	uint64_t serial_chars;
	uint32_t tids[CPUS_MAX];
};

/* The guest runs when this returns, or is awaited. After a failure the process is to end */
int vmm_new(struct vmm **made, const struct vmm_config *config, struct wh_err *err);
void vmm_get_status(const struct vmm *vmm, struct vmm_status *status);

/**
 * vmm_migration_new() - Make a migration that is to bring the guest to @uri, or to here
 * @how:	Its callbacks and opaque are the VMM's
 *
 * Nobody drives it yet. The one before has ended.
 *
 * Return: 0 and *@migration, for wh_free() when vmm_loaded(); or a negative errno
 */
int vmm_migration_new(struct vmm *vmm, const char *uri, const struct wh_config *how,
		      struct wh_migration **migration, struct wh_err *err);
/* False: a thread waits for a page that never comes, and will need the migration then */
bool vmm_loaded(struct vmm *vmm);

/**
 * vmm_protect_new() - Make a protection: its guest has a replica at @uri, or here is one
 * @pulse_uri:	Of the second connection; NULL: as @uri
 * @how:	Its callbacks and opaque are the VMM's
 *
 * Nobody drives it yet.
 *
 * Return: 0 and *@protect, for wh_protect_free(); or a negative errno
 */
int vmm_protect_new(struct vmm *vmm, enum wh_role role, const char *uri, const char *pulse_uri,
		    const struct wh_protect_config *how, struct wh_protect **protect,
		    struct wh_err *err);

/*
 * Callbacks of the library, @opaque is the vmm; nothing if it is so already. Others call
 * them only while nobody moves the guest: a processor that waits for a page does not stop.
 */
int guest_run(void *opaque, struct wh_err *err);
int guest_park(void *opaque, struct wh_err *err);
/* All of a guest that is parked: -EILSEQ and the first wrong byte */
int ram_verify(const struct vmm *vmm, struct wh_err *err);

/* Not exported by the library, on purpose: everybody has his own */
int fail(struct wh_err *err, int code, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

#endif /* VMM_H */
