/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The JSON text of the configuration becomes a short table, searched linearly: there are a handful of
 * entries. Every key that is not known is an error, for a misspelt "insecure" must not look as if it
 * had been understood.
 */
#include <arpa/inet.h>
#include <ctype.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/wire.h>
#include "pull/settings.h"

#define CERTIFICATES_MAX (4 * 1024 * 1024)

static int refuse(const struct banger_config *c, const char *host, const char *key,
	const char *what, struct banger_error *err)
{
	return banger_error_set(err, BANGER_BAD_REQUEST, "%s: \"registries\": \"%s\"%s%s%s: %s",
		c->file ?: "the configuration", host, key ? ": \"" : "", key ?: "", key ? "\"" : "",
		what);
}

/* HOST[:PORT] as it stands in a reference: nothing that could be another part of a URL. */
static bool host_valid(const char *s)
{
	size_t n = strlen(s);
	const char *port = strrchr(s, ':');
	size_t len = n;

	if (port && strchr(port, ']'))
		port = NULL;
	if (port) {
		len = (size_t)(port - s);
		if (strlen(port + 1) < 1 || strlen(port + 1) > 5 ||
			strspn(port + 1, "0123456789") != strlen(port + 1))
			return false;
	}
	if (n > 255 || len == 0)
		return false;
	if (s[0] == '[')
		return s[len - 1] == ']' && strspn(s + 1, "0123456789abcdefABCDEF:.") == len - 2;
	return strspn(s, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-_") ==
	       len;
}

static void lower(char *s)
{
	for (; *s; s++)
		*s = (char)tolower((unsigned char)*s);
}

static int read_flag(const struct banger_config *c, struct pull_host *h, const char *key,
	struct json_object *v, bool *ret, struct banger_error *err)
{
	if (!json_object_is_type(v, json_type_boolean))
		return refuse(c, h->host, key, "must be true or false", err);
	*ret = json_object_get_boolean(v);
	return 0;
}

static int read_text(const struct banger_config *c, struct pull_host *h, const char *key,
	struct json_object *v, char **ret, struct banger_error *err)
{
	const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;

	if (!s || !*s || strlen(s) != (size_t)json_object_get_string_len(v))
		return refuse(c, h->host, key, "must be a string", err);
	free(*ret);
	*ret = strdup(s);
	return *ret ? 0 : banger_error_oom(err);
}

static int read_path(const struct banger_config *c, struct pull_host *h, const char *key,
	struct json_object *v, char **ret, struct banger_error *err)
{
	int r = read_text(c, h, key, v, ret, err);

	return r == 0 && (*ret)[0] != '/' ? refuse(c, h->host, key, "must be an absolute path", err)
					  : r;
}

static int read_key(const struct banger_config *c, struct pull_host *h, const char *key,
	struct json_object *v, struct banger_error *err)
{
	int r;

	if (strcmp(key, "plain_http") == 0) {
		r = read_flag(c, h, key, v, &h->plain_http, err);
		h->tls = r == 0 && !h->plain_http;
		return r;
	}
	if (strcmp(key, "insecure") == 0)
		return read_flag(c, h, key, v, &h->insecure, err);
	if (strcmp(key, "ca_file") == 0)
		return read_path(c, h, key, v, &h->ca_file, err);
	if (strcmp(key, "cert_file") == 0)
		return read_path(c, h, key, v, &h->cert_file, err);
	if (strcmp(key, "key_file") == 0)
		return read_path(c, h, key, v, &h->key_file, err);
	if (strcmp(key, "mirror") == 0) {
		r = read_text(c, h, key, v, &h->mirror, err);
		if (r == 0 && !host_valid(h->mirror))
			return refuse(c, h->host, key, "must be HOST or HOST:PORT", err);
		if (r == 0)
			lower(h->mirror);
		return r;
	}
	return refuse(c, h->host, key,
		"unknown key; there are plain_http, insecure, ca_file, cert_file, key_file and "
		"mirror",
		err);
}

static int read_host(const struct banger_config *c, const char *name, struct json_object *o,
	struct pull_host *h, struct banger_error *err)
{
	if (!host_valid(name))
		return refuse(c, name, NULL, "not a host, which is HOST or HOST:PORT", err);
	h->host = strdup(name);
	if (!h->host)
		return banger_error_oom(err);
	lower(h->host);
	if (!json_object_is_type(o, json_type_object))
		return refuse(c, name, NULL, "must be an object", err);
	json_object_object_foreach (o, key, v) {
		int r = read_key(c, h, key, v, err);
		if (r < 0)
			return r;
	}
	if (h->plain_http && (h->insecure || h->ca_file || h->cert_file || h->key_file))
		return refuse(c, name, NULL,
			"plain_http has no certificates: leave out insecure, ca_file, cert_file "
			"and "
			"key_file",
			err);
	if (!h->cert_file != !h->key_file)
		return refuse(c, name, NULL,
			"cert_file and key_file go together: one is of no use without the other",
			err);
	if (h->mirror && strcmp(h->mirror, h->host) == 0)
		return refuse(c, name, "mirror", "is the host itself", err);
	return 0;
}

int pull_settings_new(
	const struct banger_config *config, struct pull_settings **ret, struct banger_error *err)
{
	_cleanup_pull_settings_ struct pull_settings *s = calloc(1, sizeof(*s));
	_cleanup_json_ struct json_object *o = NULL;

	if (!s)
		return banger_error_oom(err);
	if (config->registries) {
		int r = banger_json_parse(config->registries, strlen(config->registries), &o, err);
		if (r == 0 && !json_object_is_type(o, json_type_object))
			r = banger_error_set(err, BANGER_BAD_REQUEST, "must be an object");
		if (r < 0) {
			banger_error_prefix(
				err, "%s: \"registries\"", config->file ?: "the configuration");
			return r;
		}
		s->hosts = calloc((size_t)json_object_object_length(o) + 1, sizeof(*s->hosts));
		if (!s->hosts)
			return banger_error_oom(err);
		json_object_object_foreach (o, name, v) {
			r = read_host(config, name, v, &s->hosts[s->n++], err);
			if (r < 0)
				return r;
		}
	}
	*ret = TAKE_PTR(s);
	return 0;
}

void pull_settings_freep(struct pull_settings **s)
{
	if (!*s)
		return;
	for (size_t i = 0; i < (*s)->n; i++) {
		free((*s)->hosts[i].host);
		free((*s)->hosts[i].ca_file);
		free((*s)->hosts[i].cert_file);
		free((*s)->hosts[i].key_file);
		free((*s)->hosts[i].mirror);
	}
	free((*s)->hosts);
	free(*s);
}

int pull_settings_check(const struct banger_config *config, struct banger_error *err)
{
	_cleanup_pull_settings_ struct pull_settings *s = NULL;

	return pull_settings_new(config, &s, err);
}

/* Length without the port, when it is that of the entry's scheme and says nothing. */
static size_t host_len(const struct pull_host *h, const char *host)
{
	const char *port = h->plain_http ? ":80" : ":443";
	size_t n = strlen(host), len = strlen(port);

	return n > len && strcmp(host + n - len, port) == 0 ? n - len : n;
}

static bool is_of(const struct pull_host *h, const char *host)
{
	size_t n = host_len(h, host);

	return n == host_len(h, h->host) && strncasecmp(host, h->host, n) == 0;
}

const struct pull_host *pull_settings_find(const struct pull_settings *s, const char *host)
{
	static const struct pull_host nothing = {0};

	/* The name of Docker's registry is not that of its server. */
	if (strcmp(host, "registry-1.docker.io") == 0)
		host = "docker.io";
	for (size_t i = 0; i < s->n; i++)
		if (is_of(&s->hosts[i], host))
			return &s->hosts[i];
	return &nothing;
}

bool pull_host_loopback(const char *host)
{
	char name[256];
	struct in_addr v4;
	struct in6_addr v6;

	if (host[0] == '[') {
		const char *end = strchr(host, ']');
		if (!end || end - host > INET6_ADDRSTRLEN)
			return false;
		snprintf(name, sizeof(name), "%.*s", (int)(end - host - 1), host + 1);
		return inet_pton(AF_INET6, name, &v6) == 1 && IN6_IS_ADDR_LOOPBACK(&v6);
	}
	size_t n = strcspn(host, ":");
	if (n >= sizeof(name))
		return false;
	snprintf(name, sizeof(name), "%.*s", (int)n, host);
	if (n > 0 && name[n - 1] == '.')
		name[n - 1] = '\0';
	if (strcasecmp(name, "localhost") == 0)
		return true;
	return inet_pton(AF_INET, name, &v4) == 1 && ntohl(v4.s_addr) >> 24 == 127;
}

/* Not the code of the errno: a missing file is no missing image. */
static int unreadable(const char *shown, struct banger_error *err)
{
	return banger_error_set(err, BANGER_BAD_REQUEST, "cannot read %s: %s", shown,
		strerrordesc_np(errno) ?: "unknown error");
}

static int append_file(int dirfd, const char *name, const char *shown, char **text, size_t *len,
	struct banger_error *err)
{
	_cleanup_close_ int fd = openat(dirfd, name, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 || fstat(fd, &st) < 0)
		return unreadable(shown, err);
	if (!S_ISREG(st.st_mode) || st.st_size > CERTIFICATES_MAX)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s is not a file of at most %d bytes", shown, CERTIFICATES_MAX);
	char *more = realloc(*text, *len + (size_t)st.st_size + 2);
	if (!more)
		return banger_error_oom(err);
	*text = more;
	size_t end = *len + (size_t)st.st_size;
	ssize_t n;
	while (*len < end && (n = read(fd, more + *len, end - *len)) != 0) {
		if (n < 0)
			return unreadable(shown, err);
		*len += (size_t)n;
	}
	more[(*len)++] = '\n';
	more[*len] = '\0';
	return 0;
}

static int append_directory(
	const char *base, const char *host, char **text, size_t *len, struct banger_error *err)
{
	_cleanup_free_ char *path = NULL;
	_cleanup_closedir_ DIR *d = NULL;

	if (asprintf(&path, "%s/%s", base, host) < 0) {
		path = NULL;
		return banger_error_oom(err);
	}
	d = opendir(path);
	if (!d)
		return 0; /* usually there is none; and what cannot be read is not trusted */
	for (struct dirent *e; (e = readdir(d));) {
		size_t n = strlen(e->d_name);
		if (n < 5 || strcmp(e->d_name + n - 4, ".crt") != 0)
			continue;
		_cleanup_free_ char *shown = NULL;
		if (asprintf(&shown, "%s/%s", path, e->d_name) < 0)
			shown = NULL;
		int r = append_file(dirfd(d), e->d_name, shown ?: path, text, len, err);
		if (r < 0)
			return r;
		if (*len > CERTIFICATES_MAX)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"there are too many certificates in %s", path);
	}
	return 0;
}

int pull_host_certificates(
	const struct pull_settings *s, const char *host, char **ret, struct banger_error *err)
{
	const struct pull_host *h = pull_settings_find(s, host);
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	int r = 0;

	/* It is about to become part of a path. */
	if (!host_valid(host) || host[0] == '.')
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" is not a host", host);
	if (h->ca_file)
		r = append_file(AT_FDCWD, h->ca_file, h->ca_file, &text, &len, err);
	if (r == 0)
		r = append_directory("/etc/containers/certs.d", host, &text, &len, err);
	if (r == 0)
		r = append_directory("/etc/docker/certs.d", host, &text, &len, err);
	if (r == 0)
		*ret = TAKE_PTR(text);
	return r;
}

/* ---- who we are */

/* The first NAME.cert of a directory, by name: NAME in *ret, NULL when there is none. */
static int first_cert(DIR *d, char **ret, struct banger_error *err)
{
	_cleanup_free_ char *first = NULL;

	for (struct dirent *e; (e = readdir(d));) {
		size_t n = strlen(e->d_name);
		if (n < 6 || strcmp(e->d_name + n - 5, ".cert") != 0 ||
			(first && strcmp(e->d_name, first) >= 0))
			continue;
		free(first);
		first = strdup(e->d_name);
		if (!first)
			return banger_error_oom(err);
	}
	if (first)
		first[strlen(first) - strlen(".cert")] = 0;
	*ret = TAKE_PTR(first);
	return 0;
}

/* One file as a text of its own. */
static int read_pem(const char *path, char **ret, struct banger_error *err)
{
	size_t len = 0;

	return append_file(AT_FDCWD, path, path, ret, &len, err);
}

static int find_identity(const char *base, const char *host, char **ret_cert, char **ret_key,
	struct banger_error *err)
{
	_cleanup_free_ char *path = NULL, *name = NULL, *cert = NULL, *key = NULL;
	_cleanup_closedir_ DIR *d = NULL;

	if (asprintf(&path, "%s/%s", base, host) < 0) {
		path = NULL;
		return banger_error_oom(err);
	}
	d = opendir(path);
	int r = d ? first_cert(d, &name, err) : 0;
	if (r < 0 || !name)
		return r;
	if (asprintf(&cert, "%s/%s.cert", path, name) < 0) {
		cert = NULL;
		return banger_error_oom(err);
	}
	if (asprintf(&key, "%s/%s.key", path, name) < 0) {
		key = NULL;
		return banger_error_oom(err);
	}
	*ret_cert = TAKE_PTR(cert);
	*ret_key = TAKE_PTR(key);
	return 0;
}

int pull_host_identity(const struct pull_settings *s, const char *host, char **ret_cert,
	char **ret_key, struct banger_error *err)
{
	static const char *const bases[] = {"/etc/containers/certs.d", "/etc/docker/certs.d"};
	const struct pull_host *h = pull_settings_find(s, host);
	_cleanup_free_ char *cert = NULL, *key = NULL, *cert_path = NULL, *key_path = NULL;
	int r = 0;

	if (!host_valid(host) || host[0] == '.')
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" is not a host", host);
	for (size_t i = 0; !h->cert_file && i < ELEMENTSOF(bases) && r == 0 && !cert_path; i++)
		r = find_identity(bases[i], host, &cert_path, &key_path, err);
	if (r < 0 || (!h->cert_file && !cert_path))
		return r;
	r = read_pem(cert_path ?: h->cert_file, &cert, err);
	if (r == 0)
		r = read_pem(key_path ?: h->key_file, &key, err);
	if (r < 0) {
		banger_error_prefix(err, "the client certificate for %s", host);
		return r;
	}
	*ret_cert = TAKE_PTR(cert);
	*ret_key = TAKE_PTR(key);
	return 0;
}
