/* SPDX-License-Identifier: Apache-2.0 */
#include "make.h"

#include <archive.h>
#include <archive_entry.h>
#include <elf.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>
#include <unistd.h>

static struct bytes room(size_t n)
{
	struct bytes b = {calloc(1, n), n};
	assert_non_null(b.p);
	return b;
}

struct bytes make_module(const char *info, size_t n)
{
	static const char names[] = "\0.modinfo\0.shstrtab";
	const size_t info_at = sizeof(Elf64_Ehdr), names_at = info_at + n;
	const size_t sections_at = (names_at + sizeof(names) + 7) & ~(size_t)7;
	struct bytes b = room(sections_at + 3 * sizeof(Elf64_Shdr));
	Elf64_Ehdr h = {.e_type = ET_REL,
		.e_machine = EM_X86_64,
		.e_version = 1,
		.e_shoff = sections_at,
		.e_shentsize = sizeof(Elf64_Shdr),
		.e_shnum = 3,
		.e_shstrndx = 2};
	Elf64_Shdr s[3] = {{0},
		{.sh_name = 1, .sh_type = SHT_PROGBITS, .sh_offset = info_at, .sh_size = n},
		{.sh_name = 10,
			.sh_type = SHT_STRTAB,
			.sh_offset = names_at,
			.sh_size = sizeof(names)}};
	memcpy(h.e_ident, ELFMAG "\2\1\1", SELFMAG + 3);
	memcpy(b.p, &h, sizeof(h));
	memcpy(b.p + info_at, info, n);
	memcpy(b.p + names_at, names, sizeof(names));
	memcpy(b.p + sections_at, s, sizeof(s));
	return b;
}

struct bytes make_vmlinux(const char *version, bool pvh)
{
	enum { NOTE_AT = 256, BANNER_AT = 512, SIZE = 8192 };
	struct bytes b = room(SIZE);
	Elf64_Ehdr h = {.e_type = ET_EXEC,
		.e_machine = EM_X86_64,
		.e_version = 1,
		.e_phoff = sizeof(h),
		.e_phentsize = sizeof(Elf64_Phdr),
		.e_phnum = 1};
	Elf64_Phdr s = {.p_type = PT_NOTE, .p_offset = NOTE_AT, .p_filesz = sizeof(Elf64_Nhdr) + 8};
	Elf64_Nhdr note = {.n_namesz = 4, .n_descsz = 4, .n_type = pvh ? 18 : 17};
	memcpy(h.e_ident, ELFMAG "\2\1\1", SELFMAG + 3);
	memcpy(b.p, &h, sizeof(h));
	memcpy(b.p + sizeof(h), &s, sizeof(s));
	memcpy(b.p + NOTE_AT, &note, sizeof(note));
	memcpy(b.p + NOTE_AT + sizeof(note), "Xen", 4);
	snprintf(b.p + BANNER_AT, SIZE - BANNER_AT, "Linux version %s (somebody@somewhere) #1",
		version);
	return b;
}

/* libarchive writes through this, so that the size does not have to be guessed. */
static la_ssize_t append(struct archive *a, void *arg, const void *p, size_t n)
{
	struct bytes *b = arg;
	(void)a;
	b->p = realloc(b->p, b->n + n + 1);
	assert_non_null(b->p);
	memcpy(b->p + b->n, p, n);
	b->n += n;
	return (la_ssize_t)n;
}

static void add_filter(struct archive *a, const char *filter)
{
	int r = strcmp(filter, "gzip") == 0   ? archive_write_add_filter_gzip(a)
		: strcmp(filter, "xz") == 0   ? archive_write_add_filter_xz(a)
		: strcmp(filter, "zstd") == 0 ? archive_write_add_filter_zstd(a)
					      : archive_write_add_filter_none(a);
	assert_int_equal(r, ARCHIVE_OK);
}

static void put(struct archive *a, const struct member *m)
{
	struct archive_entry *e = archive_entry_new();
	size_t n = m->text ? strlen(m->text) : m->bytes.n;
	const char *p = m->text ? m->text : m->bytes.p;
	archive_entry_set_pathname(e, m->name);
	archive_entry_set_perm(e, m->type == 'd' ? 0755 : 0644);
	archive_entry_set_filetype(e, m->type == 'd'   ? AE_IFDIR
				      : m->type == 'l' ? AE_IFLNK
				      : m->type == 'c' ? AE_IFCHR
						       : AE_IFREG);
	if (m->type == 'l')
		archive_entry_set_symlink(e, m->text);
	if (m->type == 'h')
		archive_entry_set_hardlink(e, m->text);
	if (m->type == 'f')
		archive_entry_set_size(e, (la_int64_t)n);
	assert_int_equal(archive_write_header(a, e), ARCHIVE_OK);
	if (m->type == 'f' && n > 0)
		assert_int_equal(archive_write_data(a, p, n), (la_ssize_t)n);
	archive_entry_free(e);
}

struct bytes make_tar(const struct member *m, size_t n, const char *filter)
{
	struct bytes b = {0};
	struct archive *a = archive_write_new();
	assert_int_equal(archive_write_set_format_pax_restricted(a), ARCHIVE_OK);
	add_filter(a, filter);
	assert_int_equal(archive_write_set_bytes_in_last_block(a, 1), ARCHIVE_OK);
	assert_int_equal(archive_write_open(a, &b, NULL, append, NULL), ARCHIVE_OK);
	for (size_t i = 0; i < n; i++)
		put(a, &m[i]);
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	return b;
}

struct bytes make_deb(const struct bytes *data, const char *data_name)
{
	struct bytes b = {0},
		     control = make_tar(
			     &(struct member){'f', "./control", "Package: x\n", {0}}, 1, "xz");
	struct archive *a = archive_write_new();
	assert_int_equal(archive_write_set_format_ar_svr4(a), ARCHIVE_OK);
	assert_int_equal(archive_write_set_bytes_in_last_block(a, 1), ARCHIVE_OK);
	assert_int_equal(archive_write_open(a, &b, NULL, append, NULL), ARCHIVE_OK);
	put(a, &(struct member){'f', "debian-binary", "2.0\n", {0}});
	put(a, &(struct member){'f', "control.tar.xz", NULL, control});
	if (data)
		put(a, &(struct member){'f', data_name, NULL, *data});
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	free(control.p);
	return b;
}

static struct bytes gzip(const struct bytes *in)
{
	struct bytes b = {0};
	struct archive *a = archive_write_new();
	assert_int_equal(archive_write_set_format_raw(a), ARCHIVE_OK);
	add_filter(a, "gzip");
	assert_int_equal(archive_write_set_bytes_in_last_block(a, 1), ARCHIVE_OK);
	assert_int_equal(archive_write_open(a, &b, NULL, append, NULL), ARCHIVE_OK);
	put(a, &(struct member){'f', "x", NULL, *in});
	assert_int_equal(archive_write_close(a), ARCHIVE_OK);
	archive_write_free(a);
	return b;
}

struct bytes make_bzimage(const char *version, const struct bytes *vmlinux)
{
	enum { SETUP = 2 * 512, VERSION_AT = 0x300, PAYLOAD_AT = SETUP + 64 };
	struct bytes payload = vmlinux ? gzip(vmlinux) : (struct bytes){0};
	struct bytes b = room(8192 + payload.n + 4);
	uint32_t length = (uint32_t)payload.n + 4, offset = PAYLOAD_AT - SETUP,
		 size = vmlinux ? (uint32_t)vmlinux->n : 0;
	b.p[0x1f1] = 1;
	memcpy(b.p + 0x1fe, "\x55\xaa", 2);
	memcpy(b.p + 0x202, "HdrS\x0f\x02", 6);
	memcpy(b.p + 0x20e, "\x00\x01", 2); /* 0x100 + 0x200 */
	snprintf(b.p + VERSION_AT, 200, "%s (somebody@somewhere) #1", version);
	if (vmlinux) {
		memcpy(b.p + 0x248, &offset, 4);
		memcpy(b.p + 0x24c, &length, 4);
		memcpy(b.p + PAYLOAD_AT, payload.p, payload.n);
		memcpy(b.p + PAYLOAD_AT + payload.n, &size, 4);
	}
	free(payload.p);
	return b;
}

int make_file(const struct bytes *b)
{
	int fd = memfd_create("test", MFD_CLOEXEC);
	assert_true(fd >= 0);
	assert_int_equal(write(fd, b->p, b->n), (ssize_t)b->n);
	return fd;
}
