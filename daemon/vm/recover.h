/* SPDX-License-Identifier: Apache-2.0 */
/* What the start of the daemon does with a VM that it finds in the store. Pure, for tests. */
#ifndef BANGER_VM_RECOVER_H
#define BANGER_VM_RECOVER_H

#include "vm/states.h"

enum recovery {
	RECOVER_KEEP,     /* it had no VMM */
	RECOVER_REBOOTED, /* the host restarted since: stopped */
	RECOVER_DEAD,     /* its VMM is gone, or the pid is another process's: failed */
	RECOVER_FIND,     /* its VMM runs */
};
/* start_time: of the process that has the row's pid now; -1: none has. */
enum recovery recover_decide(const struct banger_vm *row, const char *boot_id, int64_t start_time);
/* The start time out of the text of /proc/PID/stat; -1: a zombie, or not such a text. */
int64_t recover_parse_stat(const char *text);

#endif
