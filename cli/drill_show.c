/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: what is shown, as text or as JSON.
 */
#include "cli/drill.h"

#include <inttypes.h>
#include <json-c/json.h>
#include <stdarg.h>
#include <string.h>

#define NS_PER_S 1e9

const char *drill_outcome_name(enum drill_outcome outcome)
{
	switch (outcome) {
	case DRILL_COMPLETED:
		return "completed";
	case DRILL_AT_SOURCE:
		return "at source";
	case DRILL_STOPPED:
		return "stopped";
	case DRILL_QEMU:
		return "QEMU ended";
	case DRILL_WRONG:
		return "WRONG";
	case DRILL_OUTCOMES:
		break;
	}
	return "?";
}

static void add_text(char *text, size_t room, const char *format, ...)
	__attribute__((format(printf, 3, 4)));

static void add_text(char *text, size_t room, const char *format, ...)
{
	size_t have = strlen(text);
	va_list args;

	va_start(args, format);
	vsnprintf(text + have, room - have, format, args);
	va_end(args);
}

static void show_place(const struct drill_fault *fault, char *text, size_t room)
{
	if (fault->connection)
		add_text(text, room, " in recovery %u", fault->connection);
	else
		add_text(text, room, fault->postcopy ? " in postcopy" : " in precopy");
	if (fault->early) {
		add_text(text, room, " before the source");
		return;
	}
	if (fault->kind == DRILL_BITMAP) {
		add_text(text, room, " of block %" PRIu64, fault->at);
		return;
	}
	add_text(text, room, " at byte %" PRIu64 " %s, %s", fault->at,
		 fault->way == DRILL_THERE ? "there" : "back",
		 fault->channel == DRILL_URGENT ? "urgent" : "main");
}

void drill_show_fault(const struct drill_fault *fault, char *text, size_t room)
{
	static const char *const refusals[] = { "ENOMEM", "EAGAIN", "ENOSPC" };
	static const char *const lies[] = { "size", "end mark", "bits beyond" };

	snprintf(text, room, "%s", drill_kind_name(fault->kind));
	switch (fault->kind) {
	case DRILL_REMOVES:
		return;
	case DRILL_CUT:
	case DRILL_RESET:
	case DRILL_HALF_CLOSE:
	case DRILL_TRUNCATE:
	case DRILL_HANDSHAKE:
		add_text(text, room, "%s", fault->all ? " all" : "");
		break;
	case DRILL_ONE_WAY:
		add_text(text, room, "%s%s", fault->all ? " all" : "", fault->both ? " both" : "");
		break;
	case DRILL_DELAY:
	case DRILL_STALL:
	case DRILL_NO_SPACE:
		add_text(text, room, " %u ms", fault->ms);
		break;
	case DRILL_NO_MEMORY:
		add_text(text, room, " (%s) %u ms", refusals[fault->variant], fault->ms);
		break;
	case DRILL_STOP:
		add_text(text, room, " %s %u ms", fault->side == DRILL_DEST ? "dest" : "source",
			 fault->ms);
		break;
	case DRILL_PAUSE:
	case DRILL_KILL:
		add_text(text, room, " %s", fault->side == DRILL_DEST ? "dest" : "source");
		break;
	case DRILL_BITMAP:
		add_text(text, room, " (%s)", lies[fault->variant]);
		break;
	case DRILL_STRANGER:
		add_text(text, room, " %s%s", fault->variant & 1 ? "talking" : "silent",
			 fault->variant & 2 ? ", gone" : "");
		break;
	case DRILL_CORRUPT:
	case DRILL_CANCEL:
	case DRILL_AGENT:
	case DRILL_KINDS:
		break;
	}
	show_place(fault, text, room);
}

static const char *memory_name(enum drill_memory memory)
{
	static const char *const names[] = { "private", "memfd", "hugetlb" };

	return names[memory];
}

static const char *urgent_name(enum wh_urgent urgent)
{
	static const char *const names[] = { "no urgent channel", "urgent at the switch",
					     "urgent at the start" };

	return names[urgent];
}

void drill_show_plan(const struct drill_plan *plan, FILE *to)
{
	char text[160];

	fprintf(to, "seed 0x%016" PRIx64 "%s\n  ", plan->seed,
		plan->qemu == DRILL_SIDES  ? "" :
		plan->qemu == DRILL_SOURCE ? ", a QEMU is the source" :
					     ", a QEMU is the destination");
	for (unsigned i = 0; i < plan->blocks; i++)
		fprintf(to, "%s%" PRIu64, i ? " + " : "", plan->pages[i]);
	fprintf(to, " pages, %s to %s; %s to the proxy, %s from there; %s\n",
		memory_name(plan->memory[0]), memory_name(plan->memory[1]),
		plan->proxy_tcp ? "tcp" : "unix", plan->tcp ? "tcp" : "unix",
		urgent_name(plan->urgent));
	fprintf(to, "  %.1f MB/s, %.1f MB/s in postcopy", (double)plan->bandwidth / 1e6,
		(double)plan->postcopy_bandwidth / 1e6);
	if (plan->postcopy)
		fprintf(to, ", switch after %u ms%s", plan->switch_ms,
			plan->by_command ? " by command" : "");
	else
		fprintf(to, ", precopy only");
	fprintf(to, "; driven by %s, %s; a peer is dead after %u ms\n",
		plan->own_loop[0] ? "a loop" : "threads",
		plan->agent	  ? "an agent" :
		plan->own_loop[1] ? "a loop" :
				    "threads",
		plan->dead_peer_ms);
	for (unsigned i = 0; i < plan->faults; i++) {
		drill_show_fault(&plan->fault[i], text, sizeof(text));
		fprintf(to, "  planned: %s\n", text);
	}
}

static void print_object(json_object *object)
{
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
	json_object_put(object);
}

static void add_string(json_object *object, const char *name, const char *value)
{
	json_object_object_add(object, name, json_object_new_string(value));
}

static void add_number(json_object *object, const char *name, uint64_t value)
{
	json_object_object_add(object, name, json_object_new_uint64(value));
}

static void add_seed(json_object *object, uint64_t seed)
{
	char text[32];

	snprintf(text, sizeof(text), "0x%016" PRIx64, seed);
	add_string(object, "seed", text);
}

static void run_object(unsigned number, const struct drill_plan *plan,
		       const struct drill_result *result)
{
	json_object *object = json_object_new_object(), *faults = json_object_new_array();

	add_string(object, "kind", "run");
	add_number(object, "run", number);
	add_seed(object, plan->seed);
	for (unsigned i = 0; i < plan->faults; i++) {
		json_object *fault = json_object_new_object();
		char text[160];

		drill_show_fault(&plan->fault[i], text, sizeof(text));
		add_string(fault, "kind", drill_kind_name(plan->fault[i].kind));
		add_string(fault, "what", text);
		json_object_object_add(fault, "happened",
				       json_object_new_boolean(result->happened[i]));
		json_object_array_add(faults, fault);
	}
	json_object_object_add(object, "faults", faults);
	if (plan->qemu != DRILL_SIDES)
		add_string(object, "qemu", plan->qemu == DRILL_SOURCE ? "source" : "dest");
	add_string(object, "source",
		   result->killed[DRILL_SOURCE] ? "killed" :
						  wh_phase_name(result->phase[DRILL_SOURCE]));
	add_string(object, "dest",
		   result->killed[DRILL_DEST] ? "killed" :
						wh_phase_name(result->phase[DRILL_DEST]));
	add_number(object, "recoveries", result->recoveries);
	add_number(object, "attempts", result->attempts);
	add_number(object, "page_faults", result->faults);
	add_number(object, "ns", result->ns);
	add_string(object, "result", drill_outcome_name(result->outcome));
	if (*result->why)
		add_string(object, "why", result->why);
	print_object(object);
}

void drill_show_run(unsigned number, const struct drill_plan *plan,
		    const struct drill_result *result, bool json)
{
	const char *phase[DRILL_SIDES], *name[DRILL_SIDES] = { "", "" };
	char text[160];

	if (json) {
		run_object(number, plan, result);
		return;
	}
	for (unsigned side = 0; side < DRILL_SIDES; side++)
		phase[side] = result->killed[side] ? "killed" : wh_phase_name(result->phase[side]);
	if (plan->qemu != DRILL_SIDES) /* which of the two it is */
		name[plan->qemu] = "QEMU ";
	printf("%5u  0x%016" PRIx64 "  %s (%s%s, %s%s), %" PRIu64 " recoveries of %u, %.2f s%s",
	       number, plan->seed, drill_outcome_name(result->outcome), name[DRILL_SOURCE],
	       phase[DRILL_SOURCE], name[DRILL_DEST], phase[DRILL_DEST], result->recoveries,
	       result->attempts, (double)result->ns / NS_PER_S,
	       result->small_pages ? ", no huge pages" : "");
	for (unsigned i = 0; i < plan->faults; i++) {
		drill_show_fault(&plan->fault[i], text, sizeof(text));
		printf("%s%s%s", i ? "; " : ": ", text,
		       result->happened[i] ? "" : " (not reached)");
	}
	printf("\n");
	if (result->outcome == DRILL_WRONG)
		printf("       WRONG: %s\n", result->why);
	else if (*result->why)
		printf("       %s: %s\n", drill_outcome_name(result->outcome), result->why);
}

static void row_add(struct drill_row *row, const struct drill_result *result, bool happened)
{
	row->runs++;
	row->happened += happened;
	row->recoveries += result->recoveries;
	row->ended[result->outcome]++;
}

void drill_table_add(struct drill_table *table, const struct drill_plan *plan,
		     const struct drill_result *result)
{
	bool any = false;

	for (unsigned kind = 0; kind < DRILL_KINDS; kind++) {
		bool is = false, happened = false;

		for (unsigned i = 0; i < plan->faults; i++) {
			is |= plan->fault[i].kind == kind;
			happened |= plan->fault[i].kind == kind && result->happened[i];
		}
		any |= happened;
		if (is)
			row_add(&table->row[kind], result, happened);
	}
	row_add(&table->all, result, any);
}

static void row_object(const char *name, const struct drill_row *row)
{
	json_object *object = json_object_new_object();

	add_string(object, "kind", "total");
	add_string(object, "fault", name);
	add_number(object, "runs", row->runs);
	add_number(object, "happened", row->happened);
	add_number(object, "recoveries", row->recoveries);
	add_number(object, "completed", row->ended[DRILL_COMPLETED]);
	add_number(object, "at_source", row->ended[DRILL_AT_SOURCE]);
	add_number(object, "stopped", row->ended[DRILL_STOPPED]);
	add_number(object, "qemu_ended", row->ended[DRILL_QEMU]);
	add_number(object, "wrong", row->ended[DRILL_WRONG]);
	print_object(object);
}

static void show_row(const char *name, const struct drill_row *row, bool qemu, bool json)
{
	if (json) {
		row_object(name, row);
		return;
	}
	printf("%-10s %6u %9u %11" PRIu64 " %10u %10u %8u", name, row->runs, row->happened,
	       row->recoveries, row->ended[DRILL_COMPLETED], row->ended[DRILL_AT_SOURCE],
	       row->ended[DRILL_STOPPED]);
	if (qemu)
		printf(" %11u", row->ended[DRILL_QEMU]);
	printf(" %6u\n", row->ended[DRILL_WRONG]);
}

void drill_show_table(const struct drill_table *table, const uint64_t *wrong, bool qemu, bool json)
{
	if (!json)
		printf("\n%-10s %6s %9s %11s %10s %10s %8s%s %6s\n", "fault", "runs", "happened",
		       "recoveries", "completed", "at source", "stopped",
		       qemu ? "  QEMU ended" : "", "WRONG");
	for (unsigned kind = 0; kind < DRILL_KINDS; kind++)
		if (table->row[kind].runs)
			show_row(drill_kind_name((enum drill_kind)kind), &table->row[kind], qemu,
				 json);
	show_row("all", &table->all, qemu, json);
	for (unsigned i = 0; i < table->all.ended[DRILL_WRONG] && !json; i++)
		printf("%s 0x%016" PRIx64, i ? "" : "\nwrong:", wrong[i]);
	if (table->all.ended[DRILL_WRONG] && !json)
		printf("\n");
}

void drill_show_list(bool json)
{
	for (unsigned kind = 0; kind < DRILL_KINDS; kind++) {
		const char *name = drill_kind_name((enum drill_kind)kind);
		const char *what = drill_kind_what((enum drill_kind)kind);
		json_object *object;

		if (!json) {
			printf("%-10s  %s\n", name, what);
			continue;
		}
		object = json_object_new_object();
		add_string(object, "kind", "fault");
		add_string(object, "fault", name);
		add_string(object, "what", what);
		print_object(object);
	}
}
