/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Layers, through the real program. Layers and the trees they must come to are written in words:
 *
 *	a/        a directory          a=text    a file         a>target   a symlink
 *	a<b       a hard link to b     a/.wh.x   a whiteout     b==a       (trees) another name of a
 *	a!text    a file, or a/!text a directory, with an extended attribute
 *
 * Every image that is made must please e2fsck, and a tree is compared whole.
 */
#include "image.h"

#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/eventfd.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include "unpack/run.h"
#include "unpack/stream/digest.h"

#define LAYERS_MAX 8

static struct banger_config config;
static struct digest *digest;

static int setup(void **state)
{
	struct banger_error err = {0};

	config.libexec_dir = getenv("BANGER_UNPACK_DIR");
	assert_non_null(config.libexec_dir);
	return digest_new(&digest, &err);
}

static int teardown(void **state)
{
	digest_freep(&digest);
	return 0;
}

/* ---- archives from words */

struct tarball {
	uint8_t *data;
	size_t len;
};

static void add_bytes(struct tarball *t, const void *data, size_t len)
{
	size_t room = (len + 511) / 512 * 512;

	t->data = realloc(t->data, t->len + room + 1);
	assert_non_null(t->data);
	memset(t->data + t->len, 0, room);
	if (len > 0)
		memcpy(t->data + t->len, data, len);
	t->len += room;
}

static void add_member(struct tarball *t, char type, const char *name, size_t name_len,
	const char *link, const void *content, size_t len)
{
	char h[512] = {0};
	unsigned sum = 0;

	memcpy(h, name, name_len);
	snprintf(h + 100, 8, "%07o", type == '5' ? 0755 : 0644);
	snprintf(h + 108, 8, "%07o", 0);
	snprintf(h + 116, 8, "%07o", 0);
	snprintf(h + 124, 12, "%011o", (unsigned)len);
	snprintf(h + 136, 12, "%011o", 1000);
	memset(h + 148, ' ', 8);
	h[156] = type;
	strcpy(h + 157, link);
	memcpy(h + 257, "ustar\00000", 8);
	for (size_t i = 0; i < sizeof(h); i++)
		sum += (uint8_t)h[i];
	snprintf(h + 148, 8, "%06o", sum);
	add_bytes(t, h, sizeof(h));
	add_bytes(t, content, len);
}

/* An extended header for the next member. */
static void add_attribute(struct tarball *t, const char *value)
{
	char record[100];
	int len = snprintf(record, sizeof(record), "00 SCHILY.xattr.user.note=%s\n", value);

	assert_true(len < 100);
	snprintf(record, sizeof(record), "%02d SCHILY.xattr.user.note=%s\n", len, value);
	add_member(t, 'x', "pax", 3, "", record, len);
}

static void add_word(struct tarball *t, const char *word)
{
	size_t n = strcspn(word, "=<>!");
	const char *rest = word[n] ? word + n + 1 : "";

	switch (word[n]) {
	case '=':
		add_member(t, '0', word, n, "", rest, strlen(rest));
		break;
	case '>':
		add_member(t, '2', word, n, rest, NULL, 0);
		break;
	case '<':
		add_member(t, '1', word, n, rest, NULL, 0);
		break;
	case '!':
		add_attribute(t, rest);
		__attribute__((fallthrough));
	default:
		add_member(t, word[n - 1] == '/' ? '5' : '0', word, n, "", NULL, 0);
	}
}

static struct tarball tar_of(const char *words)
{
	struct tarball t = {0};
	char *copy = strdup(words), *save = NULL;
	static const uint8_t end[1024];

	for (char *w = strtok_r(copy, " ", &save); w; w = strtok_r(NULL, " ", &save))
		add_word(&t, w);
	free(copy);
	add_bytes(&t, end, sizeof(end));
	return t;
}

/* ---- images */

struct run {
	struct unpack_layer layers[LAYERS_MAX];
	char diff_ids[LAYERS_MAX][DIGEST_TEXT];
	size_t n;
	struct unpack_options o;
	struct unpack_result result;
	struct unpack_failure failure;
	struct banger_error err;
	struct image im;
};

static int memory_file(const void *data, size_t len)
{
	int fd = memfd_create("layer", MFD_CLOEXEC);

	assert_true(fd >= 0);
	assert_int_equal(write(fd, data, len), len);
	return fd;
}

static void begin(struct run *r)
{
	static const uint8_t seed[32] = {1, 2, 3};

	memset(r, 0, sizeof(*r));
	image_create(&r->im);
	r->o = (struct unpack_options){.out_fd = r->im.fd,
		.cancel_fd = -1,
		.notify_fd = -1,
		.from_fd = -1,
		.keep_fd = -1,
		.work_seed_fd = -1,
		.headroom = 1 << 20,
		.headroom_percent = 1,
		.seed = seed,
		.time = 77,
		.layers = r->layers,
		.failure = &r->failure};
}

static struct unpack_layer *add_tar(struct run *r, struct tarball t)
{
	struct unpack_layer *l = &r->layers[r->n];
	struct banger_error err;

	assert_int_equal(digest_begin(digest, NULL, &err), 0);
	assert_int_equal(digest_add(digest, t.data, t.len, &err), 0);
	assert_int_equal(digest_end(digest, r->diff_ids[r->n], &err), 0);
	*l = (struct unpack_layer){.fd = memory_file(t.data, t.len),
		.size = t.len,
		.digest = "sha256:some",
		.diff_id = r->diff_ids[r->n],
		.record_in_fd = -1,
		.record_out_fd = -1};
	free(t.data);
	r->n++;
	return l;
}

static struct unpack_layer *add_layer(struct run *r, const char *words)
{
	return add_tar(r, tar_of(words));
}

static int go(struct run *r)
{
	r->o.n_layers = r->n;
	return unpack_run(&config, &r->o, &r->result, &r->err);
}

static void must(struct run *r)
{
	if (go(r) < 0)
		fail_msg("%s", r->err.message);
	image_check(&r->im);
}

static void done(struct run *r)
{
	for (size_t i = 0; i < r->n; i++) {
		if (r->layers[i].fd > 0)
			close(r->layers[i].fd);
		if (r->layers[i].record_in_fd >= 0)
			close(r->layers[i].record_in_fd);
		if (r->layers[i].record_out_fd >= 0)
			close(r->layers[i].record_out_fd);
	}
	image_done(&r->im);
}

static void assert_same_bytes(int a, int b)
{
	off_t size = lseek(a, 0, SEEK_END);

	assert_int_equal(lseek(b, 0, SEEK_END), size);
	uint8_t *pa = mmap(NULL, size, PROT_READ, MAP_SHARED, a, 0);
	uint8_t *pb = mmap(NULL, size, PROT_READ, MAP_SHARED, b, 0);
	assert_true(pa != MAP_FAILED && pb != MAP_FAILED);
	for (off_t at = 0; at < size; at += 4096)
		if (memcmp(pa + at, pb + at, size - at < 4096 ? size - at : 4096) != 0)
			fail_msg("block %lld is not the same", (long long)at / 4096);
	munmap(pa, size);
	munmap(pb, size);
}

/* ---- trees to words */

struct tree {
	struct image *im;
	char dir[512];
	struct found {
		char *word;
		ext2_ino_t ino;
	} found[512];
	size_t n;
};

static int by_word(const void *a, const void *b)
{
	return strcmp(((const struct found *)a)->word, ((const struct found *)b)->word);
}

static void describe(struct tree *t, const char *path, ext2_ino_t ino, bool *ret_dir)
{
	struct ext2_inode_large in;
	char text[1024] = "";

	assert_int_equal(
		ext2fs_read_inode_full(t->im->fs, ino, (struct ext2_inode *)&in, sizeof(in)), 0);
	*ret_dir = LINUX_S_ISDIR(in.i_mode);
	if (LINUX_S_ISREG(in.i_mode)) {
		uint8_t *data = image_read(t->im, path, in.i_size);
		snprintf(text, sizeof(text), "=%.*s", (int)in.i_size, data);
		free(data);
	} else if (LINUX_S_ISLNK(in.i_mode)) {
		snprintf(text, sizeof(text), ">%.*s", (int)in.i_size, (char *)in.i_block);
	}
	assert_true(t->n < ELEMENTSOF(t->found));
	assert_true(asprintf(&t->found[t->n].word, "%s%s", path, *ret_dir ? "/" : text) > 0);
	t->found[t->n++].ino = *ret_dir ? 0 : ino;
}

static int visit(struct ext2_dir_entry *e, int offset, int size, char *buf, void *arg)
{
	struct tree *t = arg;
	int len = ext2fs_dirent_name_len(e);
	size_t at = strlen(t->dir);
	bool dir;

	if (e->name[0] == '.' && (len == 1 || (len == 2 && e->name[1] == '.')))
		return 0;
	snprintf(t->dir + at, sizeof(t->dir) - at, "%s%.*s", at ? "/" : "", len, e->name);
	describe(t, t->dir, e->inode, &dir);
	if (dir)
		assert_int_equal(ext2fs_dir_iterate(t->im->fs, e->inode, 0, NULL, visit, t), 0);
	t->dir[at] = '\0';
	return 0;
}

static char *tree_of(struct image *im)
{
	struct tree t = {.im = im};
	char *all = calloc(1, 65536);

	assert_int_equal(ext2fs_dir_iterate(im->fs, EXT2_ROOT_INO, 0, NULL, visit, &t), 0);
	qsort(t.found, t.n, sizeof(t.found[0]), by_word);
	for (size_t i = 0; i < t.n; i++) {
		size_t first = 0;
		while (first < i && (!t.found[i].ino || t.found[first].ino != t.found[i].ino))
			first++;
		if (i > 0)
			strcat(all, " ");
		if (first < i) {
			strncat(all, t.found[i].word, strcspn(t.found[i].word, "=>"));
			strcat(all, "==");
			strncat(all, t.found[first].word, strcspn(t.found[first].word, "=>"));
		} else {
			strcat(all, t.found[i].word);
		}
	}
	for (size_t i = 0; i < t.n; i++)
		free(t.found[i].word);
	return all;
}

/* ---- */

static const struct {
	const char *layers[LAYERS_MAX];
	const char *tree;
} merges[] = {
	{{""}, ""},
	{{"a=1", "", "b=2"}, "a=1 b=2"},
	{{"a=1", "a=22"}, "a=22"},
	{{"d/ d/x=1", "d/y=2"}, "d/ d/x=1 d/y=2"},
	{{"d/ d/x=1", "d/ d/y=2"}, "d/ d/x=1 d/y=2"},
	/* whiteouts */
	{{"a=1 b=2", ".wh.a"}, "b=2"},
	{{"d/ d/x=1 d/e/ d/e/y=2 z=3", ".wh.d"}, "z=3"},
	{{"d/ d/x=1", "d/.wh.x"}, "d/"},
	{{"a=1", ".wh.nothing d/.wh.nothing a/.wh.nothing"}, "a=1"},
	{{"a=1", ".wh.a", "a=3"}, "a=3"},
	{{"a=1", ".wh.a", ""}, ""},
	{{"a=1", ".wh.a/"}, ""},
	{{".dot=1 ..two=2", ".wh..dot .wh...two"}, ""},
	/* never what the same layer put there, in either order */
	{{"a=1", "a=2 .wh.a"}, "a=2"},
	{{"a=1", ".wh.a a=2"}, "a=2"},
	{{"", "a=2 .wh.a"}, "a=2"},
	{{"d/ d/x=1 d/e/ d/e/f=1", "d/y=2 .wh.d"}, "d/ d/y=2"},
	{{"d/ d/x=1 d/e/ d/e/f=1", ".wh.d d/y=2"}, "d/ d/y=2"},
	{{"d/ d/x=1 d/e/ d/e/f=1", "d/e/g=2 .wh.d"}, "d/ d/e/ d/e/g=2"},
	{{"d/ d/x=1", "d/ .wh.d"}, "d/"},
	{{"d/ d/x=1", ".wh.d d/ .wh.d d/z=3 .wh.d"}, "d/ d/z=3"},
	{{"d/ d/x=1", "d/.wh.x .wh.d d/y=1"}, "d/ d/y=1"},
	{{"d/ d/x=1", ".wh.d d=file"}, "d=file"},
	{{"d/ d/x=1", "d=file .wh.d"}, "d=file"},
	/* opaque */
	{{"d/ d/x=1 d/e/ d/e/f=1 k=1", "d/.wh..wh..opq"}, "d/ k=1"},
	{{"d/ d/x=1 d/e/ d/e/f=1", "d/.wh..wh..opq d/e/g=2"}, "d/ d/e/ d/e/g=2"},
	{{"d/ d/x=1 d/e/ d/e/f=1", "d/e/g=2 d/.wh..wh..opq"}, "d/ d/e/ d/e/g=2"},
	{{"d/ d/x=1 d/y=2", "d/x=2 d/.wh..wh..opq d/z=3"}, "d/ d/x=2 d/z=3"},
	{{"a=1 d/ d/x=1", ".wh..wh..opq b=2"}, "b=2"},
	{{"a=1", "gone/.wh..wh..opq"}, "a=1"},
	{{"d/ d/x=1", "d/.wh..wh..opq", "d/x=3", "d/.wh..wh..opq"}, "d/"},
	{{"d/ d/e/ d/e/x=1 d/f/ d/f/y=2", "d/e/n=1 d/.wh..wh..opq d/f/m=2 d/f/.wh.y d/e/.wh.x"},
		"d/ d/e/ d/e/n=1 d/f/ d/f/m=2"},
	/* others' bookkeeping */
	{{"a=1", ".wh..wh.plnk/ .wh..wh.plnk/12=x .wh..wh.aufs d/.wh..wh.orph/"}, "a=1"},
	/* one kind in place of another */
	{{"d/ d/x=1 d/e/ d/e/f=1", "d=file"}, "d=file"},
	{{"d/ d/x=1", "d>x"}, "d>x"},
	{{"f=1", "f/ f/x=2"}, "f/ f/x=2"},
	{{"f=1", "f/"}, "f/"},
	{{"r/ l>r", "l/ l/x=1"}, "l/ l/x=1 r/"},
	{{"r/ l>r", "l/x=1"}, "l>r r/ r/x=1"},
	{{"r/ r/x=1 l>r", "l/.wh.x"}, "l>r r/"},
	{{"l>up/../here here/", "l/x=1 up/y=2"}, "here/ here/x=1 l>up/../here up/ up/y=2"},
	/* hard links */
	{{"a=1", "b<a"}, "a=1 b==a"},
	{{"a=1", "b<a", ".wh.a"}, "b=1"},
	{{"a=1", "b<a", "a=2"}, "a=2 b=1"},
	{{"a=1", "b<a .wh.a"}, "b=1"},
	{{"a=1 b=2", "b<a"}, "a=1 b==a"},
	{{"a=1 d/ d/x=1", "d<a"}, "a=1 d==a"},
	{{"a=1 d/ d/x<a", "a<d/x"}, "a=1 d/ d/x==a"},
	/* a layer that says again what is there has put it there */
	{{"a=1", "a<a .wh.a"}, "a=1"},
	{{"a=1 b<a", "b<a .wh.b"}, "a=1 b==a"},
	{{"a=1 b<a", "b<a .wh.b", ".wh.b"}, "a=1"},
	{{"d/ d/x=1", "d/x<d/x .wh.d"}, "d/ d/x=1"},
	/* in one layer the later one counts */
	{{"a=1 a=2 d/ d/x=1 d=file d/ d/y=1"}, "a=2 d/ d/y=1"},
};

static void merging(void **state)
{
	for (size_t i = 0; i < ELEMENTSOF(merges); i++) {
		struct run r;
		begin(&r);
		for (size_t k = 0; k < LAYERS_MAX && merges[i].layers[k]; k++)
			add_layer(&r, merges[i].layers[k]);
		must(&r);
		char *tree = tree_of(&r.im);
		if (strcmp(tree, merges[i].tree) != 0)
			fail_msg("merge %zu: \"%s\" and not \"%s\"", i, tree, merges[i].tree);
		free(tree);
		done(&r);
	}
}

static const struct {
	const char *layers[LAYERS_MAX];
	int errnum;
	const char *message;
} refusals[] = {
	{{"a=1", "b=1 .wh."}, EINVAL, "layer 2 of 2 (sha256:some): member \".wh.\" at byte 1024"},
	{{".wh.."}, EINVAL, "whiteout of \".\""},
	{{"d/.wh..."}, EINVAL, "whiteout of \"..\""},
	{{".wh.a/b=1"}, EINVAL, "below a whiteout"},
	{{".wh..wh..opq/b=1"}, EINVAL, "below a whiteout"},
	{{"a=1", "d/../../.wh.a"}, EINVAL, "\"..\""},
	{{"a=1", "b<c"}, EINVAL, "neither this layer has before it nor those below"},
	{{"a=1", ".wh.a b<a"}, EINVAL, "neither this layer"},
	{{"d/ d/x=1", "d<d/x"}, EINVAL, "the directory that its target is in"},
	{{"d/", "b<d"}, EINVAL, "hard link to a directory"},
	{{"f=1", "f/x=1"}, EINVAL, "\"f\" on the way to it is not a directory"},
};

static void refusing(void **state)
{
	for (size_t i = 0; i < ELEMENTSOF(refusals); i++) {
		struct run r;
		begin(&r);
		for (size_t k = 0; k < LAYERS_MAX && refusals[i].layers[k]; k++)
			add_layer(&r, refusals[i].layers[k]);
		int e = go(&r);
		if (e != -refusals[i].errnum || !strstr(r.err.message, refusals[i].message))
			fail_msg("refusal %zu: %d, \"%s\"", i, e, r.err.message);
		assert_int_equal(r.failure.layer, r.n - 1);
		assert_false(r.failure.reuse);
		done(&r);
	}
}

/* Attributes: of a directory over a directory, of hard links, of what is implied. */
static void attributes(void **state)
{
	struct ext2_inode_large in;
	struct run r;
	size_t len;

	begin(&r);
	r.o.mountpoints = true;
	add_layer(&r, "d/!gone d/x=1 e/!old e/x=1 tmp>elsewhere i/j=1");
	add_layer(&r, "d/ e/!new");
	must(&r);
	image_inode(&r.im, "/d", &in);
	assert_int_equal(in.i_mtime, 1000);
	assert_null(image_xattr(&r.im, "/d", "user.note", &len));
	uint8_t *value = image_xattr(&r.im, "/e", "user.note", &len);
	assert_non_null(value);
	assert_int_equal(len, 3);
	assert_memory_equal(value, "new", 3);
	ext2fs_free_mem(&value);
	image_inode(&r.im, "/i", &in);
	assert_int_equal(in.i_mode, S_IFDIR | 0755);
	assert_int_equal(in.i_mtime, 77);
	image_inode(&r.im, "/proc", &in);
	assert_int_equal(in.i_mode, S_IFDIR | 0555);
	assert_int_equal(in.i_mtime, 77);
	assert_int_equal(image_count(&r.im, "/"), 8);
	done(&r);
}

/* ---- what layers say of themselves */

static void diff_ids(void **state)
{
	struct run r;

	begin(&r);
	add_layer(&r, "a=1");
	add_layer(&r, "b=1");
	strcpy(r.diff_ids[0], r.diff_ids[1]);
	assert_int_equal(go(&r), -EUCLEAN);
	assert_non_null(strstr(r.err.message, "layer 1 of 2 (sha256:some): the unpacked data is"));
	assert_non_null(strstr(r.err.message, r.diff_ids[1]));
	assert_int_equal(r.failure.layer, 0);
	done(&r);

	static const char *const bad[] = {"", "sha256:", "md5:00112233445566778899aabbccddeeff",
		"sha256:00", "SHA256:", "sha512:00"};
	for (size_t i = 1; i < ELEMENTSOF(bad); i++) {
		begin(&r);
		add_layer(&r, "a=1")->diff_id = bad[i];
		assert_int_equal(go(&r), -EINVAL);
		assert_non_null(strstr(r.err.message, "diff_id"));
		done(&r);
	}

	begin(&r);
	add_layer(&r, "a=1");
	struct banger_error err;
	struct tarball t = tar_of("a=1");
	assert_int_equal(digest_begin(digest, "sha512:", &err), 0);
	assert_int_equal(digest_add(digest, t.data, t.len, &err), 0);
	assert_int_equal(digest_end(digest, r.diff_ids[0], &err), 0);
	free(t.data);
	must(&r);
	done(&r);
}

static void compressions(void **state)
{
	struct run r;

	begin(&r);
	add_layer(&r, "a=1")->compression = "none";
	must(&r);
	done(&r);
	begin(&r);
	add_layer(&r, "a=1")->compression = "gzip";
	assert_int_equal(go(&r), -EUCLEAN);
	assert_non_null(strstr(r.err.message, "compression is none"));
	done(&r);
}

/* Without an end mark, with something behind it, cut off, with nothing at all. */
static void ends(void **state)
{
	struct tarball t;
	struct run r;

	begin(&r);
	t = tar_of("a=1");
	t.len -= 1024;
	add_tar(&r, t);
	t = tar_of("b=1");
	add_bytes(&t, "something else", 14);
	add_tar(&r, t);
	add_tar(&r, (struct tarball){0});
	must(&r);
	char *tree = tree_of(&r.im);
	assert_string_equal(tree, "a=1 b=1");
	free(tree);
	done(&r);

	begin(&r);
	t = tar_of("a=1");
	t.len = 700;
	add_tar(&r, t);
	assert_int_equal(go(&r), -EUCLEAN);
	assert_non_null(strstr(r.err.message, "member \"a\" at byte 0 of the archive"));
	assert_non_null(strstr(r.err.message, "at byte 700"));
	done(&r);

	/* The file is shorter than the blob is said to be. */
	begin(&r);
	add_layer(&r, "a=1")->size += 4096;
	assert_int_equal(go(&r), -EIO);
	assert_non_null(strstr(r.err.message, "the blob's file ends at byte 2048 of 6144"));
	done(&r);
}

static void limits(void **state)
{
	struct run r;

	begin(&r);
	r.o.unpacked_max = 4095;
	add_layer(&r, "a=1");
	add_layer(&r, "a=1");
	assert_int_equal(go(&r), -EFBIG);
	assert_non_null(strstr(r.err.message, "layer 2 of 2"));
	done(&r);
	begin(&r);
	r.o.unpacked_max = 4096;
	add_layer(&r, "a=1");
	add_layer(&r, "a=1");
	must(&r);
	done(&r);
}

/* Names that there are at once: what is replaced or removed does not count, other names of one file do. */
static void entries(void **state)
{
	struct run r;

	begin(&r);
	r.o.entries_max = 4;
	add_layer(&r, "a=1 b<a d/ d/c=1");
	add_layer(&r, "a=2 .wh.d d/ x=1");
	must(&r);
	done(&r);
	begin(&r);
	r.o.entries_max = 4;
	add_layer(&r, "a=1 b<a");
	add_layer(&r, "d/ d/c=1 d/e<a");
	assert_int_equal(go(&r), -EFBIG);
	assert_non_null(strstr(r.err.message, "layer 2 of 2 (sha256:some): member \"d/e\""));
	assert_non_null(strstr(r.err.message, "more than the 4 files"));
	assert_int_equal(r.failure.layer, 1);
	done(&r);
}

/* A disk that has no room but for what others want of it. */
static void room(void **state)
{
	char path[] = "/var/tmp/banger-unpack-room-XXXXXX";
	struct statvfs v;
	struct run r;
	int fd = mkstemp(path);

	assert_true(fd >= 0);
	unlink(path);
	assert_int_equal(fstatvfs(fd, &v), 0);
	begin(&r);
	r.o.out_fd = fd;
	add_layer(&r, "d/ d/a=1");
	assert_int_equal(go(&r), 0);
	r.o.wanted = (int64_t)(v.f_bavail * v.f_frsize);
	assert_int_equal(go(&r), -ENOSPC);
	assert_non_null(strstr(r.err.message, "layer 1 of 1 (sha256:some): member \"d/a\""));
	assert_non_null(strstr(r.err.message, "no more than 0 MiB"));
	done(&r);
	close(fd);
}

/* ---- reuse */

static struct tarball random_tar(const char *words, const char *name, size_t len, unsigned seed)
{
	struct tarball t = tar_of(words);
	uint8_t *data = malloc(len);

	for (size_t i = 0; i < len; i++) {
		seed = seed * 1664525 + 1013904223;
		/* With holes. */
		data[i] = i / 20000 % 3 == 1 ? 0 : seed >> 24;
	}
	t.len -= 1024;
	add_member(&t, '0', name, strlen(name), "", data, len);
	add_bytes(&t, (uint8_t[1024]){0}, 1024);
	free(data);
	return t;
}

#define STACK 4

static void add_stack(struct run *r, const char *top)
{
	add_tar(r, random_tar("d/!old d/x=1 s>d/x e/f/g=2 k!kept n!new", "d/big", 700000, 1));
	add_tar(r, random_tar("d/y<d/x d/.wh.x z=1 a=1", "d/second", 100000, 2));
	add_tar(r, random_tar("z=2 e/.wh..wh..opq e/h=3 d/ n!other", "third", 300001, 3));
	add_layer(r, top);
}

/* Makes an image of the stack with `top`, its first k layers from records. Returns its result. */
static int make_stack(struct run *r, const char *top, const int records[STACK], size_t k, int from)
{
	begin(r);
	add_stack(r, top);
	r->o.from_fd = from;
	for (size_t i = 0; i < k; i++) {
		close(r->layers[i].fd);
		r->layers[i].fd = -1;
		r->layers[i].record_in_fd = dup(records[i]);
	}
	return go(r);
}

static void record_stack(struct run *r, int records[STACK])
{
	begin(r);
	add_stack(r, "top=1 d/.wh.nothing");
	for (size_t i = 0; i < STACK; i++) {
		records[i] = memfd_create("record", MFD_CLOEXEC);
		r->layers[i].record_out_fd = dup(records[i]);
	}
	must(r);
}

static void reuse(void **state)
{
	struct run first, fresh, again;
	int records[STACK];

	record_stack(&first, records);
	for (size_t k = 1; k <= STACK; k++) {
		const char *top = k == STACK ? "top=1 d/.wh.nothing" : "d/.wh.big other=1 .wh.z";
		assert_int_equal(make_stack(&fresh, top, NULL, 0, -1), 0);
		if (make_stack(&again, top, records, k, first.im.fd) < 0)
			fail_msg("%zu layers: %s", k, again.err.message);
		image_check(&again.im);
		assert_same_bytes(fresh.im.fd, again.im.fd);
		assert_int_equal(fresh.result.members, again.result.members);
		assert_int_equal(fresh.result.content, again.result.content);
		done(&fresh);
		done(&again);
	}
	for (size_t i = 0; i < STACK; i++)
		close(records[i]);
	done(&first);
}

static void spoil(int record, off_t at)
{
	uint8_t byte;

	assert_int_equal(pread(record, &byte, 1, at), 1);
	byte ^= 0x10;
	assert_int_equal(pwrite(record, &byte, 1, at), 1);
}

/* Damaged anywhere, cut anywhere, or another layer's: it is refused and said whose fault it is. */
static void bad_records(void **state)
{
	struct run first, again;
	int records[STACK];

	record_stack(&first, records);
	off_t len = lseek(records[1], 0, SEEK_END);
	for (off_t at = 0; at < len; at += 1 + len / 20) {
		spoil(records[1], at);
		assert_int_equal(make_stack(&again, "top=1", records, 2, first.im.fd), -EUCLEAN);
		assert_true(again.failure.reuse);
		done(&again);
		spoil(records[1], at);
	}
	const int swapped[STACK] = {records[0], records[2], records[1]};
	assert_int_equal(make_stack(&again, "top=1", swapped, 3, first.im.fd), -EUCLEAN);
	assert_non_null(strstr(again.err.message, "not of this layer"));
	assert_true(again.failure.reuse);
	done(&again);
	/* The file that should have the content is too short. */
	int empty = memfd_create("empty", MFD_CLOEXEC);
	assert_true(make_stack(&again, "top=1", records, 2, empty) < 0);
	assert_true(again.failure.reuse);
	done(&again);
	close(empty);
	assert_int_equal(ftruncate(records[1], len - 1), 0);
	assert_int_equal(make_stack(&again, "top=1", records, 2, first.im.fd), -EUCLEAN);
	assert_true(again.failure.reuse);
	done(&again);
	for (size_t i = 0; i < STACK; i++)
		close(records[i]);
	done(&first);
}

/* ---- the home */

static void home(void **state)
{
	static const struct {
		const char *path, *tree;
		unsigned mode;
	} cases[] = {
		{NULL, ".profile=hello d/ d/e>../x d/link==.profile", 0755},
		{"/home/me", ".profile=hello d/ d/e>../x d/link==.profile", 0755},
		{"/none", "", 0700},
		{"/file", "", 0700},
		{"/home/other", "o=1", 0755},
	};

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		struct run r, again;
		struct image im, im2;
		begin(&r);
		image_create(&im);
		r.o.work_seed_fd = im.fd;
		r.o.work_seed_path = cases[i].path;
		r.o.work_seed_size = i == 1 ? 64 << 20 : 0;
		add_layer(&r, "file=1 root/ root/.profile=hello root/d/ root/d/e>../x home/ "
			      "home/me>/root home/other/ home/other/o=1");
		add_layer(&r, "root/d/link<root/.profile outside<root/.profile");
		must(&r);
		image_check(&im);
		char *tree = tree_of(&im);
		assert_string_equal(tree, cases[i].tree);
		free(tree);
		struct ext2_inode_large in;
		image_inode(&im, "/", &in);
		assert_int_equal(in.i_mode & 07777, cases[i].mode);
		struct stat st;
		fstat(im.fd, &st);
		assert_int_equal(st.st_size, r.result.work_seed_size);
		assert_true(i == 1 ? st.st_size == 64 << 20 : st.st_size > 1 << 30);
		assert_true(st.st_blocks < 2048);
		image_inode(&r.im, "/root/.profile", &in);
		assert_int_equal(in.i_links_count, 3);
		/* The same again. */
		begin(&again);
		image_create(&im2);
		again.o.work_seed_fd = im2.fd;
		again.o.work_seed_path = cases[i].path;
		again.o.work_seed_size = i == 1 ? 64 << 20 : 0;
		memcpy(again.layers, r.layers, sizeof(r.layers));
		again.n = r.n;
		must(&again);
		assert_same_bytes(im.fd, im2.fd);
		image_done(&im2);
		image_done(&again.im);
		image_done(&im);
		done(&r);
	}
}

/* ---- blobs that are still coming */

struct arrival {
	int notify;
	_Atomic int64_t have;
	int64_t total, step;
	int64_t sizes[LAYERS_MAX];
	int fail_at;   /* layer; -1: none */
	int64_t pause; /* microseconds, halfway */
};

static int64_t arrived(void *arg, size_t layer, struct banger_error *err)
{
	struct arrival *a = arg;
	int64_t n = atomic_load(&a->have);

	if (a->fail_at == (int)layer)
		return banger_error_set(err, BANGER_UNAVAILABLE, "the registry is gone") * 0 - 1;
	for (size_t i = 0; i < layer; i++)
		n -= a->sizes[i];
	return n < 0 ? 0 : n < a->sizes[layer] ? n : a->sizes[layer];
}

static void *bring(void *arg)
{
	struct arrival *a = arg;

	while (atomic_load(&a->have) < a->total) {
		bool halfway = a->pause > 0 && atomic_load(&a->have) > a->total / 2;
		usleep(200 + (halfway ? a->pause : 0));
		if (halfway)
			a->pause = 0;
		atomic_fetch_add(&a->have, a->step);
		(void)!write(a->notify, &(uint64_t){1}, 8);
	}
	return NULL;
}

static int run_growing(struct run *r, int64_t step, int fail_at, int64_t pause)
{
	struct arrival a = {.notify = eventfd(0, EFD_CLOEXEC),
		.step = step,
		.fail_at = fail_at,
		.pause = pause};
	pthread_t t;

	r->o.notify_fd = a.notify;
	r->o.available = arrived;
	r->o.arg = &a;
	for (size_t i = 0; i < r->n; i++) {
		a.sizes[i] = r->layers[i].size;
		a.total += a.sizes[i];
	}
	assert_int_equal(pthread_create(&t, NULL, bring, &a), 0);
	int e = go(r);
	pthread_join(t, NULL);
	close(a.notify);
	return e;
}

static void growing(void **state)
{
	static const int64_t steps[] = {1023, 4096, 65537, 1 << 20, 1 << 30};
	struct run whole, r;

	assert_int_equal(make_stack(&whole, "top=1", NULL, 0, -1), 0);
	for (size_t i = 0; i < ELEMENTSOF(steps); i++) {
		begin(&r);
		add_stack(&r, "top=1");
		if (run_growing(&r, steps[i], -1, 0) < 0)
			fail_msg("by %lld: %s", (long long)steps[i], r.err.message);
		assert_same_bytes(whole.im.fd, r.im.fd);
		done(&r);
	}
	/* Waiting for more is not standing still. */
	begin(&r);
	add_stack(&r, "top=1");
	r.o.stall_ms = 1000;
	assert_int_equal(run_growing(&r, 100000, -1, 1500000), 0);
	done(&r);
	/* It will not come. */
	begin(&r);
	add_stack(&r, "top=1");
	assert_int_equal(run_growing(&r, 65536, 2, 0), -EHOSTDOWN);
	assert_non_null(strstr(r.err.message, "layer 3 of 4 (sha256:some): the registry is gone"));
	assert_int_equal(r.failure.layer, 2);
	done(&r);
	done(&whole);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(merging), cmocka_unit_test(refusing),
		cmocka_unit_test(attributes), cmocka_unit_test(diff_ids),
		cmocka_unit_test(compressions), cmocka_unit_test(ends), cmocka_unit_test(limits),
		cmocka_unit_test(entries), cmocka_unit_test(room), cmocka_unit_test(reuse),
		cmocka_unit_test(bad_records), cmocka_unit_test(home), cmocka_unit_test(growing)};
	return cmocka_run_group_tests(tests, setup, teardown);
}
