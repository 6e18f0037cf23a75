/* SPDX-License-Identifier: GPL-2.0 */
/*
 * A guest into a file and out of it again.
 */
#include "selftests/postcopy/file_world.h"

#include "kselftest_harness.h"

TEST_F(file, there_and_back)
{
	for (unsigned i = 0; i < 4; i++) {
		bool mapped = i % 2;

		self->save.mapped_ram = mapped;
		self->save.replace = true;
		self->map = i > 1;
		SAVED();
		LOADED();
		ASSERT_EQ(mapped, self->load.mapped_ram);
		ASSERT_EQ(self->save.pages_normal, self->load.pages_normal);
		ASSERT_EQ(self->save.pages_zero, self->load.pages_zero);
		ASSERT_EQ((3 * MIB) / PAGE + 70, self->load.pages_normal + self->load.pages_zero);
	}
}

/* Zero pages are holes, and a file of 3 MiB is smaller than that */
TEST_F(file, mapped_ram_is_sparse)
{
	struct stat st;

	self->save.mapped_ram = true;
	SAVED();
	ASSERT_EQ(0, stat(self->path, &st));
	ASSERT_LT(5 * MIB, (uint64_t)st.st_size);
	ASSERT_GT(2 * MIB, st.st_blocks * 512ull);
}

/* Behind somebody else's bytes, which stay what they were */
TEST_F(file, at_an_offset)
{
	static const char theirs[] = "0123456789";
	char there[sizeof(theirs)];
	int fd = open(self->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ASSERT_LE(0, fd);
	ASSERT_EQ(10, write(fd, theirs, 10));
	for (unsigned mapped = 0; mapped < 2; mapped++) {
		self->save.mapped_ram = mapped;
		self->save.replace = mapped;
		snprintf(self->uri, sizeof(self->uri), "file:%s,offset=%s", self->path,
			 mapped ? "0x10001" : "10");
		SAVED();
		LOADED();
		ASSERT_EQ(10, pread(fd, there, 10, 0));
		ASSERT_EQ(0, memcmp(theirs, there, 10));
	}
	snprintf(self->uri, sizeof(self->uri), "file:%s,offset=0x10000", self->path);
	REFUSED(-EPROTO, "magic 0x00514556");
	close(fd);
}

TEST_F(file, addresses)
{
	static const struct {
		const char *text, *path;
		uint64_t offset;
	} good[] = {
		{ "file:a", "a", 0 },
		{ "file:/a,b", "/a,b", 0 },
		{ "file:a,offset=0", "a", 0 },
		{ "file:a,offset=0x1fF", "a", 0x1ff },
		{ "file:a,offset=4K", "a", 4096 },
		{ "file:a,offset=3G", "a", (uint64_t)3 << 30 },
		{ "file:a,offset=1,offset=2", "a,offset=1", 2 },
		{ "file:a,offset=9223372036854775807", "a", INT64_MAX },
	};
	static const char *const bad[] = {
		"file:",
		"file:,offset=1",
		"file:a,offset=",
		"file:a,offset=-1",
		"file:a,offset= 1",
		"file:a,offset=1T",
		"file:a,offset=1KK",
		"file:a,offset=x",
		"file:a,offset=0x",
		"tcp:a:1",
		"file:a,offset=9223372036854775808",
		"file:a,offset=8589934592G",
	};
	struct file_address address;

	for (unsigned i = 0; i < sizeof(good) / sizeof(good[0]); i++) {
		ASSERT_EQ(0, file_address_parse(&address, good[i].text, &self->err))
		{
			TH_LOG("%s", good[i].text);
		}
		ASSERT_STREQ(good[i].path, address.path);
		ASSERT_EQ(good[i].offset, address.offset);
	}
	for (unsigned i = 0; i < sizeof(bad) / sizeof(bad[0]); i++) {
		ASSERT_EQ(-EINVAL, file_address_parse(&address, bad[i], &self->err))
		{
			TH_LOG("%s", bad[i]);
		}
	}
}

static bool there(const FIXTURE_DATA(file) *self, const char *name)
{
	char path[128];

	snprintf(path, sizeof(path), "%s/%s", self->folder, name);
	return !access(path, F_OK);
}

TEST_F(file, what_is_there_stays)
{
	SAVED();
	ASSERT_EQ(-EEXIST, wh_file_save(self->uri, &self->save, &self->err));
	ASSERT_NE(NULL, strstr(self->err.text, "there is something already"));
	LOADED();
	/* until the new one is whole */
	self->memory[0][1] = 0x55;
	self->save.replace = true;
	self->save.stop = on_stop;
	self->stops = 2;
	ASSERT_EQ(-EINTR, wh_file_save(self->uri, &self->save, &self->err));
	ASSERT_EQ(0, load(self));
	ASSERT_EQ(0, self->loaded[0][1]);
	ASSERT_FALSE(there(self, "vm.part"));
	SAVED();
	LOADED();
}

/* A disk that is full in the middle: a sentence, and what there was is there */
TEST_F(file, no_room)
{
	struct rlimit limit = { 0, RLIM_INFINITY }, before;

	SAVED();
	self->memory[0][1] = 0x55;
	self->save.replace = true;
	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &before));
	signal(SIGXFSZ, SIG_IGN);
	for (unsigned mapped = 0; mapped < 2; mapped++) {
		self->save.mapped_ram = mapped;
		for (limit.rlim_cur = 4; limit.rlim_cur < MIB / 2; limit.rlim_cur *= 5) {
			limit.rlim_max = before.rlim_max;
			ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
			ASSERT_EQ(-EFBIG, wh_file_save(self->uri, &self->save, &self->err));
			ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &before));
			ASSERT_NE(NULL, strstr(self->err.text, "writing it: File too large"));
			ASSERT_FALSE(there(self, "vm.part"));
			ASSERT_EQ(0, load(self));
			ASSERT_EQ(0, self->loaded[0][1]);
		}
	}
}

/* In a file of somebody else nothing looks like a stream before all of it is there. */
TEST_F(file, an_offset_and_no_room)
{
	struct rlimit limit, before;
	uint8_t bytes[16];
	int fd = open(self->path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);

	ASSERT_EQ(0, getrlimit(RLIMIT_FSIZE, &before));
	limit = (struct rlimit){ MIB / 8, before.rlim_max };
	signal(SIGXFSZ, SIG_IGN);
	snprintf(self->uri, sizeof(self->uri), "file:%s,offset=16", self->path);
	ASSERT_EQ(16, write(fd, "0123456789abcdef", 16));
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &limit));
	ASSERT_EQ(-EFBIG, wh_file_save(self->uri, &self->save, &self->err));
	ASSERT_EQ(0, setrlimit(RLIMIT_FSIZE, &before));
	ASSERT_EQ(16, lseek(fd, 0, SEEK_END));
	ASSERT_EQ(16, pread(fd, bytes, 16, 0));
	ASSERT_EQ(0, memcmp(bytes, "0123456789abcdef", 16));
	close(fd);
}

TEST_F(file, what_cannot_be_saved)
{
	struct wh_file_save good = self->save;

	self->save.machine = "";
	self->save.mapped_ram = true;
	ASSERT_EQ(-EINVAL, wh_file_save(self->uri, &self->save, &self->err));
	self->save.mapped_ram = false;
	SAVED();
	ASSERT_EQ(0, load(self));
	ASSERT_STREQ("", self->load.machine);
	self->save = good;
	self->save.blocks = 0;
	ASSERT_EQ(-EINVAL, wh_file_save(self->uri, &self->save, &self->err));
	self->save = good;
	self->block[1].length--;
	ASSERT_EQ(-EINVAL, wh_file_save(self->uri, &self->save, &self->err));
	self->block[1].length++;
	ASSERT_EQ(-ENOENT, wh_file_save("file:/no/such/folder", &good, &self->err));
	ASSERT_EQ(-EINVAL, wh_file_save("file:/dev/null", &good, &self->err));
}

static unsigned wrong_pages(const FIXTURE_DATA(file) *self, unsigned first, unsigned end)
{
	static const uint8_t zeros[PAGE];
	unsigned wrong = 0;

	for (unsigned i = 0; i < lengths[0] / PAGE; i++) {
		const uint8_t *page = i >= first && i < end ? zeros : self->memory[0] + i * PAGE;

		wrong += memcmp(self->loaded[0] + i * PAGE, page, PAGE) != 0;
	}
	return wrong;
}

/* Mapped, nothing is read but what says where pages are; what lies in the file unsaid is hidden. */
TEST_F(file, mapped_where_it_is)
{
	uint8_t bytes[8], was[96], bits[96];
	off_t bitmap;
	int fd;

	for (uint64_t at = 0; at < lengths[0]; at += PAGE)
		put_be64(self->memory[0] + at + 16, at + 1);
	self->save.mapped_ram = true;
	self->map = true;
	SAVED();
	LOADED();
	ASSERT_GT(2 * MIB, self->load.bytes);
	/* it is a copy: the file stays what it is */
	memset(self->loaded[0], 0x55, lengths[0]);
	LOADED();

	fd = open(self->path, O_RDWR | O_CLOEXEC);
	ASSERT_EQ(8, pread(fd, bytes, 8, HEADER + 12));
	bitmap = (off_t)get_be64(bytes);
	ASSERT_EQ(96, pread(fd, was, 96, bitmap));
	/* few pages, so many that they get a mapping of their own, the first and the last */
	for (unsigned first = 0, end = 3; end <= 768; first += 63, end += end < 96 ? 93 : 168) {
		memcpy(bits, was, 96);
		for (unsigned i = first; i < end; i++)
			bits[i / 8] &= (uint8_t) ~(1u << i % 8);
		ASSERT_EQ(96, pwrite(fd, bits, 96, bitmap));
		ASSERT_EQ(0, load(self));
		ASSERT_EQ(0, wrong_pages(self, first, end))
		{
			TH_LOG("without pages %u to %u", first, end);
		}
	}
	close(fd);
}

static void print_to(void *opaque, const struct wh_dump_message *message)
{
	fprintf(opaque, "%llx %s\n", (unsigned long long)message->offset, message->line);
}

/* Shown the same whether contents of pages are read or passed over, in pieces of any size */
TEST_F(file, shown)
{
	static uint8_t bytes[8 * MIB];
	static const size_t pieces[] = { 8 * MIB, 1, 4099 };
	char *text[4] = { NULL };
	size_t length, size;
	FILE *from, *to;

	self->save.mapped_ram = true;
	SAVED();
	from = fopen(self->path, "r");
	length = fread(bytes, 1, sizeof(bytes), from);
	fclose(from);
	for (unsigned i = 0; i < 4; i++) {
		size_t piece = pieces[i % 3];
		struct wh_dump *dump;

		to = open_memstream(&text[i], &size);
		ASSERT_EQ(0, wh_dump_new(&dump, WH_DUMP_STREAM, false, print_to, to, &self->err));
		for (size_t at = 0; at < length;) {
			size_t n = piece < length - at ? piece : length - at;

			ASSERT_EQ(0, wh_dump_feed(dump, bytes + at, n, &self->err));
			at += n;
			/* bytes one by one, but not the contents */
			if (i == 1)
				at += wh_dump_skip(dump);
		}
		ASSERT_EQ(0, wh_dump_end(dump, &self->err))
		{
			TH_LOG("%s", self->err.text);
		}
		wh_dump_free(dump);
		fclose(to);
		ASSERT_STREQ(text[0], text[i]);
	}
	ASSERT_NE(NULL, strstr(text[0], "\n4f block ram 0x300000 bytes, bitmap at 0x"))
	{
		TH_LOG("%s", text[0]);
	}
	ASSERT_NE(NULL, strstr(text[0], "bitmap of 96 bytes, 111 pages are in place\n"));
	ASSERT_NE(NULL, strstr(text[0], "\n107000 ram 0x7000+0x1000 page x1\n"));
	ASSERT_NE(NULL, strstr(text[0], "wherry/vmm of 5 bytes\n"));
	for (unsigned i = 0; i < 4; i++)
		free(text[i]);
}

TEST_HARNESS_MAIN
