/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A bzImage is a real-mode part of (setup_sects + 1) sectors, which begins with a header that says
 * where in the rest the compressed vmlinux (the "payload") is; the payload's last four bytes are
 * its size inflated. Unpacking that at import saves each boot from doing it, which under emulation
 * is a third of the boot. The header is whatever the file's author wrote: offsets are checked
 * against the file, the size against a limit, and a payload that cannot be inflated only means that
 * the bzImage itself is booted.
 */
#include "kernel/vmlinuz.h"

#include <elf.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>

#include "kernel/image_elf.h"
#include "kernel/inflate.h"

#define PAYLOAD_SIZE_MAX (512 * UINT64_C(1024) * 1024)
#define HEAD_SIZE 4096

static uint16_t le16(const uint8_t *p)
{
	return (uint16_t)(p[0] | p[1] << 8);
}

static uint32_t le32(const uint8_t *p)
{
	return le16(p) | (uint32_t)le16(p + 2) << 16;
}

static int pread_whole(int fd, void *buffer, size_t want, uint64_t offset)
{
	for (size_t done = 0; done < want;) {
		ssize_t n = pread(fd, (char *)buffer + done, want - done, (off_t)(offset + done));
		if (n < 0 && errno == EINTR)
			continue;
		if (n <= 0)
			return n < 0 ? -errno : -ENODATA;
		done += (size_t)n;
	}
	return 0;
}

/* The first word of a version string, if it is one that can be a directory's name. */
static void take_version(const char *s, size_t n, char *ret, size_t size)
{
	static const char good[] =
		"abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789.-+_~";
	size_t length = 0;
	while (length < n && s[length] && strchr(good, s[length]))
		length++;
	if (length == 0 || length >= size || s[0] < '0' || s[0] > '9')
		return;
	memcpy(ret, s, length);
	ret[length] = '\0';
}

static void read_version(int fd, const uint8_t *head, struct vmlinuz *k)
{
	char text[sizeof(k->version)] = "";
	uint64_t offset = le16(head + 0x20e);
	if (offset == 0)
		return;
	ssize_t n = pread(fd, text, sizeof(text) - 1, (off_t)(offset + 0x200));
	if (n > 0)
		take_version(text, (size_t)n, k->version, sizeof(k->version));
}

static void read_payload(int fd, const uint8_t *head, uint64_t file_size, struct vmlinuz *k)
{
	uint64_t setup = head[0x1f1] ? head[0x1f1] : 4;
	uint64_t offset = (setup + 1) * 512 + le32(head + 0x248);
	uint64_t length = le32(head + 0x24c);
	uint8_t tail[4];
	if (le16(head + 0x206) < 0x208 || length < 8 || offset > file_size ||
		length > file_size - offset ||
		pread_whole(fd, tail, sizeof(tail), offset + length - sizeof(tail)) < 0)
		return;
	k->payload_offset = offset;
	k->payload_length = length;
	k->payload_size = le32(tail);
}

int vmlinuz_read(int fd, struct vmlinuz *ret, struct banger_error *err)
{
	uint8_t head[HEAD_SIZE] = {0};
	struct stat st;
	if (fstat(fd, &st) < 0)
		return banger_error_set_errno(err, errno, "kernel image");
	ssize_t n = pread(fd, head, sizeof(head), 0);
	if (n < 0)
		return banger_error_set_errno(err, errno, "reading the kernel image");
	struct vmlinuz k = {.arch = "amd64"};
	if (n == HEAD_SIZE && le16(head + 0x1fe) == 0xaa55 &&
		memcmp(head + 0x202, "HdrS", 4) == 0) {
		k.kind = VMLINUZ_BZIMAGE;
		read_version(fd, head, &k);
		read_payload(fd, head, (uint64_t)st.st_size, &k);
	} else if (n == HEAD_SIZE && memcmp(head + 0x38, "ARM\x64", 4) == 0) {
		k.kind = VMLINUZ_ARM64;
		k.arch = "arm64";
	} else if (n == HEAD_SIZE && memcmp(head, ELFMAG, SELFMAG) == 0 &&
		   head[EI_CLASS] == ELFCLASS64 &&
		   le16(head + offsetof(Elf64_Ehdr, e_type)) == ET_EXEC &&
		   le16(head + offsetof(Elf64_Ehdr, e_machine)) == EM_X86_64) {
		k.kind = VMLINUZ_ELF;
		if (!vmlinux_inspect(fd, k.version, sizeof(k.version)))
			return banger_error_set(err, BANGER_UNSUPPORTED,
				"this vmlinux has no PVH entry (CONFIG_PVH), so it cannot be "
				"booted directly: import its bzImage");
	} else {
		return banger_error_set(err, BANGER_CORRUPT,
			"not a kernel: neither a bzImage, nor an arm64 Image, nor a vmlinux");
	}
	*ret = k;
	return 0;
}

int vmlinuz_extract(int fd, const struct vmlinuz *k, int out_fd, struct banger_error *err)
{
	struct banger_error why = {0};
	if (k->kind != VMLINUZ_BZIMAGE || k->payload_length == 0 || k->payload_size == 0 ||
		k->payload_size > PAYLOAD_SIZE_MAX)
		return 0;
	int r = inflate_range(
		fd, k->payload_offset, k->payload_length - 4, out_fd, k->payload_size, &why);
	if (r < 0 && (why.code == BANGER_CORRUPT || why.code == BANGER_UNSUPPORTED))
		return 0;
	if (r < 0) {
		if (err)
			*err = why;
		banger_error_prefix(err, "unpacking the kernel");
		return r;
	}
	return vmlinux_inspect(out_fd, NULL, 0);
}

static bool inspect(const uint8_t *p, size_t size, char *ret_version, size_t version_size)
{
	static const char banner[] = "Linux version ";
	struct elf_image elf;
	if (elf_open(p, size, &elf) < 0 || elf.type != ET_EXEC || elf.machine != EM_X86_64 ||
		!elf_has_pvh_entry(&elf))
		return false;
	const char *found = ret_version ? memmem(p, size, banner, sizeof(banner) - 1) : NULL;
	if (found) {
		found += sizeof(banner) - 1;
		take_version(found, size - (size_t)((const uint8_t *)found - p), ret_version,
			version_size);
	}
	return true;
}

bool vmlinux_inspect(int fd, char *ret_version, size_t size)
{
	struct stat st;
	if (fstat(fd, &st) < 0 || st.st_size <= 0 || (uint64_t)st.st_size > PAYLOAD_SIZE_MAX)
		return false;
	/* The file is ours alone (in the staging directory), so nobody shortens it under the
	 * mapping. */
	void *p = mmap(NULL, (size_t)st.st_size, PROT_READ, MAP_PRIVATE, fd, 0);
	if (p == MAP_FAILED)
		return false;
	bool ok = inspect(p, (size_t)st.st_size, ret_version, size);
	munmap(p, (size_t)st.st_size);
	return ok;
}
