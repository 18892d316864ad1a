/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Listings without files' attributes. Attributes that come with a listing make the kernel set up an
 * inode for each name, which is most of what a first `find` costs; for those who look at each file
 * (ls -l, tar, grep -r), asking for them one by one would cost ten times as much. Which of them it is
 * shows only after the fact: so whoever lists one directory after the other is given a lean listing,
 * and whoever then looks up a file in one gets full ones from there on, and the kernel is told to
 * forget the lean ones.
 *
 * Nothing depends on it but speed.
 */
#ifndef FS_CONTENT_LEAN_H
#define FS_CONTENT_LEAN_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct lean;

struct lean *lean_new(void); /* NULL: no memory */
void lean_free(struct lean *l);

/* A directory is listed, from its start or from further on: leanly? */
bool lean_listing(struct lean *l, bool start);
/* It was. */
void lean_listed(struct lean *l, uint64_t node);
/* A file was looked up in the directory. true: it had a lean listing; lean_take() has something. */
bool lean_looked(struct lean *l, uint64_t node);
/* The directories that have lean listings, which then count as having none any more; freed by the
 * caller. NULL: none, or no memory (they stay as they are). */
uint64_t *lean_take(struct lean *l, size_t *ret_n);

#endif
