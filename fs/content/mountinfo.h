/* SPDX-License-Identifier: Apache-2.0 */
#ifndef FS_CONTENT_MOUNTINFO_H
#define FS_CONTENT_MOUNTINFO_H

#include <stdbool.h>

/* Is something mounted at exactly this path? Read from the kernel's table, so that nobody is asked
 * who may not answer. *ret_major and *ret_minor (may be NULL): the device of the topmost mount
 * there. */
bool mountinfo_find(const char *path, unsigned *ret_major, unsigned *ret_minor);

#endif
