/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the files of the tar reader.
 *	tar.c     headers to members     pax.c     extended headers
 *	sparse.c  maps of sparse files   acl.c     POSIX ACLs in text form
 *	number.c  numbers and times
 */
#ifndef BANGER_UNPACK_TAR_INTERNAL_H
#define BANGER_UNPACK_TAR_INTERNAL_H

#include <string.h>
#include "unpack/tar/tar.h"

#define TAR_BLOCK_SIZE 512u
#define TAR_EXTENDED_MAX (4u << 20) /* bytes of extended headers of one member */
#define TAR_GLOBAL_MAX (64u << 10)  /* bytes of global extended headers */
#define TAR_SPARSE_MAX (1u << 20)   /* pieces of a sparse file */

/* A header block. Fields are bytes, not always terminated. */
struct tar_header {
	char name[100];
	char mode[8], uid[8], gid[8];
	char size[12], mtime[12];
	char checksum[8];
	char type;
	char link[100];
	char magic[8]; /* and version */
	char uname[32], gname[32];
	char major[8], minor[8];
	char prefix[155];
	char pad[12];
};
_Static_assert(sizeof(struct tar_header) == TAR_BLOCK_SIZE, "a header is a block");

/* A piece of a sparse file that is in the archive. */
struct tar_piece {
	uint64_t offset, len;
};

/* An attribute in tar_reader.values: its name, its value, where that ends. */
struct tar_attr {
	size_t name, value, end;
};

/* A growing buffer. */
struct tar_buffer {
	char *data;
	size_t len, room;
};

/* What extended headers say of a member; strings point into the headers. */
struct tar_pax {
	struct tar_string path, link; /* s NULL: not said */
	bool has_size, has_uid, has_gid, has_mtime, has_atime, has_ctime;
	int64_t size, uid, gid;
	struct tar_time mtime, atime, ctime;
	/* GNU sparse files */
	struct tar_string sparse_name, sparse_map;
	int64_t sparse_major, sparse_minor, sparse_size; /* -1: not said */
	bool sparse_pairs; /* version 0.0: pieces were appended to the reader's list */
	bool pair_open;
};

struct tar_reader {
	struct stream *stream;
	const uint8_t *at; /* what is left of the stream's present piece */
	size_t left;
	uint64_t position;
	bool whole;      /* see tar_new() */
	bool ended, any; /* any: a header was good */

	struct tar_member member;
	struct tar_buffer global, local;                    /* raw extended headers, records only */
	struct tar_buffer long_name, long_link, path, link; /* terminated */
	struct tar_attr *attrs;
	size_t n_attrs, cap_attrs;
	struct tar_buffer values; /* decoded names and values of attributes */
	struct tar_xattr *xattrs; /* the attributes as the member has them */
	size_t cap_xattrs;

	uint64_t data_left; /* of the member, in the archive */
	uint32_t padding;   /* behind it */
	uint64_t data_at;   /* in the file */
	bool sparse;
	struct tar_piece *pieces;
	size_t n_pieces, cap_pieces, piece;
	uint64_t piece_done;
};

/* tar.c: the stream by bytes. CORRUPT when it ends before. */
int tar_take(struct tar_reader *t, void *to, size_t len, struct banger_error *err);
int tar_skip(struct tar_reader *t, uint64_t len, struct banger_error *err);
/* Adds to a buffer; a terminating NUL is kept behind it. */
int tar_append(struct tar_buffer *b, const void *data, size_t len, struct banger_error *err);
void tar_buffer_done(struct tar_buffer *b);
/* CORRUPT, "WHAT at byte N". */
int tar_corrupt(
	const struct tar_reader *t, uint64_t offset, const char *what, struct banger_error *err);

/* number.c. A header's number: octal digits or base 256, blank is 0. -EINVAL. */
int tar_number(const char *field, size_t len, int64_t *ret);
int tar_decimal(const char *s, size_t len, int64_t *ret);
/* Decimal seconds with a fraction, perhaps negative. Beyond the range of seconds: its end. */
int tar_seconds(const char *s, size_t len, struct tar_time *ret);

/* pax.c. Applies the records of one extended header. */
int tar_pax_apply(struct tar_reader *t, const struct tar_buffer *records, struct tar_pax *pax,
	struct banger_error *err);

/* acl.c. Text form to the value of system.posix_acl_*, appended to out. UNSUPPORTED for a name
 * without a number, CORRUPT for what is no ACL. */
int tar_acl_parse(const char *text, size_t len, struct tar_buffer *out, struct banger_error *err);

/* sparse.c. Reads the member's map, however it is given, into t->pieces. */
int tar_add_piece(struct tar_reader *t, uint64_t offset, uint64_t len, struct banger_error *err);
int tar_sparse_old(struct tar_reader *t, const struct tar_header *h, struct banger_error *err);
int tar_sparse_pax(struct tar_reader *t, const struct tar_pax *pax, struct banger_error *err);
/* Is the map in order and does it agree with the sizes? */
int tar_sparse_check(struct tar_reader *t, struct banger_error *err);

#endif
