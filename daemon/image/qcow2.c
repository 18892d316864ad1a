/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The header first, field by field, then the child. qemu-img gets two descriptors and no names but
 * theirs (/proc/self/fd/N), each with the format that it has; that it shall use no backing file is
 * said once more in its arguments. Run by root it becomes nobody, to whom the two files belong for as
 * long as it runs.
 */
#include "image/qcow2.h"

#include <endian.h>
#include <fcntl.h>
#include <grp.h>
#include <poll.h>
#include <signal.h>
#include <string.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>
#include <banger/log.h>

enum { NOBODY = 65534, TIME_MAX_S = 3600, OUTPUT_MAX = 4096, IN_FD = 3, OUT_FD = 4 };
#define MEMORY_MAX                                                                                 \
	(INT64_C(4) << 30) /* of address space: stacks of threads, most of which are not touched */
#define DISK_MAX (INT64_C(16) << 40)
#define EXTENSIONS_MAX 64

/* ---- the header */

struct header { /* big endian */
	char magic[4];
	uint32_t version;
	uint64_t backing_offset;
	uint32_t backing_size, cluster_bits;
	uint64_t size;
	uint32_t crypt_method, l1_size;
	uint64_t l1_offset, refcount_offset;
	uint32_t refcount_clusters, n_snapshots;
	uint64_t snapshots_offset;
	/* from version 3 on */
	uint64_t incompatible, compatible, autoclear;
	uint32_t refcount_order, length;
};
_Static_assert(sizeof(struct header) == 104, "the header of version 3");
#define HEADER_2 72 /* bytes of version 2's */

enum {
	INCOMPATIBLE_CORRUPT = 2,
	INCOMPATIBLE_DATA_FILE = 4,
	INCOMPATIBLE_KNOWN = 31, /* and dirty, compression type, extended L2 entries */
};
#define EXTENSION_DATA_FILE 0x44415441
#define EXTENSION_ENCRYPTION 0x0537be77

static int damaged(const char *what, const char *how, struct banger_error *err)
{
	return banger_error_set(
		err, BANGER_CORRUPT, "%s is not a sound qcow2 image: %s", what, how);
}

static int refuse(const char *what, const char *has, const char *advice, struct banger_error *err)
{
	return banger_error_set(
		err, BANGER_UNSUPPORTED, "%s %s, which is not imported%s", what, has, advice);
}

static int data_file(const char *what, struct banger_error *err)
{
	return refuse(what, "keeps its data in another file",
		": make one file of the two with \"qemu-img convert -O qcow2\"", err);
}

static int encrypted(const char *what, struct banger_error *err)
{
	return refuse(what, "is encrypted", "", err);
}

/* What follows the header, up to an extension of type 0: does any of it name a file? */
static int check_extensions(
	int fd, uint64_t at, uint64_t end, const char *what, struct banger_error *err)
{
	for (int i = 0; i < EXTENSIONS_MAX && at + 8 <= end; i++) {
		uint32_t e[2];
		if (pread(fd, e, sizeof(e), (off_t)at) != sizeof(e))
			return damaged(what, "it ends within its header", err);
		if (be32toh(e[0]) == 0)
			return 0;
		if (be32toh(e[0]) == EXTENSION_DATA_FILE)
			return data_file(what, err);
		if (be32toh(e[0]) == EXTENSION_ENCRYPTION)
			return encrypted(what, err);
		at += 8 + (((uint64_t)be32toh(e[1]) + 7) & ~UINT64_C(7));
	}
	return at + 8 <= end ? damaged(what, "its header has too many extensions", err) : 0;
}

static int check_features(const struct header *h, const char *what, struct banger_error *err)
{
	uint64_t features = be64toh(h->incompatible);

	if (features & INCOMPATIBLE_DATA_FILE)
		return data_file(what, err);
	if (features & INCOMPATIBLE_CORRUPT)
		return damaged(what,
			"it is marked as corrupt; \"qemu-img check -r all\" may repair it", err);
	if (features & ~(uint64_t)INCOMPATIBLE_KNOWN)
		return refuse(what, "has features of a later QEMU", "", err);
	return 0;
}

int qcow2_check(int fd, const char *what, int64_t *ret_size, struct banger_error *err)
{
	struct header h = {0};
	ssize_t n = pread(fd, &h, sizeof(h), 0);
	uint32_t version = be32toh(h.version), bits = be32toh(h.cluster_bits);
	uint64_t size = be64toh(h.size), length = HEADER_2;

	if (n < 0)
		return banger_error_set_errno(err, errno, "reading %s", what);
	if (n < HEADER_2 || memcmp(h.magic, "QFI\xfb", 4))
		return damaged(what, "it has no header", err);
	if (version != 2 && version != 3)
		return refuse(what, "is qcow of another version than 2 and 3", "", err);
	if (version == 3 && (n < (ssize_t)sizeof(h) || (length = be32toh(h.length)) < sizeof(h)))
		return damaged(what, "its header is cut off", err);
	if (h.backing_offset || h.backing_size)
		return refuse(what, "builds upon another image, its backing file",
			": make one image of the two with \"qemu-img convert -O qcow2\"", err);
	if (h.crypt_method)
		return encrypted(what, err);
	if (bits < 9 || bits > 21)
		return damaged(what, "the size of its clusters is out of range", err);
	if (size == 0 || size > DISK_MAX)
		return damaged(what, "its disk is empty or larger than 16 TiB", err);
	int r = version == 3 ? check_features(&h, what, err) : 0;
	if (r == 0)
		r = check_extensions(fd, length, UINT64_C(1) << bits, what, err);
	if (r == 0)
		*ret_size = (int64_t)size;
	return r;
}

/* ---- the child */

struct convert {
	const char *program;
	pid_t pid;
	int pid_fd, out_fd;
	char output[OUTPUT_MAX + 1];
	size_t len;
};

static const char *find_program(void)
{
	static const char *const places[] = {
		"/usr/bin/qemu-img", "/usr/local/bin/qemu-img", "/bin/qemu-img"};

	for (size_t i = 0; i < ELEMENTSOF(places); i++)
		if (access(places[i], X_OK) == 0)
			return places[i];
	return NULL;
}

static bool limit(int what, int64_t max)
{
	return setrlimit(what,
		       &(struct rlimit){.rlim_cur = (rlim_t)max, .rlim_max = (rlim_t)max}) == 0;
}

static bool drop_rights(void)
{
	if (prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) < 0)
		return false;
	if (geteuid() != 0)
		return true;
	return setgroups(0, NULL) == 0 && setresgid(NOBODY, NOBODY, NOBODY) == 0 &&
	       setresuid(NOBODY, NOBODY, NOBODY) == 0;
}

/* Between fork and exec in a program with threads: system calls only. */
_Noreturn static void child(const char *program, int in, int out, int64_t size, int said)
{
	static const char source[] =
		"json:{\"driver\":\"qcow2\",\"backing\":null,\"file\":{\"driver\":\"file\","
		"\"filename\":\"/proc/self/fd/3\",\"locking\":\"off\"}}";
	static const char target[] =
		"driver=raw,file.driver=file,file.filename=/proc/self/fd/4,file.locking=off";
	const char *const argv[] = {"qemu-img", "convert", "-q", "-n", "--target-is-zero", "-m",
		"4", "--target-image-opts", source, target, NULL};
	const char *const envp[] = {"LC_ALL=C", "PATH=/usr/bin:/bin", NULL};
	sigset_t none;

	sigemptyset(&none);
	sigprocmask(SIG_SETMASK, &none, NULL);
	signal(SIGPIPE, SIG_DFL);
	prctl(PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
	/* First out of the way of 0 to 4, then into place. */
	in = fcntl(in, F_DUPFD, 10);
	out = fcntl(out, F_DUPFD, 10);
	said = fcntl(said, F_DUPFD, 10);
	int null = open("/dev/null", O_RDWR);
	if (in < 0 || out < 0 || said < 0 || null < 0 || dup2(null, 0) < 0 || dup2(said, 1) < 0 ||
		dup2(said, 2) < 0 || dup2(in, IN_FD) < 0 || dup2(out, OUT_FD) < 0 ||
		syscall(SYS_close_range, OUT_FD + 1, ~0u, 0) < 0)
		_exit(126);
	if (!limit(RLIMIT_CORE, 0) || !limit(RLIMIT_FSIZE, size) || !limit(RLIMIT_AS, MEMORY_MAX) ||
		!limit(RLIMIT_CPU, TIME_MAX_S) || !limit(RLIMIT_NOFILE, 64) || !drop_rights() ||
		chdir("/") < 0)
		_exit(126);
	execve(program, (char *const *)argv, (char *const *)envp);
	_exit(127);
}

static int start(struct convert *c, int in, int out, int64_t size, struct banger_error *err)
{
	int ends[2];

	if (pipe2(ends, O_CLOEXEC | O_NONBLOCK) < 0)
		return banger_error_set_errno(err, errno, "starting qemu-img");
	c->out_fd = ends[0];
	_cleanup_close_ int said = ends[1];
	(void)fcntl(said, F_SETFL, 0); /* its end of the pipe blocks, as programs expect */
	c->pid = fork();
	if (c->pid == 0)
		child(c->program, in, out, size, said);
	if (c->pid > 0)
		c->pid_fd = (int)syscall(SYS_pidfd_open, c->pid, 0);
	return c->pid < 0 || c->pid_fd < 0 ? banger_error_set_errno(err, errno, "starting qemu-img")
					   : 0;
}

/* Kill it if it still runs, and take its leave. */
static void convert_done(struct convert *c)
{
	if (c->pid > 0) {
		kill(c->pid, SIGKILL);
		while (waitpid(c->pid, NULL, 0) < 0 && errno == EINTR)
			;
	}
	banger_closep(&c->pid_fd);
	banger_closep(&c->out_fd);
}

/* Take what it said; what is over the limit is read and dropped. False at the end. */
static bool take_output(struct convert *c)
{
	char more[1024];

	for (;;) {
		ssize_t n = read(c->out_fd, more, sizeof(more));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 && errno == EAGAIN;
		size_t keep = OUTPUT_MAX - c->len < (size_t)n ? OUTPUT_MAX - c->len : (size_t)n;
		memcpy(c->output + c->len, more, keep);
		c->len += keep;
	}
}

static int wait_for_end(
	struct convert *c, struct operation *op, int *ret_status, struct banger_error *err)
{
	int64_t until = banger_monotonic_us() + TIME_MAX_S * INT64_C(1000000);
	struct pollfd fds[] = {{.fd = c->pid_fd, .events = POLLIN},
		{.fd = operation_cancel_fd(op), .events = POLLIN},
		{.fd = c->out_fd, .events = POLLIN}};

	while (!(fds[0].revents & POLLIN)) {
		int64_t left_ms = (until - banger_monotonic_us()) / 1000;
		if (left_ms <= 0)
			return banger_error_set(err, BANGER_TIMEOUT,
				"qemu-img did not finish in %d seconds", TIME_MAX_S);
		if (poll(fds, ELEMENTSOF(fds), (int)left_ms) < 0 && errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for qemu-img");
		int r = operation_check_cancelled(op, err);
		if (r < 0)
			return r;
		if (fds[2].revents && !take_output(c))
			fds[2].fd = -1;
	}
	(void)take_output(c);
	while (waitpid(c->pid, ret_status, 0) < 0)
		if (errno != EINTR)
			return banger_error_set_errno(err, errno, "waiting for qemu-img");
	c->pid = 0;
	return 0;
}

/* What a status other than 0 means. */
static int failure(struct convert *c, int status, const char *what, struct banger_error *err)
{
	c->output[c->len] = '\0';
	c->output[strcspn(c->output, "\n")] = '\0';
	if (WIFSIGNALED(status))
		return banger_error_set(err, BANGER_CORRUPT,
			"qemu-img was killed by signal %d on %s", WTERMSIG(status), what);
	if (WEXITSTATUS(status) == 126 || WEXITSTATUS(status) == 127)
		return banger_error_set(err, BANGER_INTERNAL, "qemu-img could not be started");
	enum banger_code code =
		strstr(c->output, "No space left") || strstr(c->output, "quota exceeded")
			? BANGER_NO_SPACE
			: BANGER_CORRUPT;
	return banger_error_set(err, code, "qemu-img cannot read %s: %s", what,
		c->output[0] ? c->output : "it gave no reason");
}

static int run(struct convert *c, int in, int out, int64_t size, struct operation *op,
	const char *what, struct banger_error *err)
{
	int status;
	int r = start(c, in, out, size, err);

	if (r == 0)
		r = wait_for_end(c, op, &status, err);
	if (r < 0)
		return r;
	return status == 0 ? 0 : failure(c, status, what, err);
}

/* To nobody and back, where we are root. */
static int give(int fd, uid_t uid, gid_t gid)
{
	return geteuid() == 0 && fchown(fd, uid, gid) < 0 ? -errno : 0;
}

int qcow2_convert(int in, int out, int64_t size, struct operation *op, const char *what,
	struct banger_error *err)
{
	_cleanup_(convert_done) struct convert c = {
		.program = find_program(), .pid_fd = -1, .out_fd = -1};

	if (!c.program)
		return banger_error_set(err, BANGER_UNSUPPORTED,
			"%s is a qcow2 image, and qemu-img is not installed (Debian's package is "
			"qemu-utils)",
			what);
	if (ftruncate(out, size) < 0)
		return banger_error_set_errno(err, errno, "making room for the disk in %s", what);
	int r = give(in, NOBODY, NOBODY);
	if (r == 0)
		r = give(out, NOBODY, NOBODY);
	if (r < 0)
		return banger_error_set_errno(err, r, "giving %s to qemu-img", what);
	r = run(&c, in, out, size, op, what, err);
	convert_done(&c); /* before the file is ours again */
	c = (struct convert){.pid_fd = -1, .out_fd = -1};
	int back = give(out, geteuid(), getegid());
	return r == 0 && back < 0
		       ? banger_error_set_errno(err, back, "taking back the disk of %s", what)
		       : r;
}
