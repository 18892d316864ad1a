/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The inside of a session: what its thread (session.c) and the threads that wait for a program (session_exec.c) share.
 *
 * The session's thread touches the port only; the thread that called session_exec() touches its client's descriptors
 * only. Between them are rings, one a stream, under the session's lock, which nobody holds while reading, writing or
 * waiting. So a client that is slow, or whose descriptors block, has nobody waiting but its own thread.
 */
#ifndef BANGER_VM_SESSION_CHANNEL_H
#define BANGER_VM_SESSION_CHANNEL_H

#include <pthread.h>
#include "vm/session.h"

#define SESSION_TEXT 800
#define CREDIT_AT (AGENT_WINDOW / 4) /* give credit when so much is owed */

struct ring {
	uint8_t *buf; /* AGENT_WINDOW bytes; NULL: what comes is dropped */
	size_t start, len;
	uint32_t owed;	    /* outputs: written or dropped, credit not given yet */
	bool closed, told;  /* outputs: its reader went away; the agent knows */
};

/* A program or a transfer. Linked into session.channels until its last frame has come; freed by its caller then. A
 * caller that leaves before that abandons it to the session. */
struct channel {
	uint16_t id;
	uint8_t *start; /* the frame that starts it, until that is on its way */
	size_t start_len;
	struct ring in, out[2];	 /* out: stdout, stderr */
	uint32_t window;	 /* stdin bytes that the agent still takes */
	bool in_over, end_sent;	 /* no more stdin will come; END is sent, or the agent wants no more */
	bool waits_for_room;	 /* the caller, in `in` */
	uint64_t signals;	 /* to be sent: bit N is signal N */
	bool resize;
	uint16_t rows, cols;
	bool abandoned;
	/* Its last frame has come, or the session is over: */
	bool ended;
	struct session_result result;
	enum banger_code code; /* not OK: and text says why */
	char text[SESSION_TEXT];
	int wake; /* eventfd: something here changed for the caller */
	bool woken;
};

struct session {
	char vm[130];
	int port, kick, ready; /* kick: eventfd to the thread; ready: eventfd, readable for ever once state is not WAITING */
	void (*event)(void *arg, enum session_event event, const char *text);
	void *arg;
	pthread_t thread;

	pthread_mutex_t lock;
	pthread_cond_t changed; /* pings answered, users gone, the end; CLOCK_MONOTONIC */
	enum { SESSION_WAITING, SESSION_OPEN, SESSION_OVER } state;
	enum banger_code code; /* why it is over, with text */
	char text[SESSION_TEXT];
	bool stop, kicked;
	size_t users; /* threads inside session_…() */
	struct channel *channels[AGENT_CHANNELS + 1]; /* by id; 0 is none */
	unsigned turn;				      /* whose stdin goes first */
	bool power_off;
	uint32_t grace_ms; /* of power_off */
	int64_t set_time; /* 0: not to be set */
	bool registry_lost; /* to be said */
	uint32_t pings, pings_sent, pongs;

	/* Of the thread alone. */
	uint8_t token[AGENT_TOKEN];
	int64_t attach_at; /* when to say ATTACH (again) */
	bool attach_padded, begun;
	struct agent_reader reader;
	bool held;	     /* not everything there was to say had room in out */
	size_t o_off, o_len; /* unsent: [o_off, o_len) of out */
	uint8_t out[192 * 1024 + AGENT_PAD];
};

/* With the lock held. */
void session_kick(struct session *s);
void channel_wake(struct channel *c);
void channel_free(struct channel *c);

/* Every session_…() call but new and freep is between these. enter: UNAVAILABLE (or why) when it is not open. */
int session_enter(struct session *s, struct banger_error *err);
void session_leave(struct session *s);

#endif
