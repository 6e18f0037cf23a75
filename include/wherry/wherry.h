/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_WHERRY_H
#define WHERRY_WHERRY_H

#include <wherry/agent.h>
#include <wherry/check.h>
#include <wherry/dump.h>
#include <wherry/err.h>
#include <wherry/file.h>
#include <wherry/migration.h>
#include <wherry/netplug.h>
#include <wherry/protect.h>
#include <wherry/tls.h>

#define WH_VERSION_MAJOR 0
#define WH_VERSION_MINOR 1
#define WH_VERSION_PATCH 0

#pragma GCC visibility push(default)

#ifdef __cplusplus
extern "C" {
#endif

/* Of the library that is linked, "0.1.0" */
const char *wh_version(void);

#ifdef __cplusplus
}
#endif

#pragma GCC visibility pop

#endif /* WHERRY_WHERRY_H */
