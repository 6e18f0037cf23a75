/* SPDX-License-Identifier: MIT */
/* Joining: libzstd. A context takes no more than its window, which is bounded. */
#include "postcopy/zstd.h"

#include "base/err.h"

#include <errno.h>
#include <stdbool.h>
#include <stdlib.h>
#include <zstd.h>

/* Level 20, the highest that QEMU takes, has 32 MiB; a stranger gets no more of each channel */
#define WINDOW_LOG 25

struct unpack {
	ZSTD_DCtx *context;
};

struct unpack *unpack_new(void)
{
	struct unpack *unpack = calloc(1, sizeof(*unpack));

	if (!unpack)
		return NULL;
	unpack->context = ZSTD_createDCtx();
	if (unpack->context &&
	    !ZSTD_isError(ZSTD_DCtx_setParameter(unpack->context, ZSTD_d_windowLogMax, WINDOW_LOG)))
		return unpack;
	unpack_free(unpack);
	return NULL;
}

void unpack_free(struct unpack *unpack)
{
	if (unpack)
		ZSTD_freeDCtx(unpack->context);
	free(unpack);
}

int unpack_pages(struct unpack *unpack, const uint8_t *packed, size_t bytes,
		 const struct iovec *pages, unsigned count, struct wh_err *err)
{
	ZSTD_inBuffer in = { .src = packed, .size = bytes };

	for (unsigned i = 0; i < count; i++) {
		ZSTD_outBuffer out = { .dst = pages[i].iov_base, .size = pages[i].iov_len };

		while (out.pos < out.size) {
			size_t before = in.pos + out.pos;
			size_t ret = ZSTD_decompressStream(unpack->context, &out, &in);

			if (ZSTD_isError(ret))
				return err_set(err, -EPROTO, "zstd: %s", ZSTD_getErrorName(ret));
			if (in.pos + out.pos == before)
				return err_set(err, -EPROTO,
					       "zstd: %zu bytes, which are not all of the pages",
					       bytes);
		}
	}
	/* what is left ends the last block: it has no contents any more */
	while (in.pos < in.size) {
		uint8_t more;
		ZSTD_outBuffer out = { .dst = &more, .size = 1 };
		size_t before = in.pos;
		size_t ret = ZSTD_decompressStream(unpack->context, &out, &in);

		if (ZSTD_isError(ret))
			return err_set(err, -EPROTO, "zstd: %s", ZSTD_getErrorName(ret));
		if (out.pos || in.pos == before)
			return err_set(err, -EPROTO, "zstd: %zu bytes, more than the pages have",
				       bytes);
	}
	return 0;
}

struct pack {
	ZSTD_CCtx *context;
};

struct pack *pack_new(int level)
{
	struct pack *pack = calloc(1, sizeof(*pack));

	if (!pack)
		return NULL;
	pack->context = ZSTD_createCCtx();
	if (pack->context &&
	    !ZSTD_isError(ZSTD_CCtx_setParameter(pack->context, ZSTD_c_compressionLevel, level)))
		return pack;
	pack_free(pack);
	return NULL;
}

void pack_free(struct pack *pack)
{
	if (pack)
		ZSTD_freeCCtx(pack->context);
	free(pack);
}

ssize_t pack_pages(struct pack *pack, const struct iovec *pages, unsigned count, uint8_t *packed,
		   size_t room, struct wh_err *err)
{
	ZSTD_outBuffer out = { .dst = packed, .size = room };

	for (unsigned i = 0; i < count; i++) {
		/* a page that the guest writes meanwhile is copied once, and comes again */
		ZSTD_inBuffer in = { .src = pages[i].iov_base, .size = pages[i].iov_len };
		bool last = i + 1 == count;
		size_t left;

		do {
			left = ZSTD_compressStream2(pack->context, &out, &in,
						    last ? ZSTD_e_flush : ZSTD_e_continue);
			if (ZSTD_isError(left))
				return err_set(err, -EIO, "zstd: %s", ZSTD_getErrorName(left));
			if (out.pos == out.size)
				return err_set(err, -EIO, "zstd: a packet of over %zu bytes", room);
		} while (in.pos < in.size || (last && left));
	}
	return (ssize_t)out.pos;
}
