/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Names, ids and the documents of the registry: what may be in them, and the way to JSON and back.
 *
 * What comes from JSON has come from a peer, a file or a person: every field is checked for type,
 * form and length, and a refusal names the field. Documents that we make ourselves have their
 * members in one fixed order.
 */
#include <banger/log.h>
#include <banger/model.h>
#include <ctype.h>
#include <string.h>
#include <sys/random.h>

#define SOURCE_MAX 1024
#define CONFIG_MAX (64 * 1024)
#define CONFIG_LIST_MAX 1024

/* ---- names and ids */

static const char name_chars[] =
	"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789._-";

bool banger_name_valid(const char *s)
{
	if (!s || !s[0] || strchr("._-", s[0]))
		return false;
	size_t n = strspn(s, name_chars);

	return s[n] == '\0' && n <= BANGER_NAME_MAX;
}

int banger_name_check(const char *what, const char *s, struct banger_error *err)
{
	if (!s || !*s)
		return banger_error_set(err, BANGER_BAD_REQUEST, "%s name is required", what);
	if (strlen(s) > BANGER_NAME_MAX)
		return banger_error_set(err, BANGER_NAME_TOO_LONG,
			"%s name is longer than %d bytes: \"%.32s…\"", what, BANGER_NAME_MAX, s);
	if (!banger_name_valid(s))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"%s name \"%s\" is not allowed: it must start with a letter or digit and "
			"hold only letters, digits, '.', '_' and '-'",
			what, s);
	return 0;
}

bool banger_id_valid(const char *s)
{
	return s && strspn(s, "0123456789abcdef") == BANGER_ID_LEN && s[BANGER_ID_LEN] == '\0';
}

void banger_id_mint(char ret[BANGER_ID_LEN + 1])
{
	static const char hex[] = "0123456789abcdef";
	unsigned char raw[BANGER_ID_LEN / 2];

	while (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
		;
	for (size_t i = 0; i < sizeof(raw); i++) {
		ret[2 * i] = hex[raw[i] >> 4];
		ret[2 * i + 1] = hex[raw[i] & 15];
	}
	ret[BANGER_ID_LEN] = '\0';
}

int banger_file_name_check(const char *s, struct banger_error *err)
{
	if (!s || !*s)
		return banger_error_set(err, BANGER_BAD_REQUEST, "file name is required");
	if (strlen(s) > 255)
		return banger_error_set(
			err, BANGER_NAME_TOO_LONG, "file name is longer than 255 bytes");
	if (strcmp(s, ".") == 0 || strcmp(s, "..") == 0 || strchr(s, '/'))
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" is not a file name", s);
	if (!banger_utf8_valid(s, strlen(s)))
		return banger_error_set(err, BANGER_BAD_REQUEST, "file name is not valid UTF-8");
	for (const char *p = s; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7F)
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "file name has a control character");
	return 0;
}

const char *banger_image_state_name(enum banger_image_state s)
{
	return s == BANGER_PUBLISHED ? "published" : "draft";
}

/* ---- reading fields */

/* Copy a required or optional string of limited length into an array. */
static int take_text(struct json_object *o, const char *key, bool required, char *to, size_t size,
	struct banger_error *err)
{
	struct json_object *v = banger_json_get(o, key);
	const char *s = banger_json_str(o, key);

	if (!v && !required) {
		to[0] = '\0';
		return 0;
	}
	if (!s || strlen(s) >= size)
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" %s", key,
			!v  ? "is missing"
			: s ? "is too long"
			    : "is not a string");
	strcpy(to, s);
	return 0;
}

static int take_string(
	struct json_object *o, const char *key, size_t max, char **to, struct banger_error *err)
{
	struct json_object *v = banger_json_get(o, key);
	const char *s = banger_json_str(o, key);

	*to = NULL;
	if (!v)
		return 0;
	if (!s || strlen(s) > max)
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" %s", key,
			s ? "is too long" : "is not a string");
	*to = strdup(s);
	return *to ? 0 : banger_error_oom(err);
}

static int take_time(struct json_object *o, const char *key, bool required, int64_t *to,
	struct banger_error *err)
{
	struct json_object *v = banger_json_get(o, key);

	*to = 0;
	if (!v && !required)
		return 0;
	if (banger_time_parse(banger_json_str(o, key), to) < 0)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%s\" is not a time like 2026-03-01T10:00:00.000000Z", key);
	return 0;
}

static int bad(const char *key, struct banger_error *err)
{
	return banger_error_set(
		err, BANGER_BAD_REQUEST, "\"%s\" is missing or not well-formed", key);
}

static bool digest_valid(const char *s)
{
	return strncmp(s, "sha256:", 7) == 0 && strspn(s + 7, "0123456789abcdef") == 64 &&
	       s[71] == '\0';
}

static int add_time(struct json_object *o, const char *key, int64_t us)
{
	char buf[BANGER_TIME_LEN + 1];

	return us ? banger_json_add_str(o, key, banger_time_format(us, buf)) : 0;
}

/* ---- images */

void banger_image_done(struct banger_image *i)
{
	free(i->source);
	free(i->kernel);
	free(i->config);
	*i = (struct banger_image){0};
}

static int dup_into(char **to, const char *from)
{
	*to = from ? strdup(from) : NULL;
	return from && !*to ? -ENOMEM : 0;
}

int banger_image_copy(const struct banger_image *from, struct banger_image *ret)
{
	struct banger_image i = *from;

	i.source = i.kernel = i.config = NULL;
	if (dup_into(&i.source, from->source) < 0 || dup_into(&i.kernel, from->kernel) < 0 ||
		dup_into(&i.config, from->config) < 0) {
		banger_image_done(&i);
		return -ENOMEM;
	}
	*ret = i;
	return 0;
}

struct json_object *banger_image_to_json(const struct banger_image *i)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "id", i->id) < 0 ||
		banger_json_add_str(o, "name", i->name) < 0 ||
		banger_json_add_str(o, "state", banger_image_state_name(i->state)) < 0 ||
		banger_json_add_int(o, "generation", i->generation) < 0 ||
		banger_json_add_str(o, "digest", i->digest[0] ? i->digest : NULL) < 0 ||
		(i->size >= 0 && banger_json_add_int(o, "size", i->size) < 0) ||
		banger_json_add_str(o, "source", i->source) < 0 ||
		banger_json_add_str(o, "op_id", i->op_id[0] ? i->op_id : NULL) < 0 ||
		add_time(o, "created", i->created_us) < 0 ||
		add_time(o, "published", i->published_us) < 0 ||
		banger_json_add_str(o, "kernel", i->kernel) < 0)
		return NULL;
	if (i->config && banger_json_add(o, "config", json_tokener_parse(i->config)) < 0)
		return NULL;
	if (i->damaged && banger_json_add_bool(o, "damaged", true) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static int image_fields(struct json_object *o, struct banger_image *i, struct banger_error *err)
{
	const char *state = banger_json_str(o, "state");
	struct json_object *config = banger_json_get(o, "config");
	int r = 0;

	if (!banger_id_valid(banger_json_str(o, "id")))
		return bad("id", err);
	if (!banger_name_valid(banger_json_str(o, "name")))
		return bad("name", err);
	strcpy(i->id, banger_json_str(o, "id"));
	strcpy(i->name, banger_json_str(o, "name"));
	if (!state || (strcmp(state, "draft") != 0 && strcmp(state, "published") != 0))
		return bad("state", err);
	i->state = state[0] == 'p' ? BANGER_PUBLISHED : BANGER_DRAFT;
	i->generation = banger_json_int(o, "generation", -1);
	if (i->generation < 0)
		return bad("generation", err);
	i->damaged = banger_json_bool(o, "damaged", false);
	i->size = banger_json_int(o, "size", -1);
	if (i->size < -1)
		return bad("size", err);
	if ((r = take_text(o, "digest", false, i->digest, sizeof(i->digest), err)) < 0 ||
		(r = take_text(o, "op_id", false, i->op_id, sizeof(i->op_id), err)) < 0 ||
		(r = take_string(o, "source", SOURCE_MAX, &i->source, err)) < 0 ||
		(r = take_string(o, "kernel", BANGER_NAME_MAX, &i->kernel, err)) < 0 ||
		(r = take_time(o, "created", true, &i->created_us, err)) < 0 ||
		(r = take_time(o, "published", false, &i->published_us, err)) < 0)
		return r;
	if (i->digest[0] && !digest_valid(i->digest))
		return bad("digest", err);
	if (i->op_id[0] && !banger_op_id_valid(i->op_id))
		return bad("op_id", err);
	if (i->kernel && !banger_name_valid(i->kernel))
		return bad("kernel", err);
	if (!config)
		return 0;
	if (!json_object_is_type(config, json_type_object))
		return bad("config", err);
	i->config = strdup(json_object_to_json_string_ext(
				   config, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE)
				   ?: "");
	return i->config && i->config[0] ? 0 : banger_error_oom(err);
}

int banger_image_from_json(
	struct json_object *o, struct banger_image *ret, struct banger_error *err)
{
	_cleanup_image_ struct banger_image i = {.size = -1};

	if (!json_object_is_type(o, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "an image is not an object");
	int r = image_fields(o, &i, err);
	if (r < 0) {
		banger_error_prefix(err, "malformed image");
		return r;
	}
	*ret = i;
	i = (struct banger_image){0};
	return 0;
}

/* ---- what a person may set */

static int check_string_list(
	const char *key, struct json_object *v, bool env, struct banger_error *err)
{
	if (!json_object_is_type(v, json_type_array) ||
		json_object_array_length(v) > CONFIG_LIST_MAX)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%s\" is not a list of at most %d strings", key, CONFIG_LIST_MAX);
	for (size_t i = 0; i < json_object_array_length(v); i++) {
		struct json_object *e = json_object_array_get_idx(v, i);
		const char *s =
			json_object_is_type(e, json_type_string) ? json_object_get_string(e) : NULL;

		if (!s || strlen(s) != (size_t)json_object_get_string_len(e))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"\"%s\": entry %zu is not a string", key, i);
		if (env && (!strchr(s, '=') || s[0] == '='))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"\"%s\": \"%s\" is not of the form NAME=VALUE", key, s);
	}
	return 0;
}

/* "80/tcp"; ranges stand in no image. */
static bool port_valid(const char *s)
{
	size_t n = strspn(s, "0123456789");

	return n >= 1 && n <= 5 && s[0] != '0' && atoi(s) <= 65535 &&
	       (strcmp(s + n, "/tcp") == 0 || strcmp(s + n, "/udp") == 0 ||
		       strcmp(s + n, "/sctp") == 0);
}

static bool absolute(const char *s)
{
	return s[0] == '/';
}

static int check_each(const char *key, struct json_object *v, bool (*valid)(const char *),
	const char *what, struct banger_error *err)
{
	int r = check_string_list(key, v, false, err);

	for (size_t i = 0; r == 0 && i < json_object_array_length(v); i++) {
		const char *s = json_object_get_string(json_object_array_get_idx(v, i));

		if (!valid(s))
			r = banger_error_set(err, BANGER_BAD_REQUEST,
				"\"%s\": \"%s\" is not %s", key, s, what);
	}
	return r;
}

/* SIGTERM, SIGRTMIN+3, or a number. */
static bool signal_valid(const char *s)
{
	size_t digits = strspn(s, "0123456789");

	if (digits && !s[digits])
		return digits <= 2 && atoi(s) >= 1 && atoi(s) <= 64;
	return strncmp(s, "SIG", 3) == 0 && s[3] && strlen(s) <= 16 &&
	       s[strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789+-")] == '\0';
}

static int check_config_field(const char *key, struct json_object *v, struct banger_error *err)
{
	if (strcmp(key, "entrypoint") == 0 || strcmp(key, "cmd") == 0)
		return check_string_list(key, v, false, err);
	if (strcmp(key, "env") == 0)
		return check_string_list(key, v, true, err);
	if (strcmp(key, "exposed_ports") == 0)
		return check_each(key, v, port_valid, "a port like 80/tcp", err);
	if (strcmp(key, "volumes") == 0)
		return check_each(key, v, absolute, "an absolute path", err);
	if (strcmp(key, "labels") == 0) {
		if (!json_object_is_type(v, json_type_object))
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "\"labels\" is not an object");
		json_object_object_foreach (v, label, text)
			if (!json_object_is_type(text, json_type_string))
				return banger_error_set(err, BANGER_BAD_REQUEST,
					"\"labels\": the value of \"%s\" is not a string", label);
		return 0;
	}
	const char *s = json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
	if (!s || strlen(s) != (size_t)json_object_get_string_len(v))
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"%s\" is not a string", key);
	if (strcmp(key, "working_dir") == 0 && s[0] != '/')
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "\"working_dir\" is not an absolute path");
	if (strcmp(key, "stop_signal") == 0 && !signal_valid(s))
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"stop_signal\": \"%s\" is not a signal like SIGTERM", s);
	return 0;
}

/* Copy the fields that may be set from `from` into `to`, checked. unknown_is_bad: inside "config".
 */
static int take_config(struct json_object *from, bool unknown_is_bad, struct json_object *to,
	struct banger_error *err)
{
	static const char *const fields[] = {"entrypoint", "cmd", "env", "user", "working_dir",
		"labels", "exposed_ports", "volumes", "stop_signal"};

	json_object_object_foreach (from, key, v) {
		bool known = false;

		for (size_t i = 0; i < ELEMENTSOF(fields); i++)
			known |= strcmp(fields[i], key) == 0;
		if (!known && !unknown_is_bad)
			continue;
		if (!known)
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "\"config\" has no field \"%s\"", key);
		if (!v)
			continue; /* null: not set */
		int r = check_config_field(key, v, err);
		if (r < 0)
			return r;
		if (banger_json_add(to, key, json_object_get(v)) < 0)
			return banger_error_oom(err);
	}
	return 0;
}

int banger_image_config_parse(
	struct json_object *doc, char **ret_kernel, char **ret_config, struct banger_error *err)
{
	_cleanup_json_ struct json_object *config = json_object_new_object();
	_cleanup_free_ char *kernel = NULL, *text = NULL;
	int r;

	if (!config)
		return banger_error_oom(err);
	if (!json_object_is_type(doc, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "image.json is not a JSON object");
	struct json_object *nested = banger_json_get(doc, "config");
	if (nested && !json_object_is_type(nested, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "\"config\" is not an object");
	if (nested && (r = take_config(nested, true, config, err)) < 0)
		return r;
	if ((r = take_config(doc, false, config, err)) < 0 ||
		(r = take_string(doc, "kernel", BANGER_NAME_MAX, &kernel, err)) < 0)
		return r;
	if (kernel && (r = banger_name_check("kernel", kernel, err)) < 0)
		return r;
	if (json_object_object_length(config) > 0) {
		const char *s = json_object_to_json_string_ext(
			config, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE);
		if (s && strlen(s) > CONFIG_MAX)
			return banger_error_set(err, BANGER_TOO_LARGE,
				"the configuration is over %d bytes", CONFIG_MAX);
		text = s ? strdup(s) : NULL;
		if (!text)
			return banger_error_oom(err);
	}
	*ret_kernel = TAKE_PTR(kernel);
	*ret_config = TAKE_PTR(text);
	return 0;
}

/* ---- kernels */

void banger_kernel_done(struct banger_kernel *k)
{
	free(k->source);
	*k = (struct banger_kernel){0};
}

struct json_object *banger_kernel_to_json(const struct banger_kernel *k)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "id", k->id) < 0 ||
		banger_json_add_str(o, "name", k->name) < 0 ||
		banger_json_add_str(o, "version", k->version[0] ? k->version : NULL) < 0 ||
		banger_json_add_str(o, "arch", k->arch[0] ? k->arch : NULL) < 0 ||
		banger_json_add_int(o, "size", k->size) < 0 ||
		banger_json_add_bool(o, "modules", k->modules) < 0 ||
		banger_json_add_bool(o, "initrd", k->initrd) < 0 ||
		banger_json_add_str(o, "source", k->source) < 0 ||
		banger_json_add_str(o, "op_id", k->op_id[0] ? k->op_id : NULL) < 0 ||
		add_time(o, "imported", k->imported_us) < 0 ||
		banger_json_add_int(o, "generation", k->generation) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static int kernel_fields(struct json_object *o, struct banger_kernel *k, struct banger_error *err)
{
	int r;

	if (!banger_id_valid(banger_json_str(o, "id")))
		return bad("id", err);
	if (!banger_name_valid(banger_json_str(o, "name")))
		return bad("name", err);
	strcpy(k->id, banger_json_str(o, "id"));
	strcpy(k->name, banger_json_str(o, "name"));
	k->size = banger_json_int(o, "size", -1);
	k->generation = banger_json_int(o, "generation", -1);
	if (k->size < 0 || k->generation < 0)
		return bad(k->size < 0 ? "size" : "generation", err);
	k->modules = banger_json_bool(o, "modules", false);
	k->initrd = banger_json_bool(o, "initrd", false);
	if ((r = take_text(o, "version", false, k->version, sizeof(k->version), err)) < 0 ||
		(r = take_text(o, "arch", false, k->arch, sizeof(k->arch), err)) < 0 ||
		(r = take_text(o, "op_id", false, k->op_id, sizeof(k->op_id), err)) < 0 ||
		(r = take_time(o, "imported", true, &k->imported_us, err)) < 0)
		return r;
	if (k->op_id[0] && !banger_op_id_valid(k->op_id))
		return bad("op_id", err);
	return take_string(o, "source", SOURCE_MAX, &k->source, err);
}

int banger_kernel_from_json(
	struct json_object *o, struct banger_kernel *ret, struct banger_error *err)
{
	_cleanup_kernel_ struct banger_kernel k = {0};

	if (!json_object_is_type(o, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "a kernel is not an object");
	int r = kernel_fields(o, &k, err);
	if (r < 0) {
		banger_error_prefix(err, "malformed kernel");
		return r;
	}
	*ret = k;
	k = (struct banger_kernel){0};
	return 0;
}

/* ---- operation records */

static const char *outcome(const struct banger_op_record *r)
{
	return r->elapsed_us < 0 ? "running" : r->code == BANGER_OK ? "completed" : "failed";
}

struct json_object *banger_op_record_to_json(const struct banger_op_record *r)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();
	bool failed = r->elapsed_us >= 0 && r->code != BANGER_OK;

	if (!o || banger_json_add_str(o, "op_id", r->op_id) < 0 ||
		banger_json_add_str(o, "method", r->method) < 0 ||
		(r->params[0] && banger_json_add_str(o, "params", r->params) < 0) ||
		banger_json_add(o, "actor", banger_actor_to_json(&r->actor)) < 0 ||
		add_time(o, "started", r->started_us) < 0)
		return NULL;
	if (r->elapsed_us >= 0) {
		char ms[32];

		snprintf(ms, sizeof(ms), "%.3f", r->elapsed_us / 1000.0);
		if (banger_json_add(o, "elapsed_ms",
			    json_object_new_double_s(r->elapsed_us / 1000.0, ms)) < 0)
			return NULL;
	}
	if (banger_json_add_str(o, "outcome", outcome(r)) < 0 ||
		(failed && banger_json_add_str(o, "code", banger_code_name(r->code)) < 0) ||
		(failed && banger_json_add_str(o, "message", r->message) < 0))
		return NULL;
	return TAKE_PTR(o);
}

static int record_outcome(
	struct json_object *o, struct banger_op_record *r, struct banger_error *err)
{
	const char *said = banger_json_str(o, "outcome");
	struct json_object *ms = banger_json_get(o, "elapsed_ms");

	if (!said)
		return bad("outcome", err);
	if (strcmp(said, "running") == 0) {
		r->elapsed_us = -1;
		return 0;
	}
	if (!json_object_is_type(ms, json_type_double) && !json_object_is_type(ms, json_type_int))
		return bad("elapsed_ms", err);
	double v = json_object_get_double(ms);
	if (!(v >= 0 && v < 1e15))
		return bad("elapsed_ms", err);
	r->elapsed_us = (int64_t)(v * 1000 + 0.5);
	if (strcmp(said, "completed") == 0)
		return 0;
	if (strcmp(said, "failed") != 0)
		return bad("outcome", err);
	if (!banger_json_str(o, "code"))
		return bad("code", err);
	r->code = banger_code_from_name(banger_json_str(o, "code"));
	return take_text(o, "message", true, r->message, sizeof(r->message), err);
}

int banger_op_record_from_json(
	struct json_object *o, struct banger_op_record *ret, struct banger_error *err)
{
	struct banger_op_record rec = {0};
	int r = 0;

	if (!json_object_is_type(o, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "an operation is not an object");
	if (!banger_op_id_valid(banger_json_str(o, "op_id")))
		r = bad("op_id", err);
	else if (banger_actor_from_json(banger_json_get(o, "actor"), &rec.actor) < 0)
		r = bad("actor", err);
	else if ((r = take_text(o, "method", true, rec.method, sizeof(rec.method), err)) == 0 &&
		 (r = take_text(o, "params", false, rec.params, sizeof(rec.params), err)) == 0 &&
		 (r = take_time(o, "started", true, &rec.started_us, err)) == 0)
		r = record_outcome(o, &rec, err);
	if (r < 0) {
		banger_error_prefix(err, "malformed operation");
		return r;
	}
	strcpy(rec.op_id, banger_json_str(o, "op_id"));
	*ret = rec;
	return 0;
}
