/* SPDX-License-Identifier: Apache-2.0 */
/*
 * QEMU's command line.
 *
 * What was measured decides (TCG, Debian's QEMU 7.2 and 6.1 cloud kernel, milliseconds from exec to
 * the first byte of a shell's output; what people type, "-M pc" with a bzImage, takes 2130):
 *	microvm with a vmlinux entered by PVH 1240, with a bzImage 1440; q35 with a vmlinux 1390
 *	qboot instead of SeaBIOS saves 25
 *	cryptomgr.notests saves 200: the kernel tests its ciphers
 *	tsc_early_khz and tsc=reliable save 100 and more on a busy host, where the guest's calibration
 *	against the emulated PIT takes long, or fails and takes the guest along, and where its watchdog
 *	gives up a TSC that is right (it is the host's) for a clock that loses time
 *	noreplace-smp saves 120: with one CPU the kernel would overwrite each of its lock prefixes,
 *	and each time the emulator throws away what it had translated; a lone emulated CPU does not
 *	mind the prefixes
 *	norandmaps makes programs start 4 times as fast (/bin/true in 5 ms instead of 19):
 *	QEMU's 7.2 and 8.2 know a translation by its virtual address too, so that each process with
 *	libraries at places of its own has all of them translated again; 10.0 needs it no more, and its
 *	guests keep their random layouts. A guest can turn them on again (kernel.randomize_va_space)
 *	memory by memfd saves 50 to 200: no huge pages to clear, most of which the guest never touches;
 *	vhost-user devices need it, too
 *	noapictimer and rtc=off are faster on paper and hang the guest now and then: not used
 * The emulated CPU is "max", because programs are built for x86-64-v2 and -v3 today; without 5-level
 * paging, which costs and gives nothing, and without the fast string instructions: with those the
 * kernel copies by bytes, which an emulator does one by one (copies through the agent's port: half).
 *
 * Files are given as descriptors: the kernel and the initrd by /proc/self/fd, which QEMU reads before
 * its sandbox closes, disks as fd sets. The format of an image is always named: raw data that claims
 * to be a qcow2 must not be believed; and so is a qcow2's backing file, whatever its header says. A
 * full disk of the host is an I/O error in the guest; QEMU would stop the VM and wait for somebody.
 * -sandbox is on; no device, no configuration file, no network but what is named here.
 */
#include <stdarg.h>
#include <string.h>
#include <banger/agent.h>
#include "vm/qemu.h"
#include "vm/tsc.h"

#define FILES_QUEUE 1024 /* requests under way */

#define QEMU_SHARES_TRANSLATIONS 10 /* the major version */

static void kernel_args(struct argv *a, const struct vmm_spec *s, int version)
{
	bool fixed = s->accel == VM_TCG && version < QEMU_SHARES_TRANSLATIONS;
	char tsc[64] = "";
	/* Under KVM the kernel is told the rate of its counter. */
	int64_t khz = s->accel == VM_TCG ? tsc_khz() : 0;

	if (khz > 0)
		snprintf(tsc, sizeof(tsc), " tsc=reliable tsc_early_khz=%lld", (long long)khz);
	argv_add2(a, "-bios", "qboot.rom");
	argv_add2(a, "-kernel", "/proc/self/fd/%d", SPAWN_FIRST + QEMU_KERNEL);
	argv_add2(a, "-initrd", "/proc/self/fd/%d", SPAWN_FIRST + QEMU_INITRD);
	argv_add2(a, "-append", "console=ttyS0 quiet panic=-1 reboot=t cryptomgr.notests%s%s%s%s%s",
		fixed ? " norandmaps" : "",
		s->accel == VM_TCG && s->cpus == 1 ? " noreplace-smp" : "", tsc,
		s->append && *s->append ? " " : "", s->append ?: "");
}

static void machine_args(struct argv *a, const struct vmm_spec *s)
{
	argv_add2(a, "-name", "guest=banger-%s,process=banger-vm-%.8s,debug-threads=off", s->name,
		s->op_id + 3);
	/* RTC: the guest's clock starts right without a network. */
	argv_add2(a, "-M", "microvm,acpi=on,rtc=on,pic=on,pit=on,usb=off,memory-backend=ram");
	argv_add2(a, "-object", "memory-backend-memfd,id=ram,size=%lldM,share=on",
		(long long)(s->memory >> 20));
	argv_add2(a, "-m", "%lldM", (long long)(s->memory >> 20));
	argv_add2(a, "-accel", "%s",
		s->accel == VM_KVM ? "kvm"
		: s->cpus > 1      ? "tcg,thread=multi"
				   : "tcg");
	argv_add2(a, "-cpu", "%s", s->accel == VM_KVM ? "host" : "max,la57=off,erms=off,fsrm=off");
	argv_add2(a, "-smp", "%lld", (long long)s->cpus);
	argv_add(a, "-nodefaults");
	argv_add(a, "-no-user-config");
	argv_add(a, "-no-reboot");
	argv_add2(a, "-display", "none");
	argv_add2(a, "-sandbox",
		"on,obsolete=deny,elevateprivileges=deny,spawn=deny,resourcecontrol=deny");
}

/* The console's two FIFOs are in the working directory (driver.h). */
static void channel_args(struct argv *a, const struct vmm_spec *s)
{
	if (s->bare) {
		argv_add2(a, "-chardev", "null,id=console");
		argv_add2(a, "-chardev", "socket,id=agent,fd=%d", SPAWN_FIRST + QEMU_PORT);
	} else {
		argv_add2(a, "-chardev", "pipe,id=console,path=console");
		argv_add2(a, "-chardev", "socket,id=agent,fd=%d,server=on,wait=off",
			SPAWN_FIRST + QEMU_PORT);
		argv_add2(a, "-chardev", "socket,id=control,fd=%d,server=on,wait=off",
			SPAWN_FIRST + QEMU_CONTROL);
		argv_add2(a, "-mon", "chardev=control,mode=control");
	}
	argv_add2(a, "-serial", "chardev:console");
	argv_add2(a, "-device", "virtio-serial-device,max_ports=2");
	argv_add2(a, "-device", "virtserialport,chardev=agent,name=%s", AGENT_PORT);
}

static void disk_args(struct argv *a, const struct vmm_spec *s, int i)
{
	const struct vmm_disk *d = &s->disks[i];
	const char *cache = s->durable ? "cache.no-flush=off" : "cache.no-flush=on";

	if (d->fd < 0)
		return;
	argv_add2(a, "-add-fd", "fd=%d,set=%d", SPAWN_FIRST + QEMU_DISK + i, 2 * i);
	argv_add2(a, "-blockdev",
		"driver=file,node-name=file%d,filename=/dev/fdset/%d,discard=unmap,%s", i, 2 * i,
		cache);
	if (d->base_fd < 0) {
		argv_add2(a, "-blockdev",
			"driver=raw,node-name=disk%d,file=file%d,discard=unmap,%s", i, i, cache);
	} else {
		argv_add2(a, "-add-fd", "fd=%d,set=%d", SPAWN_FIRST + QEMU_BASE + i, 2 * i + 1);
		argv_add2(a, "-blockdev",
			"driver=file,node-name=basefile%d,filename=/dev/fdset/"
			"%d,read-only=on,locking=off",
			i, 2 * i + 1);
		argv_add2(a, "-blockdev",
			"driver=raw,node-name=base%d,file=basefile%d,read-only=on", i, i);
		argv_add2(a, "-blockdev",
			"driver=qcow2,node-name=disk%d,file=file%d,backing=base%d,discard=unmap,%s",
			i, i, i, cache);
	}
	argv_add2(a, "-device",
		"virtio-blk-device,drive=disk%d,serial=%s,werror=report,rerror=report", i,
		d->serial);
}

static void network_args(struct argv *a, const struct vmm_spec *s)
{
	char forward[2048] = "";
	size_t n = 0;

	if (!s->network)
		return;
	for (size_t i = 0; s->tap_fd < 0 && i < s->n_publish; i++) {
		const struct vmm_publish *p = &s->publish[i];

		n += snprintf(forward + n, sizeof(forward) - n, ",hostfwd=%s:%s:%u-:%u",
			p->udp ? "udp" : "tcp", p->address, p->host, p->guest);
		if (n >= sizeof(forward)) {
			a->failed = true;
			return;
		}
	}
	if (s->tap_fd >= 0)
		argv_add2(a, "-netdev", "tap,id=net,fd=%d", SPAWN_FIRST + QEMU_TAP);
	else
		argv_add2(a, "-netdev", "user,id=net,ipv6=off%s", forward);
	argv_add2(
		a, "-device", "virtio-net-device,netdev=net%s%s", s->mac[0] ? ",mac=" : "", s->mac);
}

/* The memory is a memfd that others can map (machine_args): the backend reads requests there, in the form that virtio has
 * had since 1.0, which devices on this bus are given only when asked. */
static void files_args(struct argv *a, const struct vmm_spec *s)
{
	if (!s->files)
		return;
	argv_add2(a, "-global", "virtio-mmio.force-legacy=false");
	argv_add2(a, "-chardev", "socket,id=files,fd=%d", SPAWN_FIRST + QEMU_FILES);
	argv_add2(a, "-device", "vhost-user-fs-device,chardev=files,tag=%s,queue-size=%d", s->tag,
		FILES_QUEUE);
}

int qemu_args_make(const char *program, int version, const struct vmm_spec *s, struct argv *ret)
{
	struct argv a = {.n = 0};

	argv_add(&a, "%s", program);
	machine_args(&a, s);
	kernel_args(&a, s, version);
	channel_args(&a, s);
	disk_args(&a, s, 0);
	disk_args(&a, s, 1);
	network_args(&a, s);
	files_args(&a, s);
	return argv_give(&a, ret);
}
