/* SPDX-License-Identifier: MIT */
/*
 * Joining: an agent's figures, where the VMM can see them and its successor goes on counting.
 * They are written now and then, so one that is killed takes the last of them with it.
 */
#include "postcopy/agent.h"

#include <string.h>
#include <sys/param.h>

static uint64_t look(const uint64_t *at)
{
	return __atomic_load_n(at, __ATOMIC_RELAXED);
}

static void add_counters(uint64_t *word, const struct dest_counters *c)
{
	const struct hist *hist = &c->fault_hist;

	word[AGENT_BYTES] += look(&c->bytes[CHANNEL_MAIN]) + look(&c->bytes[CHANNEL_URGENT]);
	word[AGENT_BYTES_RETURN] += look(&c->bytes_return);
	word[AGENT_PAGES_NORMAL] += look(&c->pages_normal);
	word[AGENT_PAGES_ZERO] += look(&c->pages_zero);
	word[AGENT_PAGES_XBZRLE] += look(&c->pages_xbzrle);
	word[AGENT_PAGES_URGENT] += look(&c->pages_urgent);
	word[AGENT_PAGES_BEFORE] += look(&c->pages_before);
	word[AGENT_REQUESTS] += look(&c->requests);
	word[AGENT_FAULTS] += look(&c->faults);
	word[AGENT_HIST_SUM] += look(&hist->sum_ns);
	word[AGENT_HIST_MAX] = MAX(word[AGENT_HIST_MAX], look(&hist->max_ns));
	for (unsigned i = 0; i < HIST_BUCKETS; i++)
		word[AGENT_HIST + i] += __atomic_load_n(&hist->bucket[i], __ATOMIC_RELAXED);
}

static void add_thread(uint64_t *word, const struct dest_thread *thread)
{
	uint32_t tid = __atomic_load_n(&thread->tid, __ATOMIC_ACQUIRE);
	uint64_t *row = word + AGENT_THREADS;

	if (!tid)
		return;
	for (unsigned i = 0; i < DEST_THREADS; i++, row += AGENT_THREAD_WORDS)
		if (!row[0] || row[0] == tid) {
			row[0] = tid;
			row[1] += look(&thread->faults);
			row[2] += look(&thread->waited_ns);
			return;
		}
}

void agent_figures_take(const struct agent_state *state, struct agent_figures *before)
{
	for (unsigned i = 0; i < AGENT_FIGURE_WORDS; i++)
		before->word[i] = look(&state->words[state->figures + i]);
	before->word[AGENT_OWN_BYTES] = 0; /* its memory went with it */
}

void agent_figures_put(const struct agent_state *state, const struct agent_figures *before,
		       const struct dest *dest, uint64_t own_bytes)
{
	struct agent_figures sum = *before;

	add_counters(sum.word, &dest->counters);
	for (unsigned i = 0; i < DEST_THREADS; i++)
		add_thread(sum.word, &dest->thread[i]);
	sum.word[AGENT_OWN_BYTES] = own_bytes;
	for (unsigned i = 0; i < AGENT_FIGURE_WORDS; i++)
		__atomic_store_n(&state->words[state->figures + i], sum.word[i], __ATOMIC_RELAXED);
}

void agent_figures_hist(const struct agent_state *state, struct hist *hist)
{
	const uint64_t *word = state->words + state->figures;

	*hist = (struct hist){
		.sum_ns = look(&word[AGENT_HIST_SUM]),
		.max_ns = look(&word[AGENT_HIST_MAX]),
	};
	for (unsigned i = 0; i < HIST_BUCKETS; i++) {
		hist->bucket[i] = (uint32_t)look(&word[AGENT_HIST + i]);
		hist->count += hist->bucket[i];
	}
}

void agent_figures_stats(const struct agent_state *state, struct wh_stats *stats)
{
	const uint64_t *word = state->words + state->figures;
	struct hist hist;

	agent_figures_hist(state, &hist);
	stats->bytes = look(&word[AGENT_BYTES]);
	stats->bytes_return = look(&word[AGENT_BYTES_RETURN]);
	stats->pages_normal = look(&word[AGENT_PAGES_NORMAL]);
	stats->pages_zero = look(&word[AGENT_PAGES_ZERO]);
	stats->pages_xbzrle = look(&word[AGENT_PAGES_XBZRLE]);
	stats->pages_urgent = look(&word[AGENT_PAGES_URGENT]);
	stats->pages_before = look(&word[AGENT_PAGES_BEFORE]);
	stats->requests = look(&word[AGENT_REQUESTS]);
	stats->faults = look(&word[AGENT_FAULTS]);
	stats->own_bytes += look(&word[AGENT_OWN_BYTES]);
	stats->fault_p50_ns = hist_quantile(&hist, 500);
	stats->fault_p99_ns = hist_quantile(&hist, 990);
	stats->fault_max_ns = hist.max_ns;
	stats->fault_sum_ns = hist.sum_ns;
}

unsigned agent_figures_waits(const struct agent_state *state, struct wh_thread_wait *waits,
			     unsigned room)
{
	const uint64_t *row = state->words + state->figures + AGENT_THREADS;
	unsigned count = 0;

	for (unsigned i = 0; i < DEST_THREADS; i++, row += AGENT_THREAD_WORDS) {
		uint32_t tid = (uint32_t)look(&row[0]);

		if (!tid)
			continue;
		if (count < room)
			waits[count] = (struct wh_thread_wait){
				.tid = tid,
				.faults = look(&row[1]),
				.waited_ns = look(&row[2]),
			};
		count++;
	}
	return count;
}
