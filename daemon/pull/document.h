/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON documents of an image: index, manifest, configuration. Sources: OCI image spec v1.1
 * (image-index.md, manifest.md, config.md, descriptor.md), Docker's "Image Manifest Version 2,
 * Schema 2". All come from strangers: every field is checked before it is used, an unknown one is
 * passed over. Sizes are limited before parsing (PULL_DOCUMENT_MAX), nesting by the parser.
 */
#ifndef BANGER_PULL_DOCUMENT_H
#define BANGER_PULL_DOCUMENT_H

#include <stdint.h>
#include "pull/digest.h"

#define PULL_DOCUMENT_MAX (4 * 1024 * 1024) /* bytes of an index, a manifest, a configuration */
#define PULL_LAYERS_MAX 1000
#define PULL_INDEX_MAX 10000 /* entries */
#define PULL_INDEX_DEPTH 4   /* an index that names an index … */

struct pull_platform {
	char os[32], arch[32], variant[32]; /* "linux", "amd64", "" */
};
/* "linux/amd64", "linux/arm64/v8", "arm64" (linux/). NULL: this machine's. Names as GOARCH has them;
 * "x86_64" and "aarch64" are taken too; the default variants of amd64 and arm64 become "". BAD_REQUEST. */
int pull_platform_parse(const char *text, struct pull_platform *ret, struct banger_error *err);
/* "linux/arm/v7"; "unknown" for what is not said. Returns ret. */
#define PULL_PLATFORM_TEXT 100
const char *pull_platform_text(const struct pull_platform *p, char ret[PULL_PLATFORM_TEXT]);
/* Does a machine for `want` run what is for `have` (an image's configuration)? One that says nothing: true. */
bool pull_platform_runs(const struct pull_platform *want, const struct pull_platform *have);

/* Its "data" (the content, embedded) is passed over. */
struct pull_descriptor {
	char media_type[160];
	char digest[PULL_DIGEST_MAX];
	int64_t size;
	struct pull_platform platform; /* os "": not said */
	char *artifact_type;	       /* NULL: none */
	char *ref_name;		       /* annotation org.opencontainers.image.ref.name, for layouts; NULL */
	bool attestation;	       /* an attestation manifest: never an image to boot */
	char **urls;		       /* NULL-terminated; NULL: none */
};
void pull_descriptor_done(struct pull_descriptor *d);

enum pull_document_kind { PULL_INDEX, PULL_MANIFEST };

struct pull_document {
	enum pull_document_kind kind;
	bool docker;		       /* Docker's media types */
	struct pull_descriptor config; /* of a manifest */
	struct pull_descriptor *items; /* an index's manifests, a manifest's layers (bottom first) */
	size_t n;
	char *artifact_type; /* of a manifest; NULL: none */
};
/*
 * media_type: what the transport said (Content-Type without parameters, a descriptor's); NULL or "":
 * not said. What the document itself says must agree with it, and a document that could be both an
 * index and a manifest is refused (CVE-2021-41190). BAD_REQUEST: no such document, with the path of
 * the field ("layers[3].size"). UNSUPPORTED: schema 1, unknown types, a manifest that is no image
 * (artifact: says its type), layers of an encrypted or foreign ("nondistributable") type that have
 * nothing but urls are accepted as layers: whoever fetches says what is then the matter.
 */
int pull_document_parse(const char *text, size_t len, const char *media_type,
	struct pull_document *ret, struct banger_error *err);
void pull_document_done(struct pull_document *d);
#define _cleanup_pull_document_ _cleanup_(pull_document_done)

/* The entry for a platform, borrowed; its size is at most PULL_DOCUMENT_MAX (TOO_LARGE). It may be another
 * index: see PULL_INDEX_DEPTH. Attestations and unknown artifacts are passed over. Variants as
 * containerd matches them (arm: v7 runs v6, v5; arm64: v8 is the default; amd64: v1). NOT_FOUND lists the
 * platforms there are; UNSUPPORTED when there are only attestations and artifacts. An index with one image
 * that says no platform: that one (its configuration will tell). */
int pull_index_select(const struct pull_document *index, const struct pull_platform *want,
	const struct pull_descriptor **ret, struct banger_error *err);

/* How a layer's media type says that it is compressed: "gzip", "zstd", "none". UNSUPPORTED for a
 * type that is no layer; pull_document_parse() has made sure that a manifest's layers have none. */
int pull_layer_compression(const struct pull_descriptor *layer, const char **ret, struct banger_error *err);

struct pull_image_config {
	struct pull_platform platform;
	char (*diff_ids)[PULL_DIGEST_MAX];
	size_t n;
	int64_t created; /* seconds since the epoch; 0: not said */
	char *config;	 /* as banger_image.config wants it (model.h), checked by the model;
			  * NULL: nothing said */
	size_t labels_left_out; /* labels that are too long to be kept: those past 32 KiB in all */
	char *user, *home; /* config.User, NULL: none; home: "/root" for root or none, else
			      * "~USER": the image's own /etc/passwd says */
};
/* n_layers: the manifest's; another number of diff_ids is BAD_REQUEST. The platform may be not said: some
 * tools write "". Members that are null are absent. */
int pull_image_config_parse(const char *text, size_t len, size_t n_layers,
	struct pull_image_config *ret, struct banger_error *err);
void pull_image_config_done(struct pull_image_config *c);
#define _cleanup_pull_image_config_ _cleanup_(pull_image_config_done)

#endif
