/* SPDX-License-Identifier: Apache-2.0 */
/* What is the same for every VMM: names of accelerators, and the end of a process. */
#include <signal.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "vm/driver.h"

const char *vm_accel_name(enum vm_accel a)
{
	return a == VM_KVM ? "kvm" : "tcg";
}

void vmm_done(struct vmm *v)
{
	if (v->pid > 0) {
		/* Our child, not yet waited for: the pid is still its own. */
		kill(v->pid, SIGKILL);
		while (waitpid(v->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	banger_closep(&v->pidfd);
	banger_closep(&v->port);
	banger_closep(&v->control);
	*v = (struct vmm){.pidfd = -1, .port = -1, .control = -1};
}
