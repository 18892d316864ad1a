/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the configuration says of hosts ("registries" in paths.h), and what the machine's own places say
 * of their certificates.
 *
 *	{"registry.lan:5000": {"plain_http": true},
 *	 "registry.example": {"ca_file": "/etc/ssl/lan.pem", "cert_file": "/etc/ssl/me.pem", "key_file": "/etc/ssl/me.key"},
 *	 "docker.io": {"mirror": "mirror.lan:5000"}}
 *
 * plain_http  HTTP without TLS. For a loopback host (localhost, 127.0.0.0/8, ::1) it need not be said:
 *             unless something is configured for it, HTTP is tried first there, and HTTPS when the answer is
 *             that of a TLS server. (Docker and containerd try it the other way round; this saves a failed
 *             handshake, and nothing secret is sent before the first answer.)
 * insecure    TLS without a check of the certificate. It does not allow plain HTTP.
 * ca_file     certificates, PEM, that are trusted for this host beside the system's. So are those in
 *             /etc/containers/certs.d/HOST/ and /etc/docker/certs.d/HOST/, all *.crt.
 * cert_file   a certificate (PEM, perhaps with those between it and its authority's) and
 * key_file    its key (PEM, not encrypted), by which the host knows its client. Without them: the first NAME.cert with
 *             NAME.key in the same two directories.
 * mirror      a host that is asked first, for the same repositories; it may have an entry of its own.
 *
 * Entries also hold for hosts that are no registries: token servers, storage that a registry redirects to.
 * Immutable once made: any thread.
 */
#ifndef BANGER_PULL_SETTINGS_H
#define BANGER_PULL_SETTINGS_H

#include <stdbool.h>
#include <stddef.h>
#include <banger/error.h>
#include <banger/paths.h>

struct pull_host {
	char *host;                     /* "registry.lan:5000", lower case */
	bool plain_http, insecure, tls; /* tls: plain_http was said to be false */
	char *ca_file, *cert_file, *key_file, *mirror; /* NULL: none */
};

struct pull_settings {
	struct pull_host *hosts;
	size_t n;
};

/* BAD_REQUEST names the configuration file, the host and the key. */
int pull_settings_new(
	const struct banger_config *config, struct pull_settings **ret, struct banger_error *err);
void pull_settings_freep(struct pull_settings **s);
#define _cleanup_pull_settings_ _cleanup_(pull_settings_freep)
/* At the daemon's start: is what the configuration says of registries sound? */
int pull_settings_check(const struct banger_config *config, struct banger_error *err);

/* The entry of HOST[:PORT]; a port that is the scheme's own may be left out in either. Never NULL: an empty one
 * when nothing is said. */
const struct pull_host *pull_settings_find(const struct pull_settings *s, const char *host);
/* localhost, 127.0.0.0/8 or ::1, with or without a port, brackets or a final dot. */
bool pull_host_loopback(const char *host);
/* All further certificates for the host in one PEM text; NULL: none. */
int pull_host_certificates(
	const struct pull_settings *s, const char *host, char **ret, struct banger_error *err);
/* The certificate and the key that are shown to the host, PEM; both NULL: none. Forget the key when it was used. */
int pull_host_identity(const struct pull_settings *s, const char *host, char **ret_cert,
	char **ret_key, struct banger_error *err);

#endif
