/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the daemon and banger-unpack, which comes with every build of it: no other peer speaks
 * it.
 *
 * The program gets one argument, a JSON object:
 *	{"size":0,"headroom":67108864,"headroom_percent":10,"time":1,"seed":"64 hex digits"?,
 *	 "memory":805306368,"cpu_seconds":3600,"unpacked":BYTES?,"entries":N?,"room":BYTES?,
 *	 "mountpoints":BOOL?,
 *	 "layers":N?,"replay":N?,"keep":BOOL?,"home":{"path":"/root","size":0,"headroom":0}?}
 * descriptors by number, and $BANGER_OP_ID. It writes JSON lines to one of them:
 *	{"progress":{"layer":N,"read":BYTES,"members":N,"content":BYTES}}          now and then
 *	{"result":{"size","used","free","content","inodes","files","directories","symlinks","others",
 *	           "members","ignored_xattrs","read","uuid","compression","kept","shared",
 *	           "home":{"size","used","inodes"}?}}                         at the end, or
 *	{"error":{"code":"corrupt","message":"…","layer":N?,"reuse":true?}}
 * and exits with 0 after a result, 1 after an error, 2 when it was called wrongly.
 *
 * Without "layers" there is one archive, read from its descriptor to the end. With it the same
 * descriptor is a socket of whole messages (SOCK_SEQPACKET) over which the program asks for layers,
 * bottom first, and is told:
 *	program           daemon
 *	ASK_LAYER n   →
 *	              ←   TELL_LAYER n, with descriptors: what it is, how much of it is there
 *	              ←   TELL_MORE n: how much is there now               (any number of times)
 *	ASK_MORE n    →   all that is there has been read                  (any number of times)
 * The first "replay" layers come as records of what they did (builder/record.h) instead of blobs.
 */
#ifndef BANGER_UNPACK_PROTOCOL_H
#define BANGER_UNPACK_PROTOCOL_H

#include <stdint.h>

enum {
	UNPACK_FD_TAR = 3, /* the archive, or the socket */
	UNPACK_FD_CONTROL = UNPACK_FD_TAR,
	UNPACK_FD_IMAGE = 4,
	UNPACK_FD_STATUS = 5,
	UNPACK_FD_HOME = 6, /* with "home": the file for its filesystem */
	UNPACK_FD_KEEP = 7, /* with "keep": the file that becomes a clone of the image's content */
	UNPACK_FD_FROM = 8, /* with "replay": such a file */
	UNPACK_FD_END = 9
};

#define UNPACK_LINE_MAX 8192 /* bytes of a status line */
#define UNPACK_PROGRESS_MS 200
#define UNPACK_LAYERS_MAX 100000

enum unpack_what { ASK_LAYER = 1, ASK_MORE, TELL_LAYER, TELL_MORE };

struct unpack_ask {
	uint32_t what, layer;
	int64_t position; /* ASK_MORE: bytes of the blob that were read */
};

/* The descriptors that come with TELL_LAYER, in this order. */
enum { UNPACK_WITH_BLOB = 1, UNPACK_WITH_RECORD = 2, UNPACK_WITH_MAX = 2 /* descriptors */ };

struct unpack_tell {
	uint32_t what, layer;
	int64_t size, available; /* of the blob */
	uint32_t with;
	char digest[144], diff_id[144], compression[8]; /* terminated */
};

#endif
