/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Configuration. One table says each setting's key, type, environment variable and default; loading
 * walks it three times: file, environment, flags. Defaults that depend on other settings (the
 * socket inside the runtime directory) are filled in at the end.
 */
#include <banger/paths.h>
#include <banger/wire.h>
#include <fcntl.h>
#include <stddef.h>
#include <string.h>
#include <sys/stat.h>

#define FILE_MAX (256 * 1024)

struct setting {
	const char *key;
	const char *env;
	enum { STRING, NUMBER, OBJECT, ARRAY } type; /* the last two are kept as JSON text */
	size_t offset;
	const char *choices; /* of a string: "|"-separated; NULL: any */
	int64_t otherwise, min, max;
};

#define S(k, e, c)                                                                                 \
	{                                                                                          \
#k, e, STRING, offsetof(struct banger_config, k), c, 0, 0, 0                       \
	}
#define J(k, t)                                                                                    \
	{                                                                                          \
#k, NULL, t, offsetof(struct banger_config, k), NULL, 0, 0, 0                      \
	}
#define N(k, f, d, lo, hi)                                                                         \
	{                                                                                          \
		k, NULL, NUMBER, offsetof(struct banger_config, f), NULL, d, lo, hi                \
	}
static const struct setting settings[] = {
	S(state_dir, "BANGER_STATE_DIR", NULL),
	S(runtime_dir, "BANGER_RUNTIME_DIR", NULL),
	S(socket, "BANGER_SOCKET", NULL),
	S(helper_socket, "BANGER_HELPER_SOCKET", NULL),
	S(libexec_dir, "BANGER_LIBEXEC_DIR", NULL),
	S(default_kernel, NULL, NULL),
	S(accel, NULL, "auto|kvm|tcg"),
	S(qemu, "BANGER_QEMU", NULL),
	S(virtiofsd, "BANGER_VIRTIOFSD", NULL),
	S(socket_group, NULL, NULL),
	S(bridge_subnet, NULL, NULL),
	N("helper_uid", helper_uid, 0, 0, UINT32_MAX - 1),
	N("ops_kept", ops_kept, 1000, 1, 1000000),
	N("connections", connections, 512, 8, 65536),
	N("writers_wait_ms", lock_wait_ms, 2000, 0, 600000),
	J(registries, OBJECT),
	J(catalogs, ARRAY),
	N("cache_max", cache_max, INT64_C(20) << 30, 0, INT64_MAX),
	N("unpacked_max", unpacked_max, INT64_C(128) << 30, 1 << 20, INT64_C(1) << 50),
	N("entries_max", entries_max, 4000000, 1000, 1000000000),
	N("headroom", headroom, INT64_C(64) << 20, 0, INT64_C(1) << 44),
	N("headroom_percent", headroom_percent, 10, 0, 1000),
	N("parallel_fetches", parallel_fetches, 4, 1, 64),
	N("fetch_stall_ms", fetch_stall_ms, 30000, 100, 3600000),
	N("fetch_retries", fetch_retries, 5, 0, 100),
};
#undef S
#undef J
#undef N

static char **string_at(struct banger_config *c, const struct setting *s)
{
	return (char **)((char *)c + s->offset);
}

static int64_t *number_at(struct banger_config *c, const struct setting *s)
{
	return (int64_t *)((char *)c + s->offset);
}

static int set_string(char **to, const char *value, struct banger_error *err)
{
	char *copy = strdup(value);

	if (!copy)
		return banger_error_oom(err);
	free(*to);
	*to = copy;
	return 0;
}

static bool is_choice(const char *choices, const char *value)
{
	size_t n = strlen(value);

	for (const char *p = choices; p; p = strchr(p, '|') ? strchr(p, '|') + 1 : NULL)
		if (n > 0 && strncmp(p, value, n) == 0 && (p[n] == '|' || p[n] == '\0'))
			return true;
	return choices == NULL;
}

static int apply(struct banger_config *c, const char *file, const char *key, struct json_object *v,
	struct banger_error *err)
{
	for (size_t i = 0; i < ELEMENTSOF(settings); i++) {
		const struct setting *s = &settings[i];

		if (strcmp(s->key, key) != 0)
			continue;
		if (s->type == NUMBER) {
			if (!json_object_is_type(v, json_type_int) ||
				json_object_get_int64(v) < s->min ||
				json_object_get_int64(v) > s->max)
				return banger_error_set(err, BANGER_BAD_REQUEST,
					"%s: \"%s\" must be a whole number from %lld to %lld", file,
					key, (long long)s->min, (long long)s->max);
			*number_at(c, s) = json_object_get_int64(v);
			return 0;
		}
		if (s->type != STRING) {
			if (!json_object_is_type(
				    v, s->type == OBJECT ? json_type_object : json_type_array))
				return banger_error_set(err, BANGER_BAD_REQUEST,
					"%s: \"%s\" must be an %s", file, key,
					s->type == OBJECT ? "object" : "array");
			return set_string(string_at(c, s),
				json_object_to_json_string_ext(v, JSON_C_TO_STRING_PLAIN), err);
		}
		if (!json_object_is_type(v, json_type_string) || json_object_get_string_len(v) == 0)
			return banger_error_set(
				err, BANGER_BAD_REQUEST, "%s: \"%s\" must be a string", file, key);
		if (!is_choice(s->choices, json_object_get_string(v)))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"%s: \"%s\" must be one of %s", file, key, s->choices);
		return set_string(string_at(c, s), json_object_get_string(v), err);
	}
	return banger_error_set(err, BANGER_BAD_REQUEST, "%s: unknown setting \"%s\"", file, key);
}

static int read_file(
	const char *path, bool required, char **ret, size_t *ret_len, struct banger_error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	_cleanup_free_ char *b = NULL;
	struct stat st;

	if (fd < 0 && errno == ENOENT && !required)
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "cannot read the configuration %s", path);
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the configuration %s is not a file of at most %d bytes", path, FILE_MAX);
	b = malloc(FILE_MAX + 1);
	if (!b)
		return banger_error_oom(err);
	size_t len = 0;
	ssize_t n;
	while ((n = read(fd, b + len, FILE_MAX - len)) > 0)
		len += n;
	if (n < 0)
		return banger_error_set_errno(err, errno, "cannot read the configuration %s", path);
	b[len] = '\0';
	*ret = TAKE_PTR(b);
	*ret_len = len;
	return 1;
}

static int load_file(
	struct banger_config *c, const char *path, bool required, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	int r = read_file(path, required, &text, &len, err);
	if (r <= 0)
		return r;
	r = banger_json_parse(text, len, &o, err);
	if (r < 0) {
		banger_error_prefix(err, "%s", path);
		return r;
	}
	if (!json_object_is_type(o, json_type_object))
		return banger_error_set(err, BANGER_BAD_REQUEST, "%s: not a JSON object", path);
	json_object_object_foreach (o, key, v) {
		r = apply(c, path, key, v, err);
		if (r < 0)
			return r;
	}
	return set_string(&c->file, path, err);
}

/* $env if it is absolute and set, else $HOME/tail; plus "/banger" and suffix. NULL: no home, or no
 * memory. */
static char *user_path(const char *env, const char *tail, const char *suffix)
{
	const char *base = getenv(env), *home = getenv("HOME");
	char *p = NULL;

	if (base && base[0] == '/') {
		if (asprintf(&p, "%s/banger%s", base, suffix) < 0)
			return NULL;
	} else if (home && home[0] == '/') {
		if (asprintf(&p, "%s/%s/banger%s", home, tail, suffix) < 0)
			return NULL;
	}
	return p;
}

static int default_path(char **to, const char *for_root, const char *env, const char *tail,
	struct banger_error *err)
{
	if (*to)
		return 0;
	if (geteuid() == 0) {
		*to = strdup(for_root);
	} else if (tail) {
		*to = user_path(env, tail, "");
	} else {
		/* Never a directory that somebody else could have made first, such as one in /tmp.
		 */
		const char *run = getenv(env);
		if ((run && run[0] == '/'
				    ? asprintf(to, "%s/banger", run)
				    : asprintf(to, "/run/user/%u/banger", (unsigned)geteuid())) < 0)
			*to = NULL;
	}
	return *to ? 0
		   : banger_error_set(err, BANGER_NOT_FOUND,
			     "no place is known for state: set BANGER_STATE_DIR or HOME");
}

static int fill_defaults(struct banger_config *c, struct banger_error *err)
{
	bool usual = c->runtime_dir == NULL;
	int r = default_path(
		&c->state_dir, "/var/lib/banger", "XDG_STATE_HOME", ".local/state", err);

	if (r == 0)
		r = default_path(&c->runtime_dir, "/run/banger", "XDG_RUNTIME_DIR", NULL, err);
	if (r < 0)
		return r;
	if (!c->socket && asprintf(&c->socket, "%s/bangerd.sock", c->runtime_dir) < 0) {
		c->socket = NULL;
		return banger_error_oom(err);
	}
	/* The helper is root's, and so is the directory of its socket, unless told otherwise. */
	if (!c->helper_socket && asprintf(&c->helper_socket, "%s/helper.sock",
					 usual ? "/run/banger" : c->runtime_dir) < 0) {
		c->helper_socket = NULL;
		return banger_error_oom(err);
	}
	if (!c->accel)
		r = set_string(&c->accel, "auto", err);
	if (r == 0 && !c->qemu)
		r = set_string(&c->qemu, "qemu-system-x86_64", err);
	if (r == 0 && !c->bridge_subnet)
		r = set_string(&c->bridge_subnet, "10.141.0.0/16", err);
	return r;
}

static int load(
	const struct banger_config_flags *flags, struct banger_config *c, struct banger_error *err)
{
	const char *named = flags && flags->config ? flags->config : getenv("BANGER_CONFIG");
	_cleanup_free_ char *usual = NULL;
	int r = 0;

	for (size_t i = 0; i < ELEMENTSOF(settings); i++)
		if (settings[i].type == NUMBER)
			*number_at(c, &settings[i]) = settings[i].otherwise;
	if (!named || !*named) {
		named = NULL;
		usual = geteuid() == 0 ? strdup("/etc/banger/config.json")
				       : user_path("XDG_CONFIG_HOME", ".config", "/config.json");
	}
	if (named || usual)
		r = load_file(c, named ?: usual, named != NULL, err);
	for (size_t i = 0; r == 0 && i < ELEMENTSOF(settings); i++) {
		const char *v = settings[i].env ? getenv(settings[i].env) : NULL;
		if (v && *v)
			r = set_string(string_at(c, &settings[i]), v, err);
	}
	if (r == 0 && flags && flags->state_dir)
		r = set_string(&c->state_dir, flags->state_dir, err);
	if (r == 0 && flags && flags->runtime_dir) {
		r = set_string(&c->runtime_dir, flags->runtime_dir, err);
		/* A flag for the directory beats the environment's word for what is in it. */
		if (r == 0 && !flags->socket) {
			free(TAKE_PTR(c->socket));
			free(TAKE_PTR(c->helper_socket));
		}
	}
	if (r == 0 && flags && flags->socket)
		r = set_string(&c->socket, flags->socket, err);
	return r < 0 ? r : fill_defaults(c, err);
}

int banger_config_load(const struct banger_config_flags *flags, struct banger_config *ret,
	struct banger_error *err)
{
	struct banger_config c = {0};

	int r = load(flags, &c, err);
	if (r < 0) {
		banger_config_done(&c);
		return r;
	}
	*ret = c;
	return 0;
}

void banger_config_done(struct banger_config *c)
{
	for (size_t i = 0; i < ELEMENTSOF(settings); i++)
		if (settings[i].type != NUMBER)
			free(*string_at(c, &settings[i]));
	free(c->file);
	*c = (struct banger_config){0};
}
