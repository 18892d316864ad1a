/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The runner of changes: see change.h. A thread that has finished its own change goes on with those
 * that wait, so nothing waits while fewer than CHANGES_AT_ONCE run.
 *
 * An interrupt names a request by its pointer. libfuse keeps the request's memory while it calls
 * us, so looking the pointer up in the list of running changes is safe, and a change that is not
 * found has been answered.
 */
#include "change.h"
#include <string.h>
#include "caller.h"
#include "loop.h"

_Static_assert(CHANGES_AT_ONCE < LOOP_THREADS_MAX, "some thread must be free to see a close");

struct changes {
	pthread_mutex_t lock;
	struct change *running;
	size_t nrunning;
	struct change *first, **last; /* waiting */
};

int changes_new(struct changes **ret)
{
	struct changes *c = calloc(1, sizeof(*c));

	if (!c)
		return -ENOMEM;
	pthread_mutex_init(&c->lock, NULL);
	c->last = &c->first;
	*ret = c;
	return 0;
}

void changes_freep(struct changes **p)
{
	struct changes *c = *p;

	if (!c)
		return;
	pthread_mutex_destroy(&c->lock);
	free(c);
	*p = NULL;
}

struct change *change_new(struct fs *fs, fuse_req_t req, void (*run)(struct change *c),
	uint64_t node, const char *name, uint64_t to_node, const char *to_name)
{
	size_t n = name ? strlen(name) + 1 : 0, to = to_name ? strlen(to_name) + 1 : 0;
	struct change *c = calloc(1, sizeof(*c) + n + to);

	if (!c) {
		fuse_reply_err(req, ENOMEM);
		return NULL;
	}
	c->fs = fs;
	c->req = req;
	c->who = *fuse_req_ctx(req);
	c->run = run;
	c->node = node;
	c->to_node = to_node;
	if (name)
		c->name = memcpy(c->text, name, n);
	if (to_name)
		c->to_name = memcpy(c->text + n, to_name, to);
	return c;
}

/* ---- callers that are being killed */

static void interrupted(fuse_req_t req, void *data)
{
	struct fs *fs = data;
	char op_id[BANGER_OP_ID_LEN + 1] = "";
	pid_t tid = 0;

	pthread_mutex_lock(&fs->changes->lock);
	for (struct change *c = fs->changes->running; c; c = c->next)
		if (c->req == req) {
			strcpy(op_id, c->attempt.op.s);
			tid = c->who.pid;
		}
	pthread_mutex_unlock(&fs->changes->lock);
	if (op_id[0] && caller_is_dying(tid))
		errands_cancel(fs->errands, op_id);
}

/* ---- running */

static void enter(struct changes *s, struct change *c)
{
	c->next = s->running;
	s->running = c;
}

static void leave(struct changes *s, struct change *c)
{
	for (struct change **p = &s->running; *p; p = &(*p)->next)
		if (*p == c) {
			*p = c->next;
			return;
		}
}

/* With the lock. */
static struct change *next_waiting(struct changes *s)
{
	struct change *c = s->first;

	if (c)
		s->first = c->next;
	if (!s->first)
		s->last = &s->first;
	return c;
}

static bool is_of_registry(const struct change *c)
{
	return c->run == registry_mkdir || c->run == registry_rmdir || c->run == change_rename;
}

static void run_on(struct changes *s, struct change *c)
{
	_cleanup_(loop_return) struct loop_worker *left = NULL;

	pthread_mutex_lock(&s->lock);
	while (c) {
		enter(s, c);
		pthread_mutex_unlock(&s->lock);
		/* A change of the registry alone leaves its place when it is found to take long. */
		if (!left && !is_of_registry(c))
			left = loop_leave();
		c->run(c);
		pthread_mutex_lock(&s->lock);
		leave(s, c);
		free(c);
		c = next_waiting(s);
	}
	s->nrunning--;
	pthread_mutex_unlock(&s->lock);
	loop_look_next();
}

void change_submit(struct change *c)
{
	struct changes *s = c->fs->changes;

	pthread_mutex_lock(&s->lock);
	bool wait = s->nrunning == CHANGES_AT_ONCE;
	if (wait) {
		*s->last = c;
		s->last = &c->next;
	} else {
		s->nrunning++;
	}
	pthread_mutex_unlock(&s->lock);
	if (!wait)
		run_on(s, c);
}

void change_begin(struct change *c, const char *method)
{
	struct changes *s = c->fs->changes;
	struct attempt a;

	attempt_begin(&a, c->fs, &c->who, method);
	attempt_about(&a, "path", c->node, c->name);
	if (c->to_node)
		attempt_about(&a, "to", c->to_node, c->to_name);
	pthread_mutex_lock(&s->lock); /* interrupted() reads the op_id */
	c->attempt = a;
	pthread_mutex_unlock(&s->lock);
	fuse_req_interrupt_func(c->req, interrupted, c->fs);
}

void change_end(struct change *c, int r)
{
	int e = attempt_end(&c->attempt, r);

	fuse_reply_err(c->req, e);
	attempt_done(&c->attempt);
}

/* ---- what they are about */

static void fill_ref(const struct model_image *i, struct image_ref *ret)
{
	*ret = (struct image_ref){.number = i->number, .id = i->row.id, .state = i->row.state};
	strcpy(ret->name, model_name(i));
	model_id_text(i->row.id, ret->id_text);
	snprintf(ret->word, sizeof(ret->word), "%s/%s",
		i->row.state == BANGER_PUBLISHED ? "images" : "drafts", ret->name);
}

int image_ref_of(struct fs *fs, uint64_t node, struct image_ref *ret)
{
	enum node_kind kind = node_kind(node);

	if (kind != NODE_IMAGE && kind != NODE_IMAGE_JSON)
		return -ENOENT;
	MODEL_READ(fs->model);
	const struct model_image *i = model_image(fs->model, node_number(node));
	if (!i)
		return -ENOENT;
	fill_ref(i, ret);
	return 0;
}

int image_ref_named(struct fs *fs, uint64_t dir, const char *name, struct image_ref *ret)
{
	MODEL_READ(fs->model);
	const struct model_image *i = model_image_named(
		fs->model, dir == FIXED_IMAGES ? BANGER_PUBLISHED : BANGER_DRAFT, name);

	if (!i)
		return -ENOENT;
	fill_ref(i, ret);
	return 0;
}

/* The image, kernel or VM that a node is or lies in; 0 for none. */
static uint64_t owner_of(struct fs *fs, uint64_t node)
{
	_cleanup_place_ struct file_place p = {0};

	switch (node_kind(node)) {
	case NODE_IMAGE:
	case NODE_KERNEL:
	case NODE_VM:
		return node;
	case NODE_IMAGE_JSON:
		return node_id(NODE_IMAGE, node_number(node));
	case NODE_KERNEL_JSON:
		return node_id(NODE_KERNEL, node_number(node));
	case NODE_VM_JSON:
		return node_id(NODE_VM, node_number(node));
	case NODE_FILE:
		return files_place(fs->files, node, &p) == 0 ? p.owner : 0;
	default:
		return 0;
	}
}

static int refuse_in_image(struct attempt *a, uint64_t owner, const char *verb)
{
	struct image_ref image;

	if (image_ref_of(a->fs, owner, &image) < 0)
		return attempt_refuse(a, BANGER_NOT_FOUND, "the image was deleted");
	if (image.state == BANGER_PUBLISHED)
		return attempt_refuse(a, BANGER_IMMUTABLE,
			"image \"%s\" is published: nothing in %s can be %s; to change it, copy it "
			"to drafts/",
			image.name, image.word, verb);
	return attempt_refuse(a, BANGER_NOT_PERMITTED,
		"draft \"%s\" holds files and symlinks only: this cannot be %s in %s", image.name,
		verb, image.word);
}

int refuse_change(struct attempt *a, uint64_t node, const char *verb)
{
	uint64_t owner = owner_of(a->fs, node);
	char path[64];

	if (node_kind(owner) == NODE_IMAGE)
		return refuse_in_image(a, owner, verb);
	fs_path(a->fs, owner ?: node, NULL, path, sizeof(path));
	if (node_kind(owner) == NODE_VM)
		return attempt_refuse(a, BANGER_NOT_PERMITTED,
			"VMs are changed by banger-ctl vm: nothing in %s can be %s", path, verb);
	if (owner)
		return attempt_refuse(a, BANGER_IMMUTABLE,
			"kernels do not change: nothing in %s can be %s", path, verb);
	if (node == FIXED_IMAGES)
		return attempt_refuse(a, BANGER_NOT_PERMITTED,
			"in images/ nothing can be %s but images: make a draft with mkdir "
			"drafts/NAME, "
			"then move it to images/NAME",
			verb);
	if (node == FIXED_DRAFTS)
		return attempt_refuse(a, BANGER_NOT_PERMITTED,
			"in drafts/ nothing can be %s but drafts, which are directories", verb);
	return attempt_refuse(a, BANGER_NOT_PERMITTED, "nothing in %s can be %s here",
		node == FIXED_ROOT ? "the root of the registry" : path, verb);
}
