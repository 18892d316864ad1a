/* SPDX-License-Identifier: Apache-2.0 */
/*
 * Changes as watchers of the registry read them (methods.h, registry.watch). An event is made after
 * the commit, so it cannot be refused: it has the state that the store now has, and its generation.
 */
#include <string.h>
#include <banger/log.h>
#include "image/internal.h"

static int add_images(
	struct json_object *event, const char *change, const struct banger_image *images, size_t n)
{
	struct json_object *list = json_object_new_array_ext((int)n);
	if (!list)
		return -ENOMEM;
	for (size_t i = 0; i < n; i++) {
		struct json_object *o = banger_image_to_json(&images[i]);
		if (!o || json_object_array_add(list, o) < 0) {
			json_object_put(o);
			json_object_put(list);
			return -ENOMEM;
		}
		if (!strcmp(change, "deleted") && banger_json_add_str(o, "state", "deleted") < 0) {
			json_object_put(list);
			return -ENOMEM;
		}
	}
	return banger_json_add(event, "images", list);
}

static struct json_object *event_json(
	const char *change, const struct banger_image *images, size_t n)
{
	_cleanup_json_ struct json_object *o = json_object_new_object();
	char ts[BANGER_TIME_LEN + 1];

	if (!o || banger_json_add_str(o, "event", "image") < 0 ||
		banger_json_add_str(o, "change", change) < 0 ||
		banger_json_add_str(o, "ts", banger_time_format(banger_now_us(), ts)) < 0 ||
		banger_json_add_str(o, "op_id", banger_op_current()) < 0 ||
		banger_json_add_int(o, "generation", images[0].generation) < 0 ||
		add_images(o, change, images, n) < 0)
		return NULL;
	return TAKE_PTR(o);
}

/* bangerfs waits for its content process too, when what is published changes. */
static unsigned topic_of(const struct banger_image *images, size_t n)
{
	for (size_t i = 0; i < n; i++)
		if (images[i].state == BANGER_PUBLISHED)
			return HUB_REGISTRY | HUB_PROMPT;
	return HUB_REGISTRY;
}

void image_event(
	struct image_service *s, const char *change, const struct banger_image *images, size_t n)
{
	size_t len;

	if (!hub_wanted(s->deps.hub, HUB_REGISTRY))
		return;
	_cleanup_json_ struct json_object *o = event_json(change, images, n);
	const char *line =
		o ? json_object_to_json_string_length(
			    o, JSON_C_TO_STRING_PLAIN | JSON_C_TO_STRING_NOSLASHESCAPE, &len)
		  : NULL;
	if (line)
		hub_publish(s->deps.hub, topic_of(images, n), NULL, line, len);
	else
		log_err("watchers were not told of a change: out of memory", KV_S("change", change),
			KV_I("generation", images[0].generation));
}
