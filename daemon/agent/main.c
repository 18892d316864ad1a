/* SPDX-License-Identifier: Apache-2.0 */
/*
 * banger-agent: /init of a VM.
 *
 * It has no arguments and nothing to configure; what it must know is in the initrd and on the
 * kernel's command line (agent.h). Its log goes to the console, under the op_id of the operation
 * that started the VM. It never exits, because the kernel would panic: a failure is told to the
 * host through the port when there is one, and the VM is powered off.
 */
#include "agent.h"
#include <banger/log.h>
#include <banger/op.h>
#include <fcntl.h>
#include <unistd.h>

static struct boot_options options;

static int boot(int *port, char *why)
{
	int r = boot_mounts(why);

	if (r < 0)
		return r;
	boot_options_read(&options);
	banger_op_enter(options.op_id);
	if ((r = boot_modules(why)) < 0)
		return r;
	if ((r = boot_port(why)) < 0)
		return r;
	*port = r;
	return boot_root(&options, why);
}

int main(void)
{
	char why[WHY_MAX] = "";
	int port = -1;

	if (getpid() != 1) {
		static const char text[] = "banger-agent runs as the first process of a VM\n";
		return write(STDERR_FILENO, text, sizeof(text) - 1) < 0 ? 1 : 2;
	}
	banger_log_init("banger-agent");
	if (boot(&port, why) < 0) {
		log_err("the VM cannot be used", KV_S("error", why));
		if (port >= 0)
			serve_failed(port, why);
	} else {
		serve(port);
	}
	power_off();
}
