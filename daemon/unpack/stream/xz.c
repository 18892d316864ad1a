/* SPDX-License-Identifier: Apache-2.0 */
/*
 * xz through liblzma: streams one after another, with padding between them. The dictionary decides
 * how much memory decoding takes; what wants more than the limit is refused.
 */
#include "unpack/stream/codec.h"

#include <lzma.h>

static void *xz_open(void)
{
	lzma_stream *s = calloc(1, sizeof(*s));

	if (!s)
		return NULL;
	*s = (lzma_stream)LZMA_STREAM_INIT;
	if (lzma_stream_decoder(s, CODEC_MEMORY_MAX, LZMA_CONCATENATED) != LZMA_OK) {
		free(s);
		return NULL;
	}
	return s;
}

static void xz_close(void *state)
{
	lzma_end(state);
	free(state);
}

static int xz_error(lzma_ret r, struct banger_error *err)
{
	switch (r) {
	case LZMA_MEM_ERROR:
		return banger_error_oom(err);
	case LZMA_MEMLIMIT_ERROR:
		return banger_error_set(err, BANGER_TOO_LARGE,
			"the xz data wants more than %u MiB of memory; compress it with -9 or less",
			CODEC_MEMORY_MAX >> 20);
	case LZMA_BUF_ERROR:
		return banger_error_set(err, BANGER_CORRUPT, "the xz data ends too early");
	case LZMA_OPTIONS_ERROR:
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the xz data uses options that are not known here");
	default:
		return banger_error_set(err, BANGER_CORRUPT, "the xz data is damaged");
	}
}

static int xz_decode(void *state, struct codec_io *io, struct banger_error *err)
{
	lzma_stream *s = state;

	s->next_in = io->in;
	s->avail_in = io->in_len;
	s->next_out = io->out;
	s->avail_out = io->room;
	lzma_ret r = lzma_code(s, io->last ? LZMA_FINISH : LZMA_RUN);
	io->in = s->next_in;
	io->in_len = s->avail_in;
	io->out = s->next_out;
	io->room = s->avail_out;
	if (r == LZMA_STREAM_END)
		return 1;
	/* Without input there is nothing to do, which is no error unless it is the end. */
	if (r == LZMA_OK || (r == LZMA_BUF_ERROR && !io->last))
		return 0;
	return xz_error(r, err);
}

const struct codec codec_xz = {
	.name = "xz",
	.magic = (const uint8_t[]){0xfd, '7', 'z', 'X', 'Z', 0},
	.magic_len = 6,
	.open = xz_open,
	.close = xz_close,
	.decode = xz_decode,
};
