/* SPDX-License-Identifier: Apache-2.0 */
/*
 * POSIX ACLs. On disk ext4 packs one into a version word (1) and entries of tag and permissions,
 * with an id only for named users and groups; getxattr(2) gives the form of
 * linux/posix_acl_xattr.h: version 2 and entries of tag, permissions and id, the id being -1 where
 * there is none. An ACL is shown entry by entry as it was stored; what is not one is damage.
 */
#include <linux/posix_acl.h>
#include <linux/posix_acl_xattr.h>

#include "internal.h"

#define DISK_VERSION 1

static bool has_id(uint16_t tag)
{
	return tag == ACL_USER || tag == ACL_GROUP;
}

static bool tag_known(uint16_t tag)
{
	return has_id(tag) || tag == ACL_USER_OBJ || tag == ACL_GROUP_OBJ || tag == ACL_MASK ||
	       tag == ACL_OTHER;
}

static void put_le16(uint8_t *p, uint16_t v)
{
	v = htole16(v);
	memcpy(p, &v, sizeof(v));
}

static void put_le32(uint8_t *p, uint32_t v)
{
	v = htole32(v);
	memcpy(p, &v, sizeof(v));
}

ssize_t ext4_acl_convert(struct ext4_scratch *s, uint32_t ino, const uint8_t *disk, size_t len,
	void *buf, size_t size)
{
	size_t in = 4, out = sizeof(struct posix_acl_xattr_header);

	if (len < 4 || le32(disk) != DISK_VERSION)
		return ext4_damaged(s, "inode %u: an ACL of an unknown version", ino);
	if (size >= out)
		put_le32(buf, POSIX_ACL_XATTR_VERSION);
	while (in < len) {
		uint16_t tag = len - in >= 4 ? le16(disk + in) : 0;
		size_t entry = has_id(tag) ? 8 : 4;
		if (!tag_known(tag) || len - in < entry)
			return ext4_damaged(s, "inode %u: an ACL that is not one", ino);
		if (size >= out + sizeof(struct posix_acl_xattr_entry)) {
			uint8_t *p = (uint8_t *)buf + out;
			put_le16(p, tag);
			put_le16(p + 2, le16(disk + in + 2));
			put_le32(p + 4, has_id(tag) ? le32(disk + in + 4) : ACL_UNDEFINED_ID);
		}
		in += entry;
		out += sizeof(struct posix_acl_xattr_entry);
	}
	return size && size < out ? -ERANGE : (ssize_t)out;
}
