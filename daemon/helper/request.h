/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A request to the helper: parsed, checked against the allow-lists, carried out by the acts, logged. The protocol is
 * the daemon's (banger/wire.h); the methods, all of whose parameters are strings and numbers:
 *
 *	helper.ping {}                             {"program","version","uid","bridge_subnet"}
 *	net.bridge.ensure {"name","subnet"?}       {"name","subnet","gateway","created"}
 *	net.bridge.remove {"name"}                 {}
 *	net.tap.create {"bridge","vm"}             {"name","address","mac","subnet","gateway"} and the TAP's descriptor
 *	net.tap.remove {"name"}                    {}
 *	net.publish {"address","proto","host_address"?,"host_port","guest_port"}    {}
 *	net.unpublish {"proto","host_address"?,"host_port"}                         {}
 *	net.cleanup {}                             {"taps","published","bridges"}: how many were removed
 *
 * bridge: bngr[0-9a-z]{1,10}. vm: a VM's id. subnet: within the configured one, and that when it is not given. proto:
 * "tcp" or "udp". host_address: of the host, one at which it can be reached or in 127.0.0.0/8; without it, all of the
 * host's. Ports of the host are from 1024 up: those below are not for everybody.
 *
 * Errors: BAD_REQUEST, BAD_VERSION, UNKNOWN_METHOD, TOO_LARGE (a line over 64 KiB), DENIED (another uid, or what is in no
 * allow-list), and those of the acts.
 */
#ifndef BANGER_HELPER_REQUEST_H
#define BANGER_HELPER_REQUEST_H

#include <banger/wire.h>
#include "words.h"

#define HELPER_LINE_MAX (64 * 1024)

struct helper_tap {
	char name[HELPER_NAME_MAX + 1], bridge[HELPER_NAME_MAX + 1];
	char vm[17];
	uid_t owner;
	/* Found out by the act. */
	uint32_t address;
	struct helper_subnet subnet;
};

struct helper_publish {
	bool udp, any;          /* any: at all addresses of the host */
	uint32_t host, address; /* of the host; of the VM */
	uint16_t host_port, guest_port;
};

struct helper_swept {
	int taps, published, bridges;
};

/* What is done to the system. Everything in the parameters has been checked against the allow-lists; whether it is there,
 * and banger's own, is the act's to check: NOT_FOUND, EXISTS, BUSY, NO_SPACE. */
struct helper_acts {
	int (*bridge_ensure)(void *arg, const char *name, const struct helper_subnet *subnet,
		bool *ret_created, struct banger_error *err);
	int (*bridge_remove)(void *arg, const char *name, struct banger_error *err);
	int (*tap_create)(void *arg, struct helper_tap *tap, int *ret_fd, struct banger_error *err);
	int (*tap_remove)(void *arg, const char *name, struct banger_error *err);
	int (*publish)(void *arg, const struct helper_publish *p, struct banger_error *err);
	int (*unpublish)(void *arg, const struct helper_publish *p, struct banger_error *err);
	int (*cleanup)(void *arg, struct helper_swept *ret, struct banger_error *err);
	void *arg;
};

struct helper_service {
	struct helper_acts acts;
	struct helper_subnet range; /* bridges' subnets are within it */
	uid_t uid;                  /* whose requests are carried out, beside root's */
};

struct helper_peer {
	uid_t uid;
	pid_t pid;
};
bool helper_trusts(const struct helper_service *s, const struct helper_peer *peer);

/* Carry out a line and log it: "helper rpc completed" or "helper rpc failed", once. nfds: how many descriptors came with
 * it (none is wanted; they stay the caller's). The reply is owned by the caller, NULL without memory; *ret_fd is a
 * descriptor to send with it, or -1. */
struct json_object *helper_dispatch(const struct helper_service *s, const struct helper_peer *peer,
	const char *line, size_t len, size_t nfds, int *ret_fd);
/* The same for what is no line, or is not to be looked at. */
struct json_object *helper_refuse(
	const struct helper_peer *peer, enum banger_code code, const char *message);

#endif
