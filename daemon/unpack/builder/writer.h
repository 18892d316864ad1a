/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Blocks on their way to the file: collected into large aligned pieces and written by a thread, so
 * that the one who makes them does not wait. Around the page cache where the file allows it: for
 * data that is written once and not read soon, copying it there costs more than the write.
 */
#ifndef BANGER_EXT4_WRITER_H
#define BANGER_EXT4_WRITER_H

#include <stdbool.h>
#include <stdint.h>
#include <banger/error.h>

struct writer;

/* Starts the thread. fd is borrowed. */
int writer_new(int fd, bool direct, struct writer **ret, struct banger_error *err);
/* Ends the thread; what is not written yet is dropped. */
void writer_freep(struct writer **w);

/* n blocks of 4096 bytes for the place `block`. Copied. An error of an earlier write may come back
 * here: NO_SPACE, INTERNAL. */
int writer_put(
	struct writer *w, uint64_t block, const void *data, uint32_t n, struct banger_error *err);
/* Waits until all is written. */
int writer_flush(struct writer *w, struct banger_error *err);
/* Flushes, and goes through the page cache from now on: for small pieces that libext2fs writes. */
int writer_end_direct(struct writer *w, struct banger_error *err);

#endif
