/* SPDX-License-Identifier: Apache-2.0 */
/* What is taken from a VMM before it runs. */
#ifndef BANGER_VM_CONFINE_H
#define BANGER_VM_CONFINE_H

/* In the child, before exec; makes system calls only. dir_fd: the directory that it may write in, -1: none. What this
 * kernel does not have is done without. */
void confine_vmm(int dir_fd);

#endif
