/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Operation ids and the operation that a thread is working for.
 *
 * An op_id is "op-" and 12 lowercase hex digits (48 random bits). Whoever first sees an operation
 * mints one: bangerfs at the FUSE call, banger-ctl at the command, the daemon's dispatch for a
 * request that has none. While a thread works for an operation it has entered it; log records,
 * errors and outgoing requests of that thread take the id from there. A thread that is handed
 * work enters the operation with the id that came with the work.
 */
#ifndef BANGER_OP_H
#define BANGER_OP_H

#include <stdbool.h>
#include <stdint.h>
#include <sys/types.h>
#include <banger/error.h>

typedef struct banger_op_id {
	char s[BANGER_OP_ID_LEN + 1];
} banger_op_id;

/* Is s exactly "op-" and 12 of [0-9a-f]? NULL is not. */
bool banger_op_id_valid(const char *s);
/* A new id from getrandom(2). Never fails. */
banger_op_id banger_op_id_mint(void);

/* The op_id that the calling thread works for, or NULL. Valid until the thread leaves it. */
const char *banger_op_current(void);

/* Enter and leave: the previous id comes back at scope end, so scopes nest.
 *	_cleanup_op_ banger_op_id saved = banger_op_enter(id);                            */
banger_op_id banger_op_enter(const char *op_id);
void banger_op_leavep(const banger_op_id *saved);
#define _cleanup_op_ _cleanup_(banger_op_leavep)

/* Who asked. `door` says by which way: "rpc", "fs" (a FUSE call), "ctl", "daemon" (its own work). */
struct banger_actor {
	uid_t uid;
	gid_t gid;
	pid_t pid;        /* 0 when not known */
	char program[32]; /* of the process, /proc/PID/comm; for people, never for authorisation */
	char door[8];
	char vm[129]; /* the VM that the request came from, "" for none */
};

/* Fill program from /proc/pid/comm; "" when it cannot be read. */
void banger_actor_resolve(struct banger_actor *actor);

#endif
