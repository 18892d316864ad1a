/* SPDX-License-Identifier: Apache-2.0 */
/*
 * JSON written straight to text, for the few places that write a hundred thousand objects: a snapshot of the
 * registry. The document is the same as banger_image_to_json() makes; a test compares them.
 */
#ifndef BANGER_API_TEXT_H
#define BANGER_API_TEXT_H

#include <banger/model.h>

struct text {
	char *s; /* owned; not terminated */
	size_t len, size;
	bool failed; /* out of memory at some point: what is there is not whole */
};
void text_done(struct text *t);
void text_add(struct text *t, const char *s);
/* A JSON string, quoted and escaped; s is valid UTF-8. */
void text_add_string(struct text *t, const char *s);
void text_add_int(struct text *t, int64_t v);
void text_add_image(struct text *t, const struct banger_image *i);

#endif
