/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The supervisor and the content process without a registry connection: for tests.
 *
 *	content_run MOUNTPOINT SOCKET RUNTIME_DIR [THREADS]
 *
 * MOUNTPOINT/rootfs is an ordinary directory. Reads commands, answers each with a line:
 *	wait GENERATION MS	0 or -errno of content_wait()
 *	stop			takes all down and ends
 */
#include <banger/log.h>
#include <stdio.h>
#include <string.h>

#include "../content.h"

static void placed(void *arg, const char *link)
{
	printf("placed %s\n", link ? link : "-");
	fflush(stdout);
}

static void commands(struct content *c)
{
	char line[256];
	long long generation;
	int ms;

	while (fgets(line, sizeof(line), stdin)) {
		if (sscanf(line, "wait %lld %d", &generation, &ms) == 2)
			printf("%d\n", content_wait(c, generation, ms));
		else if (strcmp(line, "stop\n") == 0)
			break;
		else
			printf("?\n");
		fflush(stdout);
	}
}

int main(int argc, char **argv)
{
	struct content_options o = {.placed = placed};
	struct banger_error err = {0};
	struct content *c;

	content_main_role(argc, argv);
	banger_log_init("content_run");
	if (argc < 4) {
		fprintf(stderr, "usage: content_run MOUNTPOINT SOCKET RUNTIME_DIR [THREADS]\n");
		return 2;
	}
	o.mountpoint = argv[1];
	o.socket = argv[2];
	o.runtime_dir = argv[3];
	o.threads = argc > 4 ? (unsigned)atoi(argv[4]) : 0;
	if (content_start(&o, &c, &err) < 0) {
		fprintf(stderr, "content_run: %s\n", err.message);
		return 1;
	}
	commands(c);
	content_stop(c);
	printf("stopped\n");
	return 0;
}
