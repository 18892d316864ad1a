/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Writing a bundle. The archive's headers are made here, byte by byte, because all of them have to be
 * the same on every machine: owner, time and mode are constants, what a header cannot hold goes into
 * an extended one (POSIX.1-2008, pax "Interchange Format"), records in a fixed order.
 *
 * libzstd compresses on threads of its own. Its output is the same for every number of threads as
 * long as there is at least one, and for every cutting of the input, since jobs are cut at fixed
 * distances (ZSTD_c_jobSize); a test holds it to that.
 *
 * The output may be a pipe whose reader is slow or gone. Only as much is written at a time as a pipe
 * takes without blocking once poll(2) said so, so that a cancellation is never waited out.
 */
#include <fcntl.h>
#include <limits.h>
#include <poll.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <zstd.h>
#include "pull/bundle.h"

#define BLOCK 512
#define LEVEL 3
#define WINDOW_LOG 21
#define JOB_SIZE (4 << 20)
#define WORKERS_MAX 8
#define PIECE (1 << 20)
#define OUTPUT (256 << 10)
#define PIPE_PIECE PIPE_BUF
#define OCTAL_MAX INT64_C(077777777777)

struct bundle_writer {
	struct bundle_output o;
	bool regular;
	ZSTD_CCtx *zstd;
	struct pull_hash *hash;
	int64_t written, done;
	char *in, *out;
};

/* ---- the output */

static int cancelled(struct bundle_writer *w, struct banger_error *err)
{
	struct pollfd p = {.fd = w->o.cancel_fd, .events = POLLIN};

	if (w->o.cancel_fd < 0 || poll(&p, 1, 0) <= 0)
		return 0;
	return banger_error_set(err, BANGER_CANCELLED, "writing the bundle was cancelled");
}

/* Wait until a pipe or socket takes something. */
static int wait_writable(struct bundle_writer *w, struct banger_error *err)
{
	struct pollfd p[] = {
		{.fd = w->o.fd, .events = POLLOUT}, {.fd = w->o.cancel_fd, .events = POLLIN}};

	while (poll(p, ELEMENTSOF(p), -1) < 0)
		if (errno != EINTR)
			return banger_error_set_errno(err, errno, "writing the bundle");
	return cancelled(w, err);
}

static int write_out(
	struct bundle_writer *w, const char *data, size_t len, struct banger_error *err)
{
	pull_hash_update(w->hash, data, len);
	w->written += (int64_t)len;
	while (len > 0) {
		size_t n = w->regular || len < PIPE_PIECE ? len : PIPE_PIECE;
		int r = w->regular ? cancelled(w, err) : wait_writable(w, err);
		if (r < 0)
			return r;
		ssize_t k = write(w->o.fd, data, n);
		if (k < 0 && (errno == EINTR || errno == EAGAIN))
			continue;
		if (k < 0)
			return banger_error_set_errno(err, errno, "writing the bundle");
		data += k;
		len -= (size_t)k;
	}
	return 0;
}

static int compress(
	struct bundle_writer *w, const void *data, size_t len, bool last, struct banger_error *err)
{
	ZSTD_inBuffer in = {.src = data, .size = len};
	size_t left;

	do {
		ZSTD_outBuffer out = {.dst = w->out, .size = OUTPUT};
		left = ZSTD_compressStream2(
			w->zstd, &out, &in, last ? ZSTD_e_end : ZSTD_e_continue);
		if (ZSTD_isError(left))
			return banger_error_set(err, BANGER_INTERNAL, "compressing the bundle: %s",
				ZSTD_getErrorName(left));
		int r = out.pos ? write_out(w, w->out, out.pos, err) : 0;
		if (r < 0)
			return r;
	} while (last ? left > 0 : in.pos < in.size);
	return 0;
}

static int put(struct bundle_writer *w, const void *data, size_t len, struct banger_error *err)
{
	return compress(w, data, len, false, err);
}

static int pad(struct bundle_writer *w, int64_t len, struct banger_error *err)
{
	static const char zeros[BLOCK];

	return put(w, zeros, (size_t)(-len & (BLOCK - 1)), err);
}

/* ---- headers */

struct header {
	char name[100], mode[8], uid[8], gid[8], size[12], mtime[12], checksum[8], type, link[100];
	char magic[6], version[2], uname[32], gname[32], major[8], minor[8], prefix[155], rest[12];
};
_Static_assert(sizeof(struct header) == BLOCK, "a header is a block");

static void make_header(struct header *h, const char *name, char type, int64_t size)
{
	unsigned sum = 0;

	*h = (struct header){.type = type, .magic = "ustar", .version = {'0', '0'}};
	memcpy(h->name, name, strnlen(name, sizeof(h->name)));
	memcpy(h->mode, "0000644", 8);
	memcpy(h->uid, "0000000", 8);
	memcpy(h->gid, "0000000", 8);
	memcpy(h->major, "0000000", 8);
	memcpy(h->minor, "0000000", 8);
	snprintf(h->size, sizeof(h->size), "%011llo",
		(unsigned long long)(size <= OCTAL_MAX ? size : 0));
	memcpy(h->mtime, "00000000000", 12);
	memset(h->checksum, ' ', sizeof(h->checksum));
	for (size_t i = 0; i < sizeof(*h); i++)
		sum += ((const unsigned char *)h)[i];
	char digits[8];
	snprintf(digits, sizeof(digits), "%06o", sum & 0777777);
	memcpy(h->checksum, digits, 7); /* six digits, NUL, blank */
}

/* "23 path=name…\n": the length counts itself. */
static void add_record(FILE *f, const char *key, const char *value)
{
	size_t body = strlen(key) + strlen(value) + 3, len = body + 1;
	char digits[24];

	while ((size_t)snprintf(digits, sizeof(digits), "%zu", len) + body != len)
		len++;
	fprintf(f, "%zu %s=%s\n", len, key, value);
}

static void add_number(FILE *f, const char *key, int64_t value)
{
	char digits[24];

	snprintf(digits, sizeof(digits), "%lld", (long long)value);
	add_record(f, key, digits);
}

/* What the header of such a member cannot say; "" for nothing. Owned by the caller; NULL: no memory. */
static char *extended(const char *name, int64_t size, bool sparse, int64_t stored, size_t *ret_len)
{
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_len);

	if (!f)
		return NULL;
	if (sparse) {
		add_record(f, "GNU.sparse.major", "1");
		add_record(f, "GNU.sparse.minor", "0");
		add_record(f, "GNU.sparse.name", name);
		add_number(f, "GNU.sparse.realsize", size);
	} else if (strlen(name) > sizeof(((struct header *)0)->name)) {
		add_record(f, "path", name);
	}
	if (stored > OCTAL_MAX)
		add_number(f, "size", stored);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static int put_headers(struct bundle_writer *w, const char *name, int64_t size, bool sparse,
	int64_t stored, struct banger_error *err)
{
	size_t len = 0;
	_cleanup_free_ char *more = extended(name, size, sparse, stored, &len);
	char shown[sizeof("GNUSparseFile.0/") + NAME_MAX];
	struct header h;
	int r = 0;

	if (!more)
		return banger_error_oom(err);
	if (len > 0) {
		make_header(&h, "PaxHeaders/file", 'x', (int64_t)len);
		r = put(w, &h, sizeof(h), err);
		if (r == 0)
			r = put(w, more, len, err);
		if (r == 0)
			r = pad(w, (int64_t)len, err);
	}
	snprintf(shown, sizeof(shown), "%s%s", sparse ? "GNUSparseFile.0/" : "", name);
	make_header(&h, shown, '0', stored);
	return r < 0 ? r : put(w, &h, sizeof(h), err);
}

/* ---- files */

/* The map as text: the number of pieces, then offset and length of each. A last piece of no length says
 * where a file that ends in a hole ends. */
static char *make_map(const struct bundle_piece *pieces, size_t n, int64_t size, size_t *ret_len)
{
	bool tail = n == 0 || pieces[n - 1].offset + pieces[n - 1].len < size;
	char *text = NULL;
	FILE *f = open_memstream(&text, ret_len);

	if (!f)
		return NULL;
	fprintf(f, "%zu\n", n + tail);
	for (size_t i = 0; i < n; i++)
		fprintf(f, "%lld\n%lld\n", (long long)pieces[i].offset, (long long)pieces[i].len);
	if (tail)
		fprintf(f, "%lld\n0\n", (long long)size);
	if (fclose(f) != 0) {
		free(text);
		return NULL;
	}
	return text;
}

static int put_data(struct bundle_writer *w, const char *name, int fd, int64_t at, int64_t end,
	struct banger_error *err)
{
	while (at < end) {
		size_t want = end - at < PIECE ? (size_t)(end - at) : PIECE;
		ssize_t n = pread(fd, w->in, want, at);
		if (n < 0 && errno == EINTR)
			continue;
		if (n < 0)
			return banger_error_set_errno(err, errno, "reading %s", name);
		if (n == 0)
			return banger_error_set(
				err, BANGER_CORRUPT, "%s became shorter while it was read", name);
		int r = put(w, w->in, (size_t)n, err);
		if (r == 0)
			r = cancelled(w, err);
		if (r < 0)
			return r;
		at += n;
		w->done += n;
		if (w->o.progress)
			w->o.progress(w->o.arg, w->done);
	}
	return 0;
}

int bundle_writer_file(struct bundle_writer *w, const char *name, int fd, int64_t size,
	const struct bundle_piece *pieces, size_t n, struct banger_error *err)
{
	bool sparse = !(n == 1 && pieces[0].offset == 0 && pieces[0].len == size) && size > 0;
	_cleanup_free_ char *map = NULL;
	size_t map_len = 0;
	int64_t data = 0;
	int r;

	for (size_t i = 0; i < n; i++)
		data += pieces[i].len;
	if (sparse && !(map = make_map(pieces, n, size, &map_len)))
		return banger_error_oom(err);
	int64_t map_stored = (int64_t)((map_len + BLOCK - 1) & ~(size_t)(BLOCK - 1));
	r = put_headers(w, name, size, sparse, map_stored + data, err);
	if (r == 0 && sparse)
		r = put(w, map, map_len, err);
	if (r == 0 && sparse)
		r = pad(w, (int64_t)map_len, err);
	for (size_t i = 0; r == 0 && i < n; i++)
		r = put_data(w, name, fd, pieces[i].offset, pieces[i].offset + pieces[i].len, err);
	return r < 0 ? r : pad(w, data, err);
}

/* ---- the first frame */

/* A zstd frame (RFC 8878, 3.1.1) of one raw block: magic number, descriptor (a single segment, content size
 * of two bytes, which stand for 256 more), content size, block header (last, raw, size). */
static const unsigned char first_frame[] = {0x28, 0xb5, 0x2f, 0xfd, 0x60, (BLOCK - 256) & 0xff,
	(BLOCK - 256) >> 8, (BLOCK << 3 | 1) & 0xff, BLOCK >> 5, 0};

bool bundle_head_matches(const void *head, size_t len)
{
	const struct header *h = (const void *)((const char *)head + sizeof(first_frame));

	return len >= BUNDLE_HEAD && memcmp(head, first_frame, sizeof(first_frame)) == 0 &&
	       memcmp(h->name, BUNDLE_JSON, sizeof(BUNDLE_JSON)) == 0 &&
	       memcmp(h->magic, "ustar", 6) == 0;
}

int bundle_writer_document(
	struct bundle_writer *w, const char *text, size_t len, struct banger_error *err)
{
	struct header h;

	make_header(&h, BUNDLE_JSON, '0', (int64_t)len);
	int r = write_out(w, (const char *)first_frame, sizeof(first_frame), err);
	if (r == 0)
		r = write_out(w, (const char *)&h, sizeof(h), err);
	if (r == 0)
		r = put(w, text, len, err);
	return r < 0 ? r : pad(w, (int64_t)len, err);
}

int bundle_writer_finish(struct bundle_writer *w, int64_t *ret_size,
	char ret_digest[PULL_DIGEST_MAX], struct banger_error *err)
{
	static const char end[2 * BLOCK];
	int r = put(w, end, sizeof(end), err);

	if (r == 0)
		r = compress(w, NULL, 0, true, err);
	if (r < 0)
		return r;
	pull_hash_end(w->hash, ret_digest);
	*ret_size = w->written;
	return 0;
}

/* ---- */

static int set_parameters(ZSTD_CCtx *z, int workers, struct banger_error *err)
{
	const struct {
		ZSTD_cParameter what;
		int value;
	} all[] = {{ZSTD_c_compressionLevel, LEVEL}, {ZSTD_c_windowLog, WINDOW_LOG},
		{ZSTD_c_checksumFlag, 1}, {ZSTD_c_nbWorkers, workers}, {ZSTD_c_jobSize, JOB_SIZE}};

	for (size_t i = 0; i < ELEMENTSOF(all); i++) {
		size_t r = ZSTD_CCtx_setParameter(z, all[i].what, all[i].value);
		if (ZSTD_isError(r))
			return banger_error_set(err, BANGER_UNSUPPORTED,
				"this libzstd cannot compress as bundles want it: %s",
				ZSTD_getErrorName(r));
	}
	return 0;
}

static int worker_count(int wanted)
{
	long n = wanted > 0 ? wanted : sysconf(_SC_NPROCESSORS_ONLN);

	return n < 1 ? 1 : n > WORKERS_MAX ? WORKERS_MAX : (int)n;
}

int bundle_writer_new(
	const struct bundle_output *o, struct bundle_writer **ret, struct banger_error *err)
{
	_cleanup_bundle_writer_ struct bundle_writer *w = calloc(1, sizeof(*w));
	struct stat st;

	if (!w)
		return banger_error_oom(err);
	w->o = *o;
	w->zstd = ZSTD_createCCtx();
	w->in = malloc(PIECE);
	w->out = malloc(OUTPUT);
	if (!w->zstd || !w->in || !w->out)
		return banger_error_oom(err);
	if (fstat(o->fd, &st) < 0)
		return banger_error_set_errno(err, errno, "looking at the bundle's file");
	w->regular = S_ISREG(st.st_mode);
	int r = set_parameters(w->zstd, worker_count(o->workers), err);
	if (r == 0)
		r = pull_hash_new(PULL_SHA256_LIKE, &w->hash, err);
	if (r < 0)
		return r;
	*ret = TAKE_PTR(w);
	return 0;
}

void bundle_writer_freep(struct bundle_writer **w)
{
	if (!*w)
		return;
	ZSTD_freeCCtx((*w)->zstd);
	pull_hash_freep(&(*w)->hash);
	free((*w)->in);
	free((*w)->out);
	free(*w);
	*w = NULL;
}
