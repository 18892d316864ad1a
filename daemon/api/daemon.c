/* SPDX-License-Identifier: Apache-2.0 */
/* version, ping, status, doctor: the daemon about itself and the machine it is on. */
#include <fcntl.h>
#include <linux/fs.h>
#include <linux/magic.h>
#include <string.h>
#include <sys/ioctl.h>
#include <sys/statfs.h>
#include <banger/log.h>
#include "api/api.h"
#include "api/watch.h"
#include "image/service.h"
#include "kernel/service.h"
#include "rpc/server.h"
#include "vm/service.h"

static int give_version(struct json_object *o)
{
	return !o || banger_json_add_str(o, "program", "bangerd") < 0 ||
			       banger_json_add_str(o, "version", BANGER_VERSION) < 0 ||
			       banger_json_add_int(o, "protocol", BANGER_WIRE_VERSION) < 0
		       ? -ENOMEM
		       : 0;
}

static int version(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	call->result = json_object_new_object();
	return give_version(call->result) < 0 ? banger_error_oom(err) : 0;
}

static int ping(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	return 0;
}

/* ---- status */

static struct json_object *lock_json(const struct api *api)
{
	struct json_object *o = json_object_new_object();
	struct publication_holder h;

	publication_holder(api->publication, &h);
	if (!o || banger_json_add_bool(o, "held", h.held) < 0 ||
		(h.held && (banger_json_add_str(o, "op_id", h.op_id.s[0] ? h.op_id.s : NULL) < 0 ||
				   banger_json_add_int(o, "held_us", h.held_us) < 0)) ||
		banger_json_add_int(o, "longest_us", h.longest_us) < 0 ||
		banger_json_add_str(o, "longest_op", h.longest_op.s[0] ? h.longest_op.s : NULL) <
			0) {
		json_object_put(o);
		return NULL;
	}
	return o;
}

static struct json_object *running_json(const struct api *api)
{
	_cleanup_free_ struct banger_op_record *ops = NULL;
	struct json_object *list = json_object_new_array();
	size_t n = 0;

	if (!list || operations_running(api->operations, &ops, &n) < 0) {
		json_object_put(list);
		return NULL;
	}
	for (size_t i = 0; i < n; i++)
		json_object_array_add(list, banger_op_record_to_json(&ops[i]));
	return list;
}

static int status(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	struct json_object *o = call->result = json_object_new_object();
	struct store_counts counts;
	int64_t generation;

	int r = store_count(api->store, &counts, err);
	if (r == 0)
		r = store_generation(api->store, &generation, err);
	if (r < 0)
		return r;
	if (give_version(o) < 0 || banger_json_add_int(o, "pid", getpid()) < 0 ||
		banger_json_add_int(
			o, "uptime_ms", (banger_monotonic_us() - api->started_us) / 1000) < 0 ||
		banger_json_add_str(o, "state_dir", api->config->state_dir) < 0 ||
		banger_json_add_str(o, "socket", api->config->socket) < 0 ||
		banger_json_add_str(o, "config", api->config->file) < 0 ||
		banger_json_add_int(o, "generation", generation) < 0 ||
		banger_json_add_int(o, "images", counts.images) < 0 ||
		banger_json_add_int(o, "drafts", counts.drafts) < 0 ||
		banger_json_add_int(o, "kernels", counts.kernels) < 0 ||
		banger_json_add_int(o, "vms", vm_service_running(api->vms)) < 0 ||
		banger_json_add_int(o, "trash", image_service_trash(api->images)) < 0 ||
		banger_json_add_int(o, "clients", rpc_server_clients(api->server)) < 0 ||
		banger_json_add_int(o, "watchers", hub_subscribers(api->hub, HUB_REGISTRY)) < 0 ||
		banger_json_add(o, "publication_lock", lock_json(api)) < 0 ||
		banger_json_add(o, "operations", running_json(api)) < 0)
		return banger_error_oom(err);
	return 0;
}

/* ---- doctor */

struct findings {
	struct json_object *list;
	bool failed;
};

static void finding(void *arg, const char *name, bool ok, const char *detail, const char *advice)
{
	struct findings *f = arg;
	struct json_object *o = json_object_new_object();

	if (!o || banger_json_add_str(o, "name", name) < 0 ||
		banger_json_add_bool(o, "ok", ok) < 0 ||
		banger_json_add_str(o, "detail", detail) < 0 ||
		banger_json_add_str(o, "advice", advice) < 0 ||
		json_object_array_add(f->list, o) < 0) {
		json_object_put(o);
		f->failed = true;
	}
}

static const char *filesystem_name(long type)
{
	static const struct {
		long type;
		const char *name;
	} names[] = {{EXT4_SUPER_MAGIC, "ext4"}, {XFS_SUPER_MAGIC, "xfs"},
		{BTRFS_SUPER_MAGIC, "btrfs"}, {TMPFS_MAGIC, "tmpfs"},
		{OVERLAYFS_SUPER_MAGIC, "overlay"}, {NFS_SUPER_MAGIC, "nfs"}};

	for (size_t i = 0; i < ELEMENTSOF(names); i++)
		if (names[i].type == type)
			return names[i].name;
	return "another filesystem";
}

/* By making one: what a filesystem's name promises, its options may forbid. */
static bool can_clone(const char *state_dir)
{
	_cleanup_close_ int a = open(state_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	_cleanup_close_ int b = open(state_dir, O_TMPFILE | O_RDWR | O_CLOEXEC, 0600);
	static const char block[4096] = "x";

	return a >= 0 && b >= 0 && write(a, block, sizeof(block)) == sizeof(block) &&
	       ioctl(b, FICLONE, a) == 0;
}

static void state_dir_findings(const struct api *api, struct findings *f)
{
	const char *dir = api->config->state_dir;
	char detail[512];
	struct statfs fs;

	if (statfs(dir, &fs) < 0) {
		finding(f, "state-dir", false, strerrordesc_np(errno),
			"make the state directory usable");
		return;
	}
	double free_gib = (double)fs.f_bavail * fs.f_bsize / (1 << 30);
	snprintf(detail, sizeof(detail), "%s on %s, %.1f GiB free", dir, filesystem_name(fs.f_type),
		free_gib);
	finding(f, "state-dir", free_gib >= 1, detail,
		free_gib >= 1 ? NULL : "free some space: images need it");
	bool clones = can_clone(dir);
	snprintf(detail, sizeof(detail), "%s %s clone files", filesystem_name(fs.f_type),
		clones ? "can" : "cannot");
	finding(f, "reflinks", clones, detail,
		clones ? NULL
		       : "put the state directory on xfs or btrfs: copies of images and VM disks "
			 "then cost nothing");
}

static void store_findings(const struct api *api, struct findings *f)
{
	struct store_description d;
	struct banger_error err;
	char detail[128];

	if (store_describe(api->store, &d, &err) < 0) {
		finding(f, "store", false, err.message, "see the daemon's log");
		return;
	}
	snprintf(detail, sizeof(detail), "SQLite %s, journal mode %s, schema %lld", d.sqlite,
		d.journal, (long long)d.schema);
	finding(f, "store", true, detail, NULL);
}

static void cpu_findings(struct findings *f)
{
#if defined(__x86_64__)
	__builtin_cpu_init();
	unsigned a, b = 0, c, d;
	__asm__("cpuid" : "=a"(a), "=b"(b), "=c"(c), "=d"(d) : "a"(7), "c"(0));
	bool sha = b >> 29 & 1;
	finding(f, "sha256", sha,
		sha ? "the CPU has SHA instructions" : "the CPU has no SHA instructions",
		sha ? NULL : "digests are computed in software, about four times slower");
#endif
}

/* What imports and VMs start; without it they are refused with the same words. */
static void program_findings(const struct api *api, struct findings *f)
{
	static const char *const names[] = {"banger-unpack", "banger-agent"};

	for (size_t i = 0; i < ELEMENTSOF(names); i++) {
		_cleanup_free_ char *path = NULL;
		struct banger_error err;
		bool found = banger_config_program(api->config, names[i], &path, &err) == 0;

		finding(f, names[i], found, found ? path : err.message,
			found ? NULL : "install banger whole, or set BANGER_LIBEXEC_DIR");
	}
}

static void kernel_findings(const struct api *api, struct findings *f)
{
	struct store_counts counts;
	struct banger_error err;
	char detail[64];

	if (store_count(api->store, &counts, &err) < 0) {
		finding(f, "kernels", false, err.message, "see the daemon's log");
		return;
	}
	snprintf(detail, sizeof(detail), "%lld in the catalog", (long long)counts.kernels);
	finding(f, "kernels", counts.kernels > 0, detail,
		counts.kernels > 0
			? NULL
			: "import one: banger-ctl kernel import linux-image-….deb --name NAME");
}

static void disagreement(void *arg, const char *what)
{
	finding(arg, "consistency", false, what, "restart bangerd: it repairs what a crash left");
}

static int check_findings(const struct api *api, struct findings *f, struct banger_error *err)
{
	int n = image_service_check(api->images, disagreement, f, err);
	int k = n < 0 ? n : kernel_service_check(api->kernels, disagreement, f, err);

	if (k < 0)
		return k;
	if (n + k == 0)
		finding(f, "consistency", true, "store and directories agree", NULL);
	return 0;
}

static int doctor(void *ctx, struct rpc_call *call, struct banger_error *err)
{
	const struct api *api = ctx;
	_cleanup_json_ struct json_object *list = json_object_new_array();
	struct findings f = {.list = list, .failed = !list};

	if (f.failed)
		return banger_error_oom(err);
	state_dir_findings(api, &f);
	store_findings(api, &f);
	cpu_findings(&f);
	program_findings(api, &f);
	kernel_findings(api, &f);
	vm_service_doctor(api->vms, finding, &f);
	if (banger_json_bool(call->params, "check", false)) {
		int r = check_findings(api, &f, err);
		if (r < 0)
			return r;
	}
	call->result = json_object_new_object();
	if (f.failed || !call->result ||
		banger_json_add(call->result, "checks", TAKE_PTR(list)) < 0)
		return banger_error_oom(err);
	return 0;
}

static const struct rpc_param doctor_params[] = {{"check", RPC_BOOL}, {0}};
static const struct rpc_param watch_params[] = {{"ops", RPC_BOOL}, {"snapshot", RPC_BOOL}, {0}};

const struct rpc_method api_daemon_methods[] = {
	{"version", version, RPC_ANYONE, NULL},
	{"ping", ping, RPC_ANYONE, NULL},
	{"status", status, RPC_ANYONE, NULL},
	{"doctor", doctor, RPC_ANYONE, doctor_params},
	{"registry.watch", api_registry_watch, RPC_ANYONE | RPC_STREAM, watch_params},
	{0},
};
