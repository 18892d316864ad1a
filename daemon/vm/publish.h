/* SPDX-License-Identifier: Apache-2.0 */
/* Published ports: "[ADDRESS:]HOST:GUEST[/tcp|/udp]", as Docker writes them. ADDRESS is one of the host, IPv4; without
 * it 127.0.0.1. Pure but for publish_check(). */
#ifndef BANGER_VM_PUBLISH_H
#define BANGER_VM_PUBLISH_H

#include "vm/driver.h"

#define PUBLISH_MAX 32
struct publish {
	struct vmm_publish v[PUBLISH_MAX];
	size_t n;
};
/* BAD_REQUEST names the word. */
int publish_add(struct publish *p, const char *word, struct banger_error *err);
/* JSON text of the list in its canonical form, NULL in *ret when it is empty; and back. */
int publish_to_text(const struct publish *p, char **ret);
int publish_from_text(const char *text, struct publish *ret, struct banger_error *err);
/* Can the host's ports be taken now? BUSY names the one that is in use, DENIED one that needs more rights. */
int publish_check(const struct publish *p, struct banger_error *err);

#endif
