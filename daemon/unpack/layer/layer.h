/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The members of an archive become files of an image: of one that is empty, or, when the archive is
 * a layer (OCI image spec, "layer.md"), of what the layers below it made. What a name means is
 * decided here:
 *
 * - Names are relative to the image's root, also those that begin with '/'. "." and empty
 * components are nothing, ".." is refused.
 * - A symlink in the way is followed as it would be in a system running from the image: absolute
 *   targets begin at the image's root, ".." stops there. The last component is never followed.
 * - Directories that no member describes are made: root's, 0755.
 * - A later member replaces an earlier one of its name, whatever the two are; only a directory over
 *   a directory keeps what is in it. Other names of what is replaced stay.
 * - A hard link's target is a name in the image as it is then, perhaps of a lower layer, and no
 *   directory. Both names are then one file.
 *
 * And of a layer:
 *
 * - ".wh.NAME" removes what lower layers have as NAME, ".wh..wh..opq" what they have in its
 *   directory, in both cases not what the layer itself puts there, wherever in the archive it does
 *   so. That nothing is there is fine. Whatever type such a member has, and its content, counts for
 *   nothing.
 * - Other names that begin with ".wh..wh." are some union filesystem's bookkeeping; they and what is
 *   below them are passed over.
 * - A whiteout of nothing, of "." or "..", and a member below a whiteout are refused.
 * - An archive without an end mark, or without anything at all, is whole: its digest says so. What
 *   follows the end mark is not looked at.
 */
#ifndef BANGER_UNPACK_LAYER_H
#define BANGER_UNPACK_LAYER_H

#include "unpack/builder/builder.h"
#include "unpack/tar/tar.h"

struct layer_options {
	bool whiteouts; /* it is a layer */
	/* Called between members and pieces of content; anything but 0 ends the work with it. */
	int (*tick)(void *arg, struct banger_error *err);
	void *arg;
};

struct layer_counts {
	uint64_t members;
	uint64_t ignored_xattrs; /* that no Linux filesystem could have on such a file */
};

/* Reads the archive to its end. Messages name the member. *ret is kept up to date while it runs. */
int layer_apply(struct tar_reader *tar, struct ext4_builder *b, const struct layer_options *o,
	struct layer_counts *ret, struct banger_error *err);

/* The directory that a path means in the image, with symlinks followed to the end; *ret is 0 when
 * there is none. BAD_REQUEST: a path that none can be. */
int layer_find_dir(
	struct ext4_builder *b, const char *path, ext4_node *ret, struct banger_error *err);

#endif
