/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What is it that shall be imported? Told by its first bytes.
 */
#ifndef BANGER_IMAGE_FORMAT_H
#define BANGER_IMAGE_FORMAT_H

#include <stddef.h>
#include <banger/error.h>

enum image_format { FORMAT_RAW, FORMAT_TAR, FORMAT_BUNDLE, FORMAT_QCOW2 };

#define FORMAT_HEAD 2048 /* bytes that are enough for everything that is looked for */

/* 1 and *ret for the word of a format; 0 for "auto" and NULL; BAD_REQUEST for any other. */
int format_parse(const char *word, enum image_format *ret, struct banger_error *err);
/* What these are the first bytes of. What nothing is known of is raw, whose check says best what is wrong with it.
 * UNSUPPORTED, with what to do: disk images of other programs, disks with partitions, other filesystems. what: the
 * input in messages. */
int format_detect(const unsigned char *head, size_t len, const char *what, enum image_format *ret,
	struct banger_error *err);
/* The last part of that alone, for a disk that came out of an image: it must be a bare filesystem. */
int format_check_disk(
	const unsigned char *head, size_t len, const char *what, struct banger_error *err);

#endif
