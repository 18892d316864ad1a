/* SPDX-License-Identifier: Apache-2.0 */
/* The registry inside a VM: command lines, which virtiofsd it is, the record of its processes, namespaces of their own. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <ftw.h>
#include <poll.h>
#include <signal.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include "vm/internal.h"
#include "vm/launch.h"
#include "vm/registry_internal.h"

static void join(struct argv *a, char ret[4096])
{
	ret[0] = '\0';
	for (size_t i = 0; i < a->n; i++) {
		strcat(ret, i ? " " : "");
		strcat(ret, a->v[i]);
	}
	assert_null(a->v[a->n]);
	argv_done(a);
}

static void has(const char *line, const char *what)
{
	if (!strstr(line, what))
		fail_msg("no \"%s\" in: %s", what, line);
}

static void hasnt(const char *line, const char *what)
{
	if (strstr(line, what))
		fail_msg("\"%s\" in: %s", what, line);
}

static void the_c_one(void **state)
{
	struct argv a;
	char line[4096];

	assert_int_equal(
		virtiofsd_args("/lib/v", VIRTIOFSD_C, "/var/a,b\\c/banger", 10, true, &a), 0);
	join(&a, line);
	has(line, "/lib/v --fd=10 ");
	has(line, " -f -o source=/var/a\\,b\\\\c/banger,cache=none,xattr,announce_submounts,");
	has(line, "sandbox=namespace");
	has(line, "modcaps=-chown:-dac_override:");
	has(line, "-setuid");
	hasnt(line, "--rlimit-nofile");
	hasnt(line, "--shared-dir");
}

static void the_rust_one(void **state)
{
	struct argv a;
	char line[4096];

	assert_int_equal(virtiofsd_args("v", VIRTIOFSD_RUST, "/var/a,b/banger", 10, false, &a), 0);
	join(&a, line);
	has(line, "--shared-dir=/var/a,b/banger --cache=never --xattr");
	has(line, "--sandbox=namespace");
	has(line, "--inode-file-handles=never");
	has(line, "--modcaps=-chown:-dac_override:");
	has(line, "--rlimit-nofile=0");
	hasnt(line, " -o ");
}

static void bangerfs(void **state)
{
	struct argv a;
	char line[4096];

	assert_int_equal(bangerfs_args("fs", "/run/x.sock", "web", true, 10, 11, &a), 0);
	join(&a, line);
	assert_string_equal(
		line, "fs -f --socket=/run/x.sock --vm=web --ready-fd=10 --until-fd=11 banger");
	assert_int_equal(bangerfs_args("fs", "/run/x.sock", "web", false, 10, 11, &a), 0);
	join(&a, line);
	has(line, " -o ro banger");
}

static void versions(void **state)
{
	static const struct {
		const char *text, *version;
		enum virtiofsd_kind kind;
	} t[] = {{"virtiofsd version 7.2.22 (Debian 1:7.2)\nCopyright\nusing FUSE kernel interface "
		  "version 7.36\n",
			 "7.2.22", VIRTIOFSD_C},
		{"virtiofsd 1.13.2\n", "1.13.2", VIRTIOFSD_RUST},
		{"virtiofsd backend 1.4.0\n", "1.4.0", VIRTIOFSD_RUST}};
	static const char *const none[] = {"", "true (GNU coreutils) 9.1\n", "virtiofsd",
		"virtiofsd \n1.2", "virtiofsd 1.1111111111111111111111111111111111111"};
	enum virtiofsd_kind kind;
	char version[32];

	for (size_t i = 0; i < ELEMENTSOF(t); i++) {
		assert_int_equal(virtiofsd_parse_version(t[i].text, &kind, version), 0);
		assert_string_equal(version, t[i].version);
		assert_int_equal(kind, t[i].kind);
	}
	for (size_t i = 0; i < ELEMENTSOF(none); i++)
		assert_int_equal(virtiofsd_parse_version(none[i], &kind, version), -EINVAL);
}

/* ---- the record */

static int remove_one(const char *path, const struct stat *st, int type, struct FTW *ftw)
{
	return remove(path);
}

struct place {
	char path[64];
	int parent, dir;
};

static void make_place(struct place *p)
{
	strcpy(p->path, "/tmp/test-registry-XXXXXX");
	assert_non_null(mkdtemp(p->path));
	p->parent = open(p->path, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_int_equal(mkdirat(p->parent, "vm", 0700), 0);
	p->dir = openat(p->parent, "vm", O_RDONLY | O_DIRECTORY | O_CLOEXEC);
	assert_true(p->dir >= 0);
}

static void remove_place(struct place *p)
{
	close(p->dir);
	close(p->parent);
	nftw(p->path, remove_one, 8, FTW_DEPTH | FTW_PHYS);
}

static pid_t make_sleeper(void)
{
	pid_t pid = fork();

	if (pid == 0) {
		sleep(60);
		_exit(0);
	}
	assert_true(pid > 0);
	return pid;
}

static void put_record(struct place *p, const char *text)
{
	int fd = openat(p->dir, REGISTRY_RECORD, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);

	assert_int_equal(write(fd, text, strlen(text)), strlen(text));
	close(fd);
}

static void records(void **state)
{
	static const char *const bad[] = {"", "x", "[]", "{}", "{\"boot_id\":1}",
		"{\"boot_id\":\"b\",\"bangerfs\":7}",
		"{\"boot_id\":\"b\",\"bangerfs\":{\"pid\":1,\"start\":1}}",
		"{\"boot_id\":\"b\",\"bangerfs\":{\"pid\":-5,\"start\":1}}",
		"{\"boot_id\":\"b\",\"bangerfs\":{\"pid\":99999999999,\"start\":1}}",
		"{\"boot_id\":\"b\",\"bangerfs\":{\"pid\":77}}"};
	struct registry_id ids[REGISTRY_PROCESSES] = {{.pid = 77, .start = 5}},
			   got[REGISTRY_PROCESSES];
	struct place p;

	make_place(&p);
	registry_record_read(p.dir, "b", got);
	assert_int_equal(got[REGISTRY_FS].pid, 0);
	assert_int_equal(registry_record_write(p.dir, "b", ids, NULL), 0);
	registry_record_read(p.dir, "b", got);
	assert_true(got[REGISTRY_FS].pid == 77 && got[REGISTRY_FS].start == 5 &&
		    got[REGISTRY_DAEMON].pid == 0);
	/* Of another boot of the host. */
	registry_record_read(p.dir, "c", got);
	assert_int_equal(got[REGISTRY_FS].pid, 0);
	for (size_t i = 0; i < ELEMENTSOF(bad); i++) {
		put_record(&p, bad[i]);
		registry_record_read(p.dir, "b", got);
		assert_int_equal(got[REGISTRY_FS].pid, 0);
	}
	remove_place(&p);
}

static bool is_alive(pid_t pid)
{
	return waitpid(pid, NULL, WNOHANG) == 0;
}

static void sweeping(void **state)
{
	pid_t fs = make_sleeper(), other = make_sleeper();
	/* The second has another start time than the one that was written down: it is somebody else. */
	struct registry_id ids[REGISTRY_PROCESSES] = {
		{fs, recover_start_time(fs)}, {other, recover_start_time(other) + 1}};
	struct place p;

	make_place(&p);
	assert_int_equal(registry_record_write(p.dir, "b", ids, NULL), 0);
	registry_sweep(p.parent, "vm", "another");
	assert_true(is_alive(fs));
	assert_int_equal(registry_record_write(p.dir, "b", ids, NULL), 0);
	registry_sweep(p.parent, "vm", "b");
	int status;
	assert_int_equal(waitpid(fs, &status, 0), fs);
	assert_true(WIFSIGNALED(status) && WTERMSIG(status) == SIGKILL);
	assert_true(is_alive(other));
	assert_int_equal(faccessat(p.dir, REGISTRY_RECORD, F_OK, 0), -1);
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	registry_sweep(p.parent, "none", "b");
	remove_place(&p);
}

/* ---- who asks */

static void no_loss(void *arg, const char *how)
{
}

/* bangerfs may change what its VM may change; what comes of it, and a VMM, may look; nobody else is of a VM. */
static void clients(void **state)
{
	pid_t other = make_sleeper(), fs = getpid(), kin[] = {1, getppid(), 0};
	const struct registry_id ids[REGISTRY_PROCESSES] = {{fs, recover_start_time(fs)}};
	struct vm vm = {.name = "web",
		.row = {.state = BANGER_VM_RUNNING,
			.registry = BANGER_REGISTRY_RW,
			.pid = getppid()}};
	struct vm_service s = {.vms = &vm};
	char name[BANGER_NAME_MAX + 1] = "";
	bool changes = true;
	struct place p;

	make_place(&p);
	const struct registry_options o = {
		.vm = "web", .boot_id = "b", .dir_fd = p.dir, .lost = no_loss};
	pthread_mutex_init(&s.lock, NULL);
	assert_true(vm_service_find_client(&s, getppid(), name, &changes));
	assert_true(strcmp(name, "web") == 0 && !changes);
	vm.row.state = BANGER_VM_STOPPED;
	for (size_t i = 0; i < ELEMENTSOF(kin); i++)
		assert_false(vm_service_find_client(&s, kin[i], name, &changes));
	assert_false(vm_service_find_client(&s, other, name, &changes));
	assert_int_equal(registry_record_write(p.dir, "b", ids, NULL), 0);
	assert_int_equal(registry_new(&o, &vm.registry, NULL), 0);
	assert_int_equal(registry_find(vm.registry, NULL), 0);
	assert_true(vm_service_find_client(&s, fs, name, &changes) && changes);
	assert_true(vm_service_find_client(&s, other, name, &changes) && !changes);
	assert_false(vm_service_find_client(&s, getppid(), name, &changes));
	registry_leavep(&vm.registry);
	pthread_mutex_destroy(&s.lock);
	kill(other, SIGKILL);
	waitpid(other, NULL, 0);
	remove_place(&p);
}

/* ---- namespaces */

/* Its exit status. */
static int run(struct spawn *s, const char *script)
{
	char *argv[] = {(char *)"/bin/sh", (char *)"-c", (char *)script, NULL};
	siginfo_t info = {0};
	pid_t pid;
	int pidfd;

	s->argv = argv;
	assert_int_equal(spawn_vmm(s, &pid, &pidfd, NULL), 0);
	assert_int_equal(waitid(P_PIDFD, pidfd, &info, WEXITED), 0);
	close(pidfd);
	assert_int_equal(info.si_code, CLD_EXITED);
	if (info.si_status == SPAWN_NO_NAMESPACE)
		skip();
	return info.si_status;
}

/* What is mounted in there is in there alone, and who is let in finds it where it was put. */
static void mounts(void **state)
{
	static char *keeper[] = {(char *)"/bin/sh", (char *)"-c",
		(char *)"mount -t tmpfs none . && cd . && cd \"$PWD\" && : > here && exec sleep 60",
		NULL};
	struct spawn s = {.output_fd = -1, .mounts = SPAWN_PRIVATE},
		     in = {.output_fd = -1, .mounts = SPAWN_WITH};
	struct place p;
	pid_t pid;

	make_place(&p);
	s.dir_fd = in.dir_fd = p.dir;
	assert_int_equal(run(&s, "mount -t tmpfs none . && [ $(id -u) = 0 ] && "
				 "grep -q 'NoNewPrivs:.*1' /proc/self/status"),
		0);
	assert_int_equal(faccessat(p.dir, "here", F_OK, 0), -1);
	s.argv = keeper;
	assert_int_equal(spawn_vmm(&s, &pid, &in.with, NULL), 0);
	int status = 1;
	for (int i = 0; status != 0 && i < 200; i++) { /* until it has mounted */
		status = run(&in, "cd \"$PWD\" && [ -e here ]");
		usleep(status ? 50000 : 0);
	}
	assert_int_equal(status, 0);
	assert_int_equal(faccessat(p.dir, "here", F_OK, 0), -1);
	kill(pid, SIGKILL);
	waitpid(pid, NULL, 0);
	close(in.with);
	remove_place(&p);
}

/* What a VMM has left: no capability but one, and one directory to write in. */
static void confined(void **state)
{
	struct spawn s = {.output_fd = -1, .confined = true};
	char script[256];
	struct place p;

	make_place(&p);
	s.dir_fd = p.dir;
	assert_int_equal(
		run(&s, "echo x > here && mv here there && rm there && echo x > /dev/null && "
			"grep -q 'NoNewPrivs:.*1' /proc/self/status && "
			"grep -Eq 'CapEff:[[:space:]]*0+[04]00$' /proc/self/status"),
		0);
	if (syscall(SYS_landlock_create_ruleset, NULL, 0, 1) >= 3) {
		snprintf(script, sizeof(script), "echo x > %s/out", p.path);
		assert_int_not_equal(run(&s, script), 0);
		assert_int_equal(faccessat(p.parent, "out", F_OK, 0), -1);
		/* Nor a device that is nothing to it. */
		assert_int_not_equal(run(&s, "echo x > /dev/zero"), 0);
	}
	remove_place(&p);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(the_c_one),
		cmocka_unit_test(the_rust_one), cmocka_unit_test(bangerfs),
		cmocka_unit_test(versions), cmocka_unit_test(records), cmocka_unit_test(sweeping),
		cmocka_unit_test(clients), cmocka_unit_test(confined), cmocka_unit_test(mounts)};

	return cmocka_run_group_tests_name("vm/registry", tests, NULL, NULL);
}
