/* SPDX-License-Identifier: Apache-2.0 */
/*
 * NAT and published ports: one table of nftables, "ip banger". Nothing is done to any other.
 */
#ifndef BANGER_HELPER_NAT_H
#define BANGER_HELPER_NAT_H

#include "request.h"

struct nat;
int nat_open(struct nat **ret, struct banger_error *err);

/* Make the table what it must be, with this bridge in it. What is published stays. */
int nat_ensure(struct nat *n, const struct helper_subnet *range, const char *bridge,
	struct banger_error *err);
int nat_forget_bridge(struct nat *n, const char *bridge, struct banger_error *err);
/* Interfaces that forward only for the sake of VMs: what comes in by them goes to no one else. */
int nat_add_uplink(struct nat *n, const char *name, struct banger_error *err);
int nat_flush_uplinks(struct nat *n, struct banger_error *err);
/* The whole table. */
int nat_remove(struct nat *n, struct banger_error *err);

/* EXISTS; NOT_FOUND. */
int nat_publish(struct nat *n, const struct helper_publish *p, struct banger_error *err);
int nat_unpublish(struct nat *n, const struct helper_publish *p, struct banger_error *err);

/* What is there now; nothing when there is no table. */
struct nat_state {
	struct helper_publish *published; /* owned */
	size_t n_published;
	char (*uplinks)[HELPER_NAME_MAX + 1]; /* owned */
	size_t n_uplinks;
	bool there;
};
int nat_list(struct nat *n, struct nat_state *ret, struct banger_error *err);
void nat_state_done(struct nat_state *s);

#endif
