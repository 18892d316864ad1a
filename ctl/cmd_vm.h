/* SPDX-License-Identifier: Apache-2.0 */
#ifndef BANGER_CTL_CMD_VM_H
#define BANGER_CTL_CMD_VM_H

#include "ctl.h"

enum { NOT_RUN = 125 }; /* exit status of exec, run and shell when banger itself failed */

/* cmd_vm_list.c */
cli_handler do_vm_ls, do_vm_show;
/* cmd_vm_power.c */
cli_handler do_vm_start, do_vm_stop, do_vm_kill, do_vm_pause, do_vm_resume, do_vm_rm;
/* cmd_vm_run.c */
cli_handler do_vm_create, do_vm_run, do_vm_exec, do_vm_shell;
/* cmd_vm_console.c */
cli_handler do_vm_logs, do_vm_console;
/* cmd_vm_cp.c */
cli_handler do_vm_cp;

#endif
