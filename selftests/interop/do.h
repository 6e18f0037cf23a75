/* SPDX-License-Identifier: MIT */
#ifndef INTEROP_DO_H
#define INTEROP_DO_H

/*
 * A call that returns 0 or fills in err, else the test has failed and says why. Not
 * ASSERT_EQ(): behind its jump nothing is torn down.
 */
#define DO(call)                                \
	do {                                    \
		int done;                       \
                                                \
		err.text[0] = '\0';             \
		done = (call);                  \
		EXPECT_EQ(0, done)              \
		{                               \
			TH_LOG("%s", err.text); \
		}                               \
		if (done)                       \
			return;                 \
	} while (0)

#endif /* INTEROP_DO_H */
