/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Texts travel as JSON, which is UTF-8: a file name that is not cannot be an argument. That is said here, where the word
 * is known, and not by the daemon, which could only say that the request is none.
 */
#include "vm_params.h"

#include <string.h>
#include "vm_words.h"

static int add_text(struct json_object *list, const char *text)
{
	struct json_object *s = json_object_new_string(text);

	if (s && json_object_array_add(list, s) == 0)
		return 0;
	json_object_put(s);
	return -ENOMEM;
}

int vm_add_texts(struct json_object *params, const char *key, const char *what,
	const char *const *texts, size_t n, struct banger_error *err)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();

	for (size_t i = 0; list && i < n; i++) {
		if (!banger_utf8_valid(texts[i], strlen(texts[i])))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"the %s \"%s\" is not UTF-8, and cannot be sent to the VM", what,
				texts[i]);
		if (add_text(list, texts[i]) < 0)
			return banger_error_oom(err);
	}
	return list && banger_json_add(params, key, TAKE_PTR(list)) == 0 ? 0
									 : banger_error_oom(err);
}

static int add_word(struct json_object *params, const char *key, const char *what, const char *text,
	struct banger_error *err)
{
	if (!text)
		return 0;
	if (!banger_utf8_valid(text, strlen(text)))
		return banger_error_set(
			err, BANGER_BAD_REQUEST, "%s \"%s\" is not UTF-8", what, text);
	return banger_json_add_str(params, key, text) < 0 ? banger_error_oom(err) : 0;
}

/* Pairs of an option and its parameter: those that were given. */
static int add_options(struct json_object *params, const struct cli_invocation *in,
	const char *const (*options)[2], struct banger_error *err)
{
	int r = 0;

	for (; (*options)[0] && r == 0; options++)
		r = add_word(
			params, (*options)[1], (*options)[0], cli_text(in, (*options)[0]), err);
	return r;
}

static int add_number(struct json_object *params, const struct cli_invocation *in,
	const char *option, const char *key)
{
	return cli_given(in, option) ? banger_json_add_int(params, key, cli_number(in, option, 0))
				     : 0;
}

static int add_ports(
	struct json_object *params, const struct cli_invocation *in, struct banger_error *err)
{
	const char *ports[64], *port;
	size_t n = 0, i = 0;

	while ((port = cli_next(in, "publish", &i))) {
		if (n == ELEMENTSOF(ports))
			return banger_error_set(err, BANGER_BAD_REQUEST,
				"more than %zu published ports", ELEMENTSOF(ports));
		ports[n++] = port;
	}
	return n ? vm_add_texts(params, "publish", "port", ports, n, err) : 0;
}

int vm_add_machine(struct json_object *params, const char *image, const struct cli_invocation *in,
	struct banger_error *err)
{
	static const char *const texts[][2] = {{"name", "name"}, {"kernel", "kernel"},
		{"work-disk", "work_disk"}, {"network", "network"}, {"registry", "registry"},
		{"accel", "accel"}, {"init", "init"}, {NULL}};

	int r = add_word(params, "image", "image", image, err);
	if (r < 0)
		return r;
	if (add_number(params, in, "cpus", "cpus") < 0 ||
		add_number(params, in, "memory", "memory") < 0 ||
		add_number(params, in, "disk", "disk") < 0)
		return banger_error_oom(err);
	r = add_options(params, in, texts, err);
	return r < 0 ? r : add_ports(params, in, err);
}

static int add_environment(
	struct json_object *params, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *list = json_object_new_array();
	const char *given;
	size_t i = 0;

	if (!list)
		return banger_error_oom(err);
	while ((given = cli_next(in, "env", &i))) {
		_cleanup_free_ char *whole = NULL;

		int r = vm_variable(given, &whole, err);
		if (r < 0)
			return r;
		if (whole && add_text(list, whole) < 0)
			return banger_error_oom(err);
	}
	return banger_json_add(params, "env", TAKE_PTR(list)) < 0 ? banger_error_oom(err) : 0;
}

int vm_add_circumstances(
	struct json_object *params, const struct cli_invocation *in, struct banger_error *err)
{
	static const char *const texts[][2] = {{"user", "user"}, {"workdir", "workdir"}, {NULL}};

	int r = add_options(params, in, texts, err);
	return r < 0 || !cli_given(in, "env") ? r : add_environment(params, in, err);
}

int vm_exit_status(struct json_object *result, struct banger_error *err)
{
	int64_t code = banger_json_int(result, "exit_code", -1),
		number = banger_json_int(result, "signal", -1);

	if (number > 0 && number < 128)
		return 128 + (int)number;
	if (code >= 0 && code <= 255)
		return (int)code;
	return banger_error_set(err, BANGER_INTERNAL, "bangerd does not say how the command ended");
}
