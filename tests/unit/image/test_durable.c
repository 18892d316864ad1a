/* SPDX-License-Identifier: Apache-2.0 */
/* Copies and digests: content, holes, sizes at the edges of pieces; claims; the trash. */
#include "fixture.h"
#include <pthread.h>
#include <sys/random.h>
#include <time.h>
#include <openssl/evp.h>

static void digest_bytes(const void *data, size_t len, char ret[DIGEST_SIZE])
{
	unsigned char md[32];
	unsigned n;

	assert_int_equal(EVP_Digest(data, len, md, &n, EVP_sha256(), NULL), 1);
	char *p = stpcpy(ret, "sha256:");
	for (int i = 0; i < 32; i++)
		p += sprintf(p, "%02x", md[i]);
}

static struct operation *begin(struct fixture *f)
{
	struct banger_actor actor = {.door = "rpc"};
	struct operation *op = NULL;
	assert_ok(f, operation_begin(f->operations, OPERATION_READ, "test", banger_op_id_mint().s,
			     &actor, NULL, &op, &f->err));
	return op;
}

/* Copies `len` bytes of data in both ways and compares content, digest and what is allocated. */
static void round_trip(struct fixture *f, const unsigned char *data, size_t len, int64_t blocks_max)
{
	char want[DIGEST_SIZE], got[DIGEST_SIZE];
	unsigned char *back = malloc(len + 1);
	struct operation *op = begin(f);
	struct stat st;

	digest_bytes(data, len, want);
	int in = open(path(f, "in"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
	assert_int_equal(pwrite(in, data, len, 0), len);
	assert_ok(f, durable_digest(in, (int64_t)len, op, "in", got, &f->err));
	assert_string_equal(got, want);
	assert_ok(f, durable_digest_direct(in, (int64_t)len, op, "in", got, &f->err));
	assert_string_equal(got, want);
	for (int k = 0; k < 3; k++) {
		int out = open(path(f, "out"), O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
		int64_t size = 0;
		got[0] = 0;
		if (k == 2) {
			lseek(in, 0, SEEK_SET);
			assert_ok(f, durable_copy_stream(in, out, op, "in", &size, got, &f->err));
			assert_int_equal(size, len);
		} else {
			assert_ok(f, durable_copy(in, (int64_t)len, out, op, "in", k ? got : NULL,
					     &f->err));
		}
		if (k)
			assert_string_equal(got, want);
		assert_int_equal(fstat(out, &st), 0);
		assert_int_equal(st.st_size, len);
		assert_true(st.st_blocks <= blocks_max);
		assert_int_equal(pread(out, back, len + 1, 0), len);
		assert_memory_equal(back, data, len);
		close(out);
	}
	close(in);
	free(back);
	operation_end(op, NULL);
}

static void copies(void **state)
{
	static const size_t sizes[] = {0, 1, 4095, 4096, 4097, 256 * 1024 - 1, 256 * 1024,
		256 * 1024 + 1, 9 * 1024 * 1024 + 17};
	unsigned char *data = calloc(1, 10 << 20);

	for (size_t i = 0; i < ELEMENTSOF(sizes); i++) {
		assert_int_equal(getrandom(data, sizes[i] < 256 ? sizes[i] : 256, 0) >= 0, 1);
		for (size_t k = 256; k < sizes[i]; k++)
			data[k] = (unsigned char)(data[k - 256] + k / 256);
		round_trip(*state, data, sizes[i], INT64_MAX);
	}
	/* Zeros become holes, wherever they were. */
	memset(data, 0, 10 << 20);
	round_trip(*state, data, 10 << 20, 0);
	data[0] = data[5000000] = data[(10 << 20) - 1] = 1;
	round_trip(*state, data, 10 << 20, 3 * 8 + 8);
	free(data);
}

static void sparse_source(void **state)
{
	struct fixture *f = *state;
	const int64_t size = (int64_t)64 << 20;
	char want[DIGEST_SIZE], got[DIGEST_SIZE];
	unsigned char *data = calloc(1, (size_t)size);
	struct operation *op = begin(f);

	int in = open(path(f, "in"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	int out = open(path(f, "out"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(ftruncate(in, size), 0);
	static const int64_t at[] = {1, (int64_t)20 << 20, ((int64_t)40 << 20) + 5};
	for (size_t i = 0; i < ELEMENTSOF(at); i++) {
		assert_int_equal(pwrite(in, "data", 4, at[i]), 4);
		memcpy(data + at[i], "data", 4);
	}
	digest_bytes(data, (size_t)size, want);
	assert_ok(f, durable_copy(in, size, out, op, "in", got, &f->err));
	assert_string_equal(got, want);
	assert_ok(f, durable_digest(out, size, op, "out", got, &f->err));
	assert_string_equal(got, want);
	assert_ok(f, durable_digest_direct(out, size, op, "out", got, &f->err));
	assert_string_equal(got, want);
	/* Not a byte more than was asked for, of a file that has more; and not of one that has
	 * less. */
	digest_bytes(data, 4, want);
	assert_ok(f, durable_digest(out, 4, op, "out", got, &f->err));
	assert_string_equal(got, want);
	int less = open(path(f, "less"), O_RDWR | O_CREAT | O_CLOEXEC, 0600);
	assert_int_equal(write(less, "12345", 5), 5);
	assert_int_equal(durable_digest(less, 6, op, "less", got, &f->err), -EBUSY);
	assert_int_equal(durable_digest_direct(less, 6, op, "less", got, &f->err), -EBUSY);
	close(less);
	assert_int_equal(durable_digest(f->dir_fd, 5, op, "dir", got, &f->err), -EISDIR);
	operation_cancel(op);
	assert_int_equal(durable_digest(in, size, op, "in", got, &f->err), -ECANCELED);
	assert_int_equal(durable_digest_direct(in, size, op, "in", got, &f->err), -ECANCELED);
	operation_end(op, NULL);
	close(in);
	close(out);
	free(data);
}

/* ---- claims */

static void *drop_late(void *arg)
{
	nanosleep(&(struct timespec){.tv_nsec = 20000000}, NULL);
	claim_drop(arg);
	return NULL;
}

static void claims(void **state)
{
	struct fixture *f = *state;
	struct claims *c = f->service->claims;
	struct claim one = {0}, two = {0}, alone = {0}, other = {0};
	static const char id[] = "0123456789abcdef", id2[] = "fedcba9876543210";
	pthread_t thread;

	assert_int_equal(claims_share(c, &one, id, NULL), 0);
	assert_int_equal(claims_share(c, &two, id, NULL), 0);
	assert_int_equal(claims_check(c, id, NULL), 0);
	/* Sharers that stay keep it away, for as long as it is told to wait. */
	claim_drop(&two);
	assert_int_equal(claims_take(c, &alone, id, "web", "promoted", 5, NULL), -EBUSY);
	assert_int_equal(claims_share(c, &two, id, NULL), 0);
	claim_drop(&two);
	/* One that goes does not. */
	pthread_create(&thread, NULL, drop_late, &one);
	assert_int_equal(claims_take(c, &alone, id, "web", "promoted", 2000, NULL), 0);
	pthread_join(thread, NULL);
	assert_int_equal(claims_share(c, &one, id, NULL), -EBUSY);
	assert_int_equal(claims_check(c, id, NULL), -EBUSY);
	assert_int_equal(claims_take(c, &other, id, "web", "promoted", 2000, NULL), -EBUSY);
	/* Another image is another matter. */
	assert_int_equal(claims_take(c, &other, id2, "shop", "promoted", 0, NULL), 0);
	claim_drop(&alone);
	assert_int_equal(claims_check(c, id, NULL), 0);
	assert_int_equal(claims_check(c, id2, NULL), -EBUSY);
	claim_drop(&other);
	claim_drop(&other);
}

/* ---- the trash */

static void trash(void **state)
{
	struct fixture *f = *state;
	char deep[256] = "x";

	assert_int_equal(trash_put(f->service->trash, f->dir_fd, "nothing", NULL), -ENOENT);
	assert_int_equal(image_service_trash(f->service), 0);
	/* Twice the same name, symlinks that lead out, a tree. */
	for (int k = 0; k < 3; k++) {
		assert_int_equal(mkdir(path(f, "x"), 0700), 0);
		assert_int_equal(symlink(f->dir, path(f, "x/out")), 0);
		assert_int_equal(mkdir(path(f, "x/sub"), 0700), 0);
		copy_file("/etc/passwd", path(f, "x/sub/file"));
		assert_int_equal(trash_put(f->service->trash, f->dir_fd, "x", NULL), 0);
	}
	wait_trash(f);
	assert_true(exists(path(f, "registry.db")));
	/* Deeper than anything of ours: an error, not a stack that ends. */
	for (int k = 0; k < 40; k++) {
		assert_int_equal(mkdir(path(f, "%s", deep), 0700), 0);
		strcat(deep, "/x");
	}
	assert_int_equal(trash_remove_now(f->dir_fd, "x", NULL), -ELOOP);
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		TEST(copies), TEST(sparse_source), TEST(claims), TEST(trash)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
