/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Goes through a whole image by every function of the reader, within limits, and checks what must
 * hold whatever the image says. Used by the unit tests and by the fuzz target.
 */
#ifndef TESTS_CONTENT_WALK_H
#define TESTS_CONTENT_WALK_H

#include <content/ext4/ext4.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>

#include "bases.h"

#define WALK_INODES 400
#define WALK_ENTRIES 2000

#define HOLDS(cond)                                                                                \
	do {                                                                                       \
		if (!(cond)) {                                                                     \
			fprintf(stderr, "%s:%d: broken: %s\n", __FILE__, __LINE__, #cond);         \
			abort();                                                                   \
		}                                                                                  \
	} while (0)

struct walk {
	struct ext4_image *img;
	struct ext4_scratch *s;
	uint32_t queue[WALK_INODES], seen, done; /* directories and files to look at */
	struct ext4_inode dir;
	unsigned entries, errors;
	uint64_t sum; /* of all that was read: two walks of one image must agree */
	char *buf;    /* 128 KiB */
};

/* Not every byte of long ones, to be quick. */
static inline void walk_mix(struct walk *w, const void *p, size_t n)
{
	for (size_t k = 0; k<n; k += n> 4096 ? 61 : 1)
		w->sum = w->sum * 1099511628211u + ((const unsigned char *)p)[k];
}

static inline int walk_error(struct walk *w, int64_t r)
{
	if (r < 0) {
		HOLDS(r == -EUCLEAN || r == -EIO || r == -ENOKEY || r == -ENODATA || r == -ERANGE ||
			r == -E2BIG || r == -ENXIO || r == -EINVAL || r == -EISDIR ||
			r == -ENOENT || r == -EOVERFLOW);
		w->errors += r == -EUCLEAN || r == -EIO;
	}
	return r < 0;
}

static inline int walk_entry(void *arg, const struct ext4_dirent *e)
{
	struct walk *w = arg;

	HOLDS(e->len == strlen(e->name) && e->len > 0 && !strchr(e->name, '/'));
	walk_mix(w, e->name, e->len);
	if (++w->entries % 50 == 0)
		return 1; /* so that the walk goes on from a position */
	for (uint32_t k = 0; k < w->seen; k++)
		if (w->queue[k] == e->ino)
			return 0;
	if (w->seen < WALK_INODES)
		w->queue[w->seen++] = e->ino;
	return 0;
}

struct walk_pos {
	struct walk *w;
	uint64_t pos;
	char name[256];
};

static inline int walk_entry_at(void *arg, const struct ext4_dirent *e)
{
	struct walk_pos *p = arg;
	int r = walk_entry(p->w, e);

	if (r == 0) {
		p->pos = e->next;
		memcpy(p->name, e->name, e->len + 1u);
	}
	return r;
}

static inline void walk_directory(struct walk *w, const struct ext4_inode *i)
{
	struct walk_pos p = {.w = w};
	uint32_t ino;

	for (unsigned calls = 0; calls < 100 && w->entries < WALK_ENTRIES; calls++) {
		uint64_t before = p.pos;
		if (walk_error(w, ext4_readdir(w->img, w->s, i, p.pos, walk_entry_at, &p)) ||
			(p.pos == before && w->entries % 50))
			break;
		if (p.name[0])
			walk_error(w, ext4_lookup(w->img, w->s, i, p.name, strlen(p.name), &ino));
	}
	walk_error(w, ext4_lookup(w->img, w->s, i, "no such name", 12, &ino));
	walk_error(w, ext4_readdir(w->img, w->s, i, 12345, walk_entry_at, &p));
}

static inline void walk_contents(struct walk *w, const struct ext4_inode *i)
{
	const uint64_t at[] = {0, 55, 70000, i->size / 2, i->size - 100};

	for (size_t k = 0; k < ELEMENTSOF(at); k++) {
		ssize_t n = ext4_read(w->img, w->s, i, at[k], w->buf, 20000);
		if (walk_error(w, n))
			continue;
		HOLDS(n <= 20000 && (at[k] >= i->size ? n == 0 : (uint64_t)n <= i->size - at[k]));
		walk_mix(w, w->buf, (size_t)n);
	}
	walk_error(w, ext4_seek(w->img, w->s, i, 0, false));
	int64_t hole = ext4_seek(w->img, w->s, i, 0, true);
	HOLDS(walk_error(w, hole) || (uint64_t)hole <= i->size);
}

static inline void walk_map(struct walk *w, const struct ext4_inode *i)
{
	static const uint64_t at[] = {0, 1, 11, 12, 100, 300, 70000, 1u << 20, 0xffffffff};
	struct ext4_run run;

	for (size_t k = 0; k < ELEMENTSOF(at);
		k++) { /* some are beyond what a block map can have */
		int r = ext4_map(w->img, w->s, i, at[k], &run);
		HOLDS(r == 0 ? run.lblk == at[k] && run.len > 0 : r == -EUCLEAN || r == -EIO);
	}
}

static inline void walk_xattrs(struct walk *w, const struct ext4_inode *i)
{
	ssize_t n = ext4_xattr_list(w->img, w->s, i, w->buf, EXT4_XATTR_MAX);
	char *value = w->buf + EXT4_XATTR_MAX;

	HOLDS(n <= EXT4_XATTR_MAX);
	walk_error(w, ext4_xattr_get(w->img, w->s, i, "system.posix_acl_access", value, 100));
	if (walk_error(w, n))
		return;
	walk_mix(w, w->buf, (size_t)n);
	unsigned count = 0;
	for (ssize_t at = 0; at < n && count < 20;
		at += (ssize_t)strlen(w->buf + at) + 1, count++) {
		ssize_t v = ext4_xattr_get(w->img, w->s, i, w->buf + at, value, EXT4_XATTR_MAX);
		HOLDS(v <= EXT4_XATTR_MAX);
		if (!walk_error(w, v))
			walk_mix(w, value, (size_t)v);
		walk_error(w, ext4_xattr_get(w->img, w->s, i, w->buf + at, NULL, 0));
	}
}

static inline void walk_inode(struct walk *w, uint32_t ino)
{
	struct ext4_range ranges[8];
	struct ext4_inode i;
	struct stat st;

	if (walk_error(w, ext4_inode_get(w->img, w->s, ino, &i)))
		return;
	ext4_inode_stat(w->img, &i, &st);
	HOLDS(st.st_ino == ino && st.st_nlink > 0 && st.st_size >= 0 &&
		st.st_atim.tv_nsec < 1000000000);
	walk_mix(w, &st.st_size, sizeof(st.st_size));
	HOLDS(ext4_inode_ranges(w->img, &i, 1 << 20, ranges, 8) <= 8);
	walk_xattrs(w, &i);
	if (S_ISDIR(i.mode)) {
		walk_directory(w, &i);
	} else if (S_ISLNK(i.mode)) {
		char target[4096];
		if (!walk_error(w, ext4_readlink(w->img, w->s, &i, target)))
			HOLDS(strlen(target) == i.size);
	} else {
		walk_contents(w, &i);
	}
	walk_map(w, &i);
}

static inline int walk_count(void *arg, const struct ext4_inode *i)
{
	walk_mix(arg, &i->mode, sizeof(i->mode));
	return 0;
}

/* fd stays the caller's. Returns the walk, without what it worked with. */
static inline struct walk walk_image(int fd, struct ext4_scratch *s, char *buf)
{
	struct walk w = {.s = s, .buf = buf, .queue = {EXT4_ROOT}, .seen = 1};
	struct banger_error err = {0};
	struct statvfs v;

	if (ext4_image_open(dup(fd), &w.img, &err) < 0) {
		HOLDS(err.message[0]);
		w.errors = 1;
		return w;
	}
	ext4_image_statfs(w.img, &v);
	HOLDS(ext4_image_unchanged(w.img) && ext4_image_memory(w.img) < (64u << 20));
	for (; w.done < w.seen; w.done++)
		walk_inode(&w, w.queue[w.done]);
	walk_error(&w, ext4_image_has_xattr(w.img, s, "system.posix_acl_"));
	walk_error(&w, ext4_image_inodes(w.img, s, walk_count, &w));
	ext4_image_close(w.img);
	return w;
}

static inline int walk_digit(char c)
{
	static const char digits[] =
		"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
	const char *p = strchr(digits, c);

	return p ? (int)(p - digits) : 0;
}

/* The image of a base: malloc'ed, b->size bytes. */
static inline uint8_t *base_expand(const struct base *b)
{
	size_t n = strlen(b->text) / 4 * 3, at = 0;
	uint8_t *packed = malloc(n), *out = calloc(1, b->size);

	HOLDS(packed && out);
	for (size_t k = 0; k < n / 3; k++) {
		const char *t = b->text + 4 * k;
		unsigned v = (unsigned)(walk_digit(t[0]) << 18 | walk_digit(t[1]) << 12 |
					(t[2] == '=' ? 0 : walk_digit(t[2]) << 6) |
					(t[3] == '=' ? 0 : walk_digit(t[3])));
		packed[3 * k] = (uint8_t)(v >> 16);
		packed[3 * k + 1] = (uint8_t)(v >> 8);
		packed[3 * k + 2] = (uint8_t)v;
	}
	for (size_t k = 0; k + 4 <= n;) {
		size_t zeros = packed[k] | (size_t)packed[k + 1] << 8,
		       len = packed[k + 2] | (size_t)packed[k + 3] << 8;
		k += 4;
		at += zeros;
		if (at + len > b->size || k + len > n)
			break; /* the padding of base64 */
		memcpy(out + at, packed + k, len);
		at += len;
		k += len;
	}
	free(packed);
	return out;
}

/* A file with these bytes. */
static inline int base_file(const uint8_t *image, size_t size)
{
	int fd = memfd_create("image", MFD_CLOEXEC);

	HOLDS(fd >= 0 && write(fd, image, size) == (ssize_t)size);
	return fd;
}

#endif
