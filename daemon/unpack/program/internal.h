/* SPDX-License-Identifier: Apache-2.0 */
/*
 * main.c talks to the daemon and sets up the sandbox; work.c does the work in it.
 */
#ifndef BANGER_UNPACK_PROGRAM_H
#define BANGER_UNPACK_PROGRAM_H

#include <banger/wire.h>
#include "unpack/builder/builder.h"
#include "unpack/layer/layer.h"
#include "unpack/program/layers.h"
#include "unpack/stream/digest.h"

struct program {
	struct json_object *options;
	uint8_t seed[EXT4_BUILDER_SEED_LEN];
	bool has_seed;
	int64_t time;
	uint32_t n_layers, n_replay; /* n_layers 0: one archive */
	bool keep, mountpoints;
	struct json_object *home; /* of options; NULL: none is wanted */

	struct layers layers;
	struct digest *digest;
	struct stream *stream;
	struct ext4_builder *builder, *home_builder;

	uint32_t layer; /* the present one */
	bool in_layer;
	bool reusing; /* what fails now fails because of what was to be reused */
	uint8_t chain[DIGEST_SHA256];
	struct layer_counts counts; /* all layers */
	struct ext4_builder_result result, home_result;
	bool unrecorded; /* a record could not be written */
	bool kept, shared;
	int64_t last_progress;
};

/* main.c: now and then. INTERNAL: nobody listens. */
int program_progress(void *arg, struct banger_error *err);

/* work.c: all of it, from the first byte to the finished image. */
int program_work(struct program *p, struct banger_error *err);

#endif
