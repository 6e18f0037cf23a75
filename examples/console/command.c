/* SPDX-License-Identifier: MIT */
/*
 * Lines of stdin. A command that is refused does no harm and is answered by a sentence.
 */
#include "console.h"

#include <errno.h>
#include <string.h>

#define COMMANDS                                                          \
	"migrate URI, postcopy, cancel, pause, recover URI, resume URI, " \
	"protect URI, unprotect, release, fence, takeover, abandon, quit"

/* Again too, if the guest is here for certain */
static int migrate(struct console *console, const char *uri, struct wh_err *err)
{
	int ret = drive_begin(console, uri, &console->config, err);
	struct wh_err why = *err;

	if (ret == -EBUSY)
		return fail(err, ret, "not now: migrate (%s)", why.text);
	if (ret)
		say_phase(WH_PHASE_FAILED, err->text);
	return 0;
}

static int recover(struct wh_migration *migration, const char *uri, struct wh_err *err)
{
	int ret = wh_recover(migration, uri, err);

	if (!ret)
		say_listening(migration);
	return ret;
}

/* Return: 1 if it is no decision, or there is nothing to be decided */
static int decision(struct wh_protect *protect, const char *word, struct wh_err *err)
{
	static const struct {
		const char *word;
		int (*decide)(struct wh_protect *protect, struct wh_err *err);
	} decisions[] = {
		{ "unprotect", wh_protect_stop },
		{ "release", wh_protect_release },
		{ "fence", wh_protect_fence },
		{ "abandon", wh_protect_abandon },
	};

	if (protect && !strcmp(word, "takeover"))
		return wh_protect_takeover(protect, 0, err);
	for (size_t i = 0; protect && i < sizeof(decisions) / sizeof(decisions[0]); i++)
		if (!strcmp(word, decisions[i].word))
			return decisions[i].decide(protect, err);
	return 1;
}

void command(struct console *console, char *line)
{
	struct wh_migration *migration = console->migration;
	const char *word = strtok(line, " \n");
	const char *uri = strtok(NULL, "\n");
	struct wh_err err = { 0 };
	int ret = 0;

	if (!word)
		return;
	if (!strcmp(word, "quit"))
		console->quitting = true;
	else if (uri && !strcmp(word, "migrate"))
		ret = migrate(console, uri, &err);
	else if (migration && !strcmp(word, "postcopy"))
		ret = wh_start_postcopy(migration, &err);
	else if (migration && !strcmp(word, "cancel"))
		ret = wh_cancel(migration, &err);
	else if (migration && !strcmp(word, "pause"))
		ret = wh_pause(migration, &err);
	else if (migration && uri && !strcmp(word, "resume"))
		ret = wh_resume(migration, uri, &err);
	else if (migration && uri && !strcmp(word, "recover"))
		ret = recover(migration, uri, &err);
	else if (uri && !strcmp(word, "protect"))
		ret = guard_begin(console, uri, NULL, NULL, &err);
	else
		ret = decision(console->protect, word, &err);
	if (ret == 1)
		ret = fail(&err, -EINVAL, "not now: %s (" COMMANDS ")", word);
	if (ret)
		say_log(NULL, WH_LOG_ERROR, err.text);
}
