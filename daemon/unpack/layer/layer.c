/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Member by member: find the directory that its name is in, make room for it, add it, fill it. What
 * is of a lower layer and what of this one is the builder's to know.
 *
 * The directory is found by walking the name's components from the root. What is still to be walked
 * is a stack of strings: the name, and on top of it the target of each symlink on the way; nothing
 * is copied and nothing recurses. Archives name one directory's files in a row, so the last result
 * is kept, until something is removed and names may mean other things than before.
 */
#include "unpack/layer/layer.h"

#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>

#define SYMLINKS_MAX 40 /* on the way to one name, as in Linux */

struct layer {
	struct tar_reader *tar;
	struct ext4_builder *b;
	const struct layer_options *o;
	struct layer_counts *counts;
	/* The name of a directory, and what it was found to be; 0: nothing is known. */
	char *known;
	size_t known_len, known_room;
	ext4_node known_dir;
	struct ext4_xattr *xattrs;
	size_t cap_xattrs;
};

/* ---- names */

struct walk {
	struct {
		const char *s;
		size_t len;
	} stack[SYMLINKS_MAX + 1];
	size_t depth;
	unsigned followed;
};

/* The next component; false when there is none left. */
static bool next_component(struct walk *w, const char **ret, size_t *ret_len)
{
	while (w->depth > 0) {
		const char *s = w->stack[w->depth - 1].s;
		size_t len = w->stack[w->depth - 1].len, n = 0;
		while (len > 0 && *s == '/') {
			s++;
			len--;
		}
		while (n < len && s[n] != '/')
			n++;
		if (n == 0) {
			w->depth--;
			continue;
		}
		w->stack[w->depth - 1].s = s + n;
		w->stack[w->depth - 1].len = len - n;
		if (n == 1 && s[0] == '.')
			continue;
		*ret = s;
		*ret_len = n;
		return true;
	}
	return false;
}

static bool is_dotdot(const char *s, size_t len)
{
	return len == 2 && s[0] == '.' && s[1] == '.';
}

/* Puts a symlink's target on the stack; *dir becomes where it begins. */
static int follow(
	struct layer *l, struct walk *w, ext4_node link, ext4_node *dir, struct banger_error *err)
{
	size_t len;
	const char *target = ext4_builder_target(l->b, link, &len);

	if (w->followed == SYMLINKS_MAX)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"more than %d symlinks on the way to the name", SYMLINKS_MAX);
	w->followed++;
	w->stack[w->depth].s = target;
	w->stack[w->depth++].len = len;
	if (target[0] == '/')
		*dir = EXT4_BUILDER_ROOT;
	return 0;
}

/* One component on the way. make: directories that are missing are made. */
static int step(struct layer *l, struct walk *w, bool make, const char *name, size_t len,
	ext4_node *dir, struct banger_error *err)
{
	if (is_dotdot(name, len)) { /* of a symlink's target; the archive's names have none */
		*dir = ext4_builder_parent(l->b, *dir);
		return 0;
	}
	ext4_node at = ext4_builder_lookup(l->b, *dir, name, len);
	if (!at && !make)
		return banger_error_set(err, BANGER_NOT_FOUND, "no such file");
	if (!at)
		return ext4_builder_add_implied(l->b, *dir, name, len, dir, err);
	uint32_t mode = ext4_builder_mode(l->b, at);
	if (S_ISLNK(mode))
		return follow(l, w, at, dir, err);
	if (!S_ISDIR(mode))
		return make ? banger_error_set(err, BANGER_BAD_REQUEST,
				      "\"%.*s\" on the way to it is not a directory",
				      (int)(len < 100 ? len : 100), name)
			    : banger_error_set(err, BANGER_NOT_FOUND, "no such directory");
	*dir = at;
	return 0;
}

/* An archive's name as a directory's part and a last component; an empty one is the root. */
static int split_name(const struct tar_string *path, size_t *ret_dir, const char **ret_name,
	size_t *ret_len, struct banger_error *err)
{
	struct walk w = {.stack = {{path->s, path->len}}, .depth = 1};
	size_t len;

	if (memchr(path->s, '\0', path->len))
		return banger_error_set(err, BANGER_BAD_REQUEST, "the name has a NUL in it");
	*ret_dir = 0;
	*ret_name = path->s;
	*ret_len = 0;
	for (const char *s; next_component(&w, &s, &len);) {
		if (is_dotdot(s, len))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"the name has \"..\" in it, which could lead out of the image");
		*ret_name = s;
		*ret_len = len;
		*ret_dir = s - path->s;
	}
	return 0;
}

static void forget_known(struct layer *l)
{
	l->known_dir = 0;
}

static int remember(
	struct layer *l, const char *s, size_t len, ext4_node dir, struct banger_error *err)
{
	if (len > l->known_room) {
		char *p = realloc(l->known, len * 2);
		if (!p)
			return banger_error_oom(err);
		l->known = p;
		l->known_room = len * 2;
	}
	if (len > 0)
		memcpy(l->known, s, len);
	l->known_len = len;
	l->known_dir = dir;
	return 0;
}

/* Where a name is: its directory and its last component. */
struct place {
	ext4_node dir;
	const char *name;
	size_t len; /* 0: the root itself */
};

static int find_place(struct layer *l, const struct tar_string *path, bool make, struct place *ret,
	struct banger_error *err)
{
	size_t dir_len = 0, len;
	const char *name;
	int r = split_name(path, &dir_len, &ret->name, &ret->len, err);

	if (r < 0)
		return r;
	ret->dir = EXT4_BUILDER_ROOT;
	if (dir_len == 0)
		return 0;
	if (l->known_dir && l->known_len == dir_len && memcmp(l->known, path->s, dir_len) == 0) {
		ret->dir = l->known_dir;
		return 0;
	}
	struct walk w = {.stack = {{path->s, dir_len}}, .depth = 1};
	while (r == 0 && next_component(&w, &name, &len))
		r = step(l, &w, make, name, len, &ret->dir, err);
	return r < 0 ? r : remember(l, path->s, dir_len, ret->dir, err);
}

/* ---- members */

static struct ext4_attr attr_of(const struct tar_member *m)
{
	static const uint32_t types[] = {[TAR_FILE] = S_IFREG,
		[TAR_SYMLINK] = S_IFLNK,
		[TAR_CHAR] = S_IFCHR,
		[TAR_BLOCK] = S_IFBLK,
		[TAR_DIR] = S_IFDIR,
		[TAR_FIFO] = S_IFIFO};

	return (struct ext4_attr){
		.mode = types[m->type] | (m->type == TAR_SYMLINK ? 0777 : m->mode),
		.uid = m->uid,
		.gid = m->gid,
		.mtime = {m->mtime.sec, m->mtime.nsec},
		.atime = {m->atime.sec, m->atime.nsec},
		.ctime = {m->ctime.sec, m->ctime.nsec},
		.major = m->major,
		.minor = m->minor,
	};
}

static int set_xattrs(
	struct layer *l, const struct tar_member *m, ext4_node node, struct banger_error *err)
{
	size_t ignored = 0;

	if (m->n_xattrs > l->cap_xattrs) {
		struct ext4_xattr *list = reallocarray(l->xattrs, m->n_xattrs, sizeof(*list));
		if (!list)
			return banger_error_oom(err);
		l->xattrs = list;
		l->cap_xattrs = m->n_xattrs;
	}
	for (size_t i = 0; i < m->n_xattrs; i++)
		l->xattrs[i] = (struct ext4_xattr){m->xattrs[i].name.s, m->xattrs[i].name.len,
			m->xattrs[i].value.s, m->xattrs[i].value.len};
	int r = ext4_builder_set_xattrs(l->b, node, l->xattrs, m->n_xattrs, &ignored, err);
	l->counts->ignored_xattrs += ignored;
	return r;
}

static int tick(struct layer *l, struct banger_error *err)
{
	return l->o->tick ? l->o->tick(l->o->arg, err) : 0;
}

static int copy_content(
	struct layer *l, const struct tar_member *m, ext4_node node, struct banger_error *err)
{
	const uint8_t *data;
	uint64_t offset;
	size_t len;
	int r;

	while ((r = tar_data(l->tar, &data, &len, &offset, err)) > 0) {
		r = ext4_builder_write(l->b, node, offset, data, len, err);
		if (r == 0)
			r = tick(l, err);
		if (r < 0)
			return r;
	}
	return r < 0 ? r : ext4_builder_end_file(l->b, node, m->size, err);
}

static int remove_old(struct layer *l, const struct place *p, struct banger_error *err)
{
	forget_known(l);
	return ext4_builder_remove(l->b, p->dir, p->name, p->len, err);
}

static int describe_dir(
	struct layer *l, const struct tar_member *m, ext4_node dir, struct banger_error *err)
{
	const struct ext4_attr attr = attr_of(m);

	ext4_builder_set_attr(l->b, dir, &attr);
	ext4_builder_touch(l->b, dir);
	return set_xattrs(l, m, dir, err);
}

static bool is_below(const struct layer *l, ext4_node dir, ext4_node top)
{
	while (dir != top && dir != EXT4_BUILDER_ROOT)
		dir = ext4_builder_parent(l->b, dir);
	return dir == top;
}

static int add_link(struct layer *l, const struct tar_member *m, const struct place *p,
	struct banger_error *err)
{
	struct place to;
	int r = find_place(l, &m->link, false, &to, err);
	ext4_node target =
		r == 0 && to.len > 0 ? ext4_builder_lookup(l->b, to.dir, to.name, to.len) : 0;

	if (r < 0 && r != -ENOENT)
		return r;
	if (!target)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a hard link to \"%.*s\", which %s",
			(int)(m->link.len < 200 ? m->link.len : 200), m->link.s,
			l->o->whiteouts ? "neither this layer has before it nor those below"
					: "the archive does not have before it");
	if (S_ISDIR(ext4_builder_mode(l->b, target)))
		return banger_error_set(err, BANGER_BAD_REQUEST, "a hard link to a directory");
	ext4_node old = ext4_builder_lookup(l->b, p->dir, p->name, p->len);
	if (old == target) {
		ext4_builder_claim(l->b, p->dir, p->name, p->len);
		return 0;
	}
	if (old && S_ISDIR(ext4_builder_mode(l->b, old)) && is_below(l, to.dir, old))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"a hard link in the place of the directory that its target is in");
	if (old && (r = remove_old(l, p, err)) < 0)
		return r;
	return ext4_builder_link(l->b, p->dir, p->name, p->len, target, err);
}

static int add_new(struct layer *l, const struct tar_member *m, const struct place *p,
	struct banger_error *err)
{
	const struct ext4_attr attr = attr_of(m);
	ext4_node node;
	int r = ext4_builder_add(
		l->b, p->dir, p->name, p->len, &attr, m->link.s, m->link.len, &node, err);

	if (r == 0 && m->n_xattrs > 0)
		r = set_xattrs(l, m, node, err);
	if (r == 0 && m->type == TAR_FILE)
		r = copy_content(l, m, node, err);
	return r;
}

/* ---- whiteouts */

#define WHITEOUT ".wh."
#define WHITEOUT_META ".wh..wh."
#define WHITEOUT_OPAQUE ".wh..wh..opq"

static bool has_prefix(const char *s, size_t len, const char *prefix)
{
	return len >= strlen(prefix) && memcmp(s, prefix, strlen(prefix)) == 0;
}

static bool is_opaque(const char *s, size_t len)
{
	return len == strlen(WHITEOUT_OPAQUE) && memcmp(s, WHITEOUT_OPAQUE, len) == 0;
}

enum meaning { A_FILE, A_WHITEOUT, AN_OPAQUE, NOTHING };

/* What a layer means by a name. */
static int meaning_of(const struct tar_string *path, enum meaning *ret, struct banger_error *err)
{
	struct walk w = {.stack = {{path->s, path->len}}, .depth = 1};
	bool whiteout = false, opaque = false;
	size_t len;

	for (const char *s; next_component(&w, &s, &len);) {
		if (whiteout || opaque)
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"a member below a whiteout, which is no directory");
		opaque = is_opaque(s, len);
		if (!opaque && has_prefix(s, len, WHITEOUT_META)) {
			*ret = NOTHING;
			return 0;
		}
		whiteout = !opaque && has_prefix(s, len, WHITEOUT);
		size_t rest = whiteout ? len - strlen(WHITEOUT) : 0;
		const char *name = s + len - rest;
		if (whiteout && (rest == 0 || (rest == 1 && *name == '.') || is_dotdot(name, rest)))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"a whiteout of \"%.*s\", which is no name", (int)rest, name);
	}
	*ret = opaque ? AN_OPAQUE : whiteout ? A_WHITEOUT : A_FILE;
	return 0;
}

/* A directory that is not there, or is none, holds nothing to hide. */
static int hide(struct layer *l, const struct tar_member *m, bool all, struct banger_error *err)
{
	struct banger_error why = {0};
	struct place p;
	int r = find_place(l, &m->path, false, &p, &why);

	if (r == -ENOENT)
		return 0;
	if (r < 0)
		return banger_error_set(err, why.code, "%s", why.message);
	forget_known(l);
	if (all)
		return ext4_builder_hide_all(l->b, p.dir, err);
	return ext4_builder_hide(
		l->b, p.dir, p.name + strlen(WHITEOUT), p.len - strlen(WHITEOUT), err);
}

/* ---- */

static int apply_file(struct layer *l, const struct tar_member *m, struct banger_error *err)
{
	struct place p;
	int r = find_place(l, &m->path, true, &p, err);

	if (r < 0)
		return r;
	if (p.len == 0) {
		if (m->type == TAR_DIR)
			return describe_dir(l, m, EXT4_BUILDER_ROOT, err);
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the image's root cannot be anything but a directory");
	}
	if (p.len > EXT4_BUILDER_NAME_MAX)
		return banger_error_set(err, BANGER_NAME_TOO_LONG,
			"the name is %zu bytes long, and a filesystem takes %d", p.len,
			EXT4_BUILDER_NAME_MAX);
	if (m->type == TAR_LINK)
		return add_link(l, m, &p, err);
	ext4_node old = ext4_builder_lookup(l->b, p.dir, p.name, p.len);
	if (old && m->type == TAR_DIR && S_ISDIR(ext4_builder_mode(l->b, old)))
		return describe_dir(l, m, old, err);
	if (old && (r = remove_old(l, &p, err)) < 0)
		return r;
	return add_new(l, m, &p, err);
}

static int apply_member(struct layer *l, const struct tar_member *m, struct banger_error *err)
{
	enum meaning meaning = A_FILE;
	int r = l->o->whiteouts ? meaning_of(&m->path, &meaning, err) : 0;

	if (r < 0)
		return r;
	switch (meaning) {
	case A_WHITEOUT:
	case AN_OPAQUE:
		return hide(l, m, meaning == AN_OPAQUE, err);
	case NOTHING:
		return 0;
	default:
		return apply_file(l, m, err);
	}
}

/* Says which member it was, unless the archive's reader has done so. */
static int blame(const struct tar_member *m, int r, struct banger_error *err)
{
	size_t from = m->path.len > 200 ? m->path.len - 200 : 0;

	if (err && strncmp(err->message, "member \"", 8) != 0)
		banger_error_prefix(err, "member \"%s%.*s\" at byte %llu of the archive",
			from ? "…" : "", (int)(m->path.len - from), m->path.s + from,
			(unsigned long long)m->offset);
	return r;
}

static int apply_all(struct layer *l, struct banger_error *err)
{
	const struct tar_member *m;
	int r;

	while ((r = tar_next(l->tar, &m, err)) > 0) {
		l->counts->members++;
		r = apply_member(l, m, err);
		if (r < 0)
			return blame(m, r, err);
		r = tick(l, err);
		if (r < 0)
			return r;
	}
	return r;
}

int layer_apply(struct tar_reader *tar, struct ext4_builder *b, const struct layer_options *o,
	struct layer_counts *ret, struct banger_error *err)
{
	struct layer l = {.tar = tar, .b = b, .o = o, .counts = ret};
	int r = apply_all(&l, err);

	free(l.known);
	free(l.xattrs);
	return r;
}

int layer_find_dir(
	struct ext4_builder *b, const char *path, ext4_node *ret, struct banger_error *err)
{
	const struct layer_options o = {0};
	struct layer l = {.b = b, .o = &o};
	struct walk w = {.stack = {{path, strlen(path)}}, .depth = 1};
	ext4_node dir = EXT4_BUILDER_ROOT;
	const char *name;
	size_t len;
	int r = 0;

	while (r == 0 && next_component(&w, &name, &len))
		r = step(&l, &w, false, name, len, &dir, err);
	if (r < 0 && r != -ENOENT)
		return r;
	*ret = r < 0 ? 0 : dir;
	return 0;
}
