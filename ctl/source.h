/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What an import is given: a file, a directory or standard input, as one descriptor for the daemon
 * to read from.
 */
#ifndef BANGER_CTL_SOURCE_H
#define BANGER_CTL_SOURCE_H

#include "ctl.h"
#include "tree.h"

struct source {
	int fd;                   /* for the daemon */
	char *origin;             /* absolute path, NULL for standard input */
	struct tree_stream *tree; /* of a directory; NULL otherwise */
};

/* path "-" is standard input if `or_stdin`. A terminal is a usage error: nobody types an image. */
int source_open(struct ctl *c, const char *path, bool or_stdin, bool one_filesystem,
	struct source *ret, struct banger_error *err);
/* Let go of a source that is not imported after all. */
void source_done(struct source *s);
/* The import itself: `method` with the source's descriptor and its origin added to params (taken).
 * Done with the source, which is freed. The first cause of a failure is what is reported. */
int source_import(struct ctl *c, struct source *s, const char *name, const char *method,
	struct json_object *params, struct json_object **ret, struct banger_error *err);

#endif
