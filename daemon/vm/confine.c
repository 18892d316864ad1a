/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A guest that has broken its VMM has the rights of the user who runs bangerd, root's where that is root, but for what
 * QEMU's own filter of system calls keeps from it. This takes more:
 *	capabilities	all of root's but the one for low ports, which are published by the VMM itself. What the VMM
 *			works on it gets as descriptors.
 *	Landlock	no file is made, written or removed but in the VM's directory; of /dev those few are written
 *			that a VMM may need, and no disks. No process outside can be traced, and with newer kernels
 *			none signalled. Reading is left as it is: where a VMM has its libraries and its firmware is the host's
 *			business.
 * Neither needs rights, so VMs of other users have it too.
 */
#include "vm/confine.h"
#include <errno.h>
#include <fcntl.h>
#include <linux/capability.h>
#include <stdint.h>
#include <sys/prctl.h>
#include <sys/syscall.h>
#include <unistd.h>
#include <banger/cleanup.h>

/* linux/landlock.h of this kernel may be older than the kernel. */
#define FS_WRITE_FILE (UINT64_C(1) << 1)
#define FS_CHANGES_1 (UINT64_C(0x1ff) << 4) /* REMOVE_DIR to MAKE_SYM */
#define FS_REFER_2 (UINT64_C(1) << 13)
#define FS_TRUNCATE_3 (UINT64_C(1) << 14)
#define SCOPE_SIGNAL_6 (UINT64_C(1) << 1)
#define RULE_PATH_BENEATH 1

struct ruleset {
	uint64_t fs, net, scoped;
};

struct beneath {
	uint64_t allowed;
	int32_t parent;
} __attribute__((packed));

static void drop_capabilities(void)
{
	struct __user_cap_header_struct h = {.version = _LINUX_CAPABILITY_VERSION_3};
	struct __user_cap_data_struct d[2] = {0};

	/* Who is not root has none to lose; root's program gets at its exec what is left in the bounding set. */
	for (int cap = 0; cap <= CAP_LAST_CAP; cap++)
		if (cap != CAP_NET_BIND_SERVICE)
			prctl(PR_CAPBSET_DROP, cap, 0, 0, 0);
	prctl(PR_CAP_AMBIENT, PR_CAP_AMBIENT_CLEAR_ALL, 0, 0, 0);
	if (syscall(SYS_capget, &h, d) == 0) {
		d[0].inheritable = d[1].inheritable = 0;
		syscall(SYS_capset, &h, d);
	}
}

static void allow(int rules, int parent, uint64_t what)
{
	const struct beneath b = {what, parent};

	syscall(SYS_landlock_add_rule, rules, RULE_PATH_BENEATH, &b, 0);
}

static void allow_devices(int rules)
{
	static const char *const devices[] = {"/dev/kvm", "/dev/null", "/dev/vhost-net"};

	for (size_t i = 0; i < ELEMENTSOF(devices); i++) {
		int fd = open(devices[i], O_PATH | O_CLOEXEC);

		if (fd < 0)
			continue;
		allow(rules, fd, FS_WRITE_FILE);
		close(fd);
	}
}

static void confine_files(int dir_fd)
{
	long version = syscall(SYS_landlock_create_ruleset, NULL, 0, 1);
	struct ruleset r = {.fs = FS_WRITE_FILE | FS_CHANGES_1};

	if (version < 1)
		return;
	r.fs |= version >= 2 ? FS_REFER_2 : 0;
	r.fs |= version >= 3 ? FS_TRUNCATE_3 : 0;
	r.scoped = version >= 6 ? SCOPE_SIGNAL_6 : 0;
	int rules = syscall(
		SYS_landlock_create_ruleset, &r, version >= 6 ? sizeof(r) : sizeof(r.fs), 0);

	if (rules < 0)
		return;
	if (dir_fd >= 0)
		allow(rules, dir_fd, r.fs);
	allow_devices(rules);
	syscall(SYS_landlock_restrict_self, rules, 0);
	close(rules);
}

void confine_vmm(int dir_fd)
{
	drop_capabilities();
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0)
		confine_files(dir_fd);
}
