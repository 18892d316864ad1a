/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The ext4 reader on images that were tampered with. An input is a byte that chooses one of the
 * small sound images in ../unit/fs/content/bases.h, and patches to it: two bytes that choose a
 * place, one for how many bytes (1 to 16), these. Places count only what is not zero in the base
 * and the little around it, so that patches hit metadata and not the empty blocks. Where the
 * superblock has a checksum it is made right again, so that lies in it get further than the first
 * check.
 */
#include <ext2fs/ext2fs.h>

#include "fuzz.h"
#include "../unit/fs/content/walk.h"

#define PLACE 16 /* bytes that one place spans */

struct loaded {
	uint8_t *image;
	uint32_t *places;
	size_t count;
	int fd;
};

static struct loaded loaded[ELEMENTSOF(bases)];
static struct ext4_scratch *scratch;
static char buf[2 * EXT4_XATTR_MAX];

static void load(const struct base *b, struct loaded *l)
{
	static const uint8_t zero[PLACE];

	l->image = base_expand(b);
	l->places = malloc(b->size / PLACE * sizeof(*l->places));
	MUST(l->places);
	for (size_t at = 0; at < b->size; at += PLACE)
		if (memcmp(l->image + at, zero, PLACE) != 0 ||
			(at >= PLACE && memcmp(l->image + at - PLACE, zero, PLACE) != 0))
			l->places[l->count++] = (uint32_t)at;
	l->fd = base_file(l->image, b->size);
}

static void start(void)
{
	initialize_ext2_error_table();
	scratch = ext4_scratch_new();
	MUST(scratch);
	for (size_t k = 0; k < ELEMENTSOF(bases); k++)
		load(&bases[k], &loaded[k]);
}

/* Write bytes, or what stood there before. */
static void put(const struct loaded *l, size_t size, size_t at, const uint8_t *p, size_t n)
{
	if (n > size - at)
		n = size - at;
	MUST(pwrite(l->fd, p, n, (off_t)at) == (ssize_t)n);
}

static void sum_superblock(const struct loaded *l)
{
	uint8_t sb[SUPERBLOCK_SIZE];
	uint32_t sum;

	MUST(pread(l->fd, sb, sizeof(sb), SUPERBLOCK_OFFSET) == sizeof(sb));
	sum = htole32(ext2fs_crc32c_le(~0u, sb, sizeof(sb) - 4));
	put(l, SIZE_MAX, SUPERBLOCK_OFFSET + sizeof(sb) - 4, (uint8_t *)&sum, 4);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	const struct base *b;
	struct loaded *l;
	size_t k;

	if (!scratch)
		start();
	if (size < 1 || size > 4096)
		return 0;
	b = &bases[data[0] % ELEMENTSOF(bases)];
	l = &loaded[data[0] % ELEMENTSOF(bases)];
	for (k = 1; k + 3 < size;) {
		size_t place = (data[k] | (size_t)data[k + 1] << 8) % (l->count * PLACE),
		       n = data[k + 2] % 16 + 1u;
		n = n < size - k - 3 ? n : size - k - 3;
		put(l, b->size, l->places[place / PLACE] + place % PLACE, data + k + 3, n);
		k += 3 + n;
	}
	sum_superblock(l);
	(void)walk_image(l->fd, scratch, buf);
	for (k = 1; k + 3 < size;) { /* as it was */
		size_t place = (data[k] | (size_t)data[k + 1] << 8) % (l->count * PLACE),
		       n = data[k + 2] % 16 + 1u, at = l->places[place / PLACE] + place % PLACE;
		n = n < size - k - 3 ? n : size - k - 3;
		put(l, b->size, at, l->image + at, n);
		k += 3 + n;
	}
	put(l, SIZE_MAX, SUPERBLOCK_OFFSET, l->image + SUPERBLOCK_OFFSET, SUPERBLOCK_SIZE);
	return 0;
}
