/* SPDX-License-Identifier: MIT */
#ifndef CLI_DIGEST_H
#define CLI_DIGEST_H

/*
 * XXH3 with the vectors that the processor has: where the library was built so that it can tell,
 * as Debian's is, there is a header that puts those functions in the place of the others. They
 * give the same digests, four times as fast in the cache and as fast as memory is read elsewhere.
 */
#if defined(__x86_64__) && __has_include(<xxh_x86dispatch.h>)
#include <xxh_x86dispatch.h>
#else
#include <xxhash.h>
#endif

#endif /* CLI_DIGEST_H */
