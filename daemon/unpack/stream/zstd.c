/* SPDX-License-Identifier: Apache-2.0 */
/*
 * zstd through libzstd: frames, skippable ones too, one after another. A frame says how large a
 * window it needs; over 128 MiB (zstd --long=28 and more) is refused.
 */
#include "unpack/stream/codec.h"

#include <zstd.h>
#include <zstd_errors.h>

struct zstd {
	ZSTD_DStream *stream;
	bool between; /* frames */
};

static void *zstd_open(void)
{
	struct zstd *z = calloc(1, sizeof(*z));

	if (z)
		z->stream = ZSTD_createDStream();
	if (!z || !z->stream ||
		ZSTD_isError(ZSTD_DCtx_setParameter(z->stream, ZSTD_d_windowLogMax, 27))) {
		if (z)
			ZSTD_freeDStream(z->stream);
		free(z);
		return NULL;
	}
	z->between = true;
	return z;
}

static void zstd_close(void *state)
{
	struct zstd *z = state;

	ZSTD_freeDStream(z->stream);
	free(z);
}

static int zstd_error(size_t code, struct banger_error *err)
{
	switch (ZSTD_getErrorCode(code)) {
	case ZSTD_error_memory_allocation:
		return banger_error_oom(err);
	case ZSTD_error_frameParameter_windowTooLarge:
		return banger_error_set(err, BANGER_TOO_LARGE,
			"the zstd data wants a window of more than 128 MiB; compress it without "
			"--long");
	default:
		return banger_error_set(err, BANGER_CORRUPT, "the zstd data is damaged: %s",
			ZSTD_getErrorName(code));
	}
}

static int zstd_decode(void *state, struct codec_io *io, struct banger_error *err)
{
	struct zstd *z = state;

	if (io->in_len == 0 && z->between)
		return io->last;
	ZSTD_inBuffer in = {.src = io->in, .size = io->in_len};
	ZSTD_outBuffer out = {.dst = io->out, .size = io->room};
	size_t r = ZSTD_decompressStream(z->stream, &out, &in);
	if (ZSTD_isError(r))
		return zstd_error(r, err);
	io->in += in.pos;
	io->in_len -= in.pos;
	io->out += out.pos;
	io->room -= out.pos;
	z->between = r == 0;
	if (!z->between && io->last && io->in_len == 0 && io->room > 0)
		return banger_error_set(err, BANGER_CORRUPT, "the zstd data ends too early");
	return 0;
}

const struct codec codec_zstd = {
	.name = "zstd",
	.magic = (const uint8_t[]){0x28, 0xb5, 0x2f, 0xfd},
	.magic_len = 4,
	.open = zstd_open,
	.close = zstd_close,
	.decode = zstd_decode,
};
