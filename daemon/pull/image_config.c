/* SPDX-License-Identifier: Apache-2.0 */
/*
 * An image's configuration: the digests of its layers as they are unpacked, and how its maker meant it to
 * be run, brought into the form that image.json has.
 *
 * The diff_ids are what the unpacked tree is checked against, so their number and form must be right.
 * What the maker meant is put together here and then goes through the same check as what a person
 * writes (banger_image_config_parse): there is one opinion on what may be in image.json. Labels are
 * the one thing that is cut: build tools keep whole bills of materials in them, and a pull need not
 * fail for that.
 */
#include <ctype.h>
#include <string.h>
#include <time.h>
#include <banger/model.h>
#include "pull/parts.h"

#define LABELS_MAX                                                                                 \
	(32 * 1024) /* bytes of names and values together, of the 64 KiB of a configuration */
#define USER_MAX 255

/* ---- created */

/* Exactly n digits at *s. */
static bool number(const char **s, int n, int lowest, int highest, int *ret)
{
	int v = 0;

	for (int i = 0; i < n; i++, (*s)++) {
		if (!isdigit((unsigned char)**s))
			return false;
		v = v * 10 + **s - '0';
	}
	*ret = v;
	return v >= lowest && v <= highest;
}

static bool literal(const char **s, char c)
{
	return *(*s)++ == c;
}

/* "Z" or ±HH:MM to its end, as seconds. */
static bool offset(const char *s, int *ret)
{
	int h, m, sign = *s == '-' ? -1 : 1;

	*ret = 0;
	if (*s == 'Z' || *s == 'z')
		return s[1] == '\0';
	if (*s != '+' && *s != '-')
		return false;
	s++;
	if (!number(&s, 2, 0, 23, &h) || !literal(&s, ':') || !number(&s, 2, 0, 59, &m) || *s)
		return false;
	*ret = sign * (h * 3600 + m * 60);
	return true;
}

/* RFC 3339 to seconds; what is before 1970 (tools write the year 1 for "never") is 0. */
static bool parse_created(const char *s, int64_t *ret)
{
	struct tm t = {0};
	int zone, year, month;

	if (!number(&s, 4, 0, 9999, &year) || !literal(&s, '-') || !number(&s, 2, 1, 12, &month) ||
		!literal(&s, '-') || !number(&s, 2, 1, 31, &t.tm_mday) ||
		(*s != 'T' && *s != 't' && *s != ' '))
		return false;
	s++;
	if (!number(&s, 2, 0, 23, &t.tm_hour) || !literal(&s, ':') ||
		!number(&s, 2, 0, 59, &t.tm_min) || !literal(&s, ':') ||
		!number(&s, 2, 0, 60, &t.tm_sec))
		return false;
	if (*s == '.') {
		size_t n = strspn(s + 1, "0123456789");

		if (n == 0)
			return false;
		s += 1 + n;
	}
	if (!offset(s, &zone))
		return false;
	t.tm_year = year - 1900;
	t.tm_mon = month - 1;
	t.tm_sec -= t.tm_sec == 60; /* a leap second would be the next minute's first */
	int64_t at = timegm(&t) - zone;
	*ret = at > 0 ? at : 0;
	return t.tm_mon == month - 1; /* timegm() turns February 30 into March */
}

static int take_created(
	struct json_object *o, struct pull_image_config *c, struct banger_error *err)
{
	const char *s = NULL;
	int r = field_string(o, "", "created", false, 64, &s, err);

	if (r < 0 || !s || !*s)
		return r;
	if (!parse_created(s, &c->created))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"created, \"%s\", is not a time like 2026-03-01T10:00:00Z", s);
	return 0;
}

/* ---- rootfs */

static int take_diff_ids(struct json_object *list, size_t n_layers, struct pull_image_config *c,
	struct banger_error *err)
{
	size_t n = list ? json_object_array_length(list) : 0;

	if (n != n_layers)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"rootfs.diff_ids has %zu entries, but the manifest %zu layers", n,
			n_layers);
	c->diff_ids = n ? calloc(n, sizeof(*c->diff_ids)) : NULL;
	if (n && !c->diff_ids)
		return banger_error_oom(err);
	for (size_t i = 0; i < n; i++) {
		struct json_object *v = json_object_array_get_idx(list, i);
		char what[64];

		snprintf(what, sizeof(what), "rootfs.diff_ids[%zu]", i);
		if (!json_object_is_type(v, json_type_string))
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "%s is not a string", what);
		int r = pull_digest_check(what, json_object_get_string(v), err);
		if (r < 0)
			return r;
		strcpy(c->diff_ids[i], json_object_get_string(v));
	}
	c->n = n;
	return 0;
}

static int take_rootfs(struct json_object *o, size_t n_layers, struct pull_image_config *c,
	struct banger_error *err)
{
	struct json_object *rootfs = NULL, *list = NULL;
	const char *type = NULL;
	int r;

	if ((r = field_object(o, "", "rootfs", n_layers > 0, &rootfs, err)) < 0)
		return r;
	if (rootfs && ((r = field_string(rootfs, "rootfs.", "type", true, 64, &type, err)) < 0 ||
			      (r = field_array(rootfs, "rootfs.", "diff_ids", n_layers > 0, &list,
				       err)) < 0))
		return r;
	if (type && strcmp(type, "layers") != 0)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"rootfs.type is \"%s\"; only \"layers\" is known", type);
	return take_diff_ids(list, n_layers, c, err);
}

/* ---- config */

static int put(
	struct json_object *to, const char *key, struct json_object *v, struct banger_error *err)
{
	return banger_json_add(to, key, v) < 0 ? banger_error_oom(err) : 0;
}

static int copy_list(struct json_object *from, const char *key, struct json_object *to,
	const char *as, struct banger_error *err)
{
	struct json_object *v = NULL;
	int r = field_array(from, "config.", key, false, &v, err);

	return r < 0 || !v || json_object_array_length(v) == 0
		       ? r
		       : put(to, as, json_object_get(v), err);
}

static int copy_string(struct json_object *from, const char *key, size_t max,
	struct json_object *to, const char *as, struct banger_error *err)
{
	const char *s = NULL;
	int r = field_string(from, "config.", key, false, max, &s, err);

	return r < 0 || !s || !*s ? r : put(to, as, json_object_new_string(s), err);
}

static int copy_labels(struct json_object *from, struct json_object *to,
	struct pull_image_config *c, struct banger_error *err)
{
	_cleanup_json_ struct json_object *kept = json_object_new_object();
	struct json_object *labels = NULL;
	size_t bytes = 0;
	int r = field_object(from, "config.", "Labels", false, &labels, err);

	if (r < 0 || !labels)
		return r;
	if (!kept)
		return banger_error_oom(err);
	json_object_object_foreach (labels, key, v) {
		if (!json_object_is_type(v, json_type_string))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"config.Labels: the value of \"%.100s\" is not a string", key);
		size_t n = strlen(json_object_to_json_string(v)) + strlen(key);
		if (n > LABELS_MAX - bytes) {
			c->labels_left_out++;
			continue;
		}
		bytes += n;
		if ((r = put(kept, key, json_object_get(v), err)) < 0)
			return r;
	}
	return json_object_object_length(kept) ? put(to, "labels", TAKE_PTR(kept), err) : 0;
}

/* "80", "80/tcp", "53/UDP" to "80/tcp"; the model looks at the rest. */
static struct json_object *port_text(const char *key)
{
	char text[32];

	if (snprintf(text, sizeof(text), "%s%s", key, strchr(key, '/') ? "" : "/tcp") >=
		(int)sizeof(text))
		return json_object_new_string(key);
	for (char *p = text; *p; p++)
		*p = tolower((unsigned char)*p);
	return json_object_new_string(text);
}

/* The keys of an object (Go's way to write a set) as a list. */
static int copy_keys(struct json_object *from, const char *key, struct json_object *to,
	const char *as, struct json_object *(*text)(const char *), struct banger_error *err)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();
	struct json_object *set = NULL;
	int r = field_object(from, "config.", key, false, &set, err);

	if (r < 0 || !set || json_object_object_length(set) == 0)
		return r;
	if (!list)
		return banger_error_oom(err);
	json_object_object_foreach (set, member, v) {
		(void)v;
		struct json_object *s = text(member);

		if (!s || json_object_array_add(list, s) < 0) {
			json_object_put(s);
			return banger_error_oom(err);
		}
	}
	return put(to, as, TAKE_PTR(list), err);
}

static int fill(struct json_object *from, struct json_object *to, struct pull_image_config *c,
	struct banger_error *err)
{
	int r;

	if ((r = copy_list(from, "Entrypoint", to, "entrypoint", err)) < 0 ||
		(r = copy_list(from, "Cmd", to, "cmd", err)) < 0 ||
		(r = copy_list(from, "Env", to, "env", err)) < 0 ||
		(r = copy_string(from, "User", USER_MAX, to, "user", err)) < 0 ||
		(r = copy_string(from, "WorkingDir", 4095, to, "working_dir", err)) < 0 ||
		(r = copy_labels(from, to, c, err)) < 0 ||
		(r = copy_keys(from, "ExposedPorts", to, "exposed_ports", port_text, err)) < 0 ||
		(r = copy_keys(from, "Volumes", to, "volumes", json_object_new_string, err)) < 0)
		return r;
	return copy_string(from, "StopSignal", 32, to, "stop_signal", err);
}

/* "root", "0", "0:0", "root:adm" and nothing. */
static bool is_root(const char *user)
{
	size_t n = user ? strcspn(user, ":") : 0;

	return n == 0 || (n == 1 && user[0] == '0') || (n == 4 && strncmp(user, "root", 4) == 0);
}

static int take_user(const char *user, struct pull_image_config *c, struct banger_error *err)
{
	c->user = user ? strdup(user) : NULL;
	if (is_root(user))
		c->home = strdup("/root");
	else if (asprintf(&c->home, "~%s", user) < 0)
		c->home = NULL;
	return (user && !c->user) || !c->home ? banger_error_oom(err) : 0;
}

static int take_config(struct json_object *o, struct pull_image_config *c, struct banger_error *err)
{
	_cleanup_json_ struct json_object *to = json_object_new_object(),
					  *doc = json_object_new_object();
	_cleanup_free_ char *kernel = NULL;
	struct json_object *from = NULL;
	int r = field_object(o, "", "config", false, &from, err);

	if (r < 0)
		return r;
	if (!to || !doc)
		return banger_error_oom(err);
	if (from && (r = fill(from, to, c, err)) < 0)
		return r;
	if ((r = take_user(banger_json_str(to, "user"), c, err)) < 0 ||
		(r = put(doc, "config", json_object_get(to), err)) < 0)
		return r;
	if ((r = banger_image_config_parse(doc, &kernel, &c->config, err)) < 0)
		banger_error_prefix(err, "config");
	return r;
}

/* ---- the document */

static int parse(const char *text, size_t len, size_t n_layers, struct pull_image_config *c,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;
	int r = fields_parse(text, len, PULL_DOCUMENT_MAX, &o, err);

	if (r < 0 || (r = platform_from_json(o, "", &c->platform, err)) < 0 ||
		(r = take_created(o, c, err)) < 0 || (r = take_rootfs(o, n_layers, c, err)) < 0)
		return r;
	return take_config(o, c, err);
}

int pull_image_config_parse(const char *text, size_t len, size_t n_layers,
	struct pull_image_config *ret, struct banger_error *err)
{
	_cleanup_pull_image_config_ struct pull_image_config c = {0};
	int r = parse(text, len, n_layers, &c, err);

	if (r < 0)
		return r;
	*ret = c;
	c = (struct pull_image_config){0};
	return 0;
}

void pull_image_config_done(struct pull_image_config *c)
{
	free(c->diff_ids);
	free(c->config);
	free(c->user);
	free(c->home);
	*c = (struct pull_image_config){0};
}
