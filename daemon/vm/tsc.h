/* SPDX-License-Identifier: Apache-2.0 */
/* The rate of this machine's time stamp counter, which an emulated CPU shares. */
#ifndef BANGER_VM_TSC_H
#define BANGER_VM_TSC_H

#include <stdint.h>

/* In kHz; 0 where there is none that runs at a constant rate. Measured over the time since the first call, at
 * least 10 ms: call it once early, when the time is not yet needed. Any thread. */
int64_t tsc_khz(void);

#endif
