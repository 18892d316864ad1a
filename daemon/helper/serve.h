/* SPDX-License-Identifier: Apache-2.0 */
/* The helper's loop: connections, what the kernel tells of interfaces, the end. */
#ifndef BANGER_HELPER_SERVE_H
#define BANGER_HELPER_SERVE_H

#include "network.h"

struct serve {
	const struct helper_service *service;
	struct network *network;
	int listen_fd; /* non-blocking */
	int stop_fd;   /* readable: stop */
};
/* Until the end. */
int serve_run(const struct serve *s, struct banger_error *err);

#endif
