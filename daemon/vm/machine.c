/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The thread polls the process (pidfd), the control channel and the console. A console that floods is read at
 * CONSOLE_RATE and no faster: what is not read stays in its FIFO, and when that is full the guest waits, nobody else.
 *
 * A session that is lost while the VMM runs is followed by another: the agent was killed and started again (a process in
 * the guest can do that), or the guest broke the protocol. They are few, because a session takes memory and is kept as long
 * as the machine, for whoever still has its pointer: a guest that loses SESSIONS of them gets no more until its next start.
 *
 * `gone` becomes readable when the thread is done; so waiting for it is a poll, together with a cancellation.
 */
#include "vm/machine.h"
#include "vm/console.h"
#include <banger/log.h>
#include <banger/model.h>
#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <signal.h>
#include <stdatomic.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/syscall.h>
#include <sys/wait.h>

#define CONSOLE_RATE (2 * 1024 * 1024) /* bytes a second */
#define CONSOLE_PIPE (256 * 1024)      /* so much is kept while no daemon reads */
#define STACK (256 * 1024)
#define LAST_READS 64 /* when the VMM is gone; the console's pipe is empty after a few */
#define SESSIONS 16
#define AGAIN_MS 100      /* from the end of a session to the next, */
#define AGAIN_MAX_MS 5000 /* twice as long each time that it cannot be had */

struct machine {
	atomic_int refs;
	const struct vmm_driver *driver;
	char name[BANGER_NAME_MAX + 1];
	struct vmm vmm;
	bool found;
	struct vmm_control *control;
	struct session *sessions[SESSIONS]; /* the one of now is the last */
	atomic_uint n_sessions;
	atomic_bool unusable; /* the agent said so */
	int lost;             /* eventfd: the session of now is over */
	int dir_fd;
	struct console *console;
	void (*over)(void *arg, const struct machine_end *end);
	void *arg;
	int leave, gone; /* eventfds */
	struct machine_end end;
	/* Of the console's rate. */
	int64_t second;
	size_t read_in_second;
};

struct machine *machine_ref(struct machine *m)
{
	atomic_fetch_add(&m->refs, 1);
	return m;
}

void machine_unrefp(struct machine **p)
{
	struct machine *m = *p;

	*p = NULL;
	if (!m || atomic_fetch_sub(&m->refs, 1) > 1)
		return;
	for (unsigned i = 0; i < m->n_sessions; i++)
		session_freep(&m->sessions[i]);
	m->driver->control_close(&m->control);
	console_freep(&m->console);
	banger_closep(&m->vmm.pidfd);
	banger_closep(&m->vmm.port);
	banger_closep(&m->vmm.control);
	banger_closep(&m->leave);
	banger_closep(&m->gone);
	banger_closep(&m->lost);
	free(m);
}

struct session *machine_session(struct machine *m)
{
	return m->sessions[atomic_load(&m->n_sessions) - 1];
}

struct vmm_control *machine_control(struct machine *m)
{
	return m->control;
}

void machine_kill(struct machine *m)
{
	if (syscall(SYS_pidfd_send_signal, m->vmm.pidfd, SIGKILL, NULL, 0) < 0 && errno != ESRCH)
		log_warn("cannot kill a VM", KV_S("vm", m->name),
			KV_S("error", strerrordesc_np(errno)));
}

void machine_leave(struct machine *m)
{
	eventfd_write(m->leave, 1);
}

int machine_wait(struct machine *m, int timeout_ms, int cancel_fd, struct banger_error *err)
{
	struct pollfd p[2] = {{m->gone, POLLIN, 0}, {cancel_fd, POLLIN, 0}};
	int64_t by = banger_monotonic_us() + timeout_ms * INT64_C(1000);

	for (;;) {
		int64_t left = (by - banger_monotonic_us()) / 1000;

		poll(p, 2, left > 0 ? (int)left : 0);
		if (p[0].revents)
			return 0;
		if (p[1].revents)
			return banger_error_set(err, BANGER_CANCELLED, "cancelled");
		if (left <= 0)
			return banger_error_set(
				err, BANGER_TIMEOUT, "VM \"%s\" did not end in time", m->name);
	}
}

/* ---- what it says */

static void on_event(void *arg, enum vmm_event_kind kind)
{
	static const char *const names[] = {[VMM_PAUSED] = "paused",
		[VMM_RESUMED] = "resumed",
		[VMM_POWERED_OFF] = "powered off",
		[VMM_RESET] = "reset",
		[VMM_ENDING] = "ending",
		[VMM_PANICKED] = "panicked"};
	struct machine *m = arg;

	log_debug("the VMM says", KV_S("vm", m->name), KV_S("event", names[kind]));
	m->end.powered_off |= kind == VMM_POWERED_OFF;
	m->end.reset |= kind == VMM_RESET;
	m->end.panicked |= kind == VMM_PANICKED;
}

static void on_session(void *arg, enum session_event event, const char *text)
{
	struct machine *m = arg;

	if (event == SESSION_READY)
		log_debug("the VM's agent is ready", KV_S("vm", m->name));
	else
		log_debug(event == SESSION_FAILED ? "the VM's agent gave up"
						  : "the VM's agent is away",
			KV_S("vm", m->name), KV_S("reason", text));
	if (event == SESSION_FAILED)
		atomic_store(&m->unusable, true);
	if (event == SESSION_LOST)
		eventfd_write(m->lost, 1);
}

static int open_session(struct machine *m, struct banger_error *err)
{
	struct session *s = NULL;

	int r = m->vmm.port >= 0 ? 0 : m->driver->port_open(m->dir_fd, &m->vmm.port, err);
	if (r < 0)
		return r;
	const struct session_options o = {
		.port = TAKE_FD(m->vmm.port), .vm = m->name, .event = on_session, .arg = m};
	r = session_new(&o, &s, err);
	if (r < 0)
		return r;
	unsigned n = atomic_load(&m->n_sessions);
	m->sessions[n] = s;
	atomic_store(&m->n_sessions, n + 1);
	return 0;
}

/* When there shall be another session. */
struct again {
	int64_t at; /* 0: there is one */
	int ms;
};

/* May the console be read now? Otherwise *ret_ms is when to ask again. */
static bool within_rate(struct machine *m, int *ret_ms)
{
	int64_t now = banger_monotonic_us();

	if (now / 1000000 != m->second) {
		m->second = now / 1000000;
		m->read_in_second = 0;
	}
	if (m->read_in_second < CONSOLE_RATE)
		return true;
	*ret_ms = (int)(1000 - now % 1000000 / 1000);
	return false;
}

/* Another session, some time after the last is over. Returns how long to wait for that: -1 for ever. */
static int follow_session(struct machine *m, struct again *a)
{
	struct banger_error err = {0};
	eventfd_t n;

	if (eventfd_read(m->lost, &n) == 0 && !atomic_load(&m->unusable))
		*a = (struct again){banger_monotonic_us() + AGAIN_MS * 1000LL, AGAIN_MS};
	if (a->at == 0 || atomic_load(&m->n_sessions) == SESSIONS)
		return -1;
	int64_t left = (a->at - banger_monotonic_us() + 999) / 1000;
	if (left > 0)
		return (int)left;
	if (open_session(m, &err) == 0) {
		a->at = 0;
		return -1;
	}
	log_debug("the VM's agent cannot be reached", KV_S("vm", m->name), KV_ERR(&err));
	a->ms = a->ms * 2 < AGAIN_MAX_MS ? a->ms * 2 : AGAIN_MAX_MS;
	a->at = banger_monotonic_us() + a->ms * 1000LL;
	return a->ms;
}

static int sooner(int a, int b)
{
	return a < 0 || (b >= 0 && b < a) ? b : a;
}

static void lose_control(struct machine *m)
{
	log_debug("the VMM's control channel is closed", KV_S("vm", m->name));
}

/* 1: it has ended; 0: it was left. */
static int watch(struct machine *m)
{
	struct again again = {0};
	bool control = true;

	for (;;) {
		enum { PROCESS, LEAVE, CONTROL, CONSOLE, LOST, COUNT };
		int ms = -1;
		bool console = within_rate(m, &ms);
		ms = sooner(ms, follow_session(m, &again));
		struct pollfd p[COUNT] = {[PROCESS] = {m->vmm.pidfd, POLLIN, 0},
			[LEAVE] = {m->leave, POLLIN, 0},
			[CONTROL] = {control ? m->driver->control_fd(m->control) : -1, POLLIN, 0},
			[CONSOLE] = {console ? console_fd(m->console) : -1, POLLIN, 0},
			[LOST] = {m->lost, POLLIN, 0}};

		if (poll(p, COUNT, ms) < 0)
			continue;
		if (p[CONSOLE].revents)
			m->read_in_second += console_read(m->console);
		if (p[CONTROL].revents && m->driver->control_read(m->control) < 0) {
			control = false;
			lose_control(m);
		}
		if (p[LEAVE].revents)
			return 0;
		if (p[PROCESS].revents)
			break;
	}
	/* What is still on its way. Not for ever: a process of the registry may write on, and what the VMM had may live on
	 * in somebody's hands. */
	for (int i = 0; i < LAST_READS && control; i++)
		control = m->driver->control_read(m->control) == 0;
	for (int i = 0; i < LAST_READS && console_read(m->console) > 0; i++)
		;
	return 1;
}

static void reap(struct machine *m)
{
	siginfo_t info = {0};

	if (!m->found && waitid(P_PIDFD, m->vmm.pidfd, &info, WEXITED) == 0) {
		m->end.known = true;
		m->end.code = info.si_code;
		m->end.status = info.si_status;
	}
	console_summary(m->console, m->end.console, sizeof(m->end.console));
}

static void *run(void *arg)
{
	struct machine *m = arg;

	if (watch(m)) {
		reap(m);
		m->over(m->arg, &m->end);
	} else {
		m->over(m->arg, NULL);
	}
	eventfd_write(m->gone, 1);
	machine_unrefp(&m);
	return NULL;
}

/* ---- making one */

static int open_console(struct machine *m, int dir_fd, struct banger_error *err)
{
	int fd = openat(dir_fd, VMM_CONSOLE_OUT, O_RDWR | O_NONBLOCK | O_CLOEXEC | O_NOFOLLOW);

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot open the VM's console");
	fcntl(fd, F_SETPIPE_SZ, CONSOLE_PIPE);
	int r = console_new(dir_fd, "console.log", fd, &m->console, err);
	if (r == 0 && m->found)
		console_recall(m->console);
	return r;
}

static int start_thread(struct machine *m)
{
	pthread_attr_t attr;
	pthread_t thread;

	int e = pthread_attr_init(&attr);
	if (e)
		return e;
	pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
	pthread_attr_setstacksize(&attr, STACK);
	machine_ref(m);
	e = pthread_create(&thread, &attr, run, m);
	pthread_attr_destroy(&attr);
	if (e)
		atomic_fetch_sub(&m->refs, 1);
	return e;
}

int machine_new(const struct machine_options *o, struct machine **ret, struct banger_error *err)
{
	_cleanup_machine_ struct machine *m = calloc(1, sizeof(*m));
	struct vmm vmm = o->vmm;
	int r = 0;

	if (!m) {
		o->found ? banger_closep(&vmm.pidfd) : vmm_done(&vmm);
		return banger_error_oom(err);
	}
	atomic_init(&m->refs, 1);
	m->driver = o->driver;
	snprintf(m->name, sizeof(m->name), "%s", o->name);
	m->vmm = vmm;
	m->found = o->found;
	m->over = o->over;
	m->arg = o->arg;
	m->leave = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->gone = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->lost = eventfd(0, EFD_CLOEXEC | EFD_NONBLOCK);
	m->dir_fd = o->dir_fd;
	if (m->leave < 0 || m->gone < 0 || m->lost < 0)
		r = banger_error_set_errno(err, errno, "cannot watch the VM");
	if (r == 0)
		r = open_console(m, o->dir_fd, err);
	if (r == 0)
		r = m->driver->control_open(
			o->dir_fd, TAKE_FD(m->vmm.control), on_event, m, &m->control, err);
	if (r == 0)
		r = open_session(m, err);
	if (r == 0) {
		int e = start_thread(m);
		if (e)
			r = banger_error_set_errno(err, e, "cannot start a thread");
	}
	if (r < 0) {
		if (!m->found)
			vmm_done(&m->vmm);
		return r;
	}
	*ret = TAKE_PTR(m);
	return 0;
}
