/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The connection to the daemon, made when a command first needs it, and how banger-ctl speaks to
 * people.
 *
 * Requests name their actor (door "ctl"); the daemon believes that of root and of its own user, and
 * otherwise goes by the socket's peer. The op_id is entered once, in main(), and goes out with each
 * request by itself.
 */
#include <stdarg.h>
#include <string.h>
#include "ctl.h"
#include "text.h"

static void set_actor(struct banger_client *client)
{
	struct banger_actor actor = {.uid = getuid(), .gid = getgid(), .pid = getpid()};

	strcpy(actor.program, "banger-ctl");
	strcpy(actor.door, "ctl");
	banger_client_set_actor(client, &actor);
}

int ctl_connect(struct ctl *c, struct banger_error *err)
{
	if (c->client)
		return 0;
	int r = banger_client_connect(c->config.socket, &c->client, err);
	if (r < 0) {
		c->unreachable = r != -ENOMEM;
		return r;
	}
	set_actor(c->client);
	return 0;
}

int ctl_call(struct ctl *c, const char *method, struct json_object *params,
	struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params;

	int r = ctl_connect(c, err);
	if (r < 0)
		return r;
	r = banger_client_call(c->client, method, TAKE_PTR(owned), ret, err);
	c->unreachable = r == -EHOSTDOWN && banger_client_lost(c->client);
	return r;
}

int ctl_params(struct json_object **ret, struct banger_error *err, ...)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();
	const char *key;
	va_list ap;
	int r = o ? 0 : -ENOMEM;

	va_start(ap, err);
	while (r == 0 && (key = va_arg(ap, const char *)))
		r = banger_json_add_str(o, key, va_arg(ap, const char *));
	va_end(ap);
	if (r < 0)
		return banger_error_oom(err);
	*ret = TAKE_PTR(o);
	return 0;
}

int ctl_usage(struct ctl *c, struct banger_error *err, const char *fmt, ...)
{
	va_list ap;

	c->usage = true;
	va_start(ap, fmt);
	int r = banger_error_vset(err, BANGER_BAD_REQUEST, fmt, ap);
	va_end(ap);
	return r;
}

void ctl_say(const char *fmt, ...)
{
	_cleanup_free_ char *text = NULL, *safe = NULL;
	va_list ap;

	va_start(ap, fmt);
	int n = vasprintf(&text, fmt, ap);
	va_end(ap);
	if (n < 0)
		text = NULL;
	safe = text_clean(text ? text : "out of memory");
	fflush(stdout); /* what was done before stands before it */
	fprintf(stderr, "banger-ctl: %s\n", safe ? safe : "out of memory");
}

void ctl_say_error(const struct banger_error *err)
{
	char sentence[sizeof(err->message) + BANGER_OP_ID_LEN + 8];

	ctl_say("%s", banger_error_sentence(err, sentence, sizeof(sentence)));
}
