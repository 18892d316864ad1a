/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A small HTTP server on loopback that does what a test tells it to, also what no server should. Each connection
 * has a thread; each request is given to the handler, which writes the answer byte by byte as it likes and
 * says whether the connection stays.
 */
#ifndef BANGER_TEST_PULL_SERVER_H
#define BANGER_TEST_PULL_SERVER_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

struct server;

struct server_request {
	struct server *server;
	int fd;
	int number; /* from 1 */
	char method[16], path[1024];
	char head[8192]; /* all of it */
	char body[4096];
	int64_t range; /* of "Range: bytes=N-"; -1: none */
};

typedef bool server_handler(void *arg, const struct server_request *q);

struct server *server_start(const char *address, server_handler *handler, void *arg);
void server_stop(struct server *s);
int server_port(const struct server *s);
int server_requests(struct server *s);

/* The value of a header of the request, or NULL; static storage of the thread. */
const char *server_header(const struct server_request *q, const char *name);
bool server_send(const struct server_request *q, const void *data, size_t len);
bool server_printf(const struct server_request *q, const char *fmt, ...)
	__attribute__((format(printf, 2, 3)));
/* A whole answer: status line with reason, further header lines ("A: b\r\n…" or ""), body. */
bool server_answer(
	const struct server_request *q, const char *status, const char *headers, const char *body);
/* Content as a sound server sends it, Range honoured. */
bool server_content(const struct server_request *q, const void *data, size_t len);

#endif
