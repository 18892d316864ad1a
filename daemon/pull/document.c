/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What kind of document is this? Three say so: the transport (a header, or the descriptor that led
 * here), the document's own "mediaType", and its members. All that say anything must say the same.
 * A text that one program reads as an index and another as a manifest has one digest and two
 * meanings (CVE-2021-41190), so members of the other kind are refused, not passed over, and so are
 * those that differ only in case, which some parsers take for the same.
 */
#include <string.h>
#include <strings.h>
#include "pull/parts.h"

static const struct type {
	const char *name;
	enum pull_document_kind kind;
	bool docker;
} types[] = {
	{MEDIA_OCI_INDEX, PULL_INDEX, false},
	{MEDIA_OCI_MANIFEST, PULL_MANIFEST, false},
	{MEDIA_DOCKER_LIST, PULL_INDEX, true},
	{MEDIA_DOCKER_MANIFEST, PULL_MANIFEST, true},
};

static const struct type *find_type(const char *name)
{
	for (size_t i = 0; i < ELEMENTSOF(types); i++)
		if (strcmp(types[i].name, name) == 0)
			return &types[i];
	return NULL;
}

/* What servers send that know nothing of the type. */
static bool says_nothing(const char *type)
{
	static const char *const general[] = {"", "application/json", "text/plain",
		"application/octet-stream", "binary/octet-stream"};

	for (size_t i = 0; type && i < ELEMENTSOF(general); i++)
		if (strcmp(general[i], type) == 0)
			return true;
	return !type;
}

static bool schema1_type(const char *type)
{
	return strcmp(type, "application/vnd.docker.distribution.manifest.v1+json") == 0 ||
	       strcmp(type, "application/vnd.docker.distribution.manifest.v1+prettyjws") == 0;
}

static int refuse_schema1(struct banger_error *err)
{
	return banger_error_set(err, BANGER_UNSUPPORTED,
		"it is of Docker's manifest schema 1, which is obsolete and cannot be checked "
		"layer by "
		"layer: push the image again with a current program");
}

/* Members that mean something to one kind or another, in any case of their letters. */
static int check_members(struct json_object *o, struct banger_error *err)
{
	static const char *const known[] = {"schemaVersion", "mediaType", "artifactType",
		"manifests", "config", "layers", "fsLayers", "blobs"};

	json_object_object_foreach (o, key, v) {
		(void)v;
		for (size_t i = 0; i < ELEMENTSOF(known); i++)
			if (strcasecmp(key, known[i]) == 0 && strcmp(key, known[i]) != 0)
				return banger_error_set(err, BANGER_BAD_REQUEST,
					"it has \"%s\", which could be taken for \"%s\"", key,
					known[i]);
	}
	return 0;
}

static int check_one_kind(
	struct json_object *o, enum pull_document_kind kind, struct banger_error *err)
{
	static const char *const foreign[2][4] = {
		[PULL_INDEX] = {"config", "layers", "fsLayers"},
		[PULL_MANIFEST] = {"manifests", "fsLayers"},
	};

	for (size_t i = 0; foreign[kind][i]; i++)
		if (json_object_object_get_ex(o, foreign[kind][i], NULL))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"it could be both an index and a manifest: %s with \"%s\"",
				kind == PULL_INDEX ? "an index" : "a manifest", foreign[kind][i]);
	return 0;
}

/* The kind by type, which the caller found said somewhere. */
static int kind_of_type(const char *said, struct pull_document *d, struct banger_error *err)
{
	const struct type *t = find_type(said);

	if (schema1_type(said))
		return refuse_schema1(err);
	if (!t)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"it is of type \"%s\", which is neither an image index nor an image "
			"manifest",
			said);
	d->kind = t->kind;
	d->docker = t->docker;
	return 0;
}

static int find_kind(
	struct json_object *o, const char *sent, struct pull_document *d, struct banger_error *err)
{
	const char *own = NULL;
	int r = field_string(o, "", "mediaType", false, 159, &own, err);

	if (r < 0)
		return r;
	if (own && !*own)
		own = NULL;
	if (says_nothing(sent))
		sent = NULL;
	if (banger_json_int(o, "schemaVersion", 2) == 1)
		return refuse_schema1(err);
	if (own && sent && strcmp(own, sent) != 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"its mediaType is \"%s\", but it was announced as \"%.160s\"", own, sent);
	if (own || sent)
		return kind_of_type(own ?: sent, d, err);
	if (json_object_object_get_ex(o, "manifests", NULL))
		d->kind = PULL_INDEX;
	else if (json_object_object_get_ex(o, "config", NULL) ||
		 json_object_object_get_ex(o, "layers", NULL))
		d->kind = PULL_MANIFEST;
	else
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"it is neither an image index nor an image manifest: it has no mediaType, "
			"no "
			"manifests, no layers");
	return 0;
}

static int parse(const char *text, size_t len, const char *media_type, struct pull_document *d,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;
	int64_t version = 0;
	int r = fields_parse(text, len, PULL_DOCUMENT_MAX, &o, err);

	if (r < 0 || (r = check_members(o, err)) < 0 ||
		(r = find_kind(o, media_type, d, err)) < 0 ||
		(r = check_one_kind(o, d->kind, err)) < 0 ||
		(r = field_size(o, "", "schemaVersion", INT32_MAX, &version, err)) < 0)
		return r;
	if (version != 2)
		return banger_error_set(err, BANGER_BAD_REQUEST, "schemaVersion is %lld, not 2",
			(long long)version);
	return d->kind == PULL_INDEX ? index_parse(o, d, err) : manifest_parse(o, d, err);
}

int pull_document_parse(const char *text, size_t len, const char *media_type,
	struct pull_document *ret, struct banger_error *err)
{
	_cleanup_pull_document_ struct pull_document d = {0};
	int r = parse(text, len, media_type, &d, err);

	if (r < 0)
		return r;
	*ret = d;
	d = (struct pull_document){0};
	return 0;
}

void pull_document_done(struct pull_document *d)
{
	pull_descriptor_done(&d->config);
	for (size_t i = 0; i < d->n; i++)
		pull_descriptor_done(&d->items[i]);
	free(d->items);
	free(d->artifact_type);
	*d = (struct pull_document){0};
}
