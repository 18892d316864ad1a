/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the kernel calls things. A node id is a kind and a number: those of images, kernels and
 * operations are their numbers in the model, so nothing is kept for them; only files that lie in a
 * directory on disk are in a table (files.h). No id ever comes to mean something else.
 *
 * Between the two stands the life of an image's directory. When another door renames or promotes an
 * image, the kernel would find one directory in two places and, if somebody is busy in the old one,
 * fail the lookup of the new one; so for the kernel that is another directory from then on (with
 * the same st_ino). The old one goes on to work for those who are in it.
 */
#ifndef FS_NODES_H
#define FS_NODES_H

#include <stdbool.h>
#include <stdint.h>

enum node_kind {
	NODE_FIXED, /* number: enum fixed_node */
	NODE_IMAGE, /* directory of an image or a draft */
	NODE_IMAGE_JSON,
	NODE_BY_ID,  /* the symlink by-id/ID of an image */
	NODE_KERNEL, /* directory of a kernel */
	NODE_KERNEL_JSON,
	NODE_OP,   /* ops/OP_ID */
	NODE_VM,   /* directory of a VM */
	NODE_VM_JSON,
	NODE_FILE, /* in the table of files.h */
	NODE_KINDS
};

enum fixed_node {
	FIXED_ROOT = 1, /* FUSE_ROOT_ID */
	FIXED_DRAFTS,
	FIXED_IMAGES,
	FIXED_BY_ID,
	FIXED_KERNELS,
	FIXED_OPS,
	FIXED_VMS,
	FIXED_ROOTFS,      /* the directory that the content is mounted on */
	FIXED_ROOTFS_LINK, /* or the symlink to where it is mounted */
	FIXED_EVENTS,
	FIXED_LAST_ERROR,
	FIXED_NODES
};

#define NODE_NUMBER_BITS 40

static inline uint64_t node_id(enum node_kind kind, uint64_t number)
{
	return (uint64_t)kind << 56 | number;
}
static inline uint64_t node_id_living(enum node_kind kind, uint64_t number, uint16_t life)
{
	return node_id(kind, number) | (uint64_t)life << NODE_NUMBER_BITS;
}
static inline enum node_kind node_kind(uint64_t node)
{
	return node >> 56 < NODE_KINDS ? (enum node_kind)(node >> 56) : NODE_FIXED;
}
static inline uint64_t node_number(uint64_t node)
{
	return node & (((uint64_t)1 << NODE_NUMBER_BITS) - 1);
}

#endif
