/* SPDX-License-Identifier: Apache-2.0 */
/* VMs: their words and their document. What the daemon alone knows of them (the boot, the process's start time) is
 * not in it. */
#include <banger/log.h>
#include <banger/vm.h>
#include <string.h>

const char *const banger_vm_works[] = {"none", "new", "keep", NULL};
const char *const banger_vm_networks[] = {"none", "user", "bridge", NULL};
const char *const banger_vm_registries[] = {"none", "ro", "rw", NULL};

const char *banger_vm_state_name(enum banger_vm_state s)
{
	static const char *const names[] = {
#define X(sym, name) name,
		BANGER_VM_STATES(X)
#undef X
	};
	return s < BANGER_VM_STATE_COUNT ? names[s] : "unknown";
}

int banger_vm_word(
	const char *what, const char *const *words, const char *word, struct banger_error *err)
{
	char all[128] = "";

	for (int i = 0; words[i]; i++) {
		if (!word || strcmp(words[i], word) == 0)
			return i;
		size_t n = strlen(all);
		snprintf(all + n, sizeof(all) - n, "%s%s", i ? ", " : "", words[i]);
	}
	return banger_error_set(
		err, BANGER_BAD_REQUEST, "\"%s\" must be one of %s, not \"%s\"", what, all, word);
}

void banger_vm_done(struct banger_vm *v)
{
	free(v->publish);
	free(v->failure);
	*v = (struct banger_vm){0};
}

int banger_vm_copy(const struct banger_vm *from, struct banger_vm *ret)
{
	_cleanup_free_ char *publish = from->publish ? strdup(from->publish) : NULL;
	_cleanup_free_ char *failure = from->failure ? strdup(from->failure) : NULL;

	if ((from->publish && !publish) || (from->failure && !failure))
		return -ENOMEM;
	*ret = *from;
	ret->publish = TAKE_PTR(publish);
	ret->failure = TAKE_PTR(failure);
	return 0;
}

static int add_time(struct json_object *o, const char *key, int64_t us)
{
	char text[BANGER_TIME_LEN + 1];

	return us ? banger_json_add_str(o, key, banger_time_format(us, text)) : 0;
}

static int add_identity(struct json_object *o, const struct banger_vm *v)
{
	if (banger_json_add_str(o, "id", v->id) < 0 ||
		banger_json_add_str(o, "name", v->name) < 0 ||
		banger_json_add_str(o, "state", banger_vm_state_name(v->state)) < 0 ||
		banger_json_add_int(o, "generation", v->generation) < 0 ||
		banger_json_add_str(o, "op_id", v->op_id[0] ? v->op_id : NULL) < 0 ||
		banger_json_add_str(o, "image", v->image) < 0 ||
		banger_json_add_str(o, "image_id", v->image_id) < 0 ||
		banger_json_add_str(o, "kernel", v->kernel) < 0 ||
		banger_json_add_str(o, "kernel_id", v->kernel_id) < 0)
		return -ENOMEM;
	return 0;
}

static int add_shape(struct json_object *o, const struct banger_vm *v)
{
	struct json_object *publish = v->publish ? json_tokener_parse(v->publish) : NULL;

	if ((publish && banger_json_add(o, "publish", publish) < 0) ||
		banger_json_add_int(o, "cpus", v->cpus) < 0 ||
		banger_json_add_int(o, "memory", v->memory) < 0 ||
		banger_json_add_int(o, "disk", v->disk) < 0 ||
		banger_json_add_str(o, "disk_kind", v->overlay ? "overlay" : "clone") < 0 ||
		banger_json_add_str(o, "work_disk", banger_vm_works[v->work_disk]) < 0 ||
		banger_json_add_str(o, "network", banger_vm_networks[v->network]) < 0 ||
		banger_json_add_str(o, "registry", banger_vm_registries[v->registry]) < 0 ||
		banger_json_add_str(
			o, "registry_lost", v->registry_lost[0] ? v->registry_lost : NULL) < 0 ||
		banger_json_add_str(o, "accel", v->accel) < 0 ||
		banger_json_add_str(o, "init", v->init ? "image" : "agent") < 0)
		return -ENOMEM;
	return 0;
}

struct json_object *banger_vm_to_json(const struct banger_vm *v)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || add_identity(o, v) < 0 || add_shape(o, v) < 0 ||
		add_time(o, "created", v->created_us) < 0 ||
		add_time(o, "started", v->started_us) < 0 ||
		banger_json_add_str(o, "accel_used", v->accel_used[0] ? v->accel_used : NULL) < 0 ||
		(v->pid && banger_json_add_int(o, "pid", v->pid) < 0) ||
		banger_json_add_str(o, "failure", v->failure) < 0 ||
		(v->transient && banger_json_add_bool(o, "transient", true) < 0))
		return NULL;
	return TAKE_PTR(o);
}
