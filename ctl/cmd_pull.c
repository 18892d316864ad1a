/* SPDX-License-Identifier: Apache-2.0 */
/*
 * "image pull": one call with a view of its progress beside it, or a job that is left to itself.
 */
#include <string.h>
#include <banger/methods.h>
#include "cmd_pull.h"
#include "pull_view.h"

static int pull_params(
	const struct cli_invocation *in, struct json_object **ret, struct banger_error *err)
{
	return ctl_params(ret, err, "source", in->args[0], "name", cli_text(in, "name"), "platform",
		cli_text(in, "platform"), "kernel", cli_text(in, "kernel"), NULL);
}

/* A layout's directory is the daemon's to open: it needs the whole path. */
static int whole_source(const char *source, char **ret, struct banger_error *err)
{
	_cleanup_free_ char *cwd = NULL;
	int r;

	if (strncmp(source, "oci:", 4) != 0 || source[4] == '/') {
		*ret = strdup(source);
		return *ret ? 0 : banger_error_oom(err);
	}
	cwd = getcwd(NULL, 0);
	if (!cwd)
		return banger_error_set_errno(err, errno, "where is \"%s\"?", source);
	r = asprintf(ret, "oci:%s/%s", cwd, source + 4);
	return r < 0 ? banger_error_oom(err) : 0;
}

static int begin(struct ctl *c, struct json_object *params, struct banger_error *err)
{
	_cleanup_json_ struct json_object *result = NULL;

	int r = ctl_call(c, BANGER_METHOD_IMAGE_PULL_BEGIN, params, &result, err);
	if (r < 0)
		return r;
	if (c->json)
		return ctl_print_json(c, result, err);
	const char *op_id = banger_json_str(result, "op_id");
	printf("%s\n", op_id ? op_id : "");
	if (c->notices)
		ctl_say("it goes on by itself: \"banger-ctl op log -f %s\" follows it",
			op_id ? op_id : "");
	return 0;
}

/* The image with its digest, for which a program waits and a person does not. */
static int print_whole(struct ctl *c, struct json_object *result, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL, *shown = NULL;
	const char *id = banger_json_str(banger_json_get(result, "image"), "id");

	int r = ctl_params(&params, err, "image", id, NULL);
	if (r == 0)
		r = ctl_call(c, BANGER_METHOD_IMAGE_SHOW, TAKE_PTR(params), &shown, err);
	if (r < 0)
		return r;
	struct json_object *image = banger_json_get(shown, "image");
	if (image && banger_json_add(result, "image", json_object_get(image)) < 0)
		return banger_error_oom(err);
	return ctl_print_line(result, err);
}

static int watch(struct ctl *c, struct json_object *params, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params, *result = NULL;
	_cleanup_pull_view_ struct pull_view *view = NULL;

	int r = pull_view_new(c, banger_op_current(), &view, err);
	if (r < 0)
		return r;
	const struct ctl_work work = {.tick = pull_view_tick, .end = pull_view_end, .arg = view};
	r = ctl_call_long(
		c, &work, BANGER_METHOD_IMAGE_PULL, TAKE_PTR(owned), NULL, 0, &result, err);
	if (r < 0)
		return r;
	return c->json ? print_whole(c, result, err)
		       : ctl_print_made(c, "pulled", "image", result, err);
}

int do_pull(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = NULL;
	_cleanup_free_ char *source = NULL;

	int r = whole_source(in->args[0], &source, err);
	if (r == 0)
		r = pull_params(in, &params, err);
	if (r == 0 && banger_json_add_str(params, "source", source) < 0)
		r = banger_error_oom(err);
	if (r < 0)
		return r;
	return cli_given(in, "detach") ? begin(c, TAKE_PTR(params), err)
				       : watch(c, TAKE_PTR(params), err);
}
