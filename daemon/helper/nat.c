/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The table, by libnftables. Its language is only ever written from names and numbers that were checked, and each
 * change is one transaction of the kernel's: the whole of it or nothing.
 *
 * Ports are published by elements of maps, not by rules of their own: an element is found again by its key, however
 * often the helper was started meanwhile, and the kernel refuses a second one with the same key. What is in the
 * maps is asked of the kernel; nothing is remembered here.
 *
 *	guard      what comes from a bridge must have an address of a VM, and never gets at 127.0.0.0/8, although the
 *	           bridge routes that (so that ports can be published there)
 *	inward     connections from outside, and
 *	here       those of the host itself, to a published port: to the VM
 *	outward    from a VM to anywhere but the bridge: with the host's address. Connections whose answers could not come
 *	           back otherwise, too: to a port published at 127.0.0.0/8, and from one VM to the published port of another
 *	forward    to a VM goes what is published or an answer. An interface that did not forward before banger asked it
 *	           to ("uplinks") goes on as it did for everything else
 */
#include "nat.h"

#include <nftables/libnftables.h>
#include <stdarg.h>
#include <string.h>

struct nat {
	struct nft_ctx *nft;
};

int nat_open(struct nat **ret, struct banger_error *err)
{
	struct nat *n = calloc(1, sizeof(*n));

	if (!n)
		return banger_error_oom(err);
	n->nft = nft_ctx_new(NFT_CTX_DEFAULT);
	if (!n->nft || nft_ctx_buffer_output(n->nft) != 0 || nft_ctx_buffer_error(n->nft) != 0) {
		if (n->nft)
			nft_ctx_free(n->nft);
		free(n);
		return banger_error_set(err, BANGER_INTERNAL, "cannot use nftables");
	}
	nft_ctx_output_set_flags(n->nft, NFT_CTX_OUTPUT_JSON | NFT_CTX_OUTPUT_NUMERIC_ALL);
	*ret = n;
	return 0;
}

/* The kernel's reasons come as text. */
static int run(struct nat *n, struct banger_error *err, const char *what, const char *fmt, ...)
	_printf_(4, 5);
static int run(struct nat *n, struct banger_error *err, const char *what, const char *fmt, ...)
{
	_cleanup_free_ char *commands = NULL;
	va_list ap;

	va_start(ap, fmt);
	int len = vasprintf(&commands, fmt, ap);
	va_end(ap);
	if (len < 0) {
		commands = NULL;
		return banger_error_oom(err);
	}
	if (nft_run_cmd_from_buffer(n->nft, commands) == 0)
		return 0;
	const char *why = nft_ctx_get_error_buffer(n->nft) ?: "";
	enum banger_code code = strstr(why, "File exists")     ? BANGER_EXISTS
				: strstr(why, "No such file")  ? BANGER_NOT_FOUND
				: strstr(why, "not permitted") ? BANGER_NOT_PERMITTED
				: strstr(why, "Not supported") ? BANGER_UNSUPPORTED
				: strstr(why, "not supported") ? BANGER_UNSUPPORTED
							       : BANGER_INTERNAL;
	return banger_error_set(err, code, "%s: %.*s", what, (int)strcspn(why, "\n"), why);
}

#define PROTO_MAPS(proto)                                                                          \
	"add map ip banger " proto "_at "                                                          \
	"{ type ipv4_addr . inet_service : ipv4_addr . inet_service; }\n"                          \
	"add map ip banger " proto "_any { type inet_service : ipv4_addr . inet_service; }\n"
#define PROTO_RULES(chain, proto)                                                                  \
	"add rule ip banger " chain " dnat ip to ip daddr . " proto " dport map @" proto "_at\n"   \
	"add rule ip banger " chain " fib daddr type local dnat ip to " proto " dport map @" proto \
	"_any\n"

static const char table[] =
	"add table ip banger\n"
	"add set ip banger bridges { type ifname; }\n"
	"add set ip banger uplinks { type ifname; }\n" PROTO_MAPS("tcp") PROTO_MAPS(
		"udp") "add chain ip banger guard { type filter hook prerouting priority -300; "
		       "policy accept; }\n"
		       "add chain ip banger inward { type nat hook prerouting priority -100; "
		       "policy accept; }\n"
		       "add chain ip banger here { type nat hook output priority -100; policy "
		       "accept; }\n"
		       "add chain ip banger outward { type nat hook postrouting priority 100; "
		       "policy accept; }\n"
		       "add chain ip banger forward { type filter hook forward priority 0; policy "
		       "accept; }\n"
		       "flush chain ip banger guard\n"
		       "flush chain ip banger inward\n"
		       "flush chain ip banger here\n"
		       "flush chain ip banger outward\n"
		       "flush chain ip banger forward\n"
		       "add rule ip banger guard iifname @bridges ip daddr 127.0.0.0/8 drop\n"
		       "add rule ip banger guard iifname @bridges ip saddr != %1$s drop\n"
		       "add rule ip banger inward iifname != \"lo\" ip daddr 127.0.0.0/8 "
		       "return\n" PROTO_RULES("inward", "tcp") PROTO_RULES("inward", "udp")
			       PROTO_RULES("here", "tcp") PROTO_RULES("here",
				       "udp") "add rule ip banger outward ip saddr 127.0.0.0/8 "
					      "oifname @bridges masquerade\n"
					      "add rule ip banger outward ip saddr %1$s oifname != "
					      "@bridges masquerade\n"
					      "add rule ip banger outward iifname @bridges oifname "
					      "@bridges ct status dnat masquerade\n"
					      "add rule ip banger forward iifname @bridges oifname "
					      "@bridges accept\n"
					      "add rule ip banger forward oifname @bridges ct "
					      "state established,related accept\n"
					      "add rule ip banger forward oifname @bridges ct "
					      "status dnat accept\n"
					      "add rule ip banger forward oifname @bridges drop\n"
					      "add rule ip banger forward iifname @bridges accept\n"
					      "add rule ip banger forward iifname @uplinks drop\n"
					      "add element ip banger bridges { \"%2$s\" }\n";

int nat_ensure(struct nat *n, const struct helper_subnet *range, const char *bridge,
	struct banger_error *err)
{
	char subnet[HELPER_SUBNET_MAX + 1];

	return run(n, err, "cannot set up NAT", table, helper_subnet_text(range, subnet), bridge);
}

int nat_forget_bridge(struct nat *n, const char *bridge, struct banger_error *err)
{
	struct banger_error e = {0};

	int r = run(n, &e, "cannot take the bridge out of the NAT",
		"delete element ip banger bridges { \"%s\" }\n", bridge);
	if (r < 0 && e.code != BANGER_NOT_FOUND && err)
		*err = e;
	return e.code == BANGER_NOT_FOUND ? 0 : r;
}

/* Names of other interfaces are not banger's own: anything but quotes could be in them. */
static bool quotable(const char *name)
{
	return name[0] && !strpbrk(name, "\"\\\n*") && strlen(name) <= HELPER_NAME_MAX;
}

int nat_add_uplink(struct nat *n, const char *name, struct banger_error *err)
{
	if (!quotable(name))
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the interface \"%s\" cannot be written into a rule", name);
	return run(n, err, "cannot guard an interface",
		"add element ip banger uplinks { \"%s\" }\n", name);
}

int nat_flush_uplinks(struct nat *n, struct banger_error *err)
{
	return run(n, err, "cannot change the guard", "flush set ip banger uplinks\n");
}

int nat_remove(struct nat *n, struct banger_error *err)
{
	return run(n, err, "cannot remove the NAT", "delete table ip banger\n");
}

/* ---- published ports */

static const char *key_of(const struct helper_publish *p, char buf[40])
{
	char a[HELPER_ADDRESS_MAX + 1];

	if (p->any)
		snprintf(buf, 40, "%u", p->host_port);
	else
		snprintf(buf, 40, "%s . %u", helper_address_text(p->host, a), p->host_port);
	return buf;
}

int nat_publish(struct nat *n, const struct helper_publish *p, struct banger_error *err)
{
	char key[40], to[HELPER_ADDRESS_MAX + 1];

	int r = run(n, err, "cannot publish the port",
		"create element ip banger %s_%s { %s : %s . %u }\n", p->udp ? "udp" : "tcp",
		p->any ? "any" : "at", key_of(p, key), helper_address_text(p->address, to),
		p->guest_port);
	return r == -EEXIST ? banger_error_set(err, BANGER_EXISTS,
				      "port %u is published by another VM", p->host_port)
			    : r;
}

int nat_unpublish(struct nat *n, const struct helper_publish *p, struct banger_error *err)
{
	char key[40];

	int r = run(n, err, "cannot unpublish the port", "delete element ip banger %s_%s { %s }\n",
		p->udp ? "udp" : "tcp", p->any ? "any" : "at", key_of(p, key));
	return r == -ENOENT ? banger_error_set(err, BANGER_NOT_FOUND, "port %u is not published",
				      p->host_port)
			    : r;
}

/* ---- reading */

void nat_state_done(struct nat_state *s)
{
	free(s->published);
	free(s->uplinks);
	*s = (struct nat_state){0};
}

/* {"concat":["10.0.0.1",80]} */
static bool read_pair(struct json_object *o, uint32_t *ret_address, uint16_t *ret_port)
{
	struct json_object *list = banger_json_get(o, "concat");

	if (!json_object_is_type(list, json_type_array) || json_object_array_length(list) != 2)
		return false;
	*ret_port = (uint16_t)json_object_get_int(json_object_array_get_idx(list, 1));
	return helper_parse_address(
		json_object_get_string(json_object_array_get_idx(list, 0)), ret_address);
}

static int read_map(struct json_object *map, const char *name, struct nat_state *s)
{
	struct json_object *elem = banger_json_get(map, "elem");
	size_t n = json_object_is_type(elem, json_type_array) ? json_object_array_length(elem) : 0;
	struct helper_publish *v = reallocarray(s->published, s->n_published + n + 1, sizeof(*v));

	if (!v)
		return -ENOMEM;
	s->published = v;
	for (size_t i = 0; i < n; i++) {
		struct json_object *e = json_object_array_get_idx(elem, i);
		struct helper_publish p = {
			.udp = name[0] == 'u', .any = strcmp(name + 3, "_any") == 0};

		if (!json_object_is_type(e, json_type_array) || json_object_array_length(e) != 2)
			continue;
		struct json_object *key = json_object_array_get_idx(e, 0);
		if (p.any)
			p.host_port = (uint16_t)json_object_get_int(key);
		if ((p.any || read_pair(key, &p.host, &p.host_port)) &&
			read_pair(json_object_array_get_idx(e, 1), &p.address, &p.guest_port))
			v[s->n_published++] = p;
	}
	return 0;
}

static int read_uplinks(struct json_object *set, struct nat_state *s)
{
	struct json_object *elem = banger_json_get(set, "elem");
	size_t n = json_object_is_type(elem, json_type_array) ? json_object_array_length(elem) : 0;

	free(s->uplinks);
	s->n_uplinks = 0;
	s->uplinks = calloc(n + 1, sizeof(*s->uplinks));
	if (!s->uplinks)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++)
		snprintf(s->uplinks[s->n_uplinks++], sizeof(*s->uplinks), "%s",
			json_object_get_string(json_object_array_get_idx(elem, i)) ?: "");
	return 0;
}

static int read_object(struct json_object *o, struct nat_state *s)
{
	struct json_object *map = banger_json_get(o, "map"), *set = banger_json_get(o, "set");
	const char *name = banger_json_str(map ?: set, "name");

	if (map && name && (strncmp(name, "tcp_", 4) == 0 || strncmp(name, "udp_", 4) == 0))
		return read_map(map, name, s);
	return set && name && strcmp(name, "uplinks") == 0 ? read_uplinks(set, s) : 0;
}

int nat_list(struct nat *n, struct nat_state *ret, struct banger_error *err)
{
	_cleanup_(nat_state_done) struct nat_state s = {0};
	_cleanup_json_ struct json_object *o = NULL;
	struct banger_error e = {0};

	int r = run(n, &e, "cannot read the NAT", "list table ip banger\n");
	if (r < 0 && e.code == BANGER_NOT_FOUND) {
		*ret = (struct nat_state){0};
		return 0;
	}
	if (r < 0) {
		if (err)
			*err = e;
		return r;
	}
	const char *text = nft_ctx_get_output_buffer(n->nft) ?: "";
	r = banger_json_parse(text, strlen(text), &o, err);
	struct json_object *list = r == 0 ? banger_json_get(o, "nftables") : NULL;
	for (size_t i = 0; list && r == 0 && i < json_object_array_length(list); i++)
		if (read_object(json_object_array_get_idx(list, i), &s) < 0)
			r = banger_error_oom(err);
	if (r < 0)
		return r;
	s.there = true;
	*ret = s;
	s = (struct nat_state){0};
	return 0;
}
