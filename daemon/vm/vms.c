/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The VMs that there are: finding, claims, and the one way in which a VM's state changes.
 *
 * A transition reads the row, asks the table, writes the store and then the memory, all under the publication lock,
 * which is what makes it one step; watchers are told under it too, in the order of generations. Whoever finds
 * the table against it has lost a race (QEMU died while it was to be paused) and must look again.
 *
 * When a VMM has ended, that is so whether the store can say it or not: then the memory is right and the store is
 * put right by the recovery of the next start.
 */
#include <string.h>
#include <banger/fault.h>
#include <banger/log.h>
#include "vm/internal.h"

/* ---- references */

int vm_new(struct vm_service *s, struct banger_vm *row, struct vm **ret)
{
	struct vm *vm = calloc(1, sizeof(*vm));

	if (!vm)
		return -ENOMEM;
	vm->service = s;
	strcpy(vm->name, row->name);
	strcpy(vm->id, row->id);
	vm->transient = row->transient;
	vm->row = *row;
	*row = (struct banger_vm){0};
	vm->refs = 1;
	vm->dir_fd = -1;
	*ret = vm;
	return 0;
}

struct vm *vm_ref(struct vm *vm)
{
	pthread_mutex_lock(&vm->service->lock);
	vm->refs++;
	pthread_mutex_unlock(&vm->service->lock);
	return vm;
}

void vm_unrefp(struct vm **p)
{
	struct vm *vm = *p;

	*p = NULL;
	if (!vm)
		return;
	pthread_mutex_lock(&vm->service->lock);
	int left = --vm->refs;
	pthread_mutex_unlock(&vm->service->lock);
	if (left > 0)
		return;
	machine_unrefp(&vm->machine);
	banger_closep(&vm->dir_fd);
	banger_vm_done(&vm->row);
	free(vm->fail_why);
	free(vm);
}

/* ---- the list */

int vm_enlist(struct vm *vm, struct banger_error *err)
{
	struct vm_service *s = vm->service;
	bool taken = false;

	pthread_mutex_lock(&s->lock);
	for (struct vm *v = s->vms; v && !taken; v = v->next)
		taken = strcmp(v->name, vm->name) == 0;
	if (!taken) {
		vm->next = s->vms;
		s->vms = vm;
		vm->refs++;
	}
	pthread_mutex_unlock(&s->lock);
	return taken ? banger_error_set(err, BANGER_EXISTS, "VM name \"%s\" is taken", vm->name)
		     : 0;
}

void vm_delist(struct vm *vm)
{
	struct vm_service *s = vm->service;
	bool was = false;

	pthread_mutex_lock(&s->lock);
	for (struct vm **at = &s->vms; *at; at = &(*at)->next)
		if (*at == vm) {
			*at = vm->next;
			was = true;
			break;
		}
	vm->gone = true;
	pthread_cond_broadcast(&s->change);
	pthread_mutex_unlock(&s->lock);
	if (was) {
		struct vm *held = vm;
		vm_unrefp(&held);
	}
}

/* With the lock: how many have `word` in the way of `match`; *ret one of them. */
static int count_matches(struct vm_service *s, const char *word,
	bool (*match)(const struct vm *, const char *), struct vm **ret)
{
	int n = 0;

	for (struct vm *v = s->vms; v; v = v->next)
		if (match(v, word)) {
			*ret = v;
			n++;
		}
	return n;
}

static bool has_name(const struct vm *v, const char *word)
{
	return strcmp(v->name, word) == 0;
}

static bool has_id(const struct vm *v, const char *word)
{
	return strcmp(v->id, word) == 0;
}

static bool has_prefix(const struct vm *v, const char *word)
{
	size_t n = strlen(word);

	return strncmp(v->id, word, n) == 0 || strncmp(v->name, word, n) == 0;
}

int vm_find(struct vm_service *s, const char *word, struct vm **ret, struct banger_error *err)
{
	struct vm *found = NULL;

	if (!*word)
		return banger_error_set(err, BANGER_BAD_REQUEST, "VM id or name is required");
	pthread_mutex_lock(&s->lock);
	int n = count_matches(s, word, has_name, &found);
	if (n == 0)
		n = count_matches(s, word, has_id, &found);
	if (n == 0)
		n = count_matches(s, word, has_prefix, &found);
	if (n == 1)
		found->refs++;
	pthread_mutex_unlock(&s->lock);
	if (n > 1)
		return banger_error_set(err, BANGER_AMBIGUOUS, "multiple VMs match \"%s\"", word);
	if (n == 0)
		return banger_error_set(err, BANGER_NOT_FOUND, "VM \"%s\" not found", word);
	*ret = found;
	return 0;
}

int vm_copy(struct vm *vm, struct banger_vm *ret, struct banger_error *err)
{
	pthread_mutex_lock(&vm->service->lock);
	int r = banger_vm_copy(&vm->row, ret);
	pthread_mutex_unlock(&vm->service->lock);
	return r < 0 ? banger_error_oom(err) : 0;
}

enum banger_vm_state vm_state(struct vm *vm)
{
	pthread_mutex_lock(&vm->service->lock);
	enum banger_vm_state s = vm->row.state;
	pthread_mutex_unlock(&vm->service->lock);
	return s;
}

int vm_refuse(struct vm *vm, const char *verb, struct banger_error *err)
{
	pthread_mutex_lock(&vm->service->lock);
	int r = vm_state_refuse(&vm->row, verb, err);
	pthread_mutex_unlock(&vm->service->lock);
	return r;
}

struct machine *vm_machine(struct vm *vm)
{
	pthread_mutex_lock(&vm->service->lock);
	struct machine *m = vm->machine ? machine_ref(vm->machine) : NULL;
	pthread_mutex_unlock(&vm->service->lock);
	return m;
}

/* ---- claims */

/* With the lock. */
static int try_claim(struct vm *vm, const char *op_id, const char *verb, struct banger_error *err)
{
	if (vm->gone)
		return banger_error_set(err, BANGER_NOT_FOUND, "VM \"%s\" not found", vm->name);
	if (vm->claim[0])
		return banger_error_set(err, BANGER_BUSY, "VM \"%s\" is being %s (by %s)", vm->name,
			vm->claim_verb, vm->claim);
	snprintf(vm->claim, sizeof(vm->claim), "%s", op_id);
	vm->claim_verb = verb;
	return 0;
}

int vm_claim(struct vm *vm, const char *op_id, const char *verb, struct banger_error *err)
{
	return vm_claim_wait(vm, op_id, verb, 0, err);
}

int vm_claim_wait(struct vm *vm, const char *op_id, const char *verb, int timeout_ms,
	struct banger_error *err)
{
	int64_t us = banger_monotonic_us() + (int64_t)timeout_ms * 1000;
	struct timespec by = {.tv_sec = us / 1000000, .tv_nsec = us % 1000000 * 1000};

	pthread_mutex_lock(&vm->service->lock);
	while (timeout_ms > 0 && vm->claim[0] && !vm->gone &&
		pthread_cond_timedwait(&vm->service->change, &vm->service->lock, &by) == 0)
		;
	int r = try_claim(vm, op_id, verb, err);
	pthread_mutex_unlock(&vm->service->lock);
	return r;
}

void vm_release(struct vm *vm, const char *op_id)
{
	pthread_mutex_lock(&vm->service->lock);
	if (strcmp(vm->claim, op_id) == 0)
		vm->claim[0] = '\0';
	pthread_cond_broadcast(&vm->service->change);
	pthread_mutex_unlock(&vm->service->lock);
}

/* ---- changes */

static struct json_object *event_json(const struct banger_vm *row, const char *change)
{
	_cleanup_json_ struct json_object *o = json_object_new_object(),
					  *vm = banger_vm_to_json(row);
	char ts[BANGER_TIME_LEN + 1];

	if (!o || !vm ||
		(strcmp(change, "removed") == 0 && banger_json_add_str(vm, "state", change) < 0) ||
		banger_json_add_str(o, "event", "vm") < 0 ||
		banger_json_add_str(o, "change", change) < 0 ||
		banger_json_add_str(o, "ts", banger_time_format(banger_now_us(), ts)) < 0 ||
		banger_json_add_str(o, "op_id", banger_op_current()) < 0 ||
		(!row->transient && banger_json_add_int(o, "generation", row->generation) < 0) ||
		banger_json_add(o, "vm", TAKE_PTR(vm)) < 0)
		return NULL;
	return TAKE_PTR(o);
}

static void tell(struct vm_service *s, const struct banger_vm *row, const char *change)
{
	size_t len;

	if (!s->deps.hub || !hub_wanted(s->deps.hub, HUB_REGISTRY))
		return;
	_cleanup_json_ struct json_object *o = event_json(row, change);
	const char *line =
		o ? json_object_to_json_string_length(
			    o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len)
		  : NULL;
	if (line)
		hub_publish(s->deps.hub, HUB_REGISTRY | HUB_PROMPT, NULL, line, len);
	else
		log_err("watchers were not told of a change: out of memory", KV_S("vm", row->name),
			KV_S("change", change));
}

/* Under the publication lock: row becomes the VM's, and is taken. */
static void take_row(struct vm *vm, struct banger_vm *row)
{
	struct banger_vm old;

	pthread_mutex_lock(&vm->service->lock);
	old = vm->row;
	vm->row = *row;
	pthread_mutex_unlock(&vm->service->lock);
	banger_vm_done(&old);
	*row = (struct banger_vm){0};
}

static void note_state(struct banger_vm *row, enum banger_vm_state to)
{
	row->state = to;
	snprintf(row->op_id, sizeof(row->op_id), "%s", banger_op_current() ?: "");
	free(TAKE_PTR(row->failure));
	if (!vm_state_has_vmm(to)) {
		row->pid = row->pid_start = 0;
		row->registry_lost[0] = '\0';
	}
}

int vm_transition(struct vm *vm, enum banger_vm_state to, vm_change *change, void *arg,
	struct banger_error *err)
{
	struct vm_service *s = vm->service;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_vm_ struct banger_vm row = {0};
	struct banger_error unheard = {0};

	err = err ?: &unheard;
	int r = vm_copy(vm, &row, err);
	if (r < 0)
		return r;
	enum banger_vm_state from = row.state;
	if (!vm_state_may_follow(from, to))
		return vm_state_refuse(&row, banger_vm_state_name(to), err);
	note_state(&row, to);
	if (change)
		change(arg, &row);
	FAULT_POINT("vm.transition");
	r = row.transient ? 0 : store_vm_put(s->deps.store, &row, NULL, err);
	if (r < 0 && vm_state_has_vmm(to))
		return r;
	if (r < 0)
		log_err("a VM's state could not be written down", KV_S("vm", row.name),
			KV_ERR(err));
	log_info("VM changed", KV_S("vm", row.name), KV_S("from", banger_vm_state_name(from)),
		KV_S("state", banger_vm_state_name(to)), KV_S("failure", row.failure));
	tell(s, &row, banger_vm_state_name(to));
	take_row(vm, &row);
	return 0;
}

int vm_note(struct vm *vm, vm_change *change, void *arg, const char *what, struct banger_error *err)
{
	struct vm_service *s = vm->service;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_vm_ struct banger_vm row = {0};

	int r = vm_copy(vm, &row, err);
	if (r < 0)
		return r;
	change(arg, &row);
	r = row.transient ? 0 : store_vm_put(s->deps.store, &row, NULL, err);
	if (r < 0)
		return r;
	tell(s, &row, what);
	take_row(vm, &row);
	return 0;
}

int vm_put_row(
	struct vm *vm, const struct banger_vm *from, const char *change, struct banger_error *err)
{
	struct vm_service *s = vm->service;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_vm_ struct banger_vm row = {0};

	if (banger_vm_copy(from, &row) < 0)
		return banger_error_oom(err);
	snprintf(row.op_id, sizeof(row.op_id), "%s", banger_op_current() ?: "");
	int r = store_vm_put(s->deps.store, &row, NULL, err);
	if (r < 0)
		return r;
	tell(s, &row, change);
	take_row(vm, &row);
	return 0;
}

int vm_commit_new(struct vm *vm, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm row = {0};

	int r = vm_copy(vm, &row, err);
	if (r == 0)
		r = vm_put_row(vm, &row, banger_vm_state_name(row.state), err);
	if (r == 0)
		log_info("VM created", KV_S("vm", row.name), KV_S("id", row.id),
			KV_S("image", row.image), KV_S("kernel", row.kernel),
			KV_S("disk", row.overlay ? "overlay" : "clone"));
	return r;
}

void vm_tell_gone(struct vm *vm)
{
	struct vm_service *s = vm->service;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_vm_ struct banger_vm row = {0};

	if (vm_copy(vm, &row, NULL) == 0)
		tell(s, &row, "removed");
}

int vm_commit_gone(struct vm *vm, struct operation *op, struct banger_error *err)
{
	struct vm_service *s = vm->service;
	_cleanup_(publication_leavep) struct publication_lock *held =
		publication_enter(s->deps.publication);
	_cleanup_vm_ struct banger_vm row = {0};
	struct banger_op_record record;

	int r = vm_copy(vm, &row, err);
	if (r < 0)
		return r;
	if (op)
		operation_completed_record(op, &record);
	r = store_vm_delete(s->deps.store, row.id, op ? &record : NULL, &row.generation, err);
	if (r < 0)
		return r;
	tell(s, &row, "removed");
	take_row(vm, &row);
	return 0;
}
