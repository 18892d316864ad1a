/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to bangerd: a pool of connections, and which operations this mount has under way.
 *
 * A change is made known to the kernel by the answer to the call that asked for it; the same change
 * coming back over the watch needs no notification then. So an operation is "ours" from before its
 * request goes out until its caller was answered. Any thread.
 */
#ifndef FS_CALLS_H
#define FS_CALLS_H

#include <stdbool.h>
#include <banger/client.h>

struct calls;
int calls_new(const char *socket, struct calls **ret);
void calls_freep(struct calls **c); /* no request may be under way */

struct call {
	const char *method;
	struct json_object *params;       /* taken */
	const struct banger_actor *actor; /* NULL: none */
	int *ret_fd;    /* a descriptor that must come with the reply; NULL: none */
	int timeout_ms; /* 0: as long as it takes */
	/* banger_client_set_waiter(); may be NULL */
	void (*wait)(void *arg, int fd);
	void *arg;
};
/* Ask, under the thread's current op_id. A connection that went stale while it was idle is
 * replaced; UNAVAILABLE at once when nobody listens. *ret_heard: an answer came (so the daemon
 * knows of the operation), whichever it was. ret_result may be NULL. */
int calls_ask(struct calls *c, const struct call *call, struct json_object **ret_result,
	bool *ret_heard, struct banger_error *err);

/* Close idle connections: the daemon went away. */
void calls_drop_idle(struct calls *c);
/* Break the connection on which `op_id` waits, so that its caller gets UNAVAILABLE; "" for all, and
 * from then on every request. */
void calls_abort(struct calls *c, const char *op_id);

void calls_own(struct calls *c, const char *op_id);
/* From the watch thread, before the change is applied: is it ours? If so its generation is noted.
 */
bool calls_seen(struct calls *c, const char *op_id, int64_t generation);
/* No longer ours: from now on its change is told to the kernel like any other. Returns the
 * generation of its change if that has been seen, else -1. */
int64_t calls_disown(struct calls *c, const char *op_id);
/* Does a request under this op_id wait for its answer? */
bool calls_in_flight(struct calls *c, const char *op_id);

#endif
