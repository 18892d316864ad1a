/* SPDX-License-Identifier: Apache-2.0 */
/*
 * The hub hands each event to every subscriber, in the order in which it was published. Texts are
 * shared between subscribers by reference count; a subscriber whose backlog passes the limit (8 MiB)
 * is cut off: it gets -EPIPE and must start anew. Changes to images and kernels are published under
 * the publication lock; op and log events without it. hub_publish() never blocks on a subscriber.
 */
#ifndef BANGER_HUB_H
#define BANGER_HUB_H

#include <stdbool.h>
#include <stddef.h>
#include <sys/types.h>
#include <banger/error.h>

enum hub_topic { HUB_REGISTRY = 1, HUB_OPS = 2, HUB_LOG = 4 };
/* With HUB_REGISTRY in a publication: whoever made the change may wait until several who watch have seen it. */
#define HUB_PROMPT 8

struct hub;
struct hub_subscription;

int hub_new(struct hub **ret);
void hub_freep(struct hub **h);

/* Publish one line of JSON (no newline), copied. For HUB_LOG, op_id is what subscribers filter by. */
void hub_publish(struct hub *h, unsigned topic, const char *op_id, const char *line, size_t len);
/* From the next HUB_REGISTRY text on that this thread publishes, subscribers are woken only by hub_release(),
 * which must follow soon, so that the reply to a change need not wait for all who watch to be told of it. With
 * HUB_PROMPT all are woken at once, and this is not yet that text. */
void hub_hold(void);
void hub_release(struct hub *h);
bool hub_wanted(struct hub *h, enum hub_topic topic); /* has it subscribers? to save work */

/* topics: or of enum hub_topic. op_id: only HUB_LOG lines of that operation; NULL: all. */
int hub_subscribe(struct hub *h, unsigned topics, const char *op_id, struct hub_subscription **ret);
void hub_unsubscribep(struct hub_subscription **s);
/* Readable (poll POLLIN) while there is something to take or the subscription was cut off. */
int hub_subscription_fd(const struct hub_subscription *s);
/* Take the next text without waiting: 1 with *ret (caller frees) and *ret_len, 0 none, -EPIPE cut off. */
int hub_take(struct hub_subscription *s, char **ret, size_t *ret_len);
size_t hub_subscribers(struct hub *h, unsigned topics);

#endif
