/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What one layer did to a tree, so that an image with the same lower layers need not decode them
 * again: the calls of the builder in order, without the content. Where content went need not be
 * said but for its holes: the allocator only goes forward, so that the same calls give the same
 * places.
 *
 *	header   "bangrec1", u32 version, u32 layer (0 is the bottom), u32 blocks before the first
 *	         content, u64 the allocator's cursor before, 32 bytes of chain: all little-endian
 *	calls    a byte and its operands as LEB128 numbers and counted bytes (record.c)
 *	trailer  the SHA-256 of all that is before it
 *
 * The chain is a hash over the diff_ids of this layer and of those below it. A record whose sum or
 * header is not as it should be is refused; what its calls say is checked besides as if strangers
 * had written it. Replaying gives exactly the tree that applying the layer gave, and the content
 * is then taken from a file that has it (ext4_builder_take_content()).
 */
#ifndef BANGER_EXT4_RECORD_H
#define BANGER_EXT4_RECORD_H

#include "unpack/builder/builder.h"

struct record;
struct node;
struct digest;

struct record_id {
	uint32_t layer;
	uint8_t chain[32];
};

/* Beside the tree, what a layer's record keeps. */
struct record_counts {
	uint64_t members, ignored_xattrs;
};

/* Starts to record the calls of b into fd (borrowed; a regular file, empty). digest is used until
 * the end and borrowed. */
int record_begin(struct ext4_builder *b, int fd, const struct record_id *id, struct digest *digest,
	struct banger_error *err);
/* Writes what is left and stops. NO_SPACE, INTERNAL. */
int record_end(
	struct ext4_builder *b, const struct record_counts *counts, struct banger_error *err);
/* Stops without an end. */
void record_drop(struct ext4_builder *b);

/* Carries out the record in fd on b, as the present layer. CORRUPT: it is damaged, or not this
 * layer's; b is then good only for freeing. */
int record_replay(struct ext4_builder *b, int fd, const struct record_id *id, struct digest *digest,
	struct record_counts *ret, struct banger_error *err);

/* The builder's own: its calls, when they have been successful. record may be NULL. An error is
 * kept for record_end(). attr NULL: an implied directory. */
void record_add(struct record *rec, uint32_t dir, const char *name, size_t name_len,
	const struct ext4_attr *attr, const char *target, size_t target_len);
void record_link(
	struct record *rec, uint32_t dir, const char *name, size_t name_len, uint32_t node);
void record_remove(struct record *rec, uint32_t dir, const char *name, size_t name_len);
void record_attr(struct record *rec, uint32_t node, const struct ext4_attr *attr);
void record_xattrs(struct record *rec, uint32_t node, const struct ext4_xattr *list, size_t n);
void record_content(struct record *rec, uint32_t node, struct node *n);

#endif
