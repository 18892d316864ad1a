/* SPDX-License-Identifier: Apache-2.0 */
/*
 * A VM as the wire and the store carry it. On the wire (vm.json in the tree is the same document):
 *	{"id":"9f86d081884c7d65","name":"web","state":"running","generation":12,"op_id":"op-…",
 *	 "image":"debian","image_id":"…","kernel":"cloud","kernel_id":"…","cpus":1,"memory":BYTES,"disk":BYTES,
 *	 "disk_kind":"clone"|"overlay","work_disk":"none"|"new"|"keep","network":"none"|"user"|"bridge",
 *	 "publish":["ADDRESS:HOSTPORT:GUESTPORT/tcp|udp"…]?,
 *	 "registry":"none"|"ro"|"rw","registry_lost":"…"?,"accel":"auto"|"kvm"|"tcg","init":"image"|"agent","created":"RFC 3339",
 *	 "started":"RFC 3339"?,"accel_used":"kvm"|"tcg"?,"pid":N?,"failure":"…"?,"transient":true?}
 * image and kernel are the names that they had when the VM was made; the ids say which they are. op_id is that of the
 * operation that brought the VM into its state; failure says why it is "failed"; registry_lost why a VM that runs has no
 * registry any more.
 */
#ifndef BANGER_VM_H
#define BANGER_VM_H

#include <banger/model.h>

/* X(symbol, name). The numbers are in the database: add at the end. */
#define BANGER_VM_STATES(X)                                                                        \
	X(CREATED, "created")                                                                      \
	X(STARTING, "starting")                                                                    \
	X(RUNNING, "running")                                                                      \
	X(PAUSED, "paused")                                                                        \
	X(STOPPING, "stopping")                                                                    \
	X(STOPPED, "stopped")                                                                      \
	X(FAILED, "failed")

enum banger_vm_state {
#define X(sym, name) BANGER_VM_##sym,
	BANGER_VM_STATES(X)
#undef X
		BANGER_VM_STATE_COUNT
};
const char *banger_vm_state_name(enum banger_vm_state s);

/* Words of the document that are one of a few. Each list ends with NULL; the numbers are in the database. */
enum banger_vm_work { BANGER_WORK_NONE, BANGER_WORK_NEW, BANGER_WORK_KEEP };
enum banger_vm_network { BANGER_NETWORK_NONE, BANGER_NETWORK_USER, BANGER_NETWORK_BRIDGE };
enum banger_vm_registry { BANGER_REGISTRY_NONE, BANGER_REGISTRY_RO, BANGER_REGISTRY_RW };
extern const char *const banger_vm_works[], *const banger_vm_networks[], *const banger_vm_registries[];
/* The number of a word; a NULL word is number 0. BAD_REQUEST names `what` and lists the words. */
int banger_vm_word(const char *what, const char *const *words, const char *word, struct banger_error *err);

struct banger_vm {
	char id[BANGER_ID_LEN + 1], name[BANGER_NAME_MAX + 1];
	enum banger_vm_state state;
	int64_t generation;
	char op_id[BANGER_OP_ID_LEN + 1];
	char image_id[BANGER_ID_LEN + 1], image[BANGER_NAME_MAX + 1];
	char kernel_id[BANGER_ID_LEN + 1], kernel[BANGER_NAME_MAX + 1];
	int64_t cpus, memory, disk; /* bytes */
	bool overlay;               /* the root disk: a qcow2 over the image's, else a clone of it */
	enum banger_vm_work work_disk;
	enum banger_vm_network network;
	enum banger_vm_registry registry;
	char registry_lost[96]; /* ""; not in the store */
	bool init;           /* the image's own init is started */
	char accel[8];       /* as asked: auto, kvm, tcg */
	char *publish;       /* JSON text of the list; NULL: none */
	char *failure;       /* one sentence; NULL unless failed */
	int64_t created_us, started_us; /* started_us: the last start; 0: never */
	/* The VMM, while there is one: pid and the start time of that process (/proc/PID/stat, in ticks since the
	 * boot `boot_id`), which together no other process has. pid 0: none. */
	int64_t pid, pid_start;
	char boot_id[40];
	char accel_used[8];
	bool transient; /* of vm.run: not in the store, goes with its client */
};
void banger_vm_done(struct banger_vm *v);
#define _cleanup_vm_ _cleanup_(banger_vm_done)
int banger_vm_copy(const struct banger_vm *from, struct banger_vm *ret);
struct json_object *banger_vm_to_json(const struct banger_vm *v); /* NULL: no memory */

#endif
