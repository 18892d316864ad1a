/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The composition of the daemon as the RPC handlers see it, and the handlers' tables. Each api/X.c
 * turns JSON into one call of a service and back; it decides nothing.
 */
#ifndef BANGER_API_H
#define BANGER_API_H

#include <banger/paths.h>
#include "op/hub.h"
#include "op/operation.h"
#include "op/publication.h"
#include "rpc/dispatch.h"
#include "store/store.h"

struct image_service;
struct kernel_service;
struct vm_service;
struct rpc_server;
struct jobs;
struct pull_engine;
struct catalogs;

struct api {
	const struct banger_config *config;
	struct store *store;
	struct hub *hub;
	struct operations *operations;
	struct publication_lock *publication;
	struct image_service *images;
	struct kernel_service *kernels;
	struct vm_service *vms;
	struct jobs *jobs;
	struct pull_engine *pulls;
	struct catalogs *catalogs;
	struct rpc_server *server; /* set after the table is handed over */
	int64_t started_us;
};

/* The record of an operation with its progress, while it runs. NULL: no memory. */
struct json_object *api_op_to_json(const struct api *api, const struct banger_op_record *record);

/* Tables, each ended by name NULL; main.c joins them. */
extern const struct rpc_method api_daemon_methods[]; /* version ping status doctor registry.watch */
extern const struct rpc_method api_op_methods[];
extern const struct rpc_method api_image_methods[];
extern const struct rpc_method api_pull_methods[];
extern const struct rpc_method api_draft_methods[];
extern const struct rpc_method api_kernel_methods[];
extern const struct rpc_method api_catalog_methods[]; /* and what else catalogs and bundles bring */
extern const struct rpc_method api_vm_methods[];

#endif
