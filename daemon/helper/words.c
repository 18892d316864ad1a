/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a caller may name. A name is only ever compared and handed to the kernel as an interface's name; an address
 * goes through a number, so what is written into a rule is what was checked and not what was said.
 */
#include "words.h"

#include <arpa/inet.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define HEX "0123456789abcdef"

static bool all_of(const char *s, const char *of, size_t min, size_t max)
{
	size_t n = strspn(s, of);

	return n >= min && n <= max && s[n] == '\0';
}

bool helper_is_bridge(const char *s)
{
	return s && strncmp(s, "bngr", 4) == 0 &&
	       all_of(s + 4, "0123456789abcdefghijklmnopqrstuvwxyz", 1, 10);
}

bool helper_is_tap(const char *s)
{
	return s && strncmp(s, "bngrt", 5) == 0 && all_of(s + 5, HEX, 10, 10);
}

bool helper_is_vm(const char *s)
{
	return s && all_of(s, HEX, 16, 16);
}

void helper_tap_of(const char *vm, char ret[HELPER_NAME_MAX + 1])
{
	snprintf(ret, HELPER_NAME_MAX + 1, "bngrt%.10s", vm);
}

bool helper_parse_address(const char *s, uint32_t *ret)
{
	struct in_addr a;

	if (!s || inet_pton(AF_INET, s, &a) != 1)
		return false;
	*ret = ntohl(a.s_addr);
	return true;
}

static uint32_t mask_of(int prefix)
{
	return prefix == 0 ? 0 : ~UINT32_C(0) << (32 - prefix);
}

bool helper_parse_subnet(const char *s, struct helper_subnet *ret)
{
	char text[HELPER_ADDRESS_MAX + 1] = "";
	const char *slash = s ? strchr(s, '/') : NULL;
	struct helper_subnet v;

	if (!slash || slash - s > HELPER_ADDRESS_MAX || !all_of(slash + 1, "0123456789", 1, 2) ||
		slash[1] == '0')
		return false;
	memcpy(text, s, slash - s);
	v.prefix = atoi(slash + 1);
	if (!helper_parse_address(text, &v.address) || v.prefix < 8 || v.prefix > 29 ||
		(v.address & ~mask_of(v.prefix)) != 0)
		return false;
	*ret = v;
	return true;
}

const char *helper_address_text(uint32_t a, char buf[HELPER_ADDRESS_MAX + 1])
{
	snprintf(buf, HELPER_ADDRESS_MAX + 1, "%u.%u.%u.%u", a >> 24, a >> 16 & 255, a >> 8 & 255,
		a & 255);
	return buf;
}

const char *helper_subnet_text(const struct helper_subnet *s, char buf[HELPER_SUBNET_MAX + 1])
{
	char a[HELPER_ADDRESS_MAX + 1];

	snprintf(buf, HELPER_SUBNET_MAX + 1, "%s/%d", helper_address_text(s->address, a),
		s->prefix & 63);
	return buf;
}

bool helper_subnet_within(const struct helper_subnet *inner, const struct helper_subnet *outer)
{
	return inner->prefix >= outer->prefix &&
	       (inner->address & mask_of(outer->prefix)) == outer->address;
}

bool helper_subnet_overlap(const struct helper_subnet *a, const struct helper_subnet *b)
{
	int prefix = a->prefix < b->prefix ? a->prefix : b->prefix;

	return ((a->address ^ b->address) & mask_of(prefix)) == 0;
}

uint32_t helper_gateway(const struct helper_subnet *s)
{
	return s->address + 1;
}

/* Without the network's own, the gateway and the broadcast address. */
uint32_t helper_hosts(const struct helper_subnet *s)
{
	return ~mask_of(s->prefix) - 2;
}

bool helper_is_host(const struct helper_subnet *s, uint32_t a)
{
	return (a & mask_of(s->prefix)) == s->address && a - s->address >= 2 &&
	       a - s->address < helper_hosts(s) + 2;
}

uint32_t helper_candidate(const struct helper_subnet *s, const char *vm, uint32_t attempt)
{
	/* An id is random: its last digits are as good as a hash. */
	uint64_t id = strtoull(vm, NULL, 16);

	return s->address + 2 + (uint32_t)((id % helper_hosts(s) + attempt) % helper_hosts(s));
}

void helper_mac_of(uint32_t a, unsigned char ret[6])
{
	const unsigned char mac[6] = {0x02, 0xba, a >> 24, a >> 16 & 255, a >> 8 & 255, a & 255};

	memcpy(ret, mac, sizeof(mac));
}
