/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Network interfaces, their addresses and routes, by rtnetlink(7). Interfaces are named by their numbers, so that
 * nothing happens to one that took another's name meanwhile.
 */
#ifndef BANGER_HELPER_LINK_H
#define BANGER_HELPER_LINK_H

#include <banger/error.h>
#include "words.h"

#define LINK_ALIAS_MAX 255

struct link {
	int index, master; /* master: of which bridge it is a port; 0: none */
	char name[HELPER_NAME_MAX + 1];
	enum { LINK_OTHER, LINK_BRIDGE, LINK_TUN } kind;
	bool up, carrier, loopback;
	char alias[LINK_ALIAS_MAX + 1];
};

struct links {
	struct link *v; /* owned */
	size_t n;
};
void links_done(struct links *l);
const struct link *links_find(const struct links *l, const char *name);
const struct link *links_at(const struct links *l, int index);

/* A socket for asking, and one that gets what changes (to poll; links_news()). */
struct rtnl {
	int fd, news_fd;
	uint32_t seq;
};
int rtnl_open(struct rtnl *ret, struct banger_error *err);

/* Take what has been told. Did an interface of banger's go, or the host begin or cease to forward? */
bool links_news(struct rtnl *r);

int links_list(struct rtnl *r, struct links *ret, struct banger_error *err);

struct route {
	struct helper_subnet to; /* prefix 0 … 32 here */
	int index;               /* by which interface; 0: several or none */
};
/* IPv4 routes of every table. Caller frees *ret. */
int routes_list(struct rtnl *r, struct route **ret, size_t *ret_n, struct banger_error *err);

#define FORWARDING_ALL (-1)
struct forwarding {
	int index; /* of the interface, or FORWARDING_ALL: the host's switch */
	bool on;
};
int forwarding_list(
	struct rtnl *r, struct forwarding **ret, size_t *ret_n, struct banger_error *err);
int forwarding_set(struct rtnl *r, int index, bool on, struct banger_error *err);

/* EEXIST. */
int link_add_bridge(
	struct rtnl *r, const char *name, const unsigned char mac[6], struct banger_error *err);
int link_delete(struct rtnl *r, int index, struct banger_error *err);
/* What only people and banger read: whose it is and what for. */
int link_set_alias(struct rtnl *r, int index, const char *alias, struct banger_error *err);
/* The bridge's switches: forward what comes from VMs, let answers to 127.0.0.0/8 back in; no IPv6 of its own. */
int link_configure_bridge(struct rtnl *r, int index, struct banger_error *err);
int link_set_up(struct rtnl *r, int index, int master, struct banger_error *err);
/* No IPv6 address of its own; where the kernel has no IPv6, nothing. */
void link_no_ipv6(struct rtnl *r, int index);
/* It may be there already. */
int link_add_address(
	struct rtnl *r, int index, uint32_t address, int prefix, struct banger_error *err);

#endif
