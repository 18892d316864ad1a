/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Notifications to the kernel: a queue, and a thread that sends from it and holds nothing while it
 * does. The kernel takes the directory's own lock to invalidate an entry, and a call that changes
 * the directory has that lock until we answer it: sent from a handler, or while holding what a
 * handler waits for, a notification would wait for itself.
 *
 * The queue is not bounded (its filler must never wait, see model.h), but holds no more than what
 * the kernel was told before: entries that it knows, and each directory once.
 */
#ifndef FS_NOTIFY_H
#define FS_NOTIFY_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

/* How to send: libfuse's functions, or a test's. Each returns 0 or -errno (-ENOENT: the kernel did
 * not have it). */
struct notify_sender {
	int (*entry)(void *arg, uint64_t parent, const char *name, size_t len);
	int (*inode)(void *arg, uint64_t ino);
	void *arg;
};

struct notify;
/* No thread yet: what is queued waits for notify_start(). */
int notify_new(const struct notify_sender *sender, struct notify **ret);
int notify_start(struct notify *n);
/* Stop the thread, while requests are still served (it may wait for one to be answered). What is
 * queued then or later is dropped. */
void notify_stop(struct notify *n);
void notify_freep(struct notify **n);

/* Is an entry's notification queued, or given to the kernel and not taken yet? */
bool notify_is_pending(struct notify *n, uint64_t parent, const char *name);

/* Never block, but on memory: when there is none the notification is lost, which is logged. In the
 * order of the calls. */
void notify_entry(struct notify *n, uint64_t parent, const char *name);
/* Attributes and cached contents of an inode; of a directory, its cached listing. Waits in the
 * queue once however often it is asked for. */
void notify_inode(struct notify *n, uint64_t ino);

#endif
