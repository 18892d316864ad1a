/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What a kernel package's author wrote, past the archive: ELF files of modules, kernel images, modules.dep.
 *	- whatever is said to be in a section is in the file;
 *	- a module that is taken gives a modules.dep with its path, one line for each module;
 *	- an image that is taken has a payload within it;
 *	- an order of modules names each once.
 */
#include "fuzz.h"

#include <string.h>
#include <sys/mman.h>
#include <unistd.h>
#include "kernel/image_elf.h"
#include "kernel/modules.h"
#include "kernel/vmlinuz.h"

static void as_module(const uint8_t *data, size_t size)
{
	struct module_list list = {0};
	struct elf_image elf;
	const char *info;
	size_t info_size, pos = 0;

	if (elf_open(data, size, &elf) == 0) {
		(void)elf_has_pvh_entry(&elf);
		if (elf_section(&elf, ".modinfo", &info, &info_size) == 0) {
			MUST((const uint8_t *)info >= data && info_size <= size &&
				(const uint8_t *)info + info_size <= data + size);
			while (modinfo_next(info, info_size, &pos, "depends"))
				MUST(pos <= info_size);
		}
	}
	if (module_list_add(&list, "kernel/a.ko", data, size) == 0 &&
		module_list_add(&list, "kernel/b-b.ko.xz", data, size) == 0) {
		char *text;
		size_t n;
		MUST(module_list_dep(&list, &text, &n) == 0 && strlen(text) == n);
		MUST(strncmp(text, "kernel/a.ko:", 12) == 0 && strstr(text, "\nkernel/b-b.ko.xz:"));
		free(text);
		MUST(module_list_softdep(&list, &text, &n) == 0 && strlen(text) == n);
		free(text);
	}
	module_list_done(&list);
}

static void as_image(const uint8_t *data, size_t size)
{
	struct banger_error err = {0};
	struct vmlinuz k;
	int fd = memfd_create("fuzz", MFD_CLOEXEC), out = memfd_create("fuzz", MFD_CLOEXEC);

	if (fd >= 0 && out >= 0 && write(fd, data, size) == (ssize_t)size) {
		int r = vmlinuz_read(fd, &k, &err);
		MUST((r < 0) == (err.code != BANGER_OK) && (r < 0) == (err.message[0] != '\0'));
		if (r == 0) {
			MUST(k.payload_length == 0 ||
				(k.payload_offset <= size &&
					k.payload_length <= size - k.payload_offset));
			MUST(strlen(k.version) < sizeof(k.version) && !strchr(k.version, '/'));
			if (k.payload_size < 1 << 20)
				MUST(vmlinuz_extract(fd, &k, out, &err) <= 1);
		}
	}
	close(fd);
	close(out);
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	as_module(data, size);
	as_image(data, size);
	return 0;
}
