/* SPDX-License-Identifier: Apache-2.0 */
/* Which mounts a namespace of a VM's keeps. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include <stdlib.h>
#include "vm/mounts.h"

#define LINE(point) "36 35 98:0 /mnt1 " point " rw,noatime master:1 - ext3 /dev/root rw\n"

static const char *const keep[] = {
	"/srv/banger/vms/1", "/run/banger/bangerd.sock", "/opt/tools/virtiofsd", NULL};

/* The points joined by blanks. */
static char *unneeded(const char *text)
{
	static char joined[1024];
	FILE *f = fmemopen((char *)text, strlen(text), "r");
	char **points;

	joined[0] = '\0';
	assert_int_equal(mounts_unneeded(f, keep, &points), 0);
	fclose(f);
	for (char **p = points; *p; p++) {
		strcat(joined, *p);
		strcat(joined, " ");
	}
	mounts_done(&points);
	assert_null(points);
	return joined;
}

static void the_system_stays(void **state)
{
	assert_string_equal(unneeded(LINE("/") LINE("/proc") LINE("/dev") LINE("/dev/shm")
					    LINE("/usr") LINE("/usr/share/x") LINE("/sys/fs/cgroup")
						    LINE("/etc/resolv.conf") LINE("/nix/store")),
		"");
}

static void what_holds_a_path_stays(void **state)
{
	assert_string_equal(unneeded(LINE("/srv") LINE("/srv/banger") LINE("/srv/banger/vms/1")
					    LINE("/run") LINE("/run/banger")),
		"");
	/* Beside them, and names that only begin alike. */
	assert_string_equal(unneeded(LINE("/srv/banger2") LINE("/srv/banger/vms/2")
					    LINE("/run/bang") LINE("/lib6")),
		"/lib6 /run/bang /srv/banger/vms/2 /srv/banger2 ");
}

static void the_last_goes_first(void **state)
{
	assert_string_equal(unneeded(LINE("/") LINE("/mnt") LINE("/mnt/usb") LINE("/mnt")),
		"/mnt /mnt/usb /mnt ");
}

static void odd_lines(void **state)
{
	assert_string_equal(unneeded(LINE("/mnt/a\\040b\\134c")), "/mnt/a b\\c ");
	assert_string_equal(unneeded(""), "");
	assert_string_equal(unneeded("\n1 2 3\n36 35 98:0 /mnt1\n36 35 98:0 /mnt1 relative x\n36 "
				     "35 98:0 / /mnt/short"),
		"/mnt/short ");
}

int main(void)
{
	const struct CMUnitTest tests[] = {
		cmocka_unit_test(the_system_stays),
		cmocka_unit_test(what_holds_a_path_stays),
		cmocka_unit_test(the_last_goes_first),
		cmocka_unit_test(odd_lines),
	};
	return cmocka_run_group_tests_name("vm/mounts", tests, NULL, NULL);
}
