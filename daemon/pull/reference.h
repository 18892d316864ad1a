/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a person names when something shall be pulled.
 *
 * The grammar is that of the distribution project's reference package, which Docker, Podman and
 * containerd share: [HOST[:PORT]/]PATH[:TAG][@DIGEST]. The first component is a host when it has a
 * '.' or a ':' or is "localhost" or has an upper-case letter; else the host is docker.io, whose
 * one-component paths are below library/. Without tag and digest the tag is "latest". Beside it
 * "oci:DIR[:TAG]", an image layout on disk. Both may have a ':' in them (a tag can be a whole
 * reference), so what is there decides: all of it is DIR if that exists, else DIR ends at the last ':'
 * before which something exists, else at the last one that a tag can follow. It is looked up with
 * stat(2) and the daemon's rights.
 */
#ifndef BANGER_PULL_REFERENCE_H
#define BANGER_PULL_REFERENCE_H

#include <stdbool.h>
#include <stdint.h>
#include <banger/error.h>
#include "pull/digest.h"

struct pull_reference {
	bool layout;	  /* dir and tag; else a registry's */
	char *host;	  /* "docker.io", "127.0.0.1:5000", "[::1]:5000"; lower case, but for one without '.' and ':' */
	char *repository; /* "library/debian" */
	char *tag;	  /* NULL: none was written beside a digest; a layout's only image */
	char digest[PULL_DIGEST_MAX]; /* "": none */
	char *dir;	  /* of a layout, as written */
	char *text;	  /* canonical: docker.io/library/debian:latest, oci:/srv/x:12 */
};

/* BAD_REQUEST says what is wrong where. Does no I/O but for the layout rule above. */
int pull_reference_parse(const char *text, struct pull_reference *ret, struct banger_error *err);
void pull_reference_done(struct pull_reference *r);
#define _cleanup_pull_reference_ _cleanup_(pull_reference_done)

/* Could this be a reference, rather than the name of a bundle in a catalog? ("oci:" in front, or a
 * '/', ':' or '@' in it.) */
bool pull_reference_like(const char *text);

#endif
