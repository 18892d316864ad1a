/* SPDX-License-Identifier: Apache-2.0 */
/* What every test here includes, in the order that cmocka wants. */
#ifndef TESTS_CONTENT_CHECK_H
#define TESTS_CONTENT_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#endif
