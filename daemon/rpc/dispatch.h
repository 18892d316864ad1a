/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a line to a handler. A table says for each method who may call it, what its parameters are and
 * which function does it; dispatch adopts or mints the op_id first of all, parses, checks, begins the
 * operation, calls, ends it, replies. Nothing here knows what a method means.
 */
#ifndef BANGER_DISPATCH_H
#define BANGER_DISPATCH_H

#include <banger/model.h>
#include <banger/wire.h>
#include "op/operation.h"

struct rpc_peer {
	uid_t uid;
	gid_t gid;
	pid_t pid;    /* at connect time; for people */
	bool trusted; /* root or the daemon's own uid */
	/* The VM on whose behalf it speaks, "": none. The server found out by its process (rpc_server_options.find_vm);
	 * nobody is believed who says so himself. */
	char vm[BANGER_NAME_MAX + 1];
	bool vm_changes; /* that VM may change the registry */
};

struct rpc_stream; /* what a streaming handler writes to; server.h */

/* One call. The handler runs on the connection's own thread and may block. */
struct rpc_call {
	struct operation *op;
	const struct rpc_peer *peer;
	struct json_object *params; /* borrowed; checked against the schema */
	int fds[BANGER_WIRE_FDS_MAX]; /* came with the request; TAKE_FD() what is kept, the rest is closed */
	size_t nfds;
	struct json_object *result; /* set by the handler; NULL: {} */
	char *result_text; /* the same as text, for what is long: instead of result; owned */
	size_t result_len;
	int reply_fds[BANGER_WIRE_FDS_MAX]; /* to send with the reply; closed after it */
	size_t n_reply_fds;
	struct rpc_stream *stream;
};

/* A handler returns 0, or an error. `ctx` is the composition root's struct (api/api.h). */
typedef int rpc_handler(void *ctx, struct rpc_call *call, struct banger_error *err);

enum rpc_param_type { RPC_END, RPC_STRING, RPC_INT, RPC_BOOL, RPC_OBJECT, RPC_STRINGS };
struct rpc_param {
	const char *name;
	enum rpc_param_type type;
	bool required;
	int64_t min, max; /* RPC_INT: the range; RPC_STRING: max bytes (0: 4096) */
};

enum rpc_flags {
	RPC_ANYONE = 1 << 0, /* whoever the socket lets in; else trusted peers */
	RPC_CHANGE = 1 << 1, /* an operation to record; else recorded only when it fails */
	RPC_STREAM = 1 << 2, /* the handler writes a stream and the connection ends with it */
	RPC_HANGUP = 1 << 3, /* cancel the operation when the client goes away */
	/* With RPC_CHANGE: a long one, whose start is an event too (RPC_HANGUP says the same). */
	RPC_LONG = 1 << 4,
	/* Cancelled at once when the daemon stops: it would rarely end in the time that others get. */
	RPC_YIELD = 1 << 5,
	/* A VM's filesystem may call it too, if the VM may change the registry (RPC_ANYONE: any VM's). */
	RPC_VM = 1 << 6,
	/* The same, whether the VM may change the registry or not. */
	RPC_VM_READER = 1 << 7,
};

struct rpc_method {
	const char *name;
	rpc_handler *handler;
	unsigned flags;
	const struct rpc_param
		*params; /* ends with RPC_END; NULL: none. Unknown members are ignored. */
	size_t min_fds, max_fds;
};

/* The operation goes on after the reply: the handler hands it to another thread, which operation_adopt()s and
 * ends it. The handler must not touch it after that, and must not fail. */
struct operation *rpc_call_detach(struct rpc_call *call);

/* For a streaming handler: send the reply (call->result, reply_fds) now, then lines. -EPIPE when the
 * peer is gone or does not read (time-out), -ECANCELED at shutdown. */
int rpc_stream_reply(struct rpc_call *call);
int rpc_stream_send(struct rpc_stream *s, const char *line, size_t len);
/* Wait until fd is readable (1), the peer hung up or the daemon stops (0). */
int rpc_stream_wait(struct rpc_stream *s, int fd);

#endif
