/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The layers of one pull on their way into the blob cache, by a few threads of this pull's own. For
 * daemon/pull alone. Called by the pull's thread.
 */
#ifndef BANGER_PULL_LAYERS_H
#define BANGER_PULL_LAYERS_H

#include <stdbool.h>
#include "pull/resolve.h"
#include "unpack/run.h"

struct layers;

/* Finds out what is held. image is borrowed. The lowest `reused` layers are not wanted. stop_fd:
 * readable: the fetchers give up. */
int layers_new(struct pull_engine *e, struct pull_image *image, size_t reused, int stop_fd,
	struct layers **ret, struct banger_error *err);
/* Start to fetch the rest. */
int layers_start(struct layers *l, struct banger_error *err);
void layers_freep(struct layers **l); /* waits for the fetchers: make stop_fd readable before */

/* What banger-unpack shall know of a layer; borrows. */
void layers_describe(const struct layers *l, size_t i, struct unpack_layer *ret);
int layers_notify_fd(const struct layers *l);
/* Bytes of layer i's blob that can be read now; -1: it cannot be had. */
int64_t layers_available(struct layers *l, size_t i, struct banger_error *err);
/* Why a fetcher failed, if one did. */
int layers_failure(struct layers *l, struct banger_error *err);
/* banger-unpack took offence at layer i: is its blob what its digest says? One that is on its way is waited
 * for, because only its end tells, and else what is wrong in it would be gone on with the next time; one that
 * was held is looked at again. 0: yes, or it was not ours to tell; else why not. */
int layers_doubt(struct layers *l, size_t i, int cancel_fd, struct banger_error *err);
bool layers_was_held(const struct layers *l, size_t i);
/* Were bytes that could be read thrown away because they were wrong (a partial blob that the disk has changed)? What
 * was made of them is void then; the next attempt reads others. */
bool layers_restarted(const struct layers *l);
/* Until all are whole, and their digests right. */
int layers_wait(struct layers *l, int cancel_fd, struct banger_error *err);
int64_t layers_fetched(struct layers *l);
/* Bytes that are not there yet, whoever fetches them. */
int64_t layers_missing(struct layers *l);
void layers_progress(struct layers *l, struct pull_progress_layer *ret);

#endif
