/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The session's loop: threads that receive requests and handle them.
 *
 * As few threads as will do read from the device at a time (one; up to as many as there are
 * processors, at most 4, while requests pile up): the kernel hands requests to waiting readers in
 * turn, so with many of them each request wakes the thread that has slept longest, which doubles the
 * cost of a lookup. A handler that may wait for a disk or for bangerd says so, and another thread
 * takes its place at the device until it is done. What a filesystem keeps in memory, or reads from
 * disk in one step (a directory, an inode), is not worth that.
 */
#ifndef FS_LOOP_H
#define FS_LOOP_H

#include "fs.h"

#define LOOP_THREADS_MAX 96 /* in all: those at the device and those that wait for something */

/* Serve until the session has ended: unmounted, or loop_end(). single: one thread alone. 0 or -errno. */
int loop_run(struct fuse_session *session, bool single);

/* Make loop_run() return when what is being handled is done. Any thread, also before loop_run(). */
void loop_end(struct fuse_session *session);

/* Another request may follow soon: this thread shall look for it for a moment before it sleeps. */
void loop_look_next(void);

/* The handler on this thread may wait, until the end of the scope. Does nothing on other threads. */
struct loop_worker;
struct loop_worker *loop_leave(void);
void loop_return(struct loop_worker **w);
#define LOOP_MAY_WAIT()                                                                            \
	_cleanup_(loop_return) struct loop_worker *_worker = loop_leave();                         \
	(void)_worker

#endif
