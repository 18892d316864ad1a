/* SPDX-License-Identifier: Apache-2.0 */
/* Where our own programs are, and directories made on the way. */
#include <banger/paths.h>
#include <fcntl.h>
#include <limits.h>
#include <string.h>
#include <sys/stat.h>

int banger_mkdir_p(const char *path, unsigned mode, struct banger_error *err)
{
	_cleanup_free_ char *copy = strdup(path);

	if (!copy)
		return banger_error_oom(err);
	for (char *p = copy + 1;; p++) {
		char c = *p;

		if (c != '/' && c != '\0')
			continue;
		*p = '\0';
		/* The mode is what was asked for, whatever the umask. */
		if (mkdir(copy, mode) == 0 ? chmod(copy, mode) < 0 : errno != EEXIST)
			return banger_error_set_errno(
				err, errno, "cannot make the directory %s", copy);
		*p = c;
		if (c == '\0')
			break;
	}
	struct stat st;
	if (stat(path, &st) < 0)
		return banger_error_set_errno(err, errno, "cannot use the directory %s", path);
	if (!S_ISDIR(st.st_mode))
		return banger_error_set_errno(err, ENOTDIR, "%s", path);
	return 0;
}

int banger_config_program(
	const struct banger_config *c, const char *name, char **ret, struct banger_error *err)
{
	/* Beside the program: an installed prefix that was moved, or a build tree with its folders.
	 */
	static const char *const beside[] = {"", "/../libexec/banger", "/../unpack", "/../agent",
		"/../fs", "/../daemon/unpack", "/../daemon/agent", "/../daemon/bangerd"};
	char self[PATH_MAX], tried[768] = "";
	_cleanup_free_ char *p = NULL;

	if (c->libexec_dir) {
		if (asprintf(&p, "%s/%s", c->libexec_dir, name) < 0) {
			p = NULL;
			return banger_error_oom(err);
		}
		if (access(p, X_OK) == 0) {
			*ret = TAKE_PTR(p);
			return 0;
		}
		return banger_error_set_errno(err, errno, "the program %s", p);
	}
	ssize_t n = readlink("/proc/self/exe", self, sizeof(self) - 1);
	char *slash = n > 0 ? memrchr(self, '/', n) : NULL;
	if (slash)
		*slash = '\0';
	for (size_t i = 0; i <= ELEMENTSOF(beside); i++) {
		bool installed = i == ELEMENTSOF(beside);

		if (!installed && !slash)
			continue;
		free(TAKE_PTR(p));
		if ((installed ? asprintf(&p, "%s/%s", BANGER_LIBEXECDIR, name)
			       : asprintf(&p, "%s%s/%s", self, beside[i], name)) < 0) {
			p = NULL;
			return banger_error_oom(err);
		}
		if (access(p, X_OK) == 0) {
			*ret = TAKE_PTR(p);
			return 0;
		}
		if (i == 0 || installed)
			snprintf(tried + strlen(tried), sizeof(tried) - strlen(tried), "%s%s",
				*tried ? ", " : "", p);
	}
	return banger_error_set(err, BANGER_NOT_FOUND,
		"the program %s is not installed (looked for %s)", name, tried);
}
