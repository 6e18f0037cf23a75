/* SPDX-License-Identifier: MIT */
/*
 * wherry protect: a guest gets a replica, through the monitors of both, and is watched.
 */
#include "cli/cli.h"
#include "cli/qmpcall.h"

#include <errno.h>
#include <getopt.h>
#include <inttypes.h>
#include <json-c/json.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <unistd.h>

#define LOOK_MS 200

static const char help[] =
	"usage: wherry protect [option]... PRIMARY REPLICA\n\n"
	"Has the guest of one VMM protected by another one that is to be its replica, both named\n"
	"by the sockets of their QMP monitors; waits until it is protected, and tells how it goes\n"
	"on until that ends. It decides nothing, but for what it is told to:\n\n"
	"  --takeover       the replica takes over when it misses the primary and the primary's\n"
	"                   monitor is gone, too\n"
	"  --release        the primary goes on alone when it misses the replica and the replica's\n"
	"                   monitor is gone, too\n"
	"  --interval MS    between checkpoints (as the guest needs it)\n"
	"  --pulse-uri URI  where the replica has its second connection, if it is elsewhere\n"
	"  --once           end as soon as it is protected\n"
	"  --json           an object a line\n"
	"  --help           this text\n\n"
	"Exit status: 0 protected (--once), stopped in order, or the replica has taken over; 1 the\n"
	"guest is not protected and nobody wanted that; 2 usage.\n";

struct side {
	const char *name;
	const char *socket;
	struct qmpcall call;
	bool open;
	struct json_object *info; /* its last query-checkpoint */
};

struct protect {
	struct side primary, replica;
	bool takeover, release, once, json, terminal;
	uint64_t interval_ms;
	const char *pulse_uri;
	bool complete; /* it was said that it is protected */
	bool decided;
	unsigned shown;
};

static const char *state_of(const struct side *side)
{
	return side->open ? qmpcall_text(side->info, "state") : "gone";
}

static bool is(const struct side *side, const char *state)
{
	return !strcmp(state_of(side), state);
}

static uint64_t figure(const struct side *side, const char *name)
{
	struct json_object *value;

	return json_object_is_type(side->info, json_type_object) &&
			       json_object_object_get_ex(side->info, name, &value) ?
		       json_object_get_uint64(value) :
		       0;
}

static void say(struct protect *p, const char *text)
{
	struct json_object *object;

	if (p->json) {
		object = json_object_new_object();
		json_object_object_add(object, "event", json_object_new_string(text));
		puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
		json_object_put(object);
	} else {
		printf("%s%*s%s%s\n", p->shown ? "\r" : "", (int)p->shown, "", p->shown ? "\r" : "",
		       text);
	}
	p->shown = 0;
	fflush(stdout);
}

/* A monitor that does not answer any more is gone, and so is its process */
static void look(struct protect *p, struct side *side)
{
	struct wh_err err = { 0 };
	char text[400];

	if (!side->open)
		return;
	json_object_put(side->info);
	side->info = NULL;
	if (!qmpcall_execute(&side->call, "query-checkpoint", NULL, &side->info, &err))
		return;
	snprintf(text, sizeof(text), "%s: its monitor is gone: %s", side->name, err.text);
	say(p, text);
	qmpcall_close(&side->call);
	side->open = false;
}

static void show(struct protect *p)
{
	const struct side *at = p->primary.open ? &p->primary : &p->replica;
	struct json_object *object;
	char text[200];

	if (p->json) {
		object = json_object_new_object();
		json_object_object_add(object, "primary", json_object_get(p->primary.info));
		json_object_object_add(object, "replica", json_object_get(p->replica.info));
		puts(json_object_to_json_string_ext(object, JSON_C_TO_STRING_PLAIN));
		json_object_put(object);
		fflush(stdout);
		return;
	}
	snprintf(text, sizeof(text),
		 "%s / %s  %" PRIu64 " checkpoints  stop %.2f ms  answer %.2f ms  dirty %.1f MiB"
		 "  held %" PRIu64 " packets",
		 state_of(&p->primary), state_of(&p->replica), figure(at, "checkpoints"),
		 (double)figure(at, "stop_ns") / 1e6, (double)figure(at, "ack_ns") / 1e6,
		 (double)figure(at, "dirty_bytes") / (1 << 20), figure(at, "held_packets"));
	if (!p->terminal) {
		printf("%s\n", text);
	} else {
		printf("\r%*s\r%s", (int)p->shown, "", text);
		p->shown = (unsigned)strlen(text);
	}
	fflush(stdout);
}

static int fail(struct wh_err *err, int code, const char *text)
{
	err->code = code;
	snprintf(err->text, sizeof(err->text), "%s", text);
	return code;
}

static struct json_object *number(const char *name, uint64_t value)
{
	struct json_object *arguments = json_object_new_object();

	json_object_object_add(arguments, name, json_object_new_uint64(value));
	return arguments;
}

/* Unless it is protected already: then there is only something to be watched */
static int begin(struct protect *p, struct wh_err *err)
{
	const char *address = qmpcall_text(p->replica.info, "address");
	bool is_free = is(&p->primary, "none") || is(&p->primary, "released") ||
		       is(&p->primary, "takeover");
	struct json_object *arguments;

	if (!is_free && strcmp(qmpcall_text(p->primary.info, "role"), "source") != 0)
		return fail(err, -EBUSY, "the primary is a replica itself");
	if (p->interval_ms && qmpcall_execute(&p->primary.call, "migrate-set-mc-delay",
					      number("value", p->interval_ms), NULL, err))
		return err->code;
	if (!is_free)
		return 0;
	if (!is(&p->replica, "setup") || !*address)
		return fail(err, -EBUSY, "it does not wait to be a replica");
	arguments = json_object_new_object();
	json_object_object_add(arguments, "uri", json_object_new_string(address));
	if (p->pulse_uri)
		json_object_object_add(arguments, "pulse-uri",
				       json_object_new_string(p->pulse_uri));
	return qmpcall_execute(&p->primary.call, "checkpoint-start", arguments, NULL, err);
}

/* What we were told to decide, once */
static int decide(struct protect *p, struct wh_err *err)
{
	struct json_object *force;

	if (p->decided)
		return 0;
	if (p->takeover && !p->primary.open && is(&p->replica, "suspect")) {
		p->decided = true;
		say(p, "replica: is to take over");
		return qmpcall_execute(&p->replica.call, "checkpoint-takeover", NULL, NULL, err);
	}
	if (p->release && !p->replica.open && is(&p->primary, "hold")) {
		p->decided = true;
		say(p, "primary: is to go on alone");
		force = json_object_new_object();
		json_object_object_add(force, "force", json_object_new_boolean(true));
		return qmpcall_execute(&p->primary.call, "checkpoint-stop", force, NULL, err);
	}
	return 0;
}

/* Return: 1 it goes on; 0 it has ended as it should; or a negative errno and a sentence */
static int state(struct protect *p, struct wh_err *err)
{
	const char *reason = qmpcall_text(p->primary.info, "reason");

	if (!p->complete && figure(&p->primary, "checkpoints")) {
		p->complete = true;
		say(p, "the guest is protected");
	}
	if (p->complete && p->once)
		return 0;
	if (is(&p->replica, "takeover")) {
		say(p, "the guest runs at the replica");
		return 0;
	}
	if (is(&p->primary, "released") && p->complete) {
		say(p, "the guest runs at the primary, without protection");
		return 0;
	}
	if (is(&p->primary, "released"))
		return fail(err, -EIO, *reason ? reason : "the guest is not protected");
	if (is(&p->primary, "fenced"))
		return fail(err, -EIO, *reason ? reason : "the primary has given the guest up");
	if (!p->primary.open && (!p->replica.open || is(&p->replica, "fenced")))
		return fail(err, -EIO, "nobody has the guest");
	return 1;
}

static int watch(struct protect *p, struct wh_err *err)
{
	const struct timespec pause = { .tv_nsec = LOOK_MS * 1000000L };
	int ret = 1;

	while (ret == 1) {
		look(p, &p->primary);
		look(p, &p->replica);
		ret = decide(p, err);
		if (!ret)
			ret = state(p, err);
		show(p);
		if (ret == 1)
			nanosleep(&pause, NULL);
		if (ferror(stdout))
			return 0; /* cli_finish() says so */
	}
	if (p->shown)
		putchar('\n');
	return ret;
}

static int side_open(struct side *side, struct wh_err *err)
{
	int ret = qmpcall_open(&side->call, side->socket, err);

	if (ret)
		return ret;
	side->open = true;
	return qmpcall_execute(&side->call, "query-checkpoint", NULL, &side->info, err);
}

static void side_close(struct side *side)
{
	json_object_put(side->info);
	if (side->open)
		qmpcall_close(&side->call);
}

static int protect(struct protect *p)
{
	struct wh_err err = { 0 };
	const char *who = p->primary.socket;
	int ret = side_open(&p->primary, &err);

	if (!ret) {
		who = p->replica.socket;
		ret = side_open(&p->replica, &err);
	}
	if (!ret)
		ret = begin(p, &err);
	if (!ret) {
		who = "protection";
		ret = watch(p, &err);
	}
	side_close(&p->primary);
	side_close(&p->replica);
	if (!ret)
		return 0;
	fflush(stdout);
	fprintf(stderr, "wherry protect: %s: %s\n", who, err.text);
	return 1;
}

int cmd_protect(int argc, char **argv)
{
	static const struct option names[] = {
		{ "takeover", no_argument, NULL, 't' },
		{ "release", no_argument, NULL, 'r' },
		{ "interval", required_argument, NULL, 'i' },
		{ "pulse-uri", required_argument, NULL, 'p' },
		{ "once", no_argument, NULL, 'o' },
		{ "json", no_argument, NULL, 'j' },
		{ "help", no_argument, NULL, 'h' },
		{ NULL, 0, NULL, 0 },
	};
	static struct protect p = { .primary.name = "primary", .replica.name = "replica" };
	int option;

	while ((option = getopt_long(argc, argv, "h", names, NULL)) != -1) {
		if (option == 't')
			p.takeover = true;
		else if (option == 'r')
			p.release = true;
		else if (option == 'o')
			p.once = true;
		else if (option == 'j')
			p.json = true;
		else if (option == 'p')
			p.pulse_uri = optarg;
		else if (option == 'h')
			return fputs(help, stdout) < 0;
		else if (option != 'i')
			return cli_usage("protect", NULL);
		else if (cli_number("protect", "interval", optarg, 10000, &p.interval_ms))
			return EXIT_USAGE;
	}
	if (argc - optind != 2)
		return cli_usage("protect", "it takes PRIMARY and REPLICA, not %d arguments",
				 argc - optind);
	p.primary.socket = argv[optind];
	p.replica.socket = argv[optind + 1];
	p.terminal = !p.json && isatty(STDOUT_FILENO);
	return protect(&p);
}
