/* SPDX-License-Identifier: GPL-2.0 */
/*
 * Addresses as text, and back.
 */
#include "ring/uri.h"

#include "kselftest_harness.h"

TEST(good_ones)
{
	static const struct {
		const char *text;
		struct uri uri;
	} good[] = {
		{ "tcp:localhost:4444", { .kind = URI_TCP, .host = "localhost", .port = 4444 } },
		{ "tcp:Host-1.example_2.org:1",
		  { .kind = URI_TCP, .host = "Host-1.example_2.org", .port = 1 } },
		{ "tcp:127.0.0.1:65535", { .kind = URI_TCP, .host = "127.0.0.1", .port = 65535 } },
		{ "tcp:[::1]:80", { .kind = URI_TCP, .host = "::1", .port = 80 } },
		{ "tcp:[fe80::1%eth0]:80",
		  { .kind = URI_TCP, .host = "fe80::1%eth0", .port = 80 } },
		{ "tcp:[::ffff:10.0.0.1]:80",
		  { .kind = URI_TCP, .host = "::ffff:10.0.0.1", .port = 80 } },
		{ "tcp::4444", { .kind = URI_TCP, .host = "", .port = 4444 } },
		{ "tcp::0", { .kind = URI_TCP, .host = "", .port = 0 } },
		{ "tcp:7.example.org:7", { .kind = URI_TCP, .host = "7.example.org", .port = 7 } },
		{ "unix:/run/vm.sock", { .kind = URI_UNIX, .path = "/run/vm.sock" } },
		{ "unix:a b:c", { .kind = URI_UNIX, .path = "a b:c" } },
		{ "fd:0", { .kind = URI_FD, .fd = 0 } },
		{ "fd:2147483647", { .kind = URI_FD, .fd = 2147483647 } },
		{ "rdma:10.9.1.2:4444", { .kind = URI_RDMA, .host = "10.9.1.2", .port = 4444 } },
		{ "rdma:[fe80::1%eth0]:80",
		  { .kind = URI_RDMA, .host = "fe80::1%eth0", .port = 80 } },
		{ "rdma::0", { .kind = URI_RDMA, .host = "", .port = 0 } },
		{ "vsock:2:1234", { .kind = URI_VSOCK, .cid = 2, .port = 1234 } },
		{ "vsock:4294967295:0", { .kind = URI_VSOCK, .cid = 4294967295u, .port = 0 } },
		{ "vsock:3:4294967294", { .kind = URI_VSOCK, .cid = 3, .port = 4294967294u } },
	};

	for (size_t i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		const struct uri *want = &good[i].uri;
		struct wh_err err = { 0 };
		char text[URI_TEXT];
		struct uri uri;

		memset(&uri, 0xaa, sizeof(uri));
		EXPECT_EQ(0, uri_parse(&uri, good[i].text, &err))
		{
			TH_LOG("%s", err.text);
		}
		EXPECT_EQ(want->kind, uri.kind);
		EXPECT_STREQ(want->host, uri.host);
		EXPECT_STREQ(want->path, uri.path);
		EXPECT_EQ(want->cid, uri.cid);
		EXPECT_EQ(want->port, uri.port);
		EXPECT_EQ(want->kind == URI_FD ? want->fd : -1, uri.fd);
		uri_format(&uri, text, sizeof(text));
		EXPECT_STREQ(good[i].text, text);
	}
}

TEST(bad_ones)
{
	static const struct {
		const char *text;
		const char *expected; /* a part of the sentence */
	} bad[] = {
		{ "", "expected tcp:HOST:PORT" },
		{ "localhost:4444", "expected tcp:HOST:PORT" },
		{ "TCP:localhost:4444", "expected tcp:HOST:PORT" },
		{ "udp:localhost:4444", "expected tcp:HOST:PORT" },
		{ "tcp:", "expected tcp:HOST:PORT" },
		{ "rdma:localhost", "expected rdma:HOST:PORT" },
		{ "rdma:localhost:1:2", "a second ':'" },
		{ "tcp:localhost", "expected tcp:HOST:PORT" },
		{ "tcp:localhost:", "expected a port from 0 to 65535, not ''" },
		{ "tcp:localhost:65536", "expected a port from 0 to 65535, not '65536'" },
		{ "tcp:localhost:99999999999999999999", "expected a port" },
		{ "tcp:localhost:-1", "expected a port" },
		{ "tcp:localhost:+1", "expected a port" },
		{ "tcp:localhost: 1", "expected a port" },
		{ "tcp:localhost:1 ", "expected a port" },
		{ "tcp:localhost:01", "expected a port" },
		{ "tcp:localhost:0x50", "expected a port" },
		{ "tcp:localhost:http", "expected a port" },
		{ "tcp:localhost:80,to=90", "expected a port" },
		{ "tcp:::1:80", "in brackets" },
		{ "tcp:fe80::1:80", "in brackets" },
		{ "tcp:a:b:80", "in brackets" },
		{ "tcp:ho st:80", "byte 0x20" },
		{ "tcp://host:80", "byte 0x2f" },
		{ "tcp:h\xc3\xb6st:80", "byte 0xc3" },
		{ "tcp:10.1:80", "four numbers" },
		{ "tcp:256.1.1.1:80", "four numbers" },
		{ "tcp:1.2.3.4.5:80", "four numbers" },
		{ "tcp:0x7f000001:80", "four numbers" },
		{ "tcp:12345:80", "four numbers" },
		{ "tcp:[::1]", "expected ']:'" },
		{ "tcp:[::1:80", "expected ']:'" },
		{ "tcp:[::1]80", "expected ']:'" },
		{ "tcp:[]:80", "expected an IPv6 address" },
		{ "tcp:[localhost]:80", "expected an IPv6 address" },
		{ "tcp:[127.0.0.1]:80", "expected an IPv6 address" },
		{ "tcp:[::1%]:80", "expected an IPv6 address" },
		{ "tcp:[::1]:x", "expected a port" },
		{ "unix:", "expected unix:PATH" },
		{ "fd:", "expected fd:N" },
		{ "fd:-1", "expected fd:N" },
		{ "fd:2147483648", "expected fd:N" },
		{ "fd:3x", "expected fd:N" },
		{ "fd:name", "expected fd:N" },
		{ "vsock:", "expected vsock:CID:PORT" },
		{ "vsock:2", "expected vsock:CID:PORT" },
		{ "vsock::1", "expected a context id" },
		{ "vsock:x:1", "expected a context id" },
		{ "vsock:4294967296:1", "expected a context id" },
		{ "vsock:2222222222222222222:1", "expected a context id" },
		{ "vsock:2:", "expected a port" },
		{ "vsock:2:4294967295", "expected a port from 0 to 4294967294" },
		{ "vsock:2:1:1", "expected a port" },
	};

	for (size_t i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		struct wh_err err = { 0 };
		struct uri uri;

		EXPECT_EQ(-EINVAL, uri_parse(&uri, bad[i].text, &err))
		{
			TH_LOG("'%s'", bad[i].text);
		}
		EXPECT_EQ(-EINVAL, err.code);
		EXPECT_NE(NULL, strstr(err.text, bad[i].expected))
		{
			TH_LOG("'%s': %s", bad[i].text, err.text);
		}
		EXPECT_NE(NULL, strstr(err.text, bad[i].text));
		EXPECT_EQ(-EINVAL, uri_parse(&uri, bad[i].text, NULL));
	}
}

/* What just fits, and one byte more */
TEST(lengths)
{
	char text[512], back[URI_TEXT];
	struct wh_err err = { 0 };
	struct uri uri;

	strcpy(text, "unix:");
	memset(text + 5, 'p', 108);
	text[5 + 107] = '\0';
	EXPECT_EQ(0, uri_parse(&uri, text, &err));
	uri_format(&uri, back, sizeof(back));
	EXPECT_STREQ(text, back);
	text[5 + 107] = 'p';
	text[5 + 108] = '\0';
	EXPECT_EQ(-EINVAL, uri_parse(&uri, text, &err));
	EXPECT_NE(NULL, strstr(err.text, "108 bytes"))
	{
		TH_LOG("%s", err.text);
	}

	strcpy(text, "tcp:");
	memset(text + 4, 'h', 255);
	strcpy(text + 4 + 255, ":65535");
	EXPECT_EQ(0, uri_parse(&uri, text, &err));
	uri_format(&uri, back, sizeof(back));
	EXPECT_STREQ(text, back);
	memset(text + 4, 'h', 256);
	strcpy(text + 4 + 256, ":65535");
	EXPECT_EQ(-EINVAL, uri_parse(&uri, text, &err));
	EXPECT_NE(NULL, strstr(err.text, "256 bytes"))
	{
		TH_LOG("%s", err.text);
	}

	strcpy(text, "tcp:[fe80::1%");
	memset(text + 13, 'z', 300);
	strcpy(text + 13 + 300, "]:1");
	EXPECT_EQ(-EINVAL, uri_parse(&uri, text, &err));
	EXPECT_NE(NULL, strstr(err.text, "255 fit"))
	{
		TH_LOG("%s", err.text);
	}
}

/* Cut anywhere and with any byte changed: an answer, and never a text that grows */
TEST(broken_ones)
{
	static const char *const whole[] = { "tcp:[fe80::1%eth0]:65535", "tcp:host:1", "unix:/a",
					     "fd:123", "vsock:4294967295:1" };

	for (size_t w = 0; w < sizeof(whole) / sizeof(whole[0]); w++) {
		size_t length = strlen(whole[w]);

		for (size_t at = 0; at < length; at++) {
			for (int byte = 0; byte < 256; byte++) {
				char text[64], back[URI_TEXT];
				struct uri uri;

				strcpy(text, whole[w]);
				text[at] = (char)byte; /* 0 is the cut */
				if (uri_parse(&uri, text, NULL) != 0)
					continue;
				uri_format(&uri, back, sizeof(back));
				EXPECT_STREQ(text, back);
			}
		}
	}
}

TEST_HARNESS_MAIN
