/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A client of bangerd (and of banger-helper). Synchronous: one request, one reply. The op_id of the
 * calling thread goes out with each request, and the actor if one is given. A client object is for
 * one thread at a time; open several to ask several things at once.
 */
#ifndef BANGER_CLIENT_H
#define BANGER_CLIENT_H

#include <banger/wire.h>

struct banger_client;

/* Connect to the socket at `path`. UNAVAILABLE (-EHOSTDOWN) with the path in the message when nobody
 * listens there. */
int banger_client_connect(const char *path, struct banger_client **ret, struct banger_error *err);
void banger_client_freep(struct banger_client **c);
#define _cleanup_client_ _cleanup_(banger_client_freep)
int banger_client_fd(const struct banger_client *c);
/* Did a call or _next() fail because of the connection? Else an error is what the daemon answered, though it
 * be the same code: UNAVAILABLE, of a registry. */
bool banger_client_lost(const struct banger_client *c);

/* The actor to name in later requests (copied); NULL: none. */
void banger_client_set_actor(struct banger_client *c, const struct banger_actor *actor);

/* Called between the sending of a request and the reading of its answer, with the connection's descriptor: a
 * chance to look at it for a while before going to sleep, or to make other arrangements. NULL: none. */
void banger_client_set_waiter(struct banger_client *c, void (*wait)(void *arg, int fd), void *arg);

/* Look at a descriptor, without sleeping, until there is something to read or `us` microseconds have passed; others
 * that want the processor get it. Waking a sleeping thread costs 30 to 90 µs: as much as what is waited for may
 * take. Is there something? */
bool banger_look(int fd, int us);

/* Ask. params: the reference is taken (NULL: none). *ret_result (may be NULL if not wanted) is owned
 * by the caller. A lost connection is UNAVAILABLE: the object is then good only for freeing; whether
 * the request was carried out is not known. */
int banger_client_call(struct banger_client *c, const char *method, struct json_object *params,
	struct json_object **ret_result, struct banger_error *err);

/* The same with descriptors: fds/nfds go out (they stay the caller's); up to *ret_nfds come back into
 * ret_fds (owned by the caller), more are closed, *ret_nfds becomes the count. */
int banger_client_call_fds(struct banger_client *c, const char *method, struct json_object *params,
	const int *fds, size_t nfds, struct json_object **ret_result, int *ret_fds, size_t *ret_nfds,
	struct banger_error *err);

/* For a method that streams (registry.watch, op.log): after a successful call, the next document of
 * the stream. Returns 1 and *ret (owned), 0 at the end of the stream, -ETIMEDOUT after timeout_ms
 * (negative: wait for ever), -EHOSTDOWN when the connection broke. Descriptors that come are closed. */
int banger_client_next(struct banger_client *c, int timeout_ms, struct json_object **ret,
	struct banger_error *err);
/* Make a banger_client_next() or _call() of another thread return -EHOSTDOWN; the object must then be freed. */
void banger_client_shutdown(struct banger_client *c);

#endif
