/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Extended attributes (ext4 documentation, "Extended Attributes"). A node's list is checked, sorted
 * and packed into a blob when it is set; equal blobs are one set, so that the one capability or
 * label that half the files have costs one block in the image and one entry here.
 *
 *	blob: for each attribute  u8 namespace (and IN_BLOCK), u8 name length, u16 value length,
 *	                          name without its prefix, value
 *
 * Attributes live behind the inode (92 bytes) or in one block of their own (4060 bytes). All go to
 * the inode if they fit there, else all to the block, else to the block what fits and the rest to
 * the inode. A block is shared by up to 1024 inodes.
 *
 * POSIX ACLs have a denser form on disk than the one that getxattr(2) gives and archives carry.
 */
#include "unpack/builder/internal.h"

#define INODE_ROOM (INODE_SIZE - 128 - EXTRA_ISIZE - 4) /* without the magic number */
#define BLOCK_ROOM (BLOCK - sizeof(struct ext2_ext_attr_header))
#define END_MARK 4u /* four zero bytes after the last entry */
#define IN_BLOCK 0x80u
#define VALUE_MAX 65535u

enum {
	INDEX_USER = 1,
	INDEX_ACL_ACCESS = 2,
	INDEX_ACL_DEFAULT = 3,
	INDEX_TRUSTED = 4,
	INDEX_SECURITY = 6
};

/* One attribute while a list is made; value points into the caller's list or to `owned`. */
struct item {
	uint8_t index, name_len;
	const char *name;
	const uint8_t *value;
	uint32_t value_len;
	size_t order;
	uint8_t *owned;
};

static const struct {
	const char *prefix;
	uint8_t index;
	bool whole; /* the prefix is the name */
} namespaces[] = {
	{"user.", INDEX_USER, false},
	{"security.", INDEX_SECURITY, false},
	{"trusted.", INDEX_TRUSTED, false},
	{"system.posix_acl_access", INDEX_ACL_ACCESS, true},
	{"system.posix_acl_default", INDEX_ACL_DEFAULT, true},
};

/* ---- POSIX ACLs */

enum {
	ACL_USER_OBJ = 1,
	ACL_USER = 2,
	ACL_GROUP_OBJ = 4,
	ACL_GROUP = 8,
	ACL_MASK = 16,
	ACL_OTHER = 32
};

struct acl_entry {
	uint16_t tag, perm;
	uint32_t id;
};

struct acl {
	unsigned seen;  /* tags */
	bool extended;  /* says more than permission bits can */
	uint32_t perms; /* the permission bits it stands for */
};

static int bad_acl(struct banger_error *err)
{
	return banger_error_set(err, BANGER_CORRUPT, "a POSIX ACL that is not well-formed");
}

/* The order and number that the kernel requires (posix_acl_valid): ascending tags, each but USER
 * and GROUP at most once, a mask if there is a USER or GROUP. */
static int acl_account(struct acl *a, const struct acl_entry *e, struct banger_error *err)
{
	bool many = e->tag == ACL_USER || e->tag == ACL_GROUP;

	if (e->tag == 0 || e->tag > ACL_OTHER || (e->tag & (e->tag - 1)) || e->perm > 7 ||
		a->seen >= (many ? e->tag * 2u : e->tag))
		return bad_acl(err);
	a->seen |= e->tag;
	switch (e->tag) {
	case ACL_USER_OBJ:
		a->perms |= e->perm << 6;
		break;
	case ACL_GROUP_OBJ:
	case ACL_MASK:
		/* The mask, which comes later, is what the group bits show. */
		a->perms = (a->perms & ~070u) | e->perm << 3;
		break;
	case ACL_OTHER:
		a->perms |= e->perm;
		break;
	}
	a->extended = a->extended || many || e->tag == ACL_MASK;
	return 0;
}

/* From the form of getxattr(2) (version 2, entries of 8 bytes) to that on disk (version 1, entries
 * of 4 bytes where there is no id). The result is owned by the caller. */
static int acl_convert(const uint8_t *value, size_t len, struct acl *acl, uint8_t **ret,
	size_t *ret_len, struct banger_error *err)
{
	uint32_t version;

	if (len < 4 || (len - 4) % 8 != 0)
		return bad_acl(err);
	memcpy(&version, value, 4);
	if (version != 2)
		return bad_acl(err);
	_cleanup_free_ uint8_t *out = malloc(len);
	if (!out)
		return banger_error_oom(err);
	size_t n = 4;
	memcpy(out, &(uint32_t){1}, 4);
	for (const uint8_t *p = value + 4; p < value + len; p += 8) {
		struct acl_entry e;
		memcpy(&e, p, 8);
		int r = acl_account(acl, &e, err);
		if (r < 0)
			return r;
		bool id = e.tag == ACL_USER || e.tag == ACL_GROUP;
		memcpy(out + n, p, id ? 8 : 4);
		n += id ? 8 : 4;
	}
	const unsigned need = ACL_USER_OBJ | ACL_GROUP_OBJ | ACL_OTHER;
	if ((acl->seen & need) != need ||
		((acl->seen & (ACL_USER | ACL_GROUP)) && !(acl->seen & ACL_MASK)))
		return bad_acl(err);
	*ret = TAKE_PTR(out);
	*ret_len = n;
	return 0;
}

/* Returns 1 when the attribute is to be stored, 0 when the permission bits say it all. */
static int take_acl(struct node *n, struct item *it, struct banger_error *err)
{
	struct acl acl = {0};
	size_t len = 0;
	int r = acl_convert(it->value, it->value_len, &acl, &it->owned, &len, err);

	if (r < 0)
		return r;
	it->value = it->owned;
	it->value_len = len;
	if (it->index == INDEX_ACL_DEFAULT)
		return 1;
	n->mode = (n->mode & ~0777) | acl.perms;
	return acl.extended;
}

/* ---- making a set */

static int compare_items(const void *pa, const void *pb)
{
	const struct item *a = pa, *b = pb;

	if (a->index != b->index)
		return a->index < b->index ? -1 : 1;
	if (a->name_len != b->name_len)
		return a->name_len < b->name_len ? -1 : 1;
	int c = memcmp(a->name, b->name, a->name_len);
	if (c)
		return c;
	return a->order < b->order ? -1 : a->order > b->order;
}

static bool allowed_on(const struct node *n, uint8_t index)
{
	bool file = node_is(n, S_IFREG), dir = node_is(n, S_IFDIR);

	switch (index) {
	case INDEX_USER:
		return file || dir;
	case INDEX_ACL_ACCESS:
		return !node_is(n, S_IFLNK);
	case INDEX_ACL_DEFAULT:
		return dir;
	default:
		return true;
	}
}

/* Fills *it from what the archive said. Returns 1, or 0 when it is to be ignored. */
static int take_item(
	const struct node *n, const struct ext4_xattr *x, struct item *it, struct banger_error *err)
{
	for (size_t i = 0; i < ELEMENTSOF(namespaces); i++) {
		size_t prefix = strlen(namespaces[i].prefix);
		if (x->name_len < prefix || memcmp(x->name, namespaces[i].prefix, prefix) != 0)
			continue;
		/* A name is the prefix and something, or just the prefix where that is whole. */
		if (namespaces[i].whole != (x->name_len == prefix))
			continue;
		if (x->name_len > 255 || memchr(x->name, '\0', x->name_len))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"an extended attribute's name of %zu bytes or with a NUL",
				x->name_len);
		if (x->value_len > VALUE_MAX)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"an extended attribute of %zu bytes", x->value_len);
		it->index = namespaces[i].index;
		it->name = x->name + prefix;
		it->name_len = x->name_len - prefix;
		it->value = x->value;
		it->value_len = x->value_len;
		return allowed_on(n, it->index);
	}
	return 0;
}

static uint32_t padded(uint32_t n)
{
	return (n + 3) & ~3u;
}

static uint32_t item_size(uint32_t name_len, uint32_t value_len)
{
	return EXT2_EXT_ATTR_LEN(name_len) + padded(value_len);
}

/* Decides for each item where it goes (item.index gets IN_BLOCK). */
static int place_items(struct item *items, size_t n, struct banger_error *err)
{
	uint32_t total = END_MARK, block = END_MARK, inode = END_MARK;

	for (size_t i = 0; i < n; i++)
		total += item_size(items[i].name_len, items[i].value_len);
	if (total <= INODE_ROOM)
		return 0;
	for (size_t i = 0; i < n; i++) {
		uint32_t size = item_size(items[i].name_len, items[i].value_len);
		if (block + size <= BLOCK_ROOM) {
			items[i].index |= IN_BLOCK;
			block += size;
		} else if (inode + size <= INODE_ROOM) {
			inode += size;
		} else {
			return banger_error_set(err, BANGER_TOO_LARGE,
				"extended attributes of %u bytes, more than ext4 takes for one "
				"file",
				total);
		}
	}
	return 0;
}

static uint8_t *pack_items(const struct item *items, size_t n, uint32_t *ret_len)
{
	size_t len = 0;

	for (size_t i = 0; i < n; i++)
		len += 4u + items[i].name_len + items[i].value_len;
	uint8_t *blob = malloc(len), *p = blob;
	if (!blob)
		return NULL;
	for (size_t i = 0; i < n; i++) {
		const struct item *it = &items[i];
		const uint16_t value_len = it->value_len;
		p[0] = it->index;
		p[1] = it->name_len;
		memcpy(p + 2, &value_len, 2);
		memcpy(p + 4, it->name, it->name_len);
		if (value_len > 0)
			memcpy(p + 4 + it->name_len, it->value, value_len);
		p += 4u + it->name_len + value_len;
	}
	*ret_len = len;
	return blob;
}

static int grow_set_buckets(struct ext4_builder *b)
{
	uint32_t n = b->n_set_buckets ? b->n_set_buckets * 2 : 64;
	uint32_t *buckets = calloc(n, sizeof(*buckets));

	if (!buckets)
		return -ENOMEM;
	for (uint32_t i = 1; i <= b->sets.count; i++) {
		struct xattr_set *s = set_at(b, i);
		s->chain = buckets[s->hash & (n - 1)];
		buckets[s->hash & (n - 1)] = i;
	}
	free(b->set_buckets);
	b->set_buckets = buckets;
	b->n_set_buckets = n;
	return 0;
}

/* The set of this content, a new one if there is none. Takes the blob. 0: no memory. */
static uint32_t intern(struct ext4_builder *b, uint8_t *blob, uint32_t len, bool in_block)
{
	_cleanup_free_ uint8_t *mine = blob;
	uint32_t hash = keyed_hash(b->hash_key, 0, mine, len);

	if (b->sets.count >= b->n_set_buckets && grow_set_buckets(b) < 0)
		return 0;
	uint32_t *bucket = &b->set_buckets[hash & (b->n_set_buckets - 1)];
	for (uint32_t i = *bucket; i; i = set_at(b, i)->chain) {
		const struct xattr_set *s = set_at(b, i);
		if (s->hash == hash && s->blob_len == len && memcmp(s->blob, mine, len) == 0)
			return i;
	}
	uint32_t i = pool_add(&b->sets);
	if (!i)
		return 0;
	*set_at(b, i) = (struct xattr_set){.blob = TAKE_PTR(mine),
		.blob_len = len,
		.hash = hash,
		.chain = *bucket,
		.in_block = in_block};
	*bucket = i;
	return i;
}

static int make_set(struct ext4_builder *b, struct node *n, struct item *items, size_t count,
	struct banger_error *err)
{
	size_t kept = 0;

	qsort(items, count, sizeof(*items), compare_items);
	for (size_t i = 0; i < count; i++) {
		/* Of one name said twice the last counts. */
		bool again = i + 1 < count && items[i].index == items[i + 1].index &&
			     items[i].name_len == items[i + 1].name_len &&
			     memcmp(items[i].name, items[i + 1].name, items[i].name_len) == 0;
		bool acl =
			items[i].index == INDEX_ACL_ACCESS || items[i].index == INDEX_ACL_DEFAULT;
		int r = again ? 0 : acl ? take_acl(n, &items[i], err) : 1;
		if (r < 0)
			return r;
		if (r == 0)
			continue;
		struct item swap = items[kept];
		items[kept++] = items[i];
		items[i] = swap;
	}
	n->xattrs = NONE;
	if (kept == 0)
		return 0;
	int r = place_items(items, kept, err);
	if (r < 0)
		return r;
	bool in_block = false;
	for (size_t i = 0; i < kept; i++)
		in_block = in_block || (items[i].index & IN_BLOCK);
	uint32_t len;
	uint8_t *blob = pack_items(items, kept, &len);
	if (!blob)
		return banger_error_oom(err);
	n->xattrs = intern(b, blob, len, in_block);
	return n->xattrs ? 0 : banger_error_oom(err);
}

int ext4_builder_set_xattrs(struct ext4_builder *b, ext4_node node, const struct ext4_xattr *list,
	size_t n, size_t *ret_ignored, struct banger_error *err)
{
	struct node *at = node_at(b, node);
	size_t count = 0, ignored = 0;
	int r = 0;

	if (n == 0) {
		if (at->xattrs)
			record_xattrs(b->record, node, NULL, 0);
		at->xattrs = NONE;
		*ret_ignored = 0;
		return 0;
	}
	_cleanup_free_ struct item *items = calloc(n, sizeof(*items));
	if (!items)
		return banger_error_oom(err);
	for (size_t i = 0; i < n && r >= 0; i++) {
		r = take_item(at, &list[i], &items[count], err);
		items[count].order = i;
		if (r > 0)
			count++;
		else
			ignored++;
	}
	if (r >= 0)
		r = make_set(b, at, items, count, err);
	for (size_t i = 0; i < n; i++)
		free(items[i].owned);
	if (r < 0)
		return r;
	record_xattrs(b->record, node, list, n);
	*ret_ignored = ignored;
	return 0;
}

int xattr_copy(struct ext4_builder *from, uint32_t set, struct ext4_builder *to, uint32_t node,
	struct banger_error *err)
{
	const struct xattr_set *s = set_at(from, set);
	uint8_t *blob = malloc(s->blob_len);

	if (blob)
		memcpy(blob, s->blob, s->blob_len);
	node_at(to, node)->xattrs = blob ? intern(to, blob, s->blob_len, s->in_block) : NONE;
	return node_at(to, node)->xattrs ? 0 : banger_error_oom(err);
}

/* ---- encoding */

/* Entries from `entries` upward, values downward from the end of area; offsets count from `area`.
 * The area is zeroed. Only what goes to the block, or only what does not. */
static void encode(
	const struct xattr_set *set, bool block, uint8_t *area, size_t size, uint8_t *entries)
{
	uint8_t *value_at = area + size;
	const uint8_t *end = set->blob + set->blob_len;

	for (const uint8_t *p = set->blob; p < end;) {
		uint16_t value_len;
		memcpy(&value_len, p + 2, 2);
		const uint8_t *name = p + 4, *value = name + p[1];
		if (!!(p[0] & IN_BLOCK) == block) {
			struct ext2_ext_attr_entry *e = (struct ext2_ext_attr_entry *)entries;
			e->e_name_len = p[1];
			e->e_name_index = p[0] & ~IN_BLOCK;
			e->e_value_size = value_len;
			memcpy(e + 1, name, p[1]);
			if (value_len > 0) {
				value_at -= padded(value_len);
				memcpy(value_at, value, value_len);
				e->e_value_offs = value_at - area;
			}
			e->e_hash = ext2fs_ext_attr_hash_entry(e, value_at);
			entries += EXT2_EXT_ATTR_LEN(p[1]);
		}
		p = value + value_len;
	}
}

/* body: what follows the inode's fixed part, zeroed; room: its size. */
void xattr_encode_inode(
	struct ext4_builder *b, const struct xattr_set *set, uint8_t *body, size_t room)
{
	bool any = false;

	for (const uint8_t *p = set->blob; p < set->blob + set->blob_len && !any;) {
		uint16_t value_len;
		memcpy(&value_len, p + 2, 2);
		any = !(p[0] & IN_BLOCK);
		p += 4u + p[1] + value_len;
	}
	if (!any)
		return;
	memcpy(body, &(uint32_t){EXT2_EXT_ATTR_MAGIC}, 4);
	encode(set, false, body + 4, room - 4, body + 4);
}

/* Writes the set's blocks: one for each 1024 of its users. */
int xattr_write_blocks(struct ext4_builder *b, struct xattr_set *set, struct banger_error *err)
{
	struct ext2_ext_attr_header *h = (struct ext2_ext_attr_header *)b->block;

	for (uint32_t done = 0, k = 0; done < set->users; k++) {
		uint32_t refs = set->users - done;
		if (refs > XATTR_BLOCK_USERS)
			refs = XATTR_BLOCK_USERS;
		memset(b->block, 0, BLOCK);
		h->h_magic = EXT2_EXT_ATTR_MAGIC;
		h->h_refcount = refs;
		h->h_blocks = 1;
		encode(set, true, b->block, BLOCK, b->block + sizeof(*h));
		ext2fs_ext_attr_block_rehash(
			h, (struct ext2_ext_attr_entry *)(b->block + BLOCK - END_MARK));
		errcode_t e = ext2fs_ext_attr_block_csum_set(b->fs, 0, set->start + k, h);
		if (e)
			return banger_error_set(
				err, BANGER_INTERNAL, "attribute block: %s", error_message(e));
		int r = writer_put(b->writer, set->start + k, b->block, 1, err);
		if (r < 0)
			return r;
		done += refs;
	}
	return 0;
}
