/* SPDX-License-Identifier: Apache-2.0 */
/*
 * CRC-32C as ext4 uses it: no inversion at the ends. Every inode and directory block that is looked at is
 * summed, which is a tenth of a first walk through a tree when done by tables; where the processor
 * has an instruction for it, it costs nothing that can be measured.
 */
#include "internal.h"

#if defined(__x86_64__)
#include <nmmintrin.h>

__attribute__((target("sse4.2"))) static uint32_t by_instruction(
	uint32_t seed, const uint8_t *p, size_t len)
{
	uint64_t c = seed;

	for (; len >= 8; p += 8, len -= 8) {
		uint64_t v;
		memcpy(&v, p, sizeof(v));
		c = _mm_crc32_u64(c, v);
	}
	for (; len > 0; p++, len--)
		c = _mm_crc32_u8((uint32_t)c, *p);
	return (uint32_t)c;
}

uint32_t csum32(uint32_t seed, const void *p, size_t len)
{
	if (__builtin_cpu_supports("sse4.2"))
		return by_instruction(seed, p, len);
	return ext2fs_crc32c_le(seed, p, len);
}
#else
uint32_t csum32(uint32_t seed, const void *p, size_t len)
{
	return ext2fs_crc32c_le(seed, p, len);
}
#endif
