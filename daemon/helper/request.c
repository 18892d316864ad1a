/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a line to an act. A method is a row of a table: its name and the function that takes its parameters out of
 * the request, asks the allow-lists (words.h) and calls the act. No act gets a word that was not checked here, and
 * none gets a path or a program.
 *
 * The op_id of the request is adopted, or one minted, before anything else is looked at, so each line of the log and
 * each refusal has one. Who asks is what the kernel says of the socket, never what the request says.
 */
#include "request.h"

#include <banger/log.h>
#include <string.h>

struct call {
	const struct helper_service *service;
	const struct helper_peer *peer;
	struct json_object *params, *result; /* result: filled by the handler */
	int fd;                              /* to hand over */
};

static int no_name(struct banger_error *err, const char *what, const char *s, const char *pattern)
{
	return s ? banger_error_set(err, BANGER_DENIED, "\"%.40s\" is no %s of banger's: %s", s,
			   what, pattern)
		 : banger_error_set(err, BANGER_BAD_REQUEST, "no %s is named", what);
}

static int take_bridge(struct call *c, const char *key, const char **ret, struct banger_error *err)
{
	const char *s = banger_json_str(c->params, key);

	if (!helper_is_bridge(s))
		return no_name(err, "bridge", s, "bngr and 1 to 10 of a-z and 0-9");
	*ret = s;
	return 0;
}

static int take_subnet(struct call *c, struct helper_subnet *ret, struct banger_error *err)
{
	const char *s = banger_json_str(c->params, "subnet");
	const struct helper_subnet *range = &c->service->range;
	char text[HELPER_SUBNET_MAX + 1];

	*ret = *range;
	if (!s && !banger_json_get(c->params, "subnet"))
		return 0;
	if (!helper_parse_subnet(s, ret))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"subnet\" must be an IPv4 network such as 10.1.2.0/24");
	if (!helper_subnet_within(ret, range))
		return banger_error_set(err, BANGER_DENIED,
			"the subnet %s is not within %s, which the helper's bridge_subnet allows",
			s, helper_subnet_text(range, text));
	return 0;
}

static int take_port(
	struct call *c, const char *key, int min, uint16_t *ret, struct banger_error *err)
{
	int64_t v = banger_json_int(c->params, key, -1);

	if (v < 1 || v > 65535)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"%s\" must be a port from 1 to 65535", key);
	if (v < min)
		return banger_error_set(err, BANGER_DENIED,
			"port %lld of the host is not for VMs: only those from %d up are",
			(long long)v, min);
	*ret = (uint16_t)v;
	return 0;
}

/* proto, host_address, host_port: what a published port is known by. */
static int take_publish(struct call *c, struct helper_publish *p, struct banger_error *err)
{
	const char *proto = banger_json_str(c->params, "proto");
	const char *host = banger_json_str(c->params, "host_address");

	if (!proto || (strcmp(proto, "tcp") != 0 && strcmp(proto, "udp") != 0))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"proto\" must be \"tcp\" or \"udp\"");
	p->udp = proto[0] == 'u';
	p->any = !banger_json_get(c->params, "host_address");
	if (!p->any && !helper_parse_address(host, &p->host))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"host_address\" must be an IPv4 address");
	p->any = p->any || p->host == 0;
	if (!p->any && (p->host >> 24 == 0 || p->host >> 28 >= 14))
		return banger_error_set(
			err, BANGER_DENIED, "%s can be no address of the host", host);
	return take_port(c, "host_port", 1024, &p->host_port, err);
}

/* ---- methods */

static int add_subnet(struct call *c, const struct helper_subnet *s)
{
	char subnet[HELPER_SUBNET_MAX + 1], gateway[HELPER_ADDRESS_MAX + 1];

	return banger_json_add_str(c->result, "subnet", helper_subnet_text(s, subnet)) < 0 ||
			       banger_json_add_str(c->result, "gateway",
				       helper_address_text(helper_gateway(s), gateway)) < 0
		       ? -ENOMEM
		       : 0;
}

static int ping(struct call *c, struct banger_error *err)
{
	char range[HELPER_SUBNET_MAX + 1];

	return banger_json_add_str(c->result, "program", "banger-helper") < 0 ||
			       banger_json_add_str(c->result, "version", BANGER_VERSION) < 0 ||
			       banger_json_add_int(c->result, "uid", c->service->uid) < 0 ||
			       banger_json_add_str(c->result, "bridge_subnet",
				       helper_subnet_text(&c->service->range, range)) < 0
		       ? banger_error_oom(err)
		       : 0;
}

static int bridge_ensure(struct call *c, struct banger_error *err)
{
	const struct helper_acts *acts = &c->service->acts;
	struct helper_subnet subnet;
	bool created = false;
	const char *name = NULL;

	int r = take_bridge(c, "name", &name, err);
	if (r == 0)
		r = take_subnet(c, &subnet, err);
	if (r == 0)
		r = acts->bridge_ensure(acts->arg, name, &subnet, &created, err);
	if (r < 0)
		return r;
	return banger_json_add_str(c->result, "name", name) < 0 || add_subnet(c, &subnet) < 0 ||
			       banger_json_add_bool(c->result, "created", created) < 0
		       ? banger_error_oom(err)
		       : 0;
}

static int bridge_remove(struct call *c, struct banger_error *err)
{
	const struct helper_acts *acts = &c->service->acts;
	const char *name = NULL;

	int r = take_bridge(c, "name", &name, err);
	return r < 0 ? r : acts->bridge_remove(acts->arg, name, err);
}

static int add_tap(struct call *c, const struct helper_tap *tap)
{
	char address[HELPER_ADDRESS_MAX + 1], mac[18];
	unsigned char m[6];

	helper_mac_of(tap->address, m);
	snprintf(mac, sizeof(mac), "%02x:%02x:%02x:%02x:%02x:%02x", m[0], m[1], m[2], m[3], m[4],
		m[5]);
	return banger_json_add_str(c->result, "name", tap->name) < 0 ||
			       banger_json_add_str(c->result, "address",
				       helper_address_text(tap->address, address)) < 0 ||
			       banger_json_add_str(c->result, "mac", mac) < 0
		       ? -ENOMEM
		       : add_subnet(c, &tap->subnet);
}

static int tap_create(struct call *c, struct banger_error *err)
{
	const struct helper_acts *acts = &c->service->acts;
	const char *bridge = NULL, *vm = banger_json_str(c->params, "vm");
	struct helper_tap tap = {.owner = c->peer->uid};

	int r = take_bridge(c, "bridge", &bridge, err);
	if (r < 0)
		return r;
	if (!helper_is_vm(vm))
		return no_name(err, "VM", vm, "an id is 16 hex digits");
	strcpy(tap.bridge, bridge);
	strcpy(tap.vm, vm);
	helper_tap_of(vm, tap.name);
	r = acts->tap_create(acts->arg, &tap, &c->fd, err);
	if (r == 0 && add_tap(c, &tap) < 0)
		r = banger_error_oom(err);
	return r;
}

static int tap_remove(struct call *c, struct banger_error *err)
{
	const struct helper_acts *acts = &c->service->acts;
	const char *name = banger_json_str(c->params, "name");

	if (!helper_is_tap(name))
		return no_name(err, "TAP", name, "bngrt and 10 hex digits");
	return acts->tap_remove(acts->arg, name, err);
}

static int publish(struct call *c, struct banger_error *err)
{
	const struct helper_acts *acts = &c->service->acts;
	const char *address = banger_json_str(c->params, "address");
	struct helper_publish p = {0};

	int r = take_publish(c, &p, err);
	if (r == 0)
		r = take_port(c, "guest_port", 1, &p.guest_port, err);
	if (r < 0)
		return r;
	if (!helper_parse_address(address, &p.address))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"address\" must be a VM's IPv4 address");
	if (!helper_is_host(&c->service->range, p.address))
		return banger_error_set(err, BANGER_DENIED, "%s is no address of a VM", address);
	return acts->publish(acts->arg, &p, err);
}

static int unpublish(struct call *c, struct banger_error *err)
{
	const struct helper_acts *acts = &c->service->acts;
	struct helper_publish p = {0};

	int r = take_publish(c, &p, err);
	return r < 0 ? r : acts->unpublish(acts->arg, &p, err);
}

static int cleanup(struct call *c, struct banger_error *err)
{
	const struct helper_acts *acts = &c->service->acts;
	struct helper_swept swept = {0};

	int r = acts->cleanup(acts->arg, &swept, err);
	if (r < 0)
		return r;
	return banger_json_add_int(c->result, "taps", swept.taps) < 0 ||
			       banger_json_add_int(c->result, "published", swept.published) < 0 ||
			       banger_json_add_int(c->result, "bridges", swept.bridges) < 0
		       ? banger_error_oom(err)
		       : 0;
}

static const struct {
	const char *name;
	int (*handle)(struct call *c, struct banger_error *err);
} methods[] = {
	{"helper.ping", ping},
	{"net.bridge.ensure", bridge_ensure},
	{"net.bridge.remove", bridge_remove},
	{"net.tap.create", tap_create},
	{"net.tap.remove", tap_remove},
	{"net.publish", publish},
	{"net.unpublish", unpublish},
	{"net.cleanup", cleanup},
};

/* ---- */

bool helper_trusts(const struct helper_service *s, const struct helper_peer *peer)
{
	return peer->uid == 0 || peer->uid == s->uid;
}

static int run(struct call *c, const char *method, struct banger_error *err)
{
	for (size_t i = 0; i < ELEMENTSOF(methods); i++)
		if (strcmp(methods[i].name, method) == 0)
			return methods[i].handle(c, err);
	return banger_error_set(err, BANGER_UNKNOWN_METHOD, "unknown method \"%s\"", method);
}

static void log_call(const struct helper_peer *peer, const char *method, int64_t start,
	const struct banger_error *failed)
{
	double ms = (double)(banger_monotonic_us() - start) / 1000;

	if (failed)
		log_warn("helper rpc failed", KV_S("method", method), KV_I("uid", peer->uid),
			KV_I("pid", peer->pid), KV_D("elapsed_ms", ms), KV_ERR(failed));
	else
		log_info("helper rpc completed", KV_S("method", method), KV_I("uid", peer->uid),
			KV_I("pid", peer->pid), KV_D("elapsed_ms", ms));
}

static int check(const struct helper_service *s, const struct helper_peer *peer, size_t len,
	size_t nfds, struct banger_error *err)
{
	if (!helper_trusts(s, peer))
		return banger_error_set(err, BANGER_DENIED, "banger-helper does nothing for uid %u",
			(unsigned)peer->uid);
	if (len > HELPER_LINE_MAX)
		return banger_error_set(
			err, BANGER_TOO_LARGE, "malformed request: the line is over 64 KiB");
	if (nfds > 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%zu descriptors came with the request, and none is wanted", nfds);
	return 0;
}

struct json_object *helper_dispatch(const struct helper_service *s, const struct helper_peer *peer,
	const char *line, size_t len, size_t nfds, int *ret_fd)
{
	struct call c = {.service = s, .peer = peer, .fd = -1};
	_cleanup_json_ struct json_object *result = json_object_new_object(), *reply = NULL;
	struct banger_error err = {0}, parse_err = {0};
	struct banger_request q = {0};
	int64_t start = banger_monotonic_us();
	int parsed = -EINVAL;

	/* What is too long is not looked into, not even for its op_id. */
	if (len <= HELPER_LINE_MAX)
		parsed = banger_request_parse(line, len, &q, &parse_err);
	banger_op_id id = q.op_id.s[0] ? q.op_id : banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(id.s);

	int r = check(s, peer, len, nfds, &err);
	if (r == 0 && parsed < 0)
		r = banger_error_set(&err, parse_err.code, "%s", parse_err.message);
	if (r == 0 && !result)
		r = banger_error_oom(&err);
	c.params = q.params;
	c.result = result;
	if (r == 0)
		r = run(&c, q.method, &err);
	reply = r < 0 ? banger_reply_error(&err) : banger_reply_ok(TAKE_PTR(result), id.s);
	if (r == 0 && !reply)
		r = banger_error_oom(&err);
	log_call(peer, q.method, start, r < 0 ? &err : NULL);
	if (r < 0)
		banger_closep(&c.fd);
	*ret_fd = r < 0 ? -1 : c.fd;
	banger_request_done(&q);
	return TAKE_PTR(reply);
}

struct json_object *helper_refuse(
	const struct helper_peer *peer, enum banger_code code, const char *message)
{
	banger_op_id id = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(id.s);
	struct banger_error err = {0};

	banger_error_set(&err, code, "%s", message);
	log_call(peer, "", banger_monotonic_us(), &err);
	return banger_reply_error(&err);
}
