/* SPDX-License-Identifier: Apache-2.0 */
/* Commands about the daemon itself: version, ping, status, events. doctor has a file of its own. */
#include <string.h>
#include <banger/log.h>
#include <banger/methods.h>
#include "ctl.h"
#include "doctor.h"
#include "text.h"

/* Our own version is known whether or not a daemon answers. */
static int do_version(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *daemon = NULL, *both = NULL;
	char buf[32];

	int r = ctl_call(c, BANGER_METHOD_VERSION, NULL, &daemon, err);
	_cleanup_free_ char *version = text_clean(ctl_json_text(daemon, "version", buf));
	if (!c->json) {
		puts("banger-ctl " BANGER_VERSION);
		if (r == 0)
			printf("bangerd %s (protocol %lld)\n", version ? version : "?",
				(long long)banger_json_int(daemon, "protocol", 0));
		return r;
	}
	int e = ctl_params(&both, err, "client", BANGER_VERSION, NULL);
	if (e == 0 && r == 0 && banger_json_add(both, "daemon", json_object_get(daemon)) < 0)
		e = banger_error_oom(err);
	if (e == 0)
		e = ctl_print_json(c, both, err);
	return e < 0 ? e : r;
}

static int do_ping(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = NULL;
	char took[TEXT_DURATION_LEN];

	int r = ctl_connect(c, err);
	if (r < 0)
		return r;
	int64_t started = banger_monotonic_us();
	r = ctl_call(c, BANGER_METHOD_PING, NULL, NULL, err);
	int64_t elapsed = banger_monotonic_us() - started;
	if (r < 0)
		return r;
	if (c->json) {
		char ms[32];

		snprintf(ms, sizeof(ms), "%.3f", (double)elapsed / 1000);
		o = json_object_new_object();
		if (!o || banger_json_add(o, "elapsed_ms",
				  json_object_new_double_s((double)elapsed / 1000, ms)) < 0)
			return banger_error_oom(err);
		return ctl_print_json(c, o, err);
	}
	if (!c->quiet)
		printf("bangerd answers in %s\n", text_duration(elapsed, took));
	return 0;
}

/* ---- status */

static int add_lock(struct listing *l, struct json_object *status)
{
	struct json_object *lock = banger_json_get(status, "publication_lock");
	const char *op = banger_json_str(lock, "op_id");
	char took[TEXT_DURATION_LEN];

	if (!banger_json_bool(lock, "held", false))
		return fields_add(l, "publication lock", "free");
	return fields_addf(l, "publication lock", "held by %s for %s", op ? op : "?",
		text_duration(banger_json_int(lock, "held_us", 0), took));
}

static int add_running(struct listing *l, struct json_object *status)
{
	char took[TEXT_DURATION_LEN];
	int r = 0;

	for (size_t i = 0; r == 0 && i < ctl_json_count(status, "operations"); i++) {
		struct json_object *op = ctl_json_at(status, "operations", i);
		const char *id = banger_json_str(op, "op_id"),
			   *method = banger_json_str(op, "method");
		int64_t started = ctl_json_time(op, "started");

		/* The request for the status is an operation too. */
		if (method && strcmp(method, BANGER_METHOD_STATUS) == 0)
			continue;
		r = fields_addf(l, "running", "%s %s for %s", id ? id : "?", method ? method : "?",
			text_duration(started ? banger_now_us() - started : 0, took));
	}
	return r;
}

static int add_status(struct listing *l, struct json_object *s)
{
	char took[TEXT_DURATION_LEN], buf[32];
	int r = fields_addf(l, "bangerd", "%s, process %lld, up %s",
		ctl_json_text(s, "version", buf), (long long)banger_json_int(s, "pid", 0),
		text_duration(banger_json_int(s, "uptime_ms", 0) * 1000, took));

	if (r == 0)
		r = fields_add(l, "state", banger_json_str(s, "state_dir"));
	if (r == 0)
		r = fields_add(l, "socket", banger_json_str(s, "socket"));
	if (r == 0)
		r = fields_addf(l, "images", "%lld published, %lld drafts",
			(long long)banger_json_int(s, "images", 0),
			(long long)banger_json_int(s, "drafts", 0));
	if (r == 0)
		r = fields_add(l, "kernels", ctl_json_text(s, "kernels", buf));
	if (r == 0)
		r = fields_add(l, "generation", ctl_json_text(s, "generation", buf));
	if (r == 0)
		r = fields_addf(l, "clients", "%lld, %lld of them watch",
			(long long)banger_json_int(s, "clients", 0),
			(long long)banger_json_int(s, "watchers", 0));
	if (r == 0)
		r = fields_addf(
			l, "trash", "%lld to remove", (long long)banger_json_int(s, "trash", 0));
	if (r == 0)
		r = add_lock(l, s);
	return r < 0 ? r : add_running(l, s);
}

static int do_status(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *status = NULL;
	_cleanup_listing_ struct listing *l = NULL;

	int r = ctl_call(c, BANGER_METHOD_STATUS, NULL, &status, err);
	if (r < 0)
		return r;
	if (c->json)
		return ctl_print_json(c, status, err);
	if (c->quiet)
		return 0;
	r = fields_new(&l);
	if (r == 0)
		r = add_status(l, status);
	if (r < 0)
		return banger_error_oom(err);
	listing_print(l, stdout, c->terminal);
	return 0;
}

/* ---- events */

static int do_events(struct ctl *c, const struct cli_invocation *in, struct banger_error *err)
{
	_cleanup_json_ struct json_object *params = json_object_new_object();

	if (!params || banger_json_add_bool(params, "snapshot", false) < 0 ||
		banger_json_add_bool(params, "ops", cli_given(in, "ops")) < 0)
		return banger_error_oom(err);
	int r = ctl_call(c, BANGER_METHOD_REGISTRY_WATCH, TAKE_PTR(params), NULL, err);
	if (r < 0)
		return r;
	r = ctl_follow(c, ctl_print_event, err);
	if (r == 0) {
		c->unreachable = true;
		return banger_error_set(err, BANGER_UNAVAILABLE,
			"bangerd has ended the stream: it stops, or this end read too slowly");
	}
	return r;
}

/* clang-format off */
const struct cli_command cmd_daemon_commands[] = {
	{
		.name = "version",
		.help = "Show the versions of banger-ctl and of bangerd",
		.examples = CLI_EXAMPLES(
			{"banger-ctl version", "banger-ctl 0.1.0, then bangerd's"}),
		.handler = do_version,
	},
	{
		.name = "ping",
		.help = "Ask whether bangerd answers, and how fast",
		.examples = CLI_EXAMPLES(
			{"banger-ctl ping --quiet && echo up", "for a script"}),
		.handler = do_ping,
	},
	{
		.name = "status",
		.help = "Show what bangerd holds and what it does now",
		.about = "Among it who holds the publication lock, by op_id, and the operations "
			"that run.",
		.examples = CLI_EXAMPLES(
			{"banger-ctl status --json | jq .generation",
				"the registry's change counter"}),
		.handler = do_status,
	},
	{
		.name = "doctor",
		.help = "Say what this machine can do and what to install",
		.about = "Checks what banger needs: FUSE, QEMU, KVM, the filesystem under the "
			"state directory, and so on; part of it is looked at here, part by "
			"bangerd, if it runs. Exits with 1 if something is missing that banger "
			"cannot do without.",
		.options = CLI_OPTIONS(
			{"check", 0, CLI_FLAG, NULL,
				"Also compare the registry's database with its directories; exit "
				"with 1 if they disagree"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl doctor", "what is there and what is not"},
			{"banger-ctl doctor --check --quiet", "shows only what is wrong"}),
		.handler = do_doctor,
	},
	{
		.name = "events",
		.help = "Follow the changes of the registry as they happen",
		.about = "A line for each change, until interrupted. With --json each line is the "
			"event as bangerd sends it.",
		.options = CLI_OPTIONS(
			{"ops", 0, CLI_FLAG, NULL,
				"Also each operation as it ends, and those that failed"}),
		.examples = CLI_EXAMPLES(
			{"banger-ctl events --json | jq -r .change", "one word for each change"}),
		.handler = do_events,
	},
	{NULL},
};
/* clang-format on */
