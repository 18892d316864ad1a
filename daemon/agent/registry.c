/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The registry, when its server on the host is gone.
 *
 * Requests of virtiofs then lie in the queue for ever, and who made them waits and cannot be killed. Taking the driver
 * away from its device makes the kernel refuse all later ones at once (ENOTCONN); for those under way nothing can be
 * done. The driver waits for them, so a child of ours does this, which nobody waits for.
 */
#include "agent.h"
#include <banger/cleanup.h>
#include <banger/log.h>
#include <dirent.h>
#include <fcntl.h>
#include <string.h>

#define DRIVER "/sys/bus/virtio/drivers/virtiofs"

static void unbind(const char *device)
{
	_cleanup_close_ int fd = open(DRIVER "/unbind", O_WRONLY | O_CLOEXEC);

	if (fd < 0 || write(fd, device, strlen(device)) < 0)
		log_warn("the registry's device cannot be shut", KV_S("device", device),
			KV_S("error", strerrordesc_np(errno)));
}

void registry_lost(void)
{
	pid_t pid = fork();

	if (pid > 0)
		log_warn("the registry is lost");
	if (pid != 0)
		return;
	/* There is one, ours. */
	_cleanup_closedir_ DIR *d = opendir(DRIVER);
	struct dirent *e;
	while (d && (e = readdir(d)))
		if (strncmp(e->d_name, "virtio", 6) == 0)
			unbind(e->d_name);
	_exit(0);
}
