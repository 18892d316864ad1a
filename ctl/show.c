/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What several groups of commands show: moments, files, events, log records, and how a stream is
 * followed. A line of a stream is made in one piece, cleaned, and flushed, so that a pipe sees it
 * when it happens.
 */
#include <string.h>
#include <banger/log.h>
#include "ctl.h"
#include "text.h"

const char *ctl_when(int64_t us, char buf[CTL_WHEN_LEN])
{
	char at[TEXT_TIME_LEN], age[TEXT_AGE_LEN];

	*buf = '\0';
	if (us != 0)
		snprintf(buf, CTL_WHEN_LEN, "%s (%s)", text_time(us, at),
			text_age(us, banger_now_us(), age));
	return buf;
}

/* Clean and print what a memory stream holds. */
static int print_stream(FILE *f, char **text, struct banger_error *err)
{
	_cleanup_free_ char *safe = NULL;

	if (fflush(f) != 0 || !*text)
		return banger_error_oom(err);
	safe = text_clean(*text);
	if (!safe)
		return banger_error_oom(err);
	puts(safe);
	fflush(stdout);
	return 0;
}

static void put_clock(FILE *f, struct json_object *o)
{
	char buf[TEXT_TIME_LEN];
	int64_t us = ctl_json_time(o, "ts");

	fprintf(f, "%s ", us ? text_clock(us, buf) : "-");
}

static void put_image(FILE *f, struct json_object *image)
{
	const char *state = banger_json_str(image, "state"), *name = banger_json_str(image, "name");
	const char *id = banger_json_str(image, "id");
	const char *dir = !state                            ? ""
			  : strcmp(state, "draft") == 0     ? "drafts/"
			  : strcmp(state, "published") == 0 ? "images/"
							    : "";

	fprintf(f, " %s%s (%s)", dir, name ? name : "?", id ? id : "?");
}

static void put_operation(FILE *f, struct json_object *op)
{
	struct json_object *actor = banger_json_get(op, "actor"),
			   *elapsed = banger_json_get(op, "elapsed_ms");
	const char *outcome = banger_json_str(op, "outcome"), *code = banger_json_str(op, "code");
	const char *method = banger_json_str(op, "method"),
		   *message = banger_json_str(op, "message");
	const char *program = banger_json_str(actor, "program"), *vm = banger_json_str(actor, "vm");
	char took[TEXT_DURATION_LEN];

	fprintf(f, "%s %s", method ? method : "?", outcome ? outcome : "?");
	if (code)
		fprintf(f, ": %s", code);
	if (elapsed)
		fprintf(f, " after %s",
			text_duration((int64_t)(json_object_get_double(elapsed) * 1000), took));
	if (vm && *vm)
		fprintf(f, " by VM %s", vm);
	else if (program && *program)
		fprintf(f, " by %s[%lld]", program, (long long)banger_json_int(actor, "pid", 0));
	if (message && *message)
		fprintf(f, ": %s", message);
}

int ctl_print_event(struct json_object *event, struct banger_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	_cleanup_fclose_ FILE *f = open_memstream(&text, &size);
	const char *kind = banger_json_str(event, "event"),
		   *change = banger_json_str(event, "change");
	struct json_object *op = banger_json_get(event, "op");
	const char *op_id = banger_json_str(op ? op : event, "op_id");

	if (!f)
		return banger_error_oom(err);
	/* Where the snapshot would end; there is none. */
	if (kind && strcmp(kind, "ready") == 0)
		return 0;
	put_clock(f, event);
	fprintf(f, "%s ", kind ? kind : "?");
	if (op)
		put_operation(f, op);
	else
		fputs(change ? change : "?", f);
	for (size_t i = 0; i < ctl_json_count(event, "images"); i++)
		put_image(f, ctl_json_at(event, "images", i));
	if (banger_json_get(event, "kernel"))
		put_image(f, banger_json_get(event, "kernel"));
	if (op_id)
		fprintf(f, " %s", op_id);
	return print_stream(f, &text, err);
}

/* The record's own attributes, in the order in which it has them. */
static void put_attributes(FILE *f, struct json_object *record)
{
	static const char *const said[] = {"ts", "level", "program", "msg", "op_id"};

	json_object_object_foreach (record, key, v) {
		bool skip = false;

		for (size_t i = 0; i < ELEMENTSOF(said); i++)
			skip |= strcmp(key, said[i]) == 0;
		if (skip)
			continue;
		if (json_object_is_type(v, json_type_string) &&
			!strpbrk(json_object_get_string(v), " \"="))
			fprintf(f, " %s=%s", key, json_object_get_string(v));
		else
			fprintf(f, " %s=%s", key,
				json_object_to_json_string_ext(v, JSON_C_TO_STRING_NOSLASHESCAPE));
	}
}

int ctl_print_record(struct json_object *record, struct banger_error *err)
{
	_cleanup_free_ char *text = NULL;
	size_t size = 0;
	_cleanup_fclose_ FILE *f = open_memstream(&text, &size);
	const char *level = banger_json_str(record, "level"),
		   *program = banger_json_str(record, "program");
	const char *msg = banger_json_str(record, "msg"), *op_id = banger_json_str(record, "op_id");

	if (!f)
		return banger_error_oom(err);
	put_clock(f, record);
	fprintf(f, "%-5s %s: %s", level ? level : "-", program ? program : "-", msg ? msg : "-");
	if (json_object_is_type(record, json_type_object))
		put_attributes(f, record);
	if (op_id)
		fprintf(f, " %s", op_id);
	return print_stream(f, &text, err);
}

int ctl_print_made(const struct ctl *c, const char *did, const char *what,
	struct json_object *result, struct banger_error *err)
{
	struct json_object *made = banger_json_get(result, what);
	_cleanup_free_ char *name = text_clean(banger_json_str(made, "name"));
	_cleanup_free_ char *id = text_clean(banger_json_str(made, "id"));

	if (c->json)
		return ctl_print_json(c, result, err);
	if (!name || !id)
		return banger_error_oom(err);
	if (c->quiet)
		puts(id);
	else
		printf("%s %s %s\n", did, name, id);
	return 0;
}

int ctl_print_files(const struct ctl *c, struct json_object *result, struct banger_error *err)
{
	static const struct listing_column columns[] = {
		{"FILE"}, {"SIZE", true}, {"ON DISK", true}};
	_cleanup_listing_ struct listing *l = NULL;
	int r = listing_new(columns, ELEMENTSOF(columns), &l);

	for (size_t i = 0; r == 0 && i < ctl_json_count(result, "files"); i++) {
		struct json_object *file = ctl_json_at(result, "files", i);
		char size[TEXT_SIZE_LEN], blocks[TEXT_SIZE_LEN];

		r = LISTING_ADD(l, banger_json_str(file, "name"),
			text_size(banger_json_int(file, "size", 0), size),
			text_size(banger_json_int(file, "blocks", 0) * 512, blocks));
	}
	if (r < 0)
		return banger_error_oom(err);
	if (listing_rows(l) > 0) {
		putchar('\n');
		listing_print(l, stdout, c->terminal);
	}
	return 0;
}

int ctl_follow(struct ctl *c, int (*print)(struct json_object *, struct banger_error *),
	struct banger_error *err)
{
	for (;;) {
		_cleanup_json_ struct json_object *o = NULL;
		int r = banger_client_next(c->client, -1, &o, err);

		if (r <= 0) {
			c->unreachable = r == -EHOSTDOWN;
			return r;
		}
		r = c->json ? ctl_print_line(o, err) : print(o, err);
		if (r < 0)
			return r;
		if (ferror(stdout))
			return banger_error_set(
				err, BANGER_INTERNAL, "cannot write to standard output");
	}
}
