/* SPDX-License-Identifier: Apache-2.0 */
/* See server.h. Connections that are open when the server stops are shut down, which ends their threads. */
#include <arpa/inet.h>
#include <pthread.h>
#include <stdarg.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/socket.h>
#include <unistd.h>
#include "server.h"

#define CONNECTIONS_MAX 256

struct server {
	int fd, port;
	pthread_t thread;
	server_handler *handler;
	void *arg;
	pthread_mutex_t lock;
	int requests, n;
	bool stopped;
	struct {
		int fd;
		pthread_t thread;
	} connections[CONNECTIONS_MAX];
};

struct connection {
	struct server *server;
	int fd;
};

const char *server_header(const struct server_request *q, const char *name)
{
	static _Thread_local char value[4096];
	size_t len = strlen(name);

	for (const char *p = strstr(q->head, "\r\n"); p && p[2] != '\r'; p = strstr(p, "\r\n")) {
		p += 2;
		if (strncasecmp(p, name, len) == 0 && p[len] == ':') {
			p += len + 1;
			p += strspn(p, " ");
			snprintf(value, sizeof(value), "%.*s", (int)strcspn(p, "\r"), p);
			return value;
		}
	}
	return NULL;
}

bool server_send(const struct server_request *q, const void *data, size_t len)
{
	const char *p = data;

	while (len > 0) {
		ssize_t n = send(q->fd, p, len, MSG_NOSIGNAL);
		if (n <= 0)
			return false;
		p += n;
		len -= (size_t)n;
	}
	return true;
}

bool server_printf(const struct server_request *q, const char *fmt, ...)
{
	char *text = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	bool ok = n >= 0 && server_send(q, text, (size_t)n);
	free(text);
	return ok;
}

bool server_answer(
	const struct server_request *q, const char *status, const char *headers, const char *body)
{
	return server_printf(q, "HTTP/1.1 %s\r\nContent-Length: %zu\r\n%s\r\n%s", status,
		strlen(body), headers, body);
}

bool server_content(const struct server_request *q, const void *data, size_t len)
{
	size_t from = q->range > 0 ? (size_t)q->range : 0;

	if (from > len)
		return server_answer(q, "416 Range Not Satisfiable", "", "");
	if (q->range >= 0)
		server_printf(q,
			"HTTP/1.1 206 Partial Content\r\nContent-Length: %zu\r\nContent-Range: "
			"bytes "
			"%zu-%zu/%zu\r\n\r\n",
			len - from, from, len - 1, len);
	else
		server_printf(q, "HTTP/1.1 200 OK\r\nContent-Length: %zu\r\n\r\n", len);
	return strcmp(q->method, "HEAD") == 0 ||
	       server_send(q, (const char *)data + from, len - from);
}

/* The head, and of the body as much as Content-Length says. */
static bool read_request(struct server_request *q)
{
	size_t n = 0;
	char *end;

	while (!(end = strstr(q->head, "\r\n\r\n"))) {
		ssize_t got = n + 1 < sizeof(q->head)
				      ? recv(q->fd, q->head + n, sizeof(q->head) - 1 - n, 0)
				      : 0;
		if (got <= 0)
			return false;
		n += (size_t)got;
		q->head[n] = '\0';
	}
	end += 4;
	size_t have = n - (size_t)(end - q->head);
	memcpy(q->body, end, have < sizeof(q->body) - 1 ? have : sizeof(q->body) - 1);
	*end = '\0';
	const char *length = server_header(q, "Content-Length");
	size_t want = length ? strtoul(length, NULL, 10) : 0;
	while (have < want && have + 1 < sizeof(q->body)) {
		ssize_t got = recv(q->fd, q->body + have, sizeof(q->body) - 1 - have, 0);
		if (got <= 0)
			return false;
		have += (size_t)got;
	}
	if (sscanf(q->head, "%15s %1023s", q->method, q->path) != 2)
		return false;
	const char *range = server_header(q, "Range");
	q->range = range && strncmp(range, "bytes=", 6) == 0 ? strtoll(range + 6, NULL, 10) : -1;
	return true;
}

static void *serve(void *arg)
{
	struct connection *c = arg;
	bool stays = true;

	while (stays) {
		struct server_request *q = calloc(1, sizeof(*q));
		q->server = c->server;
		q->fd = c->fd;
		stays = read_request(q);
		if (stays) {
			pthread_mutex_lock(&c->server->lock);
			q->number = ++c->server->requests;
			pthread_mutex_unlock(&c->server->lock);
			stays = c->server->handler(c->server->arg, q);
		}
		free(q);
	}
	shutdown(c->fd, SHUT_RDWR);
	free(c);
	return NULL;
}

static void *accept_all(void *arg)
{
	struct server *s = arg;

	for (;;) {
		int fd = accept(s->fd, NULL, NULL);
		if (fd < 0)
			return NULL;
		pthread_mutex_lock(&s->lock);
		if (s->stopped || s->n == CONNECTIONS_MAX) {
			close(fd);
		} else {
			struct connection *c = calloc(1, sizeof(*c));
			c->server = s;
			c->fd = fd;
			s->connections[s->n].fd = fd;
			pthread_create(&s->connections[s->n++].thread, NULL, serve, c);
		}
		pthread_mutex_unlock(&s->lock);
	}
}

struct server *server_start(const char *address, server_handler *handler, void *arg)
{
	struct server *s = calloc(1, sizeof(*s));
	struct sockaddr_in a = {.sin_family = AF_INET};
	socklen_t len = sizeof(a);

	inet_pton(AF_INET, address, &a.sin_addr);
	s->handler = handler;
	s->arg = arg;
	pthread_mutex_init(&s->lock, NULL);
	s->fd = socket(AF_INET, SOCK_STREAM | SOCK_CLOEXEC, 0);
	if (s->fd < 0 || bind(s->fd, (struct sockaddr *)&a, sizeof(a)) < 0 ||
		listen(s->fd, 64) < 0 || getsockname(s->fd, (struct sockaddr *)&a, &len) < 0)
		abort();
	s->port = ntohs(a.sin_port);
	pthread_create(&s->thread, NULL, accept_all, s);
	return s;
}

int server_port(const struct server *s)
{
	return s->port;
}

int server_requests(struct server *s)
{
	pthread_mutex_lock(&s->lock);
	int n = s->requests;
	pthread_mutex_unlock(&s->lock);
	return n;
}

void server_stop(struct server *s)
{
	pthread_mutex_lock(&s->lock);
	s->stopped = true;
	pthread_mutex_unlock(&s->lock);
	shutdown(s->fd, SHUT_RDWR);
	pthread_join(s->thread, NULL);
	close(s->fd);
	for (int i = 0; i < s->n; i++) {
		shutdown(s->connections[i].fd, SHUT_RDWR);
		pthread_join(s->connections[i].thread, NULL);
		close(s->connections[i].fd);
	}
	pthread_mutex_destroy(&s->lock);
	free(s);
}
