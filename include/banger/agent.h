/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The agent protocol: what bangerd and the agent inside a VM say to each other over one
 * virtio-serial port, several programs at once. Either end treats the other as hostile: a guest is
 * root in its VM and can write anything to the port.
 *
 * A frame is 8 bytes of header and a payload:
 *	byte 0     type (enum agent_type), never 0
 *	byte 1     0
 *	bytes 2-3  channel, little-endian: 0 is the VM itself, 1 to AGENT_CHANNELS a program or a
 *	           transfer that the host started
 *	bytes 4-7  length of the payload, little-endian, at most AGENT_PAYLOAD_MAX
 * Between two frames zero bytes are passed over.
 *
 * Beginning. The agent says HELLO when it starts, with a token of zeros, or FAILED when it could not
 * get so far. A host that connects to a port, at first or again, says ATTACH with a token of its own;
 * the answer is a HELLO with that token, and a host that looks for those bytes cannot be led astray by
 * the rest of what the agent was saying to the host before. The agent may be in the middle of a frame
 * of the host before, too; it finds ATTACH by AGENT_MARK when it saw that host go. When it did not
 * (the VM was paused meanwhile), no HELLO comes: ATTACH is said again after AGENT_PAD zero bytes,
 * which fill up any frame. ATTACH ends what the host before had started: its programs get SIGHUP.
 * ATTACH with the token that is in force changes nothing, and is not answered.
 * A HELLO that was not asked for says that the agent has been started again, and knows of nothing.
 *
 * The host starts a program with EXEC, a transfer with PUT or GET, on a channel that is not in use.
 * Data flows under credit: a sender may send AGENT_WINDOW bytes of each stream before it has got
 * credit, then as many more as each CREDIT grants; who sends more breaks the protocol. The host gives
 * stdin, ended by END; the agent gives stdout and stderr, and EXIT as the channel's last frame, after
 * all output that the program had written when it ended. REFUSED is the last frame too, and says that
 * the program could not be started or the transfer could not be done. CLOSE tells a sender that its
 * data is not wanted any more: of stdin, because the program closed it or ended; of an output, because
 * its reader went away (the program then gets SIGPIPE, as it would without a VM between). What comes
 * for a channel after its last frame was sent is passed over: it was on its way.
 *
 * A program with a terminal has one stream out, stdout; END types the terminal's end-of-file
 * character. PUT takes a tar stream as stdin, GET gives one as stdout (POSIX pax; owners, modes,
 * times to the nanosecond, links, devices, extended attributes, sparse files).
 *
 * What one end does not know is an error: the version in HELLO is for that. An agent that meets one
 * says BROKEN, ends what was started, and waits for ATTACH.
 *
 * What the daemon tells the agent on the kernel's command line:
 *	banger.op=OP_ID banger.name=NAME      who started it; the host's name
 *	banger.root=DEVICE|none [banger.ro]   the root disk
 *	banger.first                          it was never booted: what its image says of its host's names and resolver is another
 *	                                      host's, and replaced
 *	banger.grow                           its filesystem is smaller than the disk: grow it once it is mounted
 *	banger.work=DEVICE:DIR                the work disk, mounted at DIR; DIR "~USER" is the home of USER (as an
 *	                                      OCI configuration names one), "~" that of root
 *	banger.init=image                     start the image's own init, if it has one; without this word the agent stays
 *	banger.ip=ADDRESS/PREFIX[,GATEWAY[,DNS]]  of the network device
 *	banger.registry=ro|rw                 mount the virtiofs "banger" at /banger
 */
#ifndef BANGER_AGENT_H
#define BANGER_AGENT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

#define AGENT_PROTOCOL 2
#define AGENT_PORT "org.banger.agent.0" /* name of the virtio-serial port */
#define AGENT_HEADER 8
#define AGENT_PAYLOAD_MAX (128 * 1024)
#define AGENT_DATA_MAX (32 * 1024 - AGENT_HEADER) /* what the ends put into one data frame: the port
						      takes 32 KiB at a time */
#define AGENT_WINDOW (256 * 1024)
#define AGENT_CHANNELS 256
#define AGENT_TOKEN 16
#define AGENT_MARK "banger: attach 2" /* AGENT_TOKEN bytes */
#define AGENT_PAD (AGENT_HEADER + AGENT_PAYLOAD_MAX)

enum agent_type {
	/* agent to host */
	AGENT_HELLO = 1, /* channel 0: u32 AGENT_PROTOCOL, token */
	AGENT_FAILED,    /* channel 0: text: the VM cannot be used; nothing follows */
	AGENT_STDOUT,    /* bytes */
	AGENT_STDERR,    /* bytes */
	AGENT_EXIT,      /* u8 0: exited, 1: killed by a signal; u8 status or signal */
	AGENT_REFUSED,   /* u32 errno, text */
	AGENT_PONG,      /* channel 0: u32 of PING */
	AGENT_BROKEN,    /* channel 0: text: what the host did wrong */
	/* host to agent */
	AGENT_EXEC = 64, /* struct agent_exec, packed */
	AGENT_STDIN,     /* bytes */
	AGENT_END,       /* nothing: stdin is at its end */
	AGENT_SIGNAL,    /* u32 signal number, to the program's process group (on a terminal: the one in
			    the foreground); 9 ends a transfer */
	AGENT_POWEROFF,  /* channel 0: u32 milliseconds that programs have after SIGTERM (or the image's
			    init from being asked); then sync and power off */
	AGENT_RESIZE,    /* u16 rows, u16 columns of the terminal */
	AGENT_PUT,       /* path of a directory; stdin is a tar stream, whose members go there */
	AGENT_GET,       /* path; stdout is a tar stream, whose first member is the path's last component */
	AGENT_PING,      /* channel 0: u32, for PONG */
	AGENT_TIME,      /* channel 0: u64 microseconds since the epoch, what the clock shall say */
	AGENT_ATTACH,    /* channel 0: u32 AGENT_PROTOCOL, AGENT_MARK, token */
	AGENT_REGISTRY_LOST, /* channel 0: nothing: who served the registry is gone, and who waits for it waits in vain */
	/* both ways */
	AGENT_CREDIT = 128, /* u32 bytes, u8 stream: 0 stdin, 1 stdout, 2 stderr */
	AGENT_CLOSE,        /* u8 stream: the receiver of this stream takes no more of it */
};

struct agent_frame {
	uint8_t type;
	uint16_t channel;
	uint32_t len;
	const uint8_t
		*payload; /* in the reader's buffer: valid until the reader is touched again */
};

/* Bytes in, frames out. */
struct agent_reader {
	size_t start, end;
	uint8_t buf[AGENT_HEADER + AGENT_PAYLOAD_MAX];
};
/* Where to read more bytes to and how many fit (never 0 after agent_reader_next() gave 0). */
uint8_t *agent_reader_space(struct agent_reader *r, size_t *ret_size);
void agent_reader_added(struct agent_reader *r, size_t n);
/* 1: *ret is the next frame; 0: more bytes are needed; -EPROTO: not the protocol, the port is lost.
 */
int agent_reader_next(struct agent_reader *r, struct agent_frame *ret);
/* Drop bytes up to the header of a frame of this type on channel 0 whose payload begins with any u32 and then `mark`
 * (AGENT_TOKEN bytes). True: it is the next frame; false: more bytes are needed. */
bool agent_reader_seek(struct agent_reader *r, enum agent_type type, const uint8_t *mark);

/* Fill the header of a frame. len at most AGENT_PAYLOAD_MAX. */
void agent_header(uint8_t out[AGENT_HEADER], enum agent_type type, uint16_t channel, uint32_t len);
void agent_put_u16(uint8_t out[2], uint16_t v);
uint16_t agent_get_u16(const uint8_t in[2]);
void agent_put_u32(uint8_t out[4], uint32_t v);
uint32_t agent_get_u32(const uint8_t in[4]);

/* How a program is started. */
enum {
	AGENT_EXEC_TTY = 1,    /* on a terminal of its own, of rows and cols */
	AGENT_EXEC_DETACH = 2, /* apart from the host: stdin is empty, output goes to the VM's console; the
				  channel ends with EXIT 0 once it runs */
	AGENT_EXEC_MAIN = 4,   /* the VM is there for this program: when it ends, the VM powers off (unless the
				  image's own init runs) */
	AGENT_EXEC_MKDIR = 8,  /* a working directory that is missing is made, for root, with those above it */
	AGENT_EXEC_FLAGS = 15,
};

/*
 * A program to start. Packed: u16 flags, u16 rows, u16 columns, u16 0, u16 number of arguments, u16
 * number of environment entries, then NUL-terminated strings: user, workdir, the arguments, the
 * environment.
 */
struct agent_exec {
	const char *user; /* "name", "uid", "name:group", "uid:gid" as in an OCI configuration; "":
			     root */
	const char *workdir; /* "": the user's home, else "/" */
	const char **argv;   /* NULL-terminated, at least one */
	const char **env;    /* NULL-terminated; added to PATH, HOME, USER, SHELL (and TERM with a terminal), which it
			        may set. Of a name given twice the last counts; one without '=' takes it away */
	uint16_t flags;
	uint16_t rows, cols; /* of the terminal; 0: the kernel's default */
};
/* Length of the packed form, at most AGENT_PAYLOAD_MAX; -E2BIG otherwise, -EINVAL without argv[0].
 * buf NULL: only the length. */
long agent_exec_pack(const struct agent_exec *e, uint8_t *buf, size_t size);
/* Unpack: the strings point into payload, the arrays are one allocation that the caller frees by
 * agent_exec_done(). -EPROTO for what is not one, -ENOMEM. */
int agent_exec_unpack(const uint8_t *payload, size_t len, struct agent_exec *ret);
void agent_exec_done(struct agent_exec *e);

#endif
