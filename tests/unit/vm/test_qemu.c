/* SPDX-License-Identifier: Apache-2.0 */
/* QEMU's command line: what must be in it, and what must not; the empty qcow2 that the driver puts over an image. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <sys/stat.h>
#include "vm/internal.h"
#include "vm/qemu.h"

static const struct vmm_spec plain = {.name = "web",
	.op_id = "op-0123456789ab",
	.cpus = 1,
	.memory = 256 << 20,
	.kernel_fd = 3,
	.initrd_fd = 4,
	.append = "banger.op=op-0123456789ab",
	.disks = {{5, -1, "root"}, {-1, -1, "work"}},
	.durable = true,
	.tap_fd = -1};

static int version = 7;

static void join(const struct vmm_spec *s, char ret[8192])
{
	struct argv a;

	assert_int_equal(qemu_args_make("qemu", version, s, &a), 0);
	ret[0] = '\0';
	for (size_t i = 0; i < a.n; i++) {
		strcat(ret, i ? " " : "");
		strcat(ret, a.v[i]);
	}
	argv_done(&a);
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

static void a_plain_one(void **state)
{
	char line[8192];

	join(&plain, line);
	has(line, "qemu -name guest=banger-web,process=banger-vm-01234567,");
	has(line,
		"-sandbox on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
	has(line, "-nodefaults -no-user-config -no-reboot");
	has(line, "banger.op=op-0123456789ab");
	has(line, "-mon chardev=control,mode=control");
	has(line, "driver=raw,node-name=disk0,file=file0");
	has(line, "cache.no-flush=off");
	has(line, "virtio-blk-device,drive=disk0,serial=root,werror=report,rerror=report");
	hasnt(line, "qcow2");
	hasnt(line, "disk1");
	hasnt(line, "netdev");
}

/* Where the emulator would translate each process anew, and nowhere else. */
static void layouts(void **state)
{
	struct vmm_spec s = plain;
	char line[8192];

	s.accel = VM_TCG;
	join(&s, line);
	has(line, " norandmaps ");
	version = 10;
	join(&s, line);
	hasnt(line, "norandmaps");
	version = 7;
	s.accel = VM_KVM;
	join(&s, line);
	hasnt(line, "norandmaps");
}

static void the_registry(void **state)
{
	struct vmm_spec s = plain;
	char line[8192];

	join(&s, line);
	hasnt(line, "vhost-user");
	hasnt(line, "force-legacy");
	s.files = true;
	s.tag = "banger";
	s.files_fd = 8;
	s.held_fd = 9;
	join(&s, line);
	has(line, "memory-backend-memfd,id=ram,size=256M,share=on");
	has(line, "-global virtio-mmio.force-legacy=false");
	has(line, "-chardev socket,id=files,fd=19 -device vhost-user-fs-device,chardev=files,tag=banger,");
	hasnt(line, "server=on,id=files");
}

static void an_overlay(void **state)
{
	struct vmm_spec s = plain;
	char line[8192];

	s.disks[0].base_fd = 6;
	s.disks[1].fd = 7;
	s.durable = false;
	join(&s, line);
	/* The backing file is what we say, and is raw. */
	has(line, "driver=qcow2,node-name=disk0,file=file0,backing=base0");
	has(line, "driver=raw,node-name=base0,file=basefile0,read-only=on");
	has(line, "driver=raw,node-name=disk1");
	has(line, "serial=work");
	has(line, "cache.no-flush=on");
	hasnt(line, "cache.no-flush=off");
}

static void a_network(void **state)
{
	const struct vmm_publish p = {.address = "127.0.0.1", .host = 8080, .guest = 80};
	struct vmm_spec s = plain;
	char line[8192];

	s.network = true;
	s.publish = &p;
	s.n_publish = 1;
	strcpy(s.mac, "52:54:00:01:02:03");
	join(&s, line);
	has(line, "-netdev user,id=net,ipv6=off,hostfwd=tcp:127.0.0.1:8080-:80");
	has(line, "virtio-net-device,netdev=net,mac=52:54:00:01:02:03");
	s.tap_fd = 9;
	join(&s, line);
	has(line, "-netdev tap,id=net,fd=");
	hasnt(line, "hostfwd");
}

static void a_bare_one(void **state)
{
	struct vmm_spec s = plain;
	char line[8192];

	s.bare = true;
	s.disks[0].fd = -1;
	join(&s, line);
	hasnt(line, "-mon");
	hasnt(line, "blockdev");
	has(line, "-chardev null,id=console");
}

static uint64_t big_endian(const uint8_t *p, int n)
{
	uint64_t v = 0;

	for (int i = 0; i < n; i++)
		v = v << 8 | p[i];
	return v;
}

static void empty_qcow2(void **state)
{
	uint8_t h[104];
	struct stat st;
	FILE *f = tmpfile();

	assert_int_equal(qcow2_make(fileno(f), 5LL << 30), 0);
	assert_int_equal(pread(fileno(f), h, sizeof(h), 0), sizeof(h));
	assert_memory_equal(h, "QFI\xfb", 4);
	assert_int_equal(big_endian(h + 4, 4), 3);          /* version */
	assert_int_equal(big_endian(h + 8, 8), 0);          /* no backing file by name */
	assert_int_equal(big_endian(h + 24, 8), 5LL << 30); /* size */
	assert_int_equal(big_endian(h + 36, 4), 10);        /* L1 entries, of 512 MiB each */
	assert_int_equal(fstat(fileno(f), &st), 0);
	assert_int_equal(st.st_size, 4 << 16);
	assert_int_equal(qcow2_make(fileno(f), 0), -EFBIG);
	assert_int_equal(qcow2_make(fileno(f), -1), -EFBIG);
	assert_int_equal(qcow2_make(fileno(f), INT64_MAX), -EFBIG);
	fclose(f);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(a_plain_one), cmocka_unit_test(layouts),
		cmocka_unit_test(the_registry), cmocka_unit_test(an_overlay), cmocka_unit_test(a_network),
		cmocka_unit_test(a_bare_one), cmocka_unit_test(empty_qcow2)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
