/* SPDX-License-Identifier: Apache-2.0 */
/* Waiting is by absolute time (FUTEX_WAIT_BITSET), so that spurious wake-ups do not add up. */
#include "page.h"

#include <errno.h>
#include <limits.h>
#include <linux/futex.h>
#include <stddef.h>
#include <sys/mman.h>
#include <sys/syscall.h>
#include <unistd.h>

struct content_page *content_page_map(int fd)
{
	void *p =
		mmap(NULL, sizeof(struct content_page), PROT_READ | PROT_WRITE, MAP_SHARED, fd, 0);

	return p == MAP_FAILED ? NULL : p;
}

struct content_page *content_page_new(int *ret_fd)
{
	int fd = memfd_create("content", MFD_CLOEXEC);
	struct content_page *p = NULL;

	if (fd >= 0 && ftruncate(fd, sizeof(*p)) == 0)
		p = content_page_map(fd);
	if (!p) {
		int e = errno;
		if (fd >= 0)
			close(fd);
		errno = e;
		return NULL;
	}
	atomic_store(&p->generation, -1);
	*ret_fd = fd;
	return p;
}

void content_page_free(struct content_page *p)
{
	if (p)
		munmap(p, sizeof(*p));
}

void content_page_wake(struct content_page *p)
{
	atomic_fetch_add(&p->changes, 1);
	(void)syscall(SYS_futex, &p->changes, FUTEX_WAKE, INT_MAX, NULL, NULL, 0);
}

void content_page_set(struct content_page *p, int64_t generation)
{
	atomic_store(&p->generation, generation);
	content_page_wake(p);
}

int content_page_wait(struct content_page *p, uint32_t seen, const struct timespec *until)
{
	if (syscall(SYS_futex, &p->changes, FUTEX_WAIT_BITSET, seen, until, NULL,
		    FUTEX_BITSET_MATCH_ANY) < 0 &&
		errno == ETIMEDOUT)
		return -ETIMEDOUT;
	return 0;
}
