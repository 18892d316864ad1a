/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The floor of a pull: what the transfer of an image's layers costs when nothing but the unavoidable
 * is done with each byte. Two threads take layers, the largest first; each fetches its layer with
 * libcurl and, in the callback, hashes what came, inflates it (ISA-L for gzip, libzstd for zstd),
 * hashes what comes out and writes it once, aligned and around the page cache, to its own region of
 * one sparse file. No tar is looked at, no filesystem is made; both digests are checked, and the file
 * is synced.
 *
 * Usage: pull_floor FILE. Each line of stdin: URL DIGEST DIFF_ID, digests as sha256:HEX, in the
 * order in which they shall be taken. Exit status 1: something is not what its digest says.
 */
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>
#include <curl/curl.h>
#include <isa-l/igzip_lib.h>
#include <openssl/evp.h>
#include <zstd.h>

#define THREADS 2
#define LAYERS_MAX 1000
#define ALIGNMENT 4096
#define BUFFER (2 << 20)
#define REGION (INT64_C(8) << 30) /* of the file, for each layer */

struct layer {
	char url[1024], digest[80], diff_id[80];
	uint64_t number;
};

/* Each thread has one; reused from layer to layer. */
struct worker {
	pthread_t thread;
	CURL *curl;
	EVP_MD_CTX *outer, *inner;
	struct inflate_state gzip;
	ZSTD_DStream *zstd;
	enum { UNKNOWN, GZIP, ZSTD, PLAIN } kind;
	uint8_t *buffer;
	size_t filled;
	int64_t at; /* in the file */
	uint64_t bytes;
};

static struct layer layers[LAYERS_MAX];
static size_t n_layers, next_layer;
static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
static int out;

static void die(const char *what)
{
	fprintf(stderr, "pull_floor: %s: %s\n", what, strerror(errno));
	exit(EXIT_FAILURE);
}

/* Writes the buffer; its end is filled up with zeros to what may be written directly. */
static void flush(struct worker *w)
{
	size_t whole = (w->filled + ALIGNMENT - 1) / ALIGNMENT * ALIGNMENT;

	memset(w->buffer + w->filled, 0, whole - w->filled);
	for (size_t done = 0; done < whole;) {
		ssize_t n = pwrite(out, w->buffer + done, whole - done, w->at);
		if (n <= 0)
			die("write");
		done += n;
		w->at += n;
	}
	w->filled = 0;
}

/* `len` bytes were inflated to the end of what the buffer has. */
static void inflated(struct worker *w, size_t len)
{
	EVP_DigestUpdate(w->inner, w->buffer + w->filled, len);
	w->filled += len;
	w->bytes += len;
	if (w->filled == BUFFER)
		flush(w);
}

static void inflate_gzip(struct worker *w, uint8_t *data, size_t len)
{
	struct inflate_state *s = &w->gzip;

	s->next_in = data;
	s->avail_in = len;
	for (;;) {
		if (s->block_state == ISAL_BLOCK_FINISH) {
			if (s->avail_in == 0)
				return;
			uint8_t *next = s->next_in;
			uint32_t left = s->avail_in;
			isal_inflate_reset(s);
			s->crc_flag = ISAL_GZIP;
			s->next_in = next;
			s->avail_in = left;
		}
		s->next_out = w->buffer + w->filled;
		s->avail_out = BUFFER - w->filled;
		if (isal_inflate(s) != ISAL_DECOMP_OK)
			die("inflate");
		size_t made = s->next_out - (w->buffer + w->filled);
		inflated(w, made);
		if (s->avail_in == 0 && s->avail_out > 0 && s->block_state != ISAL_BLOCK_FINISH)
			return;
		if (made == 0 && s->avail_in == 0)
			return;
	}
}

static void inflate_zstd(struct worker *w, uint8_t *data, size_t len)
{
	ZSTD_inBuffer in = {data, len, 0};

	for (;;) {
		ZSTD_outBuffer to = {w->buffer, BUFFER, w->filled};
		size_t r = ZSTD_decompressStream(w->zstd, &to, &in);
		if (ZSTD_isError(r))
			die(ZSTD_getErrorName(r));
		size_t room = BUFFER - to.pos;
		inflated(w, to.pos - w->filled);
		if (in.pos == in.size && room > 0)
			return;
	}
}

static void pass(struct worker *w, const uint8_t *data, size_t len)
{
	while (len > 0) {
		size_t n = BUFFER - w->filled < len ? BUFFER - w->filled : len;
		memcpy(w->buffer + w->filled, data, n);
		inflated(w, n);
		data += n;
		len -= n;
	}
}

static size_t came(char *data, size_t size, size_t n, void *arg)
{
	struct worker *w = arg;
	uint8_t *bytes = (uint8_t *)data;

	n *= size;
	EVP_DigestUpdate(w->outer, data, n);
	if (w->kind == UNKNOWN)
		w->kind = bytes[0] == 0x1f ? GZIP : bytes[0] == 0x28 ? ZSTD : PLAIN;
	if (w->kind == GZIP)
		inflate_gzip(w, bytes, n);
	else if (w->kind == ZSTD)
		inflate_zstd(w, bytes, n);
	else
		pass(w, bytes, n);
	return n;
}

static void check(EVP_MD_CTX *hash, const char *want, const char *what)
{
	uint8_t raw[EVP_MAX_MD_SIZE];
	char text[80] = "sha256:";
	unsigned len;

	EVP_DigestFinal_ex(hash, raw, &len);
	for (unsigned i = 0; i < len; i++)
		sprintf(text + 7 + 2 * i, "%02x", raw[i]);
	if (strcmp(text, want) != 0) {
		fprintf(stderr, "pull_floor: %s is %s, not %s\n", what, text, want);
		exit(EXIT_FAILURE);
	}
}

static void take(struct worker *w, const struct layer *layer)
{
	EVP_DigestInit_ex(w->outer, EVP_sha256(), NULL);
	EVP_DigestInit_ex(w->inner, EVP_sha256(), NULL);
	isal_inflate_init(&w->gzip);
	w->gzip.crc_flag = ISAL_GZIP;
	ZSTD_initDStream(w->zstd);
	w->kind = UNKNOWN;
	w->at = REGION * layer->number;
	w->filled = 0;
	curl_easy_setopt(w->curl, CURLOPT_URL, layer->url);
	CURLcode r = curl_easy_perform(w->curl);
	if (r != CURLE_OK) {
		fprintf(stderr, "pull_floor: %s: %s\n", layer->url, curl_easy_strerror(r));
		exit(EXIT_FAILURE);
	}
	flush(w);
	check(w->outer, layer->digest, "the layer");
	check(w->inner, layer->diff_id, "what was in the layer");
}

static void *work(void *arg)
{
	struct worker *w = arg;

	for (;;) {
		pthread_mutex_lock(&lock);
		size_t i = next_layer++;
		pthread_mutex_unlock(&lock);
		if (i >= n_layers)
			return NULL;
		take(w, &layers[i]);
	}
}

static void worker_init(struct worker *w)
{
	w->curl = curl_easy_init();
	w->outer = EVP_MD_CTX_new();
	w->inner = EVP_MD_CTX_new();
	w->zstd = ZSTD_createDStream();
	if (!w->curl || !w->outer || !w->inner || !w->zstd ||
		posix_memalign((void **)&w->buffer, ALIGNMENT, BUFFER) != 0)
		die("memory");
	curl_easy_setopt(w->curl, CURLOPT_WRITEFUNCTION, came);
	curl_easy_setopt(w->curl, CURLOPT_WRITEDATA, w);
	curl_easy_setopt(w->curl, CURLOPT_FAILONERROR, 1L);
	curl_easy_setopt(w->curl, CURLOPT_NOSIGNAL, 1L);
	curl_easy_setopt(w->curl, CURLOPT_BUFFERSIZE, 512L * 1024);
	if (pthread_create(&w->thread, NULL, work, w) != 0)
		die("thread");
}

int main(int argc, char **argv)
{
	static struct worker workers[THREADS];
	uint64_t bytes = 0;

	if (argc != 2)
		return 2;
	out = open(argv[1], O_RDWR | O_CREAT | O_TRUNC | O_DIRECT | O_CLOEXEC, 0644);
	if (out < 0)
		die(argv[1]);
	curl_global_init(CURL_GLOBAL_DEFAULT);
	while (n_layers < LAYERS_MAX &&
		scanf("%1023s %79s %79s", layers[n_layers].url, layers[n_layers].digest,
			layers[n_layers].diff_id) == 3) {
		layers[n_layers].number = n_layers;
		n_layers++;
	}
	for (int i = 0; i < THREADS; i++)
		worker_init(&workers[i]);
	for (int i = 0; i < THREADS; i++) {
		pthread_join(workers[i].thread, NULL);
		bytes += workers[i].bytes;
	}
	if (fsync(out) != 0)
		die("fsync");
	printf("%llu\n", (unsigned long long)bytes);
	return 0;
}
