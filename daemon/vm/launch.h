/* SPDX-License-Identifier: Apache-2.0 */
/* Starting a VMM's process: with the descriptors that it is given and no others, and known before it runs. */
#ifndef BANGER_VM_SPAWN_H
#define BANGER_VM_SPAWN_H

#include <banger/error.h>
#include <stdbool.h>
#include <sys/types.h>

#define SPAWN_FDS 16
#define SPAWN_KEEP 4

/* In which mount namespace the program runs. */
enum spawn_mounts {
	SPAWN_SHARED,  /* the daemon's */
	SPAWN_PRIVATE, /* one of its own: what it mounts nobody else sees, and it goes with the last process in it. Who is not
			   root gets a user namespace too, in which he is root */
	SPAWN_WITH,    /* that of the process `with` */
};
#define SPAWN_NO_NAMESPACE 126 /* it exits with this when it could not get there */

struct spawn {
	char **argv;
	int dir_fd;         /* working directory and TMPDIR (of VMMs that make files); -1: / */
	int output_fd;      /* its stdout and stderr; -1: /dev/null */
	int fds[SPAWN_FDS]; /* what it gets as SPAWN_FIRST + i; -1: nothing */
	size_t n_fds;
	enum spawn_mounts mounts; /* not SPAWN_SHARED: without new privileges, too */
	int with;                 /* pidfd */
	/* SPAWN_PRIVATE: absolute paths that it still finds there, beside the system's and dir_fd's; NULL-terminated */
	const char *const *keep;
	const char *env; /* one more variable, "A=b"; NULL: none */
	bool tied;       /* killed when the calling thread ends */
	bool confined;   /* see confine.h; dir_fd is where it may write */
	int (*born)(void *arg, pid_t pid,
		struct banger_error *err); /* see vmm_spec.born; may be NULL */
	void *arg;
};
#define SPAWN_FIRST 10

/* Start the program; on failure nothing of it is left. *ret_pidfd: readable when it has ended, owned by the caller. */
int spawn_vmm(const struct spawn *s, pid_t *ret, int *ret_pidfd, struct banger_error *err);
/* Is there such a program (a path, or a name in the usual places)? UNSUPPORTED names it. */
int spawn_check(const char *program, struct banger_error *err);

#endif
