/* SPDX-License-Identifier: Apache-2.0 */
/* Sessions over the relay: one program at a time; the others wait for their turn. */
#include "vm/relay.h"
#include "vm/session.h"
#include <banger/log.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>

struct session {
	int port;
	pthread_mutex_t lock;
	bool ready;
};

int session_new(const struct session_options *o, struct session **ret, struct banger_error *err)
{
	struct session *s = calloc(1, sizeof(*s));

	if (!s) {
		close(o->port);
		return banger_error_oom(err);
	}
	s->port = o->port;
	pthread_mutex_init(&s->lock, NULL);
	*ret = s;
	return 0;
}

void session_freep(struct session **s)
{
	if (!*s)
		return;
	close((*s)->port);
	pthread_mutex_destroy(&(*s)->lock);
	free(*s);
	*s = NULL;
}

static int take_hello(struct session *s, struct banger_error *err)
{
	uint8_t b[AGENT_HEADER + 512];
	ssize_t n = recv(s->port, b, sizeof(b) - 1, 0);

	if (n <= 0)
		return banger_error_set(err, BANGER_UNAVAILABLE, "the VM ended before its command did");
	b[n] = '\0';
	if (b[0] == AGENT_FAILED && n > AGENT_HEADER)
		return banger_error_set(
			err, BANGER_CORRUPT, "the VM cannot be used: %s", (char *)b + AGENT_HEADER);
	if (b[0] != AGENT_HELLO)
		return banger_error_set(err, BANGER_INTERNAL, "the VM broke the agent protocol");
	s->ready = true;
	return 0;
}

int session_wait_ready(struct session *s, int64_t by_us, int cancel_fd, struct banger_error *err)
{
	struct pollfd p[2] = {{s->port, POLLIN, 0}, {cancel_fd, POLLIN, 0}};
	int r = 0;

	pthread_mutex_lock(&s->lock);
	if (!s->ready) {
		int64_t left = by_us ? (by_us - banger_monotonic_us()) / 1000 : -1;
		int n = poll(p, 2, by_us && left < 0 ? 0 : (int)left);
		r = n == 0	    ? banger_error_set(err, BANGER_TIMEOUT,
						  "the VM's agent did not answer in time")
		    : p[1].revents ? banger_error_set(err, BANGER_CANCELLED, "cancelled")
				   : take_hello(s, err);
	}
	pthread_mutex_unlock(&s->lock);
	return r;
}

int session_exec(struct session *s, const struct session_exec *x, struct session_result *ret,
	struct banger_error *err)
{
	const struct relay r = {.port = s->port,
		.cancel_fd = x->cancel_fd,
		.vmm_fd = -1,
		.ready = true,
		.end_by = x->end_by,
		.stdin_fd = x->stdin_fd,
		.stdout_fd = x->stdout_fd,
		.stderr_fd = x->stderr_fd,
		.exec = x->exec};
	struct relay_result result;

	pthread_mutex_lock(&s->lock);
	int e = relay_run(&r, &result, err);
	pthread_mutex_unlock(&s->lock);
	if (e == 0)
		*ret = (struct session_result){result.exit_code, result.signal};
	return e;
}

int session_put(
	struct session *s, const char *path, int fd, int cancel_fd, struct banger_error *err)
{
	return banger_error_set(err, BANGER_UNSUPPORTED, "the VM's agent carries no files");
}

int session_get(
	struct session *s, const char *path, int fd, int cancel_fd, struct banger_error *err)
{
	return banger_error_set(err, BANGER_UNSUPPORTED, "the VM's agent carries no files");
}

int session_power_off(struct session *s, struct banger_error *err)
{
	relay_power_off(s->port);
	return 0;
}

void session_set_time(struct session *s, int64_t realtime_us)
{
}

int session_ping(struct session *s, int timeout_ms, int64_t *ret_us, struct banger_error *err)
{
	return banger_error_set(err, BANGER_TIMEOUT, "the VM's agent does not answer");
}
