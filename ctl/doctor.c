/* SPDX-License-Identifier: Apache-2.0 */
/*
 * doctor: the probes made here and the checks that bangerd makes, as one list. Where both looked at
 * the same thing, bangerd's word counts, because it is bangerd that uses it.
 *
 * A machine without KVM or virtiofsd is not broken: only what banger cannot do without makes the
 * exit status 1. A daemon that is away is said, and is not a fault of the machine; with --check it
 * is, since the comparison of database and directories is the daemon's.
 */
#include <string.h>
#include <banger/methods.h>
#include "doctor.h"
#include "text.h"

/* bangerd's check of this name, if it made one. */
static struct json_object *check_of(struct json_object *result, const char *name)
{
	for (size_t i = 0; i < ctl_json_count(result, "checks"); i++) {
		struct json_object *check = ctl_json_at(result, "checks", i);
		const char *its = banger_json_str(check, "name");

		if (its && strcmp(its, name) == 0)
			return check;
	}
	return NULL;
}

static int add_probe(const struct ctl *c, const struct probe *p, struct json_object *checks,
	struct banger_error *err)
{
	struct finding f = {.name = p->name, .required = p->required, .ok = true};
	_cleanup_json_ struct json_object *o = NULL;
	_cleanup_free_ char *detail = NULL, *advice = NULL;

	p->run(c, &f);
	detail = text_clean(f.detail);
	advice = text_clean(f.advice);
	int r = detail && advice ? ctl_params(&o, err, "name", f.name, "detail", detail, "advice",
					   *advice ? advice : NULL, NULL)
				 : banger_error_oom(err);
	if (r < 0)
		return r;
	if (banger_json_add_bool(o, "ok", f.ok) < 0 ||
		banger_json_add_bool(o, "required", f.required) < 0 ||
		json_object_array_add(checks, json_object_get(o)) < 0)
		return banger_error_oom(err);
	return 0;
}

/* Everything, in the order in which it is shown: bangerd's checks, then ours that it did not make.
 */
static int gather(const struct ctl *c, struct json_object *daemon, struct json_object *checks,
	struct banger_error *err)
{
	for (size_t i = 0; i < ctl_json_count(daemon, "checks"); i++)
		if (json_object_array_add(
			    checks, json_object_get(ctl_json_at(daemon, "checks", i))) < 0)
			return banger_error_oom(err);
	for (const struct probe *p = doctor_probes; p->name; p++) {
		int r = check_of(daemon, p->name) ? 0 : add_probe(c, p, checks, err);
		if (r < 0)
			return r;
	}
	return 0;
}

static bool is_ok(struct json_object *check)
{
	return banger_json_bool(check, "ok", false);
}

/* A check of this name is one disagreement between the registry's database and its directories. */
static bool is_disagreement(struct json_object *check)
{
	const char *name = banger_json_str(check, "name");

	return name && strcmp(name, "consistency") == 0 && !is_ok(check);
}

static bool is_required(struct json_object *check)
{
	return banger_json_bool(check, "required", false) || is_disagreement(check);
}

static const char *state_of(struct json_object *check)
{
	if (is_ok(check))
		return "ok";
	return is_disagreement(check) ? "WRONG" : is_required(check) ? "MISSING" : "no";
}

static void print_advice(struct json_object *checks)
{
	bool first = true;

	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *check = json_object_array_get_idx(checks, i);
		_cleanup_free_ char *name = text_clean(banger_json_str(check, "name"));
		_cleanup_free_ char *advice = text_clean(banger_json_str(check, "advice"));

		if (!advice || !*advice)
			continue;
		printf("%s  %s: %s\n", first ? "\nWhat would help:\n" : "", name ? name : "?",
			advice);
		first = false;
	}
}

static int print_checks(const struct ctl *c, struct json_object *checks, struct banger_error *err)
{
	static const struct listing_column columns[] = {{"CHECK"}, {"STATE"}, {"DETAIL"}};
	_cleanup_listing_ struct listing *l = NULL;
	int r = listing_new(columns, ELEMENTSOF(columns), &l);

	for (size_t i = 0; r == 0 && i < json_object_array_length(checks); i++) {
		struct json_object *check = json_object_array_get_idx(checks, i);

		if (is_ok(check) && c->quiet)
			continue;
		r = LISTING_ADD(l, banger_json_str(check, "name"), state_of(check),
			banger_json_str(check, "detail"));
	}
	if (r < 0)
		return banger_error_oom(err);
	if (!c->quiet || listing_rows(l) > 0)
		listing_print(l, stdout, c->terminal);
	if (!c->quiet)
		print_advice(checks);
	return 0;
}

static int print_document(const struct ctl *c, struct json_object *checks, bool daemon, bool ok,
	struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_bool(o, "ok", ok) < 0 ||
		banger_json_add_bool(o, "daemon", daemon) < 0 ||
		banger_json_add(o, "checks", json_object_get(checks)) < 0)
		return banger_error_oom(err);
	return ctl_print_json(c, o, err);
}

static int ask_daemon(struct ctl *c, bool check, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object();
	const struct ctl_work work = {
		.what = check ? "comparing database and directories" : "asking bangerd"};

	if (!params || (check && banger_json_add_bool(params, "check", true) < 0))
		return banger_error_oom(err);
	return ctl_call_long(c, &work, BANGER_METHOD_DOCTOR, TAKE_PTR(params), NULL, 0, ret, err);
}

/* The daemon is away: said once, and the machine is looked at all the same. */
static int without_daemon(struct ctl *c, const struct banger_error *why)
{
	ctl_say_error(why);
	if (!c->quiet)
		ctl_say("bangerd's own checks are left out");
	c->unreachable = false;
	return 0;
}

int do_doctor(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *daemon = NULL, *checks = json_object_new_array();
	bool check = cli_given(in, "check"), ok = true;

	if (!checks)
		return banger_error_oom(err);
	int r = ask_daemon(c, check, &daemon, err);
	if (r < 0 && c->unreachable && !check)
		r = without_daemon(c, err);
	if (r == 0)
		r = gather(c, daemon, checks, err);
	if (r < 0)
		return r;
	for (size_t i = 0; i < json_object_array_length(checks); i++) {
		struct json_object *one = json_object_array_get_idx(checks, i);
		ok = ok && (is_ok(one) || !is_required(one));
	}
	r = c->json ? print_document(c, checks, daemon != NULL, ok, err)
		    : print_checks(c, checks, err);
	return r < 0 ? r : ok ? CTL_DONE : CTL_FAILED;
}
