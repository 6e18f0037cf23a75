/* SPDX-License-Identifier: MIT */
#include "selftests/lib/speaker.h"

#include <stdlib.h>
#include <sys/mman.h>
#include <unistd.h>

#define PAGE 4096u
#define WORDS (PAGE / sizeof(uint64_t))
#define EPOCHS 4096u

static uint64_t mix(uint64_t x)
{
	x = (x ^ x >> 31) * UINT64_C(0x7fb5d329728ea185);
	x = (x ^ x >> 27) * UINT64_C(0x81dadef4bc2dd44d);
	return x ^ x >> 33;
}

/* The page may be copied meanwhile, and is copied again then: that is what is tested */
#define UNWATCHED __attribute__((no_sanitize("thread")))

/* Now and then nothing but zeros */
UNWATCHED static void make_step(uint8_t *memory, uint64_t touch, uint64_t step)
{
	uint64_t random = mix(step), page = 1 + random % touch;
	volatile uint64_t *words = (uint64_t *)(void *)(memory + page * PAGE);

	if (random >> 60)
		words[(random >> 32) % WORDS] = step;
	else
		for (unsigned i = 0; i < WORDS; i++)
			words[i] = 0;
	__atomic_store_n((uint64_t *)(void *)memory, step, __ATOMIC_RELEASE);
}

/* @lock is held */
static void leave(struct speaker *speaker, uint64_t first, uint64_t last)
{
	uint64_t seen = __atomic_load_n(&speaker->world->seen, __ATOMIC_RELAXED);

	if (last < first)
		return;
	if (first != seen + 1)
		__atomic_fetch_add(&speaker->world->wrong, 1, __ATOMIC_RELAXED);
	__atomic_store_n(&speaker->world->seen, last, __ATOMIC_RELEASE);
}

static void *speaker_main(void *arg)
{
	struct speaker *speaker = arg;

	pthread_mutex_lock(&speaker->lock);
	while (!speaker->end) {
		if (speaker->park) {
			speaker->parked = true;
			pthread_cond_broadcast(&speaker->cond);
			pthread_cond_wait(&speaker->cond, &speaker->lock);
			continue;
		}
		speaker->parked = false;
		speaker->step++;
		make_step(speaker->memory, speaker->touch, speaker->step);
		if (!speaker->armed && !speaker->fenced) {
			leave(speaker, speaker->step, speaker->step);
			speaker->first = speaker->step + 1;
		}
		pthread_mutex_unlock(&speaker->lock);
		if (speaker->rest_us)
			usleep(speaker->rest_us);
		pthread_mutex_lock(&speaker->lock);
	}
	pthread_mutex_unlock(&speaker->lock);
	return NULL;
}

void speaker_init(struct speaker *speaker, uint64_t pages, struct speaker_world *world)
{
	*speaker = (struct speaker){
		.pages = pages,
		.touch = pages - 1,
		.rest_us = 100,
		.world = world,
		.park = true,
		.first = 1,
	};
	speaker->memory = mmap(NULL, pages * PAGE, PROT_READ | PROT_WRITE,
			       MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
	speaker->ends = calloc(EPOCHS, sizeof(*speaker->ends));
	if (speaker->memory == MAP_FAILED || !speaker->ends)
		abort();
	pthread_mutex_init(&speaker->lock, NULL);
	pthread_cond_init(&speaker->cond, NULL);
}

void speaker_fini(struct speaker *speaker)
{
	pthread_mutex_lock(&speaker->lock);
	speaker->end = true;
	pthread_cond_broadcast(&speaker->cond);
	pthread_mutex_unlock(&speaker->lock);
	if (speaker->runs)
		pthread_join(speaker->thread, NULL);
	munmap(speaker->memory, speaker->pages * PAGE);
	free(speaker->ends);
}

void speaker_run(struct speaker *speaker)
{
	pthread_mutex_lock(&speaker->lock);
	speaker->park = false;
	pthread_cond_broadcast(&speaker->cond);
	if (!speaker->runs && pthread_create(&speaker->thread, NULL, speaker_main, speaker))
		abort();
	speaker->runs = true;
	pthread_mutex_unlock(&speaker->lock);
}

void speaker_park(struct speaker *speaker)
{
	pthread_mutex_lock(&speaker->lock);
	speaker->park = true;
	while (speaker->runs && !speaker->parked)
		pthread_cond_wait(&speaker->cond, &speaker->lock);
	pthread_mutex_unlock(&speaker->lock);
}

uint64_t speaker_step(struct speaker *speaker)
{
	uint64_t step;

	pthread_mutex_lock(&speaker->lock);
	step = speaker->step;
	pthread_mutex_unlock(&speaker->lock);
	return step;
}

uint64_t speaker_seen(const struct speaker_world *world)
{
	return __atomic_load_n(&world->seen, __ATOMIC_ACQUIRE);
}

uint64_t speaker_verify(const struct speaker *speaker)
{
	uint8_t *right = calloc(speaker->pages, PAGE);
	uint64_t wrong = 0;

	if (!right)
		abort();
	for (uint64_t step = 1; step <= *(const uint64_t *)(const void *)speaker->memory; step++)
		make_step(right, speaker->touch, step);
	for (uint64_t i = 0; !wrong && i < speaker->pages * PAGE; i++)
		if (right[i] != speaker->memory[i])
			wrong = i + 1;
	free(right);
	return wrong;
}

/* ---- What it sends ---- */

static int on_arm(void *opaque, struct wh_err *err)
{
	struct speaker *speaker = opaque;

	(void)err;
	pthread_mutex_lock(&speaker->lock);
	speaker->armed = true;
	speaker->epoch = 1;
	pthread_mutex_unlock(&speaker->lock);
	return 0;
}

/* The guest stands still: whoever does not, is told to the world */
static int on_turn(void *opaque, uint64_t epoch, struct wh_err *err)
{
	struct speaker *speaker = opaque;

	(void)err;
	pthread_mutex_lock(&speaker->lock);
	if (!speaker->parked || epoch != speaker->epoch)
		__atomic_fetch_add(&speaker->world->wrong, 1, __ATOMIC_RELAXED);
	speaker->ends[epoch % EPOCHS] = speaker->step;
	speaker->epoch = epoch + 1;
	pthread_mutex_unlock(&speaker->lock);
	return 0;
}

static int on_release(void *opaque, uint64_t epoch, struct wh_err *err)
{
	struct speaker *speaker = opaque;
	uint64_t end;

	(void)err;
	pthread_mutex_lock(&speaker->lock);
	end = speaker->ends[epoch % EPOCHS];
	leave(speaker, speaker->first, end);
	if (end >= speaker->first)
		speaker->first = end + 1;
	pthread_mutex_unlock(&speaker->lock);
	return 0;
}

static void on_fence(void *opaque)
{
	struct speaker *speaker = opaque;

	pthread_mutex_lock(&speaker->lock);
	speaker->armed = false;
	speaker->fenced = true;
	speaker->first = speaker->step + 1;
	pthread_mutex_unlock(&speaker->lock);
}

static int on_disarm(void *opaque, struct wh_err *err)
{
	struct speaker *speaker = opaque;

	(void)err;
	pthread_mutex_lock(&speaker->lock);
	leave(speaker, speaker->first, speaker->fenced ? 0 : speaker->step);
	speaker->first = speaker->step + 1;
	speaker->armed = speaker->fenced = false;
	pthread_mutex_unlock(&speaker->lock);
	return 0;
}

static void on_count(void *opaque, struct wh_netplug_status *status)
{
	struct speaker *speaker = opaque;

	pthread_mutex_lock(&speaker->lock);
	status->held_packets = speaker->armed ? speaker->step + 1 - speaker->first : 0;
	status->held_bytes = status->held_packets * 100;
	pthread_mutex_unlock(&speaker->lock);
}

const struct wh_netplug_filter speaker_filter = {
	.arm = on_arm,
	.turn = on_turn,
	.release = on_release,
	.fence = on_fence,
	.disarm = on_disarm,
	.count = on_count,
};
