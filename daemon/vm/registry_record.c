/* SPDX-License-Identifier: Apache-2.0 */
/*
 * registry.json in a VM's directory: {"boot_id":"…","bangerfs":{"pid":N,"start":TICKS},"virtiofsd":{…}}. It is replaced
 * by a rename, and not synced: after a crash of the host it is of another boot, and says nothing.
 */
#include <signal.h>
#include <string.h>
#include <sys/syscall.h>
#include <banger/wire.h>
#include "vm/internal.h"
#include "vm/registry_internal.h"

#define RECORD_MAX 1024

const char *const registry_names[REGISTRY_PROCESSES] = {
	[REGISTRY_FS] = "bangerfs", [REGISTRY_DAEMON] = "virtiofsd"};

static struct json_object *id_json(const struct registry_id *id)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_int(o, "pid", id->pid) < 0 ||
		banger_json_add_int(o, "start", id->start) < 0)
		return NULL;
	return TAKE_PTR(o);
}

int registry_record_write(int dir_fd, const char *boot_id,
	const struct registry_id ids[REGISTRY_PROCESSES], struct banger_error *err)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "boot_id", boot_id) < 0)
		return banger_error_oom(err);
	for (int i = 0; i < REGISTRY_PROCESSES; i++) {
		struct json_object *id = ids[i].pid ? id_json(&ids[i]) : NULL;
		if (ids[i].pid && (!id || banger_json_add(o, registry_names[i], id) < 0))
			return banger_error_oom(err);
	}
	const char *text = json_object_to_json_string_ext(o, JSON_C_TO_STRING_PLAIN);
	_cleanup_close_ int fd = openat(dir_fd, REGISTRY_RECORD ".new",
		O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
	if (!text)
		return banger_error_oom(err);
	if (fd < 0 || write(fd, text, strlen(text)) != (ssize_t)strlen(text) ||
		renameat(dir_fd, REGISTRY_RECORD ".new", dir_fd, REGISTRY_RECORD) < 0)
		return banger_error_set_errno(err, errno, "cannot write " REGISTRY_RECORD);
	return 0;
}

static void read_id(struct json_object *o, struct registry_id *ret)
{
	if (!json_object_is_type(o, json_type_object))
		return;
	int64_t pid = banger_json_int(o, "pid", 0), start = banger_json_int(o, "start", -1);
	if (pid > 1 && pid <= INT32_MAX && start >= 0)
		*ret = (struct registry_id){.pid = (pid_t)pid, .start = start};
}

void registry_record_read(
	int dir_fd, const char *boot_id, struct registry_id ret[REGISTRY_PROCESSES])
{
	_cleanup_close_ int fd = openat(dir_fd, REGISTRY_RECORD, O_RDONLY | O_CLOEXEC | O_NOFOLLOW);
	_cleanup_json_ struct json_object *o = NULL;
	char text[RECORD_MAX];

	memset(ret, 0, REGISTRY_PROCESSES * sizeof(*ret));
	ssize_t n = fd < 0 ? -1 : read(fd, text, sizeof(text));
	if (n <= 0 || banger_json_parse(text, n, &o, NULL) < 0 ||
		!json_object_is_type(o, json_type_object))
		return;
	const char *boot = banger_json_str(o, "boot_id");
	if (!boot || strcmp(boot, boot_id) != 0)
		return;
	for (int i = 0; i < REGISTRY_PROCESSES; i++)
		read_id(banger_json_get(o, registry_names[i]), &ret[i]);
}

int registry_id_open(const struct registry_id *id)
{
	int fd = id->pid ? (int)syscall(SYS_pidfd_open, id->pid, 0) : -1;

	if (fd < 0)
		return -1;
	fcntl(fd, F_SETFD, FD_CLOEXEC);
	/* Looked at again once the pidfd holds it: the pid may be another's by now. */
	if (recover_start_time(id->pid) == id->start)
		return fd;
	close(fd);
	return -1;
}

void registry_kill(int pidfd)
{
	if (pidfd >= 0)
		syscall(SYS_pidfd_send_signal, pidfd, SIGKILL, NULL, 0);
}

void registry_sweep(int vms_fd, const char *name, const char *boot_id)
{
	_cleanup_close_ int dir =
		openat(vms_fd, name, O_RDONLY | O_DIRECTORY | O_CLOEXEC | O_NOFOLLOW);
	struct registry_id ids[REGISTRY_PROCESSES];

	if (dir < 0)
		return;
	registry_record_read(dir, boot_id, ids);
	for (int i = 0; i < REGISTRY_PROCESSES; i++) {
		_cleanup_close_ int fd = registry_id_open(&ids[i]);
		registry_kill(fd);
	}
	unlinkat(dir, REGISTRY_RECORD, 0);
}
