/* SPDX-License-Identifier: Apache-2.0 */
/* A server with methods made for the tests, on a thread of its own, and raw clients for it. */
#ifndef BANGER_TEST_RPC_SERVING_H
#define BANGER_TEST_RPC_SERVING_H

#include "fixture.h"
#include <banger/client.h>
#include <banger/log.h>
#include <pthread.h>
#include <stdatomic.h>
#include "rpc/server.h"

struct serving {
	struct fixture *f;
	struct hub *hub;
	struct operations *ops;
	struct rpc_server *server;
	char path[96];
	pthread_t thread;
	int stop_fd, grace_ms;
	bool running;
	char vm[BANGER_NAME_MAX +
		1]; /* whose VM those are that connect from now on; "": nobody's */
	bool vm_changes;
	atomic_int cancelled; /* how many calls of "wait" saw their cancellation */
};

/* In main(): refusals on purpose are not logged. */
static inline void serving_init(void)
{
	setenv("BANGER_LOG_LEVEL", "error", 0);
	banger_log_init("test");
}
/* Before each test, with the default options; a test may stop it and start another. */
int serving_setup(void **state);
int serving_teardown(void **state);
int serving_start(
	struct serving *s, int64_t connections, int send_timeout_ms, struct banger_error *err);
void serving_stop(struct serving *s);

/*
 * The methods: "echo" {"text","n"?,"flag"?,"list"?,"obj"?} → the same; "change" (RPC_CHANGE,
 * trusted peers); "fail" {"code"}; "wait" (RPC_CHANGE | RPC_HANGUP) until cancelled; "sleep" {"ms"}
 * cannot be cancelled; "stream" {"lines","size"} and then until the end; "fds" takes 1 to 2
 * descriptors and gives them back; "big" {"size"}. "host", "made" (RPC_VM) and "seen" (RPC_VM_READER) take what "sleep"
 * does.
 */

/* A connected socket; a line sent as it is; a line received (NULL at the end of the stream),
 * parsed. */
int raw_connect(const struct serving *s);
void raw_send(int fd, const char *text, size_t len);
void raw_line(int fd, const char *line);
struct json_object *raw_receive(int fd);
/* Send and receive; the reply must be an error of that code: its op_id in `op_id`. */
void raw_refused(int fd, const char *line, const char *code, char op_id[BANGER_OP_ID_LEN + 1]);
/* Wait up to 5 s until `clients` are connected. */
void wait_for_clients(struct serving *s, size_t clients);

#endif
