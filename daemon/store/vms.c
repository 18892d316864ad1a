/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Rows of VMs. The VM service keeps them in memory too and looks there; what is here is what it finds again after a
 * restart, and what a view of the registry shows. So there is no lookup by word, and every change writes the whole row.
 */
#include "store/internal.h"

int vm_from_row(sqlite3_stmt *st, struct banger_vm *ret, struct banger_error *err)
{
	_cleanup_vm_ struct banger_vm v = {0};
	int i = 0;

	column_array(st, i++, v.id, sizeof(v.id));
	column_array(st, i++, v.name, sizeof(v.name));
	v.state = sqlite3_column_int(st, i++);
	v.generation = sqlite3_column_int64(st, i++);
	column_array(st, i++, v.op_id, sizeof(v.op_id));
	column_array(st, i++, v.image_id, sizeof(v.image_id));
	column_array(st, i++, v.image, sizeof(v.image));
	column_array(st, i++, v.kernel_id, sizeof(v.kernel_id));
	column_array(st, i++, v.kernel, sizeof(v.kernel));
	v.cpus = sqlite3_column_int64(st, i++);
	v.memory = sqlite3_column_int64(st, i++);
	v.disk = sqlite3_column_int64(st, i++);
	v.overlay = sqlite3_column_int(st, i++);
	v.work_disk = sqlite3_column_int(st, i++);
	v.network = sqlite3_column_int(st, i++);
	v.registry = sqlite3_column_int(st, i++);
	v.init = sqlite3_column_int(st, i++);
	column_array(st, i++, v.accel, sizeof(v.accel));
	int publish = i++, failure = i++;
	v.created_us = sqlite3_column_int64(st, i++);
	v.started_us = sqlite3_column_int64(st, i++);
	v.pid = sqlite3_column_int64(st, i++);
	v.pid_start = sqlite3_column_int64(st, i++);
	column_array(st, i++, v.boot_id, sizeof(v.boot_id));
	column_array(st, i++, v.accel_used, sizeof(v.accel_used));
	if (column_dup(st, publish, &v.publish) < 0 || column_dup(st, failure, &v.failure) < 0)
		return banger_error_oom(err);
	*ret = v;
	v = (struct banger_vm){0};
	return 0;
}

static void bind_vm(sqlite3_stmt *st, const struct banger_vm *v)
{
	int i = 1;

	bind_text(st, i++, v->id);
	bind_text(st, i++, v->name);
	sqlite3_bind_int(st, i++, v->state);
	sqlite3_bind_int64(st, i++, v->generation);
	bind_text_opt(st, i++, v->op_id);
	bind_text(st, i++, v->image_id);
	bind_text(st, i++, v->image);
	bind_text(st, i++, v->kernel_id);
	bind_text(st, i++, v->kernel);
	sqlite3_bind_int64(st, i++, v->cpus);
	sqlite3_bind_int64(st, i++, v->memory);
	sqlite3_bind_int64(st, i++, v->disk);
	sqlite3_bind_int(st, i++, v->overlay);
	sqlite3_bind_int(st, i++, v->work_disk);
	sqlite3_bind_int(st, i++, v->network);
	sqlite3_bind_int(st, i++, v->registry);
	sqlite3_bind_int(st, i++, v->init);
	bind_text(st, i++, v->accel);
	bind_text(st, i++, v->publish);
	bind_text(st, i++, v->failure);
	sqlite3_bind_int64(st, i++, v->created_us);
	sqlite3_bind_int64(st, i++, v->started_us);
	sqlite3_bind_int64(st, i++, v->pid);
	sqlite3_bind_int64(st, i++, v->pid_start);
	bind_text_opt(st, i++, v->boot_id);
	bind_text_opt(st, i++, v->accel_used);
}

int store_vm_put(struct store *s, struct banger_vm *vm, const struct banger_op_record *op,
	struct banger_error *err)
{
	_cleanup_write_ struct write w = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;
	struct banger_vm row = *vm; /* shallow */

	int r = write_begin(s, &w, err);
	if (r == 0)
		r = write_generation(&w, &row.generation, err);
	if (r == 0)
		r = statement_get(w.c, STORE_VM_PUT, &st, err);
	if (r < 0)
		return r;
	bind_vm(st, &row);
	int rc = sqlite3_step(st);
	if (rc == SQLITE_CONSTRAINT_UNIQUE)
		return banger_error_set(err, BANGER_EXISTS, "VM name \"%s\" is taken", vm->name);
	if (rc != SQLITE_DONE)
		return store_error(w.c->db, rc, err, "cannot write the VM");
	r = write_op(&w, op, err);
	if (r == 0)
		r = write_commit(&w, err);
	if (r == 0)
		vm->generation = row.generation;
	return r;
}

int store_vm_delete(struct store *s, const char *id, const struct banger_op_record *op,
	int64_t *ret_generation, struct banger_error *err)
{
	_cleanup_write_ struct write w = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;
	int64_t generation = 0;

	int r = write_begin(s, &w, err);
	if (r == 0)
		r = statement_get(w.c, STORE_VM_DELETE, &st, err);
	if (r < 0)
		return r;
	bind_text(st, 1, id);
	r = statement_run(w.c, st, err, "cannot delete the VM");
	if (r == 0)
		r = write_generation(&w, &generation, err);
	if (r == 0)
		r = write_op(&w, op, err);
	if (r == 0)
		r = write_commit(&w, err);
	if (r == 0)
		*ret_generation = generation;
	return r;
}
