/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that cannot ask a hypervisor calibrates its TSC against the emulated PIT. On a busy host that takes
 * up to 100 ms, and it sometimes fails, after which the guest may hang. The emulated TSC is the host's, so
 * the host can tell the guest the rate (tsc_early_khz=). It is measured against CLOCK_MONOTONIC_RAW between
 * two moments; each moment is read as the TSC between two readings of the clock, the tightest of several.
 */
#include "vm/tsc.h"

#if defined(__x86_64__)
#include <pthread.h>
#include <stdbool.h>
#include <stdio.h>
#include <string.h>
#include <time.h>
#include <x86intrin.h>

#define MEASURE_NS INT64_C(10000000)

struct moment {
	int64_t ns;
	uint64_t ticks;
};

static pthread_once_t once = PTHREAD_ONCE_INIT;
static struct moment start;
static bool constant;

static int64_t raw_ns(void)
{
	struct timespec t;
	clock_gettime(CLOCK_MONOTONIC_RAW, &t);
	return t.tv_sec * INT64_C(1000000000) + t.tv_nsec;
}

static struct moment take(void)
{
	struct moment best = {0};
	int64_t tightest = INT64_MAX;
	for (int i = 0; i < 16; i++) {
		int64_t before = raw_ns();
		uint64_t ticks = __rdtsc();
		int64_t after = raw_ns();
		if (after - before < tightest) {
			tightest = after - before;
			best = (struct moment){before + (after - before) / 2, ticks};
		}
	}
	return best;
}

static bool flag_set(const char *flags, const char *flag)
{
	size_t n = strlen(flag);
	for (const char *p = strstr(flags, flag); p; p = strstr(p + 1, flag))
		if (p[-1] == ' ' && (p[n] == ' ' || p[n] == '\n'))
			return true;
	return false;
}

static void begin(void)
{
	char line[8192];
	FILE *f = fopen("/proc/cpuinfo", "re");
	while (f && fgets(line, sizeof(line), f))
		if (strncmp(line, "flags", 5) == 0) {
			constant = flag_set(line, "constant_tsc") && flag_set(line, "nonstop_tsc");
			break;
		}
	if (f)
		fclose(f);
	start = take();
}

int64_t tsc_khz(void)
{
	pthread_once(&once, begin);
	if (!constant)
		return 0;
	struct moment now = take();
	if (now.ns - start.ns < MEASURE_NS) {
		struct timespec rest = {.tv_nsec = MEASURE_NS - (now.ns - start.ns)};
		nanosleep(&rest, NULL);
		now = take();
	}
	return (int64_t)((long double)(now.ticks - start.ticks) * 1000000 / (now.ns - start.ns) +
			 0.5L);
}
#else
int64_t tsc_khz(void)
{
	return 0;
}
#endif
