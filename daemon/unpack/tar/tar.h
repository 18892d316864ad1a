/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Reads a tar archive from a stream, member by member: V7, ustar, pax (POSIX.1-2008, pax
 * "Interchange Format"), GNU (its manual, "Basic Tar Format") with long names and sparse files of
 * all four kinds, star's prefix. Names are bytes, exactly those of the archive. Everything that a
 * header claims is checked; nothing is repaired or passed over but what the formats say may be.
 *
 * Not libarchive: under a UTF-8 locale it turns decomposed characters of pax names into composed
 * ones (two members become one), and under any it warns about names that are not UTF-8, while its
 * other warnings have to be taken as errors.
 */
#ifndef BANGER_UNPACK_TAR_H
#define BANGER_UNPACK_TAR_H

#include <stdbool.h>
#include "unpack/stream/stream.h"

enum tar_type { TAR_FILE, TAR_LINK, TAR_SYMLINK, TAR_CHAR, TAR_BLOCK, TAR_DIR, TAR_FIFO };

struct tar_time {
	int64_t sec;
	uint32_t nsec;
};

struct tar_string {
	const char *s; /* terminated, and may have NULs within (attribute values) */
	size_t len;
};

struct tar_xattr {
	struct tar_string name, value; /* as getxattr(2) has them */
};

/* Valid until the next tar_next(). */
struct tar_member {
	enum tar_type type;
	struct tar_string path, link; /* link: target of a hard link or symlink */
	uint32_t mode;                /* permission bits, 07777 */
	uint32_t uid, gid;
	struct tar_time mtime, atime, ctime; /* those not said are mtime */
	uint32_t major, minor;
	uint64_t size;   /* of the file, holes counted */
	uint64_t offset; /* of its header in the decompressed stream */
	const struct tar_xattr *xattrs;
	size_t n_xattrs;
};

struct tar_reader;

/* Reads one blob of the stream, which has been begun. whole: something else says whether it is all
 * there (a digest), so neither an end mark nor any member is required. */
int tar_new(struct stream *stream, bool whole, struct tar_reader **ret, struct banger_error *err);
void tar_freep(struct tar_reader **t);
#define _cleanup_tar_ _cleanup_(tar_freep)

/* The next member: 1 and *ret, or 0 at the end, when the stream has been read to its own end too.
 * BAD_REQUEST: not a tar archive. CORRUPT: damaged, or cut off. UNSUPPORTED: a kind of member that
 * is not read. TOO_LARGE, and the stream's errors. Messages name what is known: member and offset.
 */
int tar_next(struct tar_reader *t, const struct tar_member **ret, struct banger_error *err);

/* Content of the present member, if it is a TAR_FILE: 1 with a piece and its offset in the file
 * (ascending; what is between is holes), 0 at the end. What is not read is skipped by tar_next().
 */
int tar_data(struct tar_reader *t, const uint8_t **ret, size_t *ret_len, uint64_t *ret_offset,
	struct banger_error *err);

/* Bytes of the decompressed stream used so far. */
uint64_t tar_position(const struct tar_reader *t);

#endif
