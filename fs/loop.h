/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session's loop: threads that receive requests and handle them.
 *
 * Only a few threads read from the device at a time (as many as there are processors, at most 4): the
 * kernel hands requests to waiting readers in turn, so with many of them each request wakes a thread
 * that has slept longest, which doubles the cost of a lookup. A handler that may wait for a disk or
 * for bangerd says so, and another thread takes its place at the device until it is done.
 */
#ifndef FS_LOOP_H
#define FS_LOOP_H

#include "fs.h"

#define LOOP_THREADS_MAX 96 /* in all: those at the device and those that wait for something */

/* Serve until the session has ended: unmounted, or loop_end(). single: one thread alone. 0 or -errno. */
int loop_run(struct fuse_session *session, bool single);

/* Make loop_run() return when what is being handled is done; call it again until it has. Any thread. */
void loop_end(struct fuse_session *session);

/* The handler on this thread may wait, until the end of the scope. Does nothing on other threads. */
struct loop_worker;
struct loop_worker *loop_leave(void);
void loop_return(struct loop_worker **w);
#define LOOP_MAY_WAIT()                                                                            \
	_cleanup_(loop_return) struct loop_worker *_worker = loop_leave();                         \
	(void)_worker

#endif
