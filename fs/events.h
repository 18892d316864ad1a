/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The file `events`: each reader gets what happens from its open on, as JSON lines. A read takes as
 * many whole lines as fit; one that asks for less than a line gets the line in pieces. With nothing
 * to give, a read waits (or gives EAGAIN, with O_NONBLOCK), can be interrupted, and poll tells
 * when.
 *
 * A reader that does not read is not waited for: beyond its backlog the oldest lines are dropped
 * and in their place it reads {"event":"lost","lines":N}.
 */
#ifndef FS_EVENTS_H
#define FS_EVENTS_H

#include "fs.h"

struct handle;

int events_new(struct events **ret);
void events_freep(struct events **e); /* no reader may be open */
/* Answer those who wait, now and from now on, with the end of the file. */
void events_stop(struct events *e);

/* From the watch thread. line without newline; copied. */
void events_publish(struct events *e, const char *line, size_t len);
bool events_wanted(struct events *e);

int events_open(struct events *e, struct handle **ret);
void events_close(struct events *e, struct handle *h);
/* These answer the request, now or later. */
void events_read(struct events *e, struct handle *h, fuse_req_t req, size_t size, bool wait);
/* The same, waiting here, for a second and then giving the end of the file; who reads on gets what comes later. For readers
 * in a VM, whose reads nobody can interrupt. What serves them may want the end after each piece, too, before it hands
 * that on. */
void events_read_awhile(struct events *e, struct handle *h, fuse_req_t req, size_t size);
void events_poll(struct events *e, struct handle *h, fuse_req_t req, struct fuse_pollhandle *ph);

#endif
