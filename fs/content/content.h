/* SPDX-License-Identifier: Apache-2.0 */
/*
 * rootfs/NAME/…: the files inside published images, as a FUSE connection of its own in a process of
 * its own, seen from the program that runs the registry's connection.
 *
 *	registry process                                content process (same program, hidden role)
 *	────────────────                                ──────────────────────────────────────────
 *	main: content_main_role(argc) ───────────────►  content_main(): connects to bangerd,
 *	content_start() ── supervisor ── fork, exec ─►   mounts, locks itself in, follows
 *	        ▲              ▲    └── socketpair ────►  registry.watch, serves; says "mounted",
 *	content_wait(generation)                          "generation N" as it applies changes
 *
 * The supervisor is one thread in the registry process: it starts the content process, listens to
 * what it says, takes the mount down and starts anew (with growing pauses, at most 5 s) when the
 * process dies, and takes all down on content_stop(). The content process ends by itself when its
 * supervisor is gone and when somebody unmounts rootfs/ (which is then not put back).
 *
 * Where it mounts. MOUNTPOINT/rootfs is a directory that the registry's connection shows (mode
 * 0755, owned by the server's uid: fusermount3 wants it writable by the user). The kernel resolves
 * that path through the registry's connection, so content_start() must come when its loop serves. An
 * ordinary user's fusermount3 is not let through that user's own FUSE mount unless it has
 * allow_other (the kernel compares the effective uid); then the content is mounted at a directory of
 * its own beside bangerd's sockets instead, and the registry has to show MOUNTPOINT/rootfs as a
 * symlink to that: `placed` is called with its path (see there).
 */
#ifndef FS_CONTENT_CONTENT_H
#define FS_CONTENT_CONTENT_H

#include <banger/error.h>
#include <stdbool.h>
#include <stdint.h>

struct content;

struct content_options {
	const char *mountpoint;  /* absolute path of the registry's mount */
	const char *socket;      /* bangerd's */
	const char *runtime_dir; /* where a directory may be made to mount at when MOUNTPOINT/rootfs
				    is out of reach */
	bool allow_other;
	unsigned threads; /* 0: as many as help on this machine */
	/* Called on the supervisor's thread, which holds nothing, before the first content_wait()
	 * can succeed and again after each restart. link NULL: the content is mounted at
	 * MOUNTPOINT/rootfs, show a directory. Else: show rootfs as a symlink to that absolute path
	 * (and invalidate the entry if it was shown as something else). May be NULL where link
	 * cannot come to be (root). */
	void (*placed)(void *arg, const char *link);
	void *arg;
};

/* The hidden role. main() calls this first thing, before it parses anything, logs or starts
 * threads: when the process was started by content_start(), it does not return but serves and
 * exits. */
void content_main_role(int argc, char **argv);

/* Start the supervisor and, by it, the content process. Strings are copied. Returns at once; use
 * content_wait() to know that the mount is there. Fails only for want of memory, threads or
 * sockets. */
int content_start(const struct content_options *o, struct content **ret, struct banger_error *err);

/* Wait until rootfs/ is mounted and shows everything up to `generation` (the registry's, as
 * replies and events carry it): entries of images that were renamed, swapped or deleted by then are
 * forgotten by the kernel, so nothing old can be seen under a name. For a handler that has changed
 * an image, before it answers. 0, -ETIMEDOUT, or -EHOSTDOWN when there is no content process at the
 * moment (nothing old can be seen then either). Any thread; takes a lock of its own only; a
 * negative timeout waits for as long as content_stop() is not called. */
/* Look for at most `us` microseconds, without sleeping: is it applied? */
bool content_look(struct content *c, int64_t generation, int us);
int content_wait(struct content *c, int64_t generation, int timeout_ms);

/* Unmount, end the process and the supervisor; returns when both are gone, within about 3 s. The
 * registry's loop must still be serving (the path is resolved through it). NULL is fine. */
void content_stop(struct content *c);

#endif
