/* SPDX-License-Identifier: Apache-2.0 */
/* The reader on sound images: what make_bases.py put in comes out, in each format. */
#include "check.h"
#include <pthread.h>
#include <sys/sysmacros.h>
#include "walk.h"

struct open_base {
	const struct base *b;
	int fd;
	struct ext4_image *img;
	struct ext4_scratch *s;
	char *buf;
};

static struct open_base open_base(size_t k)
{
	struct open_base o = {.b = &bases[k], .s = ext4_scratch_new(), .buf = malloc(1 << 20)};
	uint8_t *bytes = base_expand(o.b);
	struct banger_error err = {0};

	assert_non_null(o.s);
	assert_non_null(o.buf);
	o.fd = base_file(bytes, o.b->size);
	free(bytes);
	assert_int_equal(ext4_image_open(dup(o.fd), &o.img, &err), 0);
	return o;
}

static void close_base(struct open_base *o)
{
	ext4_image_close(o->img);
	ext4_scratch_free(o->s);
	close(o->fd);
	free(o->buf);
}

#define FOR_BASES(o)                                                                               \
	for (size_t _k = 0; _k < ELEMENTSOF(bases); _k++)                                          \
		for (struct open_base o = open_base(_k); o.b; close_base(&o), o.b = NULL)

/* The inode at a path of one or two names. */
static int find(struct open_base *o, const char *path, struct ext4_inode *ret)
{
	uint32_t ino = EXT4_ROOT;
	int r = ext4_inode_get(o->img, o->s, ino, ret);

	while (r == 0 && *path) {
		size_t n = strcspn(path, "/");
		r = ext4_lookup(o->img, o->s, ret, path, n, &ino);
		if (r == 0)
			r = ext4_inode_get(o->img, o->s, ino, ret);
		path += n + (path[n] == '/');
	}
	return r;
}

static void walks_without_errors(void **state)
{
	FOR_BASES(o)
	{
		struct walk a = walk_image(o.fd, o.s, o.buf), b = walk_image(o.fd, o.s, o.buf);
		assert_int_equal(a.errors, 0);
		assert_true(a.seen >= 15 || strcmp(o.b->name, "fold") == 0);
		assert_true(a.sum == b.sum);
	}
}

static void check_contents(struct open_base *o)
{
	struct ext4_inode i;
	struct ext4_run run;

	assert_int_equal(find(o, "tiny", &i), 0);
	assert_int_equal(ext4_read(o->img, o->s, &i, 0, o->buf, 1000), 40);
	assert_memory_equal(o->buf, "tttttttttttttttttttttttttttttttttttttttt", 40);
	assert_int_equal(find(o, "medium", &i), 0);
	assert_int_equal(ext4_read(o->img, o->s, &i, 120, o->buf, 1000), 10);
	assert_memory_equal(o->buf, "mmmmmmmmmm", 10);
	assert_int_equal(ext4_read(o->img, o->s, &i, 130, o->buf, 10), 0);
	assert_int_equal(ext4_read(o->img, o->s, &i, 1ull << 60, o->buf, 10), 0);
	assert_int_equal(find(o, "sparse", &i), 0);
	assert_int_equal(ext4_read(o->img, o->s, &i, 69999, o->buf, 102), 102);
	assert_true(o->buf[0] == 0 && o->buf[1] == 's' && o->buf[100] == 's' && o->buf[101] == 0);
	assert_int_equal(ext4_seek(o->img, o->s, &i, 0, false), 69632);
	assert_int_equal(ext4_seek(o->img, o->s, &i, 69700, true), 70656);
	assert_int_equal(ext4_seek(o->img, o->s, &i, 71000, false), -ENXIO);
	assert_int_equal(ext4_seek(o->img, o->s, &i, 300000, true), -ENXIO);
	assert_int_equal(ext4_map(o->img, o->s, &i, 0, &run), 0);
	assert_int_equal(run.pblk, 0);
	assert_true(run.len <= 68);
	assert_int_equal(find(o, "scattered", &i), 0);
	for (unsigned k = 0; k < 10; k++) {
		assert_int_equal(ext4_read(o->img, o->s, &i, k * 3072, o->buf, 2), 2);
		assert_true(o->buf[0] == 'x' && o->buf[1] == 0);
	}
}

static void check_others(struct open_base *o)
{
	struct ext4_inode i;
	struct stat st;
	char target[4096];

	assert_int_equal(find(o, "link", &i), 0);
	assert_int_equal(ext4_readlink(o->img, o->s, &i, target), 0);
	assert_string_equal(target, "short");
	assert_int_equal(find(o, "longlink", &i), 0);
	assert_int_equal(ext4_readlink(o->img, o->s, &i, target), 0);
	assert_int_equal(strlen(target), 200);
	assert_int_equal(ext4_read(o->img, o->s, &i, 0, o->buf, 1), -EINVAL);
	assert_int_equal(find(o, "device", &i), 0);
	ext4_inode_stat(o->img, &i, &st);
	assert_true(S_ISCHR(st.st_mode) && st.st_rdev == makedev(300, 70000));
	assert_int_equal(find(o, "sub", &i), 0);
	assert_int_equal(ext4_read(o->img, o->s, &i, 0, o->buf, 1), -EISDIR);
	assert_int_equal(find(o, "sub/ü", &i), 0);
	assert_int_equal(find(o, "sub/u", &i), -ENOENT);
	assert_int_equal(find(o, "link/x", &i), -ENOTDIR);
	assert_int_equal(find(o, "file", &i), 0);
	ext4_inode_stat(o->img, &i, &st);
	bool wide = strcmp(o->b->name, "blocks") != 0;
	assert_int_equal(st.st_atim.tv_sec, -2);
	assert_int_equal(st.st_atim.tv_nsec, wide ? 500000000 : 0);
	if (wide) {
		assert_int_equal(st.st_mtim.tv_sec, 5000000000);
		assert_int_equal(st.st_mtim.tv_nsec, 123456789);
	}
}

static void check_xattrs(struct open_base *o)
{
	static const uint8_t acl[] = {2, 0, 0, 0, 1, 0, 6, 0, 255, 255, 255, 255, 2, 0, 6, 0, 0xe8,
		3, 0, 0, 4, 0, 4, 0, 255, 255, 255, 255, 8, 0, 4, 0, 5, 0, 0, 0, 16, 0, 6, 0, 255,
		255, 255, 255, 32, 0, 4, 0, 255, 255, 255, 255};
	struct ext4_inode i;

	assert_int_equal(find(o, "tiny", &i), 0);
	assert_int_equal(ext4_xattr_get(o->img, o->s, &i, "system.posix_acl_access", o->buf, 1000),
		sizeof(acl));
	assert_memory_equal(o->buf, acl, sizeof(acl));
	assert_int_equal(
		ext4_xattr_get(o->img, o->s, &i, "system.posix_acl_access", NULL, 0), sizeof(acl));
	assert_int_equal(ext4_xattr_get(o->img, o->s, &i, "system.posix_acl_access", o->buf,
				 sizeof(acl) - 1),
		-ERANGE);
	assert_int_equal(ext4_xattr_get(o->img, o->s, &i, "user.none", o->buf, 10), -ENODATA);
	assert_int_equal(ext4_xattr_get(o->img, o->s, &i, "user.", o->buf, 10), -ENODATA);
	assert_int_equal(ext4_xattr_get(o->img, o->s, &i, "system.data", o->buf, 1000), -ENODATA);
	assert_int_equal(find(o, "file", &i), 0);
	assert_int_equal(ext4_xattr_list(o->img, o->s, &i, o->buf, 100), 14);
	assert_int_equal(ext4_xattr_list(o->img, o->s, &i, NULL, 0), 14);
	assert_int_equal(ext4_xattr_list(o->img, o->s, &i, o->buf, 13), -ERANGE);
	assert_int_equal(ext4_xattr_get(o->img, o->s, &i, "user.b", o->buf, 1000), 500);
	assert_true(o->buf[0] == 'v' && o->buf[499] == 'v');
	if (strcmp(o->b->name, "plain") == 0 || strcmp(o->b->name, "summed") == 0) {
		assert_int_equal(find(o, "empty", &i), 0);
		assert_int_equal(
			ext4_xattr_get(o->img, o->s, &i, "user.large", o->buf, 65536), 1100);
		assert_true(o->buf[1099] == 'L');
	}
	assert_int_equal(ext4_image_has_xattr(o->img, o->s, "system.posix_acl_"), 1);
	assert_int_equal(ext4_image_has_xattr(o->img, o->s, "security.selinux"), 0);
}

static void knows_what_was_put_in(void **state)
{
	FOR_BASES(o)
	{
		if (strcmp(o.b->name, "fold") == 0)
			continue;
		check_contents(&o);
		check_others(&o);
		check_xattrs(&o);
	}
}

struct names {
	struct open_base *o;
	struct ext4_inode dir;
	uint64_t pos, next[300];
	unsigned count, limit;
};

static int take_name(void *arg, const struct ext4_dirent *e)
{
	struct names *n = arg;

	if (n->count == n->limit)
		return 1;
	n->next[n->count++] = e->next;
	n->pos = e->next;
	return 0;
}

static int check_name(void *arg, const struct ext4_dirent *e)
{
	struct names *n = arg;
	struct ext4_scratch *s = ext4_scratch_new();
	uint32_t ino = 0;

	assert_int_equal(ext4_lookup(n->o->img, s, &n->dir, e->name, e->len, &ino), 0);
	assert_int_equal(ino, e->ino);
	ext4_scratch_free(s);
	n->count++;
	return 0;
}

/* Every listed name is found by the index, and others are not. */
static void index_finds_all(void **state)
{
	FOR_BASES(o)
	{
		struct names n = {.o = &o};
		bool fold = strcmp(o.b->name, "fold") == 0;
		uint32_t ino;

		assert_int_equal(find(&o, fold ? "fold" : "indexed", &n.dir), 0);
		assert_true(n.dir.flags & 0x1000); /* it has one */
		assert_int_equal(ext4_readdir(o.img, o.s, &n.dir, 0, check_name, &n), 0);
		assert_int_equal(n.count, fold ? 62 : 47);
		assert_int_equal(ext4_lookup(o.img, o.s, &n.dir, "0", 1, &ino), -ENOENT);
		assert_int_equal(ext4_lookup(o.img, o.s, &n.dir, o.buf, 256, &ino), -ENAMETOOLONG);
		for (unsigned k = 0; fold && k < 60; k++) {
			char name[80];
			int len = snprintf(name, sizeof(name), "gRÖßE%u%040d", k, 0);
			memset(name + len - 40, k % 2 ? 'n' : 'N', 40);
			assert_int_equal(
				ext4_lookup(o.img, o.s, &n.dir, name, (size_t)len, &ino), 0);
			name[len - 1] = 'm';
			assert_int_equal(
				ext4_lookup(o.img, o.s, &n.dir, name, (size_t)len, &ino), -ENOENT);
		}
	}
}

/* A listing in steps of any size gives each entry once; positions within entries are taken too. */
static void listings_resume(void **state)
{
	FOR_BASES(o)
	{
		struct names all = {.o = &o, .limit = 300};
		assert_int_equal(
			find(&o, strcmp(o.b->name, "fold") == 0 ? "fold" : "indexed", &all.dir), 0);
		assert_int_equal(ext4_readdir(o.img, o.s, &all.dir, 0, take_name, &all), 0);
		for (unsigned step = 1; step < 8; step++) {
			struct names n = {.o = &o, .dir = all.dir};
			do {
				n.limit = n.count + step;
				assert_int_equal(
					ext4_readdir(o.img, o.s, &n.dir, n.pos, take_name, &n), 0);
			} while (n.count == n.limit);
			assert_int_equal(n.count, all.count);
			assert_memory_equal(n.next, all.next, all.count * sizeof(all.next[0]));
		}
		struct names odd = {.o = &o, .limit = 1};
		assert_int_equal(
			ext4_readdir(o.img, o.s, &all.dir, all.next[5] + 1, take_name, &odd), 0);
		assert_true(odd.next[0] == all.next[6]);
	}
}

struct thread {
	struct open_base *o;
	uint64_t sum;
};

static void *walk_thread(void *arg)
{
	struct thread *t = arg;
	struct ext4_scratch *s = ext4_scratch_new();
	char *buf = malloc(1 << 20);

	for (int k = 0; k < 20; k++)
		t->sum += walk_image(t->o->fd, s, buf).sum;
	ext4_scratch_free(s);
	free(buf);
	return NULL;
}

static void threads_agree(void **state)
{
	FOR_BASES(o)
	{
		struct thread t[4];
		pthread_t id[4];
		for (int k = 0; k < 4; k++) {
			t[k] = (struct thread){.o = &o};
			assert_int_equal(pthread_create(&id[k], NULL, walk_thread, &t[k]), 0);
		}
		for (int k = 0; k < 4; k++) {
			pthread_join(id[k], NULL);
			assert_true(t[k].sum == t[0].sum);
		}
	}
}

static void notices_change(void **state)
{
	struct open_base o = open_base(0);

	assert_true(ext4_image_unchanged(o.img));
	assert_int_equal(ftruncate(o.fd, (off_t)o.b->size - 1), 0);
	assert_false(ext4_image_unchanged(o.img));
	close_base(&o);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(walks_without_errors),
		cmocka_unit_test(knows_what_was_put_in),
		cmocka_unit_test(index_finds_all),
		cmocka_unit_test(listings_resume),
		cmocka_unit_test(threads_agree),
		cmocka_unit_test(notices_change),
	};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
