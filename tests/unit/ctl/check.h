/* SPDX-License-Identifier: Apache-2.0 */
/* What every test of ctl includes, in the order that cmocka wants. */
#ifndef TESTS_CTL_CHECK_H
#define TESTS_CTL_CHECK_H
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <cmocka.h>
#endif
