/* SPDX-License-Identifier: Apache-2.0 */
/* A kernel service with its real store under a temporary directory. */
#ifndef TESTS_KERNEL_FIXTURE_H
#define TESTS_KERNEL_FIXTURE_H

#include "make.h"
#include "kernel/service.h"

struct fixture {
	char dir[64];
	int dir_fd;
	struct store *store;
	struct hub *hub;
	struct hub_subscription *events;
	struct operations *operations;
	struct publication_lock *publication;
	struct kernel_service *service;
	struct banger_error err;
};

int fixture_setup(void **state);
int fixture_teardown(void **state);
/* As when the daemon is started again on the same directory. */
void fixture_restart(struct fixture *f);
/* The service's calls, each in an operation of its own. */
int import_bytes(struct fixture *f, const char *name, const char *format, const struct bytes *b,
	struct banger_kernel *ret);
int delete_kernel(struct fixture *f, const char *word);
/* The next event, "" when there is none. Caller frees. */
char *next_event(struct fixture *f);
/* Number of entries in STATE_DIR/kernels. */
int entries(struct fixture *f);
/* Does STATE_DIR/kernels/ID/file exist? */
bool has_file(struct fixture *f, const struct banger_kernel *k, const char *file);

#endif
