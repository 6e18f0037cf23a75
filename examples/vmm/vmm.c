/* SPDX-License-Identifier: MIT */
/*
 * The VMM: a guest is made, and looked at. How it is moved is in migrate.c.
 */
#include "machine.h"

#include <errno.h>
#include <fcntl.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int vmm_new(struct vmm **made, const struct vmm_config *config, struct wh_err *err)
{
	const char *serial = config->serial ? config->serial : "/dev/null";
	struct vmm *vmm = *made = calloc(1, sizeof(*vmm));

	if (!vmm)
		return fail(err, -ENOMEM, "no memory for a guest");
	vmm->config = *config;
	vmm->ops = config->threads || !kvm_cpus ? &thread_cpus : kvm_cpus;
	if (vmm->ops == kvm_cpus && access("/dev/kvm", R_OK | W_OK) < 0) {
		config->log(NULL, WH_LOG_WARNING, "no /dev/kvm: plain threads are the processors");
		vmm->ops = &thread_cpus;
	}
	vmm->serial_fd = open(serial, O_WRONLY | O_CREAT | O_APPEND | O_CLOEXEC, 0644);
	if (vmm->serial_fd < 0)
		return fail(err, -errno, "serial port: %m");
	if ((config->nic && nic_open(vmm, err)) || ram_open(vmm, err) || guest_open(vmm, err))
		return err->code;
	if (config->incoming)
		return 0;
	ram_fill(vmm);
	return guest_run(vmm, err);
}

void vmm_get_status(const struct vmm *vmm, struct vmm_status *status)
{
	status->cpus_by = vmm->ops->name;
	status->running = guest_running(vmm);
	status->serial_chars = __atomic_load_n(&vmm->serial_chars, __ATOMIC_RELAXED);
	for (unsigned i = 0; i < CPUS_MAX; i++)
		status->tids[i] = (uint32_t)__atomic_load_n(&vmm->cpu[i].tid, __ATOMIC_RELAXED);
}

int fail(struct wh_err *err, int code, const char *format, ...)
{
	va_list args;

	va_start(args, format);
	err->code = code;
	vsnprintf(err->text, sizeof(err->text), format, args);
	va_end(args);
	return code;
}
