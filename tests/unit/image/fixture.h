/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A whole registry in a temporary directory: real store, operations, hub, publication lock and
 * image service; the slow steps of others are stood in for by the tests.
 */
#ifndef TESTS_IMAGE_FIXTURE_H
#define TESTS_IMAGE_FIXTURE_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <fcntl.h>
#include <sys/stat.h>
#include <cmocka.h>
#include <banger/log.h>
#include "image/internal.h"

struct fixture {
	char dir[64];
	int dir_fd;
	struct banger_config config;
	struct store *store;
	struct hub *hub;
	struct hub_subscription *events;
	struct operations *operations;
	struct publication_lock *publication;
	struct image_service_deps deps;
	struct image_service *service;
	struct banger_error err; /* of the last call below */
};

/* cmocka's setup and teardown for a group of tests that share nothing: each test gets its own. */
int fixture_setup(void **state);
int fixture_teardown(void **state);
/* A test with both. */
#define TEST(f) cmocka_unit_test_setup_teardown(f, fixture_setup, fixture_teardown)

/* Stop the service as its death would, and start it again with recovery. */
void fixture_stop(struct fixture *f);
int fixture_start(struct fixture *f);

/* The calls of the service, each under an operation of its own. */
int do_register(struct fixture *f, const char *name, struct banger_image *ret);
int do_promote(struct fixture *f, const char *draft, const char *name, struct banger_image *ret);
int do_rename(struct fixture *f, const char *image, const char *name, struct banger_image *ret);
int do_swap(struct fixture *f, const char *a, const char *b);
int do_delete(struct fixture *f, const char *image);
int do_import(struct fixture *f, const struct image_import *in, struct banger_image *ret);
int do_pull(struct fixture *f, const struct image_pull *in, struct banger_image *ret);
int do_configure(struct fixture *f, const char *draft, const char *json, struct banger_image *ret);
int do_verify(struct fixture *f, const char *image, struct image_verdict *ret);
int do_find(struct fixture *f, const char *word, struct banger_image *ret);

/* A path in the state directory, printf-like; valid until the next call but three. */
_printf_(2, 3) const char *path(struct fixture *f, const char *fmt, ...);
/* Path of a small sound ext4 image, made once. */
const char *sound_image(void);
/* Write a file of the draft through the service; copy the sound image in as rootfs.ext4. */
void put_file(struct fixture *f, const char *id, const char *file, const char *text);
void put_rootfs(struct fixture *f, const char *id);
void copy_file(const char *from, const char *to);
/* Register a draft that can be promoted; *ret_id gets its id. */
void make_draft(struct fixture *f, const char *name, char ret_id[BANGER_ID_LEN + 1]);
/* A published image. */
void make_image(struct fixture *f, const char *name, char ret_id[BANGER_ID_LEN + 1]);

bool exists(const char *path);
mode_t mode_of(const char *path);
/* Entries of a directory but dots. */
int count_dir(const char *path);
/* Wait for the trash to be empty. */
void wait_trash(struct fixture *f);
/* How many disagreements image_service_check() finds. */
int disagreements(struct fixture *f);
/* Take the next event that is a change of images, NULL if there is none. Caller puts it. */
struct json_object *next_event(struct fixture *f);

#define assert_code(f, r, which)                                                                   \
	do {                                                                                       \
		int _r = (r);                                                                      \
		if (_r >= 0 || (f)->err.code != BANGER_##which)                                    \
			print_error("%d: %s: %s\n", _r, banger_code_name((f)->err.code),           \
				(f)->err.message);                                                 \
		assert_true(_r < 0);                                                               \
		assert_int_equal((f)->err.code, BANGER_##which);                                   \
		assert_true(banger_op_id_valid((f)->err.op_id));                                   \
	} while (0)
#define assert_ok(f, r)                                                                            \
	do {                                                                                       \
		int _r = (r);                                                                      \
		if (_r < 0)                                                                        \
			print_error("%d: %s\n", _r, (f)->err.message);                             \
		assert_true(_r >= 0);                                                              \
	} while (0)

#endif
