/* SPDX-License-Identifier: Apache-2.0 */
/* The model's generation grows with each change of the registry, the digest's among them: that is what is waited for. */
#include "digest.h"
#include "follow.h"
#include "model.h"
#include "nodes.h"

#define PATIENCE_US 60000000
#define LOOK_MS 250

bool digest_pending(struct fs *fs, uint64_t node)
{
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));

	return i && i->row.state == BANGER_PUBLISHED && !i->row.has_digest && !i->row.damaged;
}

void digest_wait(struct fs *fs, uint64_t node)
{
	int64_t until = banger_monotonic_us() + PATIENCE_US;

	for (;;) {
		int64_t generation = model_generation(fs->model);
		struct banger_error err = {0};

		if (!digest_pending(fs, node) || banger_monotonic_us() >= until ||
			follow_ready(fs->follow, &err) < 0)
			return;
		(void)model_wait(fs->model, generation + 1, LOOK_MS);
	}
}
