/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Runs a fuzz target over inputs that are already known: each argument is a file or a directory of
 * files. The corpus holds seeds and every input that once found something, so the ordinary test run
 * would see such a bug come back, with any compiler. No input at all is a failure: a test that
 * reads nothing cannot fail.
 */
#include "fuzz.h"

#include <string.h>
#include <sys/stat.h>
#include <banger/cleanup.h>

static int read_file(const char *path, uint8_t **ret, size_t *ret_size)
{
	_cleanup_fclose_ FILE *f = fopen(path, "re");
	struct stat st;
	if (!f || fstat(fileno(f), &st) < 0)
		return -errno;
	/* Exactly the input's size, so that AddressSanitizer sees a read past its end. */
	_cleanup_free_ uint8_t *data = malloc(st.st_size ? st.st_size : 1);
	if (!data)
		return -ENOMEM;
	if (fread(data, 1, st.st_size, f) != (size_t)st.st_size)
		return -EIO;
	*ret = TAKE_PTR(data);
	*ret_size = st.st_size;
	return 0;
}

static int replay_file(const char *path)
{
	_cleanup_free_ uint8_t *data = NULL;
	size_t size = 0;
	int r = read_file(path, &data, &size);
	if (r < 0) {
		fprintf(stderr, "%s: %s\n", path, strerror(-r));
		return r;
	}
	/* The last line before a crash names the input that did it. */
	fprintf(stderr, "replay %s (%zu bytes)\n", path, size);
	LLVMFuzzerTestOneInput(data, size);
	return 1;
}

static int replay_dir(const char *path)
{
	struct dirent **names;
	int n = scandir(path, &names, NULL, alphasort), count = 0, r = 0;
	if (n < 0)
		return -errno;
	for (int i = 0; i < n; i++) {
		_cleanup_free_ struct dirent *de = names[i];
		_cleanup_free_ char *file = NULL;
		if (de->d_name[0] == '.' || r < 0)
			continue;
		r = asprintf(&file, "%s/%s", path, de->d_name) < 0 ? -ENOMEM : replay_file(file);
		count += r > 0;
	}
	free(names);
	return r < 0 ? r : count;
}

int main(int argc, char **argv)
{
	int total = 0;
	for (int i = 1; i < argc; i++) {
		struct stat st;
		int r = stat(argv[i], &st) < 0 ? -errno
			: S_ISDIR(st.st_mode)  ? replay_dir(argv[i])
					       : replay_file(argv[i]);
		if (r < 0) {
			fprintf(stderr, "%s: %s\n", argv[i], strerror(-r));
			return EXIT_FAILURE;
		}
		total += r;
	}
	printf("%d inputs replayed\n", total);
	return total ? EXIT_SUCCESS : EXIT_FAILURE;
}
