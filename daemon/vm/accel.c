/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The trial boots the kernel and initrd of a real VM under KVM without a disk. The agent then says
 * FAILED ("no disk"), which is success: whatever it says, it was reached. Silence for TRIAL_MS, or
 * a VMM that ends, is a no. It runs in a thread of its own while the VM that somebody waits for
 * starts under TCG, so nobody waits for the verdict; the next VM has it.
 *
 * The verdict is remembered under a key of what it depends on: this boot of the host and the VMM's
 * version. A file that cannot be read or is for another key counts as nothing.
 */
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/socket.h>
#include <linux/kvm.h>
#include <banger/agent.h>
#include <banger/log.h>
#include <banger/op.h>
#include <banger/wire.h>
#include "vm/accel.h"

#define TRIAL_MS 5000
#define TRIAL_MEMORY (128LL << 20)
#define REMEMBERED "accel.json"

struct accel {
	const struct banger_config *config;
	const struct vmm_driver *driver;
	int state_dir_fd, stop_fd[2];
	pthread_mutex_t lock;
	pthread_cond_t over;
	struct accel_verdict verdict;
	bool asked, running, joinable;
	pthread_t thread;
	int kernel_fd, initrd_fd;
	char key[128];
};

static void set_verdict(struct accel *a, enum accel_state kvm, const char *fmt, ...) _printf_(3, 4);
static void set_verdict(struct accel *a, enum accel_state kvm, const char *fmt, ...)
{
	va_list ap;

	a->verdict.kvm = kvm;
	va_start(ap, fmt);
	vsnprintf(a->verdict.reason, sizeof(a->verdict.reason), fmt, ap);
	va_end(ap);
}

/* The questions that need no VM. Leaves the verdict unknown when only a trial can tell. */
static void ask_device(struct accel *a)
{
	_cleanup_close_ int fd = open("/dev/kvm", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return set_verdict(
			a, ACCEL_NO, "/dev/kvm does not open: %s", strerrordesc_np(errno));
	int version = ioctl(fd, KVM_GET_API_VERSION, 0);
	if (version != KVM_API_VERSION)
		return set_verdict(a, ACCEL_NO, "/dev/kvm is not KVM");
	_cleanup_close_ int vm = ioctl(fd, KVM_CREATE_VM, 0);
	if (vm < 0)
		return set_verdict(a, ACCEL_NO, "/dev/kvm makes no VM: %s", strerrordesc_np(errno));
	set_verdict(a, ACCEL_UNKNOWN, "not tried yet");
}

static void make_key(struct accel *a)
{
	_cleanup_close_ int fd = open("/proc/sys/kernel/random/boot_id", O_RDONLY | O_CLOEXEC);
	char boot[64] = "", version[32] = "";

	ssize_t n = fd < 0 ? 0 : read(fd, boot, sizeof(boot) - 1);
	boot[n > 0 ? n : 0] = '\0';
	boot[strcspn(boot, "\n")] = '\0';
	if (a->driver->version(a->config, version, sizeof(version), NULL) < 0)
		version[0] = '\0';
	snprintf(a->key, sizeof(a->key), "%s %s %s", boot, a->driver->name, version);
}

static void recall(struct accel *a)
{
	_cleanup_close_ int fd =
		openat(a->state_dir_fd, REMEMBERED, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_json_ struct json_object *o = NULL;
	char text[1024];

	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (n <= 0 || banger_json_parse(text, n, &o, NULL) < 0)
		return;
	const char *key = banger_json_str(o, "key"), *reason = banger_json_str(o, "reason");
	if (key && reason && strcmp(key, a->key) == 0 &&
		json_object_is_type(banger_json_get(o, "kvm"), json_type_boolean))
		set_verdict(
			a, banger_json_bool(o, "kvm", false) ? ACCEL_YES : ACCEL_NO, "%s", reason);
}

/* Losing it costs a trial: no fsync. */
static void remember(struct accel *a)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "key", a->key) < 0 ||
		banger_json_add_bool(o, "kvm", a->verdict.kvm == ACCEL_YES) < 0 ||
		banger_json_add_str(o, "reason", a->verdict.reason) < 0)
		return;
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	_cleanup_close_ int fd = openat(a->state_dir_fd, REMEMBERED ".new",
		O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) ||
		renameat(a->state_dir_fd, REMEMBERED ".new", a->state_dir_fd, REMEMBERED) < 0)
		log_warn("cannot remember what KVM can do", KV_S("error", strerrordesc_np(errno)));
}

int accel_new(const struct banger_config *config, const struct vmm_driver *driver, int state_dir_fd,
	struct accel **ret, struct banger_error *err)
{
	struct accel *a = calloc(1, sizeof(*a));

	if (!a)
		return banger_error_oom(err);
	if (pipe2(a->stop_fd, O_CLOEXEC) < 0) {
		int r = banger_error_set_errno(err, errno, "cannot make a pipe");
		free(a);
		return r;
	}
	a->config = config;
	a->driver = driver;
	a->state_dir_fd = state_dir_fd;
	a->kernel_fd = a->initrd_fd = -1;
	pthread_mutex_init(&a->lock, NULL);
	pthread_condattr_t attr;
	pthread_condattr_init(&attr);
	pthread_condattr_setclock(&attr, CLOCK_MONOTONIC);
	pthread_cond_init(&a->over, &attr);
	pthread_condattr_destroy(&attr);
	*ret = a;
	return 0;
}

/* Asked once, at the first VM and not at the start: it starts the VMM to learn its version. */
static void ask(struct accel *a)
{
	a->asked = true;
	ask_device(a);
	if (a->verdict.kvm == ACCEL_UNKNOWN) {
		make_key(a);
		recall(a);
	}
}

void accel_verdict(struct accel *a, struct accel_verdict *ret)
{
	pthread_mutex_lock(&a->lock);
	if (!a->asked)
		ask(a);
	*ret = a->verdict;
	pthread_mutex_unlock(&a->lock);
}

/* Did the agent say anything in time? */
static bool boots(struct accel *a, char *why, size_t size)
{
	struct vmm vm = {.pidfd = -1, .port = -1, .control = -1};
	struct banger_error err = {0};
	const struct vmm_spec spec = {.name = "kvm-trial",
		.op_id = banger_op_current(),
		.dir_fd = -1,
		.accel = VM_KVM,
		.cpus = 1,
		.memory = TRIAL_MEMORY,
		.kernel_fd = a->kernel_fd,
		.initrd_fd = a->initrd_fd,
		.disks = {{.fd = -1}, {.fd = -1}},
		.append = "banger.root=none",
		.tied = true,
		.bare = true,
		.tap_fd = -1};

	if (a->driver->start(a->config, &spec, &vm, &err) < 0) {
		snprintf(why, size, "%.200s", err.message);
		return false;
	}
	struct pollfd p[2] = {{vm.port, POLLIN, 0}, {a->stop_fd[0], POLLIN, 0}};
	char first;
	int n = poll(p, 2, TRIAL_MS);
	bool said = n > 0 && p[0].revents && recv(vm.port, &first, 1, MSG_DONTWAIT) == 1;
	if (!said)
		snprintf(why, size, "%s",
			n > 0 ? "the VMM refused it" : "a trial VM did not boot in 5 s");
	vmm_done(&vm);
	return said;
}

static void *trial(void *arg)
{
	struct accel *a = arg;
	banger_op_id op = banger_op_id_mint();
	_cleanup_op_ banger_op_id saved = banger_op_enter(op.s);
	char why[256] = "";

	log_info("trying KVM");
	bool good = boots(a, why, sizeof(why));
	struct pollfd stop = {a->stop_fd[0], POLLIN, 0};
	pthread_mutex_lock(&a->lock);
	if (poll(&stop, 1, 0) == 0) { /* a trial that was ended says nothing */
		set_verdict(a, good ? ACCEL_YES : ACCEL_NO, "%s", good ? "a trial VM booted" : why);
		remember(a);
		log_info("KVM was tried", KV_B("kvm", good), KV_S("reason", a->verdict.reason));
	}
	a->running = false;
	pthread_cond_broadcast(&a->over);
	pthread_mutex_unlock(&a->lock);
	return NULL;
}

void accel_begin_trial(struct accel *a, int kernel_fd, int initrd_fd)
{
	pthread_mutex_lock(&a->lock);
	if (a->verdict.kvm != ACCEL_UNKNOWN || a->running)
		goto out;
	if (a->joinable)
		pthread_join(a->thread, NULL);
	a->joinable = false;
	banger_closep(&a->kernel_fd);
	banger_closep(&a->initrd_fd);
	a->kernel_fd = fcntl(kernel_fd, F_DUPFD_CLOEXEC, 0);
	a->initrd_fd = fcntl(initrd_fd, F_DUPFD_CLOEXEC, 0);
	a->running = a->kernel_fd >= 0 && a->initrd_fd >= 0 &&
		     pthread_create(&a->thread, NULL, trial, a) == 0;
	a->joinable = a->running;
out:
	pthread_mutex_unlock(&a->lock);
}

void accel_wait(struct accel *a, int ms)
{
	struct timespec until;

	clock_gettime(CLOCK_MONOTONIC, &until);
	until.tv_sec += ms / 1000;
	pthread_mutex_lock(&a->lock);
	while (a->running && pthread_cond_timedwait(&a->over, &a->lock, &until) == 0)
		;
	pthread_mutex_unlock(&a->lock);
}

void accel_freep(struct accel **p)
{
	struct accel *a = *p;

	if (!a)
		return;
	if (write(a->stop_fd[1], "x", 1) != 1)
		log_warn("cannot stop the trial of KVM");
	if (a->joinable)
		pthread_join(a->thread, NULL);
	for (int i = 0; i < 2; i++)
		close(a->stop_fd[i]);
	banger_closep(&a->kernel_fd);
	banger_closep(&a->initrd_fd);
	pthread_cond_destroy(&a->over);
	pthread_mutex_destroy(&a->lock);
	free(a);
	*p = NULL;
}
