/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Shared by the files of daemon/rpc alone.
 *
 * Threads: the server's (accepts, watches for hang-ups, joins, stops) and one for each connection. A
 * connection belongs to its own thread; what the server's thread looks at is under the server's lock or
 * atomic. Its memory is freed by the server's thread after the join, its descriptor is closed by its own
 * thread after it has left the list, so that the server may shut down what it finds in the list.
 */
#ifndef BANGER_RPC_INTERNAL_H
#define BANGER_RPC_INTERNAL_H

#include <pthread.h>
#include <stdatomic.h>
#include <sys/stat.h>
#include "rpc/server.h"

struct rpc_connection {
	struct rpc_server *server;
	struct rpc_connection *prev, *next; /* in the server's list, then in its list of finished ones */
	pthread_t thread;
	int fd;
	struct rpc_peer peer;
	char program[32];	      /* of the peer when it connected */
	atomic_int_least64_t sending; /* since when (monotonic µs) it is in a send; 0: it is not */
	/* By the server's lock. */
	struct operation *op; /* that runs now */
	bool changes;	      /* the last request was a change; the thread's own */
	bool yields;	      /* op is a stream, or its method RPC_YIELD */
	bool watched;	      /* op is cancelled when the peer hangs up */
};

struct rpc_server {
	struct rpc_server_options options;
	char *path;
	int listen_fd, epoll_fd;
	int finished_fd; /* eventfd: somebody is in the list of finished ones */
	dev_t dev;	 /* of the socket's file, so that only ours is removed */
	ino_t ino;
	uid_t owner; /* the daemon's own */
	atomic_bool stopping;
	atomic_size_t n_connections;
	pthread_mutex_t lock;
	struct rpc_connection *connections, *finished;
};

/* ---- listen.c */

/* Make the socket at o->path and listen on it. Fills listen_fd, dev, ino. */
int listen_open(struct rpc_server *s, struct banger_error *err);
/* Stop listening; remove the socket if it is still ours. */
void listen_close(struct rpc_server *s);

/* ---- connection.c */

/* Start the thread of a connection that is in the list. Returns a positive errno, or 0. */
int connection_start(struct rpc_connection *c);
/* Note what runs, for the server's thread. begin: -ECANCELED when the server stops and op is a stream. */
void connection_begin(struct rpc_connection *c, struct operation *op, const struct rpc_method *m);
void connection_end(struct rpc_connection *c);
/* Send a document or a line, noting since when. As banger_wire_send(). */
int connection_send(struct rpc_connection *c, struct json_object *o, const int *fds, size_t nfds);
int connection_send_text(struct rpc_connection *c, const char *line, size_t len);

/* ---- dispatch.c */

/* One request line and its descriptors (closed here). Returns whether the connection goes on. */
bool dispatch_line(struct rpc_connection *c, const char *line, size_t len, int *fds, size_t nfds);
/* What came is no line (`code` and `what` say why): refuse it as an operation of its own, and reply. */
void dispatch_refuse(struct rpc_connection *c, enum banger_code code, const char *what);

/* ---- schema.c */

/* BAD_REQUEST names the parameter and says what it must be. */
int schema_check(const struct rpc_param *schema, struct json_object *params, struct banger_error *err);

#endif
