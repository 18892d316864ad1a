/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A look is one op.show. It must not hold up who has signals to take: a daemon that does not answer in a second is
 * asked again over a new connection.
 */
#include "vm_view.h"

#include <string.h>
#include <sys/socket.h>
#include <banger/log.h>
#include <banger/methods.h>
#include <banger/model.h>
#include "text.h"

struct vm_view {
	struct ctl *c;
	const char *doing;
	bool quietly;
	struct banger_client *client;
	char op_id[BANGER_OP_ID_LEN + 1];
	char phase[16], told[16], outcome[16], name[BANGER_NAME_MAX + 1];
	int64_t begun_us;
	bool drawn;
};

int vm_view_new(struct ctl *c, const char *doing, const char *op_id, bool quietly,
	struct vm_view **ret, struct banger_error *err)
{
	struct vm_view *v = calloc(1, sizeof(*v));

	if (!v)
		return banger_error_oom(err);
	v->c = c;
	v->doing = doing;
	v->quietly = quietly;
	v->begun_us = banger_monotonic_us();
	snprintf(v->op_id, sizeof(v->op_id), "%s", op_id ? op_id : "");
	*ret = v;
	return 0;
}

void vm_view_freep(struct vm_view **v)
{
	if (!*v)
		return;
	banger_client_freep(&(*v)->client);
	free(*v);
	*v = NULL;
}

/* ---- looking */

static void take(char *to, size_t size, const char *text)
{
	if (text)
		snprintf(to, size, "%.*s", (int)size - 1, text);
}

static int connect_patiently(struct vm_view *v)
{
	const struct timeval patience = {.tv_sec = 1};

	int r = banger_client_connect(v->c->config.socket, &v->client, NULL);
	if (r < 0)
		return r;
	(void)setsockopt(
		banger_client_fd(v->client), SOL_SOCKET, SO_RCVTIMEO, &patience, sizeof(patience));
	return 0;
}

int vm_view_look(struct vm_view *v)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	int r = v->client ? 0 : connect_patiently(v);
	if (r == 0)
		r = ctl_params(&params, NULL, "op_id", v->op_id, NULL);
	if (r < 0)
		return r;
	if (banger_client_call(v->client, BANGER_METHOD_OP_SHOW, TAKE_PTR(params), &result, NULL) <
		0) {
		banger_client_freep(&v->client);
		return 0;
	}
	struct json_object *op = banger_json_get(result, "op"),
			   *progress = banger_json_get(op, "progress");
	const char *outcome = banger_json_str(op, "outcome"),
		   *name = banger_json_str(progress, "name");

	take(v->phase, sizeof(v->phase), banger_json_str(progress, "phase"));
	if (name && banger_name_valid(name))
		take(v->name, sizeof(v->name), name);
	if (outcome && strcmp(outcome, "running") != 0)
		take(v->outcome, sizeof(v->outcome), outcome);
	return 0;
}

const char *vm_view_phase(const struct vm_view *v)
{
	return v->phase;
}

const char *vm_view_name(const struct vm_view *v)
{
	return v->name;
}

const char *vm_view_outcome(const struct vm_view *v)
{
	return v->outcome[0] ? v->outcome : NULL;
}

/* ---- showing */

static void draw(struct vm_view *v)
{
	char took[TEXT_DURATION_LEN];
	_cleanup_free_ char *phase = text_clean(v->phase);

	fprintf(stderr, "\r%s %s: %s, %s\033[K", v->doing, v->name, phase ? phase : "",
		text_duration(banger_monotonic_us() - v->begun_us, took));
	v->drawn = true;
}

static void print_json(struct vm_view *v)
{
	_cleanup_json_ struct json_object *line = json_object_new_object(),
					  *progress = json_object_new_object();

	if (line && progress && banger_json_add_str(progress, "phase", v->phase) == 0 &&
		banger_json_add_str(progress, "name", v->name) == 0 &&
		banger_json_add_str(line, "op_id", v->op_id) == 0 &&
		banger_json_add(line, "progress", TAKE_PTR(progress)) == 0)
		(void)ctl_print_line(line, NULL);
}

static void show(struct vm_view *v)
{
	bool changed = strcmp(v->phase, v->told) != 0;

	if (!v->phase[0])
		return;
	strcpy(v->told, v->phase);
	if (v->c->json && !v->quietly) {
		if (changed)
			print_json(v);
	} else if (v->c->notices) {
		draw(v);
	} else if (changed && !v->quietly && !v->c->quiet) {
		ctl_say("%s %s: %s", v->doing, v->name, v->phase);
	}
}

bool vm_view_shows(const struct vm_view *v)
{
	return v->c->notices || !v->quietly;
}

void vm_view_tick(void *arg)
{
	struct vm_view *v = arg;

	(void)vm_view_look(v);
	show(v);
}

void vm_view_end(void *arg)
{
	struct vm_view *v = arg;

	if (v->drawn)
		fputs("\r\033[K", stderr);
	v->drawn = false;
}
