/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Opening and closing the store.
 *
 * One daemon per state directory: STATE_DIR/bangerd.lock is locked with flock(2) for as long as the
 * store is open, and holds the pid of its holder for the message that another one gets. The lock
 * goes with the process, whatever way it dies.
 *
 * Before anything is written, the database is looked at: a file that is no database, another
 * program's database, one from a newer banger, a damaged one is refused and left as it is. The
 * whole of it is read for that (quick_check) when it is small, or when a write-ahead log beside it
 * says that the last daemon did not end well; reading all of a large one at each start would cost
 * more than the start.
 */
#include "store/internal.h"
#include <banger/log.h>
#include <fcntl.h>
#include <sys/file.h>

#define CHECK_ALWAYS_BELOW (8 * 1024 * 1024)

#define WRITER_CACHE_KIB 4096
#define READER_CACHE_KIB 1024
#define CHECKPOINTER_CACHE_KIB 64

static int lock_state_dir(int dir_fd, const char *dir, int *ret, struct banger_error *err)
{
	_cleanup_close_ int fd =
		openat(dir_fd, "bangerd.lock", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
	char pid[24] = "";

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot open %s/bangerd.lock", dir);
	if (flock(fd, LOCK_EX | LOCK_NB) < 0) {
		if (errno != EWOULDBLOCK)
			return banger_error_set_errno(
				err, errno, "cannot lock %s/bangerd.lock", dir);
		ssize_t n = pread(fd, pid, sizeof(pid) - 1, 0);
		pid[n > 0 ? strspn(pid, "0123456789") : 0] = '\0';
		return banger_error_set(err, BANGER_BUSY,
			"the state directory %s is in use by another bangerd%s%s%s", dir,
			*pid ? " (pid " : "", pid, *pid ? ")" : "");
	}
	int n = snprintf(pid, sizeof(pid), "%d\n", getpid());
	if (ftruncate(fd, 0) < 0 || pwrite(fd, pid, n, 0) != n)
		return banger_error_set_errno(err, errno, "cannot write %s/bangerd.lock", dir);
	*ret = TAKE_FD(fd);
	return 0;
}

/* quick_check, its first complaint as the error. */
static int check_pages(struct store_connection *c, struct banger_error *err)
{
	_cleanup_free_ char *verdict = NULL;
	int64_t t0 = banger_monotonic_us();

	int r = connection_get_text(c, "PRAGMA quick_check(1)", &verdict, err);
	if (r < 0)
		return r;
	if (strcmp(verdict, "ok") != 0)
		return banger_error_set(err, BANGER_CORRUPT, "%s", verdict);
	log_debug("database checked", KV_D("elapsed_ms", (banger_monotonic_us() - t0) / 1000.0));
	return 0;
}

/* Is it ours, of a version that we know, and whole? Reads only. */
static int check_database(struct store_connection *c, bool thorough, struct banger_error *err)
{
	int64_t version, application, tables, size;

	int r = connection_get_int(c, "PRAGMA user_version", &version, err);
	if (r == 0)
		r = connection_get_int(c, "PRAGMA application_id", &application, err);
	if (r == 0)
		r = connection_get_int(c, "SELECT count(*) FROM sqlite_schema", &tables, err);
	if (r == 0)
		r = connection_get_int(c,
			"SELECT page_count * page_size FROM pragma_page_count, pragma_page_size",
			&size, err);
	if (r < 0)
		return r;
	if (version == 0 && application == 0 && tables == 0)
		return 0; /* new */
	if (application != STORE_APPLICATION_ID || version < 1)
		return banger_error_set(err, BANGER_CORRUPT, "it is a database of another program");
	if (version > schema_version())
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"a newer banger wrote it (version %lld; this one knows up to %d): run that "
			"one, or use another state directory",
			(long long)version, schema_version());
	return thorough || size < CHECK_ALWAYS_BELOW ? check_pages(c, err) : 0;
}

static bool left_open(const char *path)
{
	_cleanup_free_ char *wal = NULL;
	struct stat st;

	if (asprintf(&wal, "%s-wal", path) < 0) {
		wal = NULL;
		return true;
	}
	return stat(wal, &st) == 0 && st.st_size > 0;
}

static int use_wal(struct store_connection *c, struct banger_error *err)
{
	_cleanup_free_ char *mode = NULL;

	int r = connection_get_text(c, "PRAGMA journal_mode = WAL", &mode, err);
	if (r < 0)
		return r;
	if (strcmp(mode, "wal") != 0)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"the state directory's filesystem cannot hold a write-ahead log");
	return 0;
}

static int note_wal(void *arg, sqlite3 *db, const char *name, int pages)
{
	struct store *s = arg;

	atomic_store(&s->wal_pages, pages);
	return SQLITE_OK;
}

/* The check and the walk through all images that follows read all of it, in the order of its trees:
 * let the kernel read it in the order of the disk. Before SQLite opens the file, because closing
 * any descriptor of a file drops the locks that this process has on it. */
static void read_ahead(const char *path)
{
	_cleanup_close_ int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK | O_NOCTTY);

	if (fd >= 0)
		posix_fadvise(fd, 0, 0, POSIX_FADV_WILLNEED);
}

/* The log's index is a shared mapping of a file. SQLite takes room for one byte in each page of it; where the
 * filesystem's blocks are smaller than pages, a disk that is full would make the next touch of the rest a
 * SIGBUS. So room for the index of the longest log is taken once; SQLite cuts the file only before this. */
static void make_room_for_index(const struct store *s)
{
	_cleanup_free_ char *shm = NULL;
	int r = ENOMEM;

	if (asprintf(&shm, "%s-shm", s->path) < 0)
		shm = NULL;
	_cleanup_close_ int fd = shm ? open(shm, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
	if (shm)
		r = fd < 0 ? errno : posix_fallocate(fd, 0, STORE_INDEX_ROOM);
	if (r != 0)
		log_warn("no room could be made for the write-ahead log's index",
			KV_S("error", strerrordesc_np(r)));
}

static int open_connections(struct store *s, struct banger_error *err)
{
	bool thorough = left_open(s->path);

	read_ahead(s->path);
	int r = connection_open(s->path, true, &s->writer, err);
	if (r < 0)
		return r;
	/* A database that is refused is left as it is, its log too. */
	sqlite3_db_config(s->writer.db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 1, NULL);
	if ((r = check_database(&s->writer, thorough, err)) < 0 ||
		(r = use_wal(&s->writer, err)) < 0 ||
		(r = connection_configure(&s->writer, WRITER_CACHE_KIB, err)) < 0 ||
		(r = schema_migrate(&s->writer, err)) < 0) {
		if (err && err->code == BANGER_CORRUPT)
			banger_error_prefix(err,
				"the registry's database %s is damaged or not banger's (nothing "
				"was "
				"changed; restore it from a backup, or move it away to begin with "
				"an empty registry)",
				s->path);
		else
			banger_error_prefix(err, "%s", s->path);
		return r;
	}
	sqlite3_db_config(s->writer.db, SQLITE_DBCONFIG_NO_CKPT_ON_CLOSE, 0, NULL);
	sqlite3_wal_hook(s->writer.db, note_wal, s);
	if ((r = connection_open(s->path, false, &s->reader, err)) < 0 ||
		(r = connection_configure(&s->reader, READER_CACHE_KIB, err)) < 0 ||
		(r = connection_open(s->path, false, &s->checkpointer, err)) < 0)
		return r;
	make_room_for_index(s);
	return connection_configure(&s->checkpointer, CHECKPOINTER_CACHE_KIB, err);
}

static void configure_sqlite(void)
{
	/* Nobody asks for memory statistics, and their mutex is one for all threads. */
	sqlite3_config(SQLITE_CONFIG_MEMSTATUS, 0);
	/* Pages of the cache one by one: a block of them for each connection would be allocated anew
	 * whenever a reader sees that the database has changed. */
	sqlite3_config(SQLITE_CONFIG_PAGECACHE, NULL, 0, 0);
}

int store_open(
	int state_dir_fd, const char *state_dir, struct store **ret, struct banger_error *err)
{
	static pthread_once_t once = PTHREAD_ONCE_INIT;
	struct store *s = calloc(1, sizeof(*s));

	pthread_once(&once, configure_sqlite);
	if (!s)
		return banger_error_oom(err);
	s->lock_fd = -1;
	pthread_mutex_init(&s->write_lock, NULL);
	pthread_mutex_init(&s->read_lock, NULL);
	pthread_mutex_init(&s->checkpoint_lock, NULL);
	pthread_mutex_init(&s->views_lock, NULL);
	int r = 0;
	if (asprintf(&s->path, "%s/registry.db", state_dir) < 0) {
		s->path = NULL;
		r = banger_error_oom(err);
	}
	if (r == 0)
		r = lock_state_dir(state_dir_fd, state_dir, &s->lock_fd, err);
	if (r == 0)
		r = open_connections(s, err);
	if (r < 0) {
		store_closep(&s);
		return r;
	}
	*ret = s;
	return 0;
}

void store_closep(struct store **p)
{
	struct store *s = *p;

	if (!s)
		return;
	for (size_t i = 0; i < s->n_views; i++) {
		connection_close(s->views[i]);
		free(s->views[i]);
	}
	connection_close(&s->reader);
	connection_close(&s->checkpointer);
	/* The last one out copies the log into the database and removes it. */
	connection_close(&s->writer);
	pthread_mutex_destroy(&s->write_lock);
	pthread_mutex_destroy(&s->read_lock);
	pthread_mutex_destroy(&s->checkpoint_lock);
	pthread_mutex_destroy(&s->views_lock);
	banger_closep(&s->lock_fd);
	free(s->path);
	free(s);
	*p = NULL;
}

/* Append zeros to the log's file up to its room, a piece at a time between two commits: what a commit
 * writes is never beyond the file's end as others see it then. 1: more to do. */
static int extend_log(struct store *s, int fd)
{
	static const char zeros[256 * 1024];
	const off_t room = 32 + STORE_WAL_PAGES_ROOM * (24 + 4096); /* header, frames */
	struct stat st;
	ssize_t n = 0;

	pthread_mutex_lock(&s->write_lock);
	int r = fstat(fd, &st);
	if (r == 0 && st.st_size < room) {
		size_t rest = room - st.st_size;
		n = pwrite(fd, zeros, rest < sizeof(zeros) ? rest : sizeof(zeros), st.st_size);
	}
	pthread_mutex_unlock(&s->write_lock);
	return r < 0 || n < 0 ? -errno : n > 0;
}

/* A commit that makes the log's file longer waits for the filesystem's journal, and with it for
 * whatever else is in there; one that writes over what is there waits for its own pages alone, which
 * takes half the time. So the file is made long once, of written zeros: SQLite takes a frame for one
 * only with the right checksum. Nothing depends on it but speed. */
static void make_room_in_log(struct store *s)
{
	_cleanup_free_ char *wal = NULL;
	int r = -ENOMEM;

	if (asprintf(&wal, "%s-wal", s->path) < 0)
		wal = NULL;
	_cleanup_close_ int fd = wal ? open(wal, O_WRONLY | O_CLOEXEC | O_NOFOLLOW) : -1;
	if (wal)
		r = fd < 0 ? -errno : 1;
	while (r > 0)
		r = extend_log(s, fd);
	if (r == 0 && fdatasync(fd) < 0)
		r = -errno;
	if (r < 0)
		log_warn("no room could be made for the write-ahead log; changes take longer",
			KV_S("error", strerrordesc_np(-r)));
}

static int checkpoint(struct store *s)
{
	return sqlite3_wal_checkpoint_v2(
		s->checkpointer.db, NULL, SQLITE_CHECKPOINT_PASSIVE, NULL, NULL);
}

void store_maintain(struct store *s)
{
	if (!atomic_exchange(&s->has_room, true))
		make_room_in_log(s);
	if (atomic_load(&s->wal_pages) < STORE_WAL_PAGES)
		return;
	pthread_mutex_lock(&s->checkpoint_lock);
	int rc = checkpoint(s);
	if (rc == SQLITE_OK) {
		/* What was written meanwhile, which is short, while writers wait: the log begins anew only
		 * when all of it is copied. */
		pthread_mutex_lock(&s->write_lock);
		rc = checkpoint(s);
		pthread_mutex_unlock(&s->write_lock);
	}
	if (rc != SQLITE_OK && rc != SQLITE_BUSY && rc != SQLITE_LOCKED)
		log_err("cannot copy the write-ahead log into the database",
			KV_S("error", sqlite3_errmsg(s->checkpointer.db)));
	pthread_mutex_unlock(&s->checkpoint_lock);
}

int store_generation(struct store *s, int64_t *ret, struct banger_error *err)
{
	_cleanup_read_ struct reading r = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int e = read_begin(s, &r, err);
	if (e == 0)
		e = statement_get(r.c, STORE_GENERATION, &st, err);
	if (e < 0)
		return e;
	int rc = sqlite3_step(st);
	if (rc != SQLITE_ROW)
		return store_error(r.c->db, rc == SQLITE_DONE ? SQLITE_CORRUPT : rc, err,
			"cannot read the registry's generation");
	*ret = sqlite3_column_int64(st, 0);
	return 0;
}

/* With the writing lock, so that no commit is counted twice or not at all. */
static int count_all(struct store *s, struct banger_error *err)
{
	_cleanup_write_ struct write w = {0};
	_cleanup_statement_ sqlite3_stmt *st = NULL;

	int e = write_begin(s, &w, err);
	if (e == 0)
		e = statement_get(w.c, STORE_COUNT, &st, err);
	if (e < 0)
		return e;
	int rc = sqlite3_step(st);
	if (rc != SQLITE_ROW)
		return store_error(w.c->db, rc, err, "cannot count the registry's images");
	atomic_store(&s->images[BANGER_PUBLISHED], sqlite3_column_int64(st, 0));
	atomic_store(&s->images[BANGER_DRAFT], sqlite3_column_int64(st, 1));
	atomic_store(&s->kernels, sqlite3_column_int64(st, 2));
	atomic_store(&s->counted, true);
	return 0;
}

int store_count(struct store *s, struct store_counts *ret, struct banger_error *err)
{
	int e = atomic_load(&s->counted) ? 0 : count_all(s, err);
	if (e < 0)
		return e;
	*ret = (struct store_counts){.images = atomic_load(&s->images[BANGER_PUBLISHED]),
		.drafts = atomic_load(&s->images[BANGER_DRAFT]),
		.kernels = atomic_load(&s->kernels)};
	return 0;
}

int store_describe(struct store *s, struct store_description *ret, struct banger_error *err)
{
	_cleanup_free_ char *mode = NULL;
	int64_t version = 0;

	pthread_mutex_lock(&s->read_lock);
	int r = connection_get_text(&s->reader, "PRAGMA journal_mode", &mode, err);
	if (r == 0)
		r = connection_get_int(&s->reader, "PRAGMA user_version", &version, err);
	pthread_mutex_unlock(&s->read_lock);
	if (r < 0)
		return r;
	*ret = (struct store_description){.sqlite = sqlite3_libversion(), .schema = version};
	snprintf(ret->journal, sizeof(ret->journal), "%s", mode);
	return 0;
}
