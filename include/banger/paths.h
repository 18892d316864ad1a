/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Where things are, and the configuration. A flag beats the environment, the environment beats the
 * configuration file, that beats the default.
 *
 * The configuration file is one JSON object ($BANGER_CONFIG; else /etc/banger/config.json for root,
 * $XDG_CONFIG_HOME/banger/config.json or ~/.config/banger/config.json otherwise; absent is fine
 * unless it was named). An unknown key or a wrong type is an error with the key's name.
 */
#ifndef BANGER_PATHS_H
#define BANGER_PATHS_H

#include <banger/error.h>
#include <stdbool.h>
#include <stdint.h>

/* X(field, json key, type, environment variable or NULL). Strings are owned by the struct. */
struct banger_config {
	char *state_dir;      /* "state_dir"      BANGER_STATE_DIR */
	char *runtime_dir;    /* "runtime_dir"    BANGER_RUNTIME_DIR */
	char *socket;	      /* "socket"         BANGER_SOCKET        default RUNTIME_DIR/bangerd.sock */
	char *helper_socket;  /* "helper_socket"  BANGER_HELPER_SOCKET default RUNTIME_DIR/helper.sock, where a RUNTIME_DIR is
			       * given, else /run/banger/helper.sock for everybody: the helper is root's */
	char *bridge_subnet;  /* "bridge_subnet"  for banger-helper: VMs' addresses on bridges, default 10.141.0.0/16 */
	int64_t helper_uid;   /* "helper_uid"     for banger-helper: whose bangerd may ask, beside root; default 0 */
	char *libexec_dir;    /* "libexec_dir"    BANGER_LIBEXEC_DIR   where banger-unpack and banger-agent are */
	char *default_kernel; /* "default_kernel" name of a kernel; NULL: the only one there is */
	char *accel;	      /* "accel"          auto|kvm|tcg, default auto */
	char *virtiofsd;      /* "virtiofsd"      BANGER_VIRTIOFSD, a path; NULL: where distributions have it */
	char *qemu;	      /* "qemu"           BANGER_QEMU, program; default qemu-system-x86_64 */
	char *socket_group;   /* "socket_group"   group that may use the socket; NULL: the owner alone */
	int64_t ops_kept;     /* "ops_kept"       operation records kept, default 1000 */
	int64_t connections;  /* "connections"    clients at once, default 512 */
	int64_t lock_wait_ms; /* "writers_wait_ms" how long promote waits for open writers, default 2000 */
	/* JSON text; NULL: none. {"HOST[:PORT]":{"plain_http":bool,"insecure":bool,"ca_file":"PATH","cert_file":"PATH",
	 * "key_file":"PATH","mirror":"HOST"}…};
	 * checked by daemon/pull */
	char *registries;     /* "registries" */
	char *catalogs;	      /* "catalogs"       [{"location":"PATH or URL","digest":"sha256:…"?}…]; checked by daemon/pull */
	int64_t cache_max;    /* "cache_max"      bytes of layers that are kept, default 20 GiB */
	int64_t unpacked_max; /* "unpacked_max"   bytes that an image's layers, or an archive, may unpack to, default 128 GiB */
	int64_t entries_max;  /* "entries_max"    names that an unpacked image may have, default 4,000,000 */
	int64_t headroom;     /* "headroom"       free space in a pulled or unpacked image: the larger of this, default 64 MiB … */
	int64_t headroom_percent; /* "headroom_percent" … and so many percent of what is used, default 10 */
	int64_t parallel_fetches; /* "parallel_fetches" blobs of one pull that are fetched at once, default 4 */
	int64_t fetch_stall_ms; /* "fetch_stall_ms" a transfer that brings nothing for so long is given up, default 30000 */
	int64_t fetch_retries; /* "fetch_retries"  further attempts after a transfer that failed, default 5 */
	char *file;	      /* the file that was read; NULL: none */
};

/* What the command line said; any member may be NULL. */
struct banger_config_flags {
	const char *config, *state_dir, *runtime_dir, *socket;
};
int banger_config_load(const struct banger_config_flags *flags, struct banger_config *ret, struct banger_error *err);
void banger_config_done(struct banger_config *c);

/* Path of one of our own helper programs ("banger-unpack"): libexec_dir, else beside the running
 * program (a build tree), else the installed place. Caller frees. NOT_FOUND lists where it looked. */
int banger_config_program(const struct banger_config *c, const char *name, char **ret, struct banger_error *err);

/* mkdir -p with mode for what is new. */
int banger_mkdir_p(const char *path, unsigned mode, struct banger_error *err);

#endif
