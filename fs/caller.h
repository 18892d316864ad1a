/* SPDX-License-Identifier: Apache-2.0 */
/* What /proc says of the thread whose request is being answered. */
#ifndef FS_CALLER_H
#define FS_CALLER_H

#include <stdbool.h>
#include <sys/types.h>

/* Is it about to die as soon as it is answered (SIGKILL, or another signal that ends it)? */
bool caller_is_dying(pid_t tid);
/* Is it in open(2) with O_CREAT and O_EXCL: does it want to make something that must not be there?
 * When that cannot be seen (another user's process, and we are not root), the answer for programs
 * that copy is yes. */
bool caller_makes_exclusively(pid_t tid);

#endif
