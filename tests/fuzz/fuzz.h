/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What every fuzz target shares: libFuzzer's entry point, and a check that ends the process in a
 * way that libFuzzer and the replay runner both count as a finding, also where assert() is compiled
 * out.
 */
#ifndef BANGER_FUZZ_H
#define BANGER_FUZZ_H

#include <stddef.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size);

#define MUST(cond)                                                                                 \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #cond);         \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

#endif
