/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing image.json in a draft. What is written is collected, and when the file is closed (or
 * synced) the document goes to bangerd as image.configure; whether it was one shows in close().
 */
#ifndef FS_CONFIG_H
#define FS_CONFIG_H

#include "fs.h"

#define CONFIG_DOCUMENT_MAX (64 * 1024)

struct handle;
struct change;

/* A handle on image.json of draft `node` (a NODE_IMAGE_JSON); empty if it is truncated, else with
 * what the file shows now. */
int config_open(struct fs *fs, const struct fuse_ctx *who, uint64_t node, bool truncate,
	struct handle **ret);
void config_close(struct fs *fs, struct handle *h);

/* Answer the request. */
void config_read(struct handle *h, fuse_req_t req, size_t size, off_t off);
void config_write(struct handle *h, fuse_req_t req, const char *buf, size_t size, off_t off);
/* ftruncate: 0 or -errno. */
int config_truncate(struct handle *h, off_t size);
size_t config_size(struct handle *h);

/* Flush, fsync: send the document if something was written since it was last sent. Blocks: a change
 * (change.h), which it answers. */
void config_flush(struct change *c);
/* Nobody has it open any more: says so if it was emptied for good. Before config_close(). */
void config_released(struct fs *fs, struct handle *h);
/* Is there something to send? If not, a flush needs no change. */
bool config_dirty(struct handle *h);

/* The document in fd (a file that is renamed to image.json). Uses the change's attempt; 0 or
 * negative. */
int config_take_file(struct change *c, uint64_t image, int fd);

#endif
