/* SPDX-License-Identifier: Apache-2.0 */
/* The steps of making a VM, which vm.create and vm.run share. */
#ifndef BANGER_VM_CREATE_H
#define BANGER_VM_CREATE_H

#include "vm/internal.h"

/* The row that a request asks for, with id, name and limits checked; without image and kernel. */
int create_row(struct vm_service *s, const struct vm_create *c, struct banger_vm *ret, struct banger_error *err);
/* Find them, and note them in the row. */
int create_find(struct vm_service *s, const struct vm_create *c, struct banger_vm *row, struct banger_image *ret, struct banger_error *err);
int create_disks(struct vm *vm, const struct banger_image *image, struct banger_error *err);
/* Remove the directory and leave the list. */
void create_undo(struct vm *vm);

#endif
