/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The allocator is a cursor. `wall` is the first block of the next group that begins with a copy of
 * the superblock; the cursor is never inside such a copy. What a row of blocks does not fit into
 * before a wall stays free.
 */
#include "unpack/builder/space.h"

#include <errno.h>

static bool power_of(uint32_t n, uint32_t base)
{
	while (n > 1 && n % base == 0)
		n /= base;
	return n == 1;
}

bool space_has_copy(uint32_t group)
{
	return group <= 1 || power_of(group, 3) || power_of(group, 5) || power_of(group, 7);
}

static void find_wall(struct space *s)
{
	uint64_t group = s->next / SPACE_GROUP + 1;

	while (!space_has_copy(group))
		group++;
	s->wall = group * SPACE_GROUP;
}

void space_init(struct space *s, uint32_t head, uint64_t end)
{
	*s = (struct space){.next = head, .head = head, .end = end};
	find_wall(s);
}

static void step_over(struct space *s)
{
	s->next = s->wall + s->head;
	find_wall(s);
}

uint32_t space_take(struct space *s, uint32_t want, uint64_t *ret)
{
	if (s->next == s->wall)
		step_over(s);
	uint64_t stop = s->wall < s->end ? s->wall : s->end;
	if (s->next >= stop)
		return 0;
	uint64_t n = stop - s->next;
	if (n > want)
		n = want;
	*ret = s->next;
	s->next += n;
	return n;
}

int space_take_row(struct space *s, uint32_t n, uint64_t *ret)
{
	while (s->wall - s->next < n) {
		if (s->wall >= s->end)
			return -ENOSPC;
		step_over(s);
	}
	if (s->next + n > s->end)
		return -ENOSPC;
	*ret = s->next;
	s->next += n;
	return 0;
}
