/* SPDX-License-Identifier: GPL-2.0 */
#include "checkpoint/state.h"

#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include "kselftest_harness.h"

#define PAGE_PATH "Documentation/checkpoint.rst"

static const char *source_name(unsigned state)
{
	return cp_source_state_name(state);
}
static bool source_may(unsigned from, unsigned to)
{
	return cp_source_may(from, to);
}
static bool source_accepts(unsigned state, unsigned kind)
{
	return cp_source_accepts(state, kind);
}
static const char *dest_name(unsigned state)
{
	return cp_dest_state_name(state);
}
static bool dest_may(unsigned from, unsigned to)
{
	return cp_dest_may(from, to);
}
static bool dest_accepts(unsigned state, unsigned kind)
{
	return cp_dest_accepts(state, kind);
}

static const struct end {
	const char *title;
	unsigned states;
	const char *(*name)(unsigned state);
	bool (*may)(unsigned from, unsigned to);
	bool (*accepts)(unsigned state, unsigned kind);
} ends[] = {
	{ "States of the source", CP_SOURCE_STATE_COUNT, source_name, source_may, source_accepts },
	{ "States of the destination", CP_DEST_STATE_COUNT, dest_name, dest_may, dest_accepts },
};

static void print_end(FILE *out, const struct end *end)
{
	fprintf(out, "\n%s\n", end->title);
	for (size_t i = 0; i < strlen(end->title); i++)
		fputc('-', out);
	fputs("\n", out);
	for (unsigned state = 0; state < end->states; state++) {
		const char *between = "";

		fprintf(out, "\n**%s**\n    Leads to: ", end->name(state));
		for (unsigned to = 0; to < end->states; to++) {
			if (!end->may(state, to))
				continue;
			fprintf(out, "%s%s", between, end->name(to));
			between = ", ";
		}
		fprintf(out, "%s.", *between ? "" : "nothing, it is an end");
		between = "";
		fputs(" Heard: ", out);
		for (unsigned kind = 1; kind < CP_KIND_COUNT; kind++) {
			if (!end->accepts(state, kind))
				continue;
			fprintf(out, "%s%s", between, cp_name(kind));
			between = ", ";
		}
		fprintf(out, "%s.%s\n", *between ? "" : "nothing",
			end == ends && cp_source_holds(state) ? " Output is held." : "");
	}
}

static void print_tables(FILE *out)
{
	for (unsigned i = 0; i < 2; i++)
		print_end(out, &ends[i]);
}

/* The page ends with the tables */
TEST(page_has_the_tables)
{
	char *printed = NULL, *page = calloc(1, 1 << 16);
	size_t length = 0, read;
	FILE *out = open_memstream(&printed, &length), *file = fopen(PAGE_PATH, "r");

	ASSERT_NE(NULL, file);
	print_tables(out);
	fclose(out);
	read = fread(page, 1, (1 << 16) - 1, file);
	fclose(file);
	ASSERT_LT(length, read);
	EXPECT_STREQ(printed, page + read - length)
	TH_LOG("print it again: build/selftests/checkpoint/state --print");
	free(printed);
	free(page);
}

/* A state that nothing leads to, or from which there is no way to an end, is a mistake */
TEST(ends_are_reached_from_everywhere)
{
	for (unsigned e = 0; e < 2; e++) {
		const struct end *end = &ends[e];
		uint32_t from_first = 1, to_end = 0, before = 0;

		for (unsigned state = 0; state < end->states; state++) {
			bool leads = false;

			for (unsigned to = 0; to < end->states; to++)
				leads |= end->may(state, to);
			to_end |= (uint32_t)!leads << state;
		}
		while (before != (from_first | to_end << 16)) {
			before = from_first | to_end << 16;
			for (unsigned state = 0; state < end->states; state++)
				for (unsigned to = 0; to < end->states; to++) {
					if (!end->may(state, to))
						continue;
					if (from_first >> state & 1)
						from_first |= 1u << to;
					if (to_end >> to & 1)
						to_end |= 1u << state;
				}
		}
		EXPECT_EQ((1u << end->states) - 1, from_first);
		EXPECT_EQ((1u << end->states) - 1, to_end);
	}
}

/* What the rest stands on, said once more in other words */
TEST(what_must_never_be)
{
	/* nobody leads out of a decision */
	EXPECT_TRUE(cp_source_ended(CP_SOURCE_FENCED));
	EXPECT_TRUE(cp_source_ended(CP_SOURCE_RELEASED));
	EXPECT_TRUE(cp_dest_ended(CP_DEST_TAKEOVER));
	EXPECT_TRUE(cp_dest_ended(CP_DEST_FENCED));
	/* who has nothing cannot run it */
	EXPECT_FALSE(cp_dest_may(CP_DEST_SYNC, CP_DEST_APPLYING));
	/* once decided, nothing is taken that could be acknowledged */
	for (unsigned kind = 1; kind < CP_KIND_COUNT; kind++) {
		EXPECT_EQ(kind == CP_HEARTBEAT, cp_dest_accepts(CP_DEST_APPLYING, kind));
		EXPECT_EQ(kind == CP_HEARTBEAT, cp_dest_accepts(CP_DEST_TAKEOVER, kind));
	}
	/* an acknowledgement is heard where all was said, and nowhere else */
	for (unsigned state = 0; state < CP_SOURCE_STATE_COUNT; state++)
		EXPECT_EQ(state == CP_SOURCE_WAIT_ACK, cp_source_accepts(state, CP_ACK));
	/* a lost peer: held */
	EXPECT_TRUE(cp_source_holds(CP_SOURCE_HOLD));
	EXPECT_TRUE(cp_source_holds(CP_SOURCE_FENCED));
}

TEST(wrong_moves_are_loud)
{
	struct rlimit none = { 0 };
	int status;
	pid_t pid = fork();

	ASSERT_GE(pid, 0);
	if (!pid) {
		enum cp_dest_state state = CP_DEST_SYNC;

		setrlimit(RLIMIT_CORE, &none);
		close(2);
		cp_dest_move(&state, CP_DEST_APPLYING);
		_exit(0);
	}
	ASSERT_EQ(pid, waitpid(pid, &status, 0));
	EXPECT_TRUE(WIFSIGNALED(status) && WTERMSIG(status) == SIGABRT);
}

int main(int argc, char **argv)
{
	if (argc == 2 && !strcmp(argv[1], "--print")) {
		print_tables(stdout);
		return 0;
	}
	return test_harness_run(argc, argv);
}
