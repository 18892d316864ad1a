/* SPDX-License-Identifier: Apache-2.0 */
/*
 * How VMs end, and what users do to those that run.
 *
 * Whatever ends the VMM, its machine's thread makes the last transition (vm_over()), so there is one place that decides
 * between "stopped" and "failed":
 *	somebody asked for it (stop, kill, rm)         stopped
 *	the start gave up, and said why                failed, with that
 *	the guest powered off or restarted, after its agent had been ready, and its kernel did not panic   stopped
 *	anything else                                  failed, with how QEMU ended and the console's last words
 * It does so under the op_id of who is to blame (vm.cause), else under one of its own.
 */
#include <fcntl.h>
#include <signal.h>
#include <string.h>
#include <sys/wait.h>
#include <banger/log.h>
#include "vm/internal.h"

#define STOP_DEFAULT_MS 30000

/* ---- the end */

/* What is known when a VMM has ended. */
struct ending {
	const struct machine_end *end;
	char cause[BANGER_OP_ID_LEN + 1]; /* whose operation it was; "": nobody's */
	bool asked, agent;                /* somebody asked for it; the agent had been ready */
	char *why;                        /* why it was ended, if that is a failure; owned */
};

static bool panicked(const struct machine_end *e)
{
	return e->panicked || strstr(e->console, "Kernel panic");
}

static bool ended_well(const struct ending *g)
{
	if (g->why)
		return false;
	return g->asked ||
	       (g->agent && (g->end->powered_off || g->end->reset) && !panicked(g->end));
}

/* One clause: how the process ended. */
static void describe(const struct machine_end *e, char *ret, size_t size)
{
	if (panicked(e))
		snprintf(ret, size, "the guest's kernel panicked");
	else if (e->powered_off || e->reset)
		snprintf(ret, size, "the guest %s before its agent was ready",
			e->reset ? "restarted" : "powered off");
	else if (!e->known)
		snprintf(ret, size, "its VMM has ended, and bangerd was not its parent to see how");
	else if (e->code == CLD_EXITED)
		snprintf(ret, size, "its VMM exited with status %d", e->status);
	else
		snprintf(ret, size, "its VMM was ended by signal %d (SIG%s)", e->status,
			sigabbrev_np(e->status) ?: "?");
}

/* One that ends with a status before the agent was ready may not have understood what it was told. */
static void blame_version(struct vm_service *s, const struct ending *g, char *how, size_t size)
{
	struct banger_error err = {0};
	char version[64];

	if (g->agent || !g->end->known || g->end->code != CLD_EXITED || g->end->status == 0)
		return;
	size_t n = strlen(how);
	if (parts_check_vmm(s, version, sizeof(version), &err) < 0)
		snprintf(how + n, size - n, " (%.300s)", err.message);
}

static char *failure_text(struct vm_service *s, const struct ending *g)
{
	char how[512], *text = NULL;

	if (g->why)
		snprintf(how, sizeof(how), "%s", g->why);
	else
		describe(g->end, how, sizeof(how));
	if (!g->why)
		blame_version(s, g, how, sizeof(how));
	if (asprintf(&text, "%s%s%s", how, g->end->console[0] ? "; its console ends with: " : "",
		    g->end->console) < 0)
		return NULL;
	for (char *p = text; *p; p++)
		if ((unsigned char)*p < 0x20 || *p == 0x7f)
			*p = ' ';
	return text;
}

static void set_failure(void *arg, struct banger_vm *row)
{
	char **text = arg;

	row->failure = TAKE_PTR(*text);
}

static void last_transition(struct vm *vm, const struct ending *g)
{
	bool well = ended_well(g);
	_cleanup_free_ char *failure = well ? NULL : failure_text(vm->service, g);
	struct banger_error err = {0};

	if (vm_transition(vm, well ? BANGER_VM_STOPPED : BANGER_VM_FAILED, set_failure, &failure,
		    &err) < 0)
		log_err("a VM's end could not be noted", KV_S("vm", vm->name), KV_ERR(&err));
}

/* An end that nobody asked for is an operation of its own, so that it can be found among them. */
static void end_by_itself(struct vm *vm, const struct ending *g)
{
	struct banger_actor actor = {.uid = geteuid(), .gid = getegid(), .pid = getpid()};
	_cleanup_json_ struct json_object *params = json_object_new_object();
	banger_op_id id = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(id.s);
	struct operation *op = NULL;

	strcpy(actor.program, "bangerd");
	strcpy(actor.door, "daemon");
	if (params)
		banger_json_add_str(params, "vm", vm->name);
	if (vm->service->deps.operations &&
		operation_begin(vm->service->deps.operations, OPERATION_CHANGE, "vm.end", id.s,
			&actor, params, &op, NULL) < 0)
		op = NULL;
	last_transition(vm, g);
	if (op)
		operation_end(op, NULL);
}

static void take_ending(struct vm *vm, struct ending *g)
{
	pthread_mutex_lock(&vm->service->lock);
	const char *claim = vm->transient || vm->row.state == BANGER_VM_STARTING ? vm->claim : "";
	g->asked = vm->cause[0];
	g->agent = vm->agent;
	g->why = TAKE_PTR(vm->fail_why);
	snprintf(g->cause, sizeof(g->cause), "%s", g->asked ? vm->cause : claim);
	pthread_mutex_unlock(&vm->service->lock);
}

static void on_end(struct vm *vm, const struct machine_end *end)
{
	struct ending g = {.end = end};

	take_ending(vm, &g);
	if (g.cause[0]) {
		_cleanup_op_ banger_op_id saved = banger_op_enter(g.cause);
		last_transition(vm, &g);
	} else {
		end_by_itself(vm, &g);
	}
	free(g.why);
	/* Somebody who follows the console looks at the state when its log is touched. */
	utimensat(vm->dir_fd, "console.log", NULL, AT_SYMLINK_NOFOLLOW);
}

/* machine_options.over */
void vm_over(void *arg, const struct machine_end *end)
{
	struct vm *vm = arg;
	struct vm_service *s = vm->service;

	if (end) {
		cgroups_remove(&s->cgroups, vm->id); /* first: the next start has one again */
		on_end(vm, end);
		vm_sharing_end(vm);
	}
	pthread_mutex_lock(&s->lock);
	struct machine *m = TAKE_PTR(vm->machine);
	vm->ends++;
	pthread_cond_broadcast(&s->change);
	pthread_mutex_unlock(&s->lock);
	machine_unrefp(&m);
	vm_unrefp(&vm);
}

/* Whose doing the end will be, and why, if it is a failure. */
static void blame(struct vm *vm, const char *why)
{
	char name[BANGER_NAME_MAX + 16];
	size_t n = snprintf(name, sizeof(name), "VM \"%s\": ", vm->name);

	/* It becomes a part of sentences that begin with the VM. */
	if (why && strncmp(why, name, n) == 0)
		why += n;
	pthread_mutex_lock(&vm->service->lock);
	snprintf(vm->cause, sizeof(vm->cause), "%s", banger_op_current() ?: "");
	if (why && !vm->fail_why)
		vm->fail_why = strdup(why);
	pthread_mutex_unlock(&vm->service->lock);
}

int vm_end(struct vm *vm, const char *why, struct banger_error *err)
{
	_cleanup_machine_ struct machine *m = vm_machine(vm);

	if (!m)
		return 0;
	blame(vm, why);
	machine_kill(m);
	return machine_wait(m, VM_END_MS, -1, err);
}

/* ---- what users ask for */

static int begin(struct vm_service *s, struct operation *op, const char *word, const char *verb,
	struct vm **ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = vm_find(s, word, &vm, err);
	if (r == 0 && vm->transient)
		r = banger_error_set(err, BANGER_BAD_REQUEST,
			"VM \"%s\" belongs to a running \"vm run\" and cannot be %s", vm->name,
			verb);
	if (r == 0)
		r = vm_claim(vm, operation_id(op), verb, err);
	if (r == 0)
		*ret = TAKE_PTR(vm);
	return r;
}

static int finish(
	struct vm *vm, struct operation *op, int r, struct banger_vm *ret, struct banger_error *err)
{
	if (r == 0)
		r = vm_copy(vm, ret, err);
	vm_release(vm, operation_id(op));
	return r;
}

int vm_service_start(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = begin(s, op, word, "started", &vm, err);
	if (r < 0)
		return r;
	enum banger_vm_state state = vm_state(vm);
	if (!vm_state_has_vmm(state))
		r = vm_boot(vm, op, false, err);
	else if (state == BANGER_VM_PAUSED)
		r = vm_refuse(vm, "started", err);
	return finish(vm, op, r, ret, err);
}

static int ask_to_stop(struct vm *vm, struct operation *op, struct machine *m, int64_t ms,
	struct banger_error *err)
{
	struct vm_service *s = vm->service;
	int64_t begun = banger_monotonic_us();

	/* A little less for the agent, which ends what does not end in time in better order than a killed VMM does. */
	int agent_ms = (int)(ms * 2 / 3),
	    grace_ms = agent_ms - (agent_ms < 4000 ? agent_ms / 4 : 1000);
	int r = session_power_off(machine_session(m), grace_ms, NULL);
	if (r == 0)
		r = machine_wait(m, agent_ms, operation_cancel_fd(op), err);
	if (r == 0 || r == -ECANCELED)
		return r;
	log_info("the VM's agent does not power it off", KV_S("vm", vm->name));
	s->driver->power_button(machine_control(m), NULL);
	int64_t left = ms - (banger_monotonic_us() - begun) / 1000;
	r = machine_wait(m, left > 0 ? (int)left : 0, operation_cancel_fd(op), err);
	if (r == 0 || r == -ECANCELED)
		return r;
	log_warn("the VM does not power off and is killed", KV_S("vm", vm->name));
	machine_kill(m);
	return machine_wait(m, VM_END_MS, -1, err);
}

static int stop(struct vm *vm, struct operation *op, int64_t timeout_ms, struct banger_error *err)
{
	_cleanup_machine_ struct machine *m = vm_machine(vm);
	enum banger_vm_state state = vm_state(vm);

	if (!m || !vm_state_has_vmm(state))
		return 0;
	int r = vm_transition(vm, BANGER_VM_STOPPING, NULL, NULL, err);
	if (r < 0)
		return r;
	blame(vm, NULL);
	if (state == BANGER_VM_PAUSED)
		vm->service->driver->resume(machine_control(m), NULL);
	r = ask_to_stop(vm, op, m, timeout_ms ?: STOP_DEFAULT_MS, err);
	if (r == -ECANCELED) { /* half asked to stop: there is no way back */
		machine_kill(m);
		machine_wait(m, VM_END_MS, -1, NULL);
	}
	return r;
}

int vm_service_stop(struct vm_service *s, struct operation *op, const char *word,
	int64_t timeout_ms, struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = vm_find(s, word, &vm, err);
	if (r == 0 && vm->transient) { /* its claim is that of its run, which ends with it */
		r = stop(vm, op, timeout_ms, err);
		return r < 0 ? r : vm_copy(vm, ret, err);
	}
	vm_unrefp(&vm);
	if (r == 0)
		r = begin(s, op, word, "stopped", &vm, err);
	return r < 0 ? r : finish(vm, op, stop(vm, op, timeout_ms, err), ret, err);
}

int vm_service_kill(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = vm_find(s, word, &vm, err);
	if (r < 0)
		return r;
	_cleanup_machine_ struct machine *m = vm_machine(vm);
	if (!m)
		return vm_refuse(vm, "killed", err);
	r = vm_end(vm, NULL, err);
	return r < 0 ? r : vm_copy(vm, ret, err);
}

/* Tell the guest how late it is: its clock stood still. */
static void resumed(struct machine *m)
{
	session_set_time(machine_session(m), banger_now_us());
}

static int set_paused(struct vm *vm, bool pause, struct banger_error *err)
{
	_cleanup_machine_ struct machine *m = vm_machine(vm);
	const struct vmm_driver *d = vm->service->driver;
	enum banger_vm_state from = pause ? BANGER_VM_RUNNING : BANGER_VM_PAUSED;
	_cleanup_vm_ struct banger_vm row = {0};

	int r = vm_copy(vm, &row, err);
	if (r < 0)
		return r;
	if (!m || row.state != from)
		return pause ? vm_state_refuse(&row, "paused", err)
			     : banger_error_set(err, BANGER_BAD_REQUEST,
				       "VM \"%s\" is %s, not paused", row.name,
				       banger_vm_state_name(row.state));
	r = pause ? d->pause(machine_control(m), err) : d->resume(machine_control(m), err);
	if (r == 0)
		r = vm_transition(
			vm, pause ? BANGER_VM_PAUSED : BANGER_VM_RUNNING, NULL, NULL, err);
	if (r == 0 && !pause)
		resumed(m);
	return r;
}

int vm_service_pause(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = begin(s, op, word, "paused", &vm, err);
	return r < 0 ? r : finish(vm, op, set_paused(vm, true, err), ret, err);
}

int vm_service_resume(struct vm_service *s, struct operation *op, const char *word,
	struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vmref_ struct vm *vm = NULL;

	int r = begin(s, op, word, "resumed", &vm, err);
	return r < 0 ? r : finish(vm, op, set_paused(vm, false, err), ret, err);
}
