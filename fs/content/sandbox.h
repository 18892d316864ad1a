/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the content process gives up before it looks at the first byte of an image.
 */
#ifndef FS_CONTENT_SANDBOX_H
#define FS_CONTENT_SANDBOX_H

#include <banger/error.h>

/* From now on this thread and those it starts: no new privileges, no capabilities (root keeps the
 * one to read files of other users), no core dumps or tracing, no opening of anything but for
 * reading and beneath the directory `images` (Landlock, where the kernel has it), and only the
 * system calls that serving needs (seccomp; others fail with EPERM). Call before threads are
 * started. */
int sandbox_enter(int images, struct banger_error *err);

#endif
