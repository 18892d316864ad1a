/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The tree in memory. Nodes and names stand in pools and are known by number, so that a name costs
 * some 50 bytes and a node some 90, and nothing moves when a pool grows. A name is in two lists:
 * that of its directory, in the order in which names came (the order of everything that is
 * written), and a bucket of one hash table over all names. The table's hash is keyed with random
 * bits, because archives are made by strangers; what is written does not depend on it.
 *
 * Numbers of removed nodes and names are not given out again: an archive pays for each with a
 * header of its own.
 */
#include "unpack/builder/internal.h"

#include <fcntl.h>
#include <sys/random.h>
#include <unistd.h>

#define ARENA_CHUNK 65536u
#define GDT_BLOCKS 128u /* room to grow to 1 TiB in place */
#define GROUPS_PER_GDT_BLOCK (BLOCK / 64)

uint32_t pool_add(struct pool *p)
{
	if (p->count >> POOL_SHIFT == p->n_chunks) {
		char **chunks = reallocarray(p->chunks, p->n_chunks + 1, sizeof(char *));
		if (!chunks)
			return 0;
		p->chunks = chunks;
		chunks[p->n_chunks] = calloc((size_t)1 << POOL_SHIFT, p->item);
		if (!chunks[p->n_chunks])
			return 0;
		p->n_chunks++;
	}
	return ++p->count;
}

static void pool_done(struct pool *p)
{
	for (uint32_t i = 0; i < p->n_chunks; i++)
		free(p->chunks[i]);
	free(p->chunks);
}

void *arena_copy(struct arena *a, const void *data, size_t len)
{
	if (a->left < len) {
		size_t size = len > ARENA_CHUNK ? len : ARENA_CHUNK;
		void **all = reallocarray(a->all, a->n + 1, sizeof(void *));
		if (!all)
			return NULL;
		a->all = all;
		char *chunk = malloc(size);
		if (!chunk)
			return NULL;
		all[a->n++] = chunk;
		a->chunk = chunk;
		a->left = size;
	}
	void *p = a->chunk;
	if (len > 0)
		memcpy(p, data, len);
	a->chunk += len;
	a->left -= len;
	return p;
}

static uint64_t rotl(uint64_t x, int n)
{
	return x << n | x >> (64 - n);
}

static void sip_round(uint64_t v[4])
{
	v[0] += v[1];
	v[1] = rotl(v[1], 13) ^ v[0];
	v[0] = rotl(v[0], 32);
	v[2] += v[3];
	v[3] = rotl(v[3], 16) ^ v[2];
	v[0] += v[3];
	v[3] = rotl(v[3], 21) ^ v[0];
	v[2] += v[1];
	v[1] = rotl(v[1], 17) ^ v[2];
	v[2] = rotl(v[2], 32);
}

/* SipHash-1-3 (Aumasson and Bernstein) of salt and data. */
uint64_t keyed_hash(const uint64_t key[2], uint64_t salt, const void *data, size_t len)
{
	uint64_t v[4] = {key[0] ^ 0x736f6d6570736575, key[1] ^ 0x646f72616e646f6d,
		key[0] ^ 0x6c7967656e657261, key[1] ^ 0x7465646279746573};
	const uint8_t *p = data;
	uint64_t m = salt;

	for (size_t left = len;; left -= 8, p += 8) {
		v[3] ^= m;
		sip_round(v);
		v[0] ^= m;
		m = 0;
		memcpy(&m, p, left < 8 ? left : 8);
		if (left < 8)
			break;
	}
	m |= (uint64_t)(len & 0xff) << 56;
	v[3] ^= m;
	sip_round(v);
	v[0] ^= m;
	v[2] ^= 0xff;
	for (int i = 0; i < 3; i++)
		sip_round(v);
	return v[0] ^ v[1] ^ v[2] ^ v[3];
}

/* An inode could hold times up to 2446, but e2fsck takes those from 2310 to 2378 for times before
 * 1970 that an old kernel wrote wrongly, and "repairs" them. */
stamp stamp_make(const struct ext4_time *t)
{
	const int64_t min = INT32_MIN, max = 0x27fffffff;
	int64_t sec = t->sec;
	uint32_t nsec = t->nsec < 1000000000 ? t->nsec : 999999999;

	if (sec < min) {
		sec = min;
		nsec = 0;
	} else if (sec > max) {
		sec = max;
		nsec = 999999999;
	}
	return (uint64_t)(sec - min) << 30 | nsec;
}

/* ---- construction */

static int check_size(
	const struct ext4_builder_options *o, uint32_t *ret_gdt, struct banger_error *err)
{
	*ret_gdt = GDT_BLOCKS;
	if (o->size == 0)
		return 0;
	if (o->size < 0 || o->size % BLOCK != 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the size of a filesystem must be a multiple of %u bytes", BLOCK);
	uint64_t blocks = (uint64_t)o->size / BLOCK;
	uint64_t gdt = blocks / SPACE_GROUP / GROUPS_PER_GDT_BLOCK + 1;
	if (gdt >= GDT_LIMIT)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"a filesystem of %lld bytes is over the limit of 8 TiB",
			(long long)o->size);
	if (gdt + 1 > GDT_BLOCKS)
		*ret_gdt = gdt + 1;
	return 0;
}

static void set_attr(struct node *n, const struct ext4_attr *attr);

static int root_new(struct ext4_builder *b, struct banger_error *err)
{
	uint32_t i = pool_add(&b->nodes);

	if (!i)
		return banger_error_oom(err);
	struct node *root = node_at(b, i);
	const struct ext4_attr attr = {.mode = S_IFDIR | 0755,
		.mtime = {.sec = b->o.time},
		.atime = {.sec = b->o.time},
		.ctime = {.sec = b->o.time}};
	root->mode = S_IFDIR;
	root->links = 2;
	root->dir.parent = i;
	b->alive = 1;
	b->layer = 1;
	set_attr(root, &attr);
	return 0;
}

int ext4_builder_new(
	const struct ext4_builder_options *o, struct ext4_builder **ret, struct banger_error *err)
{
	_cleanup_ext4_builder_ struct ext4_builder *b = calloc(1, sizeof(*b));
	uint32_t gdt;

	if (!b)
		return banger_error_oom(err);
	int r = check_size(o, &gdt, err);
	if (r < 0)
		return r;
	b->o = *o;
	if (o->seed)
		b->o.seed = memcpy(b->seed, o->seed, sizeof(b->seed));
	if (b->o.time < 1 || b->o.time > INT32_MAX)
		b->o.time = 1;
	b->nodes.item = sizeof(struct node);
	b->names.item = sizeof(struct name);
	b->sets.item = sizeof(struct xattr_set);
	b->head = 1 + gdt;
	space_init(&b->space, b->head, o->size ? (uint64_t)o->size / BLOCK : UINT32_MAX);
	/* Without random bits the table is only easier to make slow. */
	(void)!getrandom(b->hash_key, sizeof(b->hash_key), GRND_NONBLOCK);
	if (posix_memalign((void **)&b->partial, BLOCK, BLOCK) != 0)
		b->partial = NULL;
	if (posix_memalign((void **)&b->block, BLOCK, BLOCK) != 0)
		b->block = NULL;
	if (!b->partial || !b->block)
		return banger_error_oom(err);
	if (ftruncate(o->fd, 0) < 0)
		return banger_error_set_errno(err, errno, "cannot empty the image");
	r = root_new(b, err);
	if (r == 0)
		r = writer_new(o->fd, o->direct, &b->writer, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(b);
	return 0;
}

static void nodes_done(struct ext4_builder *b)
{
	for (uint32_t i = 1; i <= b->nodes.count; i++) {
		struct node *n = node_at(b, i);
		if (node_is(n, S_IFREG))
			free(n->file.more);
	}
	for (uint32_t i = 1; i <= b->sets.count; i++)
		free(set_at(b, i)->blob);
}

void ext4_builder_freep(struct ext4_builder **pb)
{
	struct ext4_builder *b = TAKE_PTR(*pb);

	if (!b)
		return;
	record_drop(b);
	writer_freep(&b->writer);
	if (b->fs)
		ext2fs_free(b->fs);
	nodes_done(b);
	pool_done(&b->nodes);
	pool_done(&b->names);
	pool_done(&b->sets);
	for (size_t i = 0; i < b->text.n; i++)
		free(b->text.all[i]);
	free(b->text.all);
	free(b->buckets);
	free(b->set_buckets);
	free(b->partial);
	free(b->block);
	free(b->freed);
	free(b->order);
	free(b->block_bitmaps);
	free(b->inode_bitmaps);
	free(b->tables);
	free(b);
}

/* ---- names */

static int grow_buckets(struct ext4_builder *b, struct banger_error *err)
{
	uint32_t n = b->n_buckets ? b->n_buckets * 2 : 1024;
	uint32_t *buckets = calloc(n, sizeof(*buckets));

	if (!buckets)
		return banger_error_oom(err);
	for (uint32_t i = 0; i < b->n_buckets; i++)
		for (uint32_t k = b->buckets[i], next; k; k = next) {
			struct name *m = name_at(b, k);
			next = m->chain;
			m->chain = buckets[m->hash & (n - 1)];
			buckets[m->hash & (n - 1)] = k;
		}
	free(b->buckets);
	b->buckets = buckets;
	b->n_buckets = n;
	return 0;
}

static uint32_t find_name(
	const struct ext4_builder *b, uint32_t dir, const char *text, size_t len, uint32_t hash)
{
	if (!b->n_buckets || len > EXT4_BUILDER_NAME_MAX)
		return NONE;
	for (uint32_t k = b->buckets[hash & (b->n_buckets - 1)]; k;) {
		const struct name *m = name_at(b, k);
		if (m->hash == hash && m->dir == dir && m->len == len &&
			memcmp(m->text, text, len) == 0)
			return k;
		k = m->chain;
	}
	return NONE;
}

static uint32_t name_hash(const struct ext4_builder *b, uint32_t dir, const char *text, size_t len)
{
	return keyed_hash(b->hash_key, dir, text, len);
}

ext4_node ext4_builder_lookup(
	struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len)
{
	uint32_t k = find_name(b, dir, name, name_len, name_hash(b, dir, name, name_len));

	return k ? name_at(b, k)->node : NONE;
}

static int check_name(const char *name, size_t len, struct banger_error *err)
{
	if (len > EXT4_BUILDER_NAME_MAX)
		return banger_error_set(err, BANGER_NAME_TOO_LONG,
			"a name of %zu bytes is longer than the %d that a filesystem takes", len,
			EXT4_BUILDER_NAME_MAX);
	if (len == 0 || memchr(name, '/', len) || memchr(name, '\0', len) ||
		(name[0] == '.' && (len == 1 || (len == 2 && name[1] == '.'))))
		return banger_error_set(err, BANGER_BAD_REQUEST, "not a file name");
	return 0;
}

static int insert_name(struct ext4_builder *b, uint32_t dir, const char *text, size_t len,
	uint32_t node, struct banger_error *err)
{
	int r = check_name(text, len, err);

	if (r == 0 && !node_is(node_at(b, dir), S_IFDIR))
		r = banger_error_set(err, BANGER_BAD_REQUEST, "the parent is not a directory");
	if (r < 0)
		return r;
	uint32_t hash = name_hash(b, dir, text, len);
	if (find_name(b, dir, text, len, hash))
		return banger_error_set(err, BANGER_EXISTS, "the name exists");
	if (b->o.names_max && b->n_named >= b->o.names_max)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"the image would have more than the %llu files, directories and links that "
			"it may (\"entries_max\" in the configuration)",
			(unsigned long long)b->o.names_max);
	if (b->names.count >= b->n_buckets && (r = grow_buckets(b, err)) < 0)
		return r;
	const char *copy = arena_copy(&b->text, text, len);
	uint32_t k = copy ? pool_add(&b->names) : 0;
	if (!k)
		return banger_error_oom(err);

	struct name *m = name_at(b, k);
	struct node *d = node_at(b, dir), *n = node_at(b, node);
	uint32_t *bucket = &b->buckets[hash & (b->n_buckets - 1)];
	*m = (struct name){.node = node,
		.dir = dir,
		.prev = d->dir.tail,
		.chain = *bucket,
		.hash = hash,
		.len = len,
		.layer = b->layer,
		.text = copy};
	*bucket = k;
	ext4_builder_touch(b, dir);
	if (d->dir.tail)
		name_at(b, d->dir.tail)->next = k;
	else
		d->dir.head = k;
	d->dir.tail = k;
	d->dir.count++;
	b->n_named++;
	if (node_is(n, S_IFDIR))
		n->dir.self = k;
	return 0;
}

static void unhash(struct ext4_builder *b, uint32_t k)
{
	const struct name *m = name_at(b, k);
	uint32_t *at = &b->buckets[m->hash & (b->n_buckets - 1)];

	while (*at != k)
		at = &name_at(b, *at)->chain;
	*at = m->chain;
}

static void unlist(struct ext4_builder *b, uint32_t k)
{
	const struct name *m = name_at(b, k);
	struct node *d = node_at(b, m->dir);

	if (m->prev)
		name_at(b, m->prev)->next = m->next;
	else
		d->dir.head = m->next;
	if (m->next)
		name_at(b, m->next)->prev = m->prev;
	else
		d->dir.tail = m->prev;
	d->dir.count--;
	b->n_named--;
}

/* ---- nodes */

uint32_t ext4_builder_mode(const struct ext4_builder *b, ext4_node node)
{
	return node_at(b, node)->mode;
}

uint32_t ext4_builder_links(const struct ext4_builder *b, ext4_node node)
{
	return node_at(b, node)->links;
}

ext4_node ext4_builder_parent(const struct ext4_builder *b, ext4_node dir)
{
	return node_at(b, dir)->dir.parent;
}

const char *ext4_builder_target(const struct ext4_builder *b, ext4_node node, size_t *ret_len)
{
	const struct node *n = node_at(b, node);

	*ret_len = n->size;
	return n->link.target;
}

void ext4_builder_progress(const struct ext4_builder *b, uint64_t *ret_nodes, uint64_t *ret_content)
{
	*ret_nodes = b->alive;
	*ret_content = b->content;
}

static void set_attr(struct node *n, const struct ext4_attr *attr)
{
	n->mode = (n->mode & S_IFMT) | (attr->mode & 07777);
	n->uid = attr->uid;
	n->gid = attr->gid;
	n->mtime = stamp_make(&attr->mtime);
	n->atime = stamp_make(&attr->atime);
	n->ctime = stamp_make(&attr->ctime);
}

void ext4_builder_set_attr(struct ext4_builder *b, ext4_node node, const struct ext4_attr *attr)
{
	set_attr(node_at(b, node), attr);
	record_attr(b->record, node, attr);
}

bool node_exists(const struct ext4_builder *b, uint64_t node, uint32_t type)
{
	if (node == NONE || node > b->nodes.count || node_at(b, node)->dead)
		return false;
	return type == 0 || node_is(node_at(b, node), type);
}

static int fill_type(struct ext4_builder *b, struct node *n, const struct ext4_attr *attr,
	const char *target, size_t target_len, struct banger_error *err)
{
	switch (attr->mode & S_IFMT) {
	case S_IFREG:
	case S_IFDIR:
	case S_IFIFO:
	case S_IFSOCK:
		return 0;
	case S_IFLNK:
		if (target_len == 0 || memchr(target, '\0', target_len))
			return banger_error_set(err, BANGER_BAD_REQUEST, "a symlink to nothing");
		if (target_len > EXT4_BUILDER_SYMLINK_MAX)
			return banger_error_set(err, BANGER_NAME_TOO_LONG,
				"a symlink's target of %zu bytes is longer than %d", target_len,
				EXT4_BUILDER_SYMLINK_MAX);
		n->link.target = arena_copy(&b->text, target, target_len);
		n->size = target_len;
		return n->link.target ? 0 : banger_error_oom(err);
	case S_IFCHR:
	case S_IFBLK:
		/* Linux: 12 bits and 20. */
		if (attr->major >= 1u << 12 || attr->minor >= 1u << 20)
			return banger_error_set(err, BANGER_UNSUPPORTED,
				"device number %u:%u is beyond what Linux has", attr->major,
				attr->minor);
		n->dev.major = attr->major;
		n->dev.minor = attr->minor;
		return 0;
	default:
		return banger_error_set(err, BANGER_BAD_REQUEST, "a file of unknown type");
	}
}

static int add_node(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	const struct ext4_attr *attr, const char *target, size_t target_len, ext4_node *ret,
	struct banger_error *err)
{
	uint32_t i = pool_add(&b->nodes);

	if (!i)
		return banger_error_oom(err);
	struct node *n = node_at(b, i);
	n->dead = true;
	int r = fill_type(b, n, attr, target, target_len, err);
	if (r < 0)
		return r;
	n->mode = attr->mode & S_IFMT;
	r = insert_name(b, dir, name, name_len, i, err);
	if (r < 0)
		return r;
	n->dead = false;
	n->links = 1;
	if (node_is(n, S_IFDIR)) {
		n->links = 2;
		n->dir.parent = dir;
		n->dir.cleared = b->layer;
		node_at(b, dir)->links++;
	}
	b->alive++;
	set_attr(n, attr);
	*ret = i;
	return 0;
}

int ext4_builder_add(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	const struct ext4_attr *attr, const char *target, size_t target_len, ext4_node *ret,
	struct banger_error *err)
{
	int r = add_node(b, dir, name, name_len, attr, target, target_len, ret, err);

	if (r == 0)
		record_add(b->record, dir, name, name_len, attr, target, target_len);
	return r;
}

int ext4_builder_add_implied(struct ext4_builder *b, ext4_node dir, const char *name,
	size_t name_len, ext4_node *ret, struct banger_error *err)
{
	const struct ext4_time t = {.sec = b->o.time};
	const struct ext4_attr attr = {.mode = S_IFDIR | 0755, .mtime = t, .atime = t, .ctime = t};
	int r = add_node(b, dir, name, name_len, &attr, NULL, 0, ret, err);

	if (r == 0)
		record_add(b->record, dir, name, name_len, NULL, NULL, 0);
	return r;
}

int ext4_builder_link(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	ext4_node node, struct banger_error *err)
{
	struct node *n = node_at(b, node);

	if (node_is(n, S_IFDIR))
		return banger_error_set(err, BANGER_BAD_REQUEST, "a hard link to a directory");
	if (n->links >= LINKS_MAX)
		return banger_error_set(err, BANGER_TOO_LARGE,
			"a file has more than the %u names that ext4 takes", LINKS_MAX);
	int r = insert_name(b, dir, name, name_len, node, err);
	if (r < 0)
		return r;
	n->links++;
	record_link(b->record, dir, name, name_len, node);
	return 0;
}

/* A node has lost a name (a directory: its only one, and is empty). */
static int drop_link(struct ext4_builder *b, uint32_t i, struct banger_error *err)
{
	struct node *n = node_at(b, i);
	int r = 0;

	if (node_is(n, S_IFDIR))
		node_at(b, n->dir.parent)->links--;
	else if (--n->links > 0)
		return 0;
	if (node_is(n, S_IFREG))
		r = content_forget(b, i, err);
	n->dead = true;
	b->alive--;
	return r;
}

/* Removes the name k, and of a directory first what is below it: always the first name of the
 * deepest directory, then that directory's own. No recursion: the depth is the archive's to choose.
 */
static int remove_name(struct ext4_builder *b, uint32_t k, struct banger_error *err)
{
	record_remove(b->record, name_at(b, k)->dir, name_at(b, k)->text, name_at(b, k)->len);
	for (uint32_t at = k;;) {
		const struct name *m = name_at(b, at);
		const struct node *n = node_at(b, m->node);
		if (node_is(n, S_IFDIR) && n->dir.head) {
			at = n->dir.head;
			continue;
		}
		const struct node *dir = node_at(b, m->dir);
		unhash(b, at);
		unlist(b, at);
		int r = drop_link(b, m->node, err);
		if (r < 0 || at == k)
			return r;
		at = dir->dir.head ? dir->dir.head : dir->dir.self;
	}
}

int ext4_builder_remove(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	struct banger_error *err)
{
	uint32_t k = find_name(b, dir, name, name_len, name_hash(b, dir, name, name_len));

	if (!k)
		return banger_error_set(err, BANGER_NOT_FOUND, "no such name");
	return remove_name(b, k, err);
}

/* ---- layers */

void ext4_builder_begin_layer(struct ext4_builder *b)
{
	b->layer++;
}

/* Marks the directory's name and those above it. Above a name that is marked all are. */
void ext4_builder_touch(struct ext4_builder *b, ext4_node dir)
{
	for (uint32_t k = node_at(b, dir)->dir.self; k && name_at(b, k)->layer != b->layer;) {
		name_at(b, k)->layer = b->layer;
		k = node_at(b, name_at(b, k)->dir)->dir.self;
	}
}

void ext4_builder_claim(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len)
{
	uint32_t k = find_name(b, dir, name, name_len, name_hash(b, dir, name, name_len));

	if (!k)
		return;
	name_at(b, k)->layer = b->layer;
	ext4_builder_touch(b, dir);
}

/* Removes what is below a directory and not of this layer. A directory is walked once in a layer:
 * then it is `cleared`, and nothing of a lower layer can come into it again. No recursion, as in
 * remove_name(). */
static int hide_below(struct ext4_builder *b, uint32_t top, struct banger_error *err)
{
	uint32_t dir = top, k = node_at(b, top)->dir.head;

	if (node_at(b, top)->dir.cleared == b->layer)
		return 0;
	for (;;) {
		if (!k) {
			struct node *d = node_at(b, dir);
			d->dir.cleared = b->layer;
			if (dir == top)
				return 0;
			k = name_at(b, d->dir.self)->next;
			dir = d->dir.parent;
			continue;
		}
		const struct name *m = name_at(b, k);
		const struct node *n = node_at(b, m->node);
		uint32_t next = m->next;
		if (m->layer != b->layer) {
			int r = remove_name(b, k, err);
			if (r < 0)
				return r;
		} else if (node_is(n, S_IFDIR) && n->dir.cleared != b->layer) {
			dir = m->node;
			next = n->dir.head;
		}
		k = next;
	}
}

int ext4_builder_hide_all(struct ext4_builder *b, ext4_node dir, struct banger_error *err)
{
	return hide_below(b, dir, err);
}

int ext4_builder_hide(struct ext4_builder *b, ext4_node dir, const char *name, size_t name_len,
	struct banger_error *err)
{
	uint32_t k = find_name(b, dir, name, name_len, name_hash(b, dir, name, name_len));

	if (!k)
		return 0;
	if (name_at(b, k)->layer != b->layer)
		return remove_name(b, k, err);
	uint32_t node = name_at(b, k)->node;
	return node_is(node_at(b, node), S_IFDIR) ? hide_below(b, node, err) : 0;
}
