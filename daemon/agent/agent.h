/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the agent: PID 1 of a VM, from the initrd to power-off. One thread, one poll(2)
 * loop.
 *
 * What the daemon puts into the initrd beside the agent (as /init):
 *	/modules.list   paths of kernel modules in the initrd, one a line, in the order in which to
 * load them and onto the kernel's command line: banger.op=OP_ID banger.name=NAME
 * banger.root=/dev/vda [banger.ro]
 */
#ifndef BANGER_AGENT_INTERNAL_H
#define BANGER_AGENT_INTERNAL_H

#include <banger/agent.h>
#include <sys/types.h>

struct boot_options {
	char op_id[16];
	char name[129];
	char root[64];
	bool read_only;
};

/* ---- boot.c: until the image's root is the root. Each returns 0 or -errno, with a sentence in
 * why. */
#define WHY_MAX 512
int boot_mounts(char *why);
void boot_options_read(struct boot_options *ret);
int boot_modules(char *why);
/* Open the agent's port, waiting for it to appear. Returns the descriptor. */
int boot_port(char *why);
int boot_root(const struct boot_options *o, char *why);
/* End everything: kill, sync, restart or halt. Never returns. */
__attribute__((noreturn)) void power_off(void);

/* ---- user.c: names of users in the image's own files. */
struct user {
	uid_t uid;
	gid_t gid;
	gid_t groups[64];
	int n_groups;
	char name[64], home[256], shell[256];
};
/* spec as in struct agent_exec. -ENOENT: there is no such user or group. */
int user_find(const char *spec, struct user *ret, char *why);

/* ---- program.c: programs that the host started. */
struct stream {
	int fd;          /* of ours, of the pipe; -1 once it is closed */
	uint32_t window; /* stdin: bytes the host may still send; else bytes we may still send */
	int left; /* outputs, once the program has ended: bytes of its own still in the pipe; else
		     -1 */
};
struct program {
	uint16_t channel;
	pid_t pid;
	bool ended; /* reaped; status is known */
	int status;
	struct stream in, out, err;
	uint8_t *pending; /* stdin that the program has not taken yet: AGENT_WINDOW bytes at most */
	size_t pending_off, pending_len;
	bool in_ended;
	uint32_t taken; /* stdin bytes for which credit is owed */
	struct program *next;
};
/* Start it. 0 and *ret, or -errno with why (the program does not run then). */
int program_start(uint16_t channel, const struct agent_exec *e, struct program **ret, char *why);
void program_free(struct program *p);

/* ---- serve.c: the protocol. Returns when the host asked for power-off or went away. */
void serve(int port);
/* Say on the port why the VM cannot be used. */
void serve_failed(int port, const char *why);

#endif
