/* SPDX-License-Identifier: MIT */
/*
 * wherry demo --protect: what is shown, and the verdict.
 */
#include "cli/demo_protect.h"

#include <errno.h>
#include <inttypes.h>
#include <stdio.h>
#include <string.h>

#define VERDICT "replies acknowledged before the kill and missing afterwards"

static json_object *figures(const struct demo_protect *p)
{
	json_object *object = NULL;

	json_object_object_get_ex(p->demo.child[DEMO_SOURCE].latest, "checkpoint", &object);
	return object;
}

static double ms_of(uint64_t ns)
{
	return (double)ns / 1e6;
}

void demo_survive_progress(struct demo_protect *p)
{
	json_object *at = figures(p);
	uint64_t now = demo_now_ns();
	char text[160];

	if (!at || now < p->demo.shown_ns + (p->demo.terminal ? 200 : 1000) * NS_PER_MS)
		return;
	p->demo.shown_ns = now;
	snprintf(text, sizeof(text),
		 "protected  %" PRIu64 " checkpoints  stop %.2f ms  answer %.2f ms  dirty %.1f MiB"
		 "  held %" PRIu64 "  replies %zu",
		 demo_number(at, "checkpoints"), ms_of(demo_number(at, "stop_ns")),
		 ms_of(demo_number(at, "ack_ns")),
		 (double)demo_number(at, "dirty_bytes") / (1 << 20),
		 demo_number(at, "held_packets"), p->witness.replies);
	demo_live(&p->demo, text);
}

struct outcome {
	struct witness_verdict verdict;
	uint64_t checkpoints;
	double seconds, rate; /* rate: up to when they were counted last */
	uint64_t stop_ns, stop_max_ns, dirty_bytes;
	bool verified;
	bool right;
	char reason[640];
};

static void outcome_of(const struct demo_protect *p, int ret, struct outcome *o)
{
	const struct demo_child *replica = &p->demo.child[DEMO_DEST];
	const struct demo_child *primary = &p->demo.child[DEMO_SOURCE];
	const struct demo_child *survivor = &p->demo.child[p->survivor];
	const char *error = *primary->error ? primary->error : replica->error;
	json_object *at = figures(p), *verified;

	*o = (struct outcome){ .checkpoints = demo_number(at, "checkpoints") };
	o->verdict = witness_judge(p->witness.reply, p->witness.replies, p->kill_ns);
	o->seconds = p->kill_ns ? (double)(p->kill_ns - p->protected_ns) / 1e9 : 0;
	if (p->protected_ns && p->told_ns > p->protected_ns)
		o->rate = (double)o->checkpoints * 1e9 / (double)(p->told_ns - p->protected_ns);
	o->stop_ns = o->checkpoints ? demo_number(at, "stop_sum_ns") / o->checkpoints : 0;
	o->stop_max_ns = demo_number(at, "stop_max_ns");
	o->dirty_bytes = demo_number(at, "dirty_bytes");
	o->verified = json_object_object_get_ex(survivor->summary, "verified", &verified) &&
		      json_object_get_boolean(verified);
	if (ret == -EINTR)
		snprintf(o->reason, sizeof(o->reason), "interrupted");
	else if (ret)
		snprintf(o->reason, sizeof(o->reason), "%s: %s%s%s", p->doing,
			 ret == -ETIMEDOUT ? "not in time" : "a process has ended",
			 *error ? ": " : "", error);
	else if (o->verdict.missing || p->witness.lost)
		snprintf(o->reason, sizeof(o->reason), "the survivor has forgotten what was said");
	else if (!o->verified)
		snprintf(o->reason, sizeof(o->reason), "memory: %s",
			 demo_string(survivor->summary, "error"));
	o->right = !*o->reason;
}

static void summary_object(struct demo_protect *p, const struct outcome *o)
{
	json_object *object = demo_object(&p->demo, "summary");

	json_object_object_add(object, "result",
			       json_object_new_string(o->right ? "ok" : "failed"));
	if (!o->right)
		json_object_object_add(object, "error", json_object_new_string(o->reason));
	json_object_object_add(object, "seconds", json_object_new_double(o->seconds));
	demo_add(object, "checkpoints", o->checkpoints);
	demo_add(object, "stop_ns", o->stop_ns);
	demo_add(object, "stop_max_ns", o->stop_max_ns);
	demo_add(object, "dirty_bytes", o->dirty_bytes);
	demo_add(object, "replies_before", o->verdict.before);
	demo_add(object, "replies_after", o->verdict.after);
	demo_add(object, "missing", o->verdict.missing);
	demo_add(object, "silent_ns", o->verdict.silent_ns);
	demo_add(object, "seed", p->seed);
	json_object_object_add(object, "verified", json_object_new_boolean(o->verified));
	demo_print(object);
}

bool demo_survive_summary(struct demo_protect *p, int ret)
{
	struct outcome o;

	outcome_of(p, ret, &o);
	if (p->demo.json) {
		summary_object(p, &o);
		return o.right;
	}
	demo_wipe(&p->demo);
	if (p->taken_ns) {
		printf("  checkpoints    %" PRIu64
		       " in %.1f s, %.1f a second, the last of %.1f MiB\n",
		       o.checkpoints, o.seconds, o.rate, (double)o.dirty_bytes / (1 << 20));
		printf("  stood still    %.2f ms for each, %.2f ms at most\n", ms_of(o.stop_ns),
		       ms_of(o.stop_max_ns));
		printf("  replies        %zu before the kill, %zu after it; none for %.0f ms\n",
		       o.verdict.before, o.verdict.after, ms_of(o.verdict.silent_ns));
		printf("  " VERDICT ": %zu\n", o.verdict.missing);
	}
	if (o.verified)
		printf("  memory         verified: every byte is right\n");
	if (!o.right)
		printf("  FAILED         %s (--seed %" PRIu64 ")\n", o.reason, p->seed);
	fflush(stdout);
	return o.right;
}
