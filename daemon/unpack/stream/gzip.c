/* SPDX-License-Identifier: Apache-2.0 */
/*
 * gzip through ISA-L, whose inflate is the fastest there is on the machines that banger runs on
 * (ARCHITECTURE.md has the figures). It checks each member's CRC and size. Members follow one
 * another directly; zeros behind the last one are padding, as gzip(1) has it.
 */
#include "unpack/stream/codec.h"

#include <isa-l/igzip_lib.h>

struct gzip {
	struct inflate_state inflate;
	bool between; /* members */
	bool padding;
};

static void *gzip_open(void)
{
	struct gzip *g = calloc(1, sizeof(*g));

	if (!g)
		return NULL;
	isal_inflate_init(&g->inflate);
	g->inflate.crc_flag = ISAL_GZIP;
	return g;
}

static void gzip_close(void *state)
{
	free(state);
}

static int bad(struct banger_error *err, const char *what)
{
	return banger_error_set(err, BANGER_CORRUPT, "the gzip data %s", what);
}

/* Between members: padding, the end, or another one. Returns 1 at the end, 0 to go on. */
static int after_member(struct gzip *g, struct codec_io *io, struct banger_error *err)
{
	while (io->in_len > 0 && *io->in == 0) {
		g->padding = true;
		io->in++;
		io->in_len--;
	}
	if (io->in_len == 0)
		return io->last;
	if (g->padding || *io->in != 0x1f)
		return bad(err, "is followed by something else");
	isal_inflate_reset(&g->inflate);
	g->inflate.crc_flag = ISAL_GZIP;
	g->between = false;
	return 0;
}

static int gzip_decode(void *state, struct codec_io *io, struct banger_error *err)
{
	struct gzip *g = state;
	struct inflate_state *s = &g->inflate;

	if (g->between)
		return after_member(g, io, err);
	uint32_t in = io->in_len < UINT32_MAX ? io->in_len : UINT32_MAX;
	uint32_t room = io->room < UINT32_MAX ? io->room : UINT32_MAX;
	s->next_in = (uint8_t *)io->in;
	s->avail_in = in;
	s->next_out = io->out;
	s->avail_out = room;
	int r = isal_inflate(s);
	if (r < 0)
		return bad(
			err, r == ISAL_INCORRECT_CHECKSUM ? "has a wrong checksum" : "is damaged");
	bool moved = s->avail_in != in || s->avail_out != room;
	io->in += in - s->avail_in;
	io->in_len -= in - s->avail_in;
	io->out += room - s->avail_out;
	io->room -= room - s->avail_out;
	g->between = s->block_state == ISAL_BLOCK_FINISH;
	if (!g->between && !moved && io->last && io->in_len == 0 && io->room > 0)
		return bad(err, "ends too early");
	return 0;
}

const struct codec codec_gzip = {
	.name = "gzip",
	.magic = (const uint8_t[]){0x1f, 0x8b},
	.magic_len = 2,
	.open = gzip_open,
	.close = gzip_close,
	.decode = gzip_decode,
};
