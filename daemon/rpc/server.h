/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The RPC server: accepts connections on a Unix socket, a thread each, up to a limit in all and a
 * quarter of it for one uid (root and the daemon's uid excepted). A connection's requests are
 * answered in order; a stuck client holds up its own thread and nobody else.
 */
#ifndef BANGER_SERVER_H
#define BANGER_SERVER_H

#include "rpc/dispatch.h"

struct rpc_server;

struct rpc_server_options {
	const char *path;  /* of the socket; a stale one is replaced, a live one is BUSY */
	const char *group; /* may use it beside the owner; NULL: none */
	int64_t connections;
	const struct rpc_method *methods; /* ends with name NULL */
	void *ctx;			  /* handed to handlers */
	struct operations *operations;
	/* Is this process one that bangerd has started for a VM? NULL: none ever is. Any thread. */
	bool (*find_vm)(void *arg, struct rpc_peer *peer);
	void *find_vm_arg;
	int send_timeout_ms; /* how long a client may keep a reply or a stream waiting; 0: 10 s */
};

int rpc_server_new(const struct rpc_server_options *o, struct rpc_server **ret, struct banger_error *err);
/* Accept until stop_fd is readable. Then no new connection is taken, idle ones are closed, running
 * operations get grace_ms to finish, are cancelled after it and waited for. */
int rpc_server_run(struct rpc_server *s, int stop_fd, int grace_ms, struct banger_error *err);
void rpc_server_freep(struct rpc_server **s);
size_t rpc_server_clients(const struct rpc_server *s);

#endif
