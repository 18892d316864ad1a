/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A decoder as stream.c drives it: input is pushed in, output taken out, in pieces of any size.
 */
#ifndef BANGER_UNPACK_CODEC_H
#define BANGER_UNPACK_CODEC_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <banger/error.h>

struct codec_io {
	const uint8_t *in; /* advanced past what was used */
	size_t in_len;
	bool last; /* no input follows */
	uint8_t *out;
	size_t room;
};

struct codec {
	const char *name;
	const uint8_t *magic;
	size_t magic_len;
	/* NULL: no memory. */
	void *(*open)(void);
	void (*close)(void *state);
	/* Uses some input or makes some output. Returns 1 when input is at its last and all output
	 * has been made, 0 to be called again, or an error. */
	int (*decode)(void *state, struct codec_io *io, struct banger_error *err);
};

extern const struct codec codec_gzip, codec_zstd, codec_xz;

/* A window or dictionary that needs more is refused. */
#define CODEC_MEMORY_MAX (192u << 20)

#endif
