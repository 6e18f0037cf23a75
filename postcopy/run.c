/* SPDX-License-Identifier: MIT */
/*
 * Joining: making a migration and telling it what to do. What turns it is in
 * run_drive.c.
 */
#include "postcopy/run_dest.h"
#include "postcopy/run_source.h"

#include <errno.h>
#include <fcntl.h>
#include <sched.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

void run_log(struct wh_migration *m, enum wh_log_level level, const char *format, ...)
{
	char line[WH_ERR_TEXT + 64];
	va_list args;

	if (!m->cb.log)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	m->cb.log(m->config.opaque, level, line);
}

void wh_config_init(struct wh_config *config)
{
	*config = (struct wh_config){
		.size = sizeof(*config),
		.postcopy = true,
		.return_path = true,
		.urgent = WH_URGENT_AT_SWITCH,
		.rdma_odp = true,
		.rdma_read_max = UINT64_C(1) << 30,
		.downtime_ns = 300 * NS_PER_MS,
		.machine = "wherry",
		.connect_timeout_ns = 10 * NS_PER_S,
		.dead_peer_ns = 10 * NS_PER_S,
		.device_state_max = UINT64_C(256) << 20,
		.fault_cpu = WH_FAULT_CPU_FOLLOW,
		.bulk_nice = 5,
		.multifd_level = 1,
	};
}

static int check_agent(const struct wh_config *config, enum wh_role role, struct wh_err *err)
{
	if (role != WH_DEST)
		return err_set(err, -EINVAL, "config: agent: only a destination has one");
	if (!config->postcopy)
		return err_set(err, -EINVAL, "config: agent: there is postcopy or nothing");
	/* A removal that was read and not yet marked would be lost with its reader */
	if (config->switchover_ack)
		return err_set(err, -EINVAL,
			       "config: agent: it does not say when it is ready (switchover_ack)");
	if (config->removes)
		return err_set(err, -EOPNOTSUPP,
			       "config: agent: removes cannot be followed across a death");
	if (config->tls)
		return err_set(err, -EOPNOTSUPP,
			       "config: agent: there is no TLS with one, the connection is its own");
	return 0;
}

static int check_multifd(const struct wh_config *config, enum wh_role role, struct wh_err *err)
{
	if (config->multifd > WH_MULTIFD_MAX)
		return err_set(err, -EINVAL, "config: multifd has %u connections, at most %u",
			       config->multifd, WH_MULTIFD_MAX);
	if (role == WH_DEST)
		return 0;
	if (config->postcopy)
		return err_set(err, -EINVAL,
			       "config: multifd is of precopy: postcopy is to be off");
	if (config->multifd_method > WH_MULTIFD_ZSTD || config->multifd_marks > WH_MULTIFD_BY_ROUND)
		return err_set(err, -EINVAL, "config: multifd_method %d, multifd_marks %d",
			       config->multifd_method, config->multifd_marks);
	if (config->multifd_level < 0 || config->multifd_level > WH_MULTIFD_LEVEL_MAX)
		return err_set(err, -EINVAL, "config: multifd_level %d is not 0 to %d",
			       config->multifd_level, WH_MULTIFD_LEVEL_MAX);
	return 0;
}

static int check_config(const struct wh_config *config, enum wh_role role, struct wh_err *err)
{
	if (config->size != sizeof(*config))
		return err_set(err, -EINVAL,
			       "config: size is %zu, not %zu: wh_config_init() sets it",
			       config->size, sizeof(*config));
	if (!config->callbacks)
		return err_set(err, -EINVAL, "config: no callbacks");
	if (role == WH_SOURCE && (!config->machine || strlen(config->machine) > 255))
		return err_set(err, -EINVAL, "config: machine type is missing or over 255 bytes");
	if (config->device_format != WH_DEVICE_OWN && config->device_format != WH_DEVICE_QEMU)
		return err_set(err, -EINVAL, "config: device_format %d", config->device_format);
	if (role == WH_DEST &&
	    (config->device_state_max == 0 || config->device_state_max > UINT64_C(1) << 32))
		return err_set(err, -EINVAL,
			       "config: device_state_max is %llu, not between 1 and 4 GiB",
			       (unsigned long long)config->device_state_max);
	if (config->fault_cpu >= CPU_SETSIZE || config->fault_cpu < WH_FAULT_CPU_ANY)
		return err_set(err, -EINVAL, "config: fault_cpu %d", config->fault_cpu);
	if (config->bulk_nice < 0 || config->bulk_nice > WH_BULK_NICE_MAX)
		return err_set(err, -EINVAL, "config: bulk_nice %d is not 0 to %d",
			       config->bulk_nice, WH_BULK_NICE_MAX);
	if (config->rdma_pin_all && config->rdma_pin_max)
		return err_set(err, -EINVAL, "config: rdma_pin_all, and rdma_pin_max");
	if (config->multifd) {
		int ret = check_multifd(config, role, err);

		if (ret < 0)
			return ret;
	}
	return config->agent ? check_agent(config, role, err) : 0;
}

/* What the library drives it with */
static int open_drive(struct wh_migration *m, struct wh_err *err)
{
	int ret = loop_open(&m->bulk, RUN_LOOP_ENTRIES, err);

	if (ret < 0)
		return ret;
	m->fault = m->bulk;
	ret = m->role == WH_DEST ? dest_side_new(m, err) : source_side_new(m, err);
	if (ret < 0)
		loop_close(m->bulk);
	return ret;
}

int wh_new(struct wh_migration **migration, enum wh_role role, const struct wh_config *config,
	   struct wh_err *err)
{
	struct wh_migration *m;
	int ret;

	*migration = NULL;
	ret = check_config(config, role, err);
	if (ret < 0)
		return ret;
	m = calloc(1, sizeof(*m));
	if (!m)
		return err_set(err, -ENOMEM, "migration: no memory");
	m->role = role;
	m->config = *config;
	m->cb = *config->callbacks;
	m->config.callbacks = &m->cb;
	if (config->machine) {
		memcpy(m->machine, config->machine, strnlen(config->machine, 255));
		m->config.machine = m->machine;
	}
	if (m->config.postcopy || m->config.switchover_ack)
		m->config.return_path = true;
	m->own_bytes = sizeof(*m);
	m->begin_ns = clock_now_ns();
	m->post.urgent_fd = -1;
	pthread_mutex_init(&m->post_lock, NULL);
	pthread_mutex_init(&m->wait_lock, NULL);
	pthread_mutex_init(&m->rate_lock, NULL);
	pthread_cond_init(&m->wait_cond, NULL);

	m->config.tls = NULL;
	ret = config->tls ? run_tls_open(m, config->tls, err) : 0;
	if (ret == 0)
		ret = config->agent ? agent_vmm_new(m, err) : open_drive(m, err);
	if (ret < 0) {
		tls_close(m->tls, false);
		free(m);
	} else {
		*migration = m;
	}
	return ret;
}

/* Threads first, then loops (which brings every operation back), then memory. */
static void close_drive(struct wh_migration *m)
{
	__atomic_store_n(&m->stop, true, __ATOMIC_RELEASE);
	if (m->threaded) {
		loop_wake(m->bulk);
		pthread_join(m->bulk_thread, NULL);
	}
	if (m->fault_running) {
		loop_wake(m->fault);
		pthread_join(m->fault_thread, NULL);
	}
	/* What comes back now is not to be acted on. */
	if (m->role == WH_DEST)
		dest_side_stop(m);
	else
		source_side_stop(m);
	if (m->fault != m->bulk)
		loop_close(m->fault);
	loop_close(m->bulk);
	if (m->role == WH_DEST)
		dest_side_free(m);
	else
		source_side_free(m);
	run_tls_close(m);
}

void wh_free(struct wh_migration *m)
{
	if (!m)
		return;
	if (m->agent)
		agent_vmm_free(m);
	else
		close_drive(m);
	for (unsigned i = 0; i < m->regions; i++)
		if (m->region[i].fd >= 0)
			close(m->region[i].fd);
	hint_free(m);
	pthread_cond_destroy(&m->wait_cond);
	pthread_mutex_destroy(&m->rate_lock);
	pthread_mutex_destroy(&m->wait_lock);
	pthread_mutex_destroy(&m->post_lock);
	free(m);
}

/* regions[@count], if the block is a good one */
static int take_region(struct region *regions, unsigned count, const struct wh_block *block,
		       struct wh_err *err)
{
	size_t length = block->name ? strlen(block->name) : 0;
	struct region *region = &regions[count];
	uint64_t page = block->page_size;

	if (length == 0 || length > 255)
		return err_set(err, -EINVAL, "block: the name has %zu bytes, not 1 to 255", length);
	if (count == RAM_BLOCKS_MAX)
		return err_set(err, -ENOSPC, "block '%s': there are %u already", block->name,
			       RAM_BLOCKS_MAX);
	if (region_named(regions, count, block->name, length) >= 0)
		return err_set(err, -EEXIST, "block '%s' is there already", block->name);
	if (page < TARGET_PAGE || page & (page - 1) || page > STAGE_BYTES)
		return err_set(err, -EINVAL, "block '%s': page size %llu is not 4 KiB to 2 MiB",
			       block->name, (unsigned long long)page);
	if (!block->addr || (uintptr_t)block->addr % page || !block->length ||
	    block->length % page || block->fd_offset % page)
		return err_set(err, -EINVAL,
			       "block '%s': address, length or file offset is not a multiple of %llu",
			       block->name, (unsigned long long)page);
	*region = (struct region){
		.addr = block->addr,
		.length = block->length,
		.page_size = page,
		.fd_offset = block->fd_offset,
		.fd = -1,
	};
	memcpy(region->name, block->name, length);
	if (block->fd >= 0) {
		region->fd = fcntl(block->fd, F_DUPFD_CLOEXEC, 0);
		if (region->fd < 0)
			return err_sys(err, errno, "block '%s': duplicate descriptor %d",
				       block->name, block->fd);
	}
	return 0;
}

int run_add_region(struct wh_migration *m, const struct wh_block *block, struct wh_err *err)
{
	struct region *region = &m->region[m->regions];
	int ret = take_region(m->region, m->regions, block, err);

	if (ret < 0)
		return ret;
	if (m->agent)
		ret = agent_vmm_check_region(m, err);
	if (ret == 0)
		ret = hint_new(m, m->regions, err);
	if (ret < 0) {
		if (region->fd >= 0)
			close(region->fd);
		return ret;
	}
	m->regions++;
	__atomic_fetch_add(&m->pages_total, block->length / TARGET_PAGE, __ATOMIC_RELAXED);
	return 0;
}

int wh_add_block(struct wh_migration *m, const struct wh_block *block, struct wh_err *err)
{
	if (m->set_up)
		return err_set(err, -EBUSY, "block '%s': blocks are added before connecting",
			       block->name ? block->name : "");
	return run_add_region(m, block, err);
}

static int set_up(struct wh_migration *m, enum wh_role role, const char *text, struct uri *uri,
		  struct wh_err *err)
{
	if (m->role != role)
		return err_set(err, -EINVAL, "%s: this end is the %s", text,
			       m->role == WH_DEST ? "destination" : "source");
	if (m->set_up)
		return err_set(err, -EBUSY, "%s: an address was given already", text);
	return uri_parse(uri, text, err);
}

int wh_connect(struct wh_migration *m, const char *uri, struct wh_err *err)
{
	struct uri to;
	int ret;

	ret = set_up(m, WH_SOURCE, uri, &to, err);
	if (ret < 0)
		return ret;
	if (m->regions == 0)
		return err_set(err, -EINVAL, "%s: there is no RAM block to send", uri);
	ret = source_side_connect(m, &to, err);
	m->set_up = ret >= 0;
	return ret;
}

int wh_listen(struct wh_migration *m, const char *uri, struct wh_err *err)
{
	struct uri to;
	int ret;

	ret = set_up(m, WH_DEST, uri, &to, err);
	if (ret < 0)
		return ret;
	if (m->agent)
		ret = agent_vmm_listen(m, false, &to, uri, err);
	else
		ret = dest_side_listen(m, &to, err);
	m->set_up = ret >= 0;
	return ret;
}

const char *wh_listen_uri(const struct wh_migration *m)
{
	return m->uri;
}

int wh_start_postcopy(struct wh_migration *m, struct wh_err *err)
{
	if (m->role != WH_SOURCE)
		return err_set(err, -EINVAL, "postcopy: the source starts it");
	if (!m->config.postcopy)
		return err_set(err, -EINVAL, "postcopy: not configured for this migration");
	source_want_postcopy(m->source->engine);
	loop_wake(m->bulk);
	return 0;
}

int wh_cancel(struct wh_migration *m, struct wh_err *err)
{
	if (m->role != WH_SOURCE)
		return err_set(err, -EINVAL, "cancel: the source does that");
	if (source_want_cancel(m->source->engine) < 0)
		return err_set(err, -EBUSY, "cancel: too late, it is %s",
			       wh_phase_name(wh_get_phase(m)));
	loop_wake(m->bulk);
	return 0;
}

int wh_device_loaded(struct wh_migration *m, int result)
{
	if (m->role != WH_DEST)
		return -EINVAL;
	if (m->agent) {
		agent_vmm_loaded(m, result, NULL);
		return 0;
	}
	pthread_mutex_lock(&m->post_lock);
	m->post.device_loaded = true;
	m->post.device_result = result;
	/* With the lock held: who has read the result may end the migration and free it */
	loop_wake(m->bulk);
	pthread_mutex_unlock(&m->post_lock);
	return 0;
}

const char *wh_get_machine(const struct wh_migration *m)
{
	if (m->agent)
		return "";
	return m->role == WH_DEST ? m->dest->engine.machine.text : m->machine;
}

bool wh_may_postcopy(const struct wh_migration *m)
{
	return m->role == WH_DEST && !m->agent && m->dest->engine.advised;
}

enum wh_phase wh_get_phase(const struct wh_migration *m)
{
	return __atomic_load_n(&m->phase, __ATOMIC_ACQUIRE);
}
