/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Two queues, of records and of lines, and a thread that empties them.
 *
 * Both are bounded. A record beyond the number that the store keeps would be trimmed as soon as it
 * was written, so the oldest pending one is dropped for it and nothing is lost; lines are bounded
 * by bytes, and what had to be dropped is counted and logged. A batch is small and followed by a
 * pause, so that a change that waits for the store's writing lock gets it: the lock is not fair by
 * itself.
 */
#include "op/journal.h"
#include <banger/log.h>
#include <pthread.h>
#include <string.h>
#include <time.h>

#define GATHER_MS 200
#define BATCH_RECORDS 64
#define BATCH_LINES 256
#define PAUSE_US 500
#define LINES_BYTES_MAX (4 * 1024 * 1024)

struct record {
	struct record *next;
	uint64_t seq; /* of its addition */
	struct banger_op_record r;
};

struct line {
	struct line *next;
	uint64_t seq;
	size_t size;
	char op_id[BANGER_OP_ID_LEN + 1];
	char text[];
};

struct journal {
	struct store *store;
	int64_t kept;
	pthread_t thread;
	pthread_mutex_t lock;
	pthread_cond_t work, written;
	/* By lock. */
	struct record *records, **records_tail;
	struct line *lines, **lines_tail;
	size_t n_records, lines_bytes;
	uint64_t dropped;  /* lines, since it was last logged */
	uint64_t added;    /* items ever; the seq of the last */
	uint64_t in_batch; /* seq of the oldest in the batch that is being written; UINT64_MAX: none
			    */
	unsigned flushing; /* how many wait in journal_flush() */
	bool stop;
	/* The thread's own. */
	struct banger_op_record batch_records[BATCH_RECORDS];
	struct line *batch[BATCH_LINES];
	struct store_op_line batch_lines[BATCH_LINES];
};

static void drop_record(struct journal *j)
{
	struct record *r = j->records;

	j->records = r->next;
	if (!j->records)
		j->records_tail = &j->records;
	j->n_records--;
	free(r);
}

/* Unlink the oldest line; the caller frees it or keeps it. */
static struct line *take_line(struct journal *j)
{
	struct line *l = j->lines;

	j->lines = l->next;
	if (!j->lines)
		j->lines_tail = &j->lines;
	j->lines_bytes -= l->size;
	return l;
}

/* The thread sleeps only while nothing is pending; later additions it finds by itself. */
static void wake_if(struct journal *j, bool was_empty)
{
	if (was_empty)
		pthread_cond_signal(&j->work);
}

void journal_add_record(struct journal *j, const struct banger_op_record *rec)
{
	struct record *r = malloc(sizeof(*r));

	if (!r)
		return;
	*r = (struct record){.r = *rec};
	pthread_mutex_lock(&j->lock);
	bool was_empty = !j->records && !j->lines;
	if (j->n_records >= (size_t)j->kept)
		drop_record(j);
	r->seq = ++j->added;
	*j->records_tail = r;
	j->records_tail = &r->next;
	j->n_records++;
	wake_if(j, was_empty);
	pthread_mutex_unlock(&j->lock);
}

void journal_add_line(struct journal *j, const char *op_id, const char *text, size_t len)
{
	size_t size = sizeof(struct line) + len + 1;
	struct line *l = malloc(size);

	if (!l)
		return;
	l->next = NULL;
	l->size = size;
	snprintf(l->op_id, sizeof(l->op_id), "%s", op_id);
	memcpy(l->text, text, len);
	l->text[len] = '\0';
	pthread_mutex_lock(&j->lock);
	bool was_empty = !j->records && !j->lines;
	while (j->lines && j->lines_bytes + size > LINES_BYTES_MAX) {
		free(take_line(j));
		j->dropped++;
	}
	l->seq = ++j->added;
	*j->lines_tail = l;
	j->lines_tail = &l->next;
	j->lines_bytes += size;
	wake_if(j, was_empty);
	pthread_mutex_unlock(&j->lock);
}

/* Is nothing of what was added up to `seq` pending? */
static bool settled(const struct journal *j, uint64_t seq)
{
	return (!j->records || j->records->seq > seq) && (!j->lines || j->lines->seq > seq) &&
	       j->in_batch > seq;
}

void journal_flush(struct journal *j)
{
	pthread_mutex_lock(&j->lock);
	uint64_t until = j->added;
	j->flushing++;
	pthread_cond_signal(&j->work);
	while (!settled(j, until))
		pthread_cond_wait(&j->written, &j->lock);
	j->flushing--;
	pthread_mutex_unlock(&j->lock);
}

/* Sleep until there is something to write, and a little longer to gather more. False: stop. */
static bool wait_for_work(struct journal *j)
{
	while (!j->records && !j->lines && !j->stop)
		pthread_cond_wait(&j->work, &j->lock);
	if (j->stop || j->flushing)
		return j->records || j->lines;
	struct timespec until;
	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_nsec += GATHER_MS * 1000000L;
	until.tv_sec += until.tv_nsec / 1000000000;
	until.tv_nsec %= 1000000000;
	while (!j->stop && !j->flushing)
		if (pthread_cond_timedwait(&j->work, &j->lock, &until) == ETIMEDOUT)
			break;
	return true;
}

static void take_batch(struct journal *j, size_t *ret_records, size_t *ret_lines)
{
	size_t n = 0, m = 0;

	if (j->records)
		j->in_batch = j->records->seq;
	if (j->lines && j->lines->seq < j->in_batch)
		j->in_batch = j->lines->seq;
	for (; j->records && n < BATCH_RECORDS; n++) {
		j->batch_records[n] = j->records->r;
		drop_record(j);
	}
	for (; j->lines && m < BATCH_LINES; m++) {
		j->batch[m] = take_line(j);
		strcpy(j->batch_lines[m].op_id, j->batch[m]->op_id);
		j->batch_lines[m].line = j->batch[m]->text;
	}
	*ret_records = n;
	*ret_lines = m;
}

static void write_batch(struct journal *j, size_t n_records, size_t n_lines)
{
	struct banger_error err = {0};

	if (store_ops_put(j->store, j->batch_records, n_records, j->batch_lines, n_lines, j->kept,
		    &err) < 0)
		log_err("cannot keep the records of operations", KV_ERR(&err),
			KV_I("records", n_records), KV_I("lines", n_lines));
	for (size_t i = 0; i < n_lines; i++)
		free(j->batch[i]);
}

static void report_dropped(uint64_t n)
{
	if (n > 0)
		log_warn("log records came faster than they could be kept; the oldest were not",
			KV_I("dropped", n));
}

static void *run(void *arg)
{
	struct journal *j = arg;
	size_t n, m;

	pthread_mutex_lock(&j->lock);
	while (wait_for_work(j)) {
		while (j->records || j->lines) {
			uint64_t dropped = j->dropped;

			j->dropped = 0;
			take_batch(j, &n, &m);
			pthread_mutex_unlock(&j->lock);
			report_dropped(dropped);
			write_batch(j, n, m);
			usleep(PAUSE_US);
			pthread_mutex_lock(&j->lock);
			j->in_batch = UINT64_MAX;
			pthread_cond_broadcast(&j->written);
		}
		pthread_mutex_unlock(&j->lock);
		store_maintain(j->store);
		pthread_mutex_lock(&j->lock);
	}
	pthread_mutex_unlock(&j->lock);
	return NULL;
}

int journal_new(struct store *store, int64_t kept, struct journal **ret, struct banger_error *err)
{
	struct journal *j = calloc(1, sizeof(*j));
	pthread_condattr_t attr;

	if (!j)
		return banger_error_oom(err);
	j->store = store;
	j->kept = kept;
	j->in_batch = UINT64_MAX;
	j->records_tail = &j->records;
	j->lines_tail = &j->lines;
	pthread_mutex_init(&j->lock, NULL);
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&j->work, &attr);
	pthread_cond_init(&j->written, NULL);
	pthread_condattr_destroy(&attr);
	int e = pthread_create(&j->thread, NULL, run, j);
	if (e != 0) {
		free(j);
		return banger_error_set_errno(err, e, "cannot start the journal's thread");
	}
	*ret = j;
	return 0;
}

void journal_freep(struct journal **p)
{
	struct journal *j = *p;

	if (!j)
		return;
	pthread_mutex_lock(&j->lock);
	j->stop = true;
	pthread_cond_signal(&j->work);
	pthread_mutex_unlock(&j->lock);
	pthread_join(j->thread, NULL);
	pthread_mutex_destroy(&j->lock);
	pthread_cond_destroy(&j->work);
	pthread_cond_destroy(&j->written);
	free(j);
	*p = NULL;
}
