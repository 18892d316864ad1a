/* SPDX-License-Identifier: Apache-2.0 */
/* Published ports: what is one, and whether it is free. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <arpa/inet.h>
#include <sys/socket.h>
#include "vm/publish.h"

static void good(void **state)
{
	struct publish p = {.n = 0};
	_cleanup_free_ char *text = NULL;

	assert_int_equal(publish_add(&p, "8080:80", NULL), 0);
	assert_int_equal(publish_add(&p, "0.0.0.0:53:5353/udp", NULL), 0);
	assert_int_equal(publish_add(&p, "127.0.0.1:8081:65535/tcp", NULL), 0);
	assert_int_equal(publish_to_text(&p, &text), 0);
	assert_string_equal(text,
		"[\"127.0.0.1:8080:80/tcp\",\"0.0.0.0:53:5353/udp\",\"127.0.0.1:8081:65535/tcp\"]");
	struct publish again;
	assert_int_equal(publish_from_text(text, &again, NULL), 0);
	assert_int_equal(again.n, 3);
	assert_true(again.v[1].udp && again.v[1].host == 53 && again.v[1].guest == 5353);
}

static void bad(void **state)
{
	static const char *const words[] = {"", "80", ":80", "80:", "0:80", "80:65536", "x:80",
		"80:80/sctp", "80:80/", "1.2.3:80:80", "localhost:80:80", "[::1]:80:80",
		"1.2.3.4:80:80:80", "-1:80", "080808:80", "127.0.0.1,x=y:80:80", "80:80/tcp,x"};

	for (size_t i = 0; i < ELEMENTSOF(words); i++) {
		struct publish p = {.n = 0};
		struct banger_error err = {0};

		assert_int_equal(publish_add(&p, words[i], &err), -EINVAL);
		assert_non_null(strstr(err.message, words[i]));
	}
	struct publish p = {.n = 0};
	assert_int_equal(publish_add(&p, "80:80", NULL), 0);
	assert_int_equal(publish_add(&p, "80:81", NULL), -EINVAL);
	assert_int_equal(publish_add(&p, "80:80/udp", NULL), 0);
}

static void too_many(void **state)
{
	struct publish p = {.n = 0};
	char word[32];

	for (int i = 0; i <= PUBLISH_MAX; i++) {
		snprintf(word, sizeof(word), "%d:80", 1000 + i);
		assert_int_equal(publish_add(&p, word, NULL), i < PUBLISH_MAX ? 0 : -EINVAL);
	}
}

static void in_use(void **state)
{
	struct sockaddr_in a = {.sin_family = AF_INET, .sin_addr.s_addr = htonl(INADDR_LOOPBACK)};
	socklen_t len = sizeof(a);
	struct publish p = {.n = 0};
	struct banger_error err;
	char word[32];
	int fd = socket(AF_INET, SOCK_STREAM, 0);

	assert_int_equal(bind(fd, (struct sockaddr *)&a, sizeof(a)), 0);
	assert_int_equal(listen(fd, 1), 0);
	getsockname(fd, (struct sockaddr *)&a, &len);
	snprintf(word, sizeof(word), "%u:80", ntohs(a.sin_port));
	assert_int_equal(publish_add(&p, word, NULL), 0);
	assert_int_equal(publish_check(&p, &err), -EBUSY);
	assert_non_null(strstr(err.message, "is in use"));
	close(fd);
	assert_int_equal(publish_check(&p, &err), 0);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(good), cmocka_unit_test(bad),
		cmocka_unit_test(too_many), cmocka_unit_test(in_use)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
