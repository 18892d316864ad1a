/* SPDX-License-Identifier: Apache-2.0 */
/*
 * What the registry is made of, as the wire and the store carry it.
 *
 * An image on the wire:
 *	{"id":"9f86d081884c7d65","name":"web","state":"draft"|"published","generation":12,
 *	 "digest":"sha256:…"?,"size":1073741824?,"source":"…"?,"op_id":"op-…",
 *	 "created":"RFC 3339","published":"RFC 3339"?,"kernel":"NAME"?,"config":{…}?,"damaged":true?}
 * "?" means left out when there is none. image.json in the tree is the same document.
 * op_id is that of the promotion, of the registration for a draft. generation is the registry's
 * change counter at this image's last change; it only grows.
 * damaged: its files are missing, or not what was published, and cannot be opened; it can be deleted.
 * config: the fields of an OCI image configuration that a person may set:
 *	{"entrypoint":[…],"cmd":[…],"env":["A=b",…],"user":"…","working_dir":"/…","labels":{"k":"v"},
 *	 "exposed_ports":["80/tcp",…],"volumes":["/…",…],"stop_signal":"SIGTERM"}
 */
#ifndef BANGER_MODEL_H
#define BANGER_MODEL_H

#include <banger/wire.h>

#define BANGER_NAME_MAX 128
#define BANGER_ID_LEN 16

/* Names of images, kernels and VMs: [A-Za-z0-9][A-Za-z0-9._-]{0,127}. */
bool banger_name_valid(const char *s);
/* The same with the reason: BAD_REQUEST, or NAME_TOO_LONG over 128 bytes. what: "image", "kernel", … */
int banger_name_check(const char *what, const char *s, struct banger_error *err);
/* 16 lowercase hex digits? */
bool banger_id_valid(const char *s);
void banger_id_mint(char ret[BANGER_ID_LEN + 1]);
/* A file's name in a draft: no '/', not "." or "..", 1 to 255 bytes, valid UTF-8, no control characters. */
int banger_file_name_check(const char *s, struct banger_error *err);

enum banger_image_state { BANGER_DRAFT, BANGER_PUBLISHED };
const char *banger_image_state_name(enum banger_image_state s);

struct banger_image {
	char id[BANGER_ID_LEN + 1];
	char name[BANGER_NAME_MAX + 1];
	enum banger_image_state state;
	int64_t generation;
	char digest[72]; /* "sha256:" and 64 hex digits, "" for a draft */
	int64_t size;	 /* of rootfs.ext4 in bytes, -1 for a draft */
	char op_id[BANGER_OP_ID_LEN + 1];
	int64_t created_us, published_us; /* published_us: 0 for a draft */
	char *source;			  /* where it came from, for people; NULL: nothing said */
	char *kernel;			  /* name of a kernel; NULL: not bound */
	char *config;			  /* JSON text of the config object; NULL: none */
	bool damaged;			  /* not in the store: found out by looking */
};
void banger_image_done(struct banger_image *i);
#define _cleanup_image_ _cleanup_(banger_image_done)
int banger_image_copy(const struct banger_image *from, struct banger_image *ret);
struct json_object *banger_image_to_json(const struct banger_image *i); /* NULL: no memory */
/* Checks every field; BAD_REQUEST names the one that is wrong. */
int banger_image_from_json(struct json_object *o, struct banger_image *ret, struct banger_error *err);
/* Checks and normalises what a person wrote in image.json or a flag: takes "kernel" and "config" (or
 * the config's fields at the top level) out of doc; identity fields are ignored, anything else that
 * is not such a document is BAD_REQUEST. *ret_kernel, *ret_config are owned, NULL when absent. */
int banger_image_config_parse(struct json_object *doc, char **ret_kernel, char **ret_config, struct banger_error *err);

/* A kernel of the catalog: {"id","name","version":"6.1.0-38-cloud-amd64","arch":"amd64","size":N,
 * "modules":true,"initrd":false,"source","op_id","imported":"RFC 3339","generation":N} */
struct banger_kernel {
	char id[BANGER_ID_LEN + 1];
	char name[BANGER_NAME_MAX + 1];
	char version[128]; /* uname -r of it, "" when not known */
	char arch[16];	   /* Debian's word: amd64, arm64 */
	int64_t generation, size, imported_us;
	bool modules, initrd;
	char op_id[BANGER_OP_ID_LEN + 1];
	char *source;
};
void banger_kernel_done(struct banger_kernel *k);
#define _cleanup_kernel_ _cleanup_(banger_kernel_done)
struct json_object *banger_kernel_to_json(const struct banger_kernel *k);
int banger_kernel_from_json(struct json_object *o, struct banger_kernel *ret, struct banger_error *err);

/* The record of an operation: {"op_id","method","params":"summary","actor":{…},"started":"RFC 3339",
 * "elapsed_ms":1.2?,"outcome":"running"|"completed"|"failed","code"?,"message"?} */
struct banger_op_record {
	char op_id[BANGER_OP_ID_LEN + 1];
	char method[64];
	struct banger_actor actor;
	int64_t started_us;
	int64_t elapsed_us; /* -1 while it runs */
	enum banger_code code; /* BANGER_OK: completed (or running) */
	char params[256];      /* a summary: key=value, values shortened */
	char message[1024];    /* "" unless failed */
};
struct json_object *banger_op_record_to_json(const struct banger_op_record *r);
int banger_op_record_from_json(struct json_object *o, struct banger_op_record *ret, struct banger_error *err);

#endif
