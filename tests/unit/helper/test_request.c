/* SPDX-License-Identifier: Apache-2.0 */
/* Requests, with acts that only note what they were asked: who may, what may, and that nothing else comes through. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <cmocka.h>
#include <fcntl.h>
#include <string.h>
#include "request.h"

static char did[256];
static int made_fd;

static int note(const char *fmt, ...) _printf_(1, 2);
static int note(const char *fmt, ...)
{
	va_list ap;

	va_start(ap, fmt);
	vsnprintf(did, sizeof(did), fmt, ap);
	va_end(ap);
	return 0;
}

static int bridge_ensure(void *arg, const char *name, const struct helper_subnet *s, bool *created,
	struct banger_error *err)
{
	char text[HELPER_SUBNET_MAX + 1];

	*created = true;
	return note("ensure %s %s", name, helper_subnet_text(s, text));
}
static int bridge_remove(void *arg, const char *name, struct banger_error *err)
{
	return note("remove %s", name);
}
static int tap_create(void *arg, struct helper_tap *t, int *ret_fd, struct banger_error *err)
{
	t->address = 0x0a8d0305;
	t->subnet = *(struct helper_subnet *)arg;
	made_fd = *ret_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return note("tap %s %s %s %u", t->name, t->bridge, t->vm, (unsigned)t->owner);
}
static int tap_remove(void *arg, const char *name, struct banger_error *err)
{
	return note("untap %s", name);
}
static int publish(void *arg, const struct helper_publish *p, struct banger_error *err)
{
	return note("publish %d %d %x %u %x %u", p->udp, p->any, p->host, p->host_port, p->address,
		p->guest_port);
}
static int unpublish(void *arg, const struct helper_publish *p, struct banger_error *err)
{
	return note("unpublish %d %d %x %u", p->udp, p->any, p->host, p->host_port);
}
static int cleanup(void *arg, struct helper_swept *ret, struct banger_error *err)
{
	ret->taps = 2;
	return banger_error_set(err, BANGER_BUSY, "not now");
}

static struct helper_service service = {
	.acts = {bridge_ensure, bridge_remove, tap_create, tap_remove, publish, unpublish, cleanup,
		&service.range},
	.range = {0x0a8d0000, 16},
	.uid = 1000,
};
static const struct helper_peer ours = {1000, 7}, root = {0, 8}, other = {1001, 9};

static struct json_object *ask_raw(const struct helper_peer *peer, const char *line, size_t nfds)
{
	int fd = -1;

	did[0] = '\0';
	struct json_object *o = helper_dispatch(&service, peer, line, strlen(line), nfds, &fd);
	assert_non_null(o);
	if (fd >= 0)
		close(fd);
	return o;
}

/* The code of the refusal, "" when it was carried out. */
static const char *ask(const char *method, const char *params)
{
	static char code[32];
	char line[1024];

	snprintf(line, sizeof(line), "{\"version\":1,\"method\":\"%s\",\"params\":%s}", method,
		params);
	_cleanup_json_ struct json_object *o = ask_raw(&ours, line, 0);
	struct json_object *e = banger_json_get(o, "error");
	snprintf(code, sizeof(code), "%s", e ? banger_json_str(e, "code") : "");
	assert_true(!e || banger_op_id_valid(banger_json_str(e, "op_id")));
	assert_true(e || banger_op_id_valid(banger_json_str(o, "op_id")));
	return code;
}

static void refused(const char *method, const char *params, const char *code)
{
	assert_string_equal(ask(method, params), code);
	assert_string_equal(did, "");
}

static void done(const char *method, const char *params, const char *what)
{
	assert_string_equal(ask(method, params), "");
	assert_string_equal(did, what);
}

static void bridges(void **state)
{
	done("net.bridge.ensure", "{\"name\":\"bngr0\"}", "ensure bngr0 10.141.0.0/16");
	done("net.bridge.ensure", "{\"name\":\"bngr0\",\"subnet\":\"10.141.7.0/24\"}",
		"ensure bngr0 10.141.7.0/24");
	done("net.bridge.remove", "{\"name\":\"bngr0\"}", "remove bngr0");
	refused("net.bridge.ensure", "{}", "bad_request");
	refused("net.bridge.ensure", "{\"name\":7}", "bad_request");
	refused("net.bridge.ensure", "{\"name\":\"eth0\"}", "denied");
	refused("net.bridge.ensure", "{\"name\":\"bngr0\\u0000x\"}", "bad_request");
	refused("net.bridge.ensure", "{\"name\":\"bngr0\",\"subnet\":\"10.142.0.0/24\"}", "denied");
	refused("net.bridge.ensure", "{\"name\":\"bngr0\",\"subnet\":\"10.0.0.0/8\"}", "denied");
	refused("net.bridge.ensure", "{\"name\":\"bngr0\",\"subnet\":\"0.0.0.0/0\"}",
		"bad_request");
	refused("net.bridge.ensure", "{\"name\":\"bngr0\",\"subnet\":1}", "bad_request");
	refused("net.bridge.remove", "{\"name\":\"lo\"}", "denied");
}

static void taps(void **state)
{
	done("net.tap.create", "{\"bridge\":\"bngr0\",\"vm\":\"0123456789abcdef\"}",
		"tap bngrt0123456789 bngr0 0123456789abcdef 1000");
	done("net.tap.remove", "{\"name\":\"bngrt0123456789\"}", "untap bngrt0123456789");
	refused("net.tap.create", "{\"bridge\":\"bngr0\"}", "bad_request");
	refused("net.tap.create", "{\"bridge\":\"docker0\",\"vm\":\"0123456789abcdef\"}", "denied");
	refused("net.tap.create", "{\"bridge\":\"bngr0\",\"vm\":\"../../etc/passwd\"}", "denied");
	refused("net.tap.remove", "{\"name\":\"eth0\"}", "denied");
	refused("net.tap.remove", "{\"name\":\"bngr0\"}", "denied");
}

static void tap_reply(void **state)
{
	int fd = -1;
	static const char line[] = "{\"version\":1,\"method\":\"net.tap.create\",\"op_id\":\"op-"
				   "5b0c7e21d9aa\",\"params\":"
				   "{\"bridge\":\"bngr0\",\"vm\":\"0123456789abcdef\"}}";

	_cleanup_json_ struct json_object *o =
		helper_dispatch(&service, &root, line, strlen(line), 0, &fd);
	struct json_object *result = banger_json_get(o, "result");

	assert_true(fd >= 0 && fd == made_fd);
	close(fd);
	assert_string_equal(banger_json_str(o, "op_id"), "op-5b0c7e21d9aa");
	assert_string_equal(banger_json_str(result, "address"), "10.141.3.5");
	assert_string_equal(banger_json_str(result, "mac"), "02:ba:0a:8d:03:05");
	assert_string_equal(banger_json_str(result, "gateway"), "10.141.0.1");
	assert_string_equal(did, "tap bngrt0123456789 bngr0 0123456789abcdef 0");
}

static void ports(void **state)
{
#define VM "\"address\":\"10.141.3.5\",\"proto\":\"tcp\","
	done("net.publish", "{" VM "\"host_port\":8080,\"guest_port\":80}",
		"publish 0 1 0 8080 a8d0305 80");
	done("net.publish",
		"{" VM "\"host_address\":\"0.0.0.0\",\"host_port\":1024,\"guest_port\":1}",
		"publish 0 1 0 1024 a8d0305 1");
	done("net.publish",
		"{" VM "\"host_address\":\"127.0.0.1\",\"host_port\":65535,\"guest_port\":65535}",
		"publish 0 0 7f000001 65535 a8d0305 65535");
	done("net.unpublish", "{\"proto\":\"udp\",\"host_port\":5353}", "unpublish 1 1 0 5353");
	refused("net.publish", "{" VM "\"host_port\":22,\"guest_port\":22}", "denied");
	refused("net.publish", "{" VM "\"host_port\":65536,\"guest_port\":22}", "bad_request");
	refused("net.publish", "{" VM "\"host_port\":-1,\"guest_port\":22}", "bad_request");
	refused("net.publish", "{" VM "\"host_port\":\"8080\",\"guest_port\":22}", "bad_request");
	refused("net.publish", "{" VM "\"host_port\":8080}", "bad_request");
	refused("net.publish",
		"{" VM "\"host_address\":\"::1\",\"host_port\":8080,\"guest_port\":80}",
		"bad_request");
	refused("net.publish",
		"{" VM
		"\"host_address\":null,\"host_address\":5,\"host_port\":8080,\"guest_port\":80}",
		"bad_request");
	refused("net.publish",
		"{" VM "\"host_address\":\"224.0.0.1\",\"host_port\":8080,\"guest_port\":80}",
		"denied");
	refused("net.publish",
		"{\"proto\":\"icmp\",\"address\":\"10.141.3.5\",\"host_port\":8080,\"guest_port\":"
		"80}",
		"bad_request");
	/* The gateway's, the network's, the broadcast address, and one outside. */
	static const char *const not_vms[] = {
		"10.141.0.1", "10.141.0.0", "10.141.255.255", "192.168.0.1"};
	for (size_t i = 0; i < ELEMENTSOF(not_vms); i++) {
		char params[160];
		snprintf(params, sizeof(params),
			"{\"proto\":\"tcp\",\"address\":\"%s\",\"host_port\":8080,\"guest_port\":"
			"80}",
			not_vms[i]);
		refused("net.publish", params, "denied");
	}
	refused("net.publish",
		"{\"proto\":\"tcp\",\"address\":\"x\",\"host_port\":8080,\"guest_port\":80}",
		"bad_request");
}

static const char *code_of(struct json_object *o)
{
	return banger_json_str(banger_json_get(o, "error"), "code") ?: "";
}

static void who(void **state)
{
	static const char line[] =
		"{\"version\":1,\"method\":\"helper.ping\",\"op_id\":\"op-5b0c7e21d9aa\"}";
	static const char act[] =
		"{\"version\":1,\"method\":\"net.bridge.remove\",\"params\":{\"name\":\"bngr0\"},"
		"\"actor\":{\"uid\":0,\"gid\":0}}";
	_cleanup_json_ struct json_object *a = ask_raw(&ours, line, 0),
					  *b = ask_raw(&root, line, 0),
					  *c = ask_raw(&other, line, 0),
					  *d = ask_raw(&other, act, 0),
					  *e = ask_raw(&other, "nonsense", 0);

	assert_string_equal(code_of(a), "");
	assert_string_equal(code_of(b), "");
	assert_int_equal(banger_json_int(banger_json_get(a, "result"), "uid", -1), 1000);
	assert_string_equal(code_of(c), "denied");
	assert_string_equal(
		banger_json_str(banger_json_get(c, "error"), "op_id"), "op-5b0c7e21d9aa");
	assert_string_equal(code_of(d), "denied");
	assert_string_equal(code_of(e), "denied");
	assert_string_equal(did, "");
}

static void malformed(void **state)
{
	static const char *const lines[][2] = {{"", "bad_request"}, {"{", "bad_request"},
		{"[]", "bad_request"},
		{"{\"version\":2,\"method\":\"helper.ping\"}", "bad_version"},
		{"{\"method\":\"helper.ping\"}", "bad_version"}, {"{\"version\":1}", "bad_request"},
		{"{\"version\":1,\"method\":\"net.exec\"}", "unknown_method"},
		{"{\"version\":1,\"method\":\"helper.ping\",\"params\":[]}", "bad_request"},
		{"{\"version\":1,\"method\":\"helper.ping \"}", "unknown_method"}};

	for (size_t i = 0; i < ELEMENTSOF(lines); i++) {
		_cleanup_json_ struct json_object *o = ask_raw(&ours, lines[i][0], 0);
		assert_string_equal(code_of(o), lines[i][1]);
		assert_true(
			banger_op_id_valid(banger_json_str(banger_json_get(o, "error"), "op_id")));
	}
	refused("net.cleanup", "{}", "busy");
	_cleanup_json_ struct json_object *fds = ask_raw(&ours,
		"{\"version\":1,\"method\":\"net.bridge.remove\",\"params\":{\"name\":\"bngr0\"}}",
		1);
	assert_string_equal(code_of(fds), "bad_request");
	assert_string_equal(did, "");
}

static void too_long(void **state)
{
	_cleanup_free_ char *line = malloc(HELPER_LINE_MAX + 2);

	memset(line, ' ', HELPER_LINE_MAX + 1);
	memcpy(line, "{\"version\":1,\"method\":\"helper.ping\"}", 36);
	line[HELPER_LINE_MAX + 1] = '\0';
	_cleanup_json_ struct json_object *o = ask_raw(&ours, line, 0);
	assert_string_equal(code_of(o), "too_large");
	line[HELPER_LINE_MAX] = '\0';
	_cleanup_json_ struct json_object *p = ask_raw(&ours, line, 0);
	assert_string_equal(code_of(p), "");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(bridges),
		cmocka_unit_test(taps),
		cmocka_unit_test(tap_reply),
		cmocka_unit_test(ports),
		cmocka_unit_test(who),
		cmocka_unit_test(malformed),
		cmocka_unit_test(too_long),
	};

	return cmocka_run_group_tests_name("helper/request", tests, NULL, NULL);
}
