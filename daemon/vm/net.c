/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A connection to the helper is opened for each VM's start and closed after it: while it is open, the helper keeps a
 * bridge that has no TAP yet. What has been made so far goes with tap_fd, so a failure needs no undoing but close(2).
 *
 * The helper is believed (it is root), but what it says is looked at like any peer's: it goes into a command line.
 *
 * The guest's resolver is the first of the host's that it can reach, which excludes those on loopback addresses; where
 * systemd-resolved stands in front, its own file says which ones are behind.
 */
#include "vm/net.h"

#include <arpa/inet.h>
#include <banger/client.h>
#include <banger/log.h>
#include <fcntl.h>
#include <string.h>
#include <sys/socket.h>
#include <sys/time.h>

#define ANSWER_S 10

static int helper_connect(
	const struct banger_config *config, struct banger_client **ret, struct banger_error *err)
{
	const struct timeval patience = {.tv_sec = ANSWER_S};
	_cleanup_client_ struct banger_client *c = NULL;
	struct banger_error e = {0};

	int r = banger_client_connect(config->helper_socket, &c, &e);
	if (r < 0)
		return banger_error_set(err, BANGER_UNAVAILABLE,
			"network \"bridge\" needs banger-helper, and nobody answers at %s: have "
			"root run "
			"\"banger-helper --uid %u --socket %s\", or use network \"user\"",
			config->helper_socket, (unsigned)geteuid(), config->helper_socket);
	setsockopt(banger_client_fd(c), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	*ret = TAKE_PTR(c);
	return 0;
}

/* What the client says of a lost connection speaks of bangerd. */
static int lost(struct banger_client *c, int r, struct banger_error *err)
{
	if (r < 0 && banger_client_lost(c))
		return banger_error_set(
			err, BANGER_UNAVAILABLE, "banger-helper went away, or does not answer");
	if (r < 0)
		banger_error_prefix(err, "banger-helper");
	return r;
}

static int call(struct banger_client *c, const char *method, struct json_object *params,
	struct json_object **ret, int *ret_fd, struct banger_error *err)
{
	size_t n = ret_fd ? 1 : 0;
	int fd = -1;

	if (!params)
		return banger_error_oom(err);
	int r = lost(c, banger_client_call_fds(c, method, params, NULL, 0, ret, &fd, &n, err), err);
	if (r == 0 && ret_fd && n == 0)
		return banger_error_set(
			err, BANGER_INTERNAL, "banger-helper: %s gave no descriptor", method);
	if (r == 0 && ret_fd)
		*ret_fd = fd;
	return r;
}

/* Up to two string members; NULL: no memory. */
static struct json_object *params_of(const char *k1, const char *v1, const char *k2, const char *v2)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, k1, v1) < 0 || (k2 && banger_json_add_str(o, k2, v2) < 0))
		return NULL;
	return TAKE_PTR(o);
}

/* ---- the resolver */

/* The first nameserver of a file that a guest can reach. */
static bool resolver_in(const char *path, char ret[16])
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NOCTTY | O_NONBLOCK);
	char text[4096], word[64], *save = NULL;
	struct in_addr a;

	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text) - 1);
	if (n <= 0)
		return false;
	text[n] = '\0';
	for (char *l = strtok_r(text, "\n", &save); l; l = strtok_r(NULL, "\n", &save))
		if (sscanf(l, " nameserver %63s", word) == 1 && inet_pton(AF_INET, word, &a) == 1 &&
			ntohl(a.s_addr) >> 24 != 127 && a.s_addr != 0) {
			inet_ntop(AF_INET, &a, ret, 16);
			return true;
		}
	return false;
}

static bool find_resolver(char ret[16])
{
	return resolver_in("/etc/resolv.conf", ret) ||
	       resolver_in("/run/systemd/resolve/resolv.conf", ret);
}

/* ---- a place on the bridge */

static bool is_address(const char *s)
{
	struct in_addr a;

	return s && strlen(s) < 16 && inet_pton(AF_INET, s, &a) == 1;
}

static bool is_mac(const char *s)
{
	return s && strlen(s) == 17 && strspn(s, "0123456789abcdef:") == 17;
}

static int read_tap(struct json_object *o, struct vm_net *n, struct banger_error *err)
{
	const char *name = banger_json_str(o, "name"), *mac = banger_json_str(o, "mac"),
		   *address = banger_json_str(o, "address"), *subnet = banger_json_str(o, "subnet"),
		   *gateway = banger_json_str(o, "gateway"),
		   *slash = subnet ? strchr(subnet, '/') : NULL;
	char dns[16];

	int prefix = slash ? atoi(slash + 1) : 0;
	if (!name || strlen(name) >= sizeof(n->tap) || !is_mac(mac) || !is_address(address) ||
		!is_address(gateway) || prefix < 1 || prefix > 30)
		return banger_error_set(
			err, BANGER_INTERNAL, "banger-helper described a TAP that cannot be");
	strcpy(n->tap, name);
	strcpy(n->mac, mac);
	strcpy(n->address, address);
	bool resolver = find_resolver(dns);
	snprintf(n->ip, sizeof(n->ip), "%s/%d,%s%s%s", address, prefix, gateway,
		resolver ? "," : "", resolver ? dns : "");
	return 0;
}

static int make_tap(
	struct banger_client *c, const char *vm_id, struct vm_net *n, struct banger_error *err)
{
	_cleanup_json_ struct json_object *result = NULL;

	int r = call(
		c, "net.bridge.ensure", params_of("name", NET_BRIDGE, NULL, NULL), NULL, NULL, err);
	if (r == 0)
		r = call(c, "net.tap.create", params_of("bridge", NET_BRIDGE, "vm", vm_id), &result,
			&n->tap_fd, err);
	return r == 0 ? read_tap(result, n, err) : r;
}

static int publish_one(struct banger_client *c, const char *address, const struct vmm_publish *p,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *o =
		params_of("address", address, "proto", p->udp ? "udp" : "tcp");

	if (!o || banger_json_add_int(o, "host_port", p->host) < 0 ||
		banger_json_add_int(o, "guest_port", p->guest) < 0 ||
		(p->address[0] && banger_json_add_str(o, "host_address", p->address) < 0))
		return banger_error_oom(err);
	return call(c, "net.publish", TAKE_PTR(o), NULL, NULL, err);
}

int vm_net_bridge(const struct banger_config *config, const char *vm_id,
	const struct vmm_publish *publish, size_t n_publish, struct vm_net *ret,
	struct banger_error *err)
{
	_cleanup_client_ struct banger_client *c = NULL;
	_cleanup_vm_net_ struct vm_net n = VM_NET_NONE;

	int r = helper_connect(config, &c, err);
	if (r == 0)
		r = make_tap(c, vm_id, &n, err);
	for (size_t i = 0; i < n_publish && r == 0; i++)
		r = publish_one(c, n.address, &publish[i], err);
	if (r < 0)
		return r;
	*ret = n;
	n.tap_fd = -1;
	return 0;
}

void vm_net_done(struct vm_net *n)
{
	banger_closep(&n->tap_fd);
	n->tap_fd = -1;
}

/* ---- afterwards */

int vm_net_remove(const struct banger_config *config, const char *vm_id, struct banger_error *err)
{
	_cleanup_client_ struct banger_client *c = NULL;
	struct banger_error e = {0};
	char tap[16];

	int r = helper_connect(config, &c, err);
	if (r < 0)
		return r;
	snprintf(tap, sizeof(tap), "bngrt%.10s", vm_id);
	r = call(c, "net.tap.remove", params_of("name", tap, NULL, NULL), NULL, NULL, &e);
	if (r < 0 && e.code == BANGER_NOT_FOUND)
		return 0;
	if (r < 0 && err)
		*err = e;
	return r;
}

int vm_net_cleanup(const struct banger_config *config, struct banger_error *err)
{
	_cleanup_client_ struct banger_client *c = NULL;

	if (helper_connect(config, &c, NULL) < 0)
		return 0;
	return call(c, "net.cleanup", json_object_new_object(), NULL, NULL, err);
}

bool vm_net_doctor(const struct banger_config *config, char *detail, size_t detail_size,
	char *advice, size_t advice_size)
{
	_cleanup_client_ struct banger_client *c = NULL;
	_cleanup_json_ struct json_object *result = NULL;
	struct banger_error err = {0};

	advice[0] = '\0';
	int r = helper_connect(config, &c, &err);
	if (r == 0)
		r = call(c, "helper.ping", json_object_new_object(), &result, NULL, &err);
	if (r < 0) {
		snprintf(detail, detail_size, "%s",
			c ? err.message : "not running; VMs cannot use network \"bridge\"");
		snprintf(advice, advice_size, "as root: banger-helper --uid %u --socket %s",
			(unsigned)geteuid(), config->helper_socket);
		return false;
	}
	snprintf(detail, detail_size, "version %s at %s, bridges within %s",
		banger_json_str(result, "version") ?: "unknown", config->helper_socket,
		banger_json_str(result, "bridge_subnet") ?: "an unknown subnet");
	return true;
}
