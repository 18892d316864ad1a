/* SPDX-License-Identifier: Apache-2.0 */
/*
 * op_ids, and the operation a thread works for: one thread-local id. There is no list of operations
 * here; that is the daemon's (op/operation.h).
 */
#include <banger/op.h>
#include <fcntl.h>
#include <string.h>
#include <sys/random.h>

static _Thread_local banger_op_id current;

bool banger_op_id_valid(const char *s)
{
	if (!s || strncmp(s, "op-", 3) != 0)
		return false;
	size_t n = strspn(s + 3, "0123456789abcdef");

	return n == BANGER_OP_ID_LEN - 3 && s[3 + n] == '\0';
}

banger_op_id banger_op_id_mint(void)
{
	static const char hex[] = "0123456789abcdef";
	unsigned char raw[(BANGER_OP_ID_LEN - 3) / 2];
	banger_op_id id = {.s = "op-"};

	/* At most 256 bytes from the initialised pool: never short, and EINTR only before it is. */
	while (getrandom(raw, sizeof(raw), 0) != sizeof(raw))
		;
	for (size_t i = 0; i < sizeof(raw); i++) {
		id.s[3 + 2 * i] = hex[raw[i] >> 4];
		id.s[4 + 2 * i] = hex[raw[i] & 15];
	}
	return id;
}

const char *banger_op_current(void)
{
	return current.s[0] ? current.s : NULL;
}

banger_op_id banger_op_enter(const char *op_id)
{
	banger_op_id saved = current;

	/* op_id may be the current one's own storage. */
	memmove(current.s, op_id ? op_id : "", op_id ? strnlen(op_id, BANGER_OP_ID_LEN) + 1 : 1);
	current.s[BANGER_OP_ID_LEN] = '\0';
	return saved;
}

void banger_op_leavep(const banger_op_id *saved)
{
	current = *saved;
}

void banger_actor_resolve(struct banger_actor *actor)
{
	char path[32];
	_cleanup_close_ int fd = -1;

	actor->program[0] = '\0';
	if (actor->pid <= 0)
		return;
	snprintf(path, sizeof(path), "/proc/%d/comm", (int)actor->pid);
	fd = open(path, O_RDONLY | O_CLOEXEC);
	if (fd < 0)
		return;
	ssize_t n = read(fd, actor->program, sizeof(actor->program) - 1);
	if (n < 0)
		n = 0;
	actor->program[n] = '\0';
	actor->program[strcspn(actor->program, "\n")] = '\0';
	/* A process names itself; the name goes into JSON and onto terminals. */
	for (char *p = actor->program; *p; p++)
		if ((unsigned char)*p < 0x20 || (unsigned char)*p >= 0x7F)
			*p = '?';
}
