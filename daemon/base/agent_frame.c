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

#define EXEC_HEADER 8

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
	out[2] = channel & 0xFF;
	out[3] = channel >> 8;
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
	const uint8_t *h = r->buf + r->start;
	size_t have = r->end - r->start;

	if (have < AGENT_HEADER)
		return 0;
	uint32_t len = agent_get_u32(h + 4);
	if (h[0] == 0 || h[1] != 0 || len > AGENT_PAYLOAD_MAX)
		return -EPROTO;
	if (have < AGENT_HEADER + (size_t)len)
		return 0;
	*ret = (struct agent_frame){
		.type = h[0],
		.channel = h[2] | h[3] << 8,
		.len = len,
		.payload = h + AGENT_HEADER,
	};
	r->start += AGENT_HEADER + len;
	return 1;
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
		agent_put_u32(buf, 0);
		agent_put_u32(buf + 4, argc | envc << 16);
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

	if (len < EXEC_HEADER || agent_get_u32(payload) != 0)
		return -EPROTO;
	size_t argc = payload[4] | payload[5] << 8, envc = payload[6] | payload[7] << 8;
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
