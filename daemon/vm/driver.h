/* SPDX-License-Identifier: Apache-2.0 */
/*
 * VMM drivers: what runs a virtual machine. One vtable; QEMU is the one there is.
 *
 * A VMM outlives the daemon that started it, so all that passes between them is in the VM's directory: the driver
 * finds its control channel, the agent's port and the console there again. Only a VM that shall end with its client is
 * tied to the daemon (vmm_spec.tied). A driver knows no states and no store; the service does.
 */
#ifndef BANGER_VM_DRIVER_H
#define BANGER_VM_DRIVER_H

#include <banger/paths.h>
#include <sys/types.h>

enum vm_accel { VM_TCG, VM_KVM };
const char *vm_accel_name(enum vm_accel a);

/* A disk that the guest may write to: fd alone is a raw file; with base_fd, fd is a qcow2 file whose backing file is
 * base_fd, which is raw and only read. fd -1: no disk. */
struct vmm_disk {
	int fd, base_fd;
	const char *serial; /* by which the guest can tell it */
};

/* How a VM is reached from outside: a port of the host, and the guest's that it leads to. */
struct vmm_publish {
	bool udp;
	char address[46]; /* of the host */
	uint16_t host, guest;
};

/* Strings and descriptors are borrowed. */
struct vmm_spec {
	const char *name;  /* of the VM */
	const char *op_id; /* of the operation that starts it */
	int dir_fd;        /* a private directory for the VMM's own files, and its working directory; -1: none */
	enum vm_accel accel;
	int64_t cpus;
	int64_t memory; /* bytes, a multiple of 1 MiB */
	int kernel_fd;  /* vmlinux that can be entered by PVH, or a bzImage */
	int initrd_fd;
	const char *append; /* for the kernel's command line, beside what the driver needs itself */
	struct vmm_disk disks[2]; /* /dev/vda and /dev/vdb */
	bool durable;             /* what the guest flushes survives a crash of the host */
	bool tied;                /* ends with the thread that starts it */
	bool bare;                /* no directory: no control channel, no console */
	bool network;             /* a network device: behind a NAT of the VMM's own, or with tap_fd */
	int tap_fd;               /* -1: none */
	char mac[18];             /* of the network device; "": the VMM's default */
	const struct vmm_publish *publish;
	size_t n_publish;
	bool files;    /* a virtiofs device: */
	const char *tag;
	int files_fd;  /* a connection to a vhost-user backend; the VMM starts talking */
	int held_fd;   /* stays open for as long as the VMM runs, and is not used; -1: none */
	/* Told of the new process before it does anything. An error, or the daemon's death, ends it at once: so
	 * what this does (the store) is always done for a VMM that runs. NULL: nobody is. */
	int (*born)(void *arg, pid_t pid, struct banger_error *err);
	void *arg;
};

/* A VMM as the one that started it has it. */
struct vmm {
	pid_t pid;
	int pidfd; /* readable when it has ended */
	int port;  /* socket: the other end of the agent's virtio-serial port; non-blocking */
	int control; /* the same of the control channel, from before the VMM began: one that ends at once is still
		      * seen to end, and why; -1: not connected yet */
};
void vmm_done(struct vmm *v); /* kills, reaps, closes; accepts one that never ran */

/* What a VMM says of its own accord. */
enum vmm_event_kind {
	VMM_PAUSED,
	VMM_RESUMED,
	VMM_POWERED_OFF, /* the guest did; the VMM will end */
	VMM_RESET,       /* the guest restarted, which ends the VMM too */
	VMM_ENDING,      /* the VMM was asked to end */
	VMM_PANICKED,    /* the guest's kernel says so */
};
typedef void vmm_event(void *arg, enum vmm_event_kind kind);

enum vmm_status { VMM_IS_RUNNING, VMM_IS_PAUSED, VMM_IS_OVER };

struct vmm_control;

struct vmm_driver {
	const char *name;
	/* UNSUPPORTED when the VMM is not installed; it may still fail later, which the port's end
	 * tells. */
	int (*start)(const struct banger_config *config, const struct vmm_spec *spec,
		struct vmm *ret, struct banger_error *err);
	/* "7.2.22" or "" into buf; UNSUPPORTED when it is not installed. */
	int (*version)(const struct banger_config *config, char *buf, size_t size,
		struct banger_error *err);
	/* Take over a connection to the control channel (also on failure), or make one by the VM's directory if fd is -1.
	 * event is called by control_read(). */
	int (*control_open)(int dir_fd, int fd, vmm_event *event, void *arg, struct vmm_control **ret,
		struct banger_error *err);
	int (*control_fd)(const struct vmm_control *c); /* to poll for POLLIN */
	/* Take what is there, without waiting; of one thread. Negative: the channel is lost, and whoever waits for
	 * an answer gets UNAVAILABLE. */
	int (*control_read)(struct vmm_control *c);
	void (*control_close)(struct vmm_control **c); /* nobody may be waiting */
	/* Ask, and wait for the answer, while another thread calls control_read(). Any thread. TIMEOUT, UNAVAILABLE. */
	int (*pause)(struct vmm_control *c, struct banger_error *err);
	int (*resume)(struct vmm_control *c, struct banger_error *err);
	int (*power_button)(struct vmm_control *c, struct banger_error *err);
	int (*status)(struct vmm_control *c, enum vmm_status *ret, struct banger_error *err);
	/* Connect to the agent's port of a VMM that runs; non-blocking. */
	int (*port_open)(int dir_fd, int *ret, struct banger_error *err);
	int oldest; /* the first major version that can do what start() asks for */
	/* How many CPUs and how much memory it gives a VM at most. */
	int64_t max_cpus;
	const char *arch; /* of its VMs, Debian's word */
};

extern const struct vmm_driver vmm_qemu;

/* Files in a VM's directory: two FIFOs, which keep what is said while no daemon is there (and no more than a FIFO
 * holds). Made by whoever makes the directory. */
#define VMM_CONSOLE_OUT "console.out"
#define VMM_CONSOLE_IN "console.in"

#endif
