/* SPDX-License-Identifier: GPL-2.0 */
/* Figures as JSON: every member once, with its value; and a text that is too short. */
#include "kselftest_harness.h"

#include <json-c/json.h>
#include <stdlib.h>
#include <wherry/wherry.h>

#define HEADER "include/wherry/migration.h"
#define MEMBERS (sizeof(struct wh_stats) / sizeof(uint64_t)) /* the phase fills one */
#define TEXT_MAX 4096

/* The header says what there is. Return: how many */
static size_t members_read(char (*names)[32])
{
	FILE *header = fopen(HEADER, "re");
	bool inside = false;
	size_t count = 0;
	char line[256];

	while (header && fgets(line, sizeof(line), header) && count < MEMBERS) {
		if (!strcmp(line, "struct wh_stats {\n"))
			inside = true;
		else if (inside && *line == '}')
			break;
		else if (inside && sscanf(line, " uint64_t %31[a-z0-9_];", names[count]) == 1)
			count++;
	}
	if (header)
		fclose(header);
	return count;
}

/* No two members alike, and each as long as it can be */
static void fill(struct wh_stats *stats)
{
	uint64_t words[MEMBERS];

	for (size_t i = 0; i < MEMBERS; i++)
		words[i] = UINT64_MAX - i;
	memcpy(stats, words, sizeof(*stats));
	stats->phase = WH_PHASE_POSTCOPY;
}

TEST(members)
{
	struct wh_stats stats;
	char names[MEMBERS][32];
	char text[TEXT_MAX];
	json_object *object, *value;
	size_t length;

	ASSERT_EQ(MEMBERS - 1, members_read(names));
	fill(&stats);
	length = wh_stats_json(&stats, text, sizeof(text));
	EXPECT_EQ(strlen(text), length);
	object = json_tokener_parse(text);
	ASSERT_TRUE(json_object_is_type(object, json_type_object)) TH_LOG("%s", text);
	/* json-c keeps one of two that are alike, so that the length tells of both */
	EXPECT_EQ(MEMBERS, json_object_object_length(object));
	EXPECT_EQ(length, strlen(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN)));
	ASSERT_TRUE(json_object_object_get_ex(object, "phase", &value));
	EXPECT_STREQ("postcopy-active", json_object_get_string(value));
	for (size_t i = 1; i < MEMBERS; i++) {
		ASSERT_TRUE(json_object_object_get_ex(object, names[i - 1], &value))
		TH_LOG("%s", names[i - 1]);
		EXPECT_EQ(UINT64_MAX - i, json_object_get_uint64(value)) TH_LOG("%s", names[i - 1]);
	}
	json_object_put(object);
}

/* As snprintf(): always the length of the whole, always a terminated beginning of it */
TEST(short_room)
{
	char whole[TEXT_MAX], text[TEXT_MAX];
	struct wh_stats stats;
	size_t length;

	fill(&stats);
	length = wh_stats_json(&stats, whole, sizeof(whole));
	ASSERT_LT(length, sizeof(whole));
	EXPECT_EQ(length, wh_stats_json(&stats, NULL, 0));
	for (size_t room = 1; room <= length + 2; room++) {
		size_t fits = room <= length ? room - 1 : length;

		memset(text, '#', sizeof(text));
		ASSERT_EQ(length, wh_stats_json(&stats, text, room)) TH_LOG("room for %zu", room);
		ASSERT_EQ(fits, strlen(text)) TH_LOG("room for %zu", room);
		ASSERT_EQ(0, memcmp(text, whole, fits)) TH_LOG("room for %zu", room);
		ASSERT_EQ('#', text[room]) TH_LOG("room for %zu", room);
	}
}

TEST_HARNESS_MAIN
