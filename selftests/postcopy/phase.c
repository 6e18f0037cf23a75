/* SPDX-License-Identifier: GPL-2.0 */
#include "postcopy/phase.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGE_PATH "Documentation/phases.rst"

/* What a reader needs beside the tables; the tables themselves are asked. */
static const char *const source_about[SOURCE_PHASE_COUNT] = {
	[SOURCE_SETUP] = "Not connected yet.",
	[SOURCE_PRECOPY] = "The guest runs here while rounds of dirty pages go out.",
	[SOURCE_SWITCHOVER] = "The guest is paused here; last pages and device state, or "
			      "discards, go out. It can still be resumed.",
	[SOURCE_HANDOVER] = "Precopy: the batch with the end mark was handed out. From its first "
			    "byte on the destination may start; its SHUT decides.",
	[SOURCE_POSTCOPY] = "The batch with the package was handed out. From its first byte on "
			    "the destination may start: no way back.",
	[SOURCE_ENDING] = "Postcopy: everything was handed out, SHUT is owed.",
	[SOURCE_PAUSED] = "The link broke in postcopy. The guest is stopped here and its memory "
			  "kept: pages left are nowhere else.",
	[SOURCE_RECOVER] = "A new connection: the destination says which pages it has, and all "
			   "others are sent again.",
	[SOURCE_DONE] = "The destination has everything.",
	[SOURCE_FAILED] = "The guest goes on here.",
	[SOURCE_UNKNOWN] = "The destination may have started. The guest stays stopped here.",
	[SOURCE_CANCELLED] = "The guest goes on here.",
};

static const char *const dest_about[DEST_PHASE_COUNT] = {
	[DEST_SETUP] = "Nobody has connected. To paused leads a guest whose agent has died.",
	[DEST_PRECOPY] = "Pages come and are overwritten by later ones.",
	[DEST_ADVISED] = "Postcopy may come: RAM was dropped.",
	[DEST_DISCARD] = "The switch to postcopy has begun: dirty pages are dropped.",
	[DEST_LISTENING] = "Missing pages fault from here on; device state is being loaded.",
	[DEST_LOADING] = "Precopy: device state is being loaded.",
	[DEST_RUNNING] = "Postcopy: the guest runs here and asks for pages.",
	[DEST_ENDING] = "EOF is in; the last pages are on the urgent channel.",
	[DEST_PAUSED] = "The link broke. The guest runs on with the pages it has.",
	[DEST_RECOVER] = "A new connection: the source is told what is here, requests wait.",
	[DEST_DONE] = "The guest is here, all of it.",
	[DEST_FAILED] = "The guest never ran here.",
};

static const char *const public_names[WH_PHASE_COUNT] = {
	[WH_PHASE_SETUP] = "SETUP",
	[WH_PHASE_PRECOPY] = "PRECOPY",
	[WH_PHASE_SWITCHOVER] = "SWITCHOVER",
	[WH_PHASE_POSTCOPY] = "POSTCOPY",
	[WH_PHASE_PAUSED] = "PAUSED",
	[WH_PHASE_RECOVER] = "RECOVER",
	[WH_PHASE_DONE] = "DONE",
	[WH_PHASE_FAILED] = "FAILED",
	[WH_PHASE_UNKNOWN] = "UNKNOWN",
	[WH_PHASE_CANCELLED] = "CANCELLED",
};

/* One end of the migration, as the printer needs it. */
struct end {
	const char *title;
	unsigned phases;
	const char *(*name)(unsigned phase);
	const char *const *about;
	enum wh_phase (*shown)(unsigned phase);
	bool (*may)(unsigned from, unsigned to);
	bool (*ended)(unsigned phase);
	unsigned kinds;
	const char *(*kind_name)(unsigned kind);
	bool (*accepts)(unsigned phase, unsigned kind);
	bool (*pages)(unsigned phase);
};

static const char *source_name(unsigned phase)
{
	return source_phase_name(phase);
}
static enum wh_phase source_shown(unsigned phase)
{
	return source_phase_public(phase);
}
static bool source_may(unsigned from, unsigned to)
{
	return source_phase_may(from, to);
}
static bool source_ended(unsigned phase)
{
	return source_phase_ended(phase);
}
static const char *source_kind(unsigned kind)
{
	return rp_name(kind);
}
static bool source_accepts(unsigned phase, unsigned kind)
{
	return source_phase_accepts(phase, kind);
}

static const char *dest_name(unsigned phase)
{
	return dest_phase_name(phase);
}
static enum wh_phase dest_shown(unsigned phase)
{
	return dest_phase_public(phase);
}
static bool dest_may(unsigned from, unsigned to)
{
	return dest_phase_may(from, to);
}
static bool dest_ended(unsigned phase)
{
	return dest_phase_ended(phase);
}
static const char *dest_kind(unsigned kind)
{
	return cmd_name(kind);
}
static bool dest_accepts(unsigned phase, unsigned kind)
{
	return dest_phase_accepts(phase, kind);
}
static bool dest_pages(unsigned phase)
{
	return dest_phase_accepts_pages(phase);
}

static const struct end ends[] = {
	{ "The source", SOURCE_PHASE_COUNT, source_name, source_about, source_shown, source_may,
	  source_ended, RP_COUNT, source_kind, source_accepts, NULL },
	{ "The destination", DEST_PHASE_COUNT, dest_name, dest_about, dest_shown, dest_may,
	  dest_ended, CMD_COUNT, dest_kind, dest_accepts, dest_pages },
};

static const char preface[] =
	"Phases\n"
	"======\n"
	"\n"
	".. This page is printed from the tables in postcopy/phase.c by\n"
	"   selftests/postcopy/phase --print; make check compares the two.\n"
	"\n"
	"Each end of a migration is in one phase at a time. Where it can go from there and\n"
	"what the other end may say meanwhile is in one table for each end. A move that is\n"
	"not in the table is a bug of this library and stops the program; a message that is\n"
	"not in the table is refused with ``-EPROTO`` and a sentence. A lost link is neither:\n"
	"it leads to the phase that keeps the guest in one place.\n"
	"\n"
	"*Shown as* is the ``WH_PHASE_`` that a VMM sees.\n";

static void print_end(FILE *out, const struct end *end)
{
	fprintf(out, "\n%s\n", end->title);
	for (size_t i = 0; i < strlen(end->title); i++)
		fputc('-', out);
	fputs("\n", out);
	for (unsigned phase = 0; phase < end->phases; phase++) {
		const char *between = "";

		fprintf(out, "\n**%s** (shown as %s)\n    %s\n\n", end->name(phase),
			public_names[end->shown(phase)], end->about[phase]);
		fputs("    Leads to: ", out);
		for (unsigned to = 0; to < end->phases; to++) {
			if (!end->may(phase, to))
				continue;
			fprintf(out, "%s%s", between, end->name(to));
			between = ", ";
		}
		fputs(*between ? ".\n" : "nothing, it is an end.\n", out);
		if (end->ended(phase))
			continue;
		between = "";
		fputs("    Heard: ", out);
		for (unsigned kind = 1; kind < end->kinds; kind++) {
			if (!end->accepts(phase, kind))
				continue;
			fprintf(out, "%s%s", between, end->kind_name(kind));
			between = ", ";
		}
		if (end->pages && end->pages(phase)) {
			fprintf(out, "%spages", between);
			between = ", ";
		}
		fputs(*between ? ".\n" : "nothing.\n", out);
	}
}

static void print_page(FILE *out)
{
	fputs(preface, out);
	for (unsigned i = 0; i < 2; i++)
		print_end(out, &ends[i]);
}

TEST(page_is_printed_from_the_tables)
{
	char *want, *have;
	size_t want_length, have_length;
	FILE *out = open_memstream(&want, &want_length);
	FILE *in = fopen(PAGE_PATH, "r");

	ASSERT_NE(NULL, in);
	print_page(out);
	fclose(out);
	have = calloc(1, want_length + 2);
	have_length = fread(have, 1, want_length + 1, in);
	fclose(in);
	EXPECT_EQ(want_length, have_length);
	EXPECT_STREQ(want, have)
	{
		TH_LOG(PAGE_PATH " differs: build/selftests/postcopy/phase --print > " PAGE_PATH);
	}
	free(want);
	free(have);
}

TEST(names_are_there_and_differ)
{
	for (unsigned e = 0; e < 2; e++) {
		for (unsigned i = 0; i < ends[e].phases; i++) {
			ASSERT_NE(NULL, ends[e].name(i));
			ASSERT_NE(NULL, ends[e].about[i]);
			for (unsigned j = 0; j < i; j++)
				EXPECT_STRNE(ends[e].name(i), ends[e].name(j));
		}
	}
}

/* A table with a bit beyond the last phase would be a shift gone wrong. */
TEST(every_phase_is_reached_and_every_end_is_one)
{
	for (unsigned e = 0; e < 2; e++) {
		bool reached[32] = { true };

		for (unsigned pass = 0; pass < ends[e].phases; pass++)
			for (unsigned from = 0; from < ends[e].phases; from++)
				for (unsigned to = 0; to < ends[e].phases; to++)
					if (reached[from] && ends[e].may(from, to))
						reached[to] = true;
		for (unsigned i = 0; i < ends[e].phases; i++) {
			enum wh_phase shown = ends[e].shown(i);
			bool end = shown == WH_PHASE_DONE || shown == WH_PHASE_FAILED ||
				   shown == WH_PHASE_UNKNOWN || shown == WH_PHASE_CANCELLED;

			EXPECT_TRUE(reached[i])
			{
				TH_LOG("%s", ends[e].name(i));
			}
			EXPECT_EQ(end, ends[e].ended(i))
			{
				TH_LOG("%s", ends[e].name(i));
			}
			EXPECT_FALSE(ends[e].may(i, i));
		}
	}
}

/* The promises of the whole design, said once more apart from the table. */
TEST(no_way_back)
{
	for (unsigned to = 0; to < SOURCE_PHASE_COUNT; to++) {
		EXPECT_EQ(to == SOURCE_ENDING || to == SOURCE_PAUSED,
			  source_phase_may(SOURCE_POSTCOPY, to));
		EXPECT_EQ(to == SOURCE_DONE || to == SOURCE_PAUSED,
			  source_phase_may(SOURCE_ENDING, to));
		EXPECT_EQ(to == SOURCE_DONE || to == SOURCE_FAILED || to == SOURCE_UNKNOWN,
			  source_phase_may(SOURCE_HANDOVER, to));
		/* out of a break only forward, and never to where the guest is resumed */
		EXPECT_EQ(to == SOURCE_RECOVER, source_phase_may(SOURCE_PAUSED, to));
		EXPECT_EQ(to == SOURCE_POSTCOPY || to == SOURCE_PAUSED,
			  source_phase_may(SOURCE_RECOVER, to));
	}
	for (unsigned from = 0; from < DEST_PHASE_COUNT; from++)
		EXPECT_EQ(from == DEST_SETUP || from == DEST_PRECOPY || from == DEST_ADVISED ||
				  from == DEST_DISCARD || from == DEST_LISTENING ||
				  from == DEST_LOADING,
			  dest_phase_may(from, DEST_FAILED));
	/* the guest runs: nothing of before it is possible any more */
	for (unsigned to = 0; to < DEST_PHASE_COUNT; to++)
		EXPECT_EQ(to == DEST_RECOVER, dest_phase_may(DEST_PAUSED, to));
}

TEST(who_may_speak_when)
{
	for (unsigned phase = 0; phase < SOURCE_PHASE_COUNT; phase++) {
		bool postcopy = phase == SOURCE_POSTCOPY || phase == SOURCE_ENDING;

		EXPECT_EQ(postcopy, source_phase_accepts(phase, RP_REQ_PAGES));
		EXPECT_EQ(postcopy, source_phase_accepts(phase, RP_REQ_PAGES_ID));
		EXPECT_EQ(!source_phase_ended(phase) && phase != SOURCE_SETUP &&
				  phase != SOURCE_PAUSED && phase != SOURCE_RECOVER,
			  source_phase_accepts(phase, RP_SHUT));
		EXPECT_EQ(phase == SOURCE_RECOVER, source_phase_accepts(phase, RP_RECV_BITMAP));
		EXPECT_EQ(phase == SOURCE_RECOVER, source_phase_accepts(phase, RP_RESUME_ACK));
	}
	for (unsigned phase = 0; phase < DEST_PHASE_COUNT; phase++) {
		EXPECT_EQ(phase == DEST_PRECOPY, dest_phase_accepts(phase, CMD_POSTCOPY_ADVISE));
		EXPECT_EQ(phase == DEST_ADVISED || phase == DEST_DISCARD,
			  dest_phase_accepts(phase, CMD_POSTCOPY_RAM_DISCARD));
		EXPECT_EQ(phase == DEST_LISTENING, dest_phase_accepts(phase, CMD_POSTCOPY_RUN));
		EXPECT_FALSE(dest_phase_accepts(phase, CMD_ENABLE_COLO));
		EXPECT_EQ(phase == DEST_RECOVER, dest_phase_accepts(phase, CMD_RECV_BITMAP));
		EXPECT_EQ(phase == DEST_RECOVER, dest_phase_accepts(phase, CMD_POSTCOPY_RESUME));
	}
}

/* Does a child survive this move? */
static bool survives(unsigned end, unsigned from, unsigned to)
{
	struct rlimit no_core = { 0 };
	int status;
	pid_t pid = fork();

	if (!pid) {
		enum source_phase source = from;
		enum dest_phase dest = from;

		setrlimit(RLIMIT_CORE, &no_core);
		fclose(stderr); /* assert() has its say there */
		if (end == 0)
			source_phase_move(&source, to);
		else
			dest_phase_move(&dest, to);
		_exit((end == 0 ? (unsigned)source : (unsigned)dest) == to ? 0 : 1);
	}
	waitpid(pid, &status, 0);
	return WIFEXITED(status) && WEXITSTATUS(status) == 0;
}

TEST(a_wrong_move_is_loud)
{
	for (unsigned e = 0; e < 2; e++) {
		for (unsigned from = 0; from < ends[e].phases; from++) {
			for (unsigned to = 0; to < ends[e].phases; to++) {
				EXPECT_EQ(ends[e].may(from, to), survives(e, from, to))
				{
					TH_LOG("%s: %s to %s", ends[e].title, ends[e].name(from),
					       ends[e].name(to));
				}
			}
		}
	}
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--print")) {
		print_page(stdout);
		return 0;
	}
	return test_harness_run(argc, argv);
}
