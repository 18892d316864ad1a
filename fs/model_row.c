/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image packed and unpacked. The packed form is made the same way each time (zeroed padding,
 * strings in a fixed order), so two rows are equal exactly when their bytes are.
 */
#include <stddef.h>
#include <string.h>
#include "model_internal.h"

static uint8_t hex_byte(const char *s)
{
	uint8_t v = 0;

	for (int i = 0; i < 2; i++)
		v = v << 4 | (s[i] <= '9' ? s[i] - '0' : s[i] - 'a' + 10);
	return v;
}

static void pack_hex(const char *s, uint8_t *to, size_t n)
{
	for (size_t i = 0; i < n; i++)
		to[i] = hex_byte(s + 2 * i);
}

static void unpack_hex(const uint8_t *from, size_t n, char *to)
{
	static const char hex[] = "0123456789abcdef";

	for (size_t i = 0; i < n; i++) {
		*to++ = hex[from[i] >> 4];
		*to++ = hex[from[i] & 15];
	}
	*to = '\0';
}

void model_id_text(uint64_t id, char ret[BANGER_ID_LEN + 1])
{
	snprintf(ret, BANGER_ID_LEN + 1, "%016llx", (unsigned long long)id);
}

int model_id_parse(const char *s, uint64_t *ret)
{
	if (!banger_id_valid(s))
		return -EINVAL;
	*ret = strtoull(s, NULL, 16);
	return 0;
}

static size_t length(const char *s)
{
	return s ? strlen(s) + 1 : 0;
}

static uint32_t append(struct model_image *i, const char *s)
{
	uint32_t at = i->row.text_len;

	if (!s)
		return 0;
	memcpy(i->text + at, s, strlen(s) + 1);
	i->row.text_len += strlen(s) + 1;
	return at;
}

int model_image_pack(const struct banger_image *from, struct model_image **ret)
{
	size_t text = length(from->name) + length(from->source) + length(from->kernel) +
		      length(from->config);
	struct model_image *i = calloc(1, offsetof(struct model_image, text) + text);

	if (!i)
		return -ENOMEM;
	i->row.state = from->state;
	i->row.damaged = from->damaged;
	i->row.generation = from->generation;
	i->row.size = from->size;
	i->row.created_us = from->created_us;
	i->row.published_us = from->published_us;
	i->row.has_digest = from->digest[0] != '\0';
	if (i->row.has_digest)
		pack_hex(from->digest + strlen("sha256:"), i->row.digest, sizeof(i->row.digest));
	if (from->op_id[0])
		pack_hex(from->op_id + strlen("op-"), i->row.op, sizeof(i->row.op));
	append(i, from->name);
	i->row.source = append(i, from->source);
	i->row.kernel = append(i, from->kernel);
	i->row.config = append(i, from->config);
	if (model_id_parse(from->id, &i->row.id) < 0) {
		free(i);
		return -EINVAL;
	}
	*ret = i;
	return 0;
}

static int unpack_text(const struct model_image *i, uint32_t at, char **ret)
{
	*ret = at ? strdup(i->text + at) : NULL;
	return at && !*ret ? -ENOMEM : 0;
}

int model_image_unpack(const struct model_image *i, struct banger_image *ret)
{
	static const uint8_t none[6];
	struct banger_image o = {
		.state = i->row.state,
		.damaged = i->row.damaged,
		.generation = i->row.generation,
		.size = i->row.size,
		.created_us = i->row.created_us,
		.published_us = i->row.published_us,
	};

	model_id_text(i->row.id, o.id);
	snprintf(o.name, sizeof(o.name), "%s", model_name(i));
	if (i->row.has_digest) {
		strcpy(o.digest, "sha256:");
		unpack_hex(i->row.digest, sizeof(i->row.digest), o.digest + strlen(o.digest));
	}
	if (memcmp(i->row.op, none, sizeof(none)) != 0) {
		strcpy(o.op_id, "op-");
		unpack_hex(i->row.op, sizeof(i->row.op), o.op_id + strlen(o.op_id));
	}
	if (unpack_text(i, i->row.source, &o.source) < 0 ||
		unpack_text(i, i->row.kernel, &o.kernel) < 0 ||
		unpack_text(i, i->row.config, &o.config) < 0) {
		banger_image_done(&o);
		return -ENOMEM;
	}
	*ret = o;
	return 0;
}
