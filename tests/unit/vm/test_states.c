/* SPDX-License-Identifier: Apache-2.0 */
/* The table of states, what a start finds, the text of /proc/PID/stat. */
#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>
#include <cmocka.h>
#include "vm/recover.h"
#include "vm/states.h"

static void followers(void **state)
{
	static const struct {
		enum banger_vm_state from;
		const char *to; /* one character for each state: may follow or not */
	} table[] = {
		/*			  c s r p S s f */
		{BANGER_VM_CREATED, "0100000"},
		{BANGER_VM_STARTING, "0010111"},
		{BANGER_VM_RUNNING, "0001111"},
		{BANGER_VM_PAUSED, "0010111"},
		{BANGER_VM_STOPPING, "0000011"},
		{BANGER_VM_STOPPED, "0100000"},
		{BANGER_VM_FAILED, "0100000"},
	};

	for (size_t i = 0; i < ELEMENTSOF(table); i++)
		for (int to = 0; to < BANGER_VM_STATE_COUNT; to++)
			assert_int_equal(
				vm_state_may_follow(table[i].from, to), table[i].to[to] == '1');
	assert_false(vm_state_may_follow(BANGER_VM_STATE_COUNT, BANGER_VM_STOPPED));
	assert_false(vm_state_may_follow(BANGER_VM_CREATED, BANGER_VM_STATE_COUNT));
}

/* A VM with a VMM can always be found dead, and one without can always be started: nothing is a dead end. */
static void no_dead_ends(void **state)
{
	for (int s = 0; s < BANGER_VM_STATE_COUNT; s++)
		assert_true(vm_state_may_follow(
			s, vm_state_has_vmm(s) ? BANGER_VM_FAILED : BANGER_VM_STARTING));
}

static void refusals(void **state)
{
	struct banger_vm v = {.name = "web", .state = BANGER_VM_STOPPED};
	struct banger_error err;

	assert_int_equal(vm_state_refuse(&v, "paused", &err), -EINVAL);
	assert_string_equal(
		err.message, "VM \"web\" is stopped and cannot be paused: start it first");
	v.state = BANGER_VM_RUNNING;
	assert_int_equal(vm_state_refuse(&v, "resumed", &err), -EINVAL);
	assert_string_equal(err.message, "VM \"web\" is running and cannot be resumed");
}

static void what_a_start_finds(void **state)
{
	struct banger_vm v = {
		.state = BANGER_VM_RUNNING, .pid = 10, .pid_start = 500, .boot_id = "a"};

	assert_int_equal(recover_decide(&v, "a", 500), RECOVER_FIND);
	assert_int_equal(recover_decide(&v, "a", -1), RECOVER_DEAD);
	assert_int_equal(
		recover_decide(&v, "a", 501), RECOVER_DEAD); /* another process has its pid */
	assert_int_equal(recover_decide(&v, "b", 500), RECOVER_REBOOTED);
	v.state = BANGER_VM_STARTING;
	assert_int_equal(recover_decide(&v, "a", 500), RECOVER_FIND);
	v.pid = 0;
	assert_int_equal(recover_decide(&v, "a", 500), RECOVER_DEAD);
	v.state = BANGER_VM_STOPPED;
	assert_int_equal(recover_decide(&v, "a", -1), RECOVER_KEEP);
	assert_int_equal(recover_decide(&v, "b", -1), RECOVER_KEEP);
}

static void stat_texts(void **state)
{
	static const char tail[] = " 1 7 7 0 -1 4194304 1 0 0 0 1 2 0 0 20 0 3 0 987654 1 2 3\n";
	char text[256];

	snprintf(text, sizeof(text), "7 (qemu) S%s", tail);
	assert_int_equal(recover_parse_stat(text), 987654);
	snprintf(text, sizeof(text), "7 (a) Z 1 (b) S%s", tail);
	assert_int_equal(recover_parse_stat(text), 987654);
	snprintf(text, sizeof(text), "7 (qemu) Z%s", tail);
	assert_int_equal(recover_parse_stat(text), -1);
	assert_int_equal(recover_parse_stat(""), -1);
	assert_int_equal(recover_parse_stat("7 (qemu) S 1 2"), -1);
}

int main(void)
{
	const struct CMUnitTest tests[] = {cmocka_unit_test(followers),
		cmocka_unit_test(no_dead_ends), cmocka_unit_test(refusals),
		cmocka_unit_test(what_a_start_finds), cmocka_unit_test(stat_texts)};
	return cmocka_run_group_tests(tests, NULL, NULL);
}
