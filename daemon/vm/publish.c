/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Whether a port is free is tried by taking it for a moment, because QEMU's own words for one that is not come when
 * the VM has been started. Between the trial and QEMU somebody else may take it; then they are QEMU's words.
 */
#include "vm/publish.h"
#include <arpa/inet.h>
#include <banger/wire.h>
#include <string.h>
#include <sys/socket.h>

static bool take_port(const char *s, size_t n, uint16_t *ret)
{
	char text[8] = "";

	if (n == 0 || n > 5 || strspn(s, "0123456789") < n)
		return false;
	memcpy(text, s, n);
	long v = strtol(text, NULL, 10);
	*ret = (uint16_t)v;
	return v >= 1 && v <= 65535;
}

static bool take_address(const char *s, size_t n, char ret[46])
{
	struct in_addr a;

	if (n >= 46)
		return false;
	memcpy(ret, s, n);
	ret[n] = '\0';
	return inet_pton(AF_INET, ret, &a) == 1;
}

static bool parse(const char *word, struct vmm_publish *p)
{
	const char *slash = strchr(word, '/');
	size_t n = slash ? (size_t)(slash - word) : strlen(word);
	const char *guest = memrchr(word, ':', n);

	if (!guest || (slash && strcmp(slash, "/tcp") != 0 && strcmp(slash, "/udp") != 0))
		return false;
	p->udp = slash && slash[1] == 'u';
	const char *host = memrchr(word, ':', guest - word);
	strcpy(p->address, "127.0.0.1");
	if (host && !take_address(word, host - word, p->address))
		return false;
	host = host ? host + 1 : word;
	return take_port(guest + 1, word + n - guest - 1, &p->guest) &&
	       take_port(host, guest - host, &p->host);
}

int publish_add(struct publish *p, const char *word, struct banger_error *err)
{
	struct vmm_publish one = {0};

	if (p->n == PUBLISH_MAX)
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "more than %d published ports", PUBLISH_MAX);
	if (!parse(word, &one))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%s\" is no published port: it must be [ADDRESS:]HOST:GUEST[/tcp|/udp], "
			"with "
			"an IPv4 address and ports from 1 to 65535",
			word);
	for (size_t i = 0; i < p->n; i++)
		if (p->v[i].udp == one.udp && p->v[i].host == one.host &&
			strcmp(p->v[i].address, one.address) == 0)
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"port %u of %s is published twice", one.host, one.address);
	p->v[p->n++] = one;
	return 0;
}

int publish_to_text(const struct publish *p, char **ret)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();
	char *text = NULL;

	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < p->n; i++) {
		char word[80];
		struct json_object *s;

		snprintf(word, sizeof(word), "%s:%u:%u/%s", p->v[i].address, p->v[i].host,
			p->v[i].guest, p->v[i].udp ? "udp" : "tcp");
		s = json_object_new_string(word);
		if (!s || json_object_array_add(list, s) < 0) {
			json_object_put(s);
			return -ENOMEM;
		}
	}
	if (p->n > 0) {
		text = strdup(json_object_to_json_string_ext(
			list, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE));
		if (!text)
			return -ENOMEM;
	}
	*ret = text;
	return 0;
}

int publish_from_text(const char *text, struct publish *ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *list = text ? json_tokener_parse(text) : NULL;
	struct publish p = {.n = 0};

	for (size_t i = 0; list && i < json_object_array_length(list); i++) {
		int r = publish_add(
			&p, json_object_get_string(json_object_array_get_idx(list, i)) ?: "", err);
		if (r < 0)
			return r;
	}
	*ret = p;
	return 0;
}

int publish_check(const struct publish *p, struct banger_error *err)
{
	for (size_t i = 0; i < p->n; i++) {
		const struct vmm_publish *v = &p->v[i];
		struct sockaddr_in a = {.sin_family = AF_INET, .sin_port = htons(v->host)};
		int on = 1;
		_cleanup_close_ int fd =
			socket(AF_INET, (v->udp ? SOCK_DGRAM : SOCK_STREAM) | SOCK_CLOEXEC, 0);

		inet_pton(AF_INET, v->address, &a.sin_addr);
		if (!v->udp && fd >= 0)
			setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof(on));
		if (fd >= 0 && bind(fd, (struct sockaddr *)&a, sizeof(a)) == 0)
			continue;
		if (errno == EADDRINUSE)
			return banger_error_set(
				err, BANGER_BUSY, "port %u of %s is in use", v->host, v->address);
		if (errno == EADDRNOTAVAIL)
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"port %u of %s cannot be published: this host has no such address",
				v->host, v->address);
		return banger_error_set_errno(
			err, errno, "port %u of %s cannot be published", v->host, v->address);
	}
	return 0;
}
