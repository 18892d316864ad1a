/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Each look replaces what was known. Rates are of the last few looks, weighted towards the latest, so
 * that the time left does not jump. A block never has more lines than SHOWN_MAX: layers that are there
 * are summed up in one line when there are many.
 */
#include "pull_view.h"

#include <string.h>
#include <sys/ioctl.h>
#include <unistd.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "text.h"

#define LAYERS_MAX 256
#define SHOWN_MAX 24
#define SHORT_DIGEST 12

struct layer {
	char digest[SHORT_DIGEST + 1];
	int64_t size, fetched;
	double rate; /* bytes per second */
	char state[16];
	bool changed; /* its state, since the last look */
};

struct pull_view {
	struct ctl *c;
	struct banger_client *client;
	char op_id[BANGER_OP_ID_LEN + 1];
	char phase[16];
	bool new_phase;
	struct layer layers[LAYERS_MAX];
	size_t n;
	int64_t members, content, looked_us;
	size_t drawn; /* lines of the block */
};

int pull_view_new(
	struct ctl *c, const char *op_id, struct pull_view **ret, struct banger_error *err)
{
	struct pull_view *v = calloc(1, sizeof(*v));

	if (!v)
		return banger_error_oom(err);
	v->c = c;
	snprintf(v->op_id, sizeof(v->op_id), "%s", op_id ? op_id : "");
	*ret = v;
	return 0;
}

void pull_view_freep(struct pull_view **v)
{
	if (!*v)
		return;
	banger_client_freep(&(*v)->client);
	free(*v);
	*v = NULL;
}

/* ---- looking */

static void take_layer(struct layer *l, struct json_object *o, double seconds)
{
	const char *digest = banger_json_str(o, "digest"), *state = banger_json_str(o, "state");
	const char *hex = digest ? strchr(digest, ':') : NULL;
	int64_t fetched = banger_json_int(o, "fetched", 0);
	char shown[SHORT_DIGEST + 1];

	snprintf(shown, sizeof(shown), "%.*s", SHORT_DIGEST, hex ? hex + 1 : "?");
	bool same = strcmp(shown, l->digest) == 0;
	double now = same && seconds > 0 ? (double)(fetched - l->fetched) / seconds : 0;
	l->rate = now < 0 ? 0 : l->rate > 0 ? l->rate * 0.7 + now * 0.3 : now;
	strcpy(l->digest, shown);
	l->size = banger_json_int(o, "size", 0);
	l->fetched = fetched;
	l->changed = !same || !state || strcmp(state, l->state) != 0;
	snprintf(l->state, sizeof(l->state), "%s", state ? state : "");
}

static void take_progress(struct pull_view *v, struct json_object *p)
{
	const char *phase = banger_json_str(p, "phase");
	int64_t now = banger_monotonic_us();
	double seconds = v->looked_us ? (double)(now - v->looked_us) / 1e6 : 0;

	v->new_phase = phase && strcmp(phase, v->phase) != 0;
	snprintf(v->phase, sizeof(v->phase), "%s", phase ? phase : "");
	v->members = banger_json_int(p, "members", 0);
	v->content = banger_json_int(p, "content", 0);
	v->n = ctl_json_count(p, "layers");
	if (v->n > LAYERS_MAX)
		v->n = LAYERS_MAX;
	for (size_t i = 0; i < v->n; i++)
		take_layer(&v->layers[i], ctl_json_at(p, "layers", i), seconds);
	v->looked_us = now;
}

/* The operation's progress, a new reference; NULL: it says nothing (yet, or any more). */
static struct json_object *look(struct pull_view *v)
{
	_cleanup_op_ banger_op_id saved = banger_op_enter(banger_op_id_mint().s);
	_cleanup_json_ struct json_object *params = NULL, *result = NULL;

	if (!v->client && banger_client_connect(v->c->config.socket, &v->client, NULL) < 0)
		return NULL;
	if (ctl_params(&params, NULL, "op_id", v->op_id, NULL) < 0)
		return NULL;
	if (banger_client_call(v->client, BANGER_METHOD_IMAGE_PULL_STATUS, TAKE_PTR(params),
		    &result, NULL) < 0) {
		/* Not begun yet, or over: the next look tells. A broken connection is made anew. */
		banger_client_freep(&v->client);
		return NULL;
	}
	struct json_object *p = banger_json_get(banger_json_get(result, "op"), "progress");
	return json_object_is_type(p, json_type_object) ? json_object_get(p) : NULL;
}

/* ---- showing */

static void erase(struct pull_view *v)
{
	for (; v->drawn > 0; v->drawn--)
		fputs("\033[A\033[2K", stderr);
	fputs("\r", stderr);
}

static void draw_layer(struct pull_view *v, const struct layer *l)
{
	char fetched[TEXT_SIZE_LEN], size[TEXT_SIZE_LEN], rate[TEXT_SIZE_LEN];
	char left[TEXT_DURATION_LEN];

	fprintf(stderr, "%s  %-8s  %7s / %-7s", l->digest, l->state, text_size(l->fetched, fetched),
		text_size(l->size, size));
	if (strcmp(l->state, "fetching") == 0 && l->rate >= 1) {
		double seconds = (double)(l->size - l->fetched) / l->rate;
		fprintf(stderr, "  %7s/s", text_size((int64_t)l->rate, rate));
		if (seconds < 1e6)
			fprintf(stderr, "  %s left",
				text_duration((int64_t)(seconds + 0.5) * 1000000, left));
	}
	fputs("\033[K\n", stderr);
	v->drawn++;
}

static bool is_there(const struct layer *l)
{
	return strcmp(l->state, "fetching") != 0 && strcmp(l->state, "waiting") != 0;
}

static void draw_layers(struct pull_view *v)
{
	bool all = v->n <= SHOWN_MAX;
	size_t there = 0, shown = 0, more = 0;

	for (size_t i = 0; i < v->n; i++) {
		if (!all && is_there(&v->layers[i]))
			there++;
		else if (shown++ < SHOWN_MAX)
			draw_layer(v, &v->layers[i]);
		else
			more++;
	}
	if (there || more) {
		fprintf(stderr, "%zu layers are here, %zu more wait\033[K\n", there, more);
		v->drawn++;
	}
}

static void draw(struct pull_view *v)
{
	char content[TEXT_SIZE_LEN];

	erase(v);
	draw_layers(v);
	if (v->members > 0)
		fprintf(stderr, "%s: %lld files, %s\033[K\n", v->phase, (long long)v->members,
			text_size(v->content, content));
	else
		fprintf(stderr, "%s\033[K\n", v->phase);
	v->drawn++;
}

/* Lines for a pipe: what has changed. */
static void tell(struct pull_view *v)
{
	char size[TEXT_SIZE_LEN];

	if (v->new_phase)
		ctl_say("%s", v->phase);
	for (size_t i = 0; i < v->n; i++)
		if (v->layers[i].changed && strcmp(v->layers[i].state, "waiting") != 0)
			ctl_say("layer %s: %s, %s", v->layers[i].digest, v->layers[i].state,
				text_size(v->layers[i].size, size));
}

static void show(struct pull_view *v, struct json_object *progress)
{
	_cleanup_json_ struct json_object *line = NULL;

	if (v->c->json) {
		line = json_object_new_object();
		if (line && banger_json_add_str(line, "op_id", v->op_id) == 0 &&
			banger_json_add(line, "progress", json_object_get(progress)) == 0)
			(void)ctl_print_line(line, NULL);
	} else if (v->c->quiet) {
		return;
	} else if (v->c->notices) {
		draw(v);
	} else {
		tell(v);
	}
}

void pull_view_tick(void *arg)
{
	struct pull_view *v = arg;
	_cleanup_json_ struct json_object *p = look(v);

	if (!p)
		return;
	take_progress(v, p);
	show(v, p);
}

void pull_view_end(void *arg)
{
	struct pull_view *v = arg;

	if (v->drawn > 0)
		erase(v);
}
