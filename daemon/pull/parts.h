/* SPDX-License-Identifier: Apache-2.0 */
/* What document.c, manifest.c and platform.c share. Not for others. */
#ifndef BANGER_PULL_PARTS_H
#define BANGER_PULL_PARTS_H

#include "pull/document.h"
#include "pull/fields.h"

#define MEDIA_OCI_INDEX "application/vnd.oci.image.index.v1+json"
#define MEDIA_OCI_MANIFEST "application/vnd.oci.image.manifest.v1+json"
#define MEDIA_DOCKER_LIST "application/vnd.docker.distribution.manifest.list.v2+json"
#define MEDIA_DOCKER_MANIFEST "application/vnd.docker.distribution.manifest.v2+json"

/* A descriptor; path: "config.", "layers[3].". *ret is untouched on failure. */
int descriptor_parse(struct json_object *o, const char *path, struct pull_descriptor *ret, struct banger_error *err);
/* "manifests" of an index, "config" and "layers" of a manifest. What was read is in d, also on failure. */
int index_parse(struct json_object *o, struct pull_document *d, struct banger_error *err);
int manifest_parse(struct json_object *o, struct pull_document *d, struct banger_error *err);

/* {"os","architecture","variant"}; "" stays not said. */
int platform_from_json(struct json_object *o, const char *path, struct pull_platform *ret, struct banger_error *err);

/* Is this what the "mediaType" of an image's configuration can be? */
bool config_media_type(const char *type);
/* A type: letters, digits and ! # $ & - ^ _ . +, with one '/' in it. */
bool media_type_valid(const char *type);

#endif
