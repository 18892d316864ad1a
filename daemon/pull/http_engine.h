/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread that drives libcurl, and the hand-over of a body from it to the thread that asked.
 *
 * A transfer has a ring of HTTP_PIECES buffers. The engine copies what curl gives it into the one at
 * `tail`; a full one belongs to the asker until transfer_release(). When all are full the transfer is
 * paused (TCP holds the sender back), and resumed when one is free: memory is bounded, whatever the
 * speeds of network and disk.
 *
 * transfer.lock guards `count`, `hurry`, `abort`, `paused`, `resume` and `done`. Before `done` the engine owns all else
 * but the pieces between head and tail; after it, the asker does.
 */
#ifndef BANGER_PULL_HTTP_ENGINE_H
#define BANGER_PULL_HTTP_ENGINE_H

#include <pthread.h>
#include <stdbool.h>
#include <stdint.h>
#include <curl/curl.h>
#include <banger/error.h>

#define HTTP_PIECE (512 * 1024)
#define HTTP_PIECES 4
#define HTTP_NOTE_MAX (64 * 1024) /* of the body of an error */

struct http_engine;

enum transfer_end {
	TRANSFER_RUNNING,
	TRANSFER_CURL, /* as `code` says */
	TRANSFER_CANCELLED,
	TRANSFER_STALLED,
	TRANSFER_TOO_LARGE,
	TRANSFER_HEADERS, /* absurdly many */
	TRANSFER_NO_MEMORY,
	TRANSFER_ABORTED, /* by the asker */
};

struct transfer {
	/* Set by the asker. */
	CURL *easy;
	int cancel_fd;
	int64_t offset, limit;
	bool stream; /* a good body goes through the pieces; else all bodies are collected */

	pthread_mutex_t lock;
	pthread_cond_t cond;
	struct {
		unsigned char *data;
		size_t len;
	} pieces[HTTP_PIECES];
	int head, tail, count;
	bool hurry, abort, paused, resume, done;

	/* The engine's. */
	struct transfer *next;
	int64_t last_us; /* when something came */
	size_t fill;     /* of the piece at `tail` */
	size_t header_bytes;
	int64_t received;
	enum transfer_end end;
	CURLcode code;
	long status;
	bool head_done, deliver, wrong_range, enough;
	int64_t content_length, retry_after_s, range_start, range_total;
	char *content_type, *digest, *challenge, *location;
	char *body;
	size_t len, room;
};

int http_engine_new(int64_t stall_ms, struct http_engine **ret, struct banger_error *err);
void http_engine_freep(struct http_engine **e);

/* Prepares what the engine needs of a zeroed transfer, and its easy handle's callbacks. */
int transfer_init(struct transfer *t, struct banger_error *err);
void transfer_done(struct transfer *t);
/* Hand it to the engine. From here on until transfer_next() gave 0 it must stay where it is. */
void transfer_start(struct http_engine *e, struct transfer *t);
/* Wait for a piece: 1; 0 when the transfer has ended and no piece is left. */
int transfer_next(
	struct http_engine *e, struct transfer *t, const void **ret_data, size_t *ret_len);
void transfer_release(struct http_engine *e, struct transfer *t);
/* No more pieces are wanted; waits until the engine has let go. */
void transfer_abort(struct http_engine *e, struct transfer *t);

#endif
