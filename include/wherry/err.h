/* SPDX-License-Identifier: MIT */
#ifndef WHERRY_ERR_H
#define WHERRY_ERR_H

#define WH_ERR_TEXT 256

/**
 * struct wh_err - One sentence about one failure
 * @code:	Negative errno; 0 as long as nothing has failed
 * @text:	The sentence, without a final newline, always terminated
 *
 * The caller's storage, filled in by the function that failed and by nobody
 * after it. Reporting cannot fail and there is nothing to free. Every function
 * that takes one accepts NULL.
 */
struct wh_err {
	int code;
	char text[WH_ERR_TEXT];
};

#endif /* WHERRY_ERR_H */
