/* SPDX-License-Identifier: MIT */
/*
 * wherry check: what this machine can do. A table, or one JSON object.
 */
#include "cli/cli.h"

#include <getopt.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <wherry/wherry.h>

static const char help[] =
	"usage: wherry check [--json]\n\n"
	"Tries what this machine can do, and says how to get what is missing. Changes nothing.\n\n"
	"  --json  one JSON object\n"
	"  --help  this text\n\n"
	"Exit status: 0; 1 if something is missing without which nothing migrates.\n";

static void print_row(void *opaque, const struct wh_check_item *item)
{
	char *area = opaque;

	if (strcmp(area, item->area)) {
		printf("%s%s\n", area[0] ? "\n" : "", item->area);
		snprintf(area, 64, "%s", item->area);
	}
	printf("  %-8s%-26s %s\n",
	       item->present ? "ok" :
	       item->needed  ? "MISSING" :
			       "missing",
	       item->name, item->detail);
	if (!item->present && item->remedy[0])
		printf("  %-8s%-26s   get it: %s\n", "", "", item->remedy);
}

static void add_row(void *opaque, const struct wh_check_item *item)
{
	struct json_object *row = json_object_new_object();

	json_object_object_add(row, "area", json_object_new_string(item->area));
	json_object_object_add(row, "name", json_object_new_string(item->name));
	json_object_object_add(row, "present", json_object_new_boolean(item->present));
	json_object_object_add(row, "needed", json_object_new_boolean(item->needed));
	json_object_object_add(row, "detail", json_object_new_string(item->detail));
	json_object_object_add(row, "remedy", json_object_new_string(item->remedy));
	json_object_array_add(opaque, row);
}

static int check_json(void)
{
	struct json_object *top = json_object_new_object();
	struct json_object *items = json_object_new_array();
	int missing = wh_check(add_row, items);

	json_object_object_add(top, "version", json_object_new_string(wh_version()));
	json_object_object_add(top, "needed-missing", json_object_new_int(missing));
	json_object_object_add(top, "items", items);
	printf("%s\n", json_object_to_json_string_ext(top, JSON_C_TO_STRING_PLAIN |
								   JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(top);
	return missing;
}

static int check_table(void)
{
	char area[64] = "";
	int missing = wh_check(print_row, area);

	if (missing)
		printf("\n%d needed thing%s missing: nothing migrates here.\n", missing,
		       missing == 1 ? " is" : "s are");
	else
		printf("\nAll that is needed is here.\n");
	return missing;
}

int cmd_check(int argc, char **argv)
{
	static const struct option options[] = {
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	bool json = false;
	int option;

	while ((option = getopt_long(argc, argv, "+jh", options, NULL)) != -1) {
		switch (option) {
		case 'j':
			json = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return cli_usage("check", NULL);
		}
	}
	if (optind < argc)
		return cli_usage("check", "it takes no argument, not '%s'", argv[optind]);
	return (json ? check_json() : check_table()) ? 1 : 0;
}
