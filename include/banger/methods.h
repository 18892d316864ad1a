/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The methods of bangerd. "?" marks an optional member, "+fd" a descriptor that travels with the
 * line. IMAGE, KERNEL, VM: an exact name, else an exact id, else a prefix of either that only one has;
 * an image may be qualified as "images/NAME" or "drafts/NAME". <image>, <kernel>, <op>: model.h; <vm>: vm.h.
 * Any method may fail with bad_request, internal, cancelled; the others are named.
 *
 *   version    {}                                  → {"program","version","protocol":1}
 *   ping       {}                                  → {}
 *   status     {}                                  → {"version","pid","uptime_ms","state_dir","socket","generation",
 *                                                     "images","drafts","kernels","trash","clients","watchers",
 *                                                     "publication_lock":{"held":bool,"op_id"?,"held_us"?},
 *                                                     "operations":[<op> that run now]}
 *   doctor     {"check"?:bool}                     → {"checks":[{"name","ok":bool,"detail","advice"?}]}; check: reconcile
 *                                                     store and directories without changing them, a line per disagreement
 *   registry.watch {"ops"?:bool,"snapshot"?:bool}  a stream; see below
 *
 *   image.ls   {"state"?:"draft"|"published","after"?:ID,"limit"?} → {"images":[<image>…] by id,"next"?:ID}
 *   image.show (waits for the digest of an image that was just pulled)
 *              {"image":IMAGE}                     → {"image":<image>,"files":[{"name","size","blocks" of 512 bytes}]}
 *   image.register {"name","source"?}              → {"image":<image>}                exists, name_too_long
 *   image.promote  {"draft":IMAGE,"name"?}         → {"image":<image>}                exists incomplete corrupt busy no_space
 *   image.rename   {"image":IMAGE,"name"}          → {"image":<image>}                exists
 *   image.swap     {"a":IMAGE,"b":IMAGE}           → {"images":[<image>,<image>]}     both of one state
 *   image.delete   {"image":IMAGE}                 → {"image":<image> as it was}      busy
 *   image.import   {"name","format":"auto"|"raw"|"tar"|"bundle"|"qcow2","source"?,"size"?:bytes} +fd → {"image":<image>}   published
 *   image.pull     {"source":REFERENCE|BUNDLE,"name"?,"platform"?:"OS/ARCH","kernel"?:KERNEL} → {"image":<image>}   ends with
 *                                                    its client; exists denied not_found unavailable timeout too_large corrupt
 *                                                    no_space unsupported
 *   image.pull.begin  as image.pull                → {"op_id"}       goes on by itself
 *   image.pull.status {"op_id"}                    → {"op":<op>,"image"?:<image> of one that was begun, when it is done}
 *   image.pull.cancel {"op_id"}                    → {}
 *   image.export   {"image":IMAGE} +fd             → {"image":<image>,"bundle":{"size","digest"}}   fd: a new file or a pipe,
 *                                                    which gets the bundle                     corrupt no_space too_large
 *   image.prune    {"max"?:bytes,"dry_run"?:bool}  → {"removed":<cached>,"kept":<cached>}   of what pulls keep; max: the
 *                                                    configured limit if left out. <cached>: {"blobs","blob_bytes","partials",
 *                                                    "partial_bytes","in_use_bytes","unpacked","unpacked_bytes","bytes"}
 *   image.verify   {"image":IMAGE}                 → {"image":<image>,"digest","digest_ok":bool,"fsck":"clean"|text,"ok":bool}
 *   image.configure {"image":IMAGE (a draft),"document":{…}} → {"image":<image>}      as writing image.json
 *
 * What a draft holds (bangerfs's; ID is a draft's id; each is immutable once it is published):
 *   draft.open    {"id","file","write"?:bool,"create"?:bool,"excl"?:bool,"trunc"?:bool,"mode"?} → {} +fd   exists not_found
 *   draft.unlink  {"id","file"}                    → {}
 *   draft.rename  {"id","from","to_id"?,"to","noreplace"?:bool,"exchange"?:bool} → {}
 *   draft.symlink {"id","file","target"}           → {}         target must be absolute: bad_request
 *   draft.setattr {"id","file","mode"?,"uid"?,"gid"?,"size"?,"atime_ns"?,"mtime_ns"?} → {}   on a symlink: the link itself
 *
 *   kernel.ls {} → {"kernels":[<kernel>…]}         kernel.show {"kernel":KERNEL} → {"kernel":<kernel>,"files":[…]}
 *   kernel.import {"name","format":"auto"|"vmlinuz"|"deb"|"tar","source"?} +fd → {"kernel":<kernel>}   exists corrupt
 *   kernel.pull   {"kernel":NAME in a catalog,"name"?,"arch"?} → {"kernel":<kernel>}   exists not_found corrupt unavailable
 *   kernel.delete {"kernel":KERNEL}                → {"kernel"}                       busy
 *
 *   catalog.ls    {"name"?,"refresh"?:bool}        → {"catalogs":[{"location","ok":bool,"age_s"|"code","error","digest"? the
 *                                                    pin}],"bundles":[<entry>…],"kernels":[<entry>…]} in the order of the
 *                                                    catalogs. <entry>: {"name","arch","size","digest","location","catalog",
 *                                                    "kernel"?,"version"?,"description"?,"held":[names of images or kernels
 *                                                    made of it],"shadowed_by"?: a catalog that stands before}
 *
 *   vm.create {"image":IMAGE,"name"?,"kernel"?,"cpus"?,"memory"?:bytes,"disk"?:bytes,"work_disk"?:"none|new|keep",
 *              "network"?:"none|user|bridge","publish"?:["[ADDRESS:]HOST:GUEST[/tcp|/udp]"…],"registry"?:"none|ro|rw",
 *              "accel"?:"auto|kvm|tcg","init"?:"image|agent","start"?:bool} → {"vm":<vm>}   when its agent is ready; ends with
 *              its client. exists not_found ambiguous busy (a port) unsupported timeout corrupt unavailable no_space
 *   vm.create.begin  as vm.create                  → {"op_id"}       goes on by itself
 *   vm.create.status {"op_id"}                     → {"op":<op>,"vm"?:<vm> when it is done}
 *   vm.create.cancel {"op_id"}                     → {}
 *   vm.ls {} → {"vms":[<vm>…] by name}             vm.show {"vm":VM} → {"vm":<vm>}
 *   vm.start {"vm":VM}                             → {"vm"}   when its agent is ready; one that runs is left alone
 *   vm.stop {"vm":VM,"timeout_ms"?}                → {"vm"}   agent, power button, kill; one that does not run is left alone
 *   vm.kill, vm.pause, vm.resume {"vm":VM}         → {"vm"}   bad_request when its state does not allow it; busy
 *   vm.rm {"vm":VM,"force"?:bool}                  → {"vm"} as it was                 busy (it runs)
 *   vm.exec {"vm":VM,"argv"?:[…],"entrypoint"?:bool,"env"?:[…],"user"?,"workdir"?,"tty"?:bool,"rows"?,"cols"?,"timeout_ms"?,
 *           "detach"?:bool,"main"?:bool} +fd stdin +fd stdout +fd stderr [+fd control] → {"exit_code"?:int,"signal"?:int,
 *           "name","accel"}   argv absent: the image's command; entrypoint: argv follows the image's entry point. control
 *           gives lines: "resize ROWS COLS", "signal NUMBER". The program ends with the client, but for detach: returns
 *           when it runs, without input, with the console as its output. main: the VM powers off when it ends.
 *   vm.put {"vm":VM,"path"} +fd                    → {}   a tar stream from fd, unpacked below path
 *   vm.get {"vm":VM,"path"} +fd                    → {}   path as a tar stream to fd
 *   vm.logs {"vm":VM,"lines"?,"follow"?:bool} +fd  → {}   the console's log to fd; follow: until it has no VMM
 *   vm.console {"vm":VM,"lines"?} +fd in +fd out   → {}   as vm.logs with follow; what comes from in is typed there
 *   vm.run as vm.create (without "start") and vm.exec (without "vm", "detach" and "main"; entrypoint is true if left
 *           out) → as vm.exec
 *           The VM ends when the command or the client's connection does. It is in vm.ls as "transient".
 *   vm.run.begin  as vm.run, without descriptors   → {"op_id"}   goes on by itself until the command has ended; its output
 *           goes to the console
 *
 *   op.ls   {"limit"?,"failed"?:bool,"uid"?}       → {"ops":[<op>…] newest first}
 *   op.show {"op_id"}                              → {"op":<op>}   (op_id: whole, or a prefix that one has)
 *   op.log  {"op_id"?,"follow"?:bool}              → {} then a stream of log records; the end when not followed
 *   op.cancel {"op_id"}                            → {}            not_found when it does not run
 *   op.report {"op":<op>}                          → {}            a trusted peer tells of an operation that it
 *                                                    refused itself; it is logged and kept as any other
 *
 * A long <op> has "progress" while it runs; that of vm.create and vm.start is {"phase":"disk|network|boot|agent","name"} (of
 * vm.run also "command", of vm.run.begin then "running"),
 * that of a pull is
 *   {"phase":"resolving|fetching|unpacking|finishing","digest"?,"fetched":BYTES,"total":BYTES,"members","content":BYTES,
 *    "layers":[{"digest","size","fetched","state":"waiting|fetching|held|fetched|reused"}]}
 *
 * registry.watch. The reply is {"ok":true,"result":{"generation":N,"directories":["images","drafts","kernels","vms"]}}; for
 * a trusted peer a descriptor of each comes with it: directories that hold ID/FILE for each image, draft, kernel and VM.
 * Unless "snapshot" is false then come {"event":"snapshot","images":[…]?,"kernels":[…]?,"vms":[…]?,"ops":[…]?} (several), and
 * {"event":"ready","generation":N}. After that each change, in the order in which it was committed:
 *   {"event":"image","change":"registered|promoted|renamed|swapped|deleted|imported|pulled|digested|configured","ts","op_id",
 *    "generation":N,"images":[<image>…]}      a deleted image has "state":"deleted"; apply: remove by id, or insert or
 *                                              replace by id (the two of a swap in one step)
 *   {"event":"kernel","change":"imported|deleted","ts","op_id","generation":N,"kernel":<kernel>}  (deleted: "state":"deleted")
 *   {"event":"vm","change":"created|starting|running|paused|stopping|stopped|failed|removed","ts","op_id","generation":N,
 *    "vm":<vm>}                                  (removed: "state":"removed"). Of transient ones there is no generation
 *   {"event":"op","op":<op>}                   when "ops": at its end, at its start if it is a long one
 * The reply to a change carries "generation":N in its result beside what is listed above; a watcher that has applied N
 * sees it. A watcher that does not read is cut off; it connects again and takes a new snapshot.
 *
 * Who is trusted: root and the daemon's own uid. Anyone else the socket lets in (its group) may call what only reads
 * (version ping status doctor image.ls image.show kernel.ls kernel.show vm.ls vm.show op.ls op.show op.log registry.watch without
 * descriptors) and gets `denied` for the rest. "actor" in a request is believed of trusted peers only.
 */
#ifndef BANGER_METHODS_H
#define BANGER_METHODS_H

#define BANGER_METHODS(X)                                                                          \
	X(VERSION, "version")                                                                      \
	X(PING, "ping")                                                                            \
	X(STATUS, "status")                                                                        \
	X(DOCTOR, "doctor")                                                                        \
	X(REGISTRY_WATCH, "registry.watch")                                                        \
	X(IMAGE_LS, "image.ls")                                                                    \
	X(IMAGE_SHOW, "image.show")                                                                \
	X(IMAGE_REGISTER, "image.register")                                                        \
	X(IMAGE_PROMOTE, "image.promote")                                                          \
	X(IMAGE_RENAME, "image.rename")                                                            \
	X(IMAGE_SWAP, "image.swap")                                                                \
	X(IMAGE_DELETE, "image.delete")                                                            \
	X(IMAGE_IMPORT, "image.import")                                                            \
	X(IMAGE_PULL, "image.pull")                                                                \
	X(IMAGE_PULL_BEGIN, "image.pull.begin")                                                    \
	X(IMAGE_PULL_STATUS, "image.pull.status")                                                  \
	X(IMAGE_PULL_CANCEL, "image.pull.cancel")                                                  \
	X(IMAGE_EXPORT, "image.export")                                                            \
	X(IMAGE_PRUNE, "image.prune")                                                              \
	X(IMAGE_VERIFY, "image.verify")                                                            \
	X(IMAGE_CONFIGURE, "image.configure")                                                      \
	X(DRAFT_OPEN, "draft.open")                                                                \
	X(DRAFT_UNLINK, "draft.unlink")                                                            \
	X(DRAFT_RENAME, "draft.rename")                                                            \
	X(DRAFT_SYMLINK, "draft.symlink")                                                          \
	X(DRAFT_SETATTR, "draft.setattr")                                                          \
	X(KERNEL_LS, "kernel.ls")                                                                  \
	X(KERNEL_SHOW, "kernel.show")                                                              \
	X(KERNEL_IMPORT, "kernel.import")                                                          \
	X(KERNEL_PULL, "kernel.pull")                                                              \
	X(KERNEL_DELETE, "kernel.delete")                                                          \
	X(CATALOG_LS, "catalog.ls")                                                                \
	X(VM_CREATE, "vm.create")                                                                  \
	X(VM_CREATE_BEGIN, "vm.create.begin")                                                      \
	X(VM_CREATE_STATUS, "vm.create.status")                                                    \
	X(VM_CREATE_CANCEL, "vm.create.cancel")                                                    \
	X(VM_LS, "vm.ls")                                                                          \
	X(VM_SHOW, "vm.show")                                                                      \
	X(VM_START, "vm.start")                                                                    \
	X(VM_STOP, "vm.stop")                                                                      \
	X(VM_KILL, "vm.kill")                                                                      \
	X(VM_PAUSE, "vm.pause")                                                                    \
	X(VM_RESUME, "vm.resume")                                                                  \
	X(VM_RM, "vm.rm")                                                                          \
	X(VM_EXEC, "vm.exec")                                                                      \
	X(VM_PUT, "vm.put")                                                                        \
	X(VM_GET, "vm.get")                                                                        \
	X(VM_LOGS, "vm.logs")                                                                      \
	X(VM_CONSOLE, "vm.console")                                                                \
	X(VM_RUN, "vm.run")                                                                        \
	X(VM_RUN_BEGIN, "vm.run.begin")                                                            \
	X(OP_LS, "op.ls")                                                                          \
	X(OP_SHOW, "op.show")                                                                      \
	X(OP_LOG, "op.log")                                                                        \
	X(OP_CANCEL, "op.cancel")                                                                  \
	X(OP_REPORT, "op.report")

#define X(sym, name) static const char BANGER_METHOD_##sym[] __attribute__((unused)) = name;
BANGER_METHODS(X)
#undef X

#endif
