/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of the agent: /init of a VM, from the initrd to power-off. One thread, one poll(2) loop.
 *
 * What the daemon puts into the initrd beside the agent:
 *	/modules.list   paths of kernel modules in the initrd, one a line, in the order in which to load them
 * and onto the kernel's command line: see banger/agent.h.
 */
#ifndef BANGER_AGENT_INTERNAL_H
#define BANGER_AGENT_INTERNAL_H

#include <banger/agent.h>
#include <sys/types.h>

struct boot_options {
	char op_id[16];
	char name[129];
	char root[64];
	char work[320];   /* DEVICE:DIR */
	char ip[128];     /* ADDRESS/PREFIX[,GATEWAY[,DNS]] */
	char registry[8]; /* ro, rw */
	char init[8];     /* image */
	bool read_only, grow, first;
};

/* Each returns 0 or -errno, with a sentence in why. */
#define WHY_MAX 512
int fail(char *why, int errnum, const char *what, const char *on);

/* ---- boot.c: until the image's root is the root. */
int boot_mounts(char *why);
void boot_options_read(struct boot_options *ret);
int boot_modules(char *why);
/* Open the agent's port, waiting for it to appear. Returns the descriptor. */
int boot_port(char *why);
int boot_root(const struct boot_options *o, char *why);
/* What comes after the root: the work disk, the registry. */
int boot_disks(const struct boot_options *o, char *why);
/* Wait a little for a path to appear. */
int wait_for(const char *path);
/* Make a directory and those above it, as far as they are missing. */
void make_dirs(const char *dir);

/* ---- names.c: who the VM is, and whom it asks who others are. */
void boot_names(const struct boot_options *o);
/* dns: the address of a server. */
void names_set_resolver(const struct boot_options *o, const char *dns);

/* ---- network.c */
int boot_network(const struct boot_options *o, char *why);

/* ---- init.c: the image's own init, and the end. */
enum init_kind { INIT_NONE, INIT_SYSTEMD, INIT_BUSYBOX, INIT_OTHER };
/* What /sbin/init of the image is; *ret_path: what to run. */
enum init_kind init_find(const char **ret_path);
/* What must be said to it before it begins. */
void init_prepare(enum init_kind kind);
/* Ask it to power the machine off. */
void init_ask(enum init_kind kind);
/* Become it. Returns only when that cannot be done, with -errno. */
int init_become(const char *path, char *why);
/* End everything: kill, unmount, sync, restart or halt. Never returns. */
__attribute__((noreturn)) void power_off(void);

/* ---- registry.c */
/* Who served /banger is gone: have the kernel refuse what is asked of it. */
void registry_lost(void);

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

/* ---- environment.c: what a program finds in its environment. */
struct environment {
	const char **
		v; /* NULL-terminated; strings are those of the exec, of this struct, or constant */
	char home[264], user[72], shell[264];
};
/* -ENOMEM. ret must stay where it is. */
int environment_make(const struct agent_exec *x, const struct user *u, struct environment *ret);
void environment_done(struct environment *e);

/* ---- program.c: programs and transfers that the host started. */
struct stream {
	int fd;          /* of ours, of the pipe; -1 once it is closed */
	uint32_t window; /* stdin: bytes the host may still send; else bytes we may still send */
	int left; /* outputs, once the program has ended: bytes of its own still in the pipe; else
		     -1 */
};
struct program {
	uint16_t channel; /* 0: apart from the host */
	pid_t pid;
	bool ended; /* reaped; status is known */
	int status;
	bool tty, transfer, main;
	int64_t ended_at; /* milliseconds */
	struct stream in, out, err;
	uint8_t *pending; /* stdin that the program has not taken yet: AGENT_WINDOW bytes at most */
	size_t pending_off, pending_len;
	bool in_ended;
	bool in_line;   /* tty: the last character of stdin did not end a line */
	uint32_t taken; /* stdin bytes for which credit is owed */
	struct program *next;
};
/* Start it. 0 and *ret, or -errno with why (the program does not run then). */
int program_start(uint16_t channel, const struct agent_exec *e, struct program **ret, char *why);
/* A transfer is a child of ours: its stdin or stdout is the tar stream; what goes wrong it says on its stderr, as a
 * struct transfer_report. */
int transfer_start(uint16_t channel, bool put, const char *path, struct program **ret, char *why);
struct transfer_report {
	int errnum;
	char why[WHY_MAX];
};
void program_free(struct program *p);
/* To its process group; on a terminal to the one in the foreground. */
void program_signal(const struct program *p, int sig);

/* ---- tar_put.c, tar_get.c: 0 or -errno and why. */
int tar_put(int fd, const char *dir, char *why);
int tar_get(int fd, const char *path, char *why);

/* ---- port.c: frames out, bytes in. */
struct port {
	int fd, events; /* events: an epoll of it, edge-triggered (its POLLHUP lasts while no host is there) */
	bool attached; /* frames are understood; else ATTACH is looked for */
	bool lost;     /* no host is there */
	bool overflow; /* a host that does not read asked for more than the queue holds */
	uint8_t token[AGENT_TOKEN];
	struct agent_reader reader;
	size_t q_off, q_len; /* unsent */
	uint8_t queue[1024 * 1024];
};
int port_init(struct port *p, int fd);
void port_say(struct port *p, enum agent_type type, uint16_t channel, const void *a, size_t a_len,
	const void *b, size_t b_len);
void port_say_u32(struct port *p, enum agent_type type, uint16_t channel, uint32_t v);
void port_hello(struct port *p, bool padded);
/* Forget what was said and heard. */
void port_reset(struct port *p);
size_t port_queued(const struct port *p);
/* Read from a descriptor into a frame of data, `most` bytes at most. As read(2); there is a frame if it was over 0.
 * -1 and ENOBUFS: the queue is full. */
ssize_t port_say_from(struct port *p, enum agent_type type, uint16_t channel, int fd, size_t most);
/* -errno: the port cannot be used any more. */
int port_flush(struct port *p);
/* Read some. 1: there may be frames; 0: nothing is there; negative: the host went away. */
int port_read(struct port *p);

/* ---- serve.c: the protocol. Returns when the VM shall end. */
struct serve_options {
	int port;
	enum init_kind init; /* that runs beside us */
	bool again;          /* an agent before this one has ended */
};
void serve(const struct serve_options *o);
/* Say on the port why the VM cannot be used. */
void serve_failed(int port, const char *why);

int64_t now_ms(void);

#endif
