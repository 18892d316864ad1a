/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Between the daemon and banger-unpack, which comes with every build of it: no other peer speaks
 * it.
 *
 * The program gets one argument, a JSON object:
 *	{"size":0,"headroom":67108864,"headroom_percent":10,"time":1,"seed":"64 hex digits"?,
 *	 "memory":805306368,"cpu_seconds":3600}
 * three descriptors, and $BANGER_OP_ID. It writes JSON lines to the third:
 *	{"progress":{"read":BYTES,"members":N,"content":BYTES}}          now and then
 *	{"result":{"size","used","free","content","inodes","files","directories","symlinks","others",
 *	           "members","ignored_xattrs","read","uuid","compression"}}      at the end, or
 *	{"error":{"code":"corrupt","message":"…"}}
 * and exits with 0 after a result, 1 after an error, 2 when it was called wrongly.
 */
#ifndef BANGER_UNPACK_PROTOCOL_H
#define BANGER_UNPACK_PROTOCOL_H

enum { UNPACK_FD_TAR = 3, UNPACK_FD_IMAGE = 4, UNPACK_FD_STATUS = 5, UNPACK_FD_END = 6 };

#define UNPACK_LINE_MAX 8192 /* bytes of a status line */
#define UNPACK_PROGRESS_MS 200

#endif
