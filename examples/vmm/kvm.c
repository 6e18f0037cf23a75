/* SPDX-License-Identifier: MIT */
/*
 * The guest on /dev/kvm: flat 32-bit protected mode, entered directly. It needs no
 * firmware, no interrupt controller and no page tables of its own.
 */
#include "machine.h"

#if defined(__x86_64__)

#include <errno.h>
#include <fcntl.h>
#include <stdlib.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/mman.h>
#include <unistd.h>

#define CR0_PE 1u
#define CR0_PG (1u << 31)
#define RAM_BYTES_MAX (3ull << 30) /* above it are KVM's own pages */
#define KVM_OWN_PAGES 0xfffbc000ull
#define PROGRAM_OFFSET(label) ((uint64_t)((label)-vmm_program))

static int kvm_call(int fd, unsigned long request, unsigned long arg, const char *name,
		    struct wh_err *err)
{
	int ret = ioctl(fd, request, arg);

	return ret < 0 ? fail(err, -errno, "%s: %m", name) : ret;
}
#define KVM(fd, request, arg) kvm_call(fd, request, (unsigned long)(arg), #request, err)

static int ram_slot(const struct vmm *vmm, uint32_t flags, struct wh_err *err)
{
	struct kvm_userspace_memory_region slot = {
		.flags = flags,
		.memory_size = vmm->ram.length,
		.userspace_addr = (uintptr_t)vmm->ram.addr,
	};

	return KVM(vmm->vm_fd, KVM_SET_USER_MEMORY_REGION, &slot);
}

/*
 * Where its registers say that it is. They may be a stranger's: it has to be somewhere in
 * the program, and in its share.
 */
static int place_take(struct cpu *cpu, struct wh_err *err)
{
	uint64_t first = cpu->first * PAGE_BYTES;
	uint64_t end = first + cpu->vmm->share_pages * PAGE_BYTES;
	const struct kvm_regs *regs = &cpu->state.regs;
	bool stepped = regs->rip == PROGRAM_OFFSET(vmm_program_stepped);
	bool nic = regs->rip >= PROGRAM_OFFSET(vmm_program_nic);
	uint64_t at = regs->rdi + (stepped ? PAGE_BYTES : 0);

	if (nic && cpu_is_nic(cpu) && regs->rip < PROGRAM_OFFSET(vmm_program_end))
		return 0;
	/* At the end of the share it is only for a moment, see the program */
	if (nic || cpu_is_nic(cpu) || regs->rbx != first || regs->rcx != end || regs->rdi < first ||
	    regs->rdi > end || at > end || at % PAGE_BYTES)
		return fail(err, -EPROTO,
			    "vCPU %u: eip 0x%llx edi 0x%llx in 0x%llx to 0x%llx: not of the program",
			    cpu->index, regs->rip, regs->rdi, regs->rbx, regs->rcx);
	cpu->state.passes = regs->rbp;
	cpu->state.pages = (at - first) / PAGE_BYTES;
	if (regs->rip == PROGRAM_OFFSET(vmm_program_rewind))
		cpu->state.pages = 0;
	return 0;
}

static int kvm_set_state(struct cpu *cpu, struct wh_err *err)
{
	struct kvm_sregs *sregs = &cpu->state.sregs;

	if (place_take(cpu, err))
		return err->code;
	if (!(sregs->cr0 & CR0_PE) || sregs->cr0 & CR0_PG)
		return fail(err, -EPROTO, "vCPU %u: cr0 0x%llx is not flat protected mode",
			    cpu->index, sregs->cr0);
	/* No interrupt is ever on its way to this guest, so none comes from a stranger either. */
	memset(sregs->interrupt_bitmap, 0, sizeof(sregs->interrupt_bitmap));
	if (KVM(cpu->fd, KVM_SET_SREGS, sregs) || KVM(cpu->fd, KVM_SET_REGS, &cpu->state.regs))
		return err->code;
	return 0;
}

static int cpu_open(struct cpu *cpu, size_t run_bytes, struct wh_err *err)
{
	struct kvm_segment code = { .limit = UINT32_MAX, .present = 1, .s = 1, .db = 1, .g = 1 };
	struct kvm_sregs *sregs = &cpu->state.sregs;
	struct kvm_segment data = code;

	cpu->fd = KVM(cpu->vmm->vm_fd, KVM_CREATE_VCPU, cpu->index);
	if (cpu->fd < 0 || KVM(cpu->fd, KVM_GET_SREGS, sregs))
		return err->code;
	cpu->run = mmap(NULL, run_bytes, PROT_READ | PROT_WRITE, MAP_SHARED, cpu->fd, 0);
	if (cpu->run == MAP_FAILED)
		return fail(err, -errno, "vCPU %u: mmap: %m", cpu->index);
	code.selector = 8;
	code.type = 11;
	data.selector = 16;
	data.type = 3;
	sregs->cs = code;
	sregs->ds = sregs->es = sregs->fs = sregs->gs = sregs->ss = data;
	sregs->cr0 |= CR0_PE;
	cpu->state.regs = (struct kvm_regs){
		.rip = cpu_is_nic(cpu) ? PROGRAM_OFFSET(vmm_program_nic) : 0,
		.rflags = 2,
		.rbx = cpu->first * PAGE_BYTES,
		.rdi = cpu->first * PAGE_BYTES,
		.rcx = (cpu->first + cpu->vmm->share_pages) * PAGE_BYTES,
	};
	return kvm_set_state(cpu, err);
}

static int kvm_open(struct vmm *vmm, struct wh_err *err)
{
	int kvm_fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);
	uint64_t identity = KVM_OWN_PAGES;
	int run_bytes, ret;

	if (kvm_fd < 0)
		return fail(err, -errno, "/dev/kvm: %m");
	if (vmm->ram.length > RAM_BYTES_MAX)
		return fail(err, -EINVAL, "RAM: a flat 32-bit guest has at most %llu MiB",
			    RAM_BYTES_MAX >> 20);
	vmm->log = calloc(vmm->ram.length / PAGE_BYTES / 64 + 1, sizeof(*vmm->log));
	if (!vmm->log)
		return fail(err, -ENOMEM, "no memory for a dirty log");
	run_bytes = KVM(kvm_fd, KVM_GET_VCPU_MMAP_SIZE, 0);
	vmm->vm_fd = KVM(kvm_fd, KVM_CREATE_VM, 0);
	close(kvm_fd);
	/* Only processors without an "unrestricted guest" use the two own pages. */
	if (run_bytes < 0 || vmm->vm_fd < 0 ||
	    KVM(vmm->vm_fd, KVM_SET_IDENTITY_MAP_ADDR, &identity) ||
	    KVM(vmm->vm_fd, KVM_SET_TSS_ADDR, KVM_OWN_PAGES + PAGE_BYTES))
		return err->code;
	ret = ram_slot(vmm, 0, err);
	for (unsigned i = 0; i < vmm->cpus && !ret; i++)
		ret = cpu_open(&vmm->cpu[i], (size_t)run_bytes, err);
	return ret;
}

/*
 * Its ports: what it puts out is for the serial one, what it asks for is the pace; but those of
 * the network's processor are the card's.
 */
static void kvm_port(struct cpu *cpu)
{
	uint8_t *data = (uint8_t *)cpu->run + cpu->run->io.data_offset;
	bool out = cpu->run->io.direction == KVM_EXIT_IO_OUT;
	uint32_t value = 0;

	memcpy(&value, data, out ? cpu->run->io.size : 0);
	if (out && cpu_is_nic(cpu))
		nic_send(cpu->vmm, value);
	else if (out)
		guest_serial(cpu->vmm, (char)value);
	else
		value = cpu_is_nic(cpu) ? nic_receive(cpu->vmm) : guest_pace(cpu->vmm);
	memcpy(data, &value, out ? 0 : cpu->run->io.size);
}

static int kvm_run(struct cpu *cpu, struct wh_err *err)
{
	for (;;) {
		if (ioctl(cpu->fd, KVM_RUN, 0ul) < 0) {
			if (errno != EINTR && errno != EAGAIN)
				return fail(err, -errno, "KVM_RUN: %m");
			if (!guest_running(cpu->vmm))
				break;
		} else if (cpu->run->exit_reason == KVM_EXIT_IO) {
			kvm_port(cpu);
		} else if (cpu->run->exit_reason != KVM_EXIT_INTR) {
			return fail(err, -EIO, "exit %u, which this guest never makes",
				    cpu->run->exit_reason);
		}
	}
	if (KVM(cpu->fd, KVM_GET_REGS, &cpu->state.regs) ||
	    KVM(cpu->fd, KVM_GET_SREGS, &cpu->state.sregs))
		return err->code;
	return place_take(cpu, err);
}

static int kvm_dirty_start(void *opaque, struct wh_err *err)
{
	return ram_slot(opaque, KVM_MEM_LOG_DIRTY_PAGES, err);
}

static int kvm_dirty_sync(void *opaque, const struct wh_block *block, uint64_t *map, size_t pages,
			  struct wh_err *err)
{
	struct vmm *vmm = opaque;
	struct kvm_dirty_log log = { .dirty_bitmap = vmm->log };

	(void)block; /* there is only one, and one slot */
	if (KVM(vmm->vm_fd, KVM_GET_DIRTY_LOG, &log))
		return err->code;
	for (size_t i = 0; i < (pages + 63) / 64; i++)
		map[i] |= vmm->log[i];
	if (vmm->config.nic && nic_wrote(vmm))
		map[0] |= 1ull << NIC_FRAME_PAGE;
	return 0;
}

static void kvm_dirty_stop(void *opaque)
{
	struct wh_err err;

	ram_slot(opaque, 0, &err);
}

static const struct cpus_ops ops = {
	.name = "KVM",
	.open = kvm_open,
	.run = kvm_run,
	.set_state = kvm_set_state,
	.dirty_start = kvm_dirty_start,
	.dirty_sync = kvm_dirty_sync,
	.dirty_stop = kvm_dirty_stop,
};
const struct cpus_ops *const kvm_cpus = &ops;

#else
const struct cpus_ops *const kvm_cpus = NULL;
#endif
