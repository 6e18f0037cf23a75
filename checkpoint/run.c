/* SPDX-License-Identifier: MIT */
/*
 * Joining: making a protection and telling it what to do. What turns it is in run_drive.c.
 */
#include "checkpoint/run_rdma.h"

#include "checkpoint/generation.h"

#include <errno.h>
#include <signal.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#define LOG_PER_S 4u
#define BYTES_MAX (UINT64_C(1) << 40) /* of any setting */
#define TIME_MAX_NS (3600 * NS_PER_S)

static const char *const names[] = {
	[WH_PROTECT_SETUP] = "setup",	    [WH_PROTECT_SYNC] = "sync",
	[WH_PROTECT_ARMED] = "armed",	    [WH_PROTECT_RUN] = "run",
	[WH_PROTECT_STOP] = "stop",	    [WH_PROTECT_STAGE] = "stage",
	[WH_PROTECT_SEND] = "send",	    [WH_PROTECT_WAIT_ACK] = "wait-ack",
	[WH_PROTECT_READY] = "ready",	    [WH_PROTECT_RECEIVING] = "receiving",
	[WH_PROTECT_COMPLETE] = "complete", [WH_PROTECT_LEAVING] = "leaving",
	[WH_PROTECT_DEGRADED] = "degraded", [WH_PROTECT_HOLD] = "hold",
	[WH_PROTECT_SUSPECT] = "suspect",   [WH_PROTECT_APPLYING] = "applying",
	[WH_PROTECT_TAKEOVER] = "takeover", [WH_PROTECT_FENCED] = "fenced",
	[WH_PROTECT_RELEASED] = "released",
};
_Static_assert(sizeof(names) / sizeof(names[0]) == WH_PROTECT_STATE_COUNT, "a name for each");

const char *wh_protect_state_name(enum wh_protect_state state)
{
	return (unsigned)state < WH_PROTECT_STATE_COUNT ? names[state] : "unknown";
}

bool wh_protect_ended(enum wh_protect_state state)
{
	return state == WH_PROTECT_TAKEOVER || state == WH_PROTECT_FENCED ||
	       state == WH_PROTECT_RELEASED;
}

bool wh_protect_cycles(enum wh_protect_state state)
{
	return state >= WH_PROTECT_RUN && state <= WH_PROTECT_COMPLETE;
}

void protect_log(struct wh_protect *p, enum wh_log_level level, const char *format, ...)
{
	char line[WH_ERR_TEXT + 64];
	va_list args;

	if (!p->cb.log)
		return;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	p->cb.log(p->config.opaque, level, line);
}

void protect_log_peer(struct wh_protect *p, const char *format, ...)
{
	uint64_t now_ns = clock_now_ns();
	char line[WH_ERR_TEXT + 64];
	va_list args;

	if (now_ns - p->log_ns >= NS_PER_S) {
		p->log_ns = now_ns;
		p->log_left = LOG_PER_S;
	}
	if (!p->cb.log || !p->log_left)
		return;
	p->log_left--;
	va_start(args, format);
	vsnprintf(line, sizeof(line), format, args);
	va_end(args);
	p->cb.log(p->config.opaque, WH_LOG_WARNING, line);
}

void wh_protect_config_init(struct wh_protect_config *config)
{
	*config = (struct wh_protect_config){
		.size = sizeof(*config),
		.pace = {
			.min_ns = 5 * NS_PER_MS,
			.max_ns = 500 * NS_PER_MS,
			.stop_ns = 5 * NS_PER_MS,
			.duty_percent = 5,
			.hold_ns = 50 * NS_PER_MS,
		},
		.heartbeat_ns = 100 * NS_PER_MS,
		.lease_ns = NS_PER_S,
		.answer_ns = 10 * NS_PER_S,
		.held_max = UINT64_C(64) << 20,
		.connect_timeout_ns = 10 * NS_PER_S,
		.pack = WH_PROTECT_ZERO | WH_PROTECT_UNCHANGED | WH_PROTECT_XBZRLE,
		.contents_max = UINT64_C(256) << 20,
		.device_max = UINT64_C(64) << 20,
	};
}

static int check_times(const struct wh_protect_config *config, struct wh_err *err)
{
	if (config->heartbeat_ns < NS_PER_MS || config->lease_ns > TIME_MAX_NS ||
	    config->lease_ns / 2 < config->heartbeat_ns)
		return err_set(err, -EINVAL,
			       "config: a heartbeat each %llu ns and a lease of %llu ns: at least "
			       "1 ms, and two of them in a lease",
			       (unsigned long long)config->heartbeat_ns,
			       (unsigned long long)config->lease_ns);
	if (!config->answer_ns || config->answer_ns > TIME_MAX_NS || !config->connect_timeout_ns ||
	    config->connect_timeout_ns > TIME_MAX_NS)
		return err_set(err, -EINVAL,
			       "config: answer_ns and connect_timeout_ns are 1 ns to an hour");
	if (config->pace.max_ns > TIME_MAX_NS)
		return err_set(err, -EINVAL, "config: pace.max_ns is over an hour");
	return 0;
}

static int check_config(const struct wh_protect_config *config, enum wh_role role,
			struct wh_err *err)
{
	if (config->size != sizeof(*config))
		return err_set(err, -EINVAL,
			       "config: size is %zu, not %zu: wh_protect_config_init() sets it",
			       config->size, sizeof(*config));
	if (!config->callbacks || !config->generation_file || !config->generation_file[0])
		return err_set(err, -EINVAL, "config: no %s",
			       config->callbacks ? "generation_file" : "callbacks");
	if (role == WH_SOURCE && (!config->callbacks->pause || !config->callbacks->resume))
		return err_set(err, -EINVAL, "config: a source needs pause and resume");
	if (role == WH_DEST && !config->callbacks->run)
		return err_set(err, -EINVAL, "config: a destination needs run");
	if (!config->contents_max || config->contents_max > BYTES_MAX || !config->device_max ||
	    config->device_max > BYTES_MAX)
		return err_set(err, -EINVAL,
			       "config: contents_max and device_max are 1 byte to 1 TiB");
	if (config->pack &
	    ~(WH_PROTECT_ZERO | WH_PROTECT_UNCHANGED | WH_PROTECT_XBZRLE | WH_PROTECT_ZSTD))
		return err_set(err, -EINVAL, "config: pack %#x", config->pack);
	if (config->full > WH_PROTECT_FULL_DEGRADE)
		return err_set(err, -EINVAL, "config: full %d", (int)config->full);
	if (role == WH_SOURCE)
		return check_times(config, err);
	if (config->authority > WH_PROTECT_ALONE)
		return err_set(err, -EINVAL, "config: authority %d", (int)config->authority);
	if (config->authority == WH_PROTECT_FENCE && !config->callbacks->fence_peer)
		return err_set(err, -EINVAL, "config: there is no fence_peer to ask");
	if (config->authority == WH_PROTECT_ALONE && !config->output_held)
		return err_set(err, -EINVAL,
			       "config: a destination that decides alone needs output_held: "
			       "everything that the guest lets out over there is held");
	return 0;
}

int wh_protect_new(struct wh_protect **protect, enum wh_role role,
		   const struct wh_protect_config *config, struct wh_err *err)
{
	struct wh_protect *p;
	int ret;

	*protect = NULL;
	ret = check_config(config, role, err);
	if (ret < 0)
		return ret;
	p = calloc(1, sizeof(*p));
	if (!p)
		return err_set(err, -ENOMEM, "protection: no memory");
	p->role = role;
	p->config = *config;
	p->cb = *config->callbacks;
	p->config.callbacks = &p->cb;
	for (unsigned i = 0; i < LINK_COUNT; i++)
		p->link[i].fd = -1;
	p->status.ack_age_ns = p->status.heard_age_ns = p->status.held_age_ns = UINT64_MAX;
	pthread_mutex_init(&p->lock, NULL);
	pthread_cond_init(&p->cond, NULL);
	p->generation_file = strdup(config->generation_file);
	p->config.generation_file = p->generation_file;
	ret = p->generation_file ? generation_read(p->generation_file, &p->generation, err) :
				   err_set(err, -ENOMEM, "protection: no memory");
	p->config.tls = NULL;
	if (ret == 0 && config->tls)
		ret = tls_open_as(&p->tls, config->tls, role == WH_DEST, 0, err);
	if (ret == 0)
		ret = loop_open(&p->loop, RUN_ENTRIES, err);
	if (ret == 0)
		ret = role == WH_SOURCE ? protect_source_new(p, err) : protect_dest_new(p, err);
	if (ret < 0)
		wh_protect_free(p);
	else
		*protect = p;
	return ret;
}

/* The thread first, then the loop (which brings every operation back), then memory. */
void wh_protect_free(struct wh_protect *p)
{
	if (!p)
		return;
	__atomic_store_n(&p->stop, true, __ATOMIC_RELEASE);
	if (p->threaded) {
		loop_wake(p->loop);
		pthread_join(p->thread, NULL);
	}
	if (p->dest)
		protect_dest_stop(p);
	if (p->loop)
		loop_close(p->loop);
	p->loop = NULL;
	for (unsigned i = 0; i < LINK_COUNT; i++)
		link_fini(&p->link[i]);
	piers_free(p);
	if (p->source)
		protect_source_free(p);
	if (p->dest)
		protect_dest_free(p);
	/* the last word of one that has ended has to leave; of others nobody waits for it */
	tls_close(p->tls, p->ended);
	pthread_cond_destroy(&p->cond);
	pthread_mutex_destroy(&p->lock);
	free(p->slabs.slab);
	free(p->generation_file);
	free(p);
}

int wh_protect_add_block(struct wh_protect *p, const struct wh_block *block, struct wh_err *err)
{
	size_t length = block->name ? strlen(block->name) : 0;
	struct region *region = &p->region[p->blocks];
	struct cp_block *made = &p->block[p->blocks];

	if (p->set_up)
		return err_set(err, -EBUSY, "block '%.100s': blocks are added before an address",
			       length ? block->name : "");
	if (length == 0 || length > 255)
		return err_set(err, -EINVAL, "block: the name has %zu bytes, not 1 to 255", length);
	if (p->blocks == CP_BLOCKS_MAX)
		return err_set(err, -ENOSPC, "block '%.100s': there are %u already", block->name,
			       CP_BLOCKS_MAX);
	if (region_named(p->region, p->blocks, block->name, length) >= 0)
		return err_set(err, -EEXIST, "block '%.100s' is there already", block->name);
	if (!block->addr || (uintptr_t)block->addr % TARGET_PAGE || !block->length ||
	    block->length % TARGET_PAGE)
		return err_set(err, -EINVAL,
			       "block '%.100s': address or length is not a multiple of %llu",
			       block->name, (unsigned long long)TARGET_PAGE);
	*region = (struct region){
		.addr = block->addr,
		.length = block->length,
		.page_size = block->page_size,
		.fd = -1,
	};
	memcpy(region->name, block->name, length);
	*made = (struct cp_block){ .length = block->length, .page_size = TARGET_PAGE };
	wire_name_set(&made->name, region->name);
	p->blocks++;
	return 0;
}

static int parse_uris(struct wh_protect *p, enum wh_role role, const char *text, const char *pulse,
		      struct uri uri[LINK_COUNT], struct wh_err *err)
{
	int ret;

	if (p->role != role)
		return err_set(err, -EINVAL, "%.100s: this end is the %s", text,
			       p->role == WH_DEST ? "destination" : "source");
	if (p->set_up)
		return err_set(err, -EBUSY, "%.100s: an address was given already", text);
	if (!p->blocks)
		return err_set(err, -EINVAL, "%.100s: there is no block of memory", text);
	ret = uri_parse(&uri[LINK_CONTENTS], text, err);
	if (ret == 0)
		ret = uri_parse(&uri[LINK_PULSE], pulse ? pulse : text, err);
	if (ret < 0)
		return ret;
	if (p->tls && (uri[0].kind == URI_RDMA || uri[1].kind == URI_RDMA))
		return err_set(err, -EOPNOTSUPP, "%.100s: there is no TLS over rdma:", text);
	if (role == WH_SOURCE && uri[LINK_CONTENTS].kind == URI_FD && !pulse)
		return err_set(err, -EINVAL,
			       "%.100s: there are two connections, and a descriptor is one", text);
	return 0;
}

int wh_protect_connect(struct wh_protect *p, const char *uri, const char *pulse_uri,
		       struct wh_err *err)
{
	struct uri to[LINK_COUNT];
	int ret = parse_uris(p, WH_SOURCE, uri, pulse_uri, to, err);

	if (ret == 0)
		ret = protect_source_connect(p, to, err);
	p->set_up |= ret == 0;
	return ret;
}

int wh_protect_listen(struct wh_protect *p, const char *uri, const char *pulse_uri,
		      struct wh_err *err)
{
	struct uri at[LINK_COUNT];
	int ret = parse_uris(p, WH_DEST, uri, pulse_uri, at, err);

	if (ret == 0)
		ret = protect_dest_listen(p, at, pulse_uri ? 2 : 1, err);
	p->set_up |= ret == 0;
	return ret;
}

const char *wh_protect_listen_uri(const struct wh_protect *p)
{
	return p->uri;
}

int wh_protect_start(struct wh_protect *p, struct wh_err *err)
{
	sigset_t all, old;
	int ret = 0;

	if (!p->set_up || p->threaded)
		return err_set(err, -EINVAL, "start: %s",
			       p->threaded ? "it is started already" : "no address was given");
	if (p->role == WH_SOURCE)
		ret = protect_source_start(p, err);
	if (ret < 0)
		return ret;
	/* The VMM's signals are for the VMM's threads. */
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &old);
	ret = pthread_create(&p->thread, NULL, protect_main, p);
	pthread_sigmask(SIG_SETMASK, &old, NULL);
	if (ret)
		return err_sys(err, ret, "start: a thread");
	p->threaded = true;
	return 0;
}

int wh_protect_wait(struct wh_protect *p, int64_t timeout_ns, struct wh_err *err)
{
	struct timespec until;
	int ret = 0;

	clock_gettime(CLOCK_REALTIME, &until);
	if (timeout_ns >= 0) {
		until.tv_sec += timeout_ns / (int64_t)NS_PER_S;
		until.tv_nsec += timeout_ns % (int64_t)NS_PER_S;
		if (until.tv_nsec >= (long)NS_PER_S) {
			until.tv_nsec -= (long)NS_PER_S;
			until.tv_sec++;
		}
	}
	pthread_mutex_lock(&p->lock);
	while (!p->ended && !p->dead && ret == 0)
		ret = timeout_ns < 0 ? pthread_cond_wait(&p->cond, &p->lock) :
				       pthread_cond_timedwait(&p->cond, &p->lock, &until);
	if (p->ended)
		ret = 0;
	else if (p->dead)
		ret = err_set(err, p->why.code, "%s", p->why.text);
	else
		ret = err_set(err, -EAGAIN, "wait: it goes on");
	pthread_mutex_unlock(&p->lock);
	return ret;
}

void wh_protect_get_status(struct wh_protect *p, struct wh_protect_status *status)
{
	pthread_mutex_lock(&p->lock);
	*status = p->status;
	pthread_mutex_unlock(&p->lock);
}

/* A decision of one side only */
static int decide(struct wh_protect *p, enum wh_role role, const char *what,
		  int (*run)(struct wh_protect *p, const void *what, struct wh_err *err),
		  const void *with, struct wh_err *err)
{
	if (p->role != role)
		return err_set(err, -EINVAL, "%s: that is for the %s to do", what,
			       role == WH_SOURCE ? "source" : "destination");
	return protect_call(p, run, with, err);
}

int wh_protect_stop(struct wh_protect *p, struct wh_err *err)
{
	return decide(p, WH_SOURCE, "stop", protect_source_leave, NULL, err);
}

int wh_protect_release(struct wh_protect *p, struct wh_err *err)
{
	return decide(p, WH_SOURCE, "release", protect_source_release, NULL, err);
}

int wh_protect_fence(struct wh_protect *p, struct wh_err *err)
{
	return decide(p, WH_SOURCE, "fence", protect_source_fence, NULL, err);
}

int wh_protect_takeover(struct wh_protect *p, uint64_t generation, struct wh_err *err)
{
	return decide(p, WH_DEST, "takeover", protect_dest_takeover, &generation, err);
}

int wh_protect_abandon(struct wh_protect *p, struct wh_err *err)
{
	return decide(p, WH_DEST, "abandon", protect_dest_abandon, NULL, err);
}

int wh_protect_set_pace(struct wh_protect *p, const struct wh_protect_pace *pace,
			struct wh_err *err)
{
	if (pace->max_ns > TIME_MAX_NS)
		return err_set(err, -EINVAL, "pace: max_ns is over an hour");
	return decide(p, WH_SOURCE, "pace", protect_source_pace, pace, err);
}
