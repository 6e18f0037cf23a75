/* SPDX-License-Identifier: MIT */
/*
 * wherry dump: a recorded stream, message by message.
 */
#include "cli/cli.h"

#include <errno.h>
#include <fcntl.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>
#include <wherry/wherry.h>

static const char help[] =
	"usage: wherry dump [--urgent | --return-path | --multifd | --mc]\n"
	"                   [--pages] [--offset N] [--json] FILE\n\n"
	"Prints a recorded migration stream, each message with the offset of its first byte.\n"
	"FILE is - for standard input.\n\n"
	"  --urgent       FILE is an urgent (postcopy-preempt) channel\n"
	"  --return-path  FILE is a return path, destination to source\n"
	"  --multifd      FILE is a channel of multifd\n"
	"  --mc           FILE is what a QEMU of 2014 sent as micro-checkpoints, one direction\n"
	"  --pages        a line for each page, not for each run of pages\n"
	"  --offset N     the stream begins there in FILE\n"
	"  --json         an object for each message, one a line\n"
	"  --help         this text\n\n"
	"Exit status: 0; 1 if the stream is damaged or breaks off, after what can be read of it.\n";

static void print_line(void *opaque, const struct wh_dump_message *message)
{
	(void)opaque;
	printf("%10" PRIx64 "  %s\n", message->offset, message->line);
}

/* Names are bytes, of which JSON takes ASCII as it is; the others are numbered characters */
static json_object *text_object(const char *text)
{
	char utf8[2 * 256 + 1];
	size_t n = 0;

	for (; *text && n < sizeof(utf8) - 2; text++) {
		unsigned char c = (unsigned char)*text;

		if (c >= 0x80)
			utf8[n++] = (char)(0xc0 | c >> 6);
		utf8[n++] = (char)(c >= 0x80 ? 0x80 | (c & 0x3f) : c);
	}
	return json_object_new_string_len(utf8, (int)n);
}

static json_object *field_object(const struct wh_dump_field *field)
{
	char id[17];

	switch (field->form) {
	case WH_DUMP_DECIMAL:
	case WH_DUMP_HEX:
		return json_object_new_uint64(field->number);
	case WH_DUMP_ID:
		snprintf(id, sizeof(id), "%016" PRIx64, field->number);
		return json_object_new_string(id);
	case WH_DUMP_TEXT:
		break;
	}
	return text_object(field->text);
}

static void print_object(void *opaque, const struct wh_dump_message *message)
{
	json_object *object = json_object_new_object();

	(void)opaque;
	json_object_object_add(object, "offset", json_object_new_uint64(message->offset));
	json_object_object_add(object, "kind", json_object_new_string(message->kind));
	if (message->inside)
		json_object_object_add(object, "inside", json_object_new_boolean(true));
	for (unsigned i = 0; i < message->fields; i++)
		json_object_object_add(object, message->field[i].name,
				       field_object(&message->field[i]));
	puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN |
							    JSON_C_TO_STRING_NOSLASHESCAPE));
	json_object_put(object);
}

static int feed(struct wh_dump *dump, int fd, const char *file, uint64_t offset)
{
	bool seeks = lseek(fd, 0, SEEK_CUR) >= 0;
	static char buf[1 << 18];
	struct wh_err err = { 0 };
	uint64_t skip;
	ssize_t n;

	for (;;) {
		n = read(fd, buf, sizeof(buf));
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0) {
			fflush(stdout);
			fprintf(stderr, "wherry dump: %s: read at offset %" PRIu64 ": %s\n", file,
				offset, strerrordesc_np(errno));
			return 1;
		}
		offset += (uint64_t)n;
		/* What came before an error stands before it, where both go to one place. */
		if (n == 0 ? wh_dump_end(dump, &err) : wh_dump_feed(dump, buf, (size_t)n, &err)) {
			fflush(stdout);
			fprintf(stderr, "wherry dump: %s: %s\n", file, err.text);
			return 1;
		}
		if (n == 0)
			return 0;
		skip = seeks ? wh_dump_skip(dump) : 0;
		offset += skip;
		if (skip && lseek(fd, (off_t)offset, SEEK_SET) < 0) {
			fprintf(stderr, "wherry dump: %s: offset %" PRIu64 ": %s\n", file, offset,
				strerrordesc_np(errno));
			return 1;
		}
	}
}

static int dump_file(const char *file, enum wh_dump_kind kind, bool pages, bool json,
		     uint64_t offset)
{
	struct wh_dump *dump;
	struct wh_err err = { 0 };
	int status, fd;

	fd = strcmp(file, "-") ? open(file, O_RDONLY | O_CLOEXEC) : STDIN_FILENO;
	if (fd < 0) {
		fprintf(stderr, "wherry dump: %s: %s\n", file, strerrordesc_np(errno));
		return 1;
	}
	if (wh_dump_new(&dump, kind, pages, json ? print_object : print_line, NULL, &err) < 0) {
		fprintf(stderr, "wherry dump: %s\n", err.text);
		close(fd);
		return 1;
	}
	wh_dump_at(dump, offset);
	status = 1;
	if (offset && lseek(fd, (off_t)offset, SEEK_SET) < 0)
		fprintf(stderr, "wherry dump: %s: offset %" PRIu64 ": %s\n", file, offset,
			strerrordesc_np(errno));
	else
		status = feed(dump, fd, file, offset);
	wh_dump_free(dump);
	close(fd);
	return status;
}

int cmd_dump(int argc, char **argv)
{
	static const struct option options[] = {
		{ "urgent", no_argument, NULL, 'u' },
		{ "return-path", no_argument, NULL, 'r' },
		{ "multifd", no_argument, NULL, 'm' },
		{ "mc", no_argument, NULL, 'c' },
		{ "pages", no_argument, NULL, 'p' },
		{ "offset", required_argument, NULL, 'o' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	enum wh_dump_kind kind = WH_DUMP_STREAM;
	bool pages = false, json = false;
	uint64_t offset = 0;
	int option;

	while ((option = getopt_long(argc, argv, "+urmcpo:jh", options, NULL)) != -1) {
		switch (option) {
		case 'u':
		case 'r':
		case 'm':
		case 'c':
			if (kind != WH_DUMP_STREAM)
				return cli_usage("dump", "--urgent, --return-path, --multifd and "
							 "--mc exclude each other");
			kind = option == 'u' ? WH_DUMP_URGENT :
			       option == 'r' ? WH_DUMP_RETURN_PATH :
			       option == 'm' ? WH_DUMP_MULTIFD :
					       WH_DUMP_MC;
			break;
		case 'p':
			pages = true;
			break;
		case 'o':
			if (cli_number("dump", "offset", optarg, INT64_MAX, &offset))
				return EXIT_USAGE;
			break;
		case 'j':
			json = true;
			break;
		case 'h':
			fputs(help, stdout);
			return 0;
		default:
			return cli_usage("dump", NULL);
		}
	}
	if (argc - optind != 1)
		return cli_usage("dump", "it takes one FILE, not %d", argc - optind);
	return dump_file(argv[optind], kind, pages, json, offset);
}
