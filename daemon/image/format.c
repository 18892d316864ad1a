/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Formats by their magic numbers. Those that cannot be imported are told as exactly as those that can:
 * somebody who has such a file wants to know what it is and what to do with it.
 *
 * Partition tables: the master boot record's is four entries of 16 bytes at 446 and the mark 55 aa at
 * 510; a GPT is a header at 512 ("EFI PART") and entries of 128 bytes from 1024 on, of which the
 * first eight are looked at (UEFI specification, 5.2 and 5.3). Sectors of 512 bytes.
 */
#include "image/format.h"

#include <endian.h>
#include <stdbool.h>
#include <string.h>
#include "ext4/superblock.h"
#include "pull/bundle.h"

#define SECTOR 512

int format_parse(const char *word, enum image_format *ret, struct banger_error *err)
{
	static const char *const words[] = {[FORMAT_RAW] = "raw",
		[FORMAT_TAR] = "tar",
		[FORMAT_BUNDLE] = "bundle",
		[FORMAT_QCOW2] = "qcow2"};

	if (!word || !strcmp(word, "auto"))
		return 0;
	for (size_t i = 0; i < ELEMENTSOF(words); i++)
		if (!strcmp(word, words[i])) {
			*ret = (enum image_format)i;
			return 1;
		}
	return banger_error_set(err, BANGER_BAD_REQUEST,
		"format \"%s\" is not one of auto, raw, tar, bundle, qcow2", word);
}

static bool has(const unsigned char *head, size_t len, size_t at, const char *bytes, size_t n)
{
	return len >= at + n && memcmp(head + at, bytes, n) == 0;
}

static bool looks_like_tar(const unsigned char *head, size_t len)
{
	static const struct {
		unsigned at, len;
		const char *bytes;
	} signs[] = {{257, 5, "ustar"}, {0, 2, "\x1f\x8b"}, {0, 4, "\x28\xb5\x2f\xfd"},
		{0, 6, "\xfd\x37zXZ\0"}, {0, 3, "BZh"}};

	for (size_t k = 0; k < ELEMENTSOF(signs); k++)
		if (has(head, len, signs[k].at, signs[k].bytes, signs[k].len))
			return true;
	return false;
}

/* ---- what other programs make */

static int refuse_foreign(
	const unsigned char *head, size_t len, const char *what, struct banger_error *err)
{
	static const struct {
		unsigned at, len;
		const char *bytes, *name, *word; /* qemu-img's; NULL: a filesystem */
	} signs[] = {
		{0, 4, "KDMV", "a VMDK disk image", "vmdk"},
		{0, 4, "COWD", "a VMDK disk image", "vmdk"},
		{0, 21, "# Disk DescriptorFile", "a VMDK disk image", "vmdk"},
		{0, 8, "conectix", "a VHD disk image", "vpc"},
		{0, 8, "vhdxfile", "a VHDX disk image", "vhdx"},
		{0x40, 4, "\x7f\x10\xda\xbe", "a VDI disk image", "vdi"},
		{0, 4, "QED\0", "a QED disk image", "qed"},
		{0, 4, "XFSB", "an XFS filesystem", NULL},
		{0, 4, "hsqs", "a squashfs filesystem", NULL},
		{1024, 4, "\x10\x20\xf5\xf2", "an F2FS filesystem", NULL},
		{1024, 4, "\xe2\xe1\xf5\xe0", "an EROFS filesystem", NULL},
		{0, 6, "LUKS\xba\xbe", "an encrypted disk (LUKS)", NULL},
	};

	for (size_t i = 0; i < ELEMENTSOF(signs); i++) {
		if (!has(head, len, signs[i].at, signs[i].bytes, signs[i].len))
			continue;
		if (signs[i].word)
			return banger_error_set(err, BANGER_UNSUPPORTED,
				"%s is %s, which banger does not read: convert it with \"qemu-img "
				"convert -f %s "
				"-O qcow2\" first",
				what, signs[i].name, signs[i].word);
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"%s is %s; banger boots ext4: import what is in it as a tarball or a "
			"directory tree",
			what, signs[i].name);
	}
	return 0;
}

/* ---- partitions */

struct partition {
	uint64_t start, sectors;
};

static uint32_t le32(const unsigned char *p)
{
	uint32_t v;

	memcpy(&v, p, sizeof(v));
	return le32toh(v);
}

static uint64_t le64(const unsigned char *p)
{
	uint64_t v;

	memcpy(&v, p, sizeof(v));
	return le64toh(v);
}

/* The largest; sectors 0: none is known. */
static struct partition gpt_largest(const unsigned char *head, size_t len)
{
	struct partition best = {0};

	for (size_t at = 1024; at + 128 <= len; at += 128) {
		uint64_t first = le64(head + at + 32), last = le64(head + at + 40);
		if (first > 0 && last >= first && last < UINT64_MAX / SECTOR &&
			last - first + 1 > best.sectors)
			best = (struct partition){first, last - first + 1};
	}
	return best;
}

/* Of the master boot record. False: there is no such table. */
static bool mbr_largest(const unsigned char *head, size_t len, struct partition *ret)
{
	struct partition best = {0};

	if (!has(head, len, 510, "\x55\xaa", 2))
		return false;
	for (const unsigned char *p = head + 446; p < head + 510; p += 16) {
		if (p[0] != 0 && p[0] != 0x80)
			return false; /* code, not a table */
		if (p[4] && le32(p + 8) > 0 && le32(p + 12) > best.sectors)
			best = (struct partition){le32(p + 8), le32(p + 12)};
	}
	*ret = best;
	return best.sectors > 0;
}

int format_check_disk(
	const unsigned char *head, size_t len, const char *what, struct banger_error *err)
{
	bool gpt = has(head, len, SECTOR, "EFI PART", 8);
	struct partition p = {0};
	char dd[256] = "";

	if (ext4_magic(head, len) || (!gpt && !mbr_largest(head, len, &p)))
		return 0;
	if (gpt)
		p = gpt_largest(head, len);
	if (p.sectors > 0)
		snprintf(dd, sizeof(dd),
			"; of the raw disk, the largest is had by \"dd if=DISK of=rootfs.ext4 "
			"bs=1M "
			"iflag=skip_bytes,count_bytes skip=%llu count=%llu\"",
			(unsigned long long)p.start * SECTOR,
			(unsigned long long)p.sectors * SECTOR);
	return banger_error_set(err, BANGER_UNSUPPORTED,
		"%s is a whole disk with a partition table (%s), and banger boots a bare ext4 "
		"filesystem: import "
		"the partition that has the root filesystem%s",
		what, gpt ? "GPT" : "MBR", dd);
}

int format_detect(const unsigned char *head, size_t len, const char *what, enum image_format *ret,
	struct banger_error *err)
{
	int r = 0;

	if (ext4_magic(head, len))
		*ret = FORMAT_RAW;
	else if (has(head, len, 0, "QFI\xfb", 4))
		*ret = FORMAT_QCOW2;
	else if (bundle_head_matches(head, len))
		*ret = FORMAT_BUNDLE;
	else if (looks_like_tar(head, len))
		*ret = FORMAT_TAR;
	else if ((r = refuse_foreign(head, len, what, err)) == 0 &&
		 (r = format_check_disk(head, len, what, err)) == 0)
		*ret = FORMAT_RAW;
	return r;
}
