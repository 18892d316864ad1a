/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The daemon's side of banger-unpack: starts it, feeds it, listens to it, ends it. What the program
 * says is taken as said by a stranger.
 *
 * Either one archive becomes an image (tar_fd), or the layers of one (layers; OCI image spec,
 * "layer.md"; unpack/layer/layer.h says what is made of odd ones). Layers may still be coming while
 * they are unpacked: the one who fetches them writes to files, adds to notify_fd and answers
 * available().
 *
 * Same layers, same seed, time and sizes: the same bytes, on any machine, whenever the layers came,
 * and whether or not some were reused.
 *
 * Reuse. While layer i of an image is unpacked, a record of what it did can be kept
 * (record_out_fd), and when all are, a clone of the image's content (keep_fd; it needs a filesystem
 * that shares blocks, and costs space only for what upper layers removed). For another image whose
 * layers 0 … k-1 have the same diff_ids, give their records (record_in_fd) and that clone (from_fd):
 * these layers need no blob then, and are neither read nor hashed. Records and clone must be of one
 * run; they count only if the run that made them succeeded. A record depends on all layers below
 * its own, so keep it under the chain of diff_ids; and on how much room the filesystem's descriptors
 * have, which differs only for images with a `size` of over 1 TiB. When something about this is
 * wrong, failure->reuse is set: do it again without.
 */
#ifndef BANGER_UNPACK_RUN_H
#define BANGER_UNPACK_RUN_H

#include <banger/paths.h>

struct unpack_progress {
	int64_t layer;   /* that is being unpacked, from 0 */
	int64_t read;    /* bytes of the stream, as it came; of all layers together */
	int64_t members; /* of the archive; of all layers */
	int64_t content; /* bytes of file content */
};

/* Descriptors that may be none are -1 then. All are borrowed. */
struct unpack_layer {
	/* The blob: a regular file from its first byte, open for reading, by a description of its
	 * own (O_DIRECT is set on it); may still be growing. -1 with record_in_fd. */
	int fd;
	int64_t size;            /* of the whole blob */
	const char *digest;      /* of the blob, for messages; NULL: none */
	const char *diff_id;     /* "sha256:…" or "sha512:…": checked; NULL: not */
	const char *compression; /* "gzip", "zstd", "none": must be found so; NULL: any of them */
	int record_in_fd;        /* regular file, for reading: instead of the blob */
	int record_out_fd;       /* regular file, empty, for writing */
};

/* Why it failed, beside the error. */
struct unpack_failure {
	bool reuse;    /* because of records or from_fd: it may succeed without them */
	int64_t layer; /* while this one was read; -1: none in particular */
};

struct unpack_options {
	int tar_fd;    /* read to its end; not looked at when there are layers */
	int out_fd;    /* a regular file, open for reading and writing; replaced; borrowed */
	int cancel_fd; /* readable: cancelled; -1: none; borrowed */
	/* Of the filesystem in bytes (a multiple of 4096); 0: what it holds and free space, namely
	 * the larger of headroom (-1: 64 MiB) and headroom_percent (-1: 10) of what is used. */
	int64_t size, headroom;
	int headroom_percent;
	const uint8_t
		*seed;  /* 32 bytes that UUID and hash seed come from; NULL: from the content */
	int64_t time;   /* of the filesystem, seconds since the epoch; 0: a fixed one */
	int64_t memory; /* bytes that unpacking may use; 0: 768 MiB */
	int64_t cpu_seconds; /* 0: an hour */
	/* Bytes that the archive, or all layers together, may unpack to, and names that the image may have; 0: as it is
	 * configured. */
	int64_t unpacked_max, entries_max;
	/* Bytes that others will want of out_fd's disk meanwhile. Content is written only as long as those stay free,
	 * and a reserve: 5 % of the disk or 1 GiB, whichever is less. */
	int64_t wanted;
	/* How long it may make no progress; 0: five minutes. Waiting for more of a blob does not
	 * count. */
	int stall_ms;
	/* NULL, or called on this thread now and then. */
	void (*progress)(void *arg, const struct unpack_progress *p);
	void *arg;

	/* Bottom first; they and what they point to stay where they are while it runs. */
	const struct unpack_layer *layers;
	size_t n_layers;
	/* An eventfd, added to (every few 100 KiB, not for every packet) when more of some layer is
	 * there, and reset by this function; -1: all is there from the start. */
	int notify_fd;
	/* How much of a layer can be read by now: a prefix of the file; only grows; `size` at last.
	 * Called on this thread. -1: it will not come, and err says why; that ends the work. NULL:
	 * all of it. */
	int64_t (*available)(void *arg, size_t layer, struct banger_error *err);
	/* Make /dev /proc /run /sys /tmp where the image has nothing of that name. */
	bool mountpoints;

	int from_fd; /* content for the layers that have record_in_fd */
	int keep_fd; /* an empty regular file on out_fd's filesystem, for writing: becomes the clone */

	/* A second filesystem, of what the image has below work_seed_path (NULL: "/root"; "~USER": the home of
	 * that user, "name", "uid" or either with ":group", by the image's /etc/passwd), with that
	 * directory's attributes as its root's; empty if there is no such directory. The image keeps
	 * it too. */
	int work_seed_fd; /* a regular file, open for reading and writing; replaced */
	const char *work_seed_path;
	int64_t work_seed_size; /* as size; 0: what it holds and 1 GiB (the file is sparse) */

	struct unpack_failure *failure; /* filled when it fails; or NULL */
};

struct unpack_result {
	int64_t size, used, free; /* bytes of the image */
	int64_t content;          /* bytes of file content */
	int64_t inodes, members;
	int64_t ignored_xattrs; /* attributes that no Linux filesystem could have had */
	int64_t read;           /* bytes of the stream */
	char uuid[33];          /* hex digits */
	/* keep_fd is such a clone and the records are whole; else they are of no use: the filesystem
	 * cannot clone, or had no room. */
	bool kept;
	bool shared; /* what came from from_fd was cloned, and not copied */
	int64_t work_seed_size, work_seed_inodes;
};

/* Blocks until it is done. NOT_FOUND: the program is not installed. TIMEOUT: no progress, or more
 * CPU time than allowed. INTERNAL: it crashed, or did what its sandbox forbids. TOO_LARGE, NO_SPACE: over a
 * limit above. CORRUPT: a layer is
 * damaged, or is not what its diff_id or its compression says. Otherwise as the program says; see
 * flatten.h; what available() said. Messages name the layer (number and digest), the place in it
 * and the member. *ret may be NULL. After a failure none of the files that were written holds
 * anything useful. */
int unpack_run(const struct banger_config *config, const struct unpack_options *o,
	struct unpack_result *ret, struct banger_error *err);

#endif
