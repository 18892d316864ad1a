/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Credentials as people have them already. Two families of files with one syntax: containers' auth.json
 * (keys may be HOST/PATH prefixes, the longest counts) and Docker's config.json (keys may be URLs, and Docker's own
 * registry is "https://index.docker.io/v1/"). Keys are brought to one form, HOST[/PATH], before they are compared.
 *
 * A credential helper is a program of the user's choice, docker-credential-NAME in PATH; NAME comes
 * from the user's own file, but a '/' in it would make it any program, so that is refused. It is
 * given the host on stdin, an end to its output and ten seconds.
 *
 * A file that is not there, or that this user must not read, has nothing; one that is there and makes
 * no sense is an error, because going on without credentials would end in a refusal that misleads.
 */
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <banger/log.h>
#include <banger/wire.h>
#include "pull/auth.h"

enum {
	FILE_MAX = 1024 * 1024,
	OUTPUT_MAX = 128 * 1024,
	HELPER_MS = 10000,
};

extern char **environ;

static const char docker_key[] = "https://index.docker.io/v1/";

static void wipe(char **s)
{
	if (*s)
		explicit_bzero(*s, strlen(*s));
	free(TAKE_PTR(*s));
}

void auth_credentials_done(struct auth_credentials *c)
{
	wipe(&c->user);
	wipe(&c->password);
	wipe(&c->identity_token);
	wipe(&c->registry_token);
	free(TAKE_PTR(c->source));
}

/* ---- base64 ---- */

static const char alphabet[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";

char *auth_base64(const char *s, size_t len)
{
	const unsigned char *p = (const unsigned char *)s;
	char *out = malloc((len + 2) / 3 * 4 + 1), *o = out;

	if (!out)
		return NULL;
	for (size_t i = 0; i < len; i += 3) {
		unsigned v = p[i] << 16 | (i + 1 < len ? p[i + 1] << 8 : 0) |
			     (i + 2 < len ? p[i + 2] : 0);
		*o++ = alphabet[v >> 18];
		*o++ = alphabet[v >> 12 & 63];
		*o++ = i + 1 < len ? alphabet[v >> 6 & 63] : '=';
		*o++ = i + 2 < len ? alphabet[v & 63] : '=';
	}
	*o = '\0';
	return out;
}

char *auth_unbase64(const char *s, size_t *ret_len)
{
	size_t n = strlen(s), used = 0;
	char *out = malloc(n / 4 * 3 + 4);
	unsigned v = 0, bits = 0;

	if (!out)
		return NULL;
	while (n > 0 && s[n - 1] == '=')
		n--;
	for (size_t i = 0; i < n; i++) {
		const char *at = strchr(alphabet, s[i]);
		if (!at || !*at) {
			free(out);
			return NULL;
		}
		v = v << 6 | (unsigned)(at - alphabet);
		bits += 6;
		if (bits >= 8) {
			bits -= 8;
			out[used++] = (char)(v >> bits);
			v &= (1u << bits) - 1;
		}
	}
	out[used] = '\0';
	*ret_len = used;
	return out;
}

/* ---- helpers ---- */

struct helper {
	pid_t pid;
	int in, out;
	char *text;
	size_t len;
};

static void helper_done(struct helper *h)
{
	if (h->in >= 0)
		close(h->in);
	if (h->out >= 0)
		close(h->out);
	if (h->pid > 0) {
		kill(-h->pid, SIGKILL);
		while (waitpid(h->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	if (h->text)
		explicit_bzero(h->text, h->len);
	free(h->text);
}

static int spawn(const char *program, int in, int out, pid_t *ret)
{
	char *argv[] = {(char *)program, (char *)"get", NULL};
	posix_spawn_file_actions_t fa;
	posix_spawnattr_t attr;
	sigset_t none, all;

	sigemptyset(&none);
	sigfillset(&all);
	posix_spawn_file_actions_init(&fa);
	posix_spawn_file_actions_adddup2(&fa, in, 0);
	posix_spawn_file_actions_adddup2(&fa, out, 1);
	posix_spawn_file_actions_addopen(&fa, 2, "/dev/null", O_WRONLY, 0);
	posix_spawnattr_init(&attr);
	posix_spawnattr_setflags(
		&attr, POSIX_SPAWN_SETPGROUP | POSIX_SPAWN_SETSIGMASK | POSIX_SPAWN_SETSIGDEF);
	posix_spawnattr_setsigmask(&attr, &none);
	posix_spawnattr_setsigdefault(&attr, &all);
	int r = posix_spawnp(ret, program, &fa, &attr, argv, environ);
	posix_spawn_file_actions_destroy(&fa);
	posix_spawnattr_destroy(&attr);
	return r;
}

/* The question fits into the pipe: it is a host. */
static int helper_start(
	struct helper *h, const char *program, const char *key, struct banger_error *err)
{
	int in[2], out[2];

	if (pipe2(in, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "starting %s", program);
	h->in = in[1];
	_cleanup_close_ int child_in = in[0];
	if (pipe2(out, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "starting %s", program);
	h->out = out[0];
	_cleanup_close_ int child_out = out[1];
	/* Nobody reads in[1] but the child; that it dies first must not raise SIGPIPE here, so the
	 * question is in the pipe before there is a child. */
	if (write(h->in, key, strlen(key)) < 0 || write(h->in, "\n", 1) < 0)
		return banger_error_set_errno(err, errno, "asking %s", program);
	close(TAKE_FD(h->in));
	int r = spawn(program, child_in, child_out, &h->pid);
	if (r != 0) {
		h->pid = 0;
		return banger_error_set(err, BANGER_DENIED,
			"the credential helper %s cannot be run: %s", program, strerrordesc_np(r));
	}
	return 0;
}

static int helper_read(
	struct helper *h, const char *program, int cancel_fd, struct banger_error *err)
{
	int64_t deadline = banger_monotonic_us() + HELPER_MS * 1000LL;

	h->text = malloc(OUTPUT_MAX + 1);
	if (!h->text)
		return banger_error_oom(err);
	for (;;) {
		struct pollfd p[] = {
			{.fd = h->out, .events = POLLIN}, {.fd = cancel_fd, .events = POLLIN}};
		int64_t left = (deadline - banger_monotonic_us()) / 1000;
		if (left <= 0)
			return banger_error_set(err, BANGER_TIMEOUT,
				"the credential helper %s did not answer within %d seconds",
				program, HELPER_MS / 1000);
		if (poll(p, 2, (int)left) < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for %s", program);
		if (p[1].revents)
			return banger_error_set(err, BANGER_CANCELLED, "cancelled");
		if (!p[0].revents)
			continue;
		ssize_t n = read(h->out, h->text + h->len, OUTPUT_MAX - h->len);
		if (n < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "reading from %s", program);
		if (n == 0)
			break;
		h->len += n > 0 ? (size_t)n : 0;
		if (h->len == OUTPUT_MAX)
			return banger_error_set(err, BANGER_DENIED,
				"the credential helper %s says too much", program);
	}
	h->text[h->len] = '\0';
	return 0;
}

/* It has closed its output; it may take its time to end, but not for ever. */
static int helper_status(struct helper *h, int cancel_fd, int *ret, struct banger_error *err)
{
	struct pollfd cancel = {.fd = cancel_fd, .events = POLLIN};

	*ret = -1;
	for (int ms = 0; ms < HELPER_MS; ms += 5) {
		pid_t p = waitpid(h->pid, ret, WNOHANG);
		if (p == h->pid) {
			h->pid = 0;
			return 0;
		}
		if (p < 0 && errno != EINTR)
			break;
		if (poll(&cancel, 1, 5) > 0)
			return banger_error_set(err, BANGER_CANCELLED, "cancelled");
	}
	return 0;
}

static int copy(char **to, const char *s, struct banger_error *err)
{
	*to = strdup(s);
	return *to ? 0 : banger_error_oom(err);
}

static int helper_answer(const struct helper *h, const char *program, struct auth_credentials *ret,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;

	if (banger_json_parse(h->text, h->len, &o, NULL) < 0)
		return banger_error_set(err, BANGER_DENIED,
			"what the credential helper %s says is not JSON", program);
	const char *user = banger_json_str(o, "Username"), *secret = banger_json_str(o, "Secret");
	if (!user || !secret)
		return banger_error_set(err, BANGER_DENIED,
			"what the credential helper %s says has no Username and Secret", program);
	if (!*user && !*secret)
		return 0;
	int r;
	if (strcmp(user, "<token>") == 0) {
		r = copy(&ret->identity_token, secret, err);
	} else {
		r = copy(&ret->user, user, err);
		if (r == 0)
			r = copy(&ret->password, secret, err);
	}
	if (r == 0)
		r = copy(&ret->source, program, err);
	return r < 0 ? r : 1;
}

static int run_helper(const char *name, const char *key, int cancel_fd,
	struct auth_credentials *ret, struct banger_error *err)
{
	_cleanup_(helper_done) struct helper h = {.in = -1, .out = -1};
	char program[160];

	if (!*name || strchr(name, '/') || strlen(name) > 100)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"\"%s\" is not the name of a credential helper", name);
	snprintf(program, sizeof(program), "docker-credential-%s", name);
	int status = -1, r = helper_start(&h, program, key, err);
	if (r == 0)
		r = helper_read(&h, program, cancel_fd, err);
	if (r == 0)
		r = helper_status(&h, cancel_fd, &status, err);
	if (r < 0)
		return r;
	if (status == 0)
		return helper_answer(&h, program, ret, err);
	/* The sentence by which helpers say, on stdout, that they have nothing. */
	if (strstr(h.text, "credentials not found"))
		return 0;
	h.text[strcspn(h.text, "\r\n")] = '\0';
	/* Not what may be an answer: that has the secret in it, and this goes to the log. */
	const char *said = strchr(h.text, '{') ? "what it says is not shown" : h.text;
	return banger_error_set(err, BANGER_DENIED, "the credential helper %s failed: %.200s",
		program, said[0] ? said : "it says nothing");
}

/* ---- one file ---- */

/* 1: its text; 0: there is none for this user. */
static int read_file(const char *path, char **ret, size_t *ret_len, struct banger_error *err)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);
	struct stat st;

	if (fd < 0 && (errno == EACCES || errno == EPERM)) {
		log_warn("credentials cannot be read", KV_S("file", path));
		return 0;
	}
	if (fd < 0 && (errno == ENOENT || errno == ENOTDIR))
		return 0;
	if (fd < 0 || fstat(fd, &st) < 0)
		return banger_error_set_errno(
			err, errno, "cannot read the credentials in %s", path);
	if (!S_ISREG(st.st_mode) || st.st_size > FILE_MAX)
		return banger_error_set(err, BANGER_BAD_REQUEST,
			"the credentials in %s: not a file of at most %d bytes", path, FILE_MAX);
	_cleanup_free_ char *text = malloc((size_t)st.st_size + 1);
	if (!text)
		return banger_error_oom(err);
	size_t len = 0;
	for (ssize_t n; len < (size_t)st.st_size; len += (size_t)n) {
		n = read(fd, text + len, (size_t)st.st_size - len);
		if (n < 0)
			return banger_error_set_errno(
				err, errno, "cannot read the credentials in %s", path);
		if (n == 0)
			break;
	}
	text[len] = '\0';
	*ret = TAKE_PTR(text);
	*ret_len = len;
	return 1;
}

/* A key of "auths" as HOST[/PATH]: without a scheme, and without the path that old URLs of Docker's
 * have. */
static size_t normal_key(const char **key)
{
	const char *k = *key;
	bool url = false;

	if (strncmp(k, "https://", 8) == 0) {
		k += 8;
		url = true;
	} else if (strncmp(k, "http://", 7) == 0) {
		k += 7;
		url = true;
	}
	*key = k;
	size_t n = url ? strcspn(k, "/") : strlen(k);
	while (n > 0 && k[n - 1] == '/')
		n--;
	return n;
}

static bool docker_name(const char *host, size_t n)
{
	static const char *const names[] = {"docker.io", "index.docker.io", "registry-1.docker.io"};

	for (size_t i = 0; i < ELEMENTSOF(names); i++)
		if (strlen(names[i]) == n && strncasecmp(host, names[i], n) == 0)
			return true;
	return false;
}

/* Does the key cover HOST/REPOSITORY? By how many characters, 0: no. */
static size_t covers(const char *key, const char *host, const char *repository)
{
	size_t n = normal_key(&key), host_len = strlen(host), key_host = 0;

	while (key_host < n && key[key_host] != '/')
		key_host++;
	bool same = (key_host == host_len && strncasecmp(key, host, host_len) == 0) ||
		    (docker_name(key, key_host) && docker_name(host, host_len));
	if (!same)
		return 0;
	if (key_host == n)
		return 1;
	const char *path = key + key_host + 1;
	size_t len = n - key_host - 1;
	if (strncmp(path, repository, len) != 0 || (repository[len] && repository[len] != '/'))
		return 0;
	return 1 + len;
}

struct lookup {
	const char *path, *host, *repository;
	int cancel_fd;
	struct banger_error *err;
};

static int bad_file(const struct lookup *l, const char *key, const char *what)
{
	return banger_error_set(l->err, BANGER_BAD_REQUEST, "the credentials in %s: \"%s\": %s",
		l->path, key, what);
}

/* base64(USER:PASSWORD), where Docker may have put NULs at the end. */
static int read_pair(
	const struct lookup *l, const char *key, const char *text, struct auth_credentials *ret)
{
	size_t len = 0;
	char *pair = auth_unbase64(text, &len);

	if (!pair)
		return bad_file(l, key, "\"auth\" is not base64");
	while (len > 0 && pair[len - 1] == '\0')
		len--;
	char *colon = memchr(pair, ':', len);
	int r = 0;
	if (!colon || colon == pair || memchr(pair, '\0', len)) {
		r = bad_file(l, key, "\"auth\" is not USER:PASSWORD in base64");
	} else {
		ret->user = strndup(pair, (size_t)(colon - pair));
		ret->password = strdup(colon + 1);
		if (!ret->user || !ret->password)
			r = banger_error_oom(l->err);
	}
	explicit_bzero(pair, len);
	free(pair);
	return r;
}

/* 1: it has something. An entry may be empty: Docker writes those beside a store. */
static int read_entry(const struct lookup *l, const char *key, struct json_object *o,
	struct auth_credentials *ret)
{
	const char *pair = banger_json_str(o, "auth");
	const char *identity = banger_json_str(o, "identitytoken");
	const char *registry = banger_json_str(o, "registrytoken");
	int r = 0;

	if (identity && *identity)
		r = copy(&ret->identity_token, identity, l->err);
	else if (registry && *registry)
		r = copy(&ret->registry_token, registry, l->err);
	else if (pair && *pair)
		r = read_pair(l, key, pair, ret);
	else
		return 0;
	if (r == 0)
		r = copy(&ret->source, l->path, l->err);
	return r < 0 ? r : 1;
}

static int look_in_auths(
	const struct lookup *l, struct json_object *auths, struct auth_credentials *ret)
{
	struct json_object *best = NULL;
	const char *best_key = NULL;
	size_t best_len = 0;

	if (!json_object_is_type(auths, json_type_object))
		return 0;
	json_object_object_foreach (auths, key, v) {
		size_t n = covers(key, l->host, l->repository);
		if (n > best_len && json_object_is_type(v, json_type_object) &&
			json_object_object_length(v) > 0) {
			best_len = n;
			best = v;
			best_key = key;
		}
	}
	return best ? read_entry(l, best_key, best, ret) : 0;
}

/* Docker's registry goes by another name in stores. */
static const char *store_key(const struct lookup *l)
{
	return docker_name(l->host, strlen(l->host)) ? docker_key : l->host;
}

static int look_in_helpers(
	const struct lookup *l, struct json_object *helpers, struct auth_credentials *ret)
{
	if (!json_object_is_type(helpers, json_type_object))
		return 0;
	json_object_object_foreach (helpers, key, v) {
		if (!covers(key, l->host, l->repository))
			continue;
		const char *name =
			json_object_is_type(v, json_type_string) ? json_object_get_string(v) : NULL;
		if (!name)
			return bad_file(l, key, "the helper's name is not a string");
		return run_helper(name, store_key(l), l->cancel_fd, ret, l->err);
	}
	return 0;
}

static int look_in_file(const struct lookup *l, struct auth_credentials *ret)
{
	_cleanup_json_ struct json_object *o = NULL;
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	int r = read_file(l->path, &text, &len, l->err);
	if (r <= 0)
		return r;
	r = banger_json_parse(text, len, &o, l->err);
	explicit_bzero(text, len);
	if (r == 0 && !json_object_is_type(o, json_type_object))
		r = banger_error_set(l->err, BANGER_BAD_REQUEST, "not a JSON object");
	if (r < 0) {
		banger_error_prefix(l->err, "the credentials in %s", l->path);
		return r;
	}
	r = look_in_helpers(l, banger_json_get(o, "credHelpers"), ret);
	if (r == 0)
		r = look_in_auths(l, banger_json_get(o, "auths"), ret);
	const char *store = banger_json_str(o, "credsStore");
	if (r == 0 && store && *store)
		r = run_helper(store, store_key(l), l->cancel_fd, ret, l->err);
	return r;
}

/* ---- all files ---- */

/* $env/tail, or $HOME/home_tail. */
static char *place(const char *env, const char *tail, const char *home_tail)
{
	const char *base = getenv(env), *home = getenv("HOME");
	char *p = NULL;
	int r = -1;

	if (base && base[0] == '/')
		r = asprintf(&p, "%s/%s", base, tail);
	else if (home_tail && home && home[0] == '/')
		r = asprintf(&p, "%s/%s", home, home_tail);
	return r < 0 ? NULL : p;
}

static int look_at(const struct lookup *base, char *path, struct auth_credentials *ret)
{
	_cleanup_free_ char *owned = path;
	struct auth_credentials found = {0};
	struct lookup l = *base;

	if (!path)
		return 0;
	l.path = path;
	int r = look_in_file(&l, &found);
	if (r > 0)
		*ret = found;
	else
		auth_credentials_done(&found);
	return r;
}

int auth_credentials_find(const char *host, const char *repository, int cancel_fd,
	struct auth_credentials *ret, struct banger_error *err)
{
	const struct lookup l = {
		.host = host, .repository = repository, .cancel_fd = cancel_fd, .err = err};
	const char *named = getenv("REGISTRY_AUTH_FILE");

	if (named && *named)
		return look_at(&l, strdup(named), ret);
	int r = look_at(&l, place("XDG_RUNTIME_DIR", "containers/auth.json", NULL), ret);
	if (r == 0)
		r = look_at(&l,
			place("XDG_CONFIG_HOME", "containers/auth.json",
				".config/containers/auth.json"),
			ret);
	if (r == 0)
		r = look_at(&l, place("DOCKER_CONFIG", "config.json", ".docker/config.json"), ret);
	return r;
}
