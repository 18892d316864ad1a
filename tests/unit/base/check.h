/* SPDX-License-Identifier: Apache-2.0 */
/* What every test of base includes, in the order that cmocka wants. */
#ifndef TESTS_BASE_CHECK_H
#define TESTS_BASE_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#endif
