/* SPDX-License-Identifier: Apache-2.0 */
/*
 * From a tar stream to files, by libarchive, on a thread of its own with a working directory of its own
 * (unshare(CLONE_FS)): all names are relative to it, and libarchive follows no link on the way and none that was there
 * before.
 *
 * A member is called NAME or NAME/…, where NAME is what was asked for, and is made under the name that it shall have
 * here; anything else ends the copy. Without keep_owners no member can gain rights here: no set-user-id, no devices, no
 * attributes.
 *
 * The stream must end as a tar stream does: the daemon says whether the VM sent all of it.
 */
#include "untar.h"

#include <archive.h>
#include <archive_entry.h>
#include <fcntl.h>
#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <string.h>
#include <sys/stat.h>
#include <banger/op.h>

#define BUFFER (256 * 1024)
/* What libarchive may read to come to the next header or data: it keeps the map of a sparse file, which is as long as
 * the VM says, in a dozen times that memory. */
#define MAP_MAX (32 * 1024 * 1024)

struct untar {
	pthread_t thread;
	bool joined;
	int in;
	char *name, *directory, *as;
	bool must_be_dir, is_file, keep_owners;
	banger_op_id op;
	struct archive *tar, *disk;
	char *buffer;
	bool begun, ended;
	unsigned type;
	char *link;
	size_t skipped;
	size_t read; /* since the last header or data */
	_Atomic int64_t bytes;
	struct banger_error err;
	int result;
};

static void untar_freep(struct untar **p)
{
	struct untar *u = *p;

	if (!u)
		return;
	banger_closep(&u->in);
	archive_read_free(u->tar);
	archive_write_free(u->disk);
	free(u->buffer);
	free(u->name);
	free(u->directory);
	free(u->as);
	free(u->link);
	free(u);
	*p = NULL;
}

/* ---- reading */

static la_ssize_t read_stream(struct archive *a, void *arg, const void **data)
{
	struct untar *u = arg;
	ssize_t n;

	do
		n = read(u->in, u->buffer, BUFFER);
	while (n < 0 && errno == EINTR);
	if (n < 0)
		archive_set_error(a, errno, "cannot read the stream");
	else
		atomic_fetch_add(&u->bytes, n);
	u->read += n > 0 ? (size_t)n : 0;
	if (u->read > MAP_MAX) {
		archive_set_error(a, E2BIG, "a member's header is over %d MiB", MAP_MAX >> 20);
		n = -1;
	}
	*data = u->buffer;
	return n;
}

static int fail_tar(struct untar *u)
{
	const char *why = archive_error_string(u->tar);

	return banger_error_set(&u->err, BANGER_INCOMPLETE, "the VM's tar stream: %s",
		why ? why : "no reason given");
}

static int fail_disk(struct untar *u, const char *name)
{
	const char *why = archive_error_string(u->disk);
	int number = archive_errno(u->disk);

	return banger_error_set(&u->err,
		number > 0 ? banger_code_from_errno(number) : BANGER_INTERNAL,
		"cannot write %s: %s", name, why ? why : "no reason given");
}

/* ---- names */

/* ".." as a component? */
static bool leads_out(const char *name)
{
	for (; *name; name += strcspn(name, "/"), name += strspn(name, "/"))
		if (strncmp(name, "..", 2) == 0 && (name[2] == '/' || name[2] == '\0'))
			return true;
	return false;
}

/* What a member becomes here: the caller frees; NULL with *ret_ok: it is the directory whose content is meant. */
static char *rename_member(const struct untar *u, const char *name, bool *ret_ok)
{
	size_t n = strlen(u->name);
	char *whole;

	*ret_ok = true;
	if (strncmp(name, u->name, n) != 0 || (name[n] != '/' && name[n] != '\0') ||
		leads_out(name)) {
		*ret_ok = false;
		return NULL;
	}
	const char *rest = name + n + strspn(name + n, "/");
	if (!*rest)
		return u->as ? strdup(u->as) : NULL;
	if (!u->as)
		return strdup(rest);
	return asprintf(&whole, "%s/%s", u->as, rest) < 0 ? NULL : whole;
}

static int strange_name(struct untar *u, const char *name)
{
	return banger_error_set(&u->err, BANGER_CORRUPT,
		"the VM sent \"%s\", which is not what was asked for", name);
}

/* ---- members */

/* 1: make it; 0: leave it out. */
static int set_names(struct untar *u, struct archive_entry *entry)
{
	const char *name = archive_entry_pathname(entry), *target = archive_entry_hardlink(entry);
	bool ok, target_ok = true;

	if (!name)
		return strange_name(u, "");
	_cleanup_free_ char *as = rename_member(u, name, &ok);
	_cleanup_free_ char *to = target ? rename_member(u, target, &target_ok) : NULL;
	if (!ok || !target_ok)
		return strange_name(u, ok ? target : name);
	if (!as)
		return u->as ? banger_error_oom(&u->err) : 0;
	if (target && !to)
		return strange_name(u, target);
	archive_entry_copy_pathname(entry, as);
	if (to)
		archive_entry_copy_hardlink(entry, to);
	return 1;
}

/* Rights that it would have here. 1: make it; 0: leave it out. */
static int set_rights(struct untar *u, struct archive_entry *entry)
{
	unsigned type = archive_entry_filetype(entry);

	if (u->keep_owners)
		return 1;
	if (type == AE_IFCHR || type == AE_IFBLK) {
		u->skipped++;
		return 0;
	}
	archive_entry_set_perm(entry, archive_entry_perm(entry) & 0777);
	archive_entry_xattr_clear(entry);
	archive_entry_acl_clear(entry);
	archive_entry_set_fflags(entry, 0, 0);
	return 1;
}

static int copy_data(struct untar *u, struct archive_entry *entry)
{
	const void *data;
	size_t n;
	la_int64_t at;
	int r;

	while ((r = archive_read_data_block(u->tar, &data, &n, &at)) == ARCHIVE_OK) {
		u->read = 0;
		if (archive_write_data_block(u->disk, data, n, at) < ARCHIVE_OK)
			return fail_disk(u, archive_entry_pathname(entry));
	}
	return r == ARCHIVE_EOF ? 0 : fail_tar(u);
}

static int make(struct untar *u, struct archive_entry *entry)
{
	int r = set_names(u, entry);

	if (r == 1)
		r = set_rights(u, entry);
	if (r <= 0)
		return r;
	_cleanup_free_ char *name = strdup(archive_entry_pathname(entry));
	r = archive_write_header(u->disk, entry);
	/* Attributes that this filesystem does not take are left out, as tar does. */
	if (r < ARCHIVE_WARN)
		return fail_disk(u, name ? name : "it");
	if (archive_entry_filetype(entry) == AE_IFREG && !archive_entry_hardlink(entry)) {
		r = copy_data(u, entry);
		if (r < 0)
			return r;
	}
	return archive_write_finish_entry(u->disk) < ARCHIVE_WARN ? fail_disk(u, name ? name : "it")
								  : 0;
}

/* The first says what was asked for. */
static int take_first(struct untar *u, struct archive_entry *entry)
{
	const char *link = archive_entry_symlink(entry);

	u->begun = true;
	u->type = archive_entry_filetype(entry);
	u->link = link ? strdup(link) : NULL;
	if (!u->directory)
		return 0;
	if (u->must_be_dir && u->type != AE_IFDIR)
		return banger_error_set(&u->err, BANGER_BAD_REQUEST,
			"there is no directory \"%s\" to copy the file into", u->as ? u->as : ".");
	if (u->is_file && u->type == AE_IFDIR)
		return banger_error_set(&u->err, BANGER_BAD_REQUEST,
			"\"%s\" is a file, which a directory cannot be copied over",
			u->as ? u->as : ".");
	return 0;
}

static int unpack(struct untar *u)
{
	struct archive_entry *entry;
	int r;

	while ((r = archive_read_next_header(u->tar, &entry)) == ARCHIVE_OK || r == ARCHIVE_WARN) {
		u->read = 0;
		r = u->begun ? 0 : take_first(u, entry);
		if (r < 0 || !u->directory)
			return r;
		r = make(u, entry);
		if (r < 0)
			return r;
	}
	if (r != ARCHIVE_EOF)
		return fail_tar(u);
	if (!u->begun)
		return banger_error_set(&u->err, BANGER_INCOMPLETE, "the VM sent nothing");
	return archive_write_close(u->disk) < ARCHIVE_WARN ? fail_disk(u, u->as ? u->as : "it") : 0;
}

static int enter_directory(struct untar *u)
{
	if (!u->directory)
		return 0;
	if (unshare(CLONE_FS) < 0)
		return banger_error_set_errno(
			&u->err, errno, "cannot have a working directory of its own");
	if (chdir(u->directory) < 0)
		return banger_error_set_errno(&u->err, errno, "cannot enter %s", u->directory);
	return 0;
}

static void *run(void *arg)
{
	struct untar *u = arg;
	_cleanup_op_ banger_op_id saved = banger_op_enter(u->op.s);

	u->result = enter_directory(u);
	if (u->result == 0 && archive_read_open(u->tar, u, NULL, read_stream, NULL) != ARCHIVE_OK)
		u->result = fail_tar(u);
	if (u->result == 0)
		u->result = unpack(u);
	/* What fills up the stream is taken, so that its writer does not meet a closed pipe; after a failure it shall. */
	while (u->result == 0 && u->directory && read(u->in, u->buffer, BUFFER) > 0)
		;
	close(TAKE_FD(u->in));
	return NULL;
}

/* ---- from outside */

static int open_archives(struct untar *u)
{
	int flags = ARCHIVE_EXTRACT_SECURE_SYMLINKS | ARCHIVE_EXTRACT_SECURE_NODOTDOT |
		    ARCHIVE_EXTRACT_SECURE_NOABSOLUTEPATHS | ARCHIVE_EXTRACT_PERM |
		    ARCHIVE_EXTRACT_TIME;

	u->tar = archive_read_new();
	u->disk = archive_write_disk_new();
	if (!u->tar || !u->disk || archive_read_support_format_tar(u->tar) != ARCHIVE_OK)
		return -ENOMEM;
	if (u->keep_owners)
		flags |= ARCHIVE_EXTRACT_OWNER | ARCHIVE_EXTRACT_XATTR | ARCHIVE_EXTRACT_ACL;
	return archive_write_disk_set_options(u->disk, flags) == ARCHIVE_OK ? 0 : -ENOMEM;
}

static char *copy_text(const char *s, bool *ok)
{
	char *copy = s ? strdup(s) : NULL;

	*ok = *ok && (copy || !s);
	return copy;
}

int untar_start(const struct untar_options *o, struct untar **ret, struct banger_error *err)
{
	_cleanup_(untar_freep) struct untar *u = calloc(1, sizeof(*u));
	_cleanup_close_ int in = o->in;
	sigset_t all, before;
	bool ok = true;

	if (!u)
		return banger_error_oom(err);
	u->in = TAKE_FD(in);
	u->name = copy_text(o->name, &ok);
	u->directory = copy_text(o->directory, &ok);
	u->as = copy_text(o->as, &ok);
	u->must_be_dir = o->must_be_dir;
	u->is_file = o->is_file;
	u->keep_owners = o->keep_owners;
	u->buffer = malloc(BUFFER);
	if (banger_op_current())
		snprintf(u->op.s, sizeof(u->op.s), "%s", banger_op_current());
	if (!ok || !u->buffer || open_archives(u) < 0)
		return banger_error_oom(err);
	sigfillset(&all);
	pthread_sigmask(SIG_SETMASK, &all, &before);
	int e = pthread_create(&u->thread, NULL, run, u);
	pthread_sigmask(SIG_SETMASK, &before, NULL);
	if (e)
		return banger_error_set_errno(err, e, "cannot start a thread");
	*ret = TAKE_PTR(u);
	return 0;
}

void untar_wait(struct untar *u)
{
	if (!u->joined)
		pthread_join(u->thread, NULL);
	u->joined = true;
}

int untar_finish(struct untar **p, struct banger_error *err)
{
	struct untar *u = *p;

	if (!u)
		return 0;
	untar_wait(u);
	int r = u->result;
	if (r < 0 && err)
		*err = u->err;
	untar_freep(p);
	return r;
}

const _Atomic int64_t *untar_bytes(const struct untar *u)
{
	return &u->bytes;
}

unsigned untar_type(const struct untar *u)
{
	return u->type;
}

const char *untar_link(const struct untar *u)
{
	return u->link;
}

size_t untar_skipped(const struct untar *u)
{
	return u->skipped;
}
