/* SPDX-License-Identifier: Apache-2.0 */
/*
 * See config.h. A document is sent once for what was written: a second close of a duplicated
 * descriptor has nothing to send. What was refused stays in the handle, so a program that ignores
 * close() finds its words in last-error and nothing half taken over.
 *
 * A shell's `echo … > image.json` opens with O_TRUNC, duplicates the descriptor and closes the first before a word
 * is written. Such a close fails (who ignores it is a shell), but whether it was the last word is known at the
 * RELEASE only: until then the empty document is nobody's error.
 */
#include "config.h"
#include <string.h>
#include "change.h"
#include "handle.h"

struct config_handle {
	struct handle h;
	uint64_t node;
	pthread_mutex_t lock;
	char *buf; /* CONFIG_DOCUMENT_MAX bytes */
	size_t len;
	bool dirty;
	bool emptied;       /* by the open, and nothing was written since */
	struct fuse_ctx by; /* who closed it so; pid 0: nobody yet */
};

int config_open(struct fs *fs, const struct fuse_ctx *who, uint64_t node, bool truncate,
	struct handle **ret)
{
	_cleanup_free_ char *text = NULL;
	size_t len = 0;

	int r = handle_check_room(fs);
	if (r < 0)
		return r;
	if (!truncate) {
		r = node_type(node)->text(fs, who, node, &text, &len);
		if (r < 0)
			return r;
		if (len > CONFIG_DOCUMENT_MAX)
			return -EFBIG;
	}
	struct config_handle *c = calloc(1, sizeof(*c));
	if (!c || !(c->buf = malloc(CONFIG_DOCUMENT_MAX))) {
		free(c);
		return -ENOMEM;
	}
	c->h.kind = HANDLE_CONFIG;
	c->node = node;
	pthread_mutex_init(&c->lock, NULL);
	if (len > 0)
		memcpy(c->buf, text, len);
	c->len = len;
	c->dirty = c->emptied = truncate;
	*ret = &c->h;
	return 0;
}

static struct config_handle *of(struct handle *h)
{
	return (struct config_handle *)h;
}

void config_released(struct fs *fs, struct handle *h)
{
	struct config_handle *c = of(h);

	if (c->emptied && c->by.pid)
		attempt_refused(fs, &c->by, BANGER_METHOD_IMAGE_CONFIGURE, c->node, NULL,
			BANGER_BAD_REQUEST,
			"image.json was emptied and nothing was written to it: it stays as it was");
}

void config_close(struct fs *fs, struct handle *h)
{
	struct config_handle *c = of(h);

	pthread_mutex_destroy(&c->lock);
	free(c->buf);
	free(c);
}

void config_read(struct handle *h, fuse_req_t req, size_t size, off_t off)
{
	struct config_handle *c = of(h);
	_cleanup_free_ char *copy = NULL;
	size_t n = 0;

	pthread_mutex_lock(&c->lock);
	if (off >= 0 && (size_t)off < c->len)
		n = size < c->len - off ? size : c->len - off;
	copy = malloc(n + 1);
	if (copy)
		memcpy(copy, c->buf + (n > 0 ? off : 0), n);
	pthread_mutex_unlock(&c->lock);
	/* Once it is answered the handle may be closed. */
	if (copy)
		fuse_reply_buf(req, copy, n);
	else
		fuse_reply_err(req, ENOMEM);
}

static int resize(struct config_handle *c, size_t len)
{
	if (len > CONFIG_DOCUMENT_MAX)
		return -EFBIG;
	if (len > c->len)
		memset(c->buf + c->len, 0, len - c->len);
	c->len = len;
	c->dirty = true;
	c->emptied = false;
	return 0;
}

void config_write(struct handle *h, fuse_req_t req, const char *buf, size_t size, off_t off)
{
	struct config_handle *c = of(h);
	int r = off < 0 || off > CONFIG_DOCUMENT_MAX ? -EFBIG : 0;

	pthread_mutex_lock(&c->lock);
	if (r == 0 && off + size > c->len)
		r = resize(c, off + size);
	if (r == 0) {
		memcpy(c->buf + off, buf, size);
		c->dirty = true;
		c->emptied = false;
	}
	pthread_mutex_unlock(&c->lock);
	if (r < 0)
		fuse_reply_err(req, -r);
	else
		fuse_reply_write(req, size);
}

int config_truncate(struct handle *h, off_t size)
{
	struct config_handle *c = of(h);

	if (size < 0 || size > CONFIG_DOCUMENT_MAX)
		return -EFBIG;
	pthread_mutex_lock(&c->lock);
	int r = resize(c, size);
	pthread_mutex_unlock(&c->lock);
	return r;
}

size_t config_size(struct handle *h)
{
	struct config_handle *c = of(h);

	pthread_mutex_lock(&c->lock);
	size_t n = c->len;
	pthread_mutex_unlock(&c->lock);
	return n;
}

bool config_dirty(struct handle *h)
{
	struct config_handle *c = of(h);

	pthread_mutex_lock(&c->lock);
	bool dirty = c->dirty;
	pthread_mutex_unlock(&c->lock);
	return dirty;
}

/* Send a document; the daemon says what may be in it. */
static int configure(struct change *c, uint64_t image, const char *text, size_t len)
{
	_cleanup_json_ struct json_object *params = json_object_new_object(), *document = NULL;
	struct attempt *a = &c->attempt;
	struct image_ref draft;

	if (image_ref_of(c->fs, image, &draft) < 0)
		return attempt_refuse(a, BANGER_NOT_FOUND, "the draft was deleted");
	if (draft.state != BANGER_DRAFT)
		return refuse_change(a, image, "changed");
	int r = banger_json_parse(text, len, &document, &a->err);
	if (r == 0 && !json_object_is_type(document, json_type_object))
		r = attempt_refuse(a, BANGER_BAD_REQUEST, "not a JSON object");
	if (r < 0) {
		banger_error_prefix(&a->err, "%s/image.json", draft.word);
		return r;
	}
	if (!params || banger_json_add_str(params, "image", draft.word) < 0 ||
		banger_json_add(params, "document", TAKE_PTR(document)) < 0)
		return banger_error_oom(&a->err);
	return attempt_change(a, BANGER_METHOD_IMAGE_CONFIGURE, TAKE_PTR(params), false, NULL);
}

/* Nothing was written yet, and perhaps nothing will be. */
static bool flush_emptied(struct change *c, struct config_handle *h)
{
	pthread_mutex_lock(&h->lock);
	bool emptied = h->emptied;
	if (emptied)
		h->by = c->who;
	pthread_mutex_unlock(&h->lock);
	if (emptied)
		fuse_reply_err(c->req, EINVAL);
	return emptied;
}

void config_flush(struct change *c)
{
	struct config_handle *h = of(handle_of(&c->fi));
	_cleanup_free_ char *text = NULL;
	size_t len = 0;
	bool dirty;

	if (flush_emptied(c, h))
		return;
	change_begin(c, BANGER_METHOD_IMAGE_CONFIGURE);
	pthread_mutex_lock(&h->lock);
	dirty = h->dirty;
	if (dirty && (text = malloc(h->len + 1))) {
		len = h->len;
		memcpy(text, h->buf, len);
		text[len] = '\0';
		h->dirty = false;
	}
	pthread_mutex_unlock(&h->lock);
	int r = attempt_allowed(&c->attempt);
	if (r == 0 && dirty)
		r = text ? configure(c, node_id(NODE_IMAGE, node_number(h->node)), text, len)
			 : banger_error_oom(&c->attempt.err);
	change_end(c, r);
}

int config_take_file(struct change *c, uint64_t image, int fd)
{
	_cleanup_free_ char *text = malloc(CONFIG_DOCUMENT_MAX + 1);
	size_t n = 0;

	if (!text)
		return banger_error_oom(&c->attempt.err);
	for (;;) {
		ssize_t got = pread(fd, text + n, CONFIG_DOCUMENT_MAX + 1 - n, n);
		if (got < 0 && errno == EINTR)
			continue;
		if (got < 0)
			return attempt_refuse_errno(&c->attempt, errno, "%s", c->name);
		n += got;
		if (n > CONFIG_DOCUMENT_MAX)
			return attempt_refuse(&c->attempt, BANGER_TOO_LARGE,
				"image.json is at most %d bytes", CONFIG_DOCUMENT_MAX);
		if (got == 0)
			break;
	}
	return configure(c, image, text, n);
}
