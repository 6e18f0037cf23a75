/* SPDX-License-Identifier: GPL-2.0 */
#ifndef E2E_SCENE_H
#define E2E_SCENE_H

/*
 * A source and a destination, for tests of what becomes of the guest when things go wrong
 */
#include "kselftest_harness.h"

#include "selftests/lib/proxy.h"
#include "selftests/lib/vmm_process.h"

#include <stdlib.h>

#define RAM "64M"
#define SOON 20000u
#define ARGS_MAX 48

/* Two processes, and what may be between them */
struct scene {
	struct vmm_pair pair;
	struct vmm *source;
	struct vmm *dest;
	struct proxy *proxy;
	bool own_loop;
	uint64_t serial_chars;
};

static inline void scene_init(struct scene *scene, bool own_loop)
{
	scene->source = &scene->pair.source;
	scene->dest = &scene->pair.dest;
	scene->own_loop = own_loop;
}

static inline void scene_end(struct scene *scene)
{
	pair_end(&scene->pair);
	proxy_end(scene->proxy);
}

static inline void start(const struct scene *scene, struct vmm *vmm, const char *const *more)
{
	const char *args[ARGS_MAX] = { "--ram", RAM, scene->own_loop ? "--own-loop" : NULL };
	unsigned count = scene->own_loop ? 3 : 2;

	for (unsigned i = 0; more[i] && count < ARGS_MAX - 1; i++)
		args[count++] = more[i];
	args[count] = NULL;
	vmm_start(vmm, args);
}

#define ARGS(...) ((const char *const[]){ __VA_ARGS__ __VA_OPT__(, ) NULL })

static inline bool writes_on(const void *arg)
{
	const struct scene *scene = arg;

	return !strcmp(scene->source->guest, "running") &&
	       scene->source->serial_chars > scene->serial_chars + 4;
}

/* The source's guest runs and gets on with its work. */
static inline bool guest_goes_on(struct scene *scene)
{
	scene->serial_chars = scene->source->serial_chars;
	return pair_until(&scene->pair, writes_on, scene, SOON);
}

static inline bool some_left(const void *arg)
{
	const struct scene *scene = arg;

	return scene->source->pages_left > 0 && scene->dest->pages_left > 0 &&
	       vmm_was(scene->dest, "postcopy-active");
}

static inline void start_dest(struct scene *scene, struct __test_metadata *_metadata,
			      const char *const *more)
{
	const char *args[ARGS_MAX] = { "--listen", "tcp:127.0.0.1:0" };

	for (unsigned i = 0; more[i] && i < ARGS_MAX - 3; i++)
		args[i + 2] = more[i];
	start(scene, scene->dest, args);
	ASSERT_TRUE(pair_until_listening(&scene->pair)) TH_LOG("%s", scene->dest->text);
}

static inline void start_proxy(struct scene *scene, struct __test_metadata *_metadata,
			       const struct proxy_script *script)
{
	scene->proxy = proxy_start(scene->dest->uri, script);
	ASSERT_NE(NULL, scene->proxy);
}

/* A source, told to migrate to where it should and then @more */
static inline void start_source(struct scene *scene, const char *const *args, const char *more)
{
	start(scene, scene->source, args);
	vmm_command(scene->source, "migrate %s\n%s",
		    scene->proxy ? proxy_uri(scene->proxy) : scene->dest->uri, more);
}

#endif /* E2E_SCENE_H */
