/* SPDX-License-Identifier: Apache-2.0 */
/* The helper's client, against a helper that says what the test wants: what goes into QEMU's and the kernel's command
 * line is only what can be such a thing, and a failure leaves no descriptor. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <pthread.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/un.h>
#include <banger/wire.h>
#include "vm/net.h"

#define ENSURED "{\"ok\":true,\"result\":{\"name\":\"bngr0\"}}"
#define TAP(address, mac)                                                                          \
	"{\"ok\":true,\"result\":{\"name\":\"bngrt0123456789\",\"address\":\"" address             \
	"\",\"mac\":\"" mac "\",\"subnet\":\"10.141.0.0/16\",\"gateway\":\"10.141.0.1\"}}"
#define GOOD TAP("10.141.3.5", "02:ba:0a:8d:03:05")
#define DONE "{\"ok\":true,\"result\":{}}"
#define BUSY                                                                                       \
	"{\"ok\":false,\"error\":{\"code\":\"busy\",\"message\":\"port 8080 is in "                \
	"use\",\"op_id\":\"op-5b0c7e21d9aa\"}}"
#define ID "0123456789abcdef"

static char path[64];
static struct banger_config config = {.helper_socket = path};

struct fake {
	int listen_fd;
	bool keep_fd;           /* of net.tap.create */
	const char *replies[4]; /* one after the other, then the end */
	char asked[4][512];
};

static void *serve(void *arg)
{
	struct fake *f = arg;
	_cleanup_(banger_wire_reader_freep) struct banger_wire_reader *reader = NULL;
	_cleanup_close_ int fd = accept4(f->listen_fd, NULL, NULL, SOCK_CLOEXEC);
	int fds[BANGER_WIRE_FDS_MAX];
	size_t len, nfds;
	char *line;

	if (fd < 0 || banger_wire_reader_new(fd, &reader) < 0)
		return NULL;
	for (int i = 0; i < 4 && f->replies[i]; i++) {
		_cleanup_close_ int null = open("/dev/null", O_RDWR | O_CLOEXEC);
		if (banger_wire_read(reader, &line, &len, fds, &nfds) <= 0)
			return NULL;
		snprintf(f->asked[i], sizeof(f->asked[i]), "%s", line);
		bool tap = !f->keep_fd && strstr(line, "net.tap.create");
		banger_wire_send_text(fd, f->replies[i], strlen(f->replies[i]), &null, tap);
	}
	return NULL;
}

static int bridge_with(struct fake *f, const struct vmm_publish *p, size_t n, struct vm_net *net,
	struct banger_error *e)
{
	struct sockaddr_un sun = {.sun_family = AF_UNIX};
	pthread_t thread;

	strcpy(sun.sun_path, path);
	f->listen_fd = socket(AF_UNIX, SOCK_STREAM | SOCK_CLOEXEC, 0);
	assert_int_equal(bind(f->listen_fd, (struct sockaddr *)&sun, sizeof(sun)), 0);
	assert_int_equal(listen(f->listen_fd, 1), 0);
	assert_int_equal(pthread_create(&thread, NULL, serve, f), 0);
	int r = vm_net_bridge(&config, ID, p, n, net, e);
	pthread_join(thread, NULL);
	close(f->listen_fd);
	unlink(path);
	return r;
}

static int free_fd(void)
{
	int fd = open("/dev/null", O_RDONLY | O_CLOEXEC);

	close(fd);
	return fd;
}

static void a_place(void **state)
{
	const struct vmm_publish p = {.address = "127.0.0.1", .host = 8080, .guest = 80};
	struct fake f = {.replies = {ENSURED, GOOD, DONE}};
	_cleanup_vm_net_ struct vm_net net = VM_NET_NONE;
	struct banger_error e = {0};
	_cleanup_op_ banger_op_id saved = banger_op_enter("op-5b0c7e21d9aa");

	assert_int_equal(bridge_with(&f, &p, 1, &net, &e), 0);
	assert_string_equal(net.tap, "bngrt0123456789");
	assert_string_equal(net.mac, "02:ba:0a:8d:03:05");
	assert_int_equal(strncmp(net.ip, "10.141.3.5/16,10.141.0.1", 24), 0);
	assert_null(strchr(net.ip, ' '));
	assert_true(net.tap_fd >= 0);
	static const char *const words[] = {"net.bridge.ensure", "net.tap.create", "net.publish"};
	for (size_t i = 0; i < 3; i++)
		assert_true(strstr(f.asked[i], words[i]) &&
			    strstr(f.asked[i], "\"op_id\":\"op-5b0c7e21d9aa\""));
	assert_non_null(strstr(f.asked[1], "\"vm\":\"" ID "\""));
	assert_non_null(
		strstr(f.asked[2], "{\"address\":\"10.141.3.5\",\"proto\":\"tcp\",\"host_port\":"
				   "8080,\"guest_port\":80,\"host_address\":\"127.0.0.1\"}"));
}

static void refusals(void **state)
{
	static const struct {
		const char *replies[4];
		bool keep_fd;
		enum banger_code code;
		const char *word;
	} cases[] = {
		{{BUSY}, false, BANGER_BUSY, "8080"},
		{{ENSURED, GOOD, BUSY}, false, BANGER_BUSY, "banger-helper: port 8080"},
		{{ENSURED, GOOD}, true, BANGER_INTERNAL, "descriptor"},
		{{ENSURED, GOOD}, false, BANGER_UNAVAILABLE, "went away"},
		{{NULL}, false, BANGER_UNAVAILABLE, "went away"},
		{{ENSURED, DONE}, false, BANGER_INTERNAL, "cannot be"},
		{{ENSURED, TAP("10.141.3.5 init=/bin/sh", "02:ba:0a:8d:03:05")}, false,
			BANGER_INTERNAL, "cannot be"},
		{{ENSURED, TAP("10.141.3.5", "02:ba:0a:8d:03:05,x=y")}, false, BANGER_INTERNAL,
			"cannot be"},
	};
	const struct vmm_publish p = {.address = "127.0.0.1", .host = 8080, .guest = 80};
	int before = free_fd();

	for (size_t i = 0; i < ELEMENTSOF(cases); i++) {
		struct fake f = {.keep_fd = cases[i].keep_fd};
		struct vm_net net = VM_NET_NONE;
		struct banger_error e = {0};

		memcpy(f.replies, cases[i].replies, sizeof(f.replies));
		assert_true(bridge_with(&f, &p, 1, &net, &e) < 0);
		assert_int_equal(e.code, cases[i].code);
		assert_non_null(strstr(e.message, cases[i].word));
		assert_int_equal(net.tap_fd, -1);
		assert_int_equal(free_fd(), before);
	}
}

static void nobody(void **state)
{
	struct vm_net net = VM_NET_NONE;
	struct banger_error e = {0};
	char detail[256], advice[256];

	assert_int_equal(vm_net_bridge(&config, ID, NULL, 0, &net, &e), -EHOSTDOWN);
	assert_int_equal(e.code, BANGER_UNAVAILABLE);
	assert_true(strstr(e.message, path) && strstr(e.message, "banger-helper --uid"));
	assert_int_equal(vm_net_cleanup(&config, &e), 0);
	assert_false(vm_net_doctor(&config, detail, sizeof(detail), advice, sizeof(advice)));
	assert_true(strstr(detail, "bridge") && strstr(advice, "banger-helper --uid"));
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(a_place),
		cmocka_unit_test(refusals),
		cmocka_unit_test(nobody),
	};

	snprintf(path, sizeof(path), "/tmp/banger-test-net-%d.sock", (int)getpid());
	return cmocka_run_group_tests_name("vm/net", tests, NULL, NULL);
}
