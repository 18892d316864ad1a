/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The allow-lists of the helper: which names and addresses it takes from a caller. Pure.
 *
 * Addresses are IPv4, in host byte order.
 */
#ifndef BANGER_HELPER_WORDS_H
#define BANGER_HELPER_WORDS_H

#include <stdbool.h>
#include <stdint.h>

#define HELPER_NAME_MAX 15 /* of a network interface */
#define HELPER_ADDRESS_MAX 15
#define HELPER_SUBNET_MAX 18

struct helper_subnet {
	uint32_t address; /* no bit set below the prefix */
	int prefix;       /* 8 … 29 */
};

/* "bngr" and 1 to 10 of [0-9a-z]. */
bool helper_is_bridge(const char *s);
/* "bngrt" and 10 lowercase hex digits: one longer than any bridge. */
bool helper_is_tap(const char *s);
/* 16 lowercase hex digits. */
bool helper_is_vm(const char *s);
/* The TAP of a VM. vm is one. */
void helper_tap_of(const char *vm, char ret[HELPER_NAME_MAX + 1]);

/* Dotted quads without leading zeros; "10.1.0.0/16". */
bool helper_parse_address(const char *s, uint32_t *ret);
bool helper_parse_subnet(const char *s, struct helper_subnet *ret);
const char *helper_address_text(uint32_t a, char buf[HELPER_ADDRESS_MAX + 1]);
const char *helper_subnet_text(const struct helper_subnet *s, char buf[HELPER_SUBNET_MAX + 1]);

bool helper_subnet_within(const struct helper_subnet *inner, const struct helper_subnet *outer);
bool helper_subnet_overlap(const struct helper_subnet *a, const struct helper_subnet *b);
/* The gateway is a subnet's first address. */
uint32_t helper_gateway(const struct helper_subnet *s);
/* Can a VM have this address: in the subnet, and neither its own, the gateway's nor the broadcast one? */
bool helper_is_host(const struct helper_subnet *s, uint32_t a);
/* The address that a VM is given first, and where others are tried after it: attempt 0, 1, … Every address that a VM can have
 * is met once in helper_hosts(s) attempts. */
uint32_t helper_candidate(const struct helper_subnet *s, const char *vm, uint32_t attempt);
uint32_t helper_hosts(const struct helper_subnet *s);
/* The MAC address that goes with an address: locally administered, "02:ba" and the four bytes. */
void helper_mac_of(uint32_t a, unsigned char ret[6]);

#endif
