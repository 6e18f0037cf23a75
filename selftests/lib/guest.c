/* SPDX-License-Identifier: MIT */
#include "selftests/lib/guest.h"

#include <errno.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

#include "base/clock.h"
#include "base/err.h"
#include "selftests/lib/receiver.h"

#define SECTOR_BYTES 512u
#define RANGE_AT 496u
#define ROM_BYTES 65536u
#define ROM_SECTOR_AT 0xfc00u
#define DISK_BYTES (1u << 20) /* firmware reads no disk that is less than a cylinder */
#define PAGE 4096u
#define PASSES 3

static int load(const char *name, uint8_t *bytes, size_t size, struct wh_err *err)
{
	char path[PATH_MAX];
	int ret = built_path(path, sizeof(path), name, err);
	ssize_t n;
	int fd;

	if (ret)
		return ret;
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return err_sys(err, errno, "%s", path);
	n = read(fd, bytes, size);
	close(fd);
	if (n != (ssize_t)size)
		return err_set(err, -EIO, "%s: %zd bytes, not %zu", path, n, size);
	return 0;
}

static int save(const char *path, const uint8_t *bytes, size_t size, struct wh_err *err)
{
	int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	ssize_t n;

	if (fd < 0)
		return err_sys(err, errno, "%s", path);
	n = write(fd, bytes, size);
	close(fd);
	return n == (ssize_t)size ? 0 : err_set(err, -EIO, "%s: %zd bytes written", path, n);
}

static void put_range(uint8_t *sector, const struct guest_range *range)
{
	const uint32_t values[3] = { range->first, range->end, range->pause };

	memcpy(sector + RANGE_AT, values, sizeof(values)); /* this guest is an x86 as well */
}

int guest_write_rom(const char *path, const struct guest_range *range, struct wh_err *err)
{
	static uint8_t rom[ROM_BYTES];
	int ret = load("selftests/interop/guest.rom", rom, sizeof(rom), err);

	if (ret)
		return ret;
	put_range(rom + ROM_SECTOR_AT, range);
	return save(path, rom, sizeof(rom), err);
}

int guest_write_disk(const char *path, const struct guest_range *range, struct wh_err *err)
{
	static uint8_t disk[DISK_BYTES];
	int ret = load("selftests/interop/guest.bin", disk, SECTOR_BYTES, err);

	if (ret)
		return ret;
	put_range(disk, range);
	return save(path, disk, sizeof(disk), err);
}

int guest_wait(const char *serial, int timeout_ms, struct wh_err *err)
{
	static const struct timespec ms = { .tv_nsec = (long)NS_PER_MS };
	uint64_t end = clock_now_ns() + (uint64_t)timeout_ms * NS_PER_MS;
	struct stat st;

	while (stat(serial, &st) || st.st_size < PASSES) {
		if (clock_now_ns() > end)
			return err_set(err, -ETIMEDOUT, "the guest does not run after %d ms",
				       timeout_ms);
		nanosleep(&ms, NULL);
	}
	return 0;
}

int guest_check_serial(const char *serial, struct wh_err *err)
{
	struct image image;
	const void *bad;
	int ret = image_open(&image, serial, err);

	if (ret)
		return ret;
	bad = memchr(image.at, 'E', image.length);
	image_close(&image);
	return bad ? err_set(err, -EILSEQ, "the guest itself found a bad page") : 0;
}

/* A page as guest.S fills it; its first byte says how often it was stepped */
static int check_page(const uint8_t *page, uint32_t address, struct wh_err *err)
{
	uint32_t x = address;

	for (size_t i = 1; i < PAGE / 4; i++) {
		uint32_t wanted = address, word;

		if (i > 1) {
			x = x * 1664525 + 1013904223;
			wanted = x;
		}
		memcpy(&word, page + 4 * i, sizeof(word));
		if (word != wanted)
			return err_set(err, -EILSEQ, "guest: at 0x%x is 0x%08x, not 0x%08x",
				       address + 4 * (uint32_t)i, word, wanted);
	}
	return 0;
}

int guest_check(const uint8_t *ram, const struct guest_range *range, struct wh_err *err)
{
	uint8_t passes = ram[range->first];
	bool edge = false;

	for (uint32_t address = range->first; address < range->end; address += PAGE) {
		int ret = check_page(ram + address, address, err);

		if (ret)
			return ret;
		if (ram[address] == passes)
			continue;
		if (edge || ram[address] != (uint8_t)(passes - 1))
			return err_set(err, -EILSEQ,
				       "guest: page 0x%x was stepped %u times, those before it %u",
				       address, ram[address], passes);
		edge = true;
		passes = ram[address];
	}
	return 0;
}
