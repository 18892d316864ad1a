/* SPDX-License-Identifier: Apache-2.0 */
/* QMP: lines, messages, and a client against a peer that answers well, late, wrongly, or not at all. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <poll.h>
#include <pthread.h>
#include <stdatomic.h>
#include <sys/socket.h>
#include "vm/qmp.h"

static void lines(void **state)
{
	struct qmp_lines *l = calloc(1, sizeof(*l));
	char *line;
	size_t n;

	memcpy(qmp_lines_space(l, &n), "{\"a\":1}\r\n{\"b\"", 13);
	assert_int_equal(n, QMP_LINE_MAX);
	qmp_lines_added(l, 13);
	assert_int_equal(qmp_lines_next(l, &line, &n), 1);
	assert_string_equal(line, "{\"a\":1}");
	assert_int_equal(qmp_lines_next(l, &line, &n), 0);
	memcpy(qmp_lines_space(l, &n), ":2}\n\n", 5);
	qmp_lines_added(l, 5);
	assert_int_equal(qmp_lines_next(l, &line, &n), 1);
	assert_string_equal(line, "{\"b\":2}");
	assert_int_equal(qmp_lines_next(l, &line, &n), 1);
	assert_int_equal(n, 0);
	assert_int_equal(qmp_lines_next(l, &line, &n), 0);
	memset(qmp_lines_space(l, &n), 'x', QMP_LINE_MAX);
	qmp_lines_added(l, n);
	assert_int_equal(qmp_lines_next(l, &line, &n), -EMSGSIZE);
	free(l);
}

static void messages(void **state)
{
	static const struct {
		const char *line;
		int kind;
		int64_t id;
		const char *text;
	} good[] = {
		{"{\"QMP\":{\"version\":{},\"capabilities\":[]}}", QMP_GREETING, -1, NULL},
		{"{\"return\":{},\"id\":7}", QMP_RETURN, 7, NULL},
		{"{\"return\":null}", QMP_RETURN, -1, NULL},
		{"{\"error\":{\"class\":\"GenericError\",\"desc\":\"no\"},\"id\":8}", QMP_ERROR, 8,
			"no"},
		{"{\"error\":5}", QMP_ERROR, -1, "no reason given"},
		{"{\"event\":\"STOP\",\"timestamp\":{}}", QMP_EVENT, -1, "STOP"},
	};
	static const char *const bad[] = {"", "{", "[]", "{}", "{\"QMP\":1}", "{\"event\":7}",
		"{\"id\":1}", "\"return\"", "{\"return\":{}} x"};
	struct qmp_message m;

	for (size_t i = 0; i < ELEMENTSOF(good); i++) {
		assert_int_equal(qmp_parse(good[i].line, strlen(good[i].line), &m, NULL), 0);
		assert_int_equal(m.kind, good[i].kind);
		assert_int_equal(m.id, good[i].id);
		if (good[i].text)
			assert_string_equal(m.text, good[i].text);
		qmp_message_done(&m);
	}
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		struct banger_error err = {0};
		assert_true(qmp_parse(bad[i], strlen(bad[i]), &m, &err) < 0);
		assert_true(err.message[0]);
	}
}

struct fixture {
	struct qmp *qmp;
	int peer;
	pthread_t reader, qemu;
	atomic_bool stop;
	atomic_int events;
	int mode;
};
enum { ANSWERS, REFUSES, SILENT, HANGS_UP, LIES };

static void on_event(void *arg, const char *name, struct json_object *data)
{
	struct fixture *f = arg;

	assert_string_equal(name, "STOP");
	f->events++;
}

static void *read_all(void *arg)
{
	struct fixture *f = arg;
	struct pollfd p = {qmp_fd(f->qmp), POLLIN, 0};

	while (!f->stop)
		if (poll(&p, 1, 20) > 0 && qmp_read(f->qmp) < 0)
			break;
	return NULL;
}

static void say(int fd, const char *text)
{
	(void)!send(fd, text, strlen(text), MSG_NOSIGNAL);
}

static void *be_qemu(void *arg)
{
	struct fixture *f = arg;
	FILE *in = fdopen(dup(f->peer), "r");
	char line[1024], text[256];
	long id;

	say(f->peer, "{\"QMP\":{\"version\":{}}}\r\n");
	while (fgets(line, sizeof(line), in)) {
		char *at = strstr(line, "\"id\":");

		if (!at) {
			say(f->peer, "{\"return\":{}}\r\n{\"event\":\"STOP\"}\r\n");
			continue;
		}
		id = strtol(at + 5, NULL, 10);
		if (f->mode == ANSWERS)
			snprintf(text, sizeof(text),
				"{\"return\":{},\"id\":%ld}\n{\"return\":{\"n\":1},\"id\":%ld}\n",
				id + 90, id);
		else if (f->mode == REFUSES)
			snprintf(text, sizeof(text),
				"{\"error\":{\"desc\":\"not now\"},\"id\":%ld}\n", id);
		else if (f->mode == LIES)
			snprintf(text, sizeof(text), "this is not JSON\n");
		else
			text[0] = '\0';
		if (f->mode == HANGS_UP)
			shutdown(f->peer, SHUT_RDWR);
		say(f->peer, text);
	}
	fclose(in);
	return NULL;
}

static void begin(struct fixture *f, int mode)
{
	int s[2];

	*f = (struct fixture){.mode = mode};
	assert_int_equal(socketpair(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0, s), 0);
	f->peer = s[1];
	assert_int_equal(qmp_new(s[0], on_event, f, &f->qmp), 0);
	pthread_create(&f->qemu, NULL, be_qemu, f);
	pthread_create(&f->reader, NULL, read_all, f);
}

static void end(struct fixture *f)
{
	f->stop = true;
	pthread_join(f->reader, NULL);
	shutdown(f->peer, SHUT_RDWR);
	qmp_freep(&f->qmp);
	pthread_join(f->qemu, NULL);
	close(f->peer);
}

static void answers(void **state)
{
	_cleanup_json_ struct json_object *o = NULL;
	struct fixture f;

	begin(&f, ANSWERS);
	assert_int_equal(qmp_command(f.qmp, "query-status", NULL, 5000, &o, NULL), 0);
	assert_int_equal(banger_json_int(o, "n", 0), 1);
	assert_int_equal(qmp_command(f.qmp, "stop", "{\"a\":1}", 5000, NULL, NULL), 0);
	assert_int_equal(f.events, 1);
	end(&f);
}

static void *ask(void *arg)
{
	struct fixture *f = arg;

	for (int i = 0; i < 50; i++)
		assert_int_equal(qmp_command(f->qmp, "x", NULL, 5000, NULL, NULL), 0);
	return NULL;
}

static void many_at_once(void **state)
{
	pthread_t threads[4];
	struct fixture f;

	begin(&f, ANSWERS);
	for (size_t i = 0; i < ELEMENTSOF(threads); i++)
		pthread_create(&threads[i], NULL, ask, &f);
	for (size_t i = 0; i < ELEMENTSOF(threads); i++)
		pthread_join(threads[i], NULL);
	end(&f);
}

static void trouble(void **state)
{
	static const struct {
		int mode, expected;
		const char *words;
	} all[] = {{REFUSES, -EIO, "not now"}, {SILENT, -ETIMEDOUT, "does not answer"},
		{HANGS_UP, -EHOSTDOWN, "ended"}, {LIES, -EHOSTDOWN, "ended"}};

	for (size_t i = 0; i < ELEMENTSOF(all); i++) {
		struct banger_error err = {0};
		struct fixture f;

		begin(&f, all[i].mode);
		assert_int_equal(
			qmp_command(f.qmp, "stop", NULL, 200, NULL, &err), all[i].expected);
		assert_non_null(strstr(err.message, all[i].words));
		end(&f);
	}
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(lines), cmocka_unit_test(messages),
		cmocka_unit_test(answers), cmocka_unit_test(many_at_once),
		cmocka_unit_test(trouble)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
