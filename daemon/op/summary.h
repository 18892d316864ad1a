/* SPDX-License-Identifier: Apache-2.0 */
/* What an operation was asked, in a line for people. */
#ifndef BANGER_SUMMARY_H
#define BANGER_SUMMARY_H

#include <json-c/json.h>

/* "name=web size=1048576 argv=[3]" into buf: long strings shortened, lists and objects by their number of
 * members, what looks like a secret left out. params may be NULL. Always terminated valid UTF-8. */
void params_summary(struct json_object *params, char *buf, size_t size);

#endif
