/* SPDX-License-Identifier: MIT */
#include <wherry/wherry.h>

#define TEXT(x) #x
#define VERSION(major, minor, patch) TEXT(major) "." TEXT(minor) "." TEXT(patch)

const char *wh_version(void)
{
	return VERSION(WH_VERSION_MAJOR, WH_VERSION_MINOR, WH_VERSION_PATCH);
}
