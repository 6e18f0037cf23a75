/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Migrations over TLS: precopy, postcopy on both channels, breaks and recoveries; peers that
 * are refused, after which the guest goes on at the source and the destination still waits.
 */
#include "kselftest_harness.h"

#include "selftests/e2e/recover.h"
#include "selftests/lib/certs.h"

#include <sys/stat.h>

static bool folder(const char *top, const char *name, char path[96])
{
	snprintf(path, 96, "%s/%s", top, name);
	return mkdir(path, 0700) == 0 && certs_make(path, NULL);
}

static void folder_gone(const char *top)
{
	char command[128];

	snprintf(command, sizeof(command), "rm -rf %s", top);
	if (system(command) != 0)
		printf("# %s stays\n", top);
}

/* ---- Postcopy, broken and brought back ---- */

FIXTURE(tls)
{
	struct pair pair;
	struct wh_tls creds;
	struct proxy *proxy;
	char top[32];
	char dir[96];
	struct wh_err err;
};

FIXTURE_VARIANT(tls)
{
	enum wh_tls_kind kind;
	enum wh_urgent urgent;
	bool own_loop;
};

/* clang-format off */
FIXTURE_VARIANT_ADD(tls, x509) { .urgent = WH_URGENT_AT_SWITCH };
FIXTURE_VARIANT_ADD(tls, x509_at_start) { .urgent = WH_URGENT_AT_START };
FIXTURE_VARIANT_ADD(tls, x509_one_own) { .urgent = WH_URGENT_OFF, .own_loop = true };
FIXTURE_VARIANT_ADD(tls, psk) { .kind = WH_TLS_PSK, .urgent = WH_URGENT_AT_SWITCH };
FIXTURE_VARIANT_ADD(tls, psk_own) { .kind = WH_TLS_PSK, .urgent = WH_URGENT_AT_SWITCH, .own_loop = true };
/* clang-format on */

FIXTURE_SETUP(tls)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	struct wh_err *err = &self->err;

	setvbuf(stdout, NULL, _IOLBF, 0);
	memset(self, 0, sizeof(*self));
	strcpy(self->top, "/tmp/wherry-tls.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->top));
	ASSERT_TRUE(folder(self->top, "ours", self->dir));
	self->creds = (struct wh_tls){ .kind = variant->kind, .dir = self->dir };
	source->tls = dest->tls = &self->creds;
	ASSERT_EQ(0, end_new(source, WH_SOURCE, variant->urgent, false, err))
	TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_new(dest, WH_DEST, variant->urgent, false, err)) TH_LOG("%s", err->text);
	ASSERT_EQ(0, wh_listen(dest->migration, "tcp:127.0.0.1:0", err)) TH_LOG("%s", err->text);
	self->proxy = proxy_start(wh_listen_uri(dest->migration), &(struct proxy_script){ 0 });
	ASSERT_NE(NULL, self->proxy);
	ASSERT_EQ(0, wh_connect(source->migration, proxy_uri(self->proxy), err))
	TH_LOG("%s", err->text);
	ASSERT_EQ(0, end_start(dest, variant->own_loop, err)) TH_LOG("%s", err->text);
}

FIXTURE_TEARDOWN(tls)
{
	proxy_end(self->proxy);
	folder_gone(self->top);
}

static bool both_pause(FIXTURE_DATA(tls) *self, unsigned pauses)
{
	return end_pauses(&self->pair.source, pauses) && end_pauses(&self->pair.dest, pauses);
}

/* A new proxy in front of where the destination listens then */
static int again(FIXTURE_DATA(tls) *self, const struct proxy_script *script)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	int ret;

	proxy_end(self->proxy);
	self->proxy = NULL;
	ret = end_again(dest, "tcp:127.0.0.1:0", &self->err);
	if (ret)
		return ret;
	self->proxy = proxy_start(wh_listen_uri(dest->migration), script);
	return self->proxy ? end_again(source, proxy_uri(self->proxy), &self->err) : -EIO;
}

static void ends_well(FIXTURE_DATA(tls) *self, struct __test_metadata *_metadata)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	EXPECT_TRUE(end_phase(dest, WH_PHASE_DONE));
	EXPECT_TRUE(end_phase(source, WH_PHASE_DONE));
	ASSERT_EQ(WH_PHASE_DONE, wh_get_phase(dest->migration));
	EXPECT_EQ(0, wrong_byte(&self->pair));
	end_free(source);
	end_free(dest);
}

TEST_F(tls, recovers)
{
	static const uint64_t at[] = { 1, 700, 3000, 40000, 100000 };
	struct end *source = &self->pair.source, *dest = &self->pair.dest;
	unsigned pauses = 0;

	end_run(source, NULL);
	ASSERT_EQ(0, end_start(source, variant->own_loop, &self->err));
	ASSERT_EQ(0, wh_start_postcopy(source->migration, &self->err));
	ASSERT_TRUE(end_phase(dest, WH_PHASE_POSTCOPY));
	proxy_cut(self->proxy);
	ASSERT_TRUE(both_pause(self, ++pauses));
	/* in the handshake of TLS, in that of the recovery, in the pages */
	for (unsigned i = 0; i < sizeof(at) / sizeof(at[0]); i++) {
		ASSERT_EQ(0, again(self, &(struct proxy_script){ .cut_at = at[i] }))
		TH_LOG("%u: %s", i, self->err.text);
		/* where nobody has come the destination waits on */
		ASSERT_TRUE(end_pauses(source, ++pauses)) TH_LOG("%u", i);
	}
	ASSERT_EQ(0, again(self, &(struct proxy_script){ 0 })) TH_LOG("%s", self->err.text);
	ends_well(self, _metadata);
}

/* A quiet guest; nothing of it can be read on the way */
TEST_F(tls, precopy)
{
	struct end *source = &self->pair.source;

	ASSERT_EQ(0, end_start(source, variant->own_loop, &self->err));
	ends_well(self, _metadata);
}

/* ---- Who is refused ---- */

FIXTURE(refused)
{
	struct pair pair;
	struct wh_tls ours, theirs;
	char top[32];
	char dir[2][96];
	struct wh_err err;
};

FIXTURE_SETUP(refused)
{
	setvbuf(stdout, NULL, _IOLBF, 0);
	memset(self, 0, sizeof(*self));
	strcpy(self->top, "/tmp/wherry-tls.XXXXXX");
	ASSERT_NE(NULL, mkdtemp(self->top));
	ASSERT_TRUE(folder(self->top, "ours", self->dir[0]));
	ASSERT_TRUE(folder(self->top, "theirs", self->dir[1]));
	self->ours.dir = self->dir[0];
	self->theirs.dir = self->dir[1];
}

FIXTURE_TEARDOWN(refused)
{
	folder_gone(self->top);
}

/* A source that connects to where @dest waits, with these; its guest runs */
static int start_source(struct end *source, const struct end *dest, const struct wh_tls *tls,
			struct wh_err *err)
{
	int ret;

	memset(source, 0, sizeof(*source));
	source->tls = tls;
	ret = end_new(source, WH_SOURCE, WH_URGENT_AT_SWITCH, false, err);
	if (ret == 0)
		ret = wh_connect(source->migration, wh_listen_uri(dest->migration), err);
	end_run(source, NULL);
	return ret ? ret : wh_start(source->migration, err);
}

/* Does the guest go on? */
static bool runs(struct end *end)
{
	uint64_t before = __atomic_load_n(&end->workload[0].passes, __ATOMIC_RELAXED);

	for (unsigned i = 0; i < SECONDS * 100; i++) {
		if (__atomic_load_n(&end->workload[0].passes, __ATOMIC_RELAXED) > before + 1)
			return true;
		usleep(10000);
	}
	return false;
}

static int start_dest(FIXTURE_DATA(refused) *self, const struct wh_tls *tls)
{
	struct end *dest = &self->pair.dest;
	int ret;

	dest->tls = tls;
	ret = end_new(dest, WH_DEST, WH_URGENT_AT_SWITCH, false, &self->err);
	if (ret == 0)
		ret = wh_listen(dest->migration, "tcp:127.0.0.1:0", &self->err);
	return ret ? ret : wh_start(dest->migration, &self->err);
}

/* One that is refused, and then the right one: all of it arrives */
static void refuses(FIXTURE_DATA(refused) *self, struct __test_metadata *_metadata,
		    const struct wh_tls *with, const char *what)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	ASSERT_EQ(0, start_source(source, dest, with, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_GT(0, wh_wait(source->migration, WAIT_NS, &self->err));
	TH_LOG("%s", self->err.text);
	EXPECT_NE(NULL, strstr(self->err.text, what));
	EXPECT_EQ(WH_PHASE_FAILED, wh_get_phase(source->migration));
	EXPECT_TRUE(runs(source));
	end_pause(source, NULL);
	end_free(source);
	EXPECT_EQ(WH_PHASE_SETUP, wh_get_phase(dest->migration));
}

static void takes(FIXTURE_DATA(refused) *self, struct __test_metadata *_metadata,
		  const struct wh_tls *with)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	ASSERT_EQ(0, start_source(source, dest, with, &self->err)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, wh_start_postcopy(source->migration, &self->err));
	EXPECT_EQ(0, wh_wait(dest->migration, WAIT_NS, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, wh_wait(source->migration, WAIT_NS, &self->err)) TH_LOG("%s", self->err.text);
	EXPECT_EQ(0, wrong_byte(&self->pair));
	end_free(source);
	end_free(dest);
}

TEST_F(refused, strangers)
{
	struct wh_tls other = self->ours, psk = self->ours;

	other.hostname = "elsewhere.test";
	psk.kind = WH_TLS_PSK;
	ASSERT_EQ(0, start_dest(self, &self->ours)) TH_LOG("%s", self->err.text);
	refuses(self, _metadata, &self->theirs, "is of another CA");
	refuses(self, _metadata, &other, "is not of host 'elsewhere.test'");
	refuses(self, _metadata, &psk, "TLS: handshake");
	/* plainly: it has sent its header, and hears an alert, or that nobody takes more of it */
	refuses(self, _metadata, NULL, "main channel: ");
	takes(self, _metadata, &self->ours);
}

TEST_F(refused, wrong_key)
{
	self->ours.kind = self->theirs.kind = WH_TLS_PSK;
	ASSERT_EQ(0, start_dest(self, &self->ours)) TH_LOG("%s", self->err.text);
	refuses(self, _metadata, &self->theirs, "is it the same key?");
	takes(self, _metadata, &self->ours);
}

/* A destination that speaks plainly fails, as of anything that is no migration */
TEST_F(refused, by_a_plain_one)
{
	struct end *source = &self->pair.source, *dest = &self->pair.dest;

	ASSERT_EQ(0, start_dest(self, NULL)) TH_LOG("%s", self->err.text);
	ASSERT_EQ(0, start_source(source, dest, &self->ours, &self->err));
	EXPECT_GT(0, wh_wait(source->migration, WAIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "TLS: handshake")) TH_LOG("%s", self->err.text);
	EXPECT_TRUE(runs(source));
	EXPECT_GT(0, wh_wait(dest->migration, WAIT_NS, &self->err));
	EXPECT_NE(NULL, strstr(self->err.text, "it begins as TLS does"));
	end_pause(source, NULL);
	end_free(source);
	end_free(dest);
}

/* Cancelled, or freed, while nobody answers in the handshake */
TEST_F(refused, cancelled)
{
	struct sockaddr_in at = { .sin_family = AF_INET,
				  .sin_addr.s_addr = htonl(INADDR_LOOPBACK) };
	struct end *source = &self->pair.source;
	socklen_t length = sizeof(at);
	uint64_t begin_ns;
	char uri[64];
	int fd, came;

	fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	ASSERT_EQ(0, bind(fd, (struct sockaddr *)&at, sizeof(at)));
	ASSERT_EQ(0, listen(fd, 1));
	ASSERT_EQ(0, getsockname(fd, (struct sockaddr *)&at, &length));
	snprintf(uri, sizeof(uri), "tcp:127.0.0.1:%u", ntohs(at.sin_port));
	for (int cancel = 0; cancel < 2; cancel++) {
		memset(source, 0, sizeof(*source));
		source->tls = &self->ours;
		ASSERT_EQ(0, end_new(source, WH_SOURCE, WH_URGENT_OFF, false, &self->err));
		ASSERT_EQ(0, wh_connect(source->migration, uri, &self->err));
		ASSERT_EQ(0, wh_start(source->migration, &self->err));
		came = accept(fd, NULL, NULL);
		EXPECT_EQ(1, recv(came, uri + 60, 1, MSG_PEEK));
		begin_ns = clock_now_ns();
		if (cancel) {
			EXPECT_EQ(0, wh_cancel(source->migration, &self->err));
			EXPECT_EQ(-ECANCELED, wh_wait(source->migration, WAIT_NS, &self->err));
			EXPECT_EQ(WH_PHASE_CANCELLED, wh_get_phase(source->migration));
		}
		end_free(source);
		EXPECT_GT(2 * NS_PER_S, clock_now_ns() - begin_ns);
		close(came);
	}
	close(fd);
}

/* ---- Words of an option ---- */

static const struct {
	const char *text;
	const char *why; /* NULL: taken */
} words[] = {
	{ "dir=/etc/pki/qemu", NULL },
	{ "x509,dir=/a,verify-peer=no,hostname=b.test,priority=NORMAL", NULL },
	{ "tls-creds-psk,dir=/a,username=me", NULL },
	{ "", "expected" },
	{ "x509", "expected dir=DIR" },
	{ "ssl,dir=/a", "'ssl'" },
	{ "dir=/a,psk", "'psk'" },
	{ "dir=/a,dir=/b", "dir is there twice" },
	{ "dir=", "dir= of nothing" },
	{ "dir=/a,verify-peer=maybe", "maybe" },
	{ "dir=/a,endpoint=server", "'endpoint'" },
	{ "dir=/a,username=me", "of psk" },
};

TEST(parse)
{
	for (unsigned i = 0; i < sizeof(words) / sizeof(words[0]); i++) {
		struct wh_err err = { 0 };
		struct wh_tls *tls;

		EXPECT_EQ(words[i].why != NULL, wh_tls_parse(&tls, words[i].text, &err) < 0)
		TH_LOG("%s: %s", words[i].text, err.text);
		if (words[i].why)
			EXPECT_NE(NULL, strstr(err.text, words[i].why)) TH_LOG("%s", err.text);
		EXPECT_EQ(words[i].why == NULL, tls != NULL);
		if (i == 1) {
			EXPECT_TRUE(tls->unverified);
			EXPECT_STREQ("/a", tls->dir);
			EXPECT_STREQ("b.test", tls->hostname);
			EXPECT_STREQ("NORMAL", tls->priority);
		}
		if (i == 2) {
			EXPECT_EQ(WH_TLS_PSK, tls->kind);
			EXPECT_STREQ("me", tls->username);
		}
		free(tls);
	}
}

TEST_HARNESS_MAIN
