/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Frames of the agent protocol, for both of its ends. Nothing here allocates but the two pointer
 * arrays of an EXEC; every length is checked before it is used. It stands alone, because the agent
 * is linked statically and carries no library but libc.
 */
#include <banger/agent.h>
#include <assert.h>
#include <errno.h>
#include <stdlib.h>
#include <string.h>

#define EXEC_HEADER 12

void agent_put_u16(uint8_t out[2], uint16_t v)
{
	out[0] = v & 0xFF;
	out[1] = v >> 8;
}

uint16_t agent_get_u16(const uint8_t in[2])
{
	return in[0] | in[1] << 8;
}

void agent_put_u32(uint8_t out[4], uint32_t v)
{
	for (int i = 0; i < 4; i++)
		out[i] = v >> (8 * i);
}

uint32_t agent_get_u32(const uint8_t in[4])
{
	return in[0] | (uint32_t)in[1] << 8 | (uint32_t)in[2] << 16 | (uint32_t)in[3] << 24;
}

void agent_header(uint8_t out[AGENT_HEADER], enum agent_type type, uint16_t channel, uint32_t len)
{
	assert(len <= AGENT_PAYLOAD_MAX);
	out[0] = type;
	out[1] = 0;
	agent_put_u16(out + 2, channel);
	agent_put_u32(out + 4, len);
}

uint8_t *agent_reader_space(struct agent_reader *r, size_t *ret_size)
{
	if (r->start == r->end) {
		r->start = r->end = 0;
	} else if (r->start > 0) {
		memmove(r->buf, r->buf + r->start, r->end - r->start);
		r->end -= r->start;
		r->start = 0;
	}
	*ret_size = sizeof(r->buf) - r->end;
	return r->buf + r->end;
}

void agent_reader_added(struct agent_reader *r, size_t n)
{
	assert(n <= sizeof(r->buf) - r->end);
	r->end += n;
}

int agent_reader_next(struct agent_reader *r, struct agent_frame *ret)
{
	while (r->start < r->end && r->buf[r->start] == 0)
		r->start++;
	const uint8_t *h = r->buf + r->start;
	size_t have = r->end - r->start;
	if (have < AGENT_HEADER)
		return 0;
	uint32_t len = agent_get_u32(h + 4);
	if (h[1] != 0 || len > AGENT_PAYLOAD_MAX)
		return -EPROTO;
	if (have < AGENT_HEADER + (size_t)len)
		return 0;
	*ret = (struct agent_frame){
		.type = h[0],
		.channel = agent_get_u16(h + 2),
		.len = len,
		.payload = h + AGENT_HEADER,
	};
	r->start += AGENT_HEADER + len;
	return 1;
}

bool agent_reader_seek(struct agent_reader *r, enum agent_type type, const uint8_t *mark)
{
	const size_t before = AGENT_HEADER + 4; /* what stands between a frame's start and the mark */
	const uint8_t *at = r->buf + r->start, *end = r->buf + r->end;

	while ((size_t)(end - at) >= before + AGENT_TOKEN) {
		const uint8_t *m = memmem(at + before, end - at - before, mark, AGENT_TOKEN);

		if (!m)
			break;
		at = m - before;
		uint32_t len = agent_get_u32(at + 4);
		if (at[0] == type && !at[1] && !at[2] && !at[3] && len >= 4 + AGENT_TOKEN &&
			len <= AGENT_PAYLOAD_MAX) {
			r->start = at - r->buf;
			return true;
		}
		at++;
	}
	/* What may be the beginning of it is kept. */
	if ((size_t)(end - at) >= before + AGENT_TOKEN)
		at = end - (before + AGENT_TOKEN - 1);
	r->start = at - r->buf;
	return false;
}

struct packer {
	uint8_t *buf; /* NULL: count only */
	size_t size, n;
};

static void pack_string(struct packer *p, const char *s)
{
	size_t len = strlen(s) + 1;

	if (p->buf && p->n + len <= p->size)
		memcpy(p->buf + p->n, s, len);
	p->n += len;
}

static size_t pack_list(struct packer *p, const char **list)
{
	size_t n = 0;

	for (; list && list[n]; n++)
		pack_string(p, list[n]);
	return n;
}

long agent_exec_pack(const struct agent_exec *e, uint8_t *buf, size_t size)
{
	struct packer p = {.buf = buf, .size = size, .n = EXEC_HEADER};

	pack_string(&p, e->user ? e->user : "");
	pack_string(&p, e->workdir ? e->workdir : "");
	size_t argc = pack_list(&p, e->argv), envc = pack_list(&p, e->env);
	if (argc == 0)
		return -EINVAL;
	if (argc > UINT16_MAX || envc > UINT16_MAX || p.n > AGENT_PAYLOAD_MAX ||
		(buf && p.n > size))
		return -E2BIG;
	if (buf) {
		const uint16_t head[] = {e->flags, e->rows, e->cols, 0, argc, envc};
		for (size_t i = 0; i < EXEC_HEADER / 2; i++)
			agent_put_u16(buf + 2 * i, head[i]);
	}
	return p.n;
}

/* The next string of [*p, end), or NULL. */
static const char *unpack_string(const uint8_t **p, const uint8_t *end)
{
	const char *s = (const char *)*p;
	const uint8_t *nul = memchr(*p, 0, end - *p);

	if (!nul)
		return NULL;
	*p = nul + 1;
	return s;
}

int agent_exec_unpack(const uint8_t *payload, size_t len, struct agent_exec *ret)
{
	const uint8_t *p = payload + EXEC_HEADER, *end = payload + len;
	struct agent_exec e;

	if (len < EXEC_HEADER || agent_get_u16(payload + 6) != 0)
		return -EPROTO;
	size_t argc = agent_get_u16(payload + 8), envc = agent_get_u16(payload + 10);
	e.flags = agent_get_u16(payload);
	e.rows = agent_get_u16(payload + 2);
	e.cols = agent_get_u16(payload + 4);
	if (e.flags & ~AGENT_EXEC_FLAGS)
		return -EPROTO;
	/* Each string takes a byte at least: the counts cannot ask for more memory than the frame
	 * had. */
	if (argc == 0 || argc + envc > len)
		return -EPROTO;
	e.user = unpack_string(&p, end);
	e.workdir = e.user ? unpack_string(&p, end) : NULL;
	if (!e.workdir)
		return -EPROTO;
	e.argv = calloc(argc + envc + 2, sizeof(char *));
	if (!e.argv)
		return -ENOMEM;
	e.env = e.argv + argc + 1;
	for (size_t i = 0; i < argc + envc; i++) {
		const char **to = i < argc ? &e.argv[i] : &e.env[i - argc];

		*to = unpack_string(&p, end);
		if (!*to) {
			agent_exec_done(&e);
			return -EPROTO;
		}
	}
	if (p != end || !e.argv[0][0]) {
		agent_exec_done(&e);
		return -EPROTO;
	}
	*ret = e;
	return 0;
}

void agent_exec_done(struct agent_exec *e)
{
	free(e->argv);
	*e = (struct agent_exec){0};
}
