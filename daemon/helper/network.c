/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Bridges, TAPs, ports.
 *
 * A TAP is never persistent: it is the descriptor that the caller got, and goes with the last copy of it, whoever dies
 * first. The kernel tells of that (network_news()), and the sweep takes back what belonged to it: its published
 * ports and, when nobody is connected who may be about to use it, the bridge. Marks:
 *
 *	a bridge    alias "banger 10.141.0.0/16"            its subnet
 *	a TAP       alias "banger 10.141.3.7 vm=… op=…"     its address, and for people: whose it is
 *
 * The order of making: a bridge has its mark before anything else and is up last, so one without a mark that is down is a
 * half-made one and is finished. Of removing: ports, then the bridge, then the table.
 *
 * Forwarding. Where the host forwards everywhere, nothing needs to be done. Else only the bridge and the interfaces
 * that routes go out by are switched, and the table keeps the latter from forwarding anything else. When the host is
 * made a router later, the guard is in its way and goes.
 */
#include "network.h"

#include <arpa/inet.h>
#include <banger/log.h>
#include <fcntl.h>
#include <linux/if_tun.h>
#include <net/if.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include "link.h"
#include "nat.h"

#define TAPS_MAX 1000      /* a bridge has 1023 ports */
#define PUBLISHED_MAX 4096 /* of all VMs together */
#define MARK "banger "

struct network {
	struct rtnl rtnl;
	struct nat *nat;
	struct helper_subnet range;
};

/* ---- what is banger's */

static bool marked(const struct link *l)
{
	return strncmp(l->alias, MARK, strlen(MARK)) == 0;
}

static bool is_bridge(const struct link *l)
{
	return l->kind == LINK_BRIDGE && helper_is_bridge(l->name) && marked(l);
}

static bool is_tap(const struct link *l)
{
	return l->kind == LINK_TUN && helper_is_tap(l->name) && marked(l);
}

/* The word after the mark. */
static void mark_word(const struct link *l, char buf[HELPER_SUBNET_MAX + 1])
{
	const char *s = l->alias + strlen(MARK);

	snprintf(buf, HELPER_SUBNET_MAX + 1, "%.*s", (int)strcspn(s, " "), s);
}

static bool bridge_subnet(const struct link *l, struct helper_subnet *ret)
{
	char word[HELPER_SUBNET_MAX + 1];

	mark_word(l, word);
	return helper_parse_subnet(word, ret);
}

static bool tap_has(const struct link *l, uint32_t address)
{
	char word[HELPER_SUBNET_MAX + 1];
	uint32_t a;

	mark_word(l, word);
	return is_tap(l) && helper_parse_address(word, &a) && a == address;
}

static bool address_taken(const struct links *links, uint32_t address)
{
	for (size_t i = 0; i < links->n; i++)
		if (tap_has(&links->v[i], address))
			return true;
	return false;
}

static int ports_of(const struct links *links, int bridge)
{
	int n = 0;

	for (size_t i = 0; i < links->n; i++)
		n += links->v[i].master == bridge;
	return n;
}

/* Of banger's, by name. */
static int find(struct network *n, const char *name, bool (*is)(const struct link *),
	struct links *ret_links, const struct link **ret, struct banger_error *err)
{
	struct links links = {0};

	int r = links_list(&n->rtnl, &links, err);
	if (r < 0)
		return r;
	const struct link *l = links_find(&links, name);
	if (!l || !is(l)) {
		links_done(&links);
		return banger_error_set(err, BANGER_NOT_FOUND,
			l ? "the interface %s is not banger's" : "there is no interface %s", name);
	}
	*ret_links = links;
	*ret = l;
	return 0;
}

#define _cleanup_links_ _cleanup_(links_done)

/* ---- bridges */

/* Is the subnet free, but for the bridge itself? A default route is no claim on it. */
static int check_routes(const struct route *routes, size_t n, const struct links *links,
	const struct helper_subnet *subnet, int bridge, struct banger_error *err)
{
	char a[HELPER_SUBNET_MAX + 1], b[HELPER_SUBNET_MAX + 1];

	for (size_t i = 0; i < n; i++) {
		const struct route *t = &routes[i];
		const struct link *by = links_at(links, t->index);

		if (t->to.prefix == 0 || t->index == bridge ||
			!helper_subnet_overlap(&t->to, subnet))
			continue;
		return banger_error_set(err, BANGER_BUSY,
			"the subnet %s overlaps %s, which is routed by %s: set bridge_subnet in "
			"the "
			"helper's configuration to one that is free",
			helper_subnet_text(subnet, a), helper_subnet_text(&t->to, b),
			by ? by->name : "something else");
	}
	return 0;
}

static bool forwards(const struct forwarding *f, size_t n, int index)
{
	for (size_t i = 0; i < n; i++)
		if (f[i].index == index)
			return f[i].on;
	return false;
}

/* Let answers come back in by the interfaces that routes go out by. Guarded first, switched then. */
static int open_uplinks(struct network *n, const struct route *routes, size_t n_routes,
	const struct links *links, struct banger_error *err)
{
	_cleanup_free_ struct forwarding *f = NULL;
	size_t n_f = 0;

	int r = forwarding_list(&n->rtnl, &f, &n_f, err);
	if (r < 0 || forwards(f, n_f, FORWARDING_ALL))
		return r;
	for (size_t i = 0; i < n_routes && r == 0; i++) {
		const struct link *l = links_at(links, routes[i].index);

		if (!l || l->loopback || is_bridge(l) || is_tap(l) || forwards(f, n_f, l->index))
			continue;
		r = nat_add_uplink(n->nat, l->name, err);
		if (r == 0)
			r = forwarding_set(&n->rtnl, l->index, true, err);
	}
	return r;
}

static int make_bridge(struct network *n, const char *name, const struct helper_subnet *subnet,
	int *ret_index, struct banger_error *err)
{
	_cleanup_links_ struct links links = {0};
	unsigned char mac[6];

	/* Its own, lest it takes that of whichever TAP comes first, and another when that goes. */
	helper_mac_of(helper_gateway(subnet), mac);
	int r = link_add_bridge(&n->rtnl, name, mac, err);
	if (r == 0)
		r = links_list(&n->rtnl, &links, err);
	const struct link *l = r == 0 ? links_find(&links, name) : NULL;
	if (r == 0 && !l)
		r = banger_error_set(err, BANGER_INTERNAL, "the bridge %s vanished", name);
	if (r == 0)
		*ret_index = l->index;
	return r;
}

static int set_up_bridge(struct network *n, int index, const char *name,
	const struct helper_subnet *subnet, struct banger_error *err)
{
	char alias[64], text[HELPER_SUBNET_MAX + 1];

	snprintf(alias, sizeof(alias), MARK "%s", helper_subnet_text(subnet, text));
	int r = link_set_alias(&n->rtnl, index, alias, err);
	if (r == 0)
		r = link_configure_bridge(&n->rtnl, index, err);
	if (r == 0)
		r = nat_ensure(n->nat, &n->range, name, err);
	if (r == 0)
		r = link_add_address(&n->rtnl, index, helper_gateway(subnet), subnet->prefix, err);
	return r == 0 ? link_set_up(&n->rtnl, index, 0, err) : r;
}

/* May the name be used: 0, with the bridge's number in *ret_index when it is there. */
static int check_name(const struct links *links, const char *name,
	const struct helper_subnet *subnet, int *ret_index, struct banger_error *err)
{
	const struct link *l = links_find(links, name);
	struct helper_subnet has;
	char a[HELPER_SUBNET_MAX + 1];

	if (!l)
		return 0;
	bool half = l->kind == LINK_BRIDGE && !l->up && l->alias[0] == '\0';
	if (!is_bridge(l) && !half)
		return banger_error_set(
			err, BANGER_EXISTS, "there is an interface %s that is not banger's", name);
	if (!half && (!bridge_subnet(l, &has) || has.address != subnet->address ||
			     has.prefix != subnet->prefix))
		return banger_error_set(err, BANGER_EXISTS,
			"the bridge %s has another subnet than %s", name,
			helper_subnet_text(subnet, a));
	*ret_index = l->index;
	return 0;
}

static int bridge_ensure(void *arg, const char *name, const struct helper_subnet *subnet,
	bool *ret_created, struct banger_error *err)
{
	struct network *n = arg;
	_cleanup_links_ struct links links = {0};
	_cleanup_free_ struct route *routes = NULL;
	size_t n_routes = 0;
	int index = 0;

	int r = links_list(&n->rtnl, &links, err);
	if (r == 0)
		r = routes_list(&n->rtnl, &routes, &n_routes, err);
	if (r == 0)
		r = check_name(&links, name, subnet, &index, err);
	if (r == 0)
		r = check_routes(routes, n_routes, &links, subnet, index ?: -1, err);
	if (r < 0)
		return r;
	bool created = index == 0;
	if (created)
		r = make_bridge(n, name, subnet, &index, err);
	if (r == 0)
		r = set_up_bridge(n, index, name, subnet, err);
	if (r == 0)
		r = open_uplinks(n, routes, n_routes, &links, err);
	if (r < 0 && created && index > 0) {
		link_delete(&n->rtnl, index, NULL);
		nat_forget_bridge(n->nat, name, NULL);
	}
	if (r == 0)
		*ret_created = created;
	return r;
}

static int bridge_remove(void *arg, const char *name, struct banger_error *err)
{
	struct network *n = arg;
	_cleanup_links_ struct links links = {0};
	struct helper_swept swept;
	const struct link *l = NULL;

	int r = find(n, name, is_bridge, &links, &l, err);
	if (r < 0)
		return r;
	int ports = ports_of(&links, l->index);
	if (ports > 0)
		return banger_error_set(err, BANGER_BUSY,
			"%d interfaces are attached to the bridge %s", ports, name);
	r = link_delete(&n->rtnl, l->index, err);
	if (r == 0)
		r = nat_forget_bridge(n->nat, name, err);
	return r == 0 ? network_sweep(n, false, &swept, err) : r;
}

/* ---- TAPs */

static int choose_address(
	const struct links *links, struct helper_tap *tap, struct banger_error *err)
{
	uint32_t hosts = helper_hosts(&tap->subnet);

	/* There are fewer TAPs than attempts. */
	for (uint32_t i = 0; i < hosts && i <= TAPS_MAX; i++) {
		uint32_t a = helper_candidate(&tap->subnet, tap->vm, i);
		if (!address_taken(links, a)) {
			tap->address = a;
			return 0;
		}
	}
	return banger_error_set(
		err, BANGER_NO_SPACE, "the bridge %s has no free address", tap->bridge);
}

static int open_tap(const struct helper_tap *tap, int *ret, struct banger_error *err)
{
	struct ifreq q = {.ifr_flags = IFF_TAP | IFF_NO_PI | IFF_VNET_HDR | IFF_TUN_EXCL};
	_cleanup_close_ int fd = open("/dev/net/tun", O_RDWR | O_CLOEXEC | O_NONBLOCK);

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot open /dev/net/tun");
	strcpy(q.ifr_name, tap->name);
	if (ioctl(fd, TUNSETIFF, &q) < 0)
		return errno == EBUSY || errno == EEXIST
			       ? banger_error_set(err, BANGER_EXISTS, "VM %s has a TAP already: %s",
					 tap->vm, tap->name)
			       : banger_error_set_errno(err, errno, "cannot make the TAP");
	if (ioctl(fd, TUNSETOWNER, (unsigned long)tap->owner) < 0)
		return banger_error_set_errno(err, errno, "cannot hand over the TAP");
	*ret = TAKE_FD(fd);
	return 0;
}

static int attach_tap(
	struct network *n, const struct helper_tap *tap, int bridge, struct banger_error *err)
{
	_cleanup_links_ struct links links = {0};
	char alias[LINK_ALIAS_MAX + 1], address[HELPER_ADDRESS_MAX + 1];

	int r = links_list(&n->rtnl, &links, err);
	if (r < 0)
		return r;
	const struct link *l = links_find(&links, tap->name);
	if (!l)
		return banger_error_set(err, BANGER_INTERNAL, "the TAP %s vanished", tap->name);
	snprintf(alias, sizeof(alias), MARK "%s vm=%s op=%s",
		helper_address_text(tap->address, address), tap->vm, banger_op_current() ?: "");
	r = link_set_alias(&n->rtnl, l->index, alias, err);
	if (r == 0)
		link_no_ipv6(&n->rtnl, l->index);
	return r == 0 ? link_set_up(&n->rtnl, l->index, bridge, err) : r;
}

static int tap_create(void *arg, struct helper_tap *tap, int *ret_fd, struct banger_error *err)
{
	struct network *n = arg;
	_cleanup_links_ struct links links = {0};
	_cleanup_close_ int fd = -1;
	const struct link *bridge = NULL;

	int r = find(n, tap->bridge, is_bridge, &links, &bridge, err);
	if (r < 0)
		return r;
	if (!bridge_subnet(bridge, &tap->subnet))
		return banger_error_set(
			err, BANGER_CORRUPT, "the bridge %s has no known subnet", tap->bridge);
	if (ports_of(&links, bridge->index) >= TAPS_MAX)
		return banger_error_set(err, BANGER_NO_SPACE, "the bridge %s has %d TAPs already",
			tap->bridge, TAPS_MAX);
	r = choose_address(&links, tap, err);
	if (r == 0)
		r = open_tap(tap, &fd, err);
	if (r == 0)
		r = attach_tap(n, tap, bridge->index, err);
	if (r == 0)
		*ret_fd = TAKE_FD(fd);
	return r;
}

static int tap_remove(void *arg, const char *name, struct banger_error *err)
{
	struct network *n = arg;
	_cleanup_links_ struct links links = {0};
	struct helper_swept swept;
	const struct link *l = NULL;

	int r = find(n, name, is_tap, &links, &l, err);
	if (r == 0)
		r = link_delete(&n->rtnl, l->index, err);
	return r == 0 ? network_sweep(n, false, &swept, err) : r;
}

/* ---- ports */

/* A port that a program of the host uses must not be led away from it. */
static int check_port(const struct helper_publish *p, struct banger_error *err)
{
	struct sockaddr_in a = {.sin_family = AF_INET,
		.sin_port = htons(p->host_port),
		.sin_addr.s_addr = htonl(p->any ? 0 : p->host)};
	char text[HELPER_ADDRESS_MAX + 1];
	int on = 1;
	_cleanup_close_ int fd =
		socket(AF_INET, (p->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot try the port");
	/* Connections that are over do not count. */
	if (!p->udp)
		setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
	if (bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
		return 0;
	helper_address_text(p->any ? 0 : p->host, text);
	if (errno == EADDRINUSE)
		return banger_error_set(
			err, BANGER_BUSY, "port %u of %s is in use", p->host_port, text);
	if (errno == EADDRNOTAVAIL)
		return banger_error_set(err, BANGER_DENIED, "%s is no address of the host", text);
	return banger_error_set_errno(err, errno, "port %u cannot be published", p->host_port);
}

static int publish(void *arg, const struct helper_publish *p, struct banger_error *err)
{
	struct network *n = arg;
	_cleanup_links_ struct links links = {0};
	_cleanup_(nat_state_done) struct nat_state state = {0};
	char text[HELPER_ADDRESS_MAX + 1];

	int r = links_list(&n->rtnl, &links, err);
	if (r < 0)
		return r;
	if (!address_taken(&links, p->address))
		return banger_error_set(err, BANGER_NOT_FOUND, "no VM has the address %s",
			helper_address_text(p->address, text));
	r = check_port(p, err);
	if (r == 0)
		r = nat_list(n->nat, &state, err);
	if (r < 0)
		return r;
	if (state.n_published >= PUBLISHED_MAX)
		return banger_error_set(
			err, BANGER_NO_SPACE, "%d ports are published already", PUBLISHED_MAX);
	return nat_publish(n->nat, p, err);
}

static int unpublish(void *arg, const struct helper_publish *p, struct banger_error *err)
{
	struct network *n = arg;

	return nat_unpublish(n->nat, p, err);
}

/* ---- sweeping */

static void first(int *r, int k, struct banger_error *to, const struct banger_error *e)
{
	if (k < 0 && *r == 0) {
		*r = k;
		if (to)
			*to = *e;
	}
}

/* A TAP without carrier is one that a program made persistent and let go of. */
static int sweep_taps(struct network *n, const struct links *links, struct helper_swept *swept,
	struct banger_error *err)
{
	struct banger_error e = {0};
	int r = 0;

	for (size_t i = 0; i < links->n; i++) {
		if (!is_tap(&links->v[i]) || links->v[i].carrier)
			continue;
		int k = link_delete(&n->rtnl, links->v[i].index, &e);
		swept->taps += k == 0;
		first(&r, k, err, &e);
	}
	return r;
}

static int sweep_published(struct network *n, const struct links *links,
	const struct nat_state *state, struct helper_swept *swept, struct banger_error *err)
{
	struct banger_error e = {0};
	int r = 0;

	for (size_t i = 0; i < state->n_published; i++) {
		if (address_taken(links, state->published[i].address))
			continue;
		int k = nat_unpublish(n->nat, &state->published[i], &e);
		swept->published += k == 0;
		first(&r, k, err, &e);
	}
	return r;
}

static int sweep_bridges(struct network *n, const struct links *links, struct helper_swept *swept,
	struct banger_error *err)
{
	struct banger_error e = {0};
	int r = 0;

	for (size_t i = 0; i < links->n; i++) {
		const struct link *l = &links->v[i];

		if (!is_bridge(l) || ports_of(links, l->index) > 0)
			continue;
		int k = link_delete(&n->rtnl, l->index, &e);
		if (k == 0)
			k = nat_forget_bridge(n->nat, l->name, &e);
		swept->bridges += k == 0;
		first(&r, k, err, &e);
	}
	return r;
}

/* Without a bridge there is nothing to route for; with a host that routes anyway, nothing to guard. */
static int sweep_uplinks(struct network *n, const struct links *links,
	const struct nat_state *state, struct banger_error *err)
{
	_cleanup_free_ struct forwarding *f = NULL;
	struct banger_error e = {0};
	bool bridges = false;
	size_t n_f = 0;

	for (size_t i = 0; i < links->n; i++)
		bridges = bridges || is_bridge(&links->v[i]);
	int r = forwarding_list(&n->rtnl, &f, &n_f, err);
	if (r < 0 || !state->there)
		return r;
	bool router = forwards(f, n_f, FORWARDING_ALL);
	for (size_t i = 0; !bridges && !router && i < state->n_uplinks; i++) {
		const struct link *l = links_find(links, state->uplinks[i]);
		if (l)
			first(&r, forwarding_set(&n->rtnl, l->index, false, &e), err, &e);
	}
	if (!bridges)
		first(&r, nat_remove(n->nat, &e), err, &e);
	else if (router && state->n_uplinks > 0)
		first(&r, nat_flush_uplinks(n->nat, &e), err, &e);
	return r;
}

int network_sweep(
	struct network *n, bool bridges, struct helper_swept *ret, struct banger_error *err)
{
	_cleanup_links_ struct links links = {0};
	_cleanup_(nat_state_done) struct nat_state state = {0};
	struct helper_swept swept = {0};
	struct banger_error e = {0};

	int r = links_list(&n->rtnl, &links, err);
	if (r == 0)
		r = sweep_taps(n, &links, &swept, err);
	if (swept.taps > 0) {
		links_done(&links);
		first(&r, links_list(&n->rtnl, &links, &e), err, &e);
	}
	first(&r, nat_list(n->nat, &state, &e), err, &e);
	if (r < 0)
		return r; /* not known what is there */
	first(&r, sweep_published(n, &links, &state, &swept, &e), err, &e);
	if (bridges)
		first(&r, sweep_bridges(n, &links, &swept, &e), err, &e);
	if (swept.bridges > 0) {
		links_done(&links);
		int k = links_list(&n->rtnl, &links, &e);
		first(&r, k, err, &e);
		if (k < 0)
			return r;
	}
	first(&r, sweep_uplinks(n, &links, &state, &e), err, &e);
	*ret = swept;
	return r;
}

static int cleanup(void *arg, struct helper_swept *ret, struct banger_error *err)
{
	return network_sweep(arg, true, ret, err);
}

/* ---- */

int network_new(const struct helper_subnet *range, struct network **ret, struct banger_error *err)
{
	struct network *n = calloc(1, sizeof(*n));

	if (!n)
		return banger_error_oom(err);
	n->range = *range;
	int r = rtnl_open(&n->rtnl, err);
	if (r == 0)
		r = nat_open(&n->nat, err);
	if (r < 0) {
		free(n);
		return r;
	}
	*ret = n;
	return 0;
}

struct helper_acts network_acts(struct network *n)
{
	return (struct helper_acts){.bridge_ensure = bridge_ensure,
		.bridge_remove = bridge_remove,
		.tap_create = tap_create,
		.tap_remove = tap_remove,
		.publish = publish,
		.unpublish = unpublish,
		.cleanup = cleanup,
		.arg = n};
}

int network_news_fd(const struct network *n)
{
	return n->rtnl.news_fd;
}

bool network_news(struct network *n)
{
	return links_news(&n->rtnl);
}
