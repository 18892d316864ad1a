/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The calling thread waits for the reply. A pump beside it, one thread with one poll(2), carries bytes between terminals
 * and pipes, takes all signals, and looks how far a VM is that has to boot first. A stream is one buffer: it is read
 * when that is empty and written while it is not, so who does not read holds up who writes, and nothing grows.
 *
 *	boots    (a view is there) signals cancel the operation; the terminal is as the user has it
 *	begun    signals are forwarded, the terminal is raw if the program has one
 *	done     the reply is here: what the pipes still hold is shown, the modes come back, the thread ends
 *
 * Signals are blocked in every thread while this lasts and read from a descriptor, so nothing happens in a handler. What
 * was ignored when we were started stays ignored. SIGTSTP is taken only while the terminal is raw, when it cannot come
 * from a key: modes are restored, the process stops itself, and when it goes on in the foreground they are set again.
 *
 * The daemon's ends of pipes are ours too until the call returns; then they are closed, so that the pump sees an end.
 */
#include "relay.h"

#include <fcntl.h>
#include <poll.h>
#include <pthread.h>
#include <string.h>
#include <sys/eventfd.h>
#include <sys/signalfd.h>
#include <banger/log.h>
#include "terminal.h"

#define PIECE 16384
#define LOOK_MS 100
#define PATIENCE 3        /* signals that mean "stop" before they mean it for us */
#define ORPHAN_US 2000000 /* what a program has after its terminal went away */

struct stream {
	int from, to; /* -1: closed */
	size_t off, len;
	char buf[PIECE];
};

struct pump {
	struct ctl *c;
	struct relay *relay;
	banger_op_id op;
	int signals, done, control; /* control: our end, -1: none */
	struct stream in, out, err;
	bool begun, over, raw;
	unsigned stops;    /* signals that mean "stop" which were forwarded */
	int signal;        /* that cancelled the operation */
	int64_t orphan_at; /* the terminal is gone: when to give up; 0: it is there */
	unsigned short rows, cols;
};

/* The daemon's descriptors: ours to close when `own`. */
struct given {
	int fd[4];
	bool own[4];
	size_t n;
};

static void given_done(struct given *g)
{
	for (size_t i = 0; i < g->n; i++)
		if (g->own[i])
			close(g->fd[i]);
	g->n = 0;
}

static void give(struct given *g, int fd, bool own)
{
	g->own[g->n] = own;
	g->fd[g->n++] = fd;
}

/* ---- streams */

static void stop_stream(struct stream *s)
{
	banger_closep(&s->from);
	banger_closep(&s->to);
	s->from = s->to = -1;
	s->len = 0;
}

/* What came is in the buffer; at the end the other side is closed too. */
static void read_stream(struct stream *s)
{
	ssize_t n = read(s->from, s->buf, sizeof(s->buf));

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n <= 0)
		return stop_stream(s);
	s->off = 0;
	s->len = (size_t)n;
}

static void write_stream(struct stream *s)
{
	ssize_t n = write(s->to, s->buf + s->off, s->len);

	if (n < 0 && (errno == EINTR || errno == EAGAIN))
		return;
	if (n < 0)
		return stop_stream(s);
	s->off += (size_t)n;
	s->len -= (size_t)n;
}

/* ---- beginning */

static void say_size(struct pump *p)
{
	unsigned short rows = 0, cols = 0;

	if (!p->relay->tty || p->control < 0 || !terminal_size(&rows, &cols) ||
		(rows == p->rows && cols == p->cols))
		return;
	p->rows = rows;
	p->cols = cols;
	dprintf(p->control, "resize %hu %hu\n", rows, cols);
}

static void make_raw(struct pump *p)
{
	if (p->raw)
		(void)terminal_raw(STDIN_FILENO, NULL);
}

static void begin(struct pump *p)
{
	if (p->begun)
		return;
	p->begun = true;
	if (p->relay->view)
		vm_view_end(p->relay->view);
	make_raw(p);
	say_size(p);
}

static void look(struct pump *p, bool show)
{
	if (show)
		vm_view_tick(p->relay->view);
	else
		(void)vm_view_look(p->relay->view);
	if (strcmp(vm_view_phase(p->relay->view), "command") == 0)
		begin(p);
}

/* ---- signals */

static void cancel(struct pump *p, int number)
{
	bool again = p->signal != 0;

	if (!again)
		p->signal = number;
	if (again || ctl_cancel(p->c, p->op.s) < 0)
		banger_client_shutdown(p->c->client);
}

/* Stop, as Ctrl-Z would have done without us between. */
static void suspend(struct pump *p)
{
	terminal_restore();
	kill(getpid(), SIGSTOP);
}

static void go_on(struct pump *p)
{
	/* A shell may have changed the modes meanwhile: they are taken anew. */
	if (p->begun && p->raw) {
		terminal_restore();
		make_raw(p);
	}
	say_size(p);
}

static void forward(struct pump *p, int number)
{
	bool stop = number != SIGUSR1 && number != SIGUSR2;

	if (stop && ++p->stops >= PATIENCE)
		return cancel(p, number);
	if (p->control >= 0)
		dprintf(p->control, "signal %d\n", number);
	if (number == SIGHUP && p->raw && !p->orphan_at)
		p->orphan_at = banger_monotonic_us() + ORPHAN_US;
}

static void take_signal(struct pump *p)
{
	struct signalfd_siginfo info;

	if (read(p->signals, &info, sizeof(info)) != sizeof(info))
		return;
	int number = (int)info.ssi_signo;
	if (number == SIGWINCH)
		return p->begun ? say_size(p) : (void)0;
	if (number == SIGTSTP)
		return suspend(p);
	if (number == SIGCONT)
		return go_on(p);
	if (p->over) { /* the terminal takes no more output */
		stop_stream(&p->out);
		stop_stream(&p->err);
		return;
	}
	if (!p->begun)
		look(p, false);
	if (p->begun && p->relay->program)
		forward(p, number);
	else
		cancel(p, number);
}

/* ---- keys */

/* The escape key leaves: nobody reads the output any more, which is how the daemon knows. */
static void leave(struct pump *p)
{
	p->relay->left = true;
	stop_stream(&p->in);
	if (p->out.from >= 0)
		stop_stream(&p->out);
	else
		(void)ctl_cancel(p->c, p->op.s);
}

static void look_for_escape(struct pump *p)
{
	const char *key = p->relay->escape >= 0 && p->raw
				  ? memchr(p->in.buf, p->relay->escape, p->in.len)
				  : NULL;

	if (!key)
		return;
	size_t before = (size_t)(key - p->in.buf);
	if (before > 0 && write(p->in.to, p->in.buf, before) < 0)
		errno = 0; /* nobody is there */
	leave(p);
}

static void read_keys(struct pump *p)
{
	read_stream(&p->in);
	if (p->in.len > 0)
		look_for_escape(p);
}

/* ---- the pump */

static bool idle(const struct pump *p)
{
	return p->out.from < 0 && p->err.from < 0;
}

static int patience(const struct pump *p)
{
	if (p->orphan_at)
		return 250;
	bool looks = p->relay->view && !p->begun && !p->over &&
		     (p->c->notices || p->in.from >= 0 || p->relay->tty);

	return looks ? LOOK_MS : -1;
}

static void output(struct pump *p, struct stream *s, short from, short to)
{
	if (s->from >= 0 && s->len == 0 && from) {
		read_stream(s);
		if (s->len > 0)
			begin(p);
	} else if (s->to >= 0 && s->len > 0 && to) {
		write_stream(s);
	}
}

static void turn(struct pump *p)
{
	enum { SIGNALS, DONE, KEYS, INPUT, OUT, SHOWN, ERR, SAID, COUNT };
	const struct stream *in = &p->in, *out = &p->out, *err = &p->err;
	/* Keys that are typed while a VM boots are for the shell, or for the program when it is there. */
	bool keys = in->from >= 0 && in->len == 0 && p->begun && !p->over;
	struct pollfd f[COUNT] = {{p->signals, POLLIN, 0}, {p->over ? -1 : p->done, POLLIN, 0},
		{keys ? in->from : -1, POLLIN, 0}, {in->len > 0 ? in->to : -1, POLLOUT, 0},
		{out->len == 0 ? out->from : -1, POLLIN, 0},
		{out->len > 0 ? out->to : -1, POLLOUT, 0},
		{err->len == 0 ? err->from : -1, POLLIN, 0},
		{err->len > 0 ? err->to : -1, POLLOUT, 0}};

	int n = poll(f, COUNT, patience(p));
	if (n < 0)
		return;
	if (n == 0 && !p->orphan_at)
		look(p, true);
	if (p->orphan_at && !p->signal && banger_monotonic_us() > p->orphan_at)
		cancel(p, SIGHUP);
	if (f[KEYS].revents)
		read_keys(p);
	else if (f[INPUT].revents)
		write_stream(&p->in);
	output(p, &p->out, f[OUT].revents, f[SHOWN].revents);
	output(p, &p->err, f[ERR].revents, f[SAID].revents);
	if (f[DONE].revents) {
		p->over = true;
		stop_stream(&p->in);
	}
	if (f[SIGNALS].revents)
		take_signal(p);
}

static void *run(void *arg)
{
	struct pump *p = arg;
	_cleanup_op_ banger_op_id saved = banger_op_enter(p->op.s);

	if (!p->relay->view)
		begin(p);
	while (!p->over || !idle(p))
		turn(p);
	if (p->relay->view)
		vm_view_end(p->relay->view);
	terminal_restore();
	return NULL;
}

/* ---- making it */

/* A pipe of which one end is for the daemon. Ours does not wait. */
static int make_pipe(struct given *g, bool daemon_reads, int *ret_ours, struct banger_error *err)
{
	int p[2];

	if (pipe2(p, O_CLOEXEC) < 0)
		return banger_error_set_errno(err, errno, "cannot make a pipe");
	int ours = p[daemon_reads ? 1 : 0];
	(void)fcntl(ours, F_SETFL, O_NONBLOCK);
	give(g, p[daemon_reads ? 0 : 1], true);
	*ret_ours = ours;
	return 0;
}

static int give_nothing(struct given *g, struct banger_error *err)
{
	int fd = open("/dev/null", O_RDWR | O_CLOEXEC);

	if (fd < 0)
		return banger_error_set_errno(err, errno, "cannot open /dev/null");
	give(g, fd, true);
	return 0;
}

static int give_input(struct pump *p, struct given *g, struct banger_error *err)
{
	if (!p->relay->in)
		return give_nothing(g, err);
	if (!isatty(STDIN_FILENO)) {
		give(g, STDIN_FILENO, false);
		return 0;
	}
	p->raw = p->relay->tty || p->relay->raw;
	int r = make_pipe(g, true, &p->in.to, err);
	if (r < 0)
		return r;
	/* Read when poll(2) says so, which of a terminal is enough. */
	p->in.from = fcntl(STDIN_FILENO, F_DUPFD_CLOEXEC, 3);
	return p->in.from < 0 ? banger_error_set_errno(err, errno, "cannot read the terminal") : 0;
}

static int give_output(struct given *g, int fd, struct stream *s, struct banger_error *err)
{
	if (!isatty(fd)) {
		give(g, fd, false);
		return 0;
	}
	int r = make_pipe(g, false, &s->from, err);
	if (r < 0)
		return r;
	s->to = terminal_reopen(fd, O_WRONLY);
	return s->to < 0 ? banger_error_set_errno(err, errno, "cannot write to the terminal") : 0;
}

static int give_all(struct pump *p, struct given *g, struct banger_error *err)
{
	int r = give_input(p, g, err);

	if (r == 0)
		r = give_output(g, STDOUT_FILENO, &p->out, err);
	if (r < 0 || !p->relay->program)
		return r;
	r = give_output(g, STDERR_FILENO, &p->err, err);
	return r < 0 ? r : make_pipe(g, true, &p->control, err);
}

static void add_signal(sigset_t *set, int number)
{
	struct sigaction sa;

	if (sigaction(number, NULL, &sa) == 0 && sa.sa_handler != SIG_IGN)
		sigaddset(set, number);
}

static void all_signals(const struct pump *p, sigset_t *set)
{
	ctl_stop_signals(set);
	if (p->relay->program) {
		add_signal(set, SIGQUIT);
		add_signal(set, SIGUSR1);
		add_signal(set, SIGUSR2);
	}
	if (p->relay->tty)
		sigaddset(set, SIGWINCH);
	if (p->raw)
		add_signal(set, SIGTSTP);
	sigaddset(set, SIGCONT);
}

static void pump_done(struct pump *p)
{
	stop_stream(&p->in);
	stop_stream(&p->out);
	stop_stream(&p->err);
	banger_closep(&p->signals);
	banger_closep(&p->done);
	banger_closep(&p->control);
}

/* The call with the pump beside it. */
static int pumped_call(struct pump *p, struct given *g, const char *method,
	struct json_object *params, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params;
	pthread_t thread;

	int e = pthread_create(&thread, NULL, run, p);
	if (e)
		return banger_error_set_errno(err, e, "cannot start a thread");
	int r = ctl_call_fds(p->c, method, TAKE_PTR(owned), g->fd, g->n, ret, err);
	given_done(g);
	(void)eventfd_write(p->done, 1);
	pthread_join(thread, NULL);
	if (r < 0 && p->signal) {
		p->c->signal = p->signal;
		if (p->c->unreachable)
			r = banger_error_set(err, BANGER_CANCELLED, "cancelled");
		p->c->unreachable = false;
	}
	return r;
}

int ctl_call_relayed(struct ctl *c, struct relay *relay, const char *method,
	struct json_object *params, struct json_object **ret, struct banger_error *err)
{
	_cleanup_json_ struct json_object *owned = params;
	_cleanup_(given_done) struct given given = {.n = 0};
	_cleanup_(pump_done) struct pump p = {.c = c,
		.relay = relay,
		.signals = -1,
		.done = -1,
		.control = -1,
		.in = {.from = -1, .to = -1},
		.out = {.from = -1, .to = -1},
		.err = {.from = -1, .to = -1}};
	sigset_t ours, before;

	int r = ctl_connect(c, err);
	if (r == 0)
		r = give_all(&p, &given, err);
	if (r < 0)
		return r;
	snprintf(p.op.s, sizeof(p.op.s), "%s", banger_op_current() ? banger_op_current() : "");
	terminal_size(&p.rows, &p.cols);
	(void)signal(SIGPIPE, SIG_IGN); /* a reader that is gone is an error of write(2) */
	all_signals(&p, &ours);
	pthread_sigmask(SIG_BLOCK, &ours, &before);
	p.signals = signalfd(-1, &ours, SFD_CLOEXEC);
	p.done = eventfd(0, EFD_CLOEXEC);
	r = p.signals < 0 || p.done < 0
		    ? banger_error_set_errno(err, errno, "cannot watch for signals")
		    : pumped_call(&p, &given, method, TAKE_PTR(owned), ret, err);
	/* Not unblocked before main() has said the error: a second signal would kill us first. */
	if (!c->signal)
		pthread_sigmask(SIG_SETMASK, &before, NULL);
	return r;
}

int relay_add_size(struct json_object *params, struct banger_error *err)
{
	unsigned short rows, cols;

	if (!terminal_size(&rows, &cols))
		return 0;
	if (banger_json_add_int(params, "rows", rows) < 0 ||
		banger_json_add_int(params, "cols", cols) < 0)
		return banger_error_oom(err);
	return 0;
}
