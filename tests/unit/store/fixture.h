/* SPDX-License-Identifier: Apache-2.0 */
/* A state directory of its own for each test, and images made up on the spot. */
#ifndef BANGER_TEST_STORE_FIXTURE_H
#define BANGER_TEST_STORE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <fcntl.h>
#include <ftw.h>
#include "store/store.h"

struct fixture {
	char dir[64];
	int dir_fd;
	struct store *store;
};

static inline int open_store(struct fixture *f, struct banger_error *err)
{
	return store_open(f->dir_fd, f->dir, &f->store, err);
}

static inline int fixture_setup(void **state)
{
	struct fixture *f = calloc(1, sizeof(*f));
	const char *tmp = getenv("TMPDIR");

	snprintf(f->dir, sizeof(f->dir), "%s/store-XXXXXX", tmp && strlen(tmp) < 40 ? tmp : "/tmp");
	assert_non_null(mkdtemp(f->dir));
	f->dir_fd = open(f->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(open_store(f, NULL), 0);
	*state = f;
	return 0;
}

static inline int remove_one(const char *path, const struct stat *st, int flag, struct FTW *ftw)
{
	return remove(path);
}

static inline int fixture_teardown(void **state)
{
	struct fixture *f = *state;

	store_closep(&f->store);
	close(f->dir_fd);
	nftw(f->dir, remove_one, 8, FTW_DEPTH | FTW_PHYS);
	free(f);
	return 0;
}

static inline struct banger_image make_draft(const char *name)
{
	struct banger_image i = {.state = BANGER_DRAFT, .size = -1, .created_us = 1700000000000000};

	banger_id_mint(i.id);
	snprintf(i.name, sizeof(i.name), "%s", name);
	strcpy(i.op_id, banger_op_id_mint().s);
	return i;
}

static inline void publish(struct banger_image *i)
{
	i->state = BANGER_PUBLISHED;
	memset(i->digest, '7', 71);
	memcpy(i->digest, "sha256:", 7);
	i->size = 1 << 20;
	i->published_us = 1700000001000000;
}

static inline struct banger_op_record make_record(const char *method, enum banger_code code)
{
	struct banger_op_record r = {.started_us = 1700000000000000,
		.elapsed_us = 1500,
		.code = code,
		.actor = {.uid = 1000, .gid = 100, .pid = 7, .program = "mkdir", .door = "fs"}};

	strcpy(r.op_id, banger_op_id_mint().s);
	snprintf(r.method, sizeof(r.method), "%s", method);
	strcpy(r.params, "name=web");
	if (code != BANGER_OK)
		strcpy(r.message, "it did not work");
	return r;
}

#define assert_ok(e, err)                                                                          \
	do {                                                                                       \
		int _r = (e);                                                                      \
		if (_r != 0)                                                                       \
			fail_msg("%s: %d: %s", #e, _r, (err).message);                             \
	} while (0)

#endif
