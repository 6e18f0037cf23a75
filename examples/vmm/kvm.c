/* SPDX-License-Identifier: MIT */
/*
 * The guest on /dev/kvm: flat 32-bit protected mode, entered directly. It needs no
 * firmware, no interrupt controller and no page tables of its own.
 */
#include "vmm.h"

#if defined(__x86_64__)

#include <errno.h>
#include <fcntl.h>
#include <inttypes.h>
#include <linux/kvm.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CR0_PE 1u
#define CR0_PG (1u << 31)
#define RAM_BYTES_MAX (3ull << 30) /* above it are KVM's own pages */
#define KVM_OWN_PAGES 0xfffbc000ull
#define LOG_WORDS(guest) (((guest)->ram.bytes / PAGE_BYTES + 63) / 64)

static void kicked(int number)
{
	(void)number; /* only to make KVM_RUN return */
}

static int ram_slot(struct guest *guest, uint32_t flags)
{
	struct kvm_userspace_memory_region slot = {
		.flags = flags,
		.memory_size = guest->ram.bytes,
		.userspace_addr = (uintptr_t)guest->ram.at,
	};

	return ioctl(guest->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
}

/* Only processors without an "unrestricted guest" use these pages. */
static int own_pages(struct guest *guest, struct wh_err *err)
{
	uint64_t identity = KVM_OWN_PAGES;

	if (ioctl(guest->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_IDENTITY_MAP_ADDR) > 0 &&
	    ioctl(guest->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) < 0)
		return fail(err, -errno, "KVM_SET_IDENTITY_MAP_ADDR: %m");
	if (ioctl(guest->vm_fd, KVM_CHECK_EXTENSION, KVM_CAP_SET_TSS_ADDR) > 0 &&
	    ioctl(guest->vm_fd, KVM_SET_TSS_ADDR, KVM_OWN_PAGES + PAGE_BYTES) < 0)
		return fail(err, -errno, "KVM_SET_TSS_ADDR: %m");
	return 0;
}

static int set_registers(struct cpu *cpu, struct wh_err *err)
{
	struct kvm_segment code = {
		.limit = UINT32_MAX,
		.selector = 8,
		.type = 11,
		.present = 1,
		.s = 1,
		.db = 1,
		.g = 1,
	};
	struct kvm_segment data = code;
	struct kvm_regs regs = {
		.rip = PROGRAM_AT,
		.rflags = 2,
		.rbx = cpu->first * PAGE_BYTES,
		.rdi = cpu->first * PAGE_BYTES,
		.rcx = (cpu->first + cpu->pages) * PAGE_BYTES,
	};
	struct kvm_sregs sregs;

	data.selector = 16;
	data.type = 3;
	if (ioctl(cpu->fd, KVM_GET_SREGS, &sregs) < 0)
		return fail(err, -errno, "vCPU %u: KVM_GET_SREGS: %m", cpu->index);
	sregs.cs = code;
	sregs.ds = sregs.es = sregs.fs = sregs.gs = sregs.ss = data;
	sregs.cr0 |= CR0_PE;
	if (ioctl(cpu->fd, KVM_SET_SREGS, &sregs) < 0)
		return fail(err, -errno, "vCPU %u: KVM_SET_SREGS: %m", cpu->index);
	if (ioctl(cpu->fd, KVM_SET_REGS, &regs) < 0)
		return fail(err, -errno, "vCPU %u: KVM_SET_REGS: %m", cpu->index);
	return 0;
}

static int cpu_open(struct cpu *cpu, int run_bytes, struct wh_err *err)
{
	cpu->fd = ioctl(cpu->guest->vm_fd, KVM_CREATE_VCPU, (unsigned long)cpu->index);
	if (cpu->fd < 0)
		return fail(err, -errno, "vCPU %u: KVM_CREATE_VCPU: %m", cpu->index);
	cpu->run = mmap(NULL, (size_t)run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	if (cpu->run == MAP_FAILED)
		return fail(err, -errno, "vCPU %u: mmap: %m", cpu->index);
	return set_registers(cpu, err);
}

static int kvm_open(struct guest *guest, struct wh_err *err)
{
	struct sigaction action = { .sa_handler = kicked };
	int kvm_fd, run_bytes, ret;

	if (guest->ram.bytes > RAM_BYTES_MAX)
		return fail(err, -EINVAL,
			    "RAM of %" PRIu64 " MiB: a flat 32-bit guest has at most %llu",
			    guest->ram.bytes >> 20, RAM_BYTES_MAX >> 20);
	if (sigaction(SIGUSR1, &action, NULL) < 0)
		return fail(err, -errno, "sigaction: %m");
	kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	if (kvm_fd < 0)
		return fail(err, -errno, "/dev/kvm: %m");
	guest->vm_fd = ioctl(kvm_fd, KVM_CREATE_VM, 0ul);
	if (guest->vm_fd < 0)
		return fail(err, -errno, "KVM_CREATE_VM: %m");
	ret = own_pages(guest, err);
	if (ret)
		return ret;
	if (ram_slot(guest, 0) < 0)
		return fail(err, -errno, "KVM_SET_USER_MEMORY_REGION: %m");
	run_bytes = ioctl(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0ul);
	if (run_bytes < 0)
		return fail(err, -errno, "KVM_GET_VCPU_MMAP_SIZE: %m");
	for (unsigned i = 0; i < guest->cpus && !ret; i++)
		ret = cpu_open(&guest->cpu[i], run_bytes, err);
	close(kvm_fd);
	return ret;
}

/*
 * A signal alone could come just before KVM_RUN and be lost; immediate_exit makes that
 * KVM_RUN return. An access of the guest that was given to us is completed even then,
 * so that afterwards the registers are all there is.
 */
static void kvm_kick(struct cpu *cpu, bool on)
{
	__atomic_store_n(&cpu->run->immediate_exit, on, __ATOMIC_SEQ_CST);
	if (on)
		pthread_kill(cpu->thread, SIGUSR1);
}

static void kvm_port(struct cpu *cpu)
{
	uint8_t *data = (uint8_t *)cpu->run + cpu->run->io.data_offset;

	if (cpu->run->io.direction == KVM_EXIT_IO_OUT) {
		if (cpu->run->io.port == SERIAL_PORT)
			guest_serial(cpu->guest, (char)*data);
		return;
	}
	memset(data, 0xff, (size_t)cpu->run->io.size * cpu->run->io.count);
	if (cpu->run->io.port == PACE_PORT && cpu->run->io.size == sizeof(uint32_t)) {
		uint32_t steps = guest_pace(cpu);

		memcpy(data, &steps, sizeof(steps));
	}
}

static void kvm_run(struct cpu *cpu)
{
	for (;;) {
		if (ioctl(cpu->fd, KVM_RUN, 0ul) < 0) {
			if (errno == EINTR || errno == EAGAIN) {
				if (guest_parked(cpu->guest))
					return;
				continue;
			}
			guest_broke(cpu, "KVM_RUN: %m");
			return;
		}
		switch (cpu->run->exit_reason) {
		case KVM_EXIT_IO:
			kvm_port(cpu);
			break;
		case KVM_EXIT_INTR:
			break;
		default:
			guest_broke(cpu, "KVM_RUN: exit %u, which this guest never makes",
				    cpu->run->exit_reason);
			return;
		}
	}
}

static void segment_state(struct state *state, struct kvm_segment *segment)
{
	STATE(state, segment->base);
	STATE(state, segment->limit);
	STATE(state, segment->selector);
	STATE(state, segment->type);
	STATE(state, segment->present);
	STATE(state, segment->dpl);
	STATE(state, segment->db);
	STATE(state, segment->s);
	STATE(state, segment->l);
	STATE(state, segment->g);
	STATE(state, segment->avl);
	STATE(state, segment->unusable);
}

static void sregs_state(struct state *state, struct kvm_sregs *sregs)
{
	struct kvm_segment *segments[] = { &sregs->cs, &sregs->ds, &sregs->es, &sregs->fs,
					   &sregs->gs, &sregs->ss, &sregs->tr, &sregs->ldt };

	for (unsigned i = 0; i < sizeof(segments) / sizeof(segments[0]); i++)
		segment_state(state, segments[i]);
	STATE(state, sregs->gdt.base);
	STATE(state, sregs->gdt.limit);
	STATE(state, sregs->idt.base);
	STATE(state, sregs->idt.limit);
	STATE(state, sregs->cr0);
	STATE(state, sregs->cr2);
	STATE(state, sregs->cr3);
	STATE(state, sregs->cr4);
	STATE(state, sregs->cr8);
	STATE(state, sregs->efer);
	STATE(state, sregs->apic_base);
	/* No interrupt is ever on its way to this guest, so none comes from a stranger either. */
	memset(sregs->interrupt_bitmap, 0, sizeof(sregs->interrupt_bitmap));
}

static void regs_state(struct state *state, struct kvm_regs *regs)
{
	__u64 *values[] = { &regs->rax, &regs->rbx, &regs->rcx,	  &regs->rdx, &regs->rsi,
			    &regs->rdi, &regs->rsp, &regs->rbp,	  &regs->r8,  &regs->r9,
			    &regs->r10, &regs->r11, &regs->r12,	  &regs->r13, &regs->r14,
			    &regs->r15, &regs->rip, &regs->rflags };

	for (unsigned i = 0; i < sizeof(values) / sizeof(values[0]); i++)
		STATE(state, *values[i]);
}

static void fpu_state(struct state *state, struct kvm_fpu *fpu)
{
	STATE(state, fpu->fpr);
	STATE(state, fpu->fcw);
	STATE(state, fpu->fsw);
	STATE(state, fpu->ftwx);
	STATE(state, fpu->last_opcode);
	STATE(state, fpu->last_ip);
	STATE(state, fpu->last_dp);
	STATE(state, fpu->xmm);
	STATE(state, fpu->mxcsr);
}

static int registers_where(const struct cpu *cpu, const struct kvm_regs *regs, struct place *place,
			   struct wh_err *err)
{
	uint64_t first = cpu->first * PAGE_BYTES;
	uint64_t end = first + cpu->pages * PAGE_BYTES;
	uint64_t offset = regs->rip - PROGRAM_AT;
	uint64_t at = regs->rdi;

	if (offset >= (uint64_t)(vmm_program_end - vmm_program))
		return fail(err, -EPROTO, "vCPU %u: eip 0x%llx is not in the program", cpu->index,
			    regs->rip);
	if (regs->rbx != first || regs->rcx != end)
		return fail(err, -EPROTO,
			    "vCPU %u: share 0x%llx to 0x%llx, not 0x%" PRIx64 " to 0x%" PRIx64,
			    cpu->index, regs->rbx, regs->rcx, first, end);
	/* Behind the share it is only for a moment, see the program */
	if (at < first || at > end || at % PAGE_BYTES ||
	    (at == end && offset == (uint64_t)(vmm_program_stepped - vmm_program)))
		return fail(err, -EPROTO, "vCPU %u: at 0x%" PRIx64 ", not in its share", cpu->index,
			    at);
	place->passes = regs->rbp;
	place->pages = (at - first) / PAGE_BYTES;
	if (offset == (uint64_t)(vmm_program_stepped - vmm_program))
		place->pages++;
	if (offset == (uint64_t)(vmm_program_rewind - vmm_program))
		place->pages = 0;
	return 0;
}

static int kvm_where(struct cpu *cpu, struct place *place, struct wh_err *err)
{
	struct kvm_regs regs;

	if (ioctl(cpu->fd, KVM_GET_REGS, &regs) < 0)
		return fail(err, -errno, "vCPU %u: KVM_GET_REGS: %m", cpu->index);
	return registers_where(cpu, &regs, place, err);
}

static int kvm_state(struct cpu *cpu, struct state *state, struct wh_err *err)
{
	struct kvm_mp_state mp;
	struct kvm_sregs sregs;
	struct kvm_regs regs;
	struct kvm_fpu fpu;
	struct place place;
	int ret;

	if (ioctl(cpu->fd, KVM_GET_REGS, &regs) < 0 || ioctl(cpu->fd, KVM_GET_SREGS, &sregs) < 0 ||
	    ioctl(cpu->fd, KVM_GET_FPU, &fpu) < 0 || ioctl(cpu->fd, KVM_GET_MP_STATE, &mp) < 0)
		return fail(err, -errno, "vCPU %u: its registers: %m", cpu->index);
	regs_state(state, &regs);
	sregs_state(state, &sregs);
	fpu_state(state, &fpu);
	STATE(state, mp.mp_state);
	if (!state_loading(state))
		return 0;
	ret = registers_where(cpu, &regs, &place, err);
	if (ret)
		return ret;
	if (!(sregs.cr0 & CR0_PE) || sregs.cr0 & CR0_PG)
		return fail(err, -EPROTO, "vCPU %u: cr0 0x%llx is not flat protected mode",
			    cpu->index, sregs.cr0);
	if (ioctl(cpu->fd, KVM_SET_SREGS, &sregs) < 0 || ioctl(cpu->fd, KVM_SET_REGS, &regs) < 0 ||
	    ioctl(cpu->fd, KVM_SET_FPU, &fpu) < 0 || ioctl(cpu->fd, KVM_SET_MP_STATE, &mp) < 0)
		return fail(err, -errno, "vCPU %u: its registers cannot be loaded: %m", cpu->index);
	return 0;
}

static int kvm_log(struct guest *guest, bool on, struct wh_err *err)
{
	if (on && !guest->log)
		guest->log = calloc(LOG_WORDS(guest), sizeof(*guest->log));
	if (on && !guest->log)
		return fail(err, -ENOMEM, "no memory for a dirty log");
	if (ram_slot(guest, on ? KVM_MEM_LOG_DIRTY_PAGES : 0) < 0)
		return fail(err, -errno, "KVM dirty log: %m");
	return 0;
}

static int kvm_log_take(struct guest *guest, uint64_t *map, size_t pages, struct wh_err *err)
{
	struct kvm_dirty_log log = { .dirty_bitmap = guest->log };

	if (pages != guest->ram.bytes / PAGE_BYTES)
		return fail(err, -EINVAL, "dirty log of %zu pages asked for, RAM has %" PRIu64,
			    pages, guest->ram.bytes / PAGE_BYTES);
	if (ioctl(guest->vm_fd, KVM_GET_DIRTY_LOG, &log) < 0)
		return fail(err, -errno, "KVM_GET_DIRTY_LOG: %m");
	for (size_t i = 0; i < LOG_WORDS(guest); i++)
		map[i] |= guest->log[i];
	return 0;
}

static const struct cpus_ops ops = {
	.name = "KVM",
	.number = 1,
	.open = kvm_open,
	.run = kvm_run,
	.kick = kvm_kick,
	.state = kvm_state,
	.where = kvm_where,
	.log = kvm_log,
	.log_take = kvm_log_take,
};
const struct cpus_ops *const kvm_cpus = &ops;

#else

const struct cpus_ops *const kvm_cpus = NULL;

#endif
