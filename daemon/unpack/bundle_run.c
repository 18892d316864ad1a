/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What of a run of banger-unpack (child.h) has to do with bundles: the files that it fills have numbers from
 * BUNDLE_FD_FILES on.
 */
#include "unpack/bundle_run.h"

#include <string.h>
#include "unpack/child.h"
#include "unpack/program/bundle.h"

_Static_assert((int)BUNDLE_FD_IN == UNPACK_FD_TAR && (int)BUNDLE_FD_STATUS == UNPACK_FD_STATUS,
	"child_start() gives the same places");

static int start(struct child *c, const struct banger_config *config, const char *program,
	const struct unpack_bundle *b, struct banger_error *err)
{
	int fds[BUNDLE_FD_FILES - BUNDLE_FD_IN + BUNDLE_FILES_MOST];
	char options[160];
	const char *arguments[] = {"--bundle", options, NULL};

	if (b->n > BUNDLE_FILES_MOST)
		return banger_error_set(err, BANGER_INTERNAL, "too many files for a bundle");
	snprintf(options, sizeof(options),
		"{\"files\":%zu,\"memory\":%lld,\"cpu_seconds\":%d,\"unpacked\":%lld}", b->n,
		(long long)CHILD_MEMORY, CHILD_CPU_SECONDS, (long long)config->unpacked_max);
	fds[BUNDLE_FD_IN - BUNDLE_FD_IN] = b->in_fd;
	fds[BUNDLE_FD_DOCUMENT - BUNDLE_FD_IN] = b->document_fd;
	for (size_t i = 0; i < b->n; i++)
		fds[BUNDLE_FD_FILES - BUNDLE_FD_IN + i] = b->files[i];
	return child_start(c, program, arguments, fds, BUNDLE_FD_FILES - BUNDLE_FD_IN + b->n, err);
}

static void on_progress(void *arg, const struct unpack_progress *p)
{
	const struct unpack_bundle *b = arg;

	if (b->progress)
		b->progress(b->arg, p->read);
}

int unpack_bundle_run(
	const struct banger_config *config, const struct unpack_bundle *b, struct banger_error *err)
{
	const struct child_patience patience = {.cancel_fd = b->cancel_fd,
		.stall_ms = CHILD_STALL_MS,
		.cpu_seconds = CHILD_CPU_SECONDS,
		.progress = on_progress,
		.arg = (void *)b};
	_cleanup_child_ struct child c = CHILD_NONE;
	_cleanup_free_ char *program = NULL;
	int r = banger_config_program(config, "banger-unpack", &program, err);

	if (r == 0)
		r = start(&c, config, program, b, err);
	return r < 0 ? r : child_run(&c, &patience, err);
}
