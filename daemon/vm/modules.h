/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Which modules a boot needs, and in which order. Pure: texts in, paths out.
 */
#ifndef BANGER_VM_MODULES_H
#define BANGER_VM_MODULES_H

#include <banger/error.h>
#include <stdbool.h>

/* What a kernel says of its modules: the texts of modules.dep, modules.softdep and modules.builtin; NULL: no such
 * file. Borrowed. */
struct module_texts {
	const char *dep, *softdep, *builtin;
};

/* Is the driver there, as a module or built in? Names with '_'. */
bool module_available(const struct module_texts *t, const char *name);

/* Paths as in modules.dep, each after all that it needs: of the modules `names` (NULL-terminated; what is built in is
 * passed over), their dependencies and their "pre" soft dependencies as far as there are such modules.
 * *ret: NULL-terminated; free it by module_order_free(). UNSUPPORTED: one of `names` is neither a module nor built in. */
int module_order(const struct module_texts *t, const char *const *names, char ***ret,
	struct banger_error *err);
void module_order_free(char ***order);

#endif
