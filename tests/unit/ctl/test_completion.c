/* SPDX-License-Identifier: Apache-2.0 */
/* What completion offers; without a daemon, so names of images are none. */
#include "check.h"
#include <banger/cleanup.h>
#include "help.h"

static char *offers;

#define OFFERS(...) ask((const char *const[]){__VA_ARGS__, NULL})

static const char *ask(const char *const *words)
{
	char *argv[16];
	size_t size = 0;
	int argc = 0;

	for (; *words; words++)
		argv[argc++] = (char *)*words;
	free(offers);
	offers = NULL;
	FILE *f = open_memstream(&offers, &size);
	completion_print(f, argc, argv);
	fclose(f);
	return offers;
}

static bool has(const char *word)
{
	char line[80];

	snprintf(line, sizeof(line), "\n%s\t", word);
	return strstr(offers, line) != NULL;
}

static void commands(void **state)
{
	assert_true(strncmp(OFFERS(""), ":words\n", 7) == 0);
	assert_true(has("image") && has("ping") && has("completion") && !has("ls"));
	OFFERS("im");
	assert_true(has("image") && !has("ping"));
	OFFERS("image", "");
	assert_true(has("ls") && has("import") && !has("image") && !has("ping"));
	OFFERS("--socket", "/nowhere", "op", "s");
	assert_true(has("show") && !has("ls"));
	OFFERS("help", "f");
	assert_true(has("fs"));
}

static void options(void **state)
{
	OFFERS("image", "ls", "--");
	assert_true(has("--drafts") && has("--json") && !has("--name"));
	OFFERS("--j");
	assert_true(has("--json") && !has("--drafts"));
	OFFERS("vm", "run", "--accel", "k");
	assert_string_equal(offers, ":words\nkvm\t\n");
	/* As bash parts it, and as other shells do not. */
	OFFERS("vm", "run", "--accel", "=", "t");
	assert_string_equal(offers, ":words\ntcg\t\n");
	OFFERS("vm", "run", "--accel", "=");
	assert_true(has("kvm") && has("auto"));
	OFFERS("vm", "run", "--accel=t");
	assert_string_equal(offers, ":words\n--accel=tcg\t\n");
}

static void files(void **state)
{
	assert_string_equal(OFFERS("image", "import", "x"), ":files\n");
	assert_string_equal(OFFERS("image", "import", "-n", "web", "x"), ":files\n");
	assert_string_equal(OFFERS("fs", "mount", ""), ":directories\n");
	assert_string_equal(OFFERS("ping", "--socket", ""), ":files\n");
	assert_string_equal(OFFERS("vm", "run", "web", "--", "/bin/"), ":files\n");
	assert_string_equal(OFFERS("vm", "exec", "web", "ls", "-"), ":files\n");
	assert_string_equal(OFFERS("vm", "--socket", "/nowhere", "exec", "web", ""), ":files\n");
	assert_string_equal(OFFERS("vm", "--socket", "/nowhere", "cp", "x"), ":files\n");
	assert_string_equal(OFFERS("vm", "--socket", "/nowhere", "stop", "a", ""), ":words\n");
	assert_string_equal(
		OFFERS("vm", "ls", "--state", "sto"), ":words\nstopping\t\nstopped\t\n");
	assert_string_equal(OFFERS("image", "import", "--name", "w"), ":words\n");
	assert_string_equal(OFFERS("ping", "x"), ":words\n");
	assert_string_equal(OFFERS("nonsense", "x"), ":words\n");
	assert_string_equal(OFFERS("--socket", "/nowhere", "image", "show", ""), ":words\n");
}

static void scripts(void **state)
{
	static const char *const shells[] = {"bash", "zsh", "fish"};

	for (size_t i = 0; i < ELEMENTSOF(shells); i++) {
		char *text = NULL;
		size_t size = 0;
		FILE *f = open_memstream(&text, &size);

		assert_int_equal(completion_script(f, shells[i]), 0);
		fclose(f);
		assert_non_null(strstr(text, "--complete"));
		free(text);
	}
	assert_int_equal(completion_script(stdout, "csh"), -EINVAL);
}

static int done(void **state)
{
	free(offers);
	offers = NULL;
	return 0;
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(commands),
		cmocka_unit_test(options),
		cmocka_unit_test(files),
		cmocka_unit_test(scripts),
	};
	return cmocka_run_group_tests_name("ctl/completion", tests, NULL, done);
}
