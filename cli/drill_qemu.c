/* SPDX-License-Identifier: MIT */
/*
 * wherry drill: one end that is a QEMU. A process of ours stands beside it, takes the
 * operator's orders as drill_end.c does, and says them in QMP; so the operator need not know.
 *
 * A QEMU whose monitor has asked for a page that is missing does not hear its monitor until
 * the page is there. So reading memory has a monitor of its own, and orders that lead out of
 * a pause are given out of band, which is what QEMU has that for.
 */
#include "cli/drill_qemu.h"

#include "cli/qmpcall.h"

#include <arpa/inet.h>
#include <errno.h>
#include <fcntl.h>
#include <json-c/json.h>
#include <netinet/in.h>
#include <poll.h>
#include <signal.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/socket.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

#define MIB (1u << 20)
#define TURN_MS 20
#define STARTS_AGAIN_MS 2000 /* its guest, when a migration has failed */
#define RESUME_MS 300	     /* until it tells that it recovers */
#define TOUCH_PAGES 16u

struct qemu_end {
	const struct drill_plan *plan;
	const char *folder;
	int fd;
	struct drill_shared *shared;
	struct drill_qemu qemu;
	bool gone;
	struct qmpcall control;
	struct qmpcall touch;
	pthread_t toucher;
	bool touching;
	bool touch_stop; /* atomic */
	enum wh_phase phase;
	uint64_t resume_ms;	  /* told to, then; 0 */
	struct drill_guest guest; /* without its threads: what memory has to be */
};

static void say(const struct qemu_end *end, struct drill_note *note)
{
	if (note->what != DRILL_NOTHING)
		note->phase = end->phase;
	if (send(end->fd, note, sizeof(*note), MSG_NOSIGNAL) != sizeof(*note))
		_exit(1); /* nobody to tell */
}

static void moved(struct qemu_end *end, enum wh_phase phase, const char *text)
{
	struct drill_note note = { .what = DRILL_NOTHING, .phase = phase };

	snprintf(note.text, sizeof(note.text), "%s", text);
	end->phase = phase;
	__atomic_store_n(&end->shared->phase[end->plan->qemu], phase, __ATOMIC_SEQ_CST);
	say(end, &note);
}

/* It has ended by itself, which the operator judges. */
static void has_gone(struct qemu_end *end)
{
	struct drill_note note = { .what = DRILL_GONE };
	int status;
	size_t n;

	if (end->gone)
		return;
	end->gone = true;
	status = drill_qemu_end(&end->qemu);
	if (WIFSIGNALED(status))
		snprintf(note.text, sizeof(note.text), "%s: ", strsignal(WTERMSIG(status)));
	else
		snprintf(note.text, sizeof(note.text), "status %d: ", WEXITSTATUS(status));
	n = strlen(note.text);
	drill_qemu_said(&end->qemu, note.text + n, sizeof(note.text) - n);
	say(end, &note);
}

static struct json_object *one(const char *name, struct json_object *value)
{
	struct json_object *object = json_object_new_object();

	json_object_object_add(object, name, value);
	return object;
}

static struct json_object *uri_of(const char *uri)
{
	return one("uri", json_object_new_string(uri));
}

static int capability(struct qemu_end *end, const char *name, struct wh_err *err)
{
	struct json_object *list = json_object_new_array();
	struct json_object *entry = one("capability", json_object_new_string(name));

	json_object_object_add(entry, "state", json_object_new_boolean(true));
	json_object_array_add(list, entry);
	return qmpcall_execute(&end->control, "migrate-set-capabilities", one("capabilities", list),
			       NULL, err);
}

static int parameter(struct qemu_end *end, const char *name, uint64_t value, struct wh_err *err)
{
	return qmpcall_execute(&end->control, "migrate-set-parameters",
			       one(name, json_object_new_uint64(value)), NULL, err);
}

static int configure(struct qemu_end *end, struct wh_err *err)
{
	const struct drill_plan *plan = end->plan;
	int ret = capability(end, "events", err);

	if (!ret)
		ret = capability(end, plan->postcopy ? "postcopy-ram" : "return-path", err);
	if (!ret && plan->urgent != WH_URGENT_OFF)
		ret = capability(end, "postcopy-preempt", err);
	if (!ret && plan->postcopy)
		ret = parameter(end, "downtime-limit", 1, err);
	if (!ret)
		ret = parameter(end, "max-bandwidth", plan->bandwidth, err);
	return ret ? ret : parameter(end, "max-postcopy-bandwidth", plan->postcopy_bandwidth, err);
}

/* Somewhere that it can be told to listen: it does not tell which port it took */
static void with_port(char *uri)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	socklen_t length = sizeof(at);
	int fd;

	if (strcmp(uri, "tcp:127.0.0.1:0") != 0)
		return;
	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (fd >= 0 && bind(fd, (struct sockaddr *)&at, sizeof(at)) == 0 &&
	    getsockname(fd, (struct sockaddr *)&at, &length) == 0)
		snprintf(uri, DRILL_URI, "tcp:127.0.0.1:%u", ntohs(at.sin_port));
	if (fd >= 0)
		close(fd);
}

static int save(struct qmpcall *call, const char *path, uint64_t from, uint64_t bytes,
		struct wh_err *err)
{
	struct json_object *arguments = one("val", json_object_new_uint64(from));

	json_object_object_add(arguments, "size", json_object_new_uint64(bytes));
	json_object_object_add(arguments, "filename", json_object_new_string(path));
	return qmpcall_execute(call, "pmemsave", arguments, NULL, err);
}

/* As a guest that reads here and there; what is missing QEMU asks for */
static void *touch_main(void *arg)
{
	struct qemu_end *end = arg;
	const struct timespec pace = { .tv_nsec = (long)end->plan->pace_us * 1000 };
	struct drill_random random = { .state = end->plan->seed };
	char path[DRILL_PATH];
	struct wh_err err;

	snprintf(path, sizeof(path), "%s/touched", end->folder);
	while (!__atomic_load_n(&end->touch_stop, __ATOMIC_ACQUIRE)) {
		uint64_t page = drill_pick(&random, end->guest.pages - TOUCH_PAGES);

		if (save(&end->touch, path, page * DRILL_PAGE,
			 (1 + drill_pick(&random, TOUCH_PAGES)) * DRILL_PAGE, &err) < 0)
			break;
		nanosleep(&pace, NULL);
	}
	unlink(path);
	return NULL;
}

static void touch_begin(struct qemu_end *end)
{
	if (end->plan->qemu == DRILL_DEST && !end->touching && end->guest.pages > TOUCH_PAGES)
		end->touching = !pthread_create(&end->toucher, NULL, touch_main, end);
}

/* All pages are there: it waits for none */
static void touch_end(struct qemu_end *end)
{
	__atomic_store_n(&end->touch_stop, true, __ATOMIC_RELEASE);
	if (end->touching)
		pthread_join(end->toucher, NULL);
	end->touching = false;
}

static bool phase_of(const char *status, enum wh_phase *phase)
{
	static const struct {
		const char *status;
		enum wh_phase phase;
	} names[] = {
		{ "active", WH_PHASE_PRECOPY },
		{ "device", WH_PHASE_SWITCHOVER },
		{ "postcopy-active", WH_PHASE_POSTCOPY },
		{ "postcopy-paused", WH_PHASE_PAUSED },
		{ "postcopy-recover-setup", WH_PHASE_RECOVER },
		{ "postcopy-recover", WH_PHASE_RECOVER },
		{ "completed", WH_PHASE_DONE },
		{ "failed", WH_PHASE_FAILED },
		{ "cancelled", WH_PHASE_CANCELLED },
	};

	for (size_t i = 0; i < sizeof(names) / sizeof(names[0]); i++)
		if (!strcmp(status, names[i].status)) {
			*phase = names[i].phase;
			return true;
		}
	return false;
}

/* The source's guest is said to be running before it is looked whether it runs elsewhere. */
static void guest_runs(struct qemu_end *end, bool runs)
{
	enum drill_side side = end->plan->qemu;

	__atomic_store_n(&end->shared->runs[side], runs, __ATOMIC_SEQ_CST);
	if (runs && __atomic_load_n(&end->shared->runs[!side], __ATOMIC_SEQ_CST))
		__atomic_store_n(&end->shared->ran_twice, 1, __ATOMIC_SEQ_CST);
}

/* Return: the status, for a phase to be told; with STOP and RESUME nothing is */
static bool take_event(struct qemu_end *end, struct json_object *event, enum wh_phase *phase)
{
	const char *name = qmpcall_text(event, "event");
	struct json_object *data = NULL;

	if (!strcmp(name, "STOP") || !strcmp(name, "RESUME"))
		guest_runs(end, *name == 'R');
	if (strcmp(name, "MIGRATION") != 0 || !json_object_object_get_ex(event, "data", &data))
		return false;
	return phase_of(qmpcall_text(data, "status"), phase);
}

/* A guest starts some time after its QEMU has told that the migration failed, or the QEMU ends. */
static void await_guest(struct qemu_end *end, struct wh_err *err)
{
	const uint32_t *runs = &end->shared->runs[end->plan->qemu];
	uint64_t until = qmpcall_now_ms() + STARTS_AGAIN_MS;
	struct json_object *event;
	enum wh_phase phase;
	int ret = 0;

	while (!__atomic_load_n(runs, __ATOMIC_SEQ_CST) && qmpcall_now_ms() < until && ret >= 0) {
		ret = qmpcall_event(&end->control, TURN_MS, &event, err);
		if (ret == 1) {
			(void)take_event(end, event, &phase);
			json_object_put(event);
		}
	}
}

/* A failed migration is told of when it is known what became of the guest, and with the reason */
static void hear_failed(struct qemu_end *end, char *why, size_t room)
{
	struct json_object *info = NULL;
	struct wh_err err = { 0 };

	if (end->plan->qemu == DRILL_SOURCE &&
	    !qmpcall_execute(&end->control, "query-migrate", NULL, &info, &err)) {
		snprintf(why, room, "%s", qmpcall_text(info, "error-desc"));
		json_object_put(info);
	}
	if (end->plan->qemu == DRILL_SOURCE || end->phase == WH_PHASE_POSTCOPY)
		await_guest(end, &err);
	if (end->plan->qemu == DRILL_DEST)
		drill_qemu_said(&end->qemu, why, room);
}

static void hear(struct qemu_end *end)
{
	struct json_object *event;
	struct wh_err err = { 0 };
	enum wh_phase phase;
	char why[160] = "";
	bool told;
	int ret;

	while ((ret = qmpcall_event(&end->control, 0, &event, &err)) == 1) {
		told = take_event(end, event, &phase);
		json_object_put(event);
		if (!told)
			continue;
		end->resume_ms = 0;
		if (phase == WH_PHASE_POSTCOPY)
			touch_begin(end);
		if (phase == WH_PHASE_FAILED)
			hear_failed(end, why, sizeof(why));
		else if (phase == WH_PHASE_CANCELLED && end->plan->qemu == DRILL_SOURCE)
			await_guest(end, &err);
		moved(end, phase, why);
	}
	if (ret < 0)
		has_gone(end);
}

static int64_t verify(struct qemu_end *end, char *text, size_t room, struct wh_err *err)
{
	struct drill_guest *guest = &end->guest;
	uint64_t bytes = guest->pages * DRILL_PAGE, first;
	char path[DRILL_PATH];
	int64_t wrong;
	int fd;

	touch_end(end);
	snprintf(path, sizeof(path), "%s/memory", end->folder);
	wrong = save(&end->control, path, 0, bytes, err);
	if (wrong < 0)
		return wrong;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	unlink(path);
	guest->memory = mmap(NULL, bytes, PROT_READ, MAP_PRIVATE, fd, 0);
	if (fd >= 0)
		close(fd);
	if (guest->memory == MAP_FAILED)
		return -EIO;
	if (end->plan->qemu == DRILL_DEST)
		guest->state = end->shared->state[0];
	wrong = (int64_t)drill_guest_verify(guest, &first);
	if (wrong)
		drill_guest_explain(guest, first, text, room);
	munmap(guest->memory, bytes);
	return wrong;
}

static int resume(struct qemu_end *end, const char *uri, struct wh_err *err)
{
	struct json_object *arguments = uri_of(uri);

	json_object_object_add(arguments, "resume", json_object_new_boolean(true));
	end->resume_ms = qmpcall_now_ms();
	return qmpcall_execute(&end->control, "migrate", arguments, NULL, err);
}

static int64_t order_do(struct qemu_end *end, struct drill_order *order, char *text, size_t room,
			struct wh_err *err)
{
	struct qmpcall *control = &end->control;

	switch (order->what) {
	case DRILL_LISTEN:
		with_port(order->uri);
		return qmpcall_execute(control, "migrate-incoming", uri_of(order->uri), NULL, err);
	case DRILL_CONNECT:
		__atomic_store_n(&end->shared->runs[DRILL_SOURCE], 1, __ATOMIC_SEQ_CST);
		return qmpcall_execute(control, "migrate", uri_of(order->uri), NULL, err);
	case DRILL_SWITCH:
		return qmpcall_execute(control, "migrate-start-postcopy", NULL, NULL, err);
	case DRILL_DO_PAUSE:
		return qmpcall_execute_oob(control, "migrate-pause", NULL, err);
	case DRILL_DO_CANCEL:
		return qmpcall_execute(control, "migrate_cancel", NULL, NULL, err);
	case DRILL_RECOVER:
		with_port(order->uri);
		return qmpcall_execute_oob(control, "migrate-recover", uri_of(order->uri), err);
	case DRILL_RESUME:
		return resume(end, order->uri, err);
	case DRILL_VERIFY:
		return verify(end, text, room, err);
	case DRILL_QUIT:
	case DRILL_GONE:
	case DRILL_NOTHING:
		break;
	}
	return 0;
}

static void end_do(struct qemu_end *end, struct drill_order *order)
{
	struct drill_note note = { .what = order->what, .result = -ESRCH };
	struct wh_err err = { 0 };

	if (order->what == DRILL_QUIT) {
		(void)drill_qemu_end(&end->qemu);
		_exit(0);
	}
	if (!end->gone)
		note.result = order_do(end, order, note.text, sizeof(note.text), &err);
	if (note.result < 0 && *err.text)
		snprintf(note.text, sizeof(note.text), "%s", err.text);
	else if (order->what == DRILL_LISTEN || order->what == DRILL_RECOVER)
		snprintf(note.text, sizeof(note.text), "%s", order->uri);
	say(end, &note);
}

/* What a source has in its memory */
static int write_contents(struct qemu_end *end, const char *path)
{
	uint64_t bytes = end->guest.pages * DRILL_PAGE;
	int fd = open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int ret = fd < 0 || ftruncate(fd, (off_t)bytes) < 0 ? -errno : 0;

	if (!ret) {
		end->guest.memory = mmap(NULL, bytes, PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);
		ret = end->guest.memory == MAP_FAILED ? -errno : 0;
	}
	if (!ret) {
		drill_guest_fill(&end->guest);
		munmap(end->guest.memory, bytes);
	}
	if (fd >= 0)
		close(fd);
	return ret;
}

static int qemu_begin(struct qemu_end *end, const char *binary, struct wh_err *err)
{
	char size[32], loader[DRILL_PATH + 64], path[DRILL_PATH];
	const char *options[] = { "-m", size, NULL, NULL, NULL };
	int ret = 0;

	end->guest = (struct drill_guest){
		.pages = end->plan->pages[0],
		.page_size = DRILL_PAGE,
		.seed = end->plan->seed,
	};
	drill_guest_shape(&end->guest);
	snprintf(size, sizeof(size), "%llu",
		 (unsigned long long)(end->guest.pages * DRILL_PAGE / MIB));
	snprintf(path, sizeof(path), "%s/contents", end->folder);
	snprintf(loader, sizeof(loader), "loader,file=%s,addr=0,force-raw=on", path);
	options[2] = end->plan->qemu == DRILL_DEST ? "-incoming" : "-device";
	options[3] = end->plan->qemu == DRILL_DEST ? "defer" : loader;
	if (end->plan->qemu == DRILL_SOURCE)
		ret = write_contents(end, path);
	if (!ret)
		ret = drill_qemu_start(&end->qemu, binary, options);
	if (!ret)
		ret = qmpcall_attach(&end->control, end->qemu.monitor[0], true, err);
	if (!ret)
		ret = qmpcall_attach(&end->touch, end->qemu.monitor[1], false, err);
	unlink(path); /* it has been read */
	__atomic_store_n(&end->shared->qemu_pid, end->qemu.pid, __ATOMIC_SEQ_CST);
	return ret ? ret : configure(end, err);
}

void drill_qemu_main(const struct drill_plan *plan, const char *binary, const char *folder,
		     struct drill_shared *shared, int fd)
{
	static struct qemu_end end;
	struct drill_order order;
	struct wh_err err = { 0 };
	int ret;

	end = (struct qemu_end){ .plan = plan, .folder = folder, .fd = fd, .shared = shared };
	ret = qemu_begin(&end, binary, &err);
	if (ret < 0) {
		drill_qemu_said(&end.qemu, err.text + strlen(err.text),
				sizeof(err.text) - strlen(err.text));
		fprintf(stderr, "wherry drill: %s: %s\n", binary,
			*err.text ? err.text : strerrordesc_np(-ret));
		_exit(1);
	}
	for (;;) {
		struct pollfd fds[] = {
			{ .fd = fd, .events = POLLIN },
			{ .fd = end.gone ? -1 : end.control.fd, .events = POLLIN },
		};

		(void)poll(fds, 2, TURN_MS);
		if (!end.gone)
			hear(&end);
		if (fds[0].revents) {
			if (recv(fd, &order, sizeof(order), 0) != sizeof(order))
				_exit(1); /* the operator is gone */
			end_do(&end, &order);
		}
		/* it could not connect, and does not tell */
		if (end.resume_ms && qmpcall_now_ms() > end.resume_ms + RESUME_MS) {
			end.resume_ms = 0;
			if (end.phase == WH_PHASE_PAUSED)
				moved(&end, WH_PHASE_PAUSED, "it did not resume");
		}
	}
}
