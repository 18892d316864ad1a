/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The work itself, in the sandbox: layers onto the builder, bottom first, the lowest perhaps from
 * records instead of blobs; then what a boot needs, the home's filesystem, and the image's end.
 *
 *	records of layers 0 … k-1 ─ replayed ─┐
 *	content of these ────────── cloned ───┤
 *	blobs of layers k … n-1 ─── applied ──┴─ mount points ─ content kept ─ home ─ finish
 *
 * Everything that decides about the image's bytes is in that order and on this thread, so that they
 * are the same however it came about.
 */
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include "unpack/builder/record.h"
#include "unpack/program/internal.h"
#include "unpack/program/protocol.h"

/* ---- layers */

/* The hash over the diff_ids so far: what a record is a record of. */
static int extend_chain(struct program *p, const char *diff_id, struct banger_error *err)
{
	int r = digest_begin(p->digest, NULL, err);

	if (r == 0)
		r = digest_add(p->digest, p->chain, sizeof(p->chain), err);
	if (r == 0)
		r = digest_add(p->digest, diff_id, strlen(diff_id), err);
	return r < 0 ? r : digest_end_raw(p->digest, p->chain, err);
}

static struct record_id record_id(const struct program *p)
{
	struct record_id id = {.layer = p->layer};

	memcpy(id.chain, p->chain, sizeof(id.chain));
	return id;
}

static int begin_layer(struct program *p, const struct stream_blob *blob, struct banger_error *err)
{
	if (blob->diff_id[0] && !digest_text_valid(blob->diff_id))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"its diff_id \"%s\" is not a sha256 or sha512 digest", blob->diff_id);
	ext4_builder_begin_layer(p->builder);
	return extend_chain(p, blob->diff_id, err);
}

static int apply(
	struct program *p, bool layer, struct layer_counts *counts, struct banger_error *err)
{
	const struct layer_options o = {.whiteouts = layer, .tick = program_progress, .arg = p};
	_cleanup_tar_ struct tar_reader *tar = NULL;
	int r = tar_new(p->stream, layer, &tar, err);

	return r < 0 ? r : layer_apply(tar, p->builder, &o, counts, err);
}

/* A record is for another time, and this image does not need it. */
static void end_record(struct program *p, const struct layer_counts *before)
{
	const struct record_counts counts = {.members = p->counts.members - before->members,
		.ignored_xattrs = p->counts.ignored_xattrs - before->ignored_xattrs};
	struct banger_error err;

	if (record_end(p->builder, &counts, &err) < 0)
		p->unrecorded = true;
}

static int apply_layer(struct program *p, const struct stream_blob *blob, struct banger_error *err)
{
	const struct layer_counts before = p->counts;
	int r = begin_layer(p, blob, err);

	if (r == 0 && blob->record_fd >= 0) {
		const struct record_id id = record_id(p);
		r = record_begin(p->builder, blob->record_fd, &id, p->digest, err);
	}
	if (r == 0)
		r = apply(p, true, &p->counts, err);
	if (r == 0 && blob->record_fd >= 0)
		end_record(p, &before);
	if (blob->record_fd >= 0)
		close(blob->record_fd);
	return r;
}

/* Names the layer before an error. */
static int blame(const struct program *p, const char *digest, int r, struct banger_error *err)
{
	if (r < 0)
		banger_error_prefix(err, "layer %u of %u%s%s%s", p->layer + 1, p->n_layers,
			digest[0] ? " (" : "", digest, digest[0] ? ")" : "");
	return r;
}

static int apply_layers(struct program *p, struct banger_error *err)
{
	for (; p->layer < p->n_layers; p->layer++) {
		const struct stream_blob *blob;
		int r = stream_begin(p->stream, &blob, err);
		if (r == 0)
			r = banger_error_set(err, BANGER_INTERNAL, "the layer is not there");
		if (r < 0)
			return blame(p, "", r, err);
		r = apply_layer(p, blob, err);
		if (r < 0)
			return blame(p, blob->digest, r, err);
	}
	return 0;
}

/* ---- layers that were there before */

static int replay_layer(struct program *p, const struct stream_blob *blob, struct banger_error *err)
{
	struct record_counts counts;
	int r = begin_layer(p, blob, err);

	if (r == 0 && blob->record_fd < 0)
		r = banger_error_set(err, BANGER_INTERNAL, "its record is not there");
	if (r < 0)
		return r;
	const struct record_id id = record_id(p);
	r = record_replay(p->builder, blob->record_fd, &id, p->digest, &counts, err);
	close(blob->record_fd);
	if (r < 0)
		return r;
	p->counts.members += counts.members;
	p->counts.ignored_xattrs += counts.ignored_xattrs;
	return program_progress(p, err);
}

static int replay_layers(struct program *p, struct banger_error *err)
{
	if (p->n_replay == 0)
		return 0;
	p->reusing = true;
	for (; p->layer < p->n_replay; p->layer++) {
		struct stream_blob blob = {0};
		int r = layers_next(&p->layers, -1, &blob, err);
		if (r > 0)
			r = replay_layer(p, &blob, err);
		if (r < 0)
			return blame(p, blob.digest, r, err);
	}
	int r = ext4_builder_take_content(p->builder, UNPACK_FD_FROM, &p->shared, err);
	p->reusing = r < 0;
	return r;
}

/* ---- what a boot needs */

static int make_mountpoints(struct program *p, struct banger_error *err)
{
	static const struct {
		const char *name;
		uint32_t mode;
	} points[] = {{"dev", 0755}, {"proc", 0555}, {"run", 0755}, {"sys", 0555}, {"tmp", 01777}};
	const struct ext4_time t = {.sec = p->time};

	for (size_t i = 0; i < ELEMENTSOF(points); i++) {
		const struct ext4_attr attr = {
			.mode = S_IFDIR | points[i].mode, .mtime = t, .atime = t, .ctime = t};
		size_t len = strlen(points[i].name);
		ext4_node node;
		if (ext4_builder_lookup(p->builder, EXT4_BUILDER_ROOT, points[i].name, len))
			continue;
		int r = ext4_builder_add(p->builder, EXT4_BUILDER_ROOT, points[i].name, len, &attr,
			NULL, 0, &node, err);
		if (r < 0)
			return r;
	}
	return 0;
}

/* ---- the end */

/* As with the records. What is wrong with the image's own file is heard of again when it is
 * finished. */
static void keep_content(struct program *p)
{
	struct banger_error err;

	p->kept = p->keep && !p->unrecorded &&
		  ext4_builder_give_content(p->builder, UNPACK_FD_KEEP, &err) == 0;
}

#define PASSWD_MAX (256 * 1024) /* what is looked at of /etc/passwd */

/* The home that a line of passwd(5) says, if the line is of that user: a name or a number. NULL: it is not. */
static char *home_of_line(char *line, const char *user, size_t user_len)
{
	char *fields[7];

	for (int i = 0; i < 7; i++) {
		fields[i] = line ? strsep(&line, ":") : NULL;
		if (!fields[i] && i < 6)
			return NULL;
	}
	bool same = (strlen(fields[0]) == user_len && memcmp(fields[0], user, user_len) == 0) ||
		    (strlen(fields[2]) == user_len && memcmp(fields[2], user, user_len) == 0);
	return same && fields[5][0] == '/' ? fields[5] : NULL;
}

/* "~USER" or "~USER:GROUP" by the image's own /etc/passwd; buf holds the result. NULL: no such user. */
static int find_home(
	struct program *p, const char *user, char *buf, char **ret, struct banger_error *err)
{
	ext4_node etc = 0, file = 0;
	size_t len = 0;

	*ret = NULL;
	int r = layer_find_dir(p->builder, "/etc", &etc, err);
	if (r == 0 && etc)
		file = ext4_builder_lookup(p->builder, etc, "passwd", strlen("passwd"));
	if (r == 0)
		r = ext4_builder_read(p->builder, file, buf, PASSWD_MAX, &len, err);
	if (r < 0)
		return r;
	buf[len] = '\0';
	for (char *line; !*ret && buf && (line = strsep(&buf, "\n"));)
		*ret = home_of_line(line, user, strcspn(user, ":"));
	return 0;
}

/* 0: there is none to copy: no such user, no such directory, or all of the image. */
static int home_dir(struct program *p, const char *path, ext4_node *ret, struct banger_error *err)
{
	_cleanup_free_ char *buf = NULL;
	char *found = NULL;
	int r = 0;

	*ret = 0;
	if (path[0] == '~') {
		buf = malloc(PASSWD_MAX + 1);
		if (!buf)
			return banger_error_oom(err);
		r = find_home(p, path + 1, buf, &found, err);
		if (r < 0 || !found)
			return r;
		path = found;
	}
	r = layer_find_dir(p->builder, path, ret, err);
	if (r == 0 && *ret == EXT4_BUILDER_ROOT)
		*ret = 0;
	/* What the image says may be no path at all. */
	if (r < 0 && found) {
		*err = (struct banger_error){0};
		r = 0;
	}
	return r;
}

static int make_home(struct program *p, struct banger_error *err)
{
	const char *path = p->home ? banger_json_str(p->home, "path") : NULL;
	ext4_node dir = 0;

	if (!p->home)
		return 0;
	int r = home_dir(p, path ? path : "", &dir, err);
	if (r == 0)
		r = ext4_builder_copy(p->builder, dir, p->home_builder, err);
	if (r == 0)
		r = ext4_builder_finish(p->home_builder, &p->home_result, err);
	if (r < 0)
		banger_error_prefix(err, "the filesystem for %s", path ? path : "the home");
	return r;
}

static int apply_archive(struct program *p, struct banger_error *err)
{
	const struct stream_blob *blob;
	int r = stream_begin(p->stream, &blob, err);

	return r < 0 ? r : apply(p, false, &p->counts, err);
}

int program_work(struct program *p, struct banger_error *err)
{
	int r = replay_layers(p, err);

	if (r == 0) {
		p->in_layer = true;
		stream_start(p->stream);
		r = p->n_layers > 0 ? apply_layers(p, err) : apply_archive(p, err);
	}
	p->in_layer = r < 0;
	if (r == 0 && p->mountpoints)
		r = make_mountpoints(p, err);
	if (r == 0)
		keep_content(p);
	if (r == 0)
		r = make_home(p, err);
	if (r == 0)
		r = ext4_builder_finish(p->builder, &p->result, err);
	return r;
}
