/* SPDX-License-Identifier: Apache-2.0 */
/* What every test of pull includes, in the order that cmocka wants. */
#ifndef TESTS_PULL_CHECK_H
#define TESTS_PULL_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <banger/error.h>

/* The message of an error has the text in it; shows the message if not. */
#define assert_message(e, text)                                                                    \
	do {                                                                                       \
		if (!strstr((e)->message, text))                                                   \
			fail_msg("\"%s\" is not in: %s", text, (e)->message);                      \
	} while (0)
#endif
