/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Requests to banger-helper, with acts that do nothing but look: whatever a caller writes,
 *	- an act is only called for root and the configured user, and with what is in the allow-lists;
 *	- there is one reply, which is JSON and carries an op_id, and a descriptor only with a TAP;
 *	- a stranger is always refused.
 * The first byte says who asks and whether descriptors came along; the rest is the line.
 */
#include "fuzz.h"

#include <fcntl.h>
#include <string.h>
#include <banger/log.h>
#include "request.h"

static int acts;
static const struct helper_peer *asking;

static void look(const char *name, bool bridge)
{
	acts++;
	MUST(asking->uid == 0 || asking->uid == 1000);
	MUST(strlen(name) >= 5 && strlen(name) <= 15 && strncmp(name, "bngr", 4) == 0);
	MUST(strspn(name, "0123456789abcdefghijklmnopqrstuvwxyz") == strlen(name));
	MUST(bridge ? strlen(name) <= 14 : strlen(name) == 15);
}

static int bridge_ensure(void *arg, const char *name, const struct helper_subnet *s, bool *created,
	struct banger_error *err)
{
	look(name, true);
	MUST(s->address >> 16 == 0x0a8d && s->prefix >= 16 && s->prefix <= 29);
	MUST((s->address & (UINT32_MAX >> s->prefix)) == 0);
	*created = false;
	return 0;
}
static int bridge_remove(void *arg, const char *name, struct banger_error *err)
{
	look(name, true);
	return banger_error_set(err, BANGER_BUSY, "busy");
}
static int tap_create(void *arg, struct helper_tap *t, int *ret_fd, struct banger_error *err)
{
	look(t->bridge, true);
	look(t->name, false);
	MUST(strspn(t->vm, "0123456789abcdef") == 16 && t->vm[16] == '\0' &&
		t->owner == asking->uid);
	t->subnet = (struct helper_subnet){0x0a8d0000, 16};
	t->address = helper_candidate(&t->subnet, t->vm, 0);
	MUST(helper_is_host(&t->subnet, t->address));
	*ret_fd = open("/dev/null", O_RDONLY | O_CLOEXEC);
	return 0;
}
static int tap_remove(void *arg, const char *name, struct banger_error *err)
{
	look(name, false);
	return 0;
}
static int publish(void *arg, const struct helper_publish *p, struct banger_error *err)
{
	look("bngr0", true);
	MUST(p->address >> 16 == 0x0a8d && p->address > 0x0a8d0001 && p->address < 0x0a8dffff);
	MUST(p->host_port >= 1024 && p->guest_port >= 1 &&
		(p->any || (p->host >> 24 > 0 && p->host >> 24 < 224)));
	return 0;
}
static int unpublish(void *arg, const struct helper_publish *p, struct banger_error *err)
{
	look("bngr0", true);
	MUST(p->host_port >= 1024);
	return 0;
}
static int cleanup(void *arg, struct helper_swept *ret, struct banger_error *err)
{
	look("bngr0", true);
	return 0;
}

static const struct helper_service service = {
	.acts = {bridge_ensure, bridge_remove, tap_create, tap_remove, publish, unpublish, cleanup,
		NULL},
	.range = {0x0a8d0000, 16},
	.uid = 1000,
};
static const struct helper_peer peers[] = {{1000, 1}, {0, 2}, {1001, 3}, {65534, 4}};

static void silence(void)
{
	static bool done;

	if (!done) {
		setenv("BANGER_LOG_LEVEL", "error", 1);
		banger_log_init("fuzz");
		done = true;
	}
}

int LLVMFuzzerTestOneInput(const uint8_t *data, size_t size)
{
	int fd = -1;

	silence();
	if (size == 0)
		return 0;
	_cleanup_free_ char *line = malloc(size);
	if (!line)
		return 0;
	memcpy(line, data + 1, size - 1);
	line[size - 1] = '\0';
	asking = &peers[data[0] & 3];
	acts = 0;
	size_t nfds = data[0] >> 2 & 7 ? 0 : data[0] >> 5;
	_cleanup_json_ struct json_object *reply =
		helper_dispatch(&service, asking, line, size - 1, nfds, &fd);
	MUST(reply);
	struct json_object *e = banger_json_get(reply, "error");
	MUST(banger_json_bool(reply, "ok", false) == !e);
	MUST(banger_op_id_valid(banger_json_str(e ?: reply, "op_id")));
	MUST(e || (asking->uid <= 1000 && nfds == 0));
	MUST(acts == 0 || nfds == 0);
	MUST(fd < 0 || (!e && banger_json_str(banger_json_get(reply, "result"), "mac")));
	if (fd >= 0)
		close(fd);
	const char *text = json_object_to_json_string_ext(reply, JSON_C_TO_STRING_PLAIN);
	_cleanup_json_ struct json_object *again = NULL;
	MUST(banger_json_parse(text, strlen(text), &again, NULL) == 0);
	return 0;
}
